"""Draw the labelled samples of a train set: the same rows for the same seed.

Draws are stratified and without replacement, except those of ``draw_with_replacement``, which are
the original's. Shapes: N samples, C classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.data import sample_keys
from utils.errors import UserError, listed
from utils.flags import check_fraction


def stratified_subset(strata: Tensor, frac: float, seed: int) -> Tensor:
    """Draw a share of every stratum: sorted rows, int64, round(frac * N) of them, at least one.

    Rows are ranked within their stratum by a hash of (seed, row), so a smaller share is a part of a
    larger one, and a hash stays what it is from one version of a library to the next. Sizes are
    rounded so that the strata add up to the share of the whole.

    Args:
        strata: Stratum of every row, int64, shape (N,): a class, or a patch's rarest label.
        frac: Share to draw, 0 < frac <= 1.
        seed: Seed of the draw.
    """
    check_fraction("train_frac", frac)
    keys = sample_keys(seed, torch.zeros_like(strata), torch.arange(len(strata)))
    members = [(strata == stratum).nonzero().flatten() for stratum in strata.unique()]
    shares = [frac * len(rows) for rows in members]
    sizes = [int(share) for share in shares]
    # Rounded down; the largest remainders get what is missing.
    by_remainder = sorted(range(len(shares)), key=lambda i: (sizes[i] - shares[i], i))
    for index in by_remainder[: max(1, round(frac * len(strata))) - sum(sizes)]:
        sizes[index] += 1
    drawn = [rows[keys[rows].argsort()[:size]] for rows, size in zip(members, sizes, strict=True)]
    return torch.cat(drawn).sort().values


def draw_labels(targets: Tensor, classes: Sequence[str], frac: float, seed: int) -> Tensor:
    """Draw a share of a train set, of each class or rarest label alike: sorted rows, int64.

    Args:
        targets: Classes, int64, shape (N,), or multi-hot labels, shape (N, C).
        classes: Names of the C classes.
        frac: Share to draw, 0 < frac <= 1.
        seed: Seed of the draw.

    Raises:
        UserError: A class of which there are samples loses all of them.
    """
    one_class = targets.ndim == 1
    rows = stratified_subset(targets if one_class else rarest_labels(targets), frac, seed)
    labels = F.one_hot(targets, len(classes)) if one_class else targets
    lost = (labels.sum(0) > 0) & (labels[rows].sum(0) == 0)
    if lost.any():
        names = [classes[label] for label in lost.nonzero().flatten()]
        raise UserError(f"--train_frac {frac:g} leaves no sample of {listed(names)}: raise it")
    return rows


def draw_per_class(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draw the same number of samples of each class: rows in 0..N - 1, class by class, int64.

    Args:
        labels: Classes, int64, shape (N,).
        count: Samples per class.
        seed: Seed of the draw.

    Raises:
        UserError: A class has fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        if count > len(members):
            raise UserError(
                f"--labels_per_class {count} is more than the {len(members)} train images of a "
                "class: lower it"
            )
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen)


def draw_with_replacement(count: int, frac: float, seed: int) -> Tensor:
    """Draw rows as the original does: a share of less than 1 has duplicates and any labels.

    Args:
        count: Number of samples of the split.
        frac: Share to draw, in 0..1; 1 returns all rows in order.
        seed: Seed of the draw.
    """
    if frac == 1:
        return torch.arange(count)
    return torch.from_numpy(np.random.default_rng(seed).choice(count, int(frac * count)))


def rarest_labels(targets: Tensor) -> Tensor:
    """Return the rarest label of each multi-label sample, or C without any: int64, shape (N,).

    Args:
        targets: Multi-hot, shape (N, C).
    """
    order = targets.long().sum(0).argsort(stable=True)  # the rarest first
    ranked = targets.bool()[:, order]
    return torch.where(ranked.any(1), order[ranked.int().argmax(1)], targets.shape[1])
