"""Shares of a train set: stratified, without replacement, the same rows for the same seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.errors import UserError
from utils.random import sample_keys


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


def check_fraction(flag: str, frac: float) -> None:
    """Refuse what is no share."""
    if not 0 < frac <= 1:
        raise UserError(f"--{flag} is a share in 0..1, above 0, not {frac:g}")


def _round_to_total(shares: Sequence[float], total: int) -> list[int]:
    """Round down, then give what is missing to the largest remainders."""
    sizes = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (sizes[i] - shares[i], i))
    for index in by_remainder[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes
