"""Read files of folders, and zips with millions of small members, from any thread and process.

``zipfile`` keeps an object of 700 bytes for every member: 9 GB and 90 s for the 13 million files of
SeCo-1M. Here a member is one number, the position of its entry in the zip's directory, which is
listed folder by folder and read again with the member. The format is that of PKWARE's APPNOTE.TXT
6.3, sections 4.3.7 to 4.3.16, with zip64.

macOS's Archive Utility and ditto write no zip64 records: they store the count of the members modulo
2^16, and sizes and offsets modulo 2^32 (github.com/thejoshwolfe/yauzl/issues/60 and /69). The
directory is therefore read by its size, as in ``unzip`` and ``zipfile``, and not by the count.
"""

import os
import struct
import weakref
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from operator import ne
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import MAX_FILE_BYTES
from utils.reading import Reading
from utils.unpack import DEFLATED, ENCRYPTED, STORED, unread_method

_ENCRYPTED_BIT, _UTF8_BIT = 1, 1 << 11  # bits of the flags
_OVERFLOW = 2**32  # of offsets without zip64
_IN_ZIP64 = 0xFFFFFFFF  # the zip64 field has the number instead
_ZIP64_FIELD = 1
_LOCAL = struct.Struct("<4s22xHH")
_CENTRAL = struct.Struct("<4s4xHH4xLLLHHH8xL")
_ENTRY = b"PK\1\2"
_END = struct.Struct("<4s6xHLLH")
_END64 = struct.Struct("<4s28xQQQ")
_END64_LOCATOR = struct.Struct("<4s4xQ4x")
_LONGEST_COMMENT = 0xFFFF
_BLOCK_BYTES = 2**22  # of the directory that are in memory; no entry is longer


def zip_hint(root: Path) -> str:
    """Return the end of an error about a folder without data: the zip in it, as downloaded."""
    found = sorted(root.glob("*.zip")) if root.is_dir() else []
    return f": did you mean {found[0]}?" if found else ""


