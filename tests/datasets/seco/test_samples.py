"""The dates of a sample, drawn from a source without files."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.seco.samples import PatchDataset
from utils.input_spec import SECO_SPEC


class NumberedDates:
    """A source without files: each patch is one pixel, the number of its date from 1."""

    root = Path("numbers")
    input_spec = SECO_SPEC
    patch_shape = (1, 1, 1)

    def __init__(self, num_places: int, num_dates: int) -> None:
        self.num_dates = num_dates
        self.starts = np.arange(num_places + 1) * num_dates

    def name(self, patch: int) -> str:
        return "{}/{}".format(*divmod(patch, self.num_dates))

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        pixels = np.empty((1, 1, 1), np.uint8) if out is None else out
        pixels[:] = patch % self.num_dates + 1
        return pixels


def dates_of(dataset: PatchDataset, epochs: int) -> np.ndarray:
    """Return the dates of all samples of the first epochs: (epochs * places, dates of a sample)."""
    keys = torch.cartesian_prod(torch.arange(epochs), torch.arange(len(dataset)))
    patches = dataset.draw(*keys.T).numpy()
    dates: np.ndarray = patches - dataset.source.starts[keys[:, 1]][:, None]
    return dates


@pytest.mark.difference("dates")
def test_every_order_of_dates_is_equally_likely() -> None:
    dates = dates_of(PatchDataset(NumberedDates(4, 4), 2), epochs=600)
    draws = Counter(map(tuple, dates.tolist()))
    assert len(draws) == 12
    # 200 each are expected, with a standard deviation of 13.5.
    assert all(140 < count < 260 for count in draws.values())


@pytest.mark.difference("dates")
def test_paper_protocol_draws_dates_with_replacement() -> None:
    dates = dates_of(PatchDataset(NumberedDates(4, 5), 3, replace=True), epochs=500)
    distinct = Counter(len(set(sample)) for sample in dates.tolist())
    assert distinct[3] / 2000 == pytest.approx(0.48, abs=0.04)
    assert distinct[1] / 2000 == pytest.approx(0.04, abs=0.02)
    assert (dates_of(PatchDataset(NumberedDates(1, 1), 3, replace=True), epochs=2) == 0).all()


def test_no_two_samples_share_a_stream() -> None:
    dates = dates_of(PatchDataset(NumberedDates(20, 40), 20), epochs=20)
    assert len(np.unique(dates, axis=0)) == 400


def test_sample_is_a_function_of_seed_epoch_and_index() -> None:
    dataset, again, other_seed = (
        PatchDataset(NumberedDates(6, 40), 20, seed=seed) for seed in (7, 7, 8)
    )
    forward = [dataset[3, index]["patches"] for index in range(6)]
    backward = [again[3, index]["patches"] for index in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert forward[2].flatten().tolist() == (dates_of(dataset, 4)[3 * 6 + 2] + 1).tolist()
    assert not torch.equal(forward[0], other_seed[3, 0]["patches"])
    assert not torch.equal(forward[0], dataset[4, 0]["patches"])
