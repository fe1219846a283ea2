"""Runs that are interrupted within an epoch, and resumed by the same command."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets.seco_packed import main as pack
from main_pretrain import main
from models.moco2_module import MocoV2
from tests.references.launcher_variables import forget_launchers, set_all, srun
from tests.references.pretraining import SMALL, assert_equal, run_dirs, tensors
from tests.references.script import ROOT, as_flags, forked
from tests.references.waiting import HANG_S, wait_until
from utils.cli import run
from utils.errors import UserError
from utils.locks import sole_run
from utils.save_checkpoints import SaveCheckpoints

# Six places: three steps per epoch, nine in all.
FLAGS = [*SMALL, *as_flags(batch_size=2, max_epochs=3, log_every_n_steps=1)]
STEPS = 9
Interrupt = Callable[[int, int], None]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, _restored_signals: None) -> None:
    forget_launchers(monkeypatch)
    monkeypatch.setattr("models.pretrain_run.plot_views", lambda *_: None)
    monkeypatch.setattr("models.pretrain_run.plot_training", lambda *_: None)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Return a function that plans a signal after a step; number 0 is an error, as of a kill."""
    planned = {"step": 0, "number": 0}

    def after_step(self: MocoV2, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == planned["step"]:
            if not planned["number"]:
                raise ConnectionError("a kill")
            os.kill(os.getpid(), planned["number"])

    monkeypatch.setattr(MocoV2, "on_train_batch_end", after_step)
    return lambda step, number: planned.update(step=step, number=number)


def flags(data_dir: Path, log_dir: Path, *more: str) -> list[str]:
    return [*FLAGS, *as_flags(data_dir=data_dir, log_dir=log_dir), "--resume", "auto", *more]


@pytest.fixture(scope="module")
def sources(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same patches as folder, zip, packed store and LitData chunks."""
    tmp = tmp_path_factory.mktemp("sources")
    shutil.make_archive(str(tmp / "seco"), "zip", seco_root)
    pack(as_flags(data_dir=seco_root, save_path=tmp / "store", num_workers=1))
    flags = as_flags(data_dir=seco_root, save_path=tmp / "chunks", num_workers=1)
    pack([*flags, "--format", "litdata"])
    found = {"folder": seco_root, "zip": tmp / "seco.zip"}
    return found | {"store": tmp / "store", "chunks": tmp / "chunks"}


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("source", "workers", "mode", "stops"),
    [
        ("folder", 0, "seco", (1, 3, 8)),
        ("zip", 2, "moco_tp", (2,)),
        ("store", 2, "seco", (1, 5)),
        ("chunks", 0, "moco", (4, 7)),
    ],
)
def test_a_run_that_is_stopped_within_epochs_ends_with_the_same_bits_and_history(
    sources: dict[str, Path],
    tmp_path: Path,
    interrupt: Interrupt,
    source: str,
    workers: int,
    mode: str,
    stops: tuple[int, ...],
) -> None:
    more = as_flags(num_workers=workers, data_mode=mode)
    for step in stops:
        interrupt(step, signal.SIGTERM)
        with pytest.raises(SystemExit) as left:
            main(flags(sources[source], tmp_path / "stopped", *more))
        assert left.value.code == os.EX_TEMPFAIL
    interrupt(0, 0)
    for name in ("stopped", "whole"):
        main(flags(sources[source], tmp_path / name, *more))
    (stopped,), (whole,) = (run_dirs(tmp_path / name) for name in ("stopped", "whole"))
    assert_equal(*(tensors(run_dir / "checkpoints/last.ckpt") for run_dir in (stopped, whole)))
    assert rows(stopped) == rows(whole)
    steps = STEPS * 4 if mode == "moco" else STEPS  # there each of four dates is a sample
    assert [int(row["step"]) for row in rows(whole)] == list(range(steps))
    results = json.loads((stopped / "results.json").read_text())
    assert results["metrics"]["steps"] == steps
    if source == "folder":
        events = EventAccumulator(str(stopped)).Reload().Scalars("train/loss")
        assert [event.step for event in events] == list(range(STEPS))


def test_a_killed_run_resumes_from_the_checkpoint_before_it(
    seco_root: Path, tmp_path: Path, interrupt: Interrupt
) -> None:
    for step in (2, 5):  # each after a step that no checkpoint holds
        interrupt(step, 0)
        with pytest.raises(ConnectionError):
            main(flags(seco_root, tmp_path / "killed", "--save_every_minutes", "1e-9"))
    interrupt(0, 0)
    for name in ("killed", "whole"):
        main(flags(seco_root, tmp_path / name))
    (killed,), (whole,) = (run_dirs(tmp_path / name) for name in ("killed", "whole"))
    assert_equal(*(tensors(run_dir / "checkpoints/last.ckpt") for run_dir in (killed, whole)))
    assert rows(killed) == rows(whole)


@pytest.fixture(scope="module")
def stopped(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of a run that was stopped after four steps."""
    log_dir = tmp_path_factory.mktemp("stopped")

    def stop(self: SaveCheckpoints, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.MonkeyPatch.context() as patch:
        forget_launchers(patch)
        set_all(patch, srun(1))
        patch.setattr("models.pretrain_run.plot_views", lambda *_: None)
        patch.setattr(SaveCheckpoints, "on_train_batch_end", stop)
        with pytest.raises(SystemExit):
            main(flags(seco_root, log_dir))
    return log_dir


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(
    seco_root: Path,
    stopped: Path,
    tmp_path: Path,
    interrupt: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_dir = shutil.copytree(stopped, tmp_path / "logs")
    (run_dir,) = run_dirs(log_dir)
    last, previous = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    before = previous.read_bytes()
    interrupt(4, 0)
    with pytest.raises(ConnectionError):
        main(flags(seco_root, log_dir))
    assert previous.read_bytes() == before  # not replaced by the damaged one
    interrupt(0, 0)
    assert main(flags(seco_root, log_dir)).global_step == STEPS
    assert len(rows(run_dir)) == STEPS
    last.unlink()
    assert main(flags(seco_root, log_dir)).global_step == STEPS
    assert len(run_dirs(log_dir)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(f"not resumed: {last}") for line in lines) == 2
    assert f"resuming {previous} after step 3" in lines
    for path in (last, previous):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be"):
        main(flags(seco_root, log_dir))


def test_a_contradiction_is_refused_and_a_finished_run_is_left_alone(
    seco_root: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_dir = shutil.copytree(stopped, tmp_path / "logs")
    more = as_flags(momentum=0.8, emb_dim=16, seed=7)  # in another order than in --help
    expected = r"^--seed 7, --emb_dim 16, --momentum 0.8 contradict the run of \S+, which has "
    with pytest.raises(UserError, match=expected + "42, 128, 0.9: leave them out"):
        main(flags(seco_root, log_dir, *more))
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserError, match="can be resumed: use another --log_dir"):
        main(flags(seco_root, log_dir, "--batch_size", "3"))
    error = capsys.readouterr().err
    assert "with 2 samples per step, not 3" in error
    assert "resuming" not in error
    main(flags(seco_root, log_dir))
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(flags(seco_root, log_dir))
    assert left.value.code == 0
    assert "has all 3 epochs" in capsys.readouterr().out
    assert len(run_dirs(log_dir)) == 1


@pytest.mark.parametrize("repeated", [False, True])
def test_a_signal_before_the_first_step_saves_too(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    """And launchers may pass on a signal that all processes have received already."""

    def stop(self: MocoV2) -> None:
        for _ in range(1 + repeated):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MocoV2, "on_train_epoch_start", stop)
        with pytest.raises(SystemExit) as left:
            main(flags(seco_root, tmp_path))
    assert left.value.code == os.EX_TEMPFAIL
    assert main(flags(seco_root, tmp_path)).global_step == STEPS
    assert len(run_dirs(tmp_path)) == 1


@pytest.mark.parametrize(
    ("phase", "number", "steps_left"),
    [
        ("main_pretrain.make_datamodule", signal.SIGINT, STEPS),
        ("models.ssl_online.SSLOnlineEvaluator.evaluate", signal.SIGTERM, 1),
        pytest.param(
            "models.pretrain_run.plot_training", signal.SIGUSR1, 0, marks=pytest.mark.slow
        ),
        ("models.pretrain_run.save_results", signal.SIGTERM, 0),
    ],
    ids=["start", "probe", "curves", "results"],
)
def test_a_signal_in_every_other_phase_is_answered_and_the_same_command_ends_the_run(
    seco_root: Path,
    eurosat_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    number: signal.Signals,
    steps_left: int,
) -> None:
    trained: list[int] = []

    def wait_for_the_end(*_: Any, **__: Any) -> dict[str, float]:
        if trained or "evaluate" not in phase:  # the first probe is before the first step
            os.kill(os.getpid(), number)
            time.sleep(HANG_S)
        return {}

    def count(self: MocoV2, outputs: Any, batch: Any, batch_idx: int) -> None:
        trained.append(self.trainer.global_step)

    monkeypatch.setattr(MocoV2, "on_train_batch_end", count)
    monkeypatch.setattr("utils.signals._PATIENCE_S", 0.1)
    monkeypatch.setattr("utils.save_checkpoints._UNSAVED_S", 0.0)
    probe = as_flags(online_data_dir=eurosat_root, online_val_every_n_epoch=3, online_max_epochs=1)
    command = flags(seco_root, tmp_path, *probe)
    monkeypatch.setattr("sys.argv", ["main_pretrain.py", *command])
    with monkeypatch.context() as patch:
        patch.setattr(phase, wait_for_the_end)
        with pytest.raises(SystemExit) as left:
            run(main)
    assert left.value.code == os.EX_TEMPFAIL
    done = len(trained)
    run(main)
    assert len(trained) - done == steps_left
    (run_dir,) = run_dirs(tmp_path)
    results = json.loads((run_dir / "results.json").read_text())
    assert results["metrics"]["steps"] == STEPS
    assert results["metrics"].keys() >= {"train/loss", "online/linear_accuracy"}
    with pytest.raises(SystemExit) as left:
        run(main)
    assert left.value.code == 0


def test_a_run_folder_has_one_run_at_a_time(
    seco_root: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.locks._LEASE_S", 0.3)
    log_dir = shutil.copytree(stopped, tmp_path / "logs")
    (run_dir,) = run_dirs(log_dir)
    with (
        sole_run(run_dir),
        pytest.raises(UserError, match=r"another run writes into .*version_0: wait for its end"),
    ):
        main(flags(seco_root, log_dir))
    with sole_run(run_dir):
        lease = (run_dir / "run.lock").read_text()
    # What is left of a run on a machine that was taken away: nobody renews it.
    (run_dir / "run.lock").write_text(lease.replace(socket.gethostname(), "elsewhere"))
    assert main(flags(seco_root, log_dir)).global_step == STEPS
    assert not (run_dir / "run.lock").exists()


def test_what_is_missing_or_foreign_next_to_a_checkpoint_is_reported(
    seco_root: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_dir = shutil.copytree(stopped, tmp_path / "logs")
    (run_dir,) = run_dirs(log_dir)
    last = run_dir / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    name = "encoder_q.0.weight"
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name][:1]
    torch.save(checkpoint, last)
    (run_dir / "checkpoints/arguments.json").unlink()
    (run_dir / "metrics.csv").write_bytes(b"")
    assert main(flags(seco_root, log_dir)).global_step == STEPS
    assert run_dirs(log_dir) == [run_dir]
    error = capsys.readouterr().err
    assert "arguments.json is missing: the flags of this command alone count" in error
    assert f"not resumed: {last} does not hold the state of this run, state_dict has" in error
    assert f"resuming {last.with_name('previous.ckpt')} instead" in error
    assert "metrics.csv has no rows of the first 3 steps: a new history begins" in error
    last.unlink()
    last.mkdir()
    with pytest.raises(UserError, match=r"last\.ckpt is a folder, not a checkpoint: move it away"):
        main(flags(seco_root, log_dir))


def test_processes_that_resume_other_checkpoints_are_refused(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.save_checkpoints.gather", lambda step: torch.cat([step, step + 1]))
    with pytest.raises(UserError, match=r"resume different checkpoints: put --log_dir"):
        main(flags(seco_root, tmp_path))


def test_a_signal_to_all_processes_of_a_step_is_survived_by_the_loaders(
    seco_root: Path, tmp_path: Path
) -> None:
    """As SLURM and a terminal send it."""
    more = as_flags(num_workers=1, max_epochs=10**6)
    process = forked(main, flags(seco_root, tmp_path, *more), output=tmp_path / "output.txt")
    wait_until(lambda: any(tmp_path.rglob("metrics.csv")) or not process.is_alive())
    assert process.is_alive(), (tmp_path / "output.txt").read_text()
    os.killpg(process.pid or 0, signal.SIGUSR1)
    process.join(HANG_S)
    assert process.exitcode == os.EX_TEMPFAIL
    assert list(tmp_path.rglob("last.ckpt"))


def test_two_processes_stop_at_one_step_and_resume(seco_root: Path, tmp_path: Path) -> None:
    """The first process alone receives the signal, as from ``kill``; moco: six steps per epoch."""
    command = [sys.executable, "main_pretrain.py", *flags(seco_root, tmp_path / "logs")]
    command += as_flags(data_mode="moco", max_epochs=10**6, num_processes=2)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        wait_until(
            lambda: any((tmp_path / "logs").rglob("metrics.csv")) or process.poll() is not None
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == os.EX_TEMPFAIL
    (run_dir,) = run_dirs(tmp_path / "logs")
    done = int(rows(run_dir)[-1]["step"]) + 1
    assert done > 0
    epochs = done // 6 + 1
    # The same samples in the same steps, other statistics of batch norm.
    more = as_flags(data_mode="moco", max_epochs=epochs, batch_size=4, num_processes=1)
    main(flags(seco_root, tmp_path / "logs", *more))
    assert [int(row["step"]) for row in rows(run_dir)] == list(range(6 * epochs))
