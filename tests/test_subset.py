"""Shares of a train set: sizes, strata, nesting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.subset import check_every_class, rarest_labels, stratified_subset


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200), st.floats(0.001, 1), st.integers(0, 9)
)
def test_size_and_strata_of_a_share(labels: list[int], frac: float, seed: int) -> None:
    strata = torch.tensor(labels)
    rows = stratified_subset(strata, frac, seed)
    assert len(rows) == max(1, round(frac * len(labels)))
    assert rows.tolist() == sorted(set(rows.tolist()))  # without replacement
    for stratum in strata.unique():
        drawn = int((strata[rows] == stratum).sum())
        assert abs(drawn - frac * int((strata == stratum).sum())) <= 1


def test_same_seed_same_rows_and_another_seed_others() -> None:
    strata = torch.arange(1000) % 7
    first, again, other = (stratified_subset(strata, 0.1, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    strata = torch.arange(1000) % 5  # strata whose shares are whole numbers
    small, large = (set(stratified_subset(strata, frac, 3).tolist()) for frac in (0.1, 0.5))
    assert small < large


def test_whole_is_everything() -> None:
    strata = torch.randint(3, (50,))
    assert torch.equal(stratified_subset(strata, 1.0, 0), torch.arange(50))


@pytest.mark.parametrize("frac", [0.0, -0.1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(frac: float) -> None:
    with pytest.raises(UserError, match="--train_frac is a share"):
        stratified_subset(torch.zeros(3, dtype=torch.long), frac, 0)


def test_rarest_label_of_each_sample() -> None:
    targets = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]])
    assert rarest_labels(targets).tolist() == [1, 0, 2, 2, 3]  # counts 3, 1, 2


def test_a_share_without_a_class_is_refused_by_name() -> None:
    before, after = torch.tensor([5, 9, 0]), torch.tensor([0, 1, 0])
    with pytest.raises(UserError, match=r"--train_frac 0.1 leaves no sample of Forest \(1 classes"):
        check_every_class(before, after, ["Forest", "River", "Sea"], 0.1)
    check_every_class(before, torch.tensor([1, 1, 0]), ["Forest", "River", "Sea"], 0.1)
