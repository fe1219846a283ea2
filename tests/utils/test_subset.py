"""Shares of a train set: sizes, strata, nesting."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.subset import (
    draw_labels,
    draw_per_class,
    draw_with_replacement,
    rarest_labels,
    stratified_subset,
)


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


def test_rows_depend_on_the_seed_and_are_part_of_those_of_a_larger_share() -> None:
    strata = torch.arange(1000) % 5  # strata whose shares are whole numbers
    first, again, other = (stratified_subset(strata, 0.1, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(first.tolist()) < set(stratified_subset(strata, 0.5, 0).tolist())
    assert torch.equal(stratified_subset(strata, 1.0, 0), torch.arange(1000))
    # These rows must never change, or published curves could not be reproduced.
    assert stratified_subset(torch.zeros(50, dtype=torch.long), 0.1, 3).tolist() == [
        13,
        14,
        19,
        36,
        37,
    ]


@pytest.mark.parametrize("frac", [0.0, -0.1, 1.5, float("nan")])
def test_a_number_outside_0_to_1_is_refused_as_a_share(frac: float) -> None:
    with pytest.raises(UserError, match="--train_frac must be above 0"):
        stratified_subset(torch.zeros(3, dtype=torch.long), frac, 0)


def test_rarest_label_of_each_sample() -> None:
    targets = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]])
    assert rarest_labels(targets).tolist() == [1, 0, 2, 2, 3]  # counts 3, 1, 2


@pytest.mark.difference("ben-subset")
def test_a_share_of_labels_is_stratified_by_the_rarest_one() -> None:
    targets = torch.zeros(100, 4, dtype=torch.uint8)  # none has the last label
    targets[:, 0] = 1
    targets[:20, 1] = 1
    targets[:10, 2] = 1
    rows = draw_labels(targets, "abcd", 0.3, 5)
    assert [int((rows < 10).sum()), int(((rows >= 10) & (rows < 20)).sum())] == [3, 3]
    assert len(rows.unique()) == 30
    assert not rows.equal(draw_labels(targets, "abcd", 0.3, 6))
    with pytest.raises(UserError, match=r"--train_frac 0\.01 leaves no sample of b, c: raise it"):
        draw_labels(targets, "abcd", 0.01, 0)


@pytest.mark.difference("eurosat-labels")
def test_a_share_of_classes_is_drawn_from_each_of_them() -> None:
    labels = torch.arange(90) % 3
    draws = [draw_labels(labels, "abc", 0.1, seed) for seed in (0, 1)]
    assert all(labels[rows].bincount().tolist() == [3] * 3 for rows in draws)
    assert not torch.equal(*draws)
    with pytest.raises(UserError, match=r"--train_frac 0\.1 leaves no sample of River: raise"):
        draw_labels(torch.tensor([0] * 50 + [1] * 2 + [2] * 50), ["Forest", "River", "Sea"], 0.1, 0)


@pytest.mark.difference("ben-subset")
def test_the_originals_share_has_duplicates_and_is_that_of_its_generator() -> None:
    rows = draw_with_replacement(1000, 0.1, 42)
    expected = np.random.default_rng(42).choice(range(1000), 100)
    assert rows.tolist() == expected.tolist()
    assert len(rows.unique()) < 100
    assert draw_with_replacement(5, 1.0, 42).tolist() == [0, 1, 2, 3, 4]


def test_labelled_samples_are_as_many_per_class_and_differ_by_seed() -> None:
    labels = torch.randint(4, (200,))
    draws = [draw_per_class(labels, 10, seed).sort().values for seed in (0, 0, 1)]
    assert labels[draws[0]].bincount().tolist() == [10] * 4
    assert len(draws[0].unique()) == 40
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(UserError, match="--labels_per_class 3 is more than the 2 train images"):
        draw_per_class(torch.tensor([0, 0, 0, 1, 1]), 3, 0)
