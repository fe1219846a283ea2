"""The bytes of a tar on their way to ``tarfile``, and the headers that it may see."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

_LONGEST_EXTENSION = 2**16  # bytes; it holds a name and a few times
_EXTENSIONS = {
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}
_PLAIN = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE}


class _JoinedRaw(io.RawIOBase):
    """Files one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._rest = list(paths)
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                if not self._rest:
                    return 0
                self._file = self._rest.pop(0).open("rb", buffering=0)
            count = self._file.readinto(buffer)  # type: ignore[attr-defined]
            if count:
                return int(count)
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


class Joined(io.BufferedReader):
    """Files read as one, as ``cat`` joins the pieces of ``split``."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(_JoinedRaw(paths), 2**20)


class Measured(io.RawIOBase):
    """A stream that counts its bytes, and ends when they are too many.

    Attributes:
        count: Bytes so far.
    """

    def __init__(self, inner: BinaryIO, max_bytes: int) -> None:
        self._inner = inner
        self._max_bytes = max_bytes
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(size)
        self.count += len(data)
        # Names and padding come on top of the files' bytes.
        if self.count > 2 * self._max_bytes:
            raise UserError(
                f"the archive would grow beyond {self._max_bytes / 1e9:.1f} GB, which no data set "
                "does: get it from its publisher again"
            )
        return data


class PlainInfo(tarfile.TarInfo):
    """A member of a tar whose header is refused, before anything follows it, unless it is plain."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "PlainInfo":
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENSIONS:
            if not 0 <= info.size <= _LONGEST_EXTENSION:
                raise UserError(f"a header of {info.size} bytes in the archive holds no name")
        elif info.type not in _PLAIN or info.size < 0:
            raise UserError(
                f"{info.name[:100]!r} in the archive is neither a plain file nor a folder"
            )
        return info
