"""Lock files: one process at a time."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, LeaseCompromise, SoftFileLease, Timeout

from utils.errors import UserError, os_error_sentence
from utils.folders import held

# Network disks that were mounted without locks: nobody waits, and nobody is refused.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_LEASE_S = 30.0  # a run renews its lease three times as often


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock file, which is removed at the end, and its folder (``held``).

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
    own = path.stat() if path.exists() else None
    try:
        with held(path.parent):
            yield
    finally:
        # While it is held: a waiting process opens the next one. That of a new folder is another's.
        with suppress(FileNotFoundError, NotADirectoryError):
            if own and os.path.samestat(path.stat(), own):
                path.unlink()
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


@contextmanager
def sole_run(folder: Path | None) -> Iterator[None]:
    """Hold the folder of a run, so that no other one writes into it.

    A file of a lease works on every network disk, also on those without locks. The lease of a run
    that was killed ends at once on the same machine, and after 30 s on another one.

    Args:
        folder: Folder of the run; None holds nothing.

    Raises:
        UserError: Another run holds the folder.
    """
    if folder is None:
        yield
        return
    path = folder / "run.lock"
    lease = SoftFileLease(path, lease_duration=_LEASE_S, on_compromise=_leave)
    try:
        with suppress(Timeout):
            lease.acquire(timeout=0)
        if not lease.is_locked:
            print(f"{path} is held, waiting {_LEASE_S:.0f} s for its end", file=sys.stderr)
            lease.acquire(timeout=_LEASE_S + 5)
    except Timeout as error:
        raise UserError(
            f"another run writes into {folder}: wait for its end, or give this run its own "
            "--log_dir"
        ) from error
    except OSError as error:
        raise UserError(os_error_sentence(error, path)) from error
    try:
        with held(folder):
            yield
    finally:
        lease.release()


def _leave(lost: LeaseCompromise) -> None:
    """End a run that was suspended for so long that another one has taken its folder."""
    if lost.reason == "owner-changed":
        print(f"error: another run has taken {lost.lock_file}", file=sys.stderr, flush=True)
        os._exit(2)
