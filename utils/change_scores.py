"""Scores of change maps, from pixels that are counted over a whole data set."""

import torch
from torch import Tensor

from utils.metrics import detection_scores

# A pixel counts as changed from this probability on: 0.01, 0.02 ... 0.99.
THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))
_HALF = THRESHOLDS.index(0.5)


def count_changes(probability: Tensor, mask: Tensor) -> Tensor:
    """Count pixels at every threshold.

    Args:
        probability: Of change, shape (N,).
        mask: Whether the pixel changed, bool, shape (N,).

    Returns:
        Rows of changes found, of false ones, and of missed ones: int64, shape (3, T).
    """
    thresholds = torch.tensor(THRESHOLDS, device=probability.device)
    # A pixel passes as many thresholds as are not above its probability.
    passed = torch.bucketize(probability.float(), thresholds, right=True)
    bins = torch.bincount(
        passed + (len(thresholds) + 1) * mask, minlength=2 * (len(thresholds) + 1)
    ).view(2, -1)
    false, true = bins.flip(1).cumsum(1).flip(1)[:, 1:]
    return torch.stack([true, false, mask.sum() - true])


def best_threshold(counts: Tensor) -> tuple[float, float]:
    """Return the threshold of the best F1, and this F1 in percent; of equal ones, the lowest.

    Args:
        counts: Result of ``count_changes``, or a sum of several, shape (3, T).
    """
    scores = [detection_scores(*column)["f1"] for column in counts.T.tolist()]
    best = max(range(len(scores)), key=scores.__getitem__)
    return THRESHOLDS[best], scores[best]


def mean_of_batches(counts: Tensor) -> dict[str, float]:
    """Return precision, recall and F1 at 0.5 in percent, averaged over batches as the original.

    Args:
        counts: Results of ``count_changes``, shape (batches, 3, T).
    """
    batches = [detection_scores(*batch) for batch in counts[:, :, _HALF].tolist()]
    return {
        name: sum(scores[name] for scores in batches) / len(batches)
        for name in ("precision", "recall", "f1")
    }
