"""Numbers that summarise predictions, over a whole data set, and how sure they are.

Shapes: N samples, C classes. ``weights`` count each sample so many times; a bootstrap draws them.
"""

import math
from collections.abc import Callable
from statistics import mean

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 200  # of a bootstrap


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Count predictions by true class (row) and predicted class (column): int64, shape (C, C).

    Args:
        labels: True classes, int64, shape (N,).
        predictions: Predicted classes, int64, shape (N,).
        num_classes: C.
    """
    cells = labels * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy_percent(labels: Tensor, predictions: Tensor) -> float:
    """Return the share of right predictions of the whole set, 0..100."""
    return 100 * (labels == predictions).double().mean().item()


class RankedScores:
    """Scores of yes-no questions, sorted once for many weightings of the samples.

    Args:
        targets: Whether the answers are yes, shape (N,) or, with C questions each, (N, C).
        scores: Larger means rather yes, same shape.
    """

    def __init__(self, targets: Tensor, scores: Tensor) -> None:
        ranked, order = scores.flatten().sort(descending=True)
        self.sample = order // (targets.numel() // len(targets))  # of each rank
        is_last = torch.ones(len(ranked), dtype=torch.bool)
        is_last[:-1] = ranked[1:] != ranked[:-1]
        last = is_last.nonzero().flatten()  # of each run of equal scores
        self.yes = targets.flatten()[order].nonzero().flatten()  # ranks
        # How far down the threshold of each yes reaches: to the last of its equals.
        self.reach = last[torch.searchsorted(last, self.yes)]
        self.yes_reach = torch.searchsorted(self.yes, self.reach, right=True) - 1

    def average_precision(self, weights: Tensor | None = None) -> float:
        """Return the sum of (R_n - R_(n-1)) P_n over the distinct thresholds, as scikit-learn.

        Not a number where no answer is yes. Weights are int64, (N,).
        """
        ones = torch.ones_like(self.sample)
        weight = ones if weights is None else weights.index_select(0, self.sample)
        count = weight.cumsum(0).index_select(0, self.reach)
        gained = weight.index_select(0, self.yes)
        true = gained.cumsum(0).index_select(0, self.yes_reach)
        precision = true.double() / count.clamp(min=1)  # 0 samples are 0 gained
        return ((gained * precision).sum() / gained.sum()).item()


def average_precision(targets: Tensor, scores: Tensor) -> float:
    """Return what ``RankedScores`` does without weights, in half of the time.

    Each answer travels as the lowest bit of its score's bits, so that numbers are sorted rather
    than positions. A probe is scored on val after every epoch: that took most of its time.

    Args:
        targets: Whether the answer is yes, shape (M,).
        scores: float32, larger means rather yes, shape (M,).
    """
    bits = (scores.float() + 0.0).numpy().view(np.int32)  # + 0.0: there is no negative zero
    keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)  # in order of the scores
    packed = np.sort(-2 * keys + (targets == 0).numpy())
    true = np.cumsum(packed & 1 == 0)
    is_last = np.append(np.diff(packed >> 1) != 0, True)  # of each run of equal scores
    last = np.flatnonzero(is_last)
    found = true[last].astype(np.float64)
    if found[-1] == 0:
        return math.nan
    return float((np.diff(found, prepend=0.0) * found / (last + 1)).sum() / found[-1])


class MultiLabelScores:
    """Average precision of multi-label scores: of all decisions together, and per class.

    Args:
        targets: Multi-hot, shape (N, C).
        scores: Shape (N, C).
    """

    def __init__(self, targets: Tensor, scores: Tensor) -> None:
        self.all = RankedScores(targets, scores)
        self.each = [RankedScores(*pair) for pair in zip(targets.T, scores.T, strict=True)]

    def micro(self, weights: Tensor | None = None) -> float:
        """Return the average precision over all samples and classes, in percent."""
        return 100 * self.all.average_precision(weights)

    def per_class(self, weights: Tensor | None = None) -> list[float]:
        """Return the average precision of each class in percent, NaN for one without samples."""
        return [100 * ranked.average_precision(weights) for ranked in self.each]

    def macro(self, weights: Tensor | None = None) -> float:
        """Return the mean over the classes that have samples, in percent."""
        return torch.tensor(self.per_class(weights), dtype=torch.float64).nanmean().item()


def multi_label_f1(
    targets: Tensor, predictions: Tensor, weights: Tensor | None = None
) -> tuple[float, float]:
    """Return F1 in percent over all decisions (micro), and its mean over the classes (macro).

    A class without samples and predictions counts 0, as in scikit-learn.

    Args:
        targets: Multi-hot, shape (N, C).
        predictions: Multi-hot, shape (N, C).
        weights: How often each sample counts, shape (N,).
    """
    targets, predictions = targets.bool(), predictions.bool()
    weight = torch.ones(len(targets)).double() if weights is None else weights.double()
    true = weight @ (targets & predictions).double()
    wrong = weight @ (targets ^ predictions).double()
    micro = 2 * true.sum() / (2 * true.sum() + wrong.sum()).clamp(min=1)
    macro = (2 * true / (2 * true + wrong).clamp(min=1)).mean()
    return 100 * micro.item(), 100 * macro.item()


def detection_scores(true: int, false: int, missed: int) -> dict[str, float]:
    """Return precision, recall, F1 and IoU in percent; 0 where nothing is found or there.

    Args:
        true: Pixels or samples found that are there.
        false: Found, but not there.
        missed: There, but not found.
    """
    return {
        "precision": 100 * true / max(1, true + false),
        "recall": 100 * true / max(1, true + missed),
        "f1": 100 * 2 * true / max(1, 2 * true + false + missed),
        "iou": 100 * true / max(1, true + false + missed),
    }


def batch_mean(metric: Callable[[Tensor, Tensor], float], *data: Tensor, batch_size: int) -> float:
    """Return the mean of a metric over whole batches, as the original does; the rest is dropped.

    Args:
        metric: Takes a batch of each of ``data``.
        data: Tensors of N rows.
        batch_size: Rows per batch, at most N.
    """
    whole = [rows[: len(rows) // batch_size * batch_size].split(batch_size) for rows in data]
    return mean(metric(*batch) for batch in zip(*whole, strict=True))


def bootstrap_interval(
    statistic: Callable[[Tensor], float], count: int, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic under resampling of the samples.

    Args:
        statistic: Takes how often each sample was drawn, int64, shape (count,).
        count: Number of samples.
        seed: Seed of the draws.
        resamples: Number of draws.
    """
    generator = torch.Generator().manual_seed(seed)
    values = [
        statistic(torch.randint(count, (count,), generator=generator).bincount(minlength=count))
        for _ in range(resamples)
    ]
    low, high = torch.tensor(values, dtype=torch.float64).nanquantile(
        torch.tensor([0.025, 0.975], dtype=torch.float64)
    )
    return low.item(), high.item()
