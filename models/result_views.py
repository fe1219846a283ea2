"""Results of an evaluation as lines, pictures and a file of predictions.

All numbers are percentages, summarised by ``models.results``.
"""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.results import LABEL_METRICS
from models.score_plots import plot_confusion, plot_label_curve, plot_per_class
from utils.files import written_whole
from utils.plots import plot_grid, to_rgb
from utils.probe_data import ProbeData

# Order of the printed table.
_TABLE = (
    *("val/accuracy_batch_mean", "val/map_micro_batch_mean"),
    *(f"{split}/{name}" for split in ("val", "test") for name in ("accuracy", *LABEL_METRICS)),
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
_SHOWN_ERRORS, _TITLE_LENGTH = 18, 26  # pictures, characters
_TEXT = ("metric", "method", "per seed")  # columns of text, which are aligned on the left


def print_finished(of: str, metrics: Mapping[str, Any]) -> None:
    """Print the most important metric of one result at once.

    Args:
        of: Name of the result, such as "linear, 60 labels".
        metrics: Its metrics in percent, as ``summarise`` returns them.
    """
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
            print(f"  {shorten(class_name, 40, placeholder=' …'):41s}{shown} %")


def write_pictures(folder: Path, metrics: Mapping[str, Any], title: str) -> None:
    """Draw the classes of one method and share, and the curve if there are several shares.

    Args:
        folder: Folder of the PNG files.
        metrics: Results in percent, as in ``results.json``.
        title: Names of data set and encoder.
    """
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


def write_errors(folder: Path, data: ProbeData, split: str, scores: Tensor) -> None:
    """Draw the most confident errors in ``errors.png``, unless there is none.

    Of one class per picture, an error is as confident as the score of the predicted class exceeds
    that of the true one; of several labels, as the score of a wrong one is far from 0.

    Args:
        folder: Folder to write to.
        data: Data set with the pictures.
        split: Name of the split that was scored.
        scores: Scores of its pictures, larger means more likely, shape (N, C).
    """
    targets, names = data.targets[split], data.classes
    if data.is_multi_label:
        errors = torch.where((scores > 0) == targets.bool(), 0, scores.abs())
    else:
        errors = (scores - scores.gather(1, targets[:, None])).clamp(min=0)
    confidence, labels = errors.max(1)
    rows = confidence.argsort(descending=True, stable=True)[:_SHOWN_ERRORS]
    rows = rows[confidence[rows] > 0]
    if not len(rows):
        return
    pictures = [data.splits[split].pictures[row][0].numpy() for row in rows.tolist()]
    titles = []
    for row in rows.tolist():
        label = int(labels[row])
        if data.is_multi_label:
            lines = ["missed" if targets[row, label] else "not there", names[label]]
        else:
            lines = [names[int(targets[row])], f"→ {names[label]}"]  # true, predicted
        titles.append("\n".join(shorten(line, _TITLE_LENGTH, placeholder=" …") for line in lines))
    shown = [to_rgb(picture, data.transform.bands) for picture in pictures]
    plot_grid(folder / "errors.png", shown, titles)


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
