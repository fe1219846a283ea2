"""What an archive may put into a folder."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from utils.errors import UserError

_CHUNK = 2**20
_LONGEST_PART = 255  # bytes, as in Linux's file systems
_LONGEST_NAME = 1024
_DEEPEST = 32


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most, far above every data set here.

    Attributes:
        members: Files and folders; BigEarthNet v1 has 8 million.
        bytes: Of all files together.
        ratio: Unpacked bytes per packed byte; pictures have 1 to 3, deflate reaches 1032.
        ratio_from: Unpacked bytes below which the ratio does not matter: masks are mostly zeros.
    """

    members: int = 20_000_000
    bytes: int = 2**40
    ratio: int = 100
    ratio_from: int = 2**28


class UnpackWriter:
    """Creates plain files and folders below a new folder, and nothing else.

    Args:
        root: Folder to create.
        packed: Bytes of the archive.
        limits: What it may hold.
        bar: Progress in files.

    Attributes:
        max_bytes: Bytes that may be unpacked: by the limits, and by the free space.
    """

    def __init__(self, root: Path, packed: int, limits: Limits, bar: tqdm) -> None:
        root.mkdir()
        self.root = root
        self.limits = limits
        self.free = shutil.disk_usage(root).free
        self.max_bytes = min(limits.bytes, max(limits.ratio * packed, limits.ratio_from))
        self._bar = bar
        self._members = 0
        self._bytes = 0
        self._last_folder = root  # files of a folder follow each other
        self.check_total(0, packed)  # it hardly shrinks when it is unpacked

    def check_total(self, members: int, unpacked: int) -> None:
        """Refuse numbers that are too large, of what is announced or of what has come."""
        if members > self.limits.members:
            raise UserError(f"the archive has more than {self.limits.members} members")
        if unpacked > self.max_bytes:
            raise UserError(
                f"the archive would grow beyond {self.max_bytes / 1e9:.1f} GB, which no data set "
                "does: get it from its publisher again"
            )
        if unpacked > self.free:
            raise UserError(
                f"the archive needs more than the {self.free / 1e9:.1f} GB that are free at "
                f"{self.root.parent}: free some space or choose another folder"
            )

    def add_folder(self, name: str) -> None:
        """Create a folder, which may be there already."""
        self._count()
        self._make(self.root.joinpath(*safe_parts(name)), name)

    def add_file(self, name: str, source: BinaryIO, size: int) -> None:
        """Write a new file.

        Args:
            name: As the archive has it.
            source: Gives its bytes.
            size: How many the archive announces.
        """
        self._count()
        parts = safe_parts(name)
        if not parts:
            raise UserError(f"{name!r} in the archive is no proper name")
        self.check_total(self._members, self._bytes + size)
        path = self.root.joinpath(*parts)
        self._make(path.parent, name)
        try:
            out = path.open("xb")
        except FileExistsError as error:
            raise UserError(f"{name!r} is twice in the archive") from error
        with out:
            count = 0
            while data := source.read(_CHUNK):
                count += len(data)
                self.check_total(self._members, self._bytes + count)
                out.write(data)
        if count != size:
            raise EOFError(f"{name!r} has {count} of {size} bytes")
        self._bytes += count

    def check_twins(self) -> None:
        """Refuse names that a disk without upper and lower case would take for one."""
        for folder, folders, files in os.walk(self.root):
            names = folders + files
            if len({name.casefold() for name in names}) < len(names):
                raise UserError(
                    f"the archive has names in {Path(folder).relative_to(self.root)} that differ "
                    "only in upper and lower case"
                )

    def _count(self) -> None:
        self._members += 1
        self._bar.update()
        self.check_total(self._members, self._bytes)

    def _make(self, folder: Path, name: str) -> None:
        if folder == self._last_folder:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{name!r} in the archive lies in a file, not in a folder") from error
        self._last_folder = folder


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the folders and the file of a member's name, none of which leads out of its folder.

    Raises:
        UserError: The name is absolute, has ``..``, or could mean another path elsewhere.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    is_long = (
        len(name.encode(errors="replace")) > _LONGEST_NAME
        or len(parts) > _DEEPEST
        or any(len(part.encode(errors="replace")) > _LONGEST_PART for part in parts)
    )
    # Controls, surrogates of undecodable bytes, Windows's separators, drives and streams.
    is_odd = any(ord(c) < 32 or c in "\\:\x7f" or "\ud800" <= c <= "\udfff" for c in name)
    if name.startswith("/") or ".." in parts or is_long or is_odd:
        raise UserError(f"{name[:100]!r} in the archive is no name for a file in its folder")
    return parts
