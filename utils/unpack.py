"""Unpack archives whose checksum was verified, and name the compression methods of zips."""

import gzip
import io
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError, os_error_sentence
from utils.locks import locked
from utils.progress import progress

STORED, DEFLATED = 0, 8  # of most zips, and all that are read in place
ENCRYPTED = -1  # stands for any method behind a password
# APPNOTE.TXT 6.3.10, section 4.4.5: Windows' Explorer and 7-Zip write Deflate64, WinZip the others.
_METHOD_NAMES = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
# What the standard library raises for archives that it cannot read.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, ValueError, RuntimeError, NotImplementedError, struct.error),
)


def unread_method(path: Path, method: int) -> UserError:
    """Return the error for a zip with a member whose compression method is not supported.

    Args:
        path: The zip file.
        method: Number of the compression method, see ``zipfile``.
    """
    if method == ENCRYPTED:
        return UserError(f"{path} holds encrypted files: pack it again without a password")
    name = _METHOD_NAMES.get(method, f"method {method}")
    return UserError(
        f"{path} holds files that are compressed with {name}, which is not supported: pack it "
        "again with Deflate, the usual method of zip"
    )


def unpack(parts: Sequence[Path], folder: Path) -> bool:
    """Unpack a verified archive completely or not at all, and return whether this was needed.

    A folder that is the only entry of the archive becomes ``folder`` itself.

    Args:
        parts: A zip, a tar or a tar.gz; or the pieces of a tar or tar.gz that was split, in order.
        folder: Folder to create; an existing one is not changed.

    Raises:
        UserError: The archive is damaged, or the disk cannot hold its content.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with locked(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            return False
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            partial.mkdir()
            (_unpack_zip if zipfile.is_zipfile(parts[0]) else _unpack_tar)(parts, partial)
            entries = list(partial.iterdir())
            alone = len(entries) == 1 and entries[0].is_dir()
            (entries[0] if alone else partial).rename(folder)
        except _DAMAGED as error:
            raise UserError(
                f"{parts[0]} is not a whole zip or tar ({error}): download or copy it again"
            ) from error
        except OSError as error:
            sentence = os_error_sentence(error, folder)
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


def _unpack_tar(parts: Sequence[Path], root: Path) -> None:
    """Read the pieces once, from the first byte to the last, without joining them on the disk."""
    with (
        _Joined(parts) as joined,
        tarfile.open(fileobj=joined, mode="r|*") as archive,
        progress(desc=f"unpacking {parts[0].name}", unit=" files", unit_scale=True) as bar,
    ):
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # 8 GB for BigEarthNet's files
            is_plain = member.isreg() and not member.issparse()
            _check_member(parts[0], root, member.name, is_plain, member.isdir())
            archive.extract(member, root, filter="data")
            bar.update()


def _unpack_zip(parts: Sequence[Path], root: Path) -> None:
    with zipfile.ZipFile(parts[0]) as archive:
        for member in progress(archive.infolist(), desc=f"unpacking {parts[0].name}"):
            kind = (member.external_attr >> 28) & 0xF  # of Unix; 8 is a plain file, 4 a folder
            _check_member(parts[0], root, member.filename, kind in (0, 8), member.is_dir())
            archive.extract(member, root)


def _check_member(archive: Path, root: Path, name: str, is_file: bool, is_folder: bool) -> None:
    """Refuse what is not a plain file or a folder under a new name inside the root."""
    inside = not name.startswith("/") and ".." not in name.split("/") and "\\" not in name
    is_new = is_folder or not (root / name).exists()
    if not (inside and name.isprintable() and is_new and (is_file or is_folder)):
        raise UserError(
            f"{archive} holds {name[:100]!a}, which is not a new file inside its folder: report it "
            "to the publisher"
        )
