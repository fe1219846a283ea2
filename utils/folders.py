"""Folders that are created for their files, except one that was lost while it was written to."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import WriteError

_held: list[tuple[Path, os.stat_result]] = []


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Remember a folder, so that ``make_folder`` neither creates it again nor takes another one.

    Args:
        folder: A folder that exists.
    """
    descriptor = os.open(folder, os.O_RDONLY)  # while it is open, no other folder has its number
    this = folder.absolute(), os.fstat(descriptor)
    _held.append(this)
    try:
        yield
    finally:
        _held.remove(this)
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, if they do not exist.

    Args:
        folder: The folder.

    Raises:
        WriteError: A folder that is held was removed, renamed or replaced.
        OSError: It cannot be created.
    """
    for path, known in tuple(_held):  # other threads change it
        if folder.absolute().is_relative_to(path) and not _is_same(path, known):
            raise WriteError(
                f"{path} was removed or renamed while this command wrote into it: move it back, "
                "or start again"
            )
    folder.mkdir(parents=True, exist_ok=True)


def _is_same(path: Path, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), known)
    except (FileNotFoundError, NotADirectoryError):
        return False
