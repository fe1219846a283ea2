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
    """Hold a lock file, which is removed at the end.

    The system releases the lock of a process that ends.

    Args:
        path: The lock file; its folder must exist.
        busy: Message of the ``UserError`` if another process holds the lock; empty waits for it.

    Raises:
        UserError: Another process holds the lock and ``busy`` is set, or the file cannot be locked.
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
    """Hold a lock file, or fail if another process holds it.

    Args:
        path: The lock file; its folder must exist.
        busy: Message of the ``UserError``.

    Raises:
        UserError: Another process holds the lock.
    """
    return locked(path, busy)
