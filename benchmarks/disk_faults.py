"""Faults of a disk, real ones where the rights allow it."""

import errno
import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.sabotage import Act

_CHECKPOINT_BYTES = 9_200_000  # of the tiny trainings
_NOBODY = 65534
_REAL = ("full", "read-only", "file limit", "permissions")
_ERRORS = {
    "full": errno.ENOSPC,
    "read-only": errno.EROFS,
    "file limit": errno.EFBIG,
    "permissions": errno.EACCES,
    "quota": errno.EDQUOT,
    "fault": errno.EIO,
}
# The kind and, for those that are put in the place of a call, the calls that fail.
FAULTS = (
    *(f"real {kind}" for kind in _REAL),
    *(f"{kind} at {call}" for kind in _ERRORS for call in ("write", "fsync", "rename", "any")),
    "fault at link",
    "permissions at open",
)


@contextmanager
def disk(folder: Path, kind: str, rng: random.Random) -> Iterator[Callable[[], None]]:
    """Put a small file system on a folder, for the real faults that need one.

    Args:
        folder: Empty folder.
        kind: One of ``FAULTS``.
        rng: Chooses the size.

    Yields:
        Function that makes the disk large and writable.
    """
    if os.geteuid() or kind not in ("real full", "real read-only"):
        yield lambda: None
        return
    # A checkpoint, another name of it, and one that is being written.
    size = rng.randrange(2 * _CHECKPOINT_BYTES) if kind == "real full" else 2**30
    _mount("-t", "tmpfs", "-o", f"size={max(size, 2**14)}", "tmpfs", folder)
    try:
        yield lambda: _mount("-o", "remount,rw,size=1g", folder)
    finally:
        subprocess.run(["umount", folder], check=True)


def fault(kind: str, folder: Path, rng: random.Random) -> Act:
    """Return what happens at the system calls of a child.

    Args:
        kind: One of ``FAULTS``.
        folder: Folder of the run.
        rng: Chooses whether it happens once or from then on, and how much is still written.
    """
    name, _, where = kind.removeprefix("real ").partition(" at ")
    is_once, is_done = rng.random() < 0.5, False

    def act(call_kind: str, call: Callable[[], Any]) -> Any:
        nonlocal is_done
        if where not in ("", "any", call_kind) or (is_done and is_once):
            return call()
        is_done = True
        raise OSError(_ERRORS[name], os.strerror(_ERRORS[name]))

    def act_really(call_kind: str, call: Callable[[], Any]) -> Any:
        nonlocal is_done
        if not is_done and (name != "read-only" or call_kind == "open"):
            is_done = True
            if name == "read-only":  # refused while a file is open
                subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True)
            elif name == "file limit":
                limit = rng.randrange(_CHECKPOINT_BYTES)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            elif name == "permissions":
                os.seteuid(_NOBODY)
        return call()

    return act_really if kind.startswith("real ") and os.geteuid() == 0 else act


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)
