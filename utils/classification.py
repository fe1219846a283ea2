"""Results of classifiers with one class per sample: as numbers, as lines, as pictures.

Shapes: S repetitions, N samples, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.evaluation import curve_points, print_table, summarise
from utils.metrics import bootstrap_interval, confusion_matrix
from utils.plots import plot_confusion, plot_label_curve

# By importance: the first that is there is drawn over the share of the labels.
ACCURACIES = ("test/accuracy", "val/accuracy", "val/accuracy_batch_mean")


def accuracies(
    split: str, labels: Tensor, scores: Tensor, interval_seed: int | None = None
) -> dict[str, Any]:
    """Summarise the accuracy of every repetition, in percent.

    Args:
        split: First part of the names.
        labels: int64, shape (N,).
        scores: Larger is likelier, shape (S, N, C).
        interval_seed: Seed of a bootstrap over the samples, of the mean over the repetitions.
    """
    right = (scores.argmax(-1) == labels).double()
    mean = right.mean(0)

    def resampled(weights: Tensor) -> float:
        return 100 * (mean @ weights.double() / weights.sum()).item()

    interval = None
    if interval_seed is not None:
        interval = bootstrap_interval(resampled, len(labels), interval_seed)
    return summarise(f"{split}/accuracy", (100 * right.mean(1)).tolist(), interval)


def by_class(split: str, labels: Tensor, scores: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return the recall in percent of each class that has samples, and the confusion matrix.

    The matrix counts true classes in rows and is a mean over the repetitions.
    """
    matrices = [confusion_matrix(labels, row.argmax(-1), len(classes)) for row in scores]
    confusion = torch.stack(matrices).double().mean(0)
    recall = {
        name: (100 * row[label] / row.sum()).item()
        for label, (name, row) in enumerate(zip(classes, confusion, strict=True))
        if row.sum() > 0
    }
    return {f"{split}/recall": recall, f"{split}/confusion": confusion.tolist()}


def print_results(metrics: Mapping[str, Any]) -> None:
    """Print the accuracies of every method and share of the labels, and the recalls of one.

    Args:
        metrics: Those of one method and share, which "method" and "num_labelled" name, and under
            "by_method" by method and share everyone's.
    """
    results = [
        ({"method": method, "labels": f"{result['num_labelled']:,}"}, result)
        for method, shares in metrics["by_method"].items()
        for result in shares.values()
    ]
    print_table(results, ACCURACIES[::-1])
    if "test/recall" in metrics:
        print(f"test recall, {_described(metrics)}")
        for name, recall in metrics["test/recall"].items():
            print(f"  {name:22s}{recall:6.2f} %")


def _described(metrics: Mapping[str, Any]) -> str:
    """Name the method and the share of the labels that ``metrics`` are of."""
    return f"{metrics['method']}, {metrics['num_labelled']:,} labels"


def write_pictures(folder: Path, metrics: Mapping[str, Any], title: str) -> None:
    """Draw the confusion of one method and share, and the curve if there are several shares."""
    if "test/confusion" in metrics:
        confusion = torch.tensor(metrics["test/confusion"])
        text = f"{title}, {_described(metrics)}\ntest accuracy {metrics['test/accuracy']:.1f} %"
        plot_confusion(folder / "confusion.png", confusion, metrics["classes"], text)
    results = metrics["by_method"]
    if max(len(shares) for shares in results.values()) > 1:
        name = next(name for name in ACCURACIES if name in metrics)
        curves = {method: curve_points(shares, name) for method, shares in results.items()}
        plot_label_curve(folder / "label_efficiency.png", curves, f"{name} in percent")
