"""Numbers that summarise predictions, over a whole data set."""

from collections.abc import Sequence
from statistics import mean, stdev

import torch
from torch import Tensor


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


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation, which one value alone does not have."""
    return mean(values), stdev(values) if len(values) > 1 else None
