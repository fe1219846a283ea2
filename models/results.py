"""Results of an evaluation: as numbers, lines, pictures and a file of predictions.

Shapes: S repetitions, N samples, C classes. Targets are classes, int64, (N,), or multi-hot, (N, C).
Scores are (S, N, C), larger means more likely; of several labels, those above 0 are predicted. All
numbers are percentages.
"""

from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from utils.files import written_whole
from utils.metrics import (
    RankedScores,
    accuracy,
    batch_mean,
    bootstrap_intervals,
    map_micro,
    multi_label_f1,
)
from utils.plots import plot_confusion, plot_label_curve, plot_per_class

_LABEL_METRICS = ("map_micro", "map_macro", "f1_micro", "f1_macro")
# Order of the printed table.
_TABLE = (
    *("val/accuracy_batch_mean", "val/map_micro_batch_mean"),
    *(f"{split}/{name}" for split in ("val", "test") for name in ("accuracy", *_LABEL_METRICS)),
)
# Drawn over the share of the labels, by the name of the axis: the first group that a result has.
_CURVES = {
    "test/accuracy": ["test/accuracy"],
    "test average precision": ["test/map_micro", "test/map_macro"],
    "val/accuracy_batch_mean": ["val/accuracy_batch_mean"],
    "val/map_micro_batch_mean": ["val/map_micro_batch_mean"],
}
_HEADLINES = (*(names[0] for names in _CURVES.values()), "test/f1")  # a result has one of them
_PER_CLASS = {"test/recall": "test recall", "test/ap_per_class": "test average precision"}
_TEXT = ("metric", "method", "per seed")  # columns of text, which are aligned on the left
# Metrics of a repetition, with each sample counted as often as the weights say, or once.
Statistic = Callable[[int, Tensor | None], dict[str, float]]


