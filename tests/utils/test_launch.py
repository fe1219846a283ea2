"""Several processes: what their launchers say, and whole runs of the script that they start."""

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
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
from tests.references.pretraining import (
    pretrain_in_two_forks,
    pretrain_in_two_processes,
    state,
)
from tests.references.script import in_two_forks
from tests.references.waiting import HANG_S
from utils.end_together import EndTogether
from utils.errors import LOST_PROCESS, UserError
from utils.launch import World, batch_size_per_process, launch_kwargs, planned_world, resolve_gpus
from utils.launchers import launched_rank, launcher


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_launchers(monkeypatch)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # the machine's name need not resolve


def flags(**changes: Any) -> Namespace:
    return Namespace(**{"num_nodes": 1, "num_processes": 1, "gpus": 0, "batch_size": 6} | changes)


@pytest.mark.parametrize(
    ("variables", "name", "rank"),
    [
        ({}, None, 0),
        (torchrun(4, 2, rank=3), "torchrun", 3),
        (srun(4, 2, nodes=2, per_node=2), "srun", 2),
        (srun(1), "srun", 0),
        (srun(2, 1) | {"SLURM_JOB_NAME": "interactive"}, "srun", 1),  # srun within salloc
        (lightning(1, 2), "Lightning", 1),
        (srun(1) | torchrun(2, 2, rank=1), "torchrun", 1),
        (srun(1) | lightning(1, 2), "srun", 0),
        (sbatch(4) | lightning(1, 2), "Lightning", 1),
        # Not below the number of processes.
        (torchrun(2, 2, rank=2), "torchrun", 0),
        (srun(2, 2), "srun", 0),
        # Numbers that no launcher completes.
        (salloc(2), None, 0),
        (salloc(2, "interactive"), None, 0),
        (srun(1) | {"SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "2"}, None, 0),  # srun --pty bash
        ({"LOCAL_RANK": "1", "MASTER_PORT": "29500"}, None, 0),
        (sbatch(4), None, 0),
        ({"SLURM_PROCID": "1"}, None, 0),
        ({"LOCAL_RANK": "1"}, None, 0),
        ({"LOCAL_RANK": "one", "MASTER_PORT": "29500"}, None, 0),
        ({"RANK": "1", "WORLD_SIZE": "2"}, None, 0),
        ({"RANK": "1", "LOCAL_RANK": "1", "NODE_RANK": "1", "GROUP_RANK": "1"}, None, 0),
        ({"TORCHELASTIC_RUN_ID": "run", "LOCAL_RANK": "1"}, None, 0),
    ],
)
def test_launchers_number_their_processes(
    variables: dict[str, str], name: str | None, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    assert (launcher(), launched_rank()) == (name, rank)


BY_HAND = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500", "NODE_RANK": "1"}
LEFT_OVER = {"LOCAL_RANK": "0", "NODE_RANK": "3", "RANK": "3", "WORLD_SIZE": "4", "GROUP_RANK": "3"}
TWO_BY_TWO = srun(4, 3, nodes=2, per_node=2)


@pytest.mark.parametrize(
    ("variables", "requested", "expected"),
    [
        ({}, {}, World(1, 1, 0)),
        (BY_HAND, {"num_nodes": 2, "num_processes": 3}, World(2, 3, 3)),
        (lightning(2, 6, node_rank=1), {"num_nodes": 2, "num_processes": 3}, World(2, 3, 5)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "1"}, {"num_processes": 2}, World(1, 2, 0)),
        (LEFT_OVER, {}, World()),
        ({"SLURM_PROCID": "1"}, {}, World()),
        (lightning(1, 2), {}, World()),
        (torchrun(6, 3, rank=4), {}, World(2, 3, 4)),
        (torchrun(6, 3, rank=4), {"num_nodes": 2, "num_processes": 3}, World(2, 3, 4)),
        (TWO_BY_TWO, {"num_nodes": 2, "num_processes": 2}, World(2, 2, 3)),
        (salloc(4), {}, World()),  # one process, or those that Lightning starts
        (salloc(4), {"num_processes": 4}, World(1, 4, 0)),
        (sbatch(4), {}, World()),
        (sbatch(4), {"num_processes": 4}, World(1, 4, 0)),
        ({}, {"num_nodes": 2, "num_processes": 3}, "--num_nodes 2 needs srun or torchrun"),
        (torchrun(6, 3, rank=4), {"num_processes": 2}, "torchrun started 2 x 3 processes"),
        (TWO_BY_TWO, {}, "--ntasks-per-node 1"),
        (TWO_BY_TWO, {"num_processes": 4}, "4 tasks, 2 nodes x 2 on each.* 1 x 4"),
        (srun(2, per_node=4), {"num_processes": 2}, "1 nodes x 4 on each"),
        (srun(2), {"num_processes": 2}, r"1 nodes x \? on each"),
        (lightning(2, 2), {"num_processes": 2}, "unset"),
        (lightning(0, 2, node_rank=2), {"num_processes": 2, "num_nodes": 2}, "unset"),
        (lightning(0, 2) | {"NODE_RANK": "one"}, {"num_nodes": 2}, "unset"),
        (torchrun(2, 2, rank=2), {}, "unset"),
        (srun(2, 2, per_node=2), {"num_processes": 2}, "unset"),
        ({}, {"gpus": 1, "num_processes": 2}, "--gpus 0"),
        ({}, {"num_nodes": 0}, "--num_nodes must be above 0"),
    ],
)
def test_flags_and_launcher_plan_the_processes_or_contradict_each_other(
    variables: dict[str, str],
    requested: dict[str, int],
    expected: World | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    set_all(monkeypatch, variables)
    if isinstance(expected, World):
        assert planned_world(flags(**requested)) == expected
        assert expected.num_nodes > 1 or "NODE_RANK" not in os.environ
        # If it is set, Lightning starts no processes.
        assert (expected.size > 1 and launcher()) or "LOCAL_RANK" not in os.environ
    else:
        with pytest.raises(UserError, match=expected):
            planned_world(flags(**requested))


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
    with pytest.raises(UserError, match=f"--gpus 9 was requested, {found} found"):
        resolve_gpus(flags(gpus=9))


def test_each_process_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_dp_splits_the_batch_over_the_processes_and_ddp_does_not() -> None:
    args = flags(accelerator="dp", batch_size=1024)
    with pytest.warns(UserWarning, match="runs as ddp"):
        assert batch_size_per_process(args, World(1, 4)) == 256
    assert batch_size_per_process(args, World()) == 1024
    args.batch_size = 1022
    with pytest.raises(UserError, match="1022 is not a multiple of the 4 processes"):
        batch_size_per_process(args, World(1, 4))
    for accelerator in ("ddp", None):
        assert batch_size_per_process(flags(accelerator=accelerator), World(1, 4)) == 6


@pytest.mark.parametrize(
    ("error", "commands"),
    [
        (RuntimeError("connection closed"), ["exec sleep infinity", "exit 2"]),
        (UserError("a bad patch"), ["exec sleep infinity"]),  # of this process
    ],
)
def test_a_failed_process_ends_the_others_with_its_exit_code(
    error: Exception, commands: list[str]
) -> None:
    def run_of_several(sender: Connection) -> None:
        for event in (EndTogether._is_lost, EndTogether._is_over):
            event.clear()
        children = [subprocess.Popen(["sh", "-c", command]) for command in commands]
        launcher = Namespace(procs=list(children))
        strategy = Namespace(launcher=launcher, num_processes=1 + len(children))
        EndTogether()._watch_children(strategy)
        trainer: Any = Namespace(world_size=3, strategy=strategy)
        try:
            EndTogether().on_exception(trainer, LightningModule(), error)
        finally:
            sender.send(children[0].wait(HANG_S))

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run_of_several, args=(sender,))
    process.start()  # a fork, because the threads that watch end their process
    assert receiver.poll(HANG_S)
    assert receiver.recv() == -signal.SIGKILL
    process.join(HANG_S)
    assert process.exitcode == (0 if len(commands) == 1 else 2)


@pytest.mark.parametrize("has_store", [True, False])
def test_of_processes_that_fail_together_one_prints_its_error(
    has_store: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.end_together.GRACE_S", 0.1)

    def fail(argv: Sequence[str]) -> None:
        dist.init_process_group("gloo")
        dist.barrier()
        if not has_store:  # which notes the first failure
            os.environ["MASTER_PORT"] = "1"
        trainer: Any = Namespace(world_size=2)
        error = UserError("a bad patch")
        try:
            EndTogether().on_exception(trainer, LightningModule(), error)
        finally:
            dist.barrier()  # the store is in the first process
        raise error

    output = tmp_path / "output"
    codes = in_two_forks(fail, [], output)
    assert sorted(codes) == [2, LOST_PROCESS if has_store else 2]
    assert output.read_text() == "error: a bad patch\n" * (1 if has_store else 2)


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
    output = tmp_path / "output"
    assert pretrain_in_two_forks(places, tmp_path, output, "--max_epochs", "1") == [0, 0]
    printed = output.read_text()
    names = [line.split(":")[0] for line in printed.splitlines() if re.match(r"[a-z]+: ", line)]
    assert names == ["precision", "checkpoint", "results", "next"]
    (run_dir,) = tmp_path.glob("pretrain-*/*")
    assert run_dir.name == "version_0"
    files = {path.name for path in run_dir.rglob("*")}
    assert {"last.ckpt", "views.png", "results.json", "metrics.csv", "curves.png"} <= files
    assert state(tmp_path)["queue_ptr"].tolist() == [[4]] * 3  # keys of both processes
    assert "4/4" in printed  # samples of both processes
    assert "Warning" not in printed


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
def test_an_error_of_all_processes_is_printed_once(
    places: Path, tmp_path: Path, more: str, named: str
) -> None:
    done = pretrain_in_two_processes(
        places, tmp_path, *more.split(), "--num_negatives", "18", launcher=TORCHRUN
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert named in errors[0]
