"""Members of a zip with millions of small files, listed in little memory and read by any process.

``zipfile`` keeps an object of 700 bytes for every member: 9 GB and 90 s for the 13 million files of
SeCo-1M. Here a caller keeps the few numbers that it needs. The format is that of PKWARE's
APPNOTE.TXT 6.3, sections 4.3.7 to 4.3.16: stored and deflated members, with zip64.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from utils.errors import UserError

MAX_MEMBER_BYTES = 2**26  # far more than a band of a patch; a bomb ends here
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 1, 1 << 11  # bits of the flags
_IN_ZIP64 = 0xFFFFFFFF  # the number stands in the zip64 field instead
_ZIP64_FIELD = 1
_LOCAL = struct.Struct("<4s22xHH")
_CENTRAL = struct.Struct("<4s4xHH4xLLLHHH8xL")
_END = struct.Struct("<4s6xHLLH")
_END64 = struct.Struct("<4s28xQQQ")
_END64_LOCATOR = struct.Struct("<4s4xQ4x")
_LONGEST_COMMENT = 0xFFFF


class ZipMember(NamedTuple):
    """Where the bytes of a member are; the order is that of ``MEMBER_FIELDS``."""

    offset: int
    stored_bytes: int
    size: int
    crc: int
    method: int  # -1 if encrypted


# One row per member in a NumPy array, 30 bytes each.
MEMBER_FIELDS = [
    *(("offset", "<i8"), ("stored_bytes", "<i8"), ("size", "<i8")),
    *(("crc", "<u4"), ("method", "<i2")),
]


class ZipFiles:
    """A zip, opened in each process that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_descriptor": None}  # a spawned process opens it itself

    def members(self) -> Iterator[tuple[str, ZipMember]]:
        """Yield name and place of every member, in the order of the zip's directory.

        Raises:
            UserError: The file is no zip, or cut short.
        """
        try:
            with self.path.open("rb", buffering=2**20) as file:
                count, start = _find_directory(file)
                file.seek(start)
                for _ in range(count):
                    yield _read_directory_entry(file)
        except (struct.error, ValueError, OverflowError) as error:
            raise UserError(f"{self.path} is not a whole zip: download or copy it again") from error

    def read(self, member: ZipMember) -> bytes:
        """Return the bytes of a member; threads and forked processes may share the object.

        Raises:
            ValueError: The member is damaged, encrypted, too large or compressed in another way.
        """
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        header = os.pread(self._descriptor, _LOCAL.size, member.offset)
        if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
            raise ValueError("no member starts here")
        if max(member.size, member.stored_bytes) > MAX_MEMBER_BYTES:
            raise ValueError(f"{member.size} bytes are no patch")
        _, name_bytes, extra_bytes = _LOCAL.unpack(header)
        start = member.offset + _LOCAL.size + name_bytes + extra_bytes
        data = os.pread(self._descriptor, member.stored_bytes, start)
        if member.method == _DEFLATED:
            try:
                limit = max(1, member.size)  # 0 would be none
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
            except zlib.error as error:
                raise ValueError(str(error)) from error
        elif member.method != _STORED:
            raise ValueError(f"compression method {member.method}")
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise ValueError("checksum differs")
        return data


def _find_directory(file: BinaryIO) -> tuple[int, int]:
    """Return the number of entries of the central directory and the offset of its first."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        raise ValueError("no end of central directory")
    _, count, _, offset, _ = _END.unpack_from(tail, at)
    file.seek(max(0, start + at - _END64_LOCATOR.size))
    locator = file.read(_END64_LOCATOR.size)
    if locator[:4] == b"PK\6\7":
        file.seek(_END64_LOCATOR.unpack(locator)[1])
        signature, count, _, offset = _END64.unpack(file.read(_END64.size))
        if signature != b"PK\6\6":
            raise ValueError("no zip64 end of central directory")
    return count, offset


def _read_directory_entry(file: BinaryIO) -> tuple[str, ZipMember]:
    fields = _CENTRAL.unpack(file.read(_CENTRAL.size))
    signature, flags, method, crc, stored_bytes, size, *lengths, offset = fields
    if signature != b"PK\1\2":
        raise ValueError("no entry of a central directory")
    name_bytes, extra_bytes, comment_bytes = lengths
    name = file.read(name_bytes).decode("utf-8" if flags & _UTF8 else "cp437")
    extra = file.read(extra_bytes)
    file.read(comment_bytes)
    if _IN_ZIP64 in (size, stored_bytes, offset):
        size, stored_bytes, offset = _read_zip64(extra, size, stored_bytes, offset)
    if flags & _ENCRYPTED:
        method = -1
    return name, ZipMember(offset, stored_bytes, size, crc, method)


def _read_zip64(extra: bytes, *numbers: int) -> list[int]:
    """Replace those numbers that do not fit into 32 bits, in their order."""
    at = 0
    while at < len(extra):
        field, length = struct.unpack_from("<HH", extra, at)
        if field == _ZIP64_FIELD:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            found = [next(wide, -1) if number == _IN_ZIP64 else number for number in numbers]
            if not all(0 <= number < 2**63 for number in found):
                raise ValueError("no numbers of bytes")
            return found
        at += 4 + length
    raise ValueError("no zip64 field")
