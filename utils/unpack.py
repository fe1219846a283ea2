"""Unpack archives whose checksum was verified, and name the compression methods of zips.

The caller verifies an archive before it is unpacked (``utils.collection``), so its content is that
of its publisher. A mistake there must still not write outside the folder or fill the disk: only
plain files and folders are created, under names that stay inside, and within limits of size.
"""

import gzip
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import UserError, os_error_sentence
from utils.locks import locked
from utils.progress import progress

STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
READ_METHODS = (STORED, DEFLATED, BZIP2, LZMA)  # what Python's standard library can decompress
ENCRYPTED = -1  # stands for any method behind a password
# APPNOTE.TXT 6.3.10, section 4.4.5, without those above. Windows' Explorer and 7-Zip write
# Deflate64, WinZip any of the later ones.
_METHOD_NAMES = {
    **{1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode"},
    **{9: "Deflate64", 10: "PKWARE DCL Implode", 93: "Zstandard", 95: "XZ", 98: "PPMd"},
    **{96: "JPEG", 97: "WavPack", 99: "AES encryption"},
}
# Limits of a bomb. Pictures shrink to a third; masks, which are mostly zeros, are small files.
_MAX_RATIO = 100
_MAX_RATIO_FROM = 2**28  # unpacked bytes below which the ratio does not matter
# What the standard library raises for damaged archives; a wrong gzip header is an OSError.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, ValueError, RuntimeError, NotImplementedError, struct.error),
)


def unread_method(path: Path, method: int) -> UserError:
    """Return the error for a zip with a member whose compression method is not supported."""
    if method == ENCRYPTED:
        return UserError(f"{path} holds encrypted files: pack it again without a password")
    name = _METHOD_NAMES.get(method, f"method {method}")
    return UserError(
        f"{path} holds files that are compressed with {name}, which is not supported: pack it "
        "again with Deflate, the usual method of zip"
    )


def unpack(parts: Sequence[Path], folder: Path) -> bool:
    """Unpack a verified archive into a new folder, completely or not at all.

    A folder that is the only entry of the archive becomes ``folder`` itself.

    Args:
        parts: A zip, a tar or a tar.gz; or the pieces of a tar or tar.gz that was split, in order.
        folder: Folder to create; an existing one is not changed.

    Returns:
        Whether the folder was created; False if it existed.

    Raises:
        UserError: The archive is damaged, does not fit on the disk, or has a member that is not a
            plain file or folder inside it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with locked(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            return False
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            partial.mkdir()
            is_zip = zipfile.is_zipfile(parts[0])
            with progress(desc=f"unpacking {parts[0].name}", unit=" files", unit_scale=True) as bar:
                (_unpack_zip if is_zip else _unpack_tar)(parts, partial, bar)
            entries = list(partial.iterdir())
            alone = len(entries) == 1 and entries[0].is_dir()
            (entries[0] if alone else partial).rename(folder)
        except _DAMAGED as error:
            raise UserError(
                f"{parts[0]} is not a whole zip or tar ({error}): download or copy it again"
            ) from error
        except OSError as error:
            sentence = os_error_sentence(error, folder)
            if sentence is None:
                raise
            raise UserError(f"nothing of {parts[0]} was unpacked, {sentence}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


class _Joined(io.RawIOBase):
    """Files read as one, as ``cat`` joins the pieces of ``split``."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb", buffering=0) for path in paths]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._files:
            if count := self._files[0].readinto(buffer):
                return count
            self._files.pop(0).close()
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _unpack_tar(parts: Sequence[Path], root: Path, bar: tqdm) -> None:
    """Read the pieces once, from the first byte to the last, without joining them on the disk."""
    limit, total = _limit(parts, root), 0
    with _Joined(parts) as joined, tarfile.open(fileobj=joined, mode="r|*") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # 8 GB for BigEarthNet's files
            _check_member(parts[0], member.name)
            if not (member.isdir() or member.isreg()) or member.issparse():
                raise UserError(f"{parts[0]} holds {member.name!r}, which is not a plain file")
            total += member.size
            _check_total(parts[0], total, limit)
            archive.extract(member, root, filter="data")
            bar.update()


def _unpack_zip(parts: Sequence[Path], root: Path, bar: tqdm) -> None:
    (path,) = parts
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            _check_member(path, member.filename)
            if member.flag_bits & 1:
                raise unread_method(path, ENCRYPTED)
            if member.compress_type not in READ_METHODS:
                raise unread_method(path, member.compress_type)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{path} holds {member.filename!r}, which is not a plain file")
        _check_total(path, sum(member.file_size for member in members), _limit(parts, root))
        for member in members:
            archive.extract(member, root)
            bar.update()


def _check_member(archive: Path, name: str) -> None:
    """Refuse a name that leads out of the folder, on any operating system."""
    if name.startswith("/") or ".." in name.split("/") or not name.isprintable() or "\\" in name:
        raise UserError(f"{archive} holds {name[:100]!a}, which is not a name inside its folder")


def _limit(parts: Sequence[Path], root: Path) -> tuple[int, int]:
    """Return the bytes that may be unpacked by the ratio of compression, and by the free space."""
    packed = sum(part.stat().st_size for part in parts)
    return max(_MAX_RATIO * packed, _MAX_RATIO_FROM), shutil.disk_usage(root).free


def _check_total(archive: Path, total: int, limit: tuple[int, int]) -> None:
    """Refuse an archive that announces more bytes than the limits."""
    by_ratio, free = limit
    if total > by_ratio:
        raise UserError(f"{archive} would grow beyond {by_ratio / 1e9:.1f} GB, as no data set does")
    if total > free:
        raise UserError(
            f"{archive} needs more than the {free / 1e9:.1f} GB that are free: free some space or "
            "choose another folder"
        )
