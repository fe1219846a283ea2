"""Files in memory, in one copy for all training processes of a machine."""

import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError

_BLOCK_BYTES = 2**24  # copied at a time


def read_shared(paths: Sequence[Path]) -> list[np.ndarray]:
    """Return the bytes of files, which the first process of a machine reads for the others.

    All training processes call this together. The copy is an unnamed file of Linux
    (``memfd_create``), not one of /dev/shm, which containers make small; it ends with the last
    process that uses it.

    Raises:
        UserError: In all processes, if one machine has too little memory, or a file is unreadable.
    """
    from utils.distributed import gather_objects, rank  # the downloader does without torch

    if sys.platform != "linux":
        return [np.fromfile(path, np.uint8) for path in paths]
    machine = _machine()
    owner = gather_objects(machine).index(machine)
    descriptors: list[int] = []
    problem = ""
    if rank() == owner:
        try:
            _check_memory(paths)
            descriptors += map(_copy, paths)
        except (UserError, OSError) as error:
            problem = str(error)
    offers = gather_objects((os.getpid(), descriptors, problem))
    for _, _, problem in offers:
        if problem:
            raise UserError(problem)
    pid, shared, _ = offers[owner]
    # Plain arrays: np.memmap objects cost ten times as much to index.
    arrays = [np.asarray(np.memmap(f"/proc/{pid}/fd/{each}", np.uint8, "r")) for each in shared]
    gather_objects(None)  # until all have opened it
    for descriptor in descriptors:
        os.close(descriptor)
    return arrays


def available_memory() -> int:
    """Return the free memory in bytes, as far as Linux reports it."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return free[0] if free else sys.maxsize


def _check_memory(paths: Sequence[Path]) -> None:
    needed, free = sum(path.stat().st_size for path in paths), available_memory()
    if needed > free:
        raise UserError(
            f"{paths[0].parent} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free: use --cache mmap"
        )


def _copy(path: Path) -> int:
    """Copy a file into an unnamed one in memory, and return its descriptor."""
    descriptor = os.memfd_create(path.name)
    with path.open("rb", buffering=0) as source, os.fdopen(os.dup(descriptor), "wb") as target:
        shutil.copyfileobj(source, target, _BLOCK_BYTES)
    return descriptor


def _machine() -> str:
    """Identify the machine and, in a container, the processes that see each other's files."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
