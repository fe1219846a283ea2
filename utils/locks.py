"""Lock files: one process at a time."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError

# Network file systems that were mounted without locks: nobody waits, and nobody is refused.
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; wait while another process holds it."""
    with _held(path, busy=None):
        yield


@contextmanager
def sole_writer(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path``; if another process holds it, raise a ``UserError``: ``busy``."""
    with _held(path, busy):
        yield


@contextmanager
def _held(path: Path, busy: str | None) -> Iterator[None]:
    """Hold a lock file, which the system releases when the process ends; remove it afterwards."""
    lock = FileLock(path, mode=0o666)  # other users of a shared folder wait, too
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if busy is not None:
            raise UserError(busy) from error
        print(f"another process holds {path}: waiting for it", file=sys.stderr)
        lock.acquire()
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise UserError(
                f"cannot lock {path} ({error.strerror}): its folder has to be writable, and the "
                "file must not be a link"
            ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: a waiting process opens the next one
        lock.release()
