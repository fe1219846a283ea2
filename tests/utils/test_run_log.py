"""Values of a run: whole lines and whole events, also on a disk that fails at times."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.errors import UserError, WriteError
from utils.history import rows_before
from utils.run_log import METRICS, RunLog


def steps_of_events(folder: Path, tag: str) -> list[int]:
    return [event.step for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A disk that takes half of what is written, and then nothing, while it is full."""
    state, write = {"full": False}, os.write

    def write_half(descriptor: int, data: bytes) -> int:
        if not state["full"] or len(data) < 8:
            if state["full"]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", write_half)
    return state


def test_a_failed_write_leaves_no_part_and_is_made_up_for(
    tmp_path: Path, disk: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, tensorboard=True, on_error="continue")
    for step in range(5):
        disk["full"] = 0 < step < 3
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        log.log_metrics({"loss": 0.5, "epoch": 0}, step)
        log.save()
        if disk["full"]:
            assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    text = "epoch,loss,step\n" + "".join(f"0,0.5,{step}\n" for step in range(5))
    assert (tmp_path / METRICS).read_text().splitlines() == text.splitlines()
    assert steps_of_events(tmp_path, "loss") == list(range(5))
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics.csv: No space left on device: free some space" in line


def test_a_failed_write_ends_a_run_unless_it_ends_anyway(
    tmp_path: Path, disk: dict[str, Any]
) -> None:
    log = RunLog(tmp_path)
    log.log_metrics({"loss": 0.5}, 0)
    log.save()
    disk["full"] = True
    log.log_metrics({"loss": 0.25}, 1)
    with pytest.raises(WriteError, match="free some space"):
        log.save()
    with pytest.raises(WriteError, match="free some space"):
        log.finalize("success")
    log.finalize("failed")  # the run's own error is shown
    assert (tmp_path / METRICS).read_text().splitlines() == ["loss,step", "0.5,0"]


def test_a_new_column_keeps_the_rows_and_a_resumed_run_only_its_own(tmp_path: Path) -> None:
    first = RunLog(tmp_path)
    for step in range(3):
        first.log_metrics({"loss": 1e-05 * step}, step)
        first.save()
    first.log_metrics({"probe": 3}, 2)
    first.save()
    with (tmp_path / METRICS).open("a") as file:
        file.write("0.1,,")  # the power was cut
    rows = rows_before(tmp_path / "checkpoints" / "last.ckpt", {"global_step": 2})
    assert rows == [{"loss": 0.0, "step": 0}, {"loss": 1e-05, "step": 1}]
    resumed = RunLog(tmp_path, rows, tensorboard=True, first_step=2)
    resumed.log_metrics({"loss": 7.0}, 2)
    resumed.save()
    assert (tmp_path / METRICS).read_text().splitlines() == [
        *("loss,step", "0.0,0", "1e-05,1", "7.0,2")
    ]
    assert steps_of_events(tmp_path, "loss") == [2]
    (tmp_path / METRICS).write_text("a,b\nc,d\n")
    with pytest.raises(UserError, match=r"metrics\.csv is damaged: .*move it away"):
        rows_before(tmp_path / "last.ckpt", {"global_step": 2})
