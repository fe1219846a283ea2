"""Read zips with millions of small members, with little memory and from any process.

``zipfile`` keeps an object of 700 bytes for every member: 9 GB and 90 s for the 13 million files of
SeCo-1M. Here a caller keeps only the numbers that it needs. The format is that of PKWARE's
APPNOTE.TXT 6.3, sections 4.3.7 to 4.3.16, with zip64.

macOS's Archive Utility and ditto write no zip64 records: they store the count of the members modulo
2^16, and sizes and offsets modulo 2^32 (github.com/thejoshwolfe/yauzl/issues/60 and /69). The
directory is therefore read by its size, as in ``unzip`` and ``zipfile``, and not by the count.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from utils.errors import UserError
from utils.unpack import DEFLATED, ENCRYPTED, STORED, unread_method

MAX_MEMBER_BYTES = 2**26  # far more than a band of a patch; limits bombs
_ENCRYPTED_BIT, _UTF8_BIT = 1, 1 << 11  # bits of the flags
_OVERFLOW = 2**32  # of offsets without zip64
_IN_ZIP64 = 0xFFFFFFFF  # the zip64 field has the number instead
_ZIP64_FIELD = 1
_LOCAL = struct.Struct("<4s22xHH")
_CENTRAL = struct.Struct("<4s4xHH4xLLLHHH8xL")
_END = struct.Struct("<4s6xHLLH")
_END64 = struct.Struct("<4s28xQQQ")
_END64_LOCATOR = struct.Struct("<4s4xQ4x")
_LONGEST_COMMENT = 0xFFFF


def zip_hint(root: Path) -> str:
    """Return the end of an error about a folder without data: the zip in it, as downloaded."""
    found = sorted(root.glob("*.zip")) if root.is_dir() else []
    return f": did you mean {found[0]}?" if found else ""


class ZipMember(NamedTuple):
    """Where a member of a zip is, in the order of ``MEMBER_FIELDS``."""

    offset: int  # of its local header in the file, bytes
    stored_bytes: int  # size as stored
    size: int  # in bytes, decompressed
    crc: int  # CRC-32 of the decompressed bytes
    method: int  # of ``utils.unpack``


# One row per member in a NumPy array, 30 bytes each.
MEMBER_FIELDS = [
    *(("offset", "<i8"), ("stored_bytes", "<i8"), ("size", "<i8")),
    *(("crc", "<u4"), ("method", "<i2")),
]


class ZipFiles:
    """A zip that each reading process opens for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_descriptor": None}  # a spawned process opens the file itself

    def members(self) -> Iterator[tuple[str, ZipMember]]:
        """Yield name and position of every member, in the order of the directory.

        Raises:
            UserError: The file is not a zip, is incomplete, or its numbers are inconsistent.
        """
        try:
            with self.path.open("rb", buffering=2**20) as file:
                yield from _read_directory(file, self.path)
        except (struct.error, ValueError, OverflowError) as error:
            raise UserError(f"{self.path} is not a whole zip: download or copy it again") from error

    def read(self, member: ZipMember, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """Return the bytes of a member; threads and forked processes may share the object.

        Args:
            member: One of ``members()``.
            max_bytes: Largest size to read.

        Raises:
            ValueError: The member is damaged or larger than ``max_bytes``.
            UserError: The member is encrypted, or its compression method is not supported.
        """
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        header = os.pread(self._descriptor, _LOCAL.size, member.offset)
        if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
            raise ValueError("no member starts here")
        if max(member.size, member.stored_bytes) > max_bytes:
            raise ValueError(f"{member.size} bytes are more than {max_bytes}")
        _, name_bytes, extra_bytes = _LOCAL.unpack(header)
        stored = os.pread(
            self._descriptor,
            member.stored_bytes,
            member.offset + _LOCAL.size + name_bytes + extra_bytes,
        )
        try:
            if member.method == STORED:
                data = stored
            elif member.method == DEFLATED:  # at most the declared size; 0 would mean no limit
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, max(1, member.size))
            else:
                raise unread_method(self.path, member.method)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise ValueError("checksum differs")
        return data


def _read_directory(file: BinaryIO, path: Path) -> Iterator[tuple[str, ZipMember]]:
    """Yield the members of the central directory."""
    begin, size, count, shift = _find_directory(file)
    # Bytes before the zip shift all offsets; a multiple of 4 GiB is an overflow.
    overflows = shift > 0 and shift % _OVERFLOW == 0
    base = 0 if overflows else shift
    seen, left, last = 0, size, ZipMember(0, 0, 0, 0, 0)
    file.seek(begin)
    while left > 0:
        name, member, num_bytes = _read_directory_entry(file, base)
        if overflows:
            if member.offset < last.offset:  # Archive Utility lists members by offset
                base += _OVERFLOW
                member = member._replace(offset=member.offset + _OVERFLOW)
            last = member
        seen += 1
        left -= num_bytes
        yield name, member
    if left < 0 or count not in (seen, seen % 2**16, min(seen, 2**16 - 1)):
        raise ValueError("another number of members")
    if overflows and not 0 <= begin - last.offset - last.stored_bytes < _OVERFLOW:
        raise UserError(
            f"{path} is larger than 4 GiB, but was written without zip64 records, as by macOS's "
            "Archive Utility, and cannot be read: pack it again in a terminal with zip -r"
        )


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


def _read_directory_entry(file: BinaryIO, base: int) -> tuple[str, ZipMember, int]:
    """Read the next entry: name, member and number of bytes; offsets are relative to ``base``."""
    fields = _CENTRAL.unpack(file.read(_CENTRAL.size))
    signature, flags, method, crc, stored_bytes, size, in_name, in_extra, in_note, offset = fields
    if signature != b"PK\1\2":
        raise ValueError("not an entry of a central directory")
    num_bytes = in_name + in_extra + in_note
    rest = file.read(num_bytes)
    if len(rest) < num_bytes:
        raise ValueError("an incomplete entry")
    name = rest[:in_name].decode("utf-8" if flags & _UTF8_BIT else "cp437")
    if _IN_ZIP64 in (size, stored_bytes, offset):
        extra = rest[in_name : in_name + in_extra]
        size, stored_bytes, offset = _read_zip64(extra, size, stored_bytes, offset)
    if flags & _ENCRYPTED_BIT:
        method = ENCRYPTED
    return (
        name,
        ZipMember(offset + base, stored_bytes, size, crc, method),
        _CENTRAL.size + num_bytes,
    )


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