def is_zip(path: Path) -> bool:
    """Return whether a path is a file that ends as a zip does."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            _find_directory(file)
    except (struct.error, ValueError):
        return False
    return True


class FolderRun(NamedTuple):
    """Neighbouring members of one folder, in the order of the directory.

    Attributes:
        folder: Its path, with a ``/`` after each folder; empty for the root of the zip.
        files: Names of the members in it.
        entries: Positions of their entries, for ``ZipFiles.read``.
    """

    folder: str
    files: list[str]
    entries: list[int]


class ZipFiles:
    """A zip that each process opens for itself; members are read after they have been listed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._base = 0  # of all offsets: bytes before the zip
        self._overflows: list[int] = []  # entries from which on offsets are 4 GiB larger

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}  # a spawned process opens the file itself

    def members(self) -> Iterator[tuple[str, int]]:
        """Yield name and entry of every member, see ``runs``."""
        for folder, files, entries in self.runs():
            yield from zip((folder + file for file in files), entries, strict=True)

    def runs(self) -> Iterator[FolderRun]:
        """Yield all members, some neighbours of one folder at a time.

        Raises:
            UserError: The file is not a zip, is incomplete, or its numbers are inconsistent.
        """
        try:
            with self.path.open("rb") as file:
                yield from self._read_directory(file)
        except (struct.error, ValueError, OverflowError) as error:
            raise UserError(f"{self.path} is not a whole zip: download or copy it again") from error

    def read(self, entry: int, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return the bytes of a member; threads and forked processes may share the object.

        Args:
            entry: One of ``members()``.
            max_bytes: Largest size to read.

        Raises:
            ValueError: The member is damaged or larger than ``max_bytes``.
            UserError: The member is encrypted, or its compression method is not supported.
        """
        with Reading(self.path):
            return self._read(entry, max_bytes)

    def _read(self, entry: int, max_bytes: int) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
        method, crc, stored_bytes, size, offset = self._read_entry(self._descriptor, entry)
        header = os.pread(self._descriptor, _LOCAL.size, offset)
        if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
            raise ValueError("no member starts here")
        _check_size(max(size, stored_bytes), max_bytes)
        _, in_name, in_extra = _LOCAL.unpack(header)
        data = os.pread(self._descriptor, stored_bytes, offset + _LOCAL.size + in_name + in_extra)
        try:
            if method == DEFLATED:  # at most the declared size; 0 would mean no limit
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(1, size))
            elif method != STORED:
                raise unread_method(self.path, method)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise ValueError("checksum differs")
        return data

    def _read_entry(self, descriptor: int, entry: int) -> tuple[int, int, int, int, int]:
        """Return method, checksum, stored and original size, and offset of a member."""
        try:
            data = os.pread(descriptor, _CENTRAL.size, entry)
            fields = _CENTRAL.unpack(data)
            signature, flags, method, crc, stored_bytes, size, in_name, in_extra, _, offset = fields
            if signature != _ENTRY:
                raise ValueError("not an entry of a central directory")
            if _IN_ZIP64 in (size, stored_bytes, offset):
                extra = os.pread(descriptor, in_extra, entry + _CENTRAL.size + in_name)
                size, stored_bytes, offset = _read_zip64(extra, size, stored_bytes, offset)
        except struct.error as error:
            raise ValueError("an incomplete entry") from error
        if not 0 <= offset < os.fstat(descriptor).st_size:
            raise ValueError("an offset beyond the end")
        offset += self._base + _OVERFLOW * bisect_right(self._overflows, entry)
        return ENCRYPTED if flags & _ENCRYPTED_BIT else method, crc, stored_bytes, size, offset

    def _read_directory(self, file: BinaryIO) -> Iterator[FolderRun]:
        begin, size, count, shift = _find_directory(file)
        # Bytes before the zip shift all offsets; a multiple of 4 GiB is an overflow.
        overflows = shift > 0 and shift % _OVERFLOW == 0
        self._base, self._overflows = 0 if overflows else shift, []
        seen, last_offset, entry = 0, 0, begin
        file.seek(begin)
        data, start, end = b"", begin, begin + size
        while start < end:
            data += file.read(min(_BLOCK_BYTES, end - start - len(data)))
            at, used = _find_entries(data)
            if overflows:
                offsets = np.frombuffer(data, np.uint8)[at[:, None] + range(42, 46)].view("<u4")
                # Archive Utility lists members by offset.
                falls = np.diff(offsets[:, 0].astype(np.int64), prepend=last_offset) < 0
                self._overflows += (at[falls] + start).tolist()
                last_offset = int(offsets[-1, 0])
            yield from _split_into_runs(data, at, start)
            entry = start + int(at[-1])
            seen += len(at)
            data, start = data[used:], start + used
        if count not in (seen, seen % 2**16, min(seen, 2**16 - 1)):
            raise ValueError("another number of members")
        if overflows:
            self._check_last(file.fileno(), entry, begin)

    def _check_last(self, descriptor: int, entry: int, begin: int) -> None:
        """Refuse a zip whose directory is not behind the last member, of less than 4 GiB."""
        _, _, stored_bytes, _, offset = self._read_entry(descriptor, entry)
        if not 0 <= begin - offset - stored_bytes < _OVERFLOW:
            raise UserError(
                f"{self.path} is larger than 4 GiB, but was written without zip64 records, as by "
                "macOS's Archive Utility, and cannot be read: pack it again in a terminal with "
                "zip -r"
            )


def _find_entries(data: bytes) -> tuple[np.ndarray, int]:
    """Find the whole entries at the start of a part of a directory.

    Returns:
        Their positions, int64, (N,), at least one; the end of the last.
    """
    table = np.frombuffer(data, np.uint8)
    heads = table[: max(0, len(data) - _CENTRAL.size + 1)]
    at = np.flatnonzero(heads == _ENTRY[0])
    for position in range(1, len(_ENTRY)):
        at = at[table[at + position] == _ENTRY[position]]
    lengths = (_numbers(table, at + position) for position in (28, 30, 32))  # name, extra, comment
    ends = at + _CENTRAL.size + sum(lengths)
    if not np.array_equal(at, [0, *ends[:-1]]):  # a name or comment may hold the signature
        end_of = dict(zip(at.tolist(), ends.tolist(), strict=True))
        chain = [0]
        while chain[-1] in end_of:
            chain.append(end_of[chain[-1]])
        at, ends = np.array(chain[:-1], np.int64), np.array(chain[1:], np.int64)
    is_whole = ends <= len(data)
    if not is_whole.any():
        raise ValueError("not an entry of a central directory")
    return at[is_whole], int(ends[is_whole][-1])


def _split_into_runs(data: bytes, at: np.ndarray, start: int) -> Iterator[FolderRun]:
    """Yield the members of entries at some positions of a part that starts at ``start``."""
    table = np.frombuffer(data, np.uint8)
    first = at + _CENTRAL.size
    end = first + _numbers(table, at + 28)
    slashes = np.concatenate([[-1], np.flatnonzero(table == ord("/"))])
    in_folder = np.maximum(slashes[np.searchsorted(slashes, end) - 1] + 1, first)
    first, in_folder, end = first.tolist(), in_folder.tolist(), end.tolist()
    flags = _numbers(table, at + 8) & _UTF8_BIT
    folders = [data[a:b] for a, b in zip(first, in_folder, strict=True)]
    is_utf8, entries = (flags > 0).tolist(), (at + start).tolist()
    files = list(map(_decode, [data[a:b] for a, b in zip(in_folder, end, strict=True)], is_utf8))
    differs = np.fromiter(map(ne, folders[1:], folders), bool) | (np.diff(flags) != 0)
    cuts = [0, *(1 + np.flatnonzero(differs)).tolist(), len(files)]
    for a, b in pairwise(cuts):
        yield FolderRun(_decode(folders[a], is_utf8[a]), files[a:b], entries[a:b])


def _numbers(table: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the 16-bit numbers at some positions, int64."""
    return table[at] + 256 * table[at + 1].astype(np.int64)


@lru_cache(2**10)  # most names are those of bands
def _decode(name: bytes, is_utf8: bool) -> str:
    return name.decode("utf-8" if is_utf8 or name.isascii() else "cp437")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f"{size} bytes are more than {max_bytes}")


