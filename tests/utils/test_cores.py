"""Cores of the allocation, not of the machine."""

import os
import resource
import sys
from pathlib import Path

import pytest

from tests.references.launcher_variables import forget_launchers, set_all, srun
from tests.references.script import in_processes
from utils import cores
from utils.cores import available_cores, keep_freed_memory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """64 cores without limits; its folder of control groups."""
    forget_launchers(monkeypatch)
    monkeypatch.setattr(cores, "_affinity", lambda: 64)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os; from utils.cores import available_cores\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(available_cores())"
    )
    done = in_processes("-c", script)
    assert done.stdout == "1\n", done.stderr


V1 = "5:devices:/slurm/uid_7\n4:cpu,cpuacct:/slurm/uid_7\n3:cpuset:/\n0::/\n"
V2 = "0::/system.slice/job.scope\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {"job.scope/cpu.max": "400000 100000", "cpu.max": "max 100000"}, 4),
        # A parent's limit holds for its children.
        (V2, {"job.scope/cpu.max": "max 100000", "cpu.max": "250000 100000"}, 2),
        (V2, {"job.scope/cpu.max": "800000 100000", "cpu.max": "300000 100000"}, 3),
        (V2, {"job.scope/cpu.max": "50000 100000"}, 1),
        (V2, {"job.scope/cpu.max": "max 100000", "cpu.max": "max 100000"}, 64),
        # In a container the path is the host's, and its own group is mounted.
        ("0::/../../docker/ab12\n", {"../cpu.max": "400000 100000"}, 4),
        (V1, {"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_the_quota_of_a_control_group_counts(
    machine: Path, own: str, files: dict[str, str], expected: int
) -> None:
    (machine / "own").write_text(own)
    folder = machine / "cgroup" / ("cpu/slurm/uid_7" if own == V1 else "system.slice")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).resolve().write_text(text + "\n")
    assert available_cores() == expected


@pytest.mark.parametrize(
    ("variables", "alone", "of_two"),
    [
        ({}, 64, 32),
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
    set_all(monkeypatch, variables)
    assert [available_cores(processes) for processes in (1, 2, 100)] == [
        *(alone, of_two, alone if "SLURM_PROCID" in variables else 1)
    ]


def test_nothing_else_counts_the_cores_of_the_machine() -> None:
    folders = (ROOT, *(ROOT / name for name in ("datasets", "models", "utils", "benchmarks")))
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in folder.glob("*.py")
        if "cpu_count(" in path.read_text()
    }
    assert found == {"utils/cores.py", "utils/report.py"}  # the latter records the machine


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults of glibc")
def test_freed_memory_is_used_again() -> None:
    keep_freed_memory()
    faults = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(2**24)  # heaps of other threads hold 64 MB at most
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[1] < 1000  # 4,096 pages of 4 KiB
