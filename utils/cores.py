"""Cores and memory of a process that computes on the CPU."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from utils.launchers import launcher, number_of

# https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
# https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us of version 1)
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")

# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc, https://man7.org/linux/man-pages/man3/mallopt.3.html
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_MMAP_LIMITS = (2**30, 2**25)  # bytes; older versions of glibc refuse the first


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensors; other C libraries stay as they are.

    By default it returns large blocks to the system, which clears them before it lends them again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(_MMAP_THRESHOLD, limit) for limit in _MMAP_LIMITS):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def available_cores(num_processes: int = 1) -> int:
    """Return how many cores one of ``num_processes`` on this machine may use, at least 1.

    This is the smallest of the CPU affinity, the quotas of the control groups, and the allocation
    of SLURM: https://slurm.schedmd.com/srun.html, CPUs on the node and, with --cpus-per-task only,
    per task.
    """
    per_task = number_of("SLURM_CPUS_PER_TASK")
    limits = [_affinity(), *_quotas(), number_of("SLURM_CPUS_ON_NODE"), per_task]
    cores = min(number for number in limits if number is not None)
    # Each task of srun has cores of its own; a task, such as torchrun, may start several processes.
    is_own = per_task is not None and launcher() == "srun"
    return max(1, cores if is_own else cores // num_processes)


def _affinity() -> int:
    """Return the number of cores that the scheduler may run this process on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[int]:
    """Yield the limits of the control groups of this process and of their parents, in cores."""
    lines = _OWN_CGROUPS.read_text().splitlines() if _OWN_CGROUPS.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = _CGROUPS / "cpu" if controllers else _CGROUPS
        folder = mount / path.lstrip("/")
        # In a container the path may be that of the host; then only the mount itself exists.
        for group in (folder, *folder.parents[: len(folder.parts) - len(mount.parts)]):
            try:
                if controllers:
                    quota, period = (
                        (group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
                    )
                else:
                    quota, period = (group / "cpu.max").read_text().split()
                if int(quota) > 0:  # -1 is no limit in version 1
                    yield max(1, int(quota) // int(period))
            except (OSError, ValueError):  # no such group, or "max"
                continue
