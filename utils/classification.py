"""Results of classifiers, one class or several labels per sample: as numbers, lines and pictures.

Shapes: S repetitions, N samples, C classes. Targets are classes, int64, (N,), or multi-hot, (N, C).
Scores are (S, N, C), larger means more likely; of several labels, those above 0 are predicted. All
numbers are percentages.
"""

from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from utils.evaluation import curve_points, print_table, summarise
from utils.metrics import (
    RankedScores,
    accuracy,
    average_precision,
    batch_mean,
    bootstrap_interval,
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
_PER_CLASS = {"test/recall": "test recall", "test/ap_per_class": "test average precision"}


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
        seed = interval_seed if split == "test" else None
        of_split = label_metrics if targets[split].ndim == 2 else accuracies
        metrics |= of_split(split, targets[split], values, seed)
    if "test" in scores:
        by_class = precision_by_class if targets["test"].ndim == 2 else recall_by_class
        metrics |= by_class("test", targets["test"], scores["test"], classes)
    return metrics


def measure_batches(targets: Tensor, scores: Tensor, batch_size: int) -> dict[str, Any]:
    """Summarise the original's metric: that of each full batch of val in list order, averaged."""
    multi_label = targets.ndim == 2
    if multi_label:  # it ranks float32 probabilities, which are equal where logits are large
        scores = scores.sigmoid()
    metric = map_micro if multi_label else accuracy
    values = [batch_mean(metric, targets, each, batch_size=batch_size) for each in scores]
    return summarise(f"val/{metric.__name__}_batch_mean", values)


def accuracies(
    split: str, labels: Tensor, scores: Tensor, interval_seed: int | None = None
) -> dict[str, Any]:
    """Summarise the accuracy of every repetition.

    Args:
        split: First part of the names.
        labels: int64, shape (N,).
        scores: Shape (S, N, C).
        interval_seed: Seed of a bootstrap over the samples, of the mean over the repetitions.
    """
    right = (scores.argmax(-1) == labels).double()
    mean_right = right.mean(0)

    def resampled(weights: Tensor) -> float:
        return 100 * (mean_right @ weights.double() / weights.sum()).item()

    interval = None
    if interval_seed is not None:
        interval = bootstrap_interval(resampled, len(labels), interval_seed)
    return summarise(f"{split}/accuracy", (100 * right.mean(1)).tolist(), interval)


def recall_by_class(
    split: str, labels: Tensor, scores: Tensor, classes: Sequence[str]
) -> dict[str, Any]:
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
    return {f"{split}/recall": recall, f"{split}/confusion": confusion.tolist()}


def label_metrics(
    split: str, targets: Tensor, scores: Tensor, interval_seed: int | None = None
) -> dict[str, Any]:
    """Summarise average precision and F1 over the whole set; arguments as of ``accuracies``."""
    together = [RankedScores(targets, each) for each in scores]
    by_class = [
        [RankedScores(*pair) for pair in zip(targets.T, each.T, strict=True)] for each in scores
    ]
    found = scores > 0

    def macro(run: int, weights: Tensor | None) -> float:
        values = [ranked.average_precision(weights) for ranked in by_class[run]]
        return float(np.nanmean(values))  # over the classes that have samples

    statistics: dict[str, Callable[[int, Tensor | None], float]] = {
        "map_micro": lambda run, weights: 100 * together[run].average_precision(weights),
        "map_macro": lambda run, weights: 100 * macro(run, weights),
        "f1_micro": lambda run, weights: multi_label_f1(targets, found[run], weights)[0],
        "f1_macro": lambda run, weights: multi_label_f1(targets, found[run], weights)[1],
    }
    metrics: dict[str, Any] = {}
    for name, statistic in statistics.items():

        def over_runs(weights: Tensor, statistic: Any = statistic) -> float:
            return mean(statistic(run, weights) for run in range(len(scores)))

        per_seed = [statistic(run, None) for run in range(len(scores))]
        interval = None
        if interval_seed is not None:
            interval = bootstrap_interval(over_runs, len(targets), interval_seed)
        metrics |= summarise(f"{split}/{name}", per_seed, interval)
    return metrics


def precision_by_class(
    split: str, targets: Tensor, scores: Tensor, classes: Sequence[str]
) -> dict[str, Any]:
    """Return the average precision of each class, mean over the runs; None without samples."""
    values = {
        name: mean(100 * average_precision(targets[:, column], each[:, column]) for each in scores)
        if targets[:, column].any()
        else None
        for column, name in enumerate(classes)
    }
    return {f"{split}/ap_per_class": values}


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
    results = metrics["by_method"]
    if max(len(shares) for shares in results.values()) > 1:
        axis, names = next(each for each in _CURVES.items() if each[1][0] in metrics)
        curves = {
            method if len(names) == 1 else f"{method}, {name}": curve_points(shares, name)
            for method, shares in results.items()
            for name in names
        }
        plot_label_curve(folder / "label_efficiency.png", curves, f"{axis} in percent")


def _described(metrics: Mapping[str, Any]) -> str:
    """Name the method and the share of the labels that ``metrics`` belong to."""
    return f"{metrics['method']}, {metrics['num_labelled']:,} labels"
