"""Lock files: one process at a time."""

import errno
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError

# Network disks that were mounted without locks: nobody waits, and nobody is refused.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the lock file ``path``, which is removed at the end.

    If another process holds it, wait, or raise ``busy`` as a ``UserError`` if it is given. The
    system releases the lock of a process that ends.
    """
    lock = FileLock(path, mode=0o666)  # other users of a shared folder wait, too
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if busy:
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


def sole_writer(path: Path, busy: str) -> AbstractContextManager[None]:
    """Hold the lock file ``path``; if another process holds it, raise a ``UserError``: ``busy``."""
    return locked(path, busy)
