"""Shares of a train set: sizes, strata, nesting."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.subset import (
    check_every_class,
    check_train_classes,
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


@pytest.mark.difference("ben-subset")
def test_a_share_is_stratified_by_the_rarest_label_and_nested() -> None:
    targets = torch.zeros(100, 3, dtype=torch.uint8)
    targets[:, 0] = 1
    targets[:20, 1] = 1
    targets[:10, 2] = 1
    rows = draw_labels(targets, "abc", 0.3, 5)
    assert [int((rows < 10).sum()), int(((rows >= 10) & (rows < 20)).sum())] == [3, 3]
    assert len(rows.unique()) == 30
    assert rows.equal(draw_labels(targets, "abc", 0.3, 5))
    assert not rows.equal(draw_labels(targets, "abc", 0.3, 6))
    assert set(rows.tolist()) < set(draw_labels(targets, "abc", 0.6, 5).tolist())


def test_a_share_that_loses_a_class_is_refused() -> None:
    targets = torch.zeros(100, 2, dtype=torch.uint8)
    targets[:, 0] = 1
    targets[3, 1] = 1
    with pytest.raises(UserError, match=r"--train_frac 0\.1 leaves no sample of rare"):
        draw_labels(targets, ["common", "rare"], 0.1, 0)


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


def test_more_labels_than_the_smallest_class_has_is_an_error() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    with pytest.raises(UserError, match="--labels_per_class 3 is more than the 2 train images"):
        draw_per_class(labels, 3, 0)


@pytest.mark.difference("eurosat-labels")
def test_rows_are_drawn_per_seed_from_every_class() -> None:
    labels = torch.arange(90) % 3
    draws = [draw_labels(labels, "abc", 0.1, seed) for seed in (0, 1)]
    assert all(labels[rows].bincount().tolist() == [3] * 3 for rows in draws)
    assert not torch.equal(*draws)
    assert torch.equal(draw_labels(labels, "abc", 1.0, 0), torch.arange(90))


def test_a_share_without_a_class_is_an_error() -> None:
    labels = torch.tensor([0] * 50 + [1] * 2 + [2] * 50)
    with pytest.raises(UserError, match=r"--train_frac 0\.1 leaves .* River"):
        draw_labels(labels, ["Forest", "River", "SeaLake"], 0.1, 0)


def test_a_train_split_without_a_class_of_the_data_set_is_an_error() -> None:
    """A class that the data set lacks is not missed."""
    classes = ["Forest", "River", "SeaLake"]
    check_train_classes(torch.tensor([0, 0, 2]), torch.tensor([0, 0, 0, 2]), classes)
    with pytest.raises(UserError, match="no sample of River: correct its list"):
        check_train_classes(torch.tensor([0, 0, 2]), torch.tensor([0, 0, 0, 1, 2]), classes)
