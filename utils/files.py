"""Files written completely or not at all, and checks of paths before long work."""

import errno
import os
import re
import shutil
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path

from utils.errors import UserError, WriteError, os_error_sentence
from utils.folders import make_folder
from utils.reading import Reading

MAX_FILE_BYTES = 2**26  # far more than a band of a patch; limits bombs
MAX_TABLE_BYTES = 2**28  # of lists, tables and manifests, which name millions of files

# Where a run stores its checkpoint (main_oscd.py: without a folder); the last match is suggested.
_LAST_CHECKPOINTS = (
    *("version_*/checkpoints/last.ckpt", "seed=*/last.ckpt", "seed=*/checkpoints/last.ckpt"),
    *("last.ckpt", "checkpoints/last.ckpt"),
)

# What is being written is named after its machine, shortened, and its process.
_MACHINE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_PARTIAL = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.partial", re.DOTALL)
_ABANDONED_S = 86_400.0  # age after which a file of another machine, such as a container, is stale


@contextmanager
def written_whole(path: Path, *others: type[Exception]) -> Iterator[Path]:
    """Write a file or folder completely or not at all; a kill leaves the previous one as it was.

    Args:
        path: File or folder to write; its folder is created (``make_folder``), and a file that
            exists is replaced.
        others: What a library raises for a full disk, besides ``OSError``.

    Yields:
        Path in the same folder to write to, unique to this process; it is renamed at the end.

    Raises:
        WriteError: The disk is full, or the path cannot be written.
    """
    partial = _partial(path)
    errors: tuple[type[Exception], ...] = (OSError, *others)
    try:
        make_folder(path.parent)
        _clean(path.parent)
        _remove(partial)  # of an earlier process with the same number
        try:
            yield partial
            flush_to_disk(partial)
            partial.replace(path)
        finally:
            _remove(partial)
        flush_entry(path.parent)
    except errors as error:
        if isinstance(error.__context__, KeyboardInterrupt | SystemExit):
            raise error.__context__ from None  # torch reports an interrupted write in its own way
        if isinstance(error.__context__, OSError):
            error = error.__context__  # and one that failed
        if isinstance(error, OSError) and error.errno:
            raise WriteError(f"cannot write {os_error_sentence(error, path)}") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]  # NumPy gives no number
        raise WriteError(
            f"cannot write {path}, perhaps because the disk is full: {reason}"
        ) from error


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file, or of a folder with all its files, is on the disk."""
    for each in (*path.rglob("*"), path) if path.is_dir() else (path,):
        flush_entry(each)


def flush_entry(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # fsync(2): EINVAL, and on network disks EOPNOTSUPP, if a folder cannot be flushed.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def remove_partials(path: Path) -> None:
    """Delete what killed processes left of ``written_whole``; only for a file with one writer."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        _remove(partial)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Delete, of some paths, what processes that no longer run left of ``written_whole``."""
    for path in paths:
        match = _PARTIAL.fullmatch(path.name)
        if match is None:
            continue
        with suppress(OSError):  # the next start tries again
            is_old = time.time() - path.lstat().st_mtime > _ABANDONED_S
            if is_old or (match[1] == _MACHINE and not _is_running(int(match[2]))):
                _remove(path)


@cache
def _clean(folder: Path) -> None:
    """Remove abandoned files from a folder, once per process."""
    remove_abandoned(folder.glob(".*.partial"))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}.partial")


def _remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def require_free(folder: Path, needed: int) -> None:
    """Refuse to write more bytes than a disk has free.

    Args:
        folder: A folder on the disk.
        needed: Bytes to write.

    Raises:
        UserError: The disk has too little space.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed: free "
            "the difference, or choose another folder"
        )


def check_can_write(flag: str, path: Path, *, is_folder: bool) -> None:
    """Refuse a path that cannot be written, before the work whose result it takes.

    Args:
        flag: Name of the flag, for the error.
        path: File to write, or folder to write into; neither it nor its parents need to exist.
        is_folder: Whether ``path`` is a folder to write into.
    """
    _check_name(flag, path)
    folder = path if is_folder else path.parent
    try:
        if not is_folder and path.is_dir():
            raise UserError(f"--{flag} {path} is a folder: name a file")
        (path if is_folder else _partial(path)).exists()  # raises if the name is too long
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # a block of a file system, which a full disk refuses
    except OSError as error:
        what = f"--{flag} {path} cannot be written"
        raise UserError(os_error_sentence(error, what)) from error


def check_exists(flag: str, path: Path | None) -> None:
    """Refuse a path to read that does not exist, or whose reading would never end.

    Args:
        flag: Name of the flag, for the error.
        path: File, folder or address of a bucket (``s3://BUCKET/PREFIX``), which is not checked;
            None if the flag was not given.
    """
    if path is None:
        return
    _check_name(flag, path)
    try:
        exists = "://" in address(path) or path.exists()
        check_regular(path)
    except OSError as error:
        raise UserError(os_error_sentence(error, f"--{flag} {path} cannot be read")) from error
    if not exists:
        raise UserError(f"--{flag} {path.absolute()} does not exist: correct the path")


def check_checkpoint(flag: str, path: Path | None) -> None:
    """Refuse a checkpoint that does not exist; suggest the checkpoint of a run for its folder.

    Args:
        flag: Name of the flag, without dashes.
        path: Its value; None if it was not given.

    Raises:
        UserError: The file does not exist, or is a folder that is not an encoder for timm.
    """
    check_exists(flag, path)
    # A folder with this file is an encoder for timm's "local-dir:".
    if path is not None and path.is_dir() and not (path / "config.json").exists():
        found = [each for pattern in _LAST_CHECKPOINTS for each in sorted(path.glob(pattern))]
        hint = f"did you mean {found[-1]}?" if found else "name a file"
        raise UserError(f"--{flag} {path.absolute()} is a folder: {hint}")


def _check_name(flag: str, path: Path) -> None:
    """Refuse a path with undecodable bytes, which GDAL cannot open, or with control characters."""
    if not str(path).isprintable():
        raise UserError(f"--{flag} {str(path)!a} has unprintable characters: rename it")


def check_regular(path: Path) -> None:
    """Raise an ``OSError`` for a pipe or a device, whose reading would never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def address(path: Path) -> str:
    """Return a path as the user typed it: ``Path`` turns "s3://bucket" into "s3:/bucket"."""
    return re.sub(r"^(\w{2,}):/(?!/)", r"\1://", str(path))


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden or was added by a file manager (macOS, Synology).

    Args:
        name: File name, or path relative to the data set with ``/`` between folders, because a user
            may keep the whole data set in a hidden folder.
    """
    path = f"/{name.removeprefix('./')}"  # some archivers write ./ before every name
    return "/." in path or "/__MACOSX" in path or "/@eaDir" in path


def read_file(path: Path | str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path: File, but not a pipe or device, whose reading would never end.
        max_bytes: Largest size to read.

    Raises:
        OSError: The file is missing, not a regular file, or larger than ``max_bytes``.
    """
    with Reading(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            reason = f"{size:,} bytes, more than the {max_bytes:,} of any such file"
            raise OSError(errno.EINVAL, reason, str(path))
        return file.readall()


def open_regular(path: Path | str) -> FileIO:
    """Open a file for reading, but not a pipe or device; an ``OSError`` otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a pipe's writer
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return FileIO(descriptor)


def read_list(content: bytes, name: object) -> str:
    """Decode a list of names in UTF-8; editors on Windows put a byte order mark first.

    Args:
        content: Bytes of the file.
        name: Name of the file, for the error.

    Raises:
        UserError: The text is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not a text in UTF-8: save it with this encoding") from error
