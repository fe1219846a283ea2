"""Several processes: what their launchers say, and whole runs of the script that they start."""

import os
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy

from tests.references.launcher_variables import (
    forget_launchers,
    lightning,
    salloc,
    sbatch,
    set_all,
    srun,
    torchrun,
)
from tests.references.pretraining import pretrain_in_two_processes, state
from tests.references.waiting import HANG_S
from utils.errors import UserError
from utils.launch import (
    World,
    batch_size_per_process,
    launch_kwargs,
    planned_world,
    resolve_gpus,
)
from utils.training import EndTogether


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_launchers(monkeypatch)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # the machine's name need not resolve


def flags(**changes: Any) -> Namespace:
    return Namespace(**{"num_nodes": 1, "num_processes": 1, "gpus": 0, "batch_size": 6} | changes)


def test_flags_tell_the_world() -> None:
    assert planned_world(flags()) == World(1, 1, 0)
    assert World(2, 3).size == 6


def test_machines_find_each_other_by_a_launcher_or_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address they would wait for each other until a time-out."""
    with pytest.raises(UserError, match="--num_nodes 2 needs srun or torchrun"):
        planned_world(flags(num_nodes=2, num_processes=3))
    set_all(monkeypatch, {"MASTER_ADDR": "n1", "MASTER_PORT": "29500", "NODE_RANK": "1"})
    assert planned_world(flags(num_nodes=2, num_processes=3)) == World(2, 3, 3)


def test_a_process_that_lightning_started_knows_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, lightning(2, 6, node_rank=1))
    assert planned_world(flags(num_nodes=2, num_processes=3)).rank == 5


def test_a_number_that_is_left_over_does_not_keep_lightning_from_starting_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("NODE_RANK", "1")
    assert planned_world(flags(num_processes=2)) == World(1, 2, 0)
    assert not {"LOCAL_RANK", "NODE_RANK"} & os.environ.keys()


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        (lightning(2, 2), {"num_processes": 2}),
        (lightning(0, 2, node_rank=2), {"num_processes": 2, "num_nodes": 2}),
        (lightning(0, 2) | {"NODE_RANK": "one"}, {"num_nodes": 2}),
        (torchrun(2, 2, rank=2), {}),
        (srun(2, 2, per_node=2), {"num_processes": 2}),
    ],
)
def test_a_rank_that_is_not_below_the_size_is_refused(
    variables: dict[str, str], asked: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    with pytest.raises(UserError, match="unset"):
        planned_world(flags(**asked))


def test_torchrun_sets_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, torchrun(size=6, per_node=3, rank=4))
    assert planned_world(flags()) == World(2, 3, 4)
    assert planned_world(flags(num_nodes=2, num_processes=3)) == World(2, 3, 4)
    with pytest.raises(UserError, match="torchrun started 2 x 3 processes"):
        planned_world(flags(num_processes=2))


def test_slurm_must_start_as_many_tasks_as_the_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, srun(4, 3, nodes=2, per_node=2))
    assert planned_world(flags(num_nodes=2, num_processes=2)) == World(2, 2, 3)
    with pytest.raises(UserError, match="--ntasks-per-node 1"):
        planned_world(flags())
    with pytest.raises(UserError, match="SLURM_NNODES 2 instead of 1"):
        planned_world(flags(num_processes=4))


@pytest.mark.parametrize("variables", [salloc(4), sbatch(4)], ids=["salloc", "sbatch"])
def test_a_shell_or_script_of_slurm_is_one_process(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    assert planned_world(flags()) == World()
    assert planned_world(flags(num_processes=4)) == World(1, 4, 0)  # which Lightning starts


def test_a_notebook_cannot_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert planned_world(flags()) == World()
    with pytest.raises(UserError, match=r"notebook.*in a shell"):
        planned_world(flags(num_processes=2))


@pytest.mark.parametrize(
    ("asked", "found", "expected"), [(None, 0, 0), (None, 1, 1), (None, 8, 1), (0, 8, 0), (3, 8, 3)]
)
def test_without_the_flag_one_gpu_is_used_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, found: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    args = flags(gpus=asked)
    resolve_gpus(args)
    assert args.gpus == expected


def test_processes_of_the_cpu_are_not_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--gpus 0"):
        planned_world(flags(gpus=1, num_processes=2))
    with pytest.raises(UserError, match="--num_nodes must be above 0"):
        planned_world(flags(num_nodes=0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    set_all(monkeypatch, torchrun(size=4, per_node=4, rank=0))
    with pytest.raises(UserError, match="4 processes need as many GPUs, 2 found"):
        planned_world(flags(gpus=1))


@pytest.mark.difference("statistics")
def test_lightning_gets_one_process_or_ddp() -> None:
    kwargs = launch_kwargs(World())
    assert (kwargs["devices"], kwargs["num_nodes"], kwargs["strategy"]) == (1, 1, "auto")
    kwargs = launch_kwargs(World(2, 4))
    assert (kwargs["devices"], kwargs["num_nodes"]) == (4, 2)
    strategy = kwargs["strategy"]
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs == {"broadcast_buffers": False, "gradient_as_bucket_view": True}


@pytest.mark.difference("dp")
def test_dp_splits_the_batch_over_the_processes() -> None:
    args = flags(accelerator="dp", batch_size=1024)
    with pytest.warns(UserWarning, match="runs as ddp"):
        assert batch_size_per_process(args, World(1, 4)) == 256
    assert batch_size_per_process(args, World()) == 1024
    args.batch_size = 1022
    with pytest.raises(UserError, match="1022 is not a multiple of the 4 processes"):
        batch_size_per_process(args, World(1, 4))


@pytest.mark.parametrize("accelerator", ["ddp", None])
def test_ddp_gives_every_process_a_whole_batch(accelerator: str | None) -> None:
    assert batch_size_per_process(flags(accelerator=accelerator), World(1, 4)) == 6


def trainer_with(*commands: str) -> tuple[Any, list[subprocess.Popen[bytes]]]:
    """Pretend that Lightning has started these commands as further processes."""
    children = [subprocess.Popen(["sh", "-c", command]) for command in commands]
    launcher = Namespace(procs=children)
    return Namespace(world_size=3, strategy=Namespace(launcher=launcher)), children


def test_the_failure_of_another_process_is_the_exit_code() -> None:
    trainer, children = trainer_with("exec sleep infinity", "exit 2")
    assert children[1].wait(HANG_S) == 2
    with pytest.raises(SystemExit) as caught:
        EndTogether().on_exception(trainer, LightningModule(), RuntimeError("connection closed"))
    assert caught.value.code == 2
    assert children[0].wait(HANG_S) == -signal.SIGKILL


def test_a_process_that_fails_itself_ends_the_others_and_tells_its_own_error() -> None:
    trainer, (child,) = trainer_with("exec sleep infinity")
    EndTogether().on_exception(trainer, LightningModule(), UserError("a bad patch"))
    assert child.wait(HANG_S) == -signal.SIGKILL


# --- whole runs -------------------------------------------------------------------------------

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def places(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 places: one step of two processes."""
    folder = tmp_path_factory.mktemp("places") / "seco"
    for place in sorted(path for path in seco_root.iterdir() if path.is_dir())[:4]:
        shutil.copytree(place, folder / place.name)
    return folder


