"""Cores of the allocation, not of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.references.launcher_variables import forget_launchers, srun
from utils import cores
from utils.cores import available_cores

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """64 cores without limits; its folder of control groups."""
    forget_launchers(monkeypatch)
    monkeypatch.setattr(cores, "_affinity", lambda: 64)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def write_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_a_machine_without_limits_is_used_whole() -> None:
    assert available_cores() == 64
    assert available_cores(4) == 16
    assert available_cores(100) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os; from utils.cores import available_cores\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(available_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    ("own", "parent", "expected"),
    [
        ("400000 100000", "max 100000", 4),
        ("max 100000", "250000 100000", 2),  # a parent's limit holds for its children
        ("800000 100000", "300000 100000", 3),
        ("50000 100000", "max 100000", 1),
        ("max 100000", "max 100000", 64),
    ],
)
def test_the_quota_of_a_control_group_counts(
    machine: Path, own: str, parent: str, expected: int
) -> None:
    (machine / "own").write_text("0::/system.slice/job.scope\n")
    write_group(machine / "cgroup" / "system.slice", cpu__max=parent)
    write_group(machine / "cgroup" / "system.slice" / "job.scope", cpu__max=own)
    assert available_cores() == expected


def test_the_quota_of_a_container_counts(machine: Path) -> None:
    """The path in /proc is the host's, what is mounted is the container's own group."""
    (machine / "own").write_text("0::/../../docker/ab12\n")
    write_group(machine / "cgroup", cpu__max="400000 100000")
    assert available_cores() == 4


@pytest.mark.parametrize(("quota", "expected"), [("400000", 4), ("-1", 64)])
def test_the_quota_of_version_1_counts(machine: Path, quota: str, expected: int) -> None:
    (machine / "own").write_text(
        "5:devices:/slurm/uid_7/job_4711\n4:cpu,cpuacct:/slurm/uid_7/job_4711\n3:cpuset:/\n0::/\n"
    )
    folder = machine / "cgroup" / "cpu" / "slurm" / "uid_7" / "job_4711"
    write_group(folder, cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert available_cores() == expected


@pytest.mark.parametrize(
    ("variables", "alone", "of_two"),
    [
        ({"SLURM_CPUS_ON_NODE": "4"}, 4, 2),
        # Each task of srun has its own; one task of sbatch may start several processes.
        (srun(2) | {"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 4, 4),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 4, 2),
        ({"SLURM_CPUS_PER_TASK": "4"}, 4, 2),
        ({"SLURM_CPUS_ON_NODE": "128"}, 64, 32),
        ({"SLURM_CPUS_ON_NODE": "4(x2)"}, 64, 32),  # not a number
    ],
)
def test_the_allocation_of_slurm_counts(
    variables: dict[str, str], alone: int, of_two: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (available_cores(), available_cores(2)) == (alone, of_two)


def test_nothing_else_counts_the_cores_of_the_machine() -> None:
    folders = (ROOT, *(ROOT / name for name in ("datasets", "models", "utils", "benchmarks")))
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in folder.glob("*.py")
        if "cpu_count(" in path.read_text()
    }
    assert found == {"utils/cores.py", "utils/report.py"}  # the latter records the machine
