"""Checkpoints and logs that cannot be written, and the trials of the reliability report."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.reliability_checkpoints import PARTS
from main_pretrain import main
from tests.references.launcher_variables import forget_launchers
from tests.references.pretraining import SMALL, assert_equal, run_dirs, tensors
from tests.references.script import as_flags, in_two_forks
from utils import checkpoint
from utils.errors import WriteError
from utils.save_checkpoints import SaveCheckpoints

FLAGS = [*SMALL, *as_flags(batch_size=2, max_epochs=3, save_every_minutes=1e-9)]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("_restored_signals")
@pytest.mark.parametrize("policy", ["stop", "continue"])
@pytest.mark.parametrize("number", [5, 12])  # a save within an epoch, and the last one
def test_a_save_that_fails_ends_the_run_or_is_made_up_for(
    seco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    policy: str,
    number: int,
) -> None:
    forget_launchers(monkeypatch)
    for name in ("plot_views", "plot_training"):
        monkeypatch.setattr(f"models.pretrain_run.{name}", lambda *_: None)
    save, saved = checkpoint.save_torch_file, list[bytes]()

    def save_but_once(content: Any, path: Path) -> None:
        if len(saved) == number - 1:
            saved.append(b"")
            raise FULL
        save(content, path)
        saved.append(path.read_bytes())

    monkeypatch.setattr(checkpoint, "save_torch_file", save_but_once)
    flags = [*FLAGS, *as_flags(data_dir=seco_root, log_dir=tmp_path), "--resume", "auto"]
    flags += ["--on_save_error", policy]
    if survives := (policy, number) == ("continue", 5):
        main(flags)
    else:
        with pytest.raises(WriteError, match=r"cannot write .*last\.ckpt: No space left on device"):
            main(flags)
    (run_dir,) = run_dirs(tmp_path)
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "previous.ckpt", "arguments.json"}
    text = f"step 3: cannot write {run_dir / 'checkpoints/last.ckpt'}: No space left on device"
    assert (f"{text}: free" in capsys.readouterr().err) == survives
    if not survives:
        assert (run_dir / "checkpoints/last.ckpt").read_bytes() == saved[number - 2]
        main(flags)  # the disk has space again
    first = Path(tmp_path / "whole.ckpt")
    first.write_bytes(saved[-1])
    assert_equal(tensors(run_dir / "checkpoints/last.ckpt"), tensors(first))


@pytest.mark.parametrize("states", [torch.zeros(2), torch.zeros(0), torch.zeros(1, 5).byte()])
def test_random_states_of_another_shape_are_refused(states: torch.Tensor, tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(world_size=1)
    module: Any = None
    callback = SaveCheckpoints(tmp_path, {}, None, None, None, "stop")
    with pytest.raises(ValueError, match="random_states has another shape or type"):
        callback.on_load_checkpoint(trainer, module, {"random_states": states})


@pytest.mark.slow
@pytest.mark.usefixtures("_restored_signals")
def test_two_processes_survive_checkpoints_that_cannot_be_written(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One within an epoch, and a copy."""
    flags = [*FLAGS, *as_flags(data_dir=seco_root, log_dir=tmp_path / "logs", data_mode="moco")]
    flags += as_flags(resume="auto", on_save_error="continue", save_every_n_epochs=1)
    output = tmp_path / "output"
    assert in_two_forks(main, [*flags, "--max_epochs", "1"], output) == [0, 0], output.read_text()
    (run_dir,) = run_dirs(tmp_path / "logs")
    in_the_way = run_dir / "checkpoints" / "epoch=2.ckpt" / "x"
    in_the_way.mkdir(parents=True)
    save, calls = checkpoint.save_torch_file, list[Path]()

    def save_but_once(content: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise FULL
        save(content, path)

    monkeypatch.setattr(checkpoint, "save_torch_file", save_but_once)
    assert in_two_forks(main, flags, output) == [0, 0], output.read_text()
    printed = output.read_text()
    assert printed.count("; the training continues") == 2
    assert f"cannot write {run_dir / 'checkpoints' / 'last.ckpt'}: No space left" in printed
    assert f"cannot write {in_the_way.parent}: " in printed
    assert (run_dir / "checkpoints" / "epoch=3.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_few_trials_of_each_kind_fail_nowhere(part: str, tmp_path: Path) -> None:
    trials = list(PARTS[part](0, 6, tmp_path))
    assert len(trials) == 6
    assert [trial for trial in trials if trial.failure] == []
