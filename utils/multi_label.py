"""Results of classifiers with any number of labels per sample: as numbers, lines and pictures.

Shapes: S repetitions, N samples, C classes. All numbers are percentages.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isnan, nan
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from utils.evaluation import curve_points, print_table, summarise
from utils.metrics import (
    MultiLabelScores,
    RankedScores,
    average_precision,
    batch_mean,
    bootstrap_interval,
    multi_label_f1,
)
from utils.plots import plot_label_curve, plot_per_class

METRICS = ("map_micro", "map_macro", "f1_micro", "f1_macro")
BATCH_MEAN = "val/map_micro_batch_mean"  # of the original


def label_metrics(
    split: str, targets: Tensor, logits: Tensor, interval_seed: int | None = None
) -> dict[str, Any]:
    """Summarise average precision and F1 (of labels with a logit above 0) over the whole set.

    Args:
        split: First part of the names.
        targets: Multi-hot, shape (N, C).
        logits: Shape (S, N, C).
        interval_seed: Seed of a bootstrap over the samples, of the mean over the repetitions.
    """
    ranked = [MultiLabelScores(targets, scores) for scores in logits]
    found = (logits > 0).cpu()
    statistics: dict[str, Callable[[int, Tensor | None], float]] = {
        "map_micro": lambda run, weights: ranked[run].micro(weights),
        "map_macro": lambda run, weights: ranked[run].macro(weights),
        "f1_micro": lambda run, weights: multi_label_f1(targets, found[run], weights)[0],
        "f1_macro": lambda run, weights: multi_label_f1(targets, found[run], weights)[1],
    }
    metrics: dict[str, Any] = {}
    for name, statistic in statistics.items():
        per_seed = [statistic(run, None) for run in range(len(logits))]
        interval = None
        if interval_seed is not None:
            resampled = partial(_mean_over_runs, statistic, len(logits))
            interval = bootstrap_interval(resampled, len(targets), interval_seed)
        metrics |= summarise(f"{split}/{name}", per_seed, interval)
    return metrics


def per_class_precision(
    split: str, targets: Tensor, logits: Tensor, classes: Sequence[str]
) -> dict[str, Any]:
    """Return the average precision of each class, mean over the runs; None without samples."""
    runs = [
        [100 * average_precision(*column) for column in zip(targets.T, scores.T, strict=True)]
        for scores in logits
    ]
    means = torch.tensor(runs, dtype=torch.float64).mean(0).tolist()
    values = [None if isnan(value) else value for value in means]
    return {f"{split}/ap_per_class": dict(zip(classes, values, strict=True))}


def batch_mean_of_micro(targets: Tensor, logits: Tensor, batch_size: int) -> dict[str, Any]:
    """Summarise the original's metric: micro-AP of each full batch in list order, averaged."""
    values = [
        batch_mean(_micro_of_batch, targets, scores, batch_size=batch_size) for scores in logits
    ]
    return summarise(BATCH_MEAN, values)


def print_results(metrics: Mapping[str, Any]) -> None:
    """Print the metrics of every share of the labels, and the average precisions of one.

    Args:
        metrics: Those of one share, which "method" and "num_labelled" name, and under
            "by_train_frac" everyone's.
    """
    names = [BATCH_MEAN, *(f"{split}/{name}" for split in ("val", "test") for name in METRICS)]
    results = [
        ({"method": metrics["method"], "labels": f"{result['num_labelled']:,}"}, result)
        for result in metrics["by_train_frac"].values()
    ]
    print_table(results, names)
    if "test/ap_per_class" in metrics:
        print(f"test average precision, {_described(metrics)}")
        for name, value in metrics["test/ap_per_class"].items():
            shown = "     -" if value is None else f"{value:6.2f}"
            print(f"  {name[:40]:40s}{shown} %")


def _described(metrics: Mapping[str, Any]) -> str:
    """Name the method and the share of the labels that ``metrics`` are of."""
    return f"{metrics['method']}, {metrics['num_labelled']:,} labels"


def write_pictures(folder: Path, metrics: Mapping[str, Any], title: str) -> None:
    """Draw the precisions of one share, and the curve if there are several shares."""
    if "test/ap_per_class" in metrics:
        values = metrics["test/ap_per_class"]
        known = {name: nan if v is None else v for name, v in values.items()}
        text = f"{title}, {_described(metrics)}\ntest micro mAP {metrics['test/map_micro']:.1f} %"
        plot_per_class(folder / "average_precision.png", known, text)
    results = metrics["by_train_frac"]
    if len(results) > 1:
        shown = [n for n in ("test/map_micro", "test/map_macro", BATCH_MEAN) if n in metrics]
        curves = {name: curve_points(results, name) for name in shown}
        plot_label_curve(folder / "label_efficiency.png", curves, "average precision in percent")


def _mean_over_runs(
    statistic: Callable[[int, Tensor | None], float], runs: int, weights: Tensor
) -> float:
    return mean(statistic(run, weights) for run in range(runs))


def _micro_of_batch(targets: Tensor, logits: Tensor) -> float:
    # The original ranks float32 probabilities, which are equal where logits are large.
    scores = logits.sigmoid().flatten()
    return 100 * RankedScores(targets.flatten(), scores).average_precision()
