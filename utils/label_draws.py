"""Which samples of a multi-label data set a classifier may see."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.subset import check_every_class, rarest_labels, stratified_subset


def draw_stratified(targets: Tensor, classes: Sequence[str], frac: float, seed: int) -> Tensor:
    """Draw a share of the samples, of each rarest label alike, without replacement.

    Args:
        targets: Multi-hot labels, shape (N, C).
        classes: Names; one that loses all its samples is a ``UserError``.
        frac: Share to draw.
        seed: Seed of the draw.

    Returns:
        Sorted rows, int64; the same for the same seed, and a part of those of a larger share.
    """
    rows = stratified_subset(rarest_labels(targets), frac, seed)
    check_every_class(targets.sum(0), targets[rows].sum(0), classes, frac)
    return rows


def draw_with_replacement(count: int, frac: float, seed: int) -> Tensor:
    """Draw rows as the original does: a share of less than 1 has duplicates and any labels."""
    if frac == 1:
        return torch.arange(count)
    drawn = np.random.default_rng(seed).choice(count, int(frac * count))
    return torch.from_numpy(drawn)
