"""Results of an evaluation as numbers: metrics of every repetition, and their summaries.

Shapes: S repetitions, N samples, C classes. Targets are classes, int64, (N,), or multi-hot, (N, C).
Scores are (S, N, C), larger means more likely; of several labels, those above 0 are predicted. All
numbers are percentages.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from utils.metrics import (
    LabelDecisions,
    RankedScores,
    accuracy,
    batch_mean,
    bootstrap_intervals,
    map_micro,
)

LABEL_METRICS = ("map_micro", "map_macro", "f1_micro", "f1_macro")
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
    """Summarise the original's metric in percent: the mean over val's full batches, in list order.

    Args:
        targets: Classes, shape (N,), or multi-hot labels, shape (N, C).
        scores: Scores of every repetition, shape (S, N, C).
        batch_size: Samples per batch; the last batch is left out if it is not full.
    """
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
    """Average precision and F1 over the whole set; macro AP over the classes that have samples.

    A draw of a bootstrap may lack a class. The class then counts with its value over the whole set:
    without it, draws would be means over other classes than the estimate, and their interval may
    not contain it.
    """
    together = [RankedScores(targets, each) for each in scores]
    by_class = [
        [RankedScores(*pair) for pair in zip(targets.T, each.T, strict=True)] for each in scores
    ]
    decisions = [LabelDecisions(targets, each > 0) for each in scores]
    whole_ap = [[ranked.average_precision() for ranked in each] for each in by_class]
    whole_f1 = [
        [LabelDecisions(targets[:, [c]], each[:, [c]] > 0).f1()[1] for c in range(len(targets.T))]
        for each in scores
    ]

    def statistic(run: int, weights: Tensor | None) -> dict[str, float]:
        drawn = [ranked.average_precision(weights) for ranked in by_class[run]]
        is_lost = np.isnan(drawn)
        macro = np.nanmean(np.where(is_lost, whole_ap[run], drawn))
        f1_micro, f1_macro = decisions[run].f1(weights)
        f1_macro += float(np.where(is_lost, whole_f1[run], 0.0).mean())  # where it counted as 0
        micro = together[run].average_precision(weights)
        values = (micro, float(macro), f1_micro, f1_macro)
        return dict(zip(LABEL_METRICS, values, strict=True))

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
