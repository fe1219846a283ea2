"""Whole runs under stand-ins of schedulers, which set their variables and send their signals.

SLURM: https://slurm.schedmd.com/sbatch.html, ``--signal`` (to the tasks of the steps, unless "B:"
is given), ``--requeue`` and SLURM_RESTART_COUNT; https://slurm.schedmd.com/slurm.conf.html,
KillWait: SIGTERM at the time limit, SIGKILL 30 s later. torchrun is the real one:
https://docs.pytorch.org/docs/stable/elastic/run.html, ``--max-restarts``: if a worker fails, all
are restarted.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.references.launcher_variables import OTHERS, PREFIXES, sbatch, srun
from tests.references.pretraining import SMALL, run_dirs
from tests.references.script import ROOT, as_flags
from tests.references.waiting import HANG_S, wait_until

pytestmark = pytest.mark.slow
KILL_WAIT_S = 30.0 * 10  # of a machine that is ten times slower
ENDLESS = 10**6
# Starts the tasks of a step, and returns the highest exit code, as srun does. They are forks: new
# Pythons would import torch and Lightning for many seconds each. Figures take as long as the rest.
SRUN = """#!{python}
import json, os, runpy, sys
sys.path.insert(0, os.getcwd())
import models.pretrain_run, datasets.seco_datamodule
models.pretrain_run.plot_views = models.pretrain_run.plot_training = lambda *_: None
_, _, *sys.argv = sys.argv  # without srun and python
started = []
for each in json.loads(os.environ["TASKS"]):
    started.append(os.fork())
    if not started[-1]:
        os.environ.update(each)
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
with open(os.environ["PIDS"] + ".partial", "w") as file:
    json.dump(started, file)
os.rename(file.name, os.environ["PIDS"])
codes = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in started]
os._exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = '#!/bin/sh\necho "$@" >> "$REQUEUED"\n'


def environment() -> dict[str, str]:
    """Return the variables of this process without those of launchers."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES) and k not in OTHERS}
    return kept | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}


def steps(log_dir: Path) -> list[int]:
    """Return the steps of ``metrics.csv``, which is missing while a run begins or resumes."""
    found = [run_dir / "metrics.csv" for run_dir in run_dirs(log_dir)]
    if not found or not found[0].exists() or not found[0].stat().st_size:
        return []
    (path,) = found
    lines = path.read_text().splitlines()
    column = lines[0].split(",").index("step")
    return [int(line.split(",")[column]) for line in lines[1:]]


class Slurm:
    """Runs docs/pretrain.sbatch; each start is a requeued job with the same number."""

    def __init__(self, tmp_path: Path, tasks: int, *flags: str) -> None:
        self.tasks, self.flags, self.restarts = tasks, flags, 0
        self.pids, self.requeued = tmp_path / "pids", tmp_path / "requeued"
        tools = tmp_path / "tools"
        tools.mkdir()
        # A link would be a Python without the packages of this one.
        (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (tools / "python").chmod(0o755)
        for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
            (tools / name).write_text(content.replace("{python}", sys.executable))
            (tools / name).chmod(0o755)
        each = [srun(tasks, rank, per_node=tasks) for rank in range(tasks)]
        self.variables = (
            environment()
            | sbatch(tasks)
            | {
                "PATH": f"{tools}:{os.environ['PATH']}",
                "TASKS": json.dumps(each),
                "PIDS": str(self.pids),
                "REQUEUED": str(self.requeued),
                "MASTER_PORT": str(20_000 + os.getpid() % 10_000 + tasks),
            }
        )

    @contextmanager
    def job(self, max_epochs: int) -> Iterator[subprocess.Popen[bytes]]:
        self.pids.unlink(missing_ok=True)
        variables = dict(self.variables)
        if self.restarts:
            variables["SLURM_RESTART_COUNT"] = str(self.restarts)
        self.restarts += 1
        more = as_flags(max_epochs=max_epochs)
        command = ["bash", "docs/pretrain.sbatch", *self.flags, *more]
        with subprocess.Popen(command, cwd=ROOT, env=variables) as script:
            wait_until(lambda: self.pids.exists() or script.poll() is not None)
            yield script

    def announce(self, number: signal.Signals, script: subprocess.Popen[bytes]) -> int:
        """Send a signal to all tasks, and the others if they do not end in time."""
        for each in (number, signal.SIGTERM, signal.SIGKILL):
            for pid in json.loads(self.pids.read_text()):
                with suppress(ProcessLookupError):  # it has ended
                    os.kill(pid, each)
            try:
                return script.wait(KILL_WAIT_S)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError("the job outlived SIGKILL")


@pytest.mark.parametrize("tasks", [2, 4])
def test_a_job_of_slurm_is_requeued_until_all_epochs_are_done(
    seco_root: Path, tmp_path: Path, tasks: int
) -> None:
    flags = [str(seco_root), *SMALL, *as_flags(batch_size=2, log_every_n_steps=1, data_mode="moco")]
    flags += as_flags(num_processes=tasks, num_nodes=1, log_dir=tmp_path / "logs")
    slurm = Slurm(tmp_path, tasks, *flags)
    with slurm.job(ENDLESS) as script:  # the job is preempted while it starts
        assert slurm.announce(signal.SIGTERM, script) in (os.EX_TEMPFAIL, 143)
    with slurm.job(ENDLESS) as script:  # its time limit is announced
        wait_until(lambda: any(tmp_path.rglob("metrics.csv")) or script.poll() is not None)
        assert slurm.announce(signal.SIGUSR1, script) == os.EX_TEMPFAIL
    per_epoch = 12 // tasks
    epochs = (steps(tmp_path / "logs")[-1] + 1) // per_epoch + 1
    with slurm.job(epochs) as script:
        assert script.wait(HANG_S) == 0
    assert slurm.requeued.read_text().splitlines() == ["requeue 4711"] * 2
    assert steps(tmp_path / "logs") == list(range(per_epoch * epochs))


def children(pid: int) -> list[int]:
    """Return the child processes of the main thread of a process that may have ended."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in listed.read_text().split()] if listed.exists() else []


@pytest.mark.parametrize("processes", [2, 4])
def test_torchrun_restarts_all_processes_and_they_resume(
    seco_root: Path, tmp_path: Path, processes: int
) -> None:
    log_dir = tmp_path / "logs"
    flags = [*SMALL, *as_flags(data_dir=seco_root, log_dir=log_dir, batch_size=2)]
    flags += [*as_flags(log_every_n_steps=1, data_mode="moco"), "--resume", "auto"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
    command = [*torchrun, f"--nproc_per_node={processes}", "main_pretrain.py", *flags]
    endless = [*command, *as_flags(max_epochs=ENDLESS)]
    with subprocess.Popen(endless, cwd=ROOT, env=environment()) as agent:
        wait_until(lambda: len(steps(log_dir)) > 2 or agent.poll() is not None)
        first = children(agent.pid)
        os.kill(first[-1], signal.SIGUSR1)  # the machine of one worker is taken away
        wait_until(lambda: not {*first} & {*children(agent.pid)})
        before = len(steps(log_dir))
        wait_until(lambda: len(steps(log_dir)) > before + 1 or agent.poll() is not None)
        agent.terminate()  # and then that of all
        assert agent.wait(HANG_S) != 0
    per_epoch = 12 // processes
    epochs = (steps(log_dir)[-1] + 1) // per_epoch + 1
    done = subprocess.run(
        [*command, *as_flags(max_epochs=epochs)], cwd=ROOT, env=environment(), timeout=HANG_S
    )
    assert done.returncode == 0
    assert steps(log_dir) == list(range(per_epoch * epochs))
