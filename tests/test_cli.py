"""The flags that the scripts share."""

from argparse import Namespace

import pytest
import torch

from utils.cli import check_positive, share_cores, trainer_kwargs
from utils.errors import UserError


@pytest.mark.parametrize(("gpus", "expected"), [(0, "cpu"), (1, "gpu")])
def test_flags_become_arguments_of_lightning(gpus: int, expected: str) -> None:
    kwargs = trainer_kwargs(Namespace(gpus=gpus, precision="16", max_epochs=3))
    assert (kwargs["accelerator"], kwargs["devices"], kwargs["max_epochs"]) == (expected, 1, 3)
    assert kwargs["precision"] == "16-mixed"


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_flags_that_must_be_positive_are_named(value: float) -> None:
    with pytest.raises(UserError, match="--batch_size must be above 0"):
        check_positive(Namespace(batch_size=value, other=None), "other", "batch_size")


@pytest.mark.parametrize(
    ("processes", "workers", "expected"),
    [(1, 0, 4), (1, 1, 3), (1, 3, 1), (1, 8, 1), (2, 0, 2), (2, 1, 1), (4, 0, 1), (8, 0, 1)],
)
def test_processes_and_their_loaders_keep_a_core_each(
    monkeypatch: pytest.MonkeyPatch, processes: int, workers: int, expected: int
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    share_cores(Namespace(gpus=0, num_workers=workers), processes)
    assert chosen == [expected]
    share_cores(Namespace(gpus=1, num_workers=workers), processes)
    assert chosen == [expected]  # a GPU needs no threads
