"""Fine-tunings and change detectors that are interrupted, and resumed by the same command."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import main_bigearthnet
import main_eurosat
import main_oscd
from models.change_detector import ChangeDetector
from models.ssl_finetuner import SSLFineTuner
from tests.references.launcher_variables import forget_launchers
from tests.references.script import as_flags, in_two_forks
from utils.errors import UserError

COMMON = as_flags(
    backbone_type="random", base_encoder="resnet18_slim", num_workers=0, gpus=0, num_seeds=2
)
COMMON.append("--no_report")
SMALL = {
    "eurosat": as_flags(method="finetune", batch_size=8, finetune_epochs=2),
    # Dropout draws random numbers within an epoch.
    "bigearthnet": as_flags(
        method="finetune", batch_size=5, max_epochs=2, image_size=32, protocol="paper"
    ),
    "oscd": as_flags(batch_size=2, max_epochs=2, patch_size=32),
}
MAINS = {"eurosat": main_eurosat, "bigearthnet": main_bigearthnet, "oscd": main_oscd}
Interrupt = Callable[..., None]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, _restored_signals: None) -> None:
    forget_launchers(monkeypatch)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], int]:
    """Steps (seed, step) of all starts, each with the number of a signal that follows it once."""
    seen: dict[tuple[int, int], int] = {}

    def after_step(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.seed, self.trainer.global_step
        number = seen.get(step, 0)
        seen[step] = -1
        if number > 0 and self.global_rank == 0:
            os.kill(os.getpid(), number)

    for module in (SSLFineTuner, ChangeDetector):
        monkeypatch.setattr(module, "on_train_batch_end", after_step)
    return seen


def command(name: str, data_dir: Path, log_dir: Path, *more: str) -> list[str]:
    return [*COMMON, *SMALL[name], *as_flags(data_dir=data_dir, log_dir=log_dir), *more]


def run(name: str, data_dir: Path, log_dir: Path, *more: str) -> dict[str, Any]:
    metrics: dict[str, Any] = MAINS[name].main(command(name, data_dir, log_dir, *more))
    return metrics


def left(log_dir: Path) -> dict[str, Any]:
    """Return what a run left: its history, checkpoints and figures."""
    (run_dir,) = log_dir.glob("*-random/version_*")
    found: dict[str, Any] = {}
    for path in sorted(run_dir.rglob("metrics.csv")):
        with path.open(newline="") as file:
            found[str(path.relative_to(run_dir))] = list(csv.DictReader(file))
    for path in sorted(run_dir.rglob("*.ckpt")):
        if path.name != "previous.ckpt":
            state = torch.load(path, weights_only=True)["state_dict"]
            found[str(path.relative_to(run_dir))] = {
                key: each.tolist() for key, each in state.items()
            }
    found["results"] = json.loads((run_dir / "results.json").read_text())["metrics"]
    return {name: without_times(each) for name, each in found.items()}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(each) for k, each in value.items() if "seconds" not in k}
    return value


@pytest.mark.parametrize(
    "name", [pytest.param("eurosat", marks=pytest.mark.slow), "bigearthnet", "oscd"]
)
def test_repetitions_that_are_stopped_end_with_the_same_bits_and_none_is_repeated(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, trained: dict[tuple[int, int], int]
) -> None:
    data_dir: Path = request.getfixturevalue(f"{name}_root")
    run(name, data_dir, tmp_path / "whole")
    steps = max(step for _, step in trained)
    assert steps >= 4
    # In the first epoch of a repetition, and in the second epoch of the next one.
    trained |= {(42, 1): signal.SIGTERM, (43, steps - 1): signal.SIGUSR1}
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            run(name, data_dir, tmp_path / "stopped", "--resume", "auto")
        assert stopped.value.code == os.EX_TEMPFAIL
    fewer = "finetune_epochs" if name == "eurosat" else "max_epochs"
    with pytest.raises(UserError, match=r"has done 2 epochs, more than --.* 1: raise it to 2"):
        run(name, data_dir, tmp_path / "stopped", "--resume", "auto", f"--{fewer}", "1")
    trained.clear()
    run(name, data_dir, tmp_path / "stopped", "--resume", "auto")
    assert set(trained) == {(43, steps)}
    stopped_run, whole = (left(tmp_path / each) for each in ("stopped", "whole"))
    assert stopped_run == whole


@pytest.mark.slow
@pytest.mark.parametrize(("name", "late"), [("eurosat", 5), ("bigearthnet", 3)])
def test_two_processes_stop_at_one_step_and_end_with_the_same_bits(
    name: str,
    late: int,  # step of the second epoch, but not its last one
    request: pytest.FixtureRequest,
    tmp_path: Path,
    trained: dict[tuple[int, int], int],
) -> None:
    """The first process alone receives the signal."""
    data_dir, output = request.getfixturevalue(f"{name}_root"), tmp_path / "output"

    def start(log_dir: str) -> list[int]:
        argv = command(name, data_dir, tmp_path / log_dir, "--batch_size=5", "--resume=auto")
        return in_two_forks(MAINS[name].main, argv, output)

    assert start("whole") == [0, 0], output.read_text()
    trained |= {(42, 1): signal.SIGTERM, (43, late): signal.SIGUSR1}
    for _ in range(2):
        assert start("stopped") == 2 * [os.EX_TEMPFAIL], output.read_text()
    assert start("stopped") == [0, 0], output.read_text()
    stopped, whole = (left(tmp_path / each) for each in ("stopped", "whole"))
    assert stopped == whole


def test_a_finished_evaluation_is_left_alone_and_a_contradiction_refused(
    eurosat_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--resume", "auto", "--method", "linear", "--max_epochs", "1")
    first = run("eurosat", eurosat_root, tmp_path, *flags)
    with pytest.raises(SystemExit) as ended:
        run("eurosat", eurosat_root, tmp_path, *flags)
    assert ended.value.code == 0
    assert "has all results: nothing is left to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--seed 7 contradicts the run of .*version_0, which"):
        run("eurosat", eurosat_root, tmp_path, *flags, "--seed", "7")
    more = run("eurosat", eurosat_root, tmp_path, *flags, "--num_seeds", "3")
    assert more["test/accuracy"] != first["test/accuracy"]
    assert len(list(tmp_path.glob("eurosat-*/version_*"))) == 1
