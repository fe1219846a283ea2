"""Draw the labelled samples of a train set: the same rows for the same seed.

Draws are stratified and without replacement, except those of ``draw_with_replacement``, which are
the original's.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.data import sample_keys
from utils.errors import UserError
from utils.flags import check_fraction


def stratified_subset(strata: Tensor, frac: float, seed: int) -> Tensor:
    """Draw a share of every stratum.

    Rows are ranked within their stratum by a hash of (seed, row), so a smaller share is a part of a
    larger one, and a hash stays what it is from one version of a library to the next. Sizes are
    rounded so that the strata add up to the share of the whole.

    Args:
        strata: Stratum of every row, int64, shape (N,): a class, or a patch's rarest label.
        frac: Share to draw, 0 < frac <= 1.
        seed: Seed of the draw.

    Returns:
        Sorted rows, int64, round(frac * N) of them, at least one.
    """
    check_fraction("train_frac", frac)
    keys = sample_keys(seed, torch.zeros_like(strata), torch.arange(len(strata)))
    members = [(strata == stratum).nonzero().flatten() for stratum in strata.unique()]
    total = max(1, round(frac * len(strata)))
    sizes = _round_to_total([frac * len(rows) for rows in members], total)
    drawn = [rows[keys[rows].argsort()[:size]] for rows, size in zip(members, sizes, strict=True)]
    return torch.cat(drawn).sort().values


def draw_labels(targets: Tensor, classes: Sequence[str], frac: float, seed: int) -> Tensor:
    """Draw a share of the samples of a train set, of each class or rarest label alike.

    Args:
        targets: Classes, int64, shape (N,), or multi-hot labels, shape (N, C).
        classes: Names of the C classes.
        frac: Share to draw, 0 < frac <= 1.
        seed: Seed of the draw.

    Returns:
        Sorted rows, int64, a part of those of a larger share.

    Raises:
        UserError: A class of which there are samples loses all of them.
    """
    one_class = targets.ndim == 1
    rows = stratified_subset(targets if one_class else rarest_labels(targets), frac, seed)
    labels = torch.nn.functional.one_hot(targets, len(classes)) if one_class else targets
    check_every_class(labels.sum(0), labels[rows].sum(0), classes, frac)
    return rows


def draw_per_class(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draw ``count`` samples of each class; a class with fewer is a ``UserError``.

    Args:
        labels: int64, shape (N,).
        count: Samples of each class.
        seed: Seed of the draw.

    Returns:
        Rows, int64, class by class.
    """
    smallest = int(labels.unique(return_counts=True)[1].min())
    if count > smallest:
        raise UserError(
            f"--labels_per_class {count} is more than the {smallest} train images of the smallest "
            "class"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen)


def draw_with_replacement(count: int, frac: float, seed: int) -> Tensor:
    """Draw rows as the original does: a share of less than 1 has duplicates and any labels."""
    if frac == 1:
        return torch.arange(count)
    drawn = np.random.default_rng(seed).choice(count, int(frac * count))
    return torch.from_numpy(drawn)


def rarest_labels(targets: Tensor) -> Tensor:
    """Return the stratum of multi-label samples: the label of each that is the rarest of all.

    Args:
        targets: Multi-hot, shape (N, C).

    Returns:
        int64, shape (N,); C where a sample has no label.
    """
    count = targets.long().sum(0)
    order = count.argsort(stable=True)  # the rarest first
    ranked = targets.bool()[:, order]
    first = ranked.int().argmax(1)
    return torch.where(ranked.any(1), order[first], targets.shape[1])


def check_train_classes(train: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Refuse a train split without any sample of a class that the data set has.

    Args:
        train: Classes of the train split, int64, shape (N,).
        labels: Classes of the whole data set, int64, shape (M,).
        classes: Names.
    """
    missing = sorted(set(labels.tolist()) - set(train.tolist()))
    if missing:
        name = classes[missing[0]]
        raise UserError(f"the train split has no sample of {name}: correct its list")


def check_every_class(counts: Tensor, drawn: Tensor, classes: Sequence[str], frac: float) -> None:
    """Refuse a share in which a class of the whole train set has no sample left.

    Args:
        counts: Samples of each class in the whole train set, shape (C,).
        drawn: Samples of each class in the share, shape (C,).
        classes: Names.
        frac: The share, for the message.
    """
    empty = [
        name for name, all_, part in zip(classes, counts, drawn, strict=True) if all_ > part == 0
    ]
    if empty:
        raise UserError(
            f"--train_frac {frac:g} leaves no sample of {', '.join(empty[:3])}"
            f"{' and more' if len(empty) > 3 else ''} ({len(empty)} classes): raise it"
        )


def _round_to_total(shares: Sequence[float], total: int) -> list[int]:
    """Round down, then give what is missing to the largest remainders."""
    sizes = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (sizes[i] - shares[i], i))
    for index in by_remainder[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes
