"""The flags that the scripts share."""

import os
import signal
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from utils.cli import GRACE_S, check_positive, run, share_cores, trainer_kwargs
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
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    share_cores(0, processes, workers)
    assert os.environ["OMP_NUM_THREADS"] == str(expected if processes > 1 else 4)
    assert chosen == [expected]
    share_cores(1, processes, workers)
    assert chosen == [expected]  # a GPU needs no threads


@pytest.fixture
def _restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupt(Callback):
    def on_train_batch_start(self, *arguments: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("_restored_signals")
def test_ctrl_c_while_lightning_trains_has_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def main() -> None:
        Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=tmp_path,
            callbacks=[Interrupt()],
        ).fit(BoringModel())

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


@pytest.mark.usefixtures("_restored_signals")
@pytest.mark.parametrize(("rank", "expected"), [("0", []), ("1", [GRACE_S])])
def test_other_processes_let_the_first_one_report(
    monkeypatch: pytest.MonkeyPatch, rank: str, expected: list[float]
) -> None:
    def main() -> None:
        raise UserError("wrong")

    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit):
        run(main)
    assert waited == expected