def summarise(
    name: str, per_seed: Sequence[float], interval: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return mean, sample deviation, raw values and, if given, the 95 % interval of a metric.

    Args:
        name: Name of the metric.
        per_seed: Its value in every repetition, in percent.
        interval: Low and high end, in percent.
    """
    std = stdev(per_seed) if len(per_seed) > 1 else None
    summary = {name: mean(per_seed), f"{name}_std": std, f"{name}_per_seed": list(per_seed)}
    return summary if interval is None else summary | {f"{name}_interval": list(interval)}


def summarise_runs(
    split: str, num_runs: int, statistic: Statistic, count: int, interval_seed: int | None
) -> dict[str, Any]:
    """Summarise metrics over the repetitions, with intervals of their means.

    Args:
        split: First part of their names.
        num_runs: S.
        statistic: Returns the metrics of a repetition.
        count: N.
        interval_seed: Seed of a bootstrap over the samples; None for no intervals.
    """
    runs = [statistic(run, None) for run in range(num_runs)]

    def means(weights: Tensor) -> list[float]:
        drawn = [statistic(run, weights) for run in range(num_runs)]
        return [mean(values[name] for values in drawn) for name in runs[0]]

    intervals: Sequence[Sequence[float] | None] = [None] * len(runs[0])
    if interval_seed is not None:
        intervals = bootstrap_intervals(means, count, interval_seed)
    metrics: dict[str, Any] = {}
    for name, interval in zip(runs[0], intervals, strict=True):
        metrics |= summarise(f"{split}/{name}", [run[name] for run in runs], interval)
    return metrics


def measure(
    targets: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    classes: Sequence[str],
    interval_seed: int,
) -> dict[str, Any]:
    """Summarise the scores of every set, with intervals and a value per class for test.

    Args:
        targets: Targets of each set.
        scores: Scores of each set to measure, "val", "test" or both.
        classes: Names of the C classes.
        interval_seed: Seed of a bootstrap over the test samples.
    """
    metrics: dict[str, Any] = {}
    for split, values in scores.items():
        known, seed = targets[split], interval_seed if split == "test" else None
        statistic = (_label_metrics if known.ndim == 2 else _accuracy)(known, values)
        metrics |= summarise_runs(split, len(values), statistic, len(known), seed)
    if "test" in scores:
        by_class = _precision_by_class if targets["test"].ndim == 2 else _recall_by_class
        metrics |= by_class(targets["test"], scores["test"], classes)
    return metrics


def measure_batches(targets: Tensor, scores: Tensor, batch_size: int) -> dict[str, Any]:
    """Summarise the original's metric: that of each full batch of val in list order, averaged."""
    multi_label = targets.ndim == 2
    if multi_label:  # it ranks float32 probabilities, which are equal where logits are large
        scores = scores.sigmoid()
    metric = map_micro if multi_label else accuracy
    values = [batch_mean(metric, targets, each, batch_size) for each in scores]
    return summarise(f"val/{metric.__name__}_batch_mean", values)


def _accuracy(labels: Tensor, scores: Tensor) -> Statistic:
    right = (scores.argmax(-1) == labels).double()

    def statistic(run: int, weights: Tensor | None) -> dict[str, float]:
        counted = torch.ones_like(right[run]) if weights is None else weights.double()
        return {"accuracy": 100 * (right[run] @ counted / counted.sum()).item()}

    return statistic


def _label_metrics(targets: Tensor, scores: Tensor) -> Statistic:
    """Average precision and F1 over the whole set; macro over the classes that have samples."""
    together = [RankedScores(targets, each) for each in scores]
    by_class = [
        [RankedScores(*pair) for pair in zip(targets.T, each.T, strict=True)] for each in scores
    ]

    def statistic(run: int, weights: Tensor | None) -> dict[str, float]:
        macro = np.nanmean([ranked.average_precision(weights) for ranked in by_class[run]])
        f1 = multi_label_f1(targets, scores[run] > 0, weights)
        values = (together[run].average_precision(weights), float(macro), *f1)
        return dict(zip(_LABEL_METRICS, values, strict=True))

    return statistic


def _recall_by_class(labels: Tensor, scores: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return the recall of each class that has samples, and the confusion matrix.

    The matrix counts true classes in rows and is a mean over the repetitions.
    """
    every = range(len(classes))
    matrices = [confusion_matrix(labels, each.argmax(-1), labels=every) for each in scores]
    confusion = torch.tensor(sum(matrices)).double() / len(matrices)
    recall = {
        name: (100 * row[label] / row.sum()).item()
        for label, (name, row) in enumerate(zip(classes, confusion, strict=True))
        if row.sum() > 0
    }
    return {"test/recall": recall, "test/confusion": confusion.tolist()}


def _precision_by_class(targets: Tensor, scores: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return the average precision of each class, mean over the runs; None without samples."""
    values = {
        name: mean(map_micro(targets[:, column], each[:, column]) for each in scores)
        if targets[:, column].any()
        else None
        for column, name in enumerate(classes)
    }
    return {"test/ap_per_class": values}


def print_finished(of: str, metrics: Mapping[str, Any]) -> None:
    """Print the most important metric of one result, such as "linear, 60 labels", at once."""
    name = next(name for name in _HEADLINES if name in metrics)
    print(f"{of}: {name} {metrics[name]:.2f} %", flush=True)


def print_table(
    results: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]], names: Sequence[str]
) -> None:
    """Print one table with a line for each metric of each result, in percent.

    Args:
        results: For each result its cells by column, such as method and labels, and its metrics as
            ``summarise`` returns them.
        names: Metrics in the order of the table; a result may lack some of them.
    """
    lines = [
        {"metric": name} | dict(cells) | _metric_cells(metrics, name)
        for name in names
        for cells, metrics in results
        if name in metrics
    ]
    columns = list(lines[0])
    widths = {c: max(len(c), *(len(line[c]) for line in lines)) for c in columns}
    for line in ({column: column for column in columns}, *lines):
        cells = [line[c].ljust(widths[c]) if c in _TEXT else line[c].rjust(widths[c]) for c in line]
        print("  ".join(cells).rstrip())


