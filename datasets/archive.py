"""Read files of folders, and zips with millions of small members, from any thread and process.

``zipfile`` keeps an object of 700 bytes for every member: 9 GB and 90 s for the 13 million files of
SeCo-1M. Here a member is one number, the position of its entry in the zip's directory, which is
listed folder by folder and read again with the member. The format is that of PKWARE's APPNOTE.TXT
6.3, sections 4.3.7 to 4.3.16, with zip64.

macOS's Archive Utility and ditto write no zip64 records: they store the count of the members modulo
2^16, and sizes and offsets modulo 2^32 (github.com/thejoshwolfe/yauzl/issues/60 and /69). The
directory is therefore read by its size, as in ``unzip`` and ``zipfile``, and not by the count.
"""

import errno
import os
import stat
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from utils.errors import UserError
from utils.unpack import DEFLATED, ENCRYPTED, STORED, unread_method

MAX_FILE_BYTES = 2**26  # far more than a band of a patch; limits bombs
_ENCRYPTED_BIT, _UTF8_BIT = 1, 1 << 11  # bits of the flags
_OVERFLOW = 2**32  # of offsets without zip64
_IN_ZIP64 = 0xFFFFFFFF  # the zip64 field has the number instead
_ZIP64_FIELD = 1
_LOCAL = struct.Struct("<4s22xHH")
_CENTRAL = struct.Struct("<4s4xHH4xLLLHHH8xL")
_LENGTHS = struct.Struct("<4s4xH18xHHH8xL")  # and flags and offset of a _CENTRAL
_ENTRY = b"PK\1\2"
_END = struct.Struct("<4s6xHLLH")
_END64 = struct.Struct("<4s28xQQQ")
_END64_LOCATOR = struct.Struct("<4s4xQ4x")
_LONGEST = 0xFFFF  # comment, name or extra field
_LONGEST_ENTRY = _CENTRAL.size + 3 * _LONGEST
_BLOCK_BYTES = 2**22  # of the directory that are in memory
_LONGEST_RUN = 2**12  # members


def zip_hint(root: Path) -> str:
    """Return the end of an error about a folder without data: the zip in it, as downloaded."""
    found = sorted(root.glob("*.zip")) if root.is_dir() else []
    return f": did you mean {found[0]}?" if found else ""


def read_file(path: Path | str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path: File, but not a pipe or device, whose reading would never end.
        max_bytes: Largest size to read.

    Raises:
        OSError: The file is missing, or not a regular file.
        ValueError: The file is larger than ``max_bytes``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a pipe's writer
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        _check_size(state.st_size, max_bytes)
        return file.readall()


def is_zip(path: Path) -> bool:
    """Return whether a file ends as a zip does."""
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
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
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
        offset += self._base + _OVERFLOW * bisect_right(self._overflows, entry)
        return ENCRYPTED if flags & _ENCRYPTED_BIT else method, crc, stored_bytes, size, offset

    def _read_directory(self, file: BinaryIO) -> Iterator[FolderRun]:
        begin, size, count, shift = _find_directory(file)
        # Bytes before the zip shift all offsets; a multiple of 4 GiB is an overflow.
        overflows = shift > 0 and shift % _OVERFLOW == 0
        self._base, self._overflows = 0 if overflows else shift, []
        seen, last_offset, last, run = 0, 0, (b"", 0), FolderRun("", [], [])
        file.seek(begin)
        data, start, at, end = b"", begin, 0, begin + size  # the block, its place, and ours in it
        while start + at < end:
            if len(data) - at < _LONGEST_ENTRY:
                data, start, at = data[at:] + file.read(_BLOCK_BYTES), start + at, 0
            fields = _LENGTHS.unpack_from(data, at)
            signature, flags, in_name, in_extra, in_note, offset = fields
            if signature != _ENTRY:
                raise ValueError("not an entry of a central directory")
            name = data[at + _CENTRAL.size : at + _CENTRAL.size + in_name]
            in_folder = name.rfind(b"/") + 1
            if (name[:in_folder], flags) != last or len(run.files) == _LONGEST_RUN:
                if run.files:
                    yield run
                last = (name[:in_folder], flags)
                run = FolderRun(_decode(last[0], flags), [], [])
            run.files.append(_decode(name[in_folder:], flags))
            run.entries.append(start + at)
            if overflows and offset < last_offset:  # Archive Utility lists members by offset
                self._overflows.append(start + at)
            last_offset = offset
            seen += 1
            at += _CENTRAL.size + in_name + in_extra + in_note
        if start + at != end or count not in (seen, seen % 2**16, min(seen, 2**16 - 1)):
            raise ValueError("another number of members")
        if run.files:
            if overflows:
                self._check_last(file.fileno(), run.entries[-1], begin)
            yield run

    def _check_last(self, descriptor: int, entry: int, begin: int) -> None:
        """Refuse a zip whose directory is not behind the last member, of less than 4 GiB."""
        _, _, stored_bytes, _, offset = self._read_entry(descriptor, entry)
        if not 0 <= begin - offset - stored_bytes < _OVERFLOW:
            raise UserError(
                f"{self.path} is larger than 4 GiB, but was written without zip64 records, as by "
                "macOS's Archive Utility, and cannot be read: pack it again in a terminal with "
                "zip -r"
            )


def _decode(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & _UTF8_BIT or name.isascii() else "cp437")


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
    start = max(0, file_size - _END.size - _LONGEST)
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
