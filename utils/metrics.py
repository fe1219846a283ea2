"""Metrics over a whole data set in percent, and their bootstrap confidence intervals.

Shapes: N samples, C classes. ``weights`` say how often each sample counts; a bootstrap draws them.
"""

import math
from collections.abc import Callable, Sequence
from statistics import mean

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 200  # draws of a bootstrap


def accuracy(labels: Tensor, scores: Tensor) -> float:
    """Return the percentage of samples whose class has the largest score.

    Args:
        labels: Classes, int64, shape (N,).
        scores: Scores, larger means more likely, shape (N, C).
    """
    return 100 * (labels == scores.argmax(-1)).double().mean().item()


def map_micro(targets: Tensor, scores: Tensor) -> float:
    """Return the average precision of all decisions: (N, C) and (N, C); NaN without positives.

    That is the mean, over the positive decisions, of the precision at their own score. Sorting
    scores without their order takes a tenth of scikit-learn's time, and a probe is scored on the
    validation set after every epoch.

    Args:
        targets: Multi-hot labels, shape (N, C).
        scores: Scores, larger means more likely, shape (N, C).
    """
    positive, values = targets.flatten().numpy().astype(bool), scores.flatten().numpy()
    yes, ranked = np.sort(values[positive]), np.sort(values)
    precision = (len(yes) - _first_equal(yes)) / (len(ranked) - np.searchsorted(ranked, yes))
    return 100 * float(np.mean(precision)) if len(yes) else math.nan


class RankedScores:
    """Average precision of scores that are sorted once, for many weightings of the samples.

    Args:
        targets: Whether a decision is positive, shape (N,) or, with C decisions each, (N, C).
        scores: Larger means more likely, same shape.
    """

    def __init__(self, targets: Tensor, scores: Tensor) -> None:
        values = scores.flatten().numpy()
        order = values.argsort()  # NumPy's takes a tenth of torch's time
        positive = targets.bool().flatten().numpy()[order]
        yes, no = order[positive], order[~positive]
        self.count, decisions = len(targets), targets.numel() // len(targets)
        below = _first_equal(values[yes]), np.searchsorted(values[no], values[yes])
        # Samples of the positives and of the negatives, and how many of either are below a positive
        self.yes, self.no = (torch.from_numpy(rows // decisions) for rows in (yes, no))
        self.yes_below, self.no_below = (torch.from_numpy(counts) for counts in below)

    def average_precision(self, weights: Tensor | None = None) -> float:
        """Return the average precision; NaN without positive samples.

        Args:
            weights: Integers, shape (N,), whose sum is below 2 ** 31 / C; None counts every sample
                once.
        """
        counts = (torch.ones(self.count) if weights is None else weights).int()
        gained, missed = (counts.index_select(0, rows) for rows in (self.yes, self.no))
        true, false = _at_or_above(gained, self.yes_below), _at_or_above(missed, self.no_below)
        precision = true.double() / (true + false).clamp(min=1)  # 0 samples gain 0
        return 100 * ((gained * precision).sum() / gained.sum()).item()


def _first_equal(values: np.ndarray) -> np.ndarray:
    """Return for each sorted value the position of the first one that equals it."""
    is_first = np.concatenate(([True], values[1:] != values[:-1]))[: len(values)]
    firsts = np.flatnonzero(is_first)
    return np.repeat(firsts, np.diff(firsts, append=len(values)))


def _at_or_above(weights: Tensor, below: Tensor) -> Tensor:
    """Sum sorted weights, int32 as half of the memory is moved, from each ``below`` to the end."""
    sums = weights.new_zeros(len(weights) + 1)
    torch.cumsum(weights, 0, dtype=torch.int32, out=sums[1:])
    return sums[-1] - sums[below]


class LabelDecisions:
    """F1 of several labels per sample, compared once for many weightings of the samples.

    Args:
        targets: Multi-hot, shape (N, C).
        predictions: Multi-hot, same shape.
    """

    def __init__(self, targets: Tensor, predictions: Tensor) -> None:
        targets, predictions = targets.bool(), predictions.bool()
        self.true = (targets & predictions).double()
        self.wrong = (targets ^ predictions).double()

    def f1(self, weights: Tensor | None = None) -> tuple[float, float]:
        """Return F1 over all decisions (micro), and its mean over the classes (macro).

        A class without samples and predictions counts as 0, as in scikit-learn.

        Args:
            weights: How often each sample counts, shape (N,); None counts every sample once.
        """
        weight = torch.ones(len(self.true)).double() if weights is None else weights.double()
        true, wrong = weight @ self.true, weight @ self.wrong
        micro = 2 * true.sum() / (2 * true.sum() + wrong.sum()).clamp(min=1)
        macro = (2 * true / (2 * true + wrong).clamp(min=1)).mean()
        return 100 * micro.item(), 100 * macro.item()


def detection_scores(true: int, false: int, missed: int) -> dict[str, float]:
    """Return precision, recall, F1 and IoU from counts; 0 where nothing is found or there.

    Args:
        true: Pixels found that are there.
        false: Found, but not there.
        missed: There, but not found.
    """
    return {
        "precision": 100 * true / max(1, true + false),
        "recall": 100 * true / max(1, true + missed),
        "f1": 100 * 2 * true / max(1, 2 * true + false + missed),
        "iou": 100 * true / max(1, true + false + missed),
    }


def batch_mean(
    metric: Callable[[Tensor, Tensor], float], targets: Tensor, scores: Tensor, batch_size: int
) -> float:
    """Return the mean of a metric over full batches, as the original does; the rest is left out.

    Args:
        metric: Takes targets and scores of a batch.
        targets: Classes or multi-hot labels, shape (N, ...).
        scores: Scores, shape (N, C).
        batch_size: Samples per batch.
    """
    whole = len(targets) // batch_size * batch_size
    batches = zip(targets[:whole].split(batch_size), scores.split(batch_size), strict=False)
    return mean(metric(*batch) for batch in batches)


def bootstrap_intervals(
    statistics: Callable[[Tensor], Sequence[float]], count: int, seed: int
) -> list[list[float]]:
    """Return the 95 % percentile interval of some statistics under resampling of the samples.

    Args:
        statistics: Takes how often each sample was drawn, int64, shape (count,).
        count: Number of samples.
        seed: Seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    values = [
        statistics(torch.randint(count, (count,), generator=generator).bincount(minlength=count))
        for _ in range(RESAMPLES)
    ]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found: list[list[float]] = (
        torch.tensor(values, dtype=torch.float64).nanquantile(ends, 0).T.tolist()
    )
    return found