def _find_directory(file: BinaryIO) -> tuple[int, int, int, int]:
    """Find the central directory.

    Returns:
        Offset of its first entry; its size in bytes; recorded number of entries; difference between
        the offset and the recorded one.
    """
    file_size = file.seek(0, os.SEEK_END)
    start = max(0, file_size - _END.size - _LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        raise ValueError("no end of central directory")
    _, count, size, offset, _ = _END.unpack_from(tail, at)
    end = start + at
    file.seek(max(0, end - _END64_LOCATOR.size))
    locator = file.read(_END64_LOCATOR.size)
    if locator[:4] == b"PK\6\7":
        end = _END64_LOCATOR.unpack(locator)[1]
        file.seek(end)
        signature, count, size, offset = _END64.unpack(file.read(_END64.size))
        if signature != b"PK\6\6":
            raise ValueError("no zip64 end of central directory")
    begin = end - size
    if begin < 0 or begin < offset:
        raise ValueError("the directory does not fit into the file")
    return begin, size, count, begin - offset


def _read_zip64(extra: bytes, *numbers: int) -> list[int]:
    """Replace the numbers that do not fit into 32 bits by those of the zip64 field, in order."""
    at = 0
    while at < len(extra):
        field, length = struct.unpack_from("<HH", extra, at)
        if field == _ZIP64_FIELD:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            found = [next(wide, -1) if number == _IN_ZIP64 else number for number in numbers]
            if not all(0 <= number < 2**63 for number in found):
                raise ValueError("numbers out of range")
            return found
        at += 4 + length
    raise ValueError("no zip64 field")
