"""What is wrong with a packed store or LitData chunks: a part of ``datasets/verify.py``."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.checking.checks import black_bands, content_of
from datasets.checking.problems import (
    DAMAGED,
    EXTRA,
    MISSING,
    ZEROED,
    Problem,
    Report,
)
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.patches import count_dates, patch_name
from datasets.store.litdata import INDEX_NAME, StreamedPlaces, broken_chunks
from datasets.store.litdata import MANIFEST_NAME as PLACES_NAME
from datasets.store.manifest import MANIFEST_NAME, NOT_AS_WRITTEN, ZEROS, read_manifest
from utils.errors import UserError
from utils.files import is_hidden

_ROWS = 64  # of a unit of work
# Of collections and downloads; the others hold rows.
_PLAIN_SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".md", ".lock", ".png", ".log")
_LITDATA_NOTE = "a changed bit in a LitData chunk, which has no checksum"


class StoreCheck:
    """The files and rows of a packed store.

    Args:
        root: Folder of the store.

    Attributes:
        names: Names of the files, and of some rows each.
        problems: What is wrong with its folder, and the flaws that its source had.
        notes: Empty: its hashes show every change.
        splits: Empty: there are none.

    Raises:
        UserError: The manifest is damaged.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self._root, self._manifest = root, read_manifest(root)
        self.splits: Mapping[str, str] = {}
        places = self._manifest.places
        self._starts = count_dates(places)
        sizes = {path.name: size for path, size in self._manifest.files(root)}
        hashes = {s.file: s.sha256 for group in self._manifest.groups for s in group.shards}
        self._files = [(name, size, hashes[name]) for name, size in sizes.items()]
        num_patches = self._manifest.num_patches
        self._ranges = [
            range(start, min(start + _ROWS, num_patches)) for start in range(0, num_patches, _ROWS)
        ]
        self.names = [*sizes, *(f"rows {rows.start} to {rows.stop - 1}" for rows in self._ranges)]
        self.problems = [
            Problem(EXTRA, path.name, "does not belong to the store")
            for path in sorted(root.iterdir())
            if not is_hidden(path.name) and path.name not in sizes
            if not path.name.endswith(_PLAIN_SUFFIXES)
        ]
        for flaw in self._manifest.flaws:
            name = f"{self._name(flaw.patch)}{f'/{flaw.band}' if flaw.band else ''}"
            if flaw.reason != ZEROS:  # ``_check_rows`` sees the others
                self.problems.append(Problem(DAMAGED, name, f"{flaw.reason} in its source"))
        self._flawed = {(f.patch, f.band) for f in self._manifest.flaws if f.reason != ZEROS}

    def check(self, index: int) -> Report:
        """Hash a file, or look at some rows.

        Args:
            index: Index in ``names``.
        """
        if index < len(self._files):
            return Report(self._hash(*self._files[index]), num_files=1)
        return self._check_rows(self._ranges[index - len(self._files)])

    def _hash(self, name: str, size: int, sha256: str) -> list[Problem]:
        path = self._root / name
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            return [Problem(MISSING, name, "is missing")]
        if found != size:
            return [Problem(DAMAGED, name, f"has {found} bytes instead of {size}")]
        with path.open("rb", buffering=0) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            return [Problem(DAMAGED, name, f"differs from its sha256 in {MANIFEST_NAME}")]
        return []

    def _check_rows(self, rows: range) -> Report:
        """Look for zeros and contents in the rows that can be read."""
        patches: list[dict[str, np.ndarray]] = [{} for _ in rows]
        height, width = self._manifest.height, self._manifest.width
        for group in self._manifest.groups:
            row, shard_rows = self._manifest.row_bytes(group), group.shards[0].num_patches
            for patch, planes in zip(rows, patches, strict=True):
                number, at = divmod(patch, shard_rows)
                path = self._root / group.shards[number].file
                stored = np.fromfile(path, np.uint8, row, offset=at * row) if path.is_file() else ()
                if len(stored) == row:
                    shaped = np.asarray(stored).reshape(len(group.bands), height, width)
                    planes.update(zip(group.bands, shaped, strict=True))
        report = Report()
        for patch, planes in zip(rows, patches, strict=True):
            good = {b: p for b, p in planes.items() if (patch, b) not in self._flawed}
            if (patch, None) not in self._flawed:
                _look(good, self._name(patch), report)
        return report

    def _name(self, patch: int) -> str:
        if self._manifest.kind == "pictures":
            return self._manifest.places[patch]
        return patch_name(self._manifest.places, self._starts, patch)


class LitdataCheck:
    """The chunks of LitData in a folder.

    Args:
        root: Folder of the chunks.

    Attributes:
        names: Numbers of the places; none if a chunk is missing or cut.
        problems: Chunks that are missing or of another size, and the flaws of the source.
        notes: What cannot be found.
        splits: Empty: there are none.

    Raises:
        UserError: The manifest or the index is damaged.
    """

    notes = (_LITDATA_NOTE,)

    def __init__(self, root: Path) -> None:
        self.splits: Mapping[str, str] = {}
        index = (root / INDEX_NAME).read_bytes()
        try:
            chunks = {chunk["filename"] for chunk in json.loads(index)["chunks"]}
            broken = dict(broken_chunks(str(root), index))
        except NOT_AS_WRITTEN as error:
            raise UserError(f"{root}/{INDEX_NAME} is damaged: write the set again") from error
        self.problems = [
            Problem(EXTRA, path.name, "does not belong to the set")
            for path in sorted(root.iterdir())
            if path.name not in {*chunks, INDEX_NAME, PLACES_NAME} and not is_hidden(path.name)
        ]
        for name, what in broken.items():
            kind = DAMAGED if (root / name).exists() else MISSING
            self.problems.append(Problem(kind, name, what))
        self.names: list[str] = []
        if broken:
            return
        self._num_files = len(chunks)
        self._places = StreamedPlaces(root)
        self.names = list(map(str, range(len(self._places.starts) - 1)))
        for name, reason in self._places.manifest.bad.values():
            self.problems.append(Problem(DAMAGED, name, f"{reason} in its source"))

    def check(self, index: int) -> Report:
        """Read all dates of a place.

        Args:
            index: Index in ``names``.
        """
        report = Report(num_files=0 if index else self._num_files)  # places share them
        patches = range(self._places.starts[index], self._places.starts[index + 1])
        for patch in patches:
            name = self._places.name(patch)
            try:
                planes = dict(zip(self._places.bands, self._places.read(patch), strict=True))
            except BadPatchError:
                continue  # is in ``problems``
            except UserError as error:
                report.problems.append(Problem(DAMAGED, name, str(error)))
                continue
            _look(planes, name, report)
        return report


def _look(planes: Mapping[str, np.ndarray], name: str, report: Report) -> None:
    """Look for zeros and contents of a patch; add to the report."""
    black: Sequence[str] = black_bands(planes) if any(map(np.any, planes.values())) else [*planes]
    report.problems.extend(Problem(ZEROED, f"{name}/{band}", ZEROS) for band in black)
    for band, plane in planes.items():
        if content := content_of(plane):
            report.contents[f"{name}/{band}"] = content
