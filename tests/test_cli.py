"""The flags that the scripts share."""

from argparse import Namespace

import pytest
import torch

from utils.cli import batch_size_per_process, check_positive, share_cores, trainer_kwargs
from utils.errors import UserError


def test_dp_splits_the_batch_over_the_gpus() -> None:
    args = Namespace(accelerator="dp", gpus=4, batch_size=1024)
    with pytest.warns(UserWarning, match="runs as ddp"):
        assert batch_size_per_process(args) == 256
    args.batch_size = 1022
    with pytest.raises(UserError, match="1022 is not a multiple of --gpus 4"):
        batch_size_per_process(args)


@pytest.mark.parametrize("accelerator", ["ddp", None])
def test_ddp_gives_every_gpu_a_whole_batch(accelerator: str | None) -> None:
    args = Namespace(accelerator=accelerator, gpus=4, batch_size=256)
    assert batch_size_per_process(args) == 256


@pytest.mark.parametrize(
    ("gpus", "expected"), [(0, ("cpu", 1, "auto")), (1, ("gpu", 1, "auto")), (4, ("gpu", 4, "ddp"))]
)
def test_gpus_become_devices_of_lightning(gpus: int, expected: tuple[str, int, str]) -> None:
    kwargs = trainer_kwargs(Namespace(gpus=gpus, precision="16", max_epochs=3))
    assert (kwargs["accelerator"], kwargs["devices"], kwargs["strategy"]) == expected
    assert kwargs["precision"] == "16-mixed"


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_flags_that_must_be_positive_are_named(value: float) -> None:
    with pytest.raises(UserError, match="--batch_size must be above 0"):
        check_positive(Namespace(batch_size=value, other=None), "other", "batch_size")


@pytest.mark.parametrize(("workers", "expected"), [(0, 4), (1, 3), (3, 1), (8, 1)])
def test_loader_processes_keep_a_core_each(
    monkeypatch: pytest.MonkeyPatch, workers: int, expected: int
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    share_cores(Namespace(gpus=0, num_workers=workers))
    assert chosen == [expected]
    share_cores(Namespace(gpus=1, num_workers=workers))
    assert chosen == [expected]  # a GPU needs no threads