def _metric_cells(metrics: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return mean, deviation, 95 % interval and the values of the seeds as text."""
    std, interval = metrics[f"{name}_std"], metrics.get(f"{name}_interval")
    return {
        "mean %": f"{metrics[name]:.2f}",
        "deviation": "-" if std is None else f"{std:.2f}",
        "95 % interval": "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
        "per seed": " ".join(f"{value:.2f}" for value in metrics[f"{name}_per_seed"]),
    }


def print_results(metrics: Mapping[str, Any]) -> None:
    """Print the metrics of every method and share of the labels, and the classes of one of them.

    Args:
        metrics: Those of one method and share, which "method" and "num_labelled" name, and under
            "by_method" those of all, by method and share.
    """
    results = [
        ({"method": method, "labels": f"{result['num_labelled']:,}"}, result)
        for method, shares in metrics["by_method"].items()
        for result in shares.values()
    ]
    print_table(results, _TABLE)
    for name in _PER_CLASS.keys() & metrics.keys():
        print(f"{_PER_CLASS[name]}, {_described(metrics)}")
        for class_name, value in metrics[name].items():
            shown = "     -" if value is None else f"{value:6.2f}"
            print(f"  {class_name[:40]:41s}{shown} %")


def write_pictures(folder: Path, metrics: Mapping[str, Any], title: str) -> None:
    """Draw the classes of one method and share, and the curve if there are several shares."""
    text = f"{title}, {_described(metrics)}\n"
    if "test/confusion" in metrics:
        confusion = torch.tensor(metrics["test/confusion"])
        text += f"test accuracy {metrics['test/accuracy']:.1f} %"
        plot_confusion(folder / "confusion.png", confusion, metrics["classes"], text)
    if "test/ap_per_class" in metrics:
        values = {name: nan if v is None else v for name, v in metrics["test/ap_per_class"].items()}
        text += f"test micro mAP {metrics['test/map_micro']:.1f} %"
        plot_per_class(folder / "average_precision.png", values, text)
    axis, names = next(each for each in _CURVES.items() if each[1][0] in metrics)
    write_curve(folder, metrics["by_method"], names, f"{axis} in percent")


def write_curve(
    folder: Path,
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    names: Sequence[str],
    axis: str,
) -> None:
    """Draw metrics over the shares of the labels in ``label_efficiency.png``, if there are several.

    Args:
        folder: Folder to write to.
        results: Summaries by method and share.
        names: Metrics to draw.
        axis: Name of the vertical axis.
    """
    if max(len(shares) for shares in results.values()) > 1:
        curves = {
            method if len(names) == 1 else f"{method}, {name}": {
                float(frac): (result[name], result[f"{name}_std"])
                for frac, result in shares.items()
            }
            for method, shares in results.items()
            for name in names
        }
        plot_label_curve(folder / "label_efficiency.png", curves, axis)


def save_predictions(
    path: Path,
    names: Sequence[str],
    targets: Tensor,
    scores: Tensor,
    embeddings: Tensor | None = None,
) -> None:
    """Write predictions whole or not at all, as an npz (no pickles) or a parquet file.

    Args:
        path: ``.npz`` or ``.parquet``.
        names: Name of each sample.
        targets: Classes, (N,), or multi-hot labels, (N, C).
        scores: Scores of the first seed, shape (N, C).
        embeddings: Features, shape (N, D), if there are any.
    """
    arrays = {"targets": targets.numpy(), "scores": scores.float().numpy()}
    if embeddings is not None:
        arrays["embeddings"] = embeddings.numpy()
    with written_whole(path) as partial, partial.open("wb") as file:
        if path.suffix == ".npz":
            arrays["names"] = np.array(names, dtype=np.str_)
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its allow_pickle
        else:
            import pyarrow as pa  # only this needs it
            import pyarrow.parquet as pq

            columns = {name: array.tolist() for name, array in arrays.items()}
            pq.write_table(pa.table({"names": list(names)} | columns), file)


def _described(metrics: Mapping[str, Any]) -> str:
    """Name the method and the share of the labels that ``metrics`` belong to."""
    return f"{metrics['method']}, {metrics['num_labelled']:,} labels"
