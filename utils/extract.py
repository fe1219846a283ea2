"""Unpack zips and tars from the internet so that nothing can leave the folder they are unpacked to.

Python's own ``filter="data"`` is not relied upon: releases before 3.11.13 have holes in it
(CVE-2025-4330, CVE-2025-4517). Instead nothing but plain files and folders is ever created, in a
new folder, with names that cannot lead out of it, and with limits on what may come.
"""

import errno
import gzip
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from utils.errors import UserError
from utils.locks import locked
from utils.progress import progress
from utils.tar_stream import Joined, Measured, PlainInfo
from utils.unpack_writer import Limits, UnpackWriter
from utils.zip_methods import ENCRYPTED, READ_METHODS, unread_method

# What a damaged or forged archive makes Python's readers raise.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, KeyError, IndexError),
)
_GZIP_MAGIC = b"\x1f\x8b"
_OVERLAP_BYTES = 30  # of a local header without its name


def extract(parts: Sequence[Path], folder: Path, limits: Limits | None = None) -> bool:
    """Unpack an archive into a new folder, all of it or nothing.

    A folder that is the only thing in the archive becomes ``folder`` itself, whatever its name.

    Args:
        parts: A zip, a tar or a tar.gz; or the pieces of a tar or tar.gz that was split, in order.
        folder: Where its content goes; if it exists it is left as it is.
        limits: What the archive may contain at most.

    Returns:
        Whether the folder was made; False if it was there already.

    Raises:
        UserError: The archive is damaged, unfit for the disk, or tries something that data never
            needs.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with locked(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            return False
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            with _one_sentence(parts[0]):
                _unpack(parts, partial, limits or Limits())
            entries = list(partial.iterdir())
            alone = len(entries) == 1 and entries[0].is_dir()
            (entries[0] if alone else partial).rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


@contextmanager
def _one_sentence(archive: Path) -> Iterator[None]:
    """Turn whatever reading and writing may raise into an error that names the archive."""
    try:
        yield
    except UserError as error:
        raise UserError(f"nothing of {archive} was unpacked: {error}") from error
    except _DAMAGED as error:
        raise UserError(
            f"{archive} is not a whole zip or tar ({error}): download or copy it again"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk is full, nothing of {archive} was unpacked: free some space and start the "
            "same command again"
        ) from error


def _unpack(parts: Sequence[Path], root: Path, limits: Limits) -> None:
    """Fill the new folder ``root``."""
    packed = sum(part.stat().st_size for part in parts)
    with progress(desc=f"unpacking {parts[0].name}", unit=" files", unit_scale=True) as bar:
        writer = UnpackWriter(root, packed, limits, bar)
        with parts[0].open("rb") as file:
            is_zip = file.read(4) == b"PK\3\4"
        if is_zip:
            _unpack_zip(parts[0], writer)
        else:
            _unpack_tar(parts, writer)
        writer.check_twins()


def _unpack_tar(parts: Sequence[Path], writer: UnpackWriter) -> None:
    """Read once from the first byte to the last: pieces need not be joined on the disk."""
    with Joined(parts) as joined:
        is_gzip = joined.peek(2)[:2] == _GZIP_MAGIC
        plain = gzip.GzipFile(fileobj=joined) if is_gzip else joined
        stream = Measured(cast(BinaryIO, plain), writer.max_bytes)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=PlainInfo) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # a kilobyte for each of millions
                _unpack_tar_member(archive, member, writer)
            if stream.count <= archive.offset:
                raise EOFError("it ends without its end mark")
        while stream.read(2**20):  # gzip compares its checksum at the end
            pass


def _unpack_tar_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, writer: UnpackWriter
) -> None:
    if member.isdir():
        writer.add_folder(member.name)
    elif member.isreg() and not member.issparse() and member.size >= 0:
        source = archive.extractfile(member)
        assert source is not None  # it is a regular file
        with source:
            writer.add_file(member.name, cast(BinaryIO, source), member.size)
    else:
        raise UserError(f"{member.name!r} in the archive is neither a plain file nor a folder")


def _unpack_zip(path: Path, writer: UnpackWriter) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_zip(path, members, writer)
        for member in members:
            if member.is_dir():
                writer.add_folder(member.filename)
            else:
                with archive.open(member) as source:
                    writer.add_file(member.filename, cast(BinaryIO, source), member.file_size)


def _check_zip(path: Path, members: Sequence[zipfile.ZipInfo], writer: UnpackWriter) -> None:
    """Refuse what the directory of the zip tells already, before a byte is written."""
    writer.check_total(len(members), sum(member.file_size for member in members))
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.flag_bits & 1:
            raise unread_method(path, ENCRYPTED)
        if member.compress_type not in READ_METHODS:
            raise unread_method(path, member.compress_type)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(
                f"{member.filename!r} in the archive is neither a plain file nor a folder"
            )
        if member.filename != member.orig_filename:
            raise UserError(f"{member.orig_filename!r} in the archive is no proper name")
        if member.header_offset < end:
            raise UserError(f"{member.filename!r} in the archive shares bytes with another file")
        end = member.header_offset + _OVERLAP_BYTES + member.compress_size
