"""One process at a time."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

# Of network file systems that were mounted without locks.
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` against other processes, which wait; the system lets go of it with a process.

    Where the file system knows no locks, nobody waits.

    Args:
        path: File that exists only as long as somebody holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, path)
            if _is_still(path, descriptor):  # else its last holder took it away while we waited
                try:
                    yield
                finally:
                    path.unlink()
                return
        finally:
            os.close(descriptor)


@contextmanager
def sole_writer(path: Path, busy: str) -> Iterator[None]:
    """Hold ``path``, or refuse with the words of ``busy`` where another process does.

    The lock ends with this process, whatever its children do. Where the file system knows no locks,
    nobody is refused.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # a link's target stays as it is
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise UserError(busy) from error
            if not _is_still(path, file.fileno()):  # its last holder took it away meanwhile
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process holds {path}: waiting for it", file=sys.stderr)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


def _is_still(path: Path, descriptor: int) -> bool:
    """Tell whether the path names the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
