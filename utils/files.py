"""Files that are there whole or not at all, and paths that are tried before long work."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

_BLOCK = bytes(4096)  # of a file system: a full one refuses it
_TIMM_CONFIG = "config.json"  # of a folder for timm's "local-dir:", which is an encoder
# Where the checkpoint of a run lies in its folder; the later ones are suggested first.
_LAST_CHECKPOINTS = (
    "version_*/checkpoints/last.ckpt",
    "seed=*/last.ckpt",  # of main_oscd.py
    "seed=*/checkpoints/last.ckpt",
    "last.ckpt",
    "checkpoints/last.ckpt",
)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name to write to, beside ``path``, which becomes ``path`` if nothing goes wrong.

    Its folder is created. The name is this process's own, for two runs may write the same file. A
    full disk or a path that cannot be used is a ``UserError``.
    """
    partial = _until_whole(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:  # NumPy's words for a full disk have no number
        reason = error.strerror or f"is the disk full, {error}"
        raise UserError(f"cannot write {path}: {reason}: free it or choose another path") from error


def check_can_write(flag: str, path: Path, *, is_folder: bool) -> None:
    """Refuse a path that cannot be written, before the work whose result it takes.

    Args:
        flag: Its name, for the error.
        path: File to write, or folder to write into; neither it nor its parents need to exist.
        is_folder: Which of them.
    """
    check_name(flag, path)
    folder = path if is_folder else path.parent
    try:
        if not is_folder and path.is_dir():
            raise UserError(f"--{flag} {path} is a folder: name a file")
        (path if is_folder else _until_whole(path)).exists()  # raises if the name is too long
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_BLOCK)
    except OSError as error:
        raise UserError(
            f"--{flag} {path} cannot be written: {error.strerror}: free it or choose another path"
        ) from error


def check_exists(flag: str, path: Path | None) -> None:
    """Refuse a path to read that does not exist; None means that the flag was not given.

    A bucket, such as ``s3://BUCKET/PREFIX``, is not looked at.
    """
    if path is None:
        return
    check_name(flag, path)
    try:
        exists = "://" in address(path) or path.exists()
    except OSError as error:
        raise UserError(f"--{flag} {path} cannot be read: {error.strerror}") from error
    if not exists:
        raise UserError(f"--{flag} {path.absolute()} does not exist: correct the path")


def check_checkpoint(flag: str, path: Path | None) -> None:
    """Refuse a checkpoint that does not exist; a run's folder is answered by its checkpoint."""
    check_exists(flag, path)
    if path is None or not path.is_dir() or (path / _TIMM_CONFIG).exists():
        return
    found = [each for pattern in _LAST_CHECKPOINTS for each in sorted(path.glob(pattern))]
    hint = f"did you mean {found[-1]}?" if found else "name a file"
    raise UserError(f"--{flag} {path.absolute()} is a folder: {hint}")


def address(path: Path) -> str:
    """Return what the user has typed: a ``Path`` makes "s3:/bucket" of "s3://bucket"."""
    return re.sub(r"^(\w{2,}):/(?!/)", r"\1://", str(path))


def check_regular(path: Path) -> None:
    """Raise an ``OSError`` for a pipe or a device, which would be read for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def check_name(flag: str, path: Path) -> None:
    """Refuse a path that is no text, which GDAL cannot open, or that would control a terminal."""
    if not str(path).isprintable():
        raise UserError(f"--{flag} {str(path)!a} has odd characters: rename it")


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden, or was added by a file manager.

    Examples are ``.DS_Store``, ``._B04.tif`` and ``__MACOSX/`` (macOS), ``@eaDir/`` (Synology).

    Args:
        name: File name, or path relative to the data set with ``/`` between folders. An absolute
            path would be wrong here: a user may keep the whole data set in a hidden folder.
    """
    path = f"/{name.removeprefix('./')}"  # some archivers write ./ before every name
    return "/." in path or "/__MACOSX" in path or "/@eaDir" in path


def _until_whole(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def read_list(content: bytes, name: object) -> str:
    """Decode a list of names; editors on Windows put a mark before UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not a text in UTF-8: save the list as such") from error