def test_two_processes_train_and_leave_one_folder(places: Path, tmp_path: Path) -> None:
    done = pretrain_in_two_processes(places, tmp_path, "--max_epochs", "1")
    assert done.returncode == 0, done.stderr
    names = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert names == ["precision", "checkpoint", "results", "next"]
    (run_dir,) = tmp_path.glob("pretrain-*/*")
    assert run_dir.name == "version_0"
    files = {path.name for path in run_dir.rglob("*")}
    assert {"last.ckpt", "views.png", "results.json", "metrics.csv", "curves.png"} <= files
    assert state(tmp_path)["queue_ptr"].tolist() == [[4]] * 3  # keys of both processes
    assert "4.00/4.00" in done.stderr  # samples of both processes
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_torchrun_takes_the_same_steps_and_a_resumed_run_too(places: Path, tmp_path: Path) -> None:
    epochs = ["--max_epochs", "2", "--save_every_n_epochs", "1"]
    done = pretrain_in_two_processes(places, tmp_path / "torchrun", *epochs, launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    (first,) = (tmp_path / "torchrun").rglob("epoch=1.ckpt")
    resume = ["--resume_from_checkpoint", str(first)]
    for log_dir, more in ((tmp_path / "lightning", []), (tmp_path / "resumed", resume)):
        again = pretrain_in_two_processes(places, log_dir, *epochs, *more)
        assert again.returncode == 0, again.stderr
        for name, tensor in state(tmp_path / "torchrun").items():
            assert torch.equal(tensor, state(log_dir)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [None, TORCHRUN], ids=["lightning", "torchrun"])
def test_an_error_in_one_process_ends_all_with_one_sentence(
    places: Path, tmp_path: Path, launcher: list[str] | None
) -> None:
    data_dir = tmp_path / "seco"
    shutil.copytree(places, data_dir)
    for path in next(place for place in sorted(data_dir.iterdir())).glob("*/B4.tif"):
        path.write_bytes(path.read_bytes()[:200])
    done = pretrain_in_two_processes(
        data_dir, tmp_path / "logs", "--max_epochs", "9", launcher=launcher
    )
    assert done.returncode == (1 if launcher else 2)  # torchrun has one code for all failures
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert "B4.tif" in errors[0]
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "named"),
    [("--learning_rate 1e30 --max_epochs 9", "not finite"), ("--batch_size 9", "4 samples")],
    ids=["training", "before"],
)
def test_an_error_of_all_processes_is_told_once(
    places: Path, tmp_path: Path, more: str, named: str
) -> None:
    done = pretrain_in_two_processes(
        places, tmp_path, *more.split(), "--num_negatives", "18", launcher=TORCHRUN
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert named in errors[0]
