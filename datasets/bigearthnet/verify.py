"""What is wrong with BigEarthNet's patches, labels and lists: a part of ``datasets/verify.py``."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from datasets.bands import ALL_BANDS
from datasets.bigearthnet.facts import FILE_NAMES, LABELS, NEW_LABELS, SIDE_PX
from datasets.bigearthnet.folder import PatchFolder
from datasets.bigearthnet.index import find_patches
from datasets.bigearthnet.lmdb_store import PatchLmdb
from datasets.checking.checks import bit_notes, check_order, check_raster, content_of
from datasets.checking.outlines import Outline, check_outlines, read_outline
from datasets.checking.problems import (
    DAMAGED,
    EXTRA,
    LABEL,
    LEAK,
    MISSING,
    PLACE,
    SIZE,
    SWAP_NOTE,
    TYPE,
    ZEROED,
    Problem,
    Report,
)
from utils.errors import UserError
from utils.files import is_hidden, read_file

# A patch of v1 or v2; in v2 with processing baseline, orbit and tile. Row and column are last.
_NAME = re.compile(r"S2[A-Z]_MSIL2A_\d+T\d+_(N\d+_R\d+_(?P<tile>T\w+)_)?(?P<at>\d+_\d+)")
_KNOWN = {*LABELS, *NEW_LABELS}
_NUM_SAMPLES = 64  # patches that show the bands of an LMDB
_JSON = "labels_metadata.json"
_LMDB_NOTE = "a changed bit in an LMDB, which has no checksums, is another value, without an error"
_EXACT = 1e-6  # the bands of a patch have the same outline to the metre, as in real patches


class BigearthnetCheck:
    """The patches of a BigEarthNet.

    Args:
        root: Folder of v1 or v2, or of an LMDB.
        lmdb: Whether to read the LMDB in it.

    Attributes:
        names: Names of the patches.
        problems: What is wrong with lists and labels.
        notes: What cannot be found.
        splits: Split of each listed patch.

    Raises:
        UserError: There are no patches or no lists.
    """

    def __init__(self, root: Path, lmdb: bool) -> None:
        self._source, listing = find_patches(root, lmdb=lmdb, strict=False)
        self._labels = listing.labels
        self.splits = {name: split for split, names in listing.splits.items() for name in names}
        present = self._source.names()
        # Also those in no split: of version 1 with snow, clouds or none of the 19 classes.
        self.names = sorted(n for n in present if n in self.splits or _NAME.fullmatch(n))
        self.problems = list(listing.problems)
        for split, names in listing.splits.items():
            if not names:
                self.problems.append(Problem(LABEL, split, "no patch is in this split"))
        for name in sorted(self.splits.keys() - present):
            self.problems.append(Problem(MISSING, name, f"is only in the list {self.splits[name]}"))
        for name in sorted(present - set(self.names)):
            is_other = lmdb and name.startswith("S")  # of Sentinel-1, or a reference map
            if not is_hidden(name) and not is_other:
                self.problems.append(Problem(EXTRA, name, "is not a patch"))
        self.problems += self._place_leaks()
        self._bands = ALL_BANDS
        if not isinstance(self._source, PatchFolder):
            self._bands = _stored_bands(self._source, self.names)
        self.notes = (*[_LMDB_NOTE] * lmdb, SWAP_NOTE)

    def check(self, index: int) -> Report:
        """Read all files of a patch.

        Args:
            index: Index in ``names``.
        """
        name = self.names[index]
        report = Report()
        planes: dict[str, np.ndarray] = {}
        outlines: dict[str, Outline | None] = {}
        if isinstance(self._source, PatchFolder):
            self._read_files(self._source, name, report, planes, outlines)
            report.problems.extend(check_outlines(outlines, _EXACT, name))
            report.num_files = len(planes)
        else:
            report.problems.extend(_read_tensors(self._source, name, self._bands, planes))
            report.num_files = 1
        for band, plane in planes.items():
            file = f"{name}_{FILE_NAMES[band]}.tif"
            if not plane.any():  # 0 stands for no data (S2-PDGS-TAS-DI-PSD, special values)
                report.problems.append(Problem(ZEROED, file, "holds only zeros"))
            if content := content_of(plane):
                report.contents[file] = content
        report.problems.extend(check_order(planes, name))
        report.problems.extend(self._check_labels(name, next(iter(outlines.values()), None)))
        return report

    def _read_files(
        self,
        source: PatchFolder,
        name: str,
        report: Report,
        planes: dict[str, np.ndarray],
        outlines: dict[str, Outline | None],
    ) -> None:
        """Read the bands of a patch from its folder."""
        for band in ALL_BANDS:
            path = source.path(name, f"{FILE_NAMES[band]}.tif")
            file = f"{name}_{FILE_NAMES[band]}.tif"
            try:
                data = read_file(path)
            except (OSError, ValueError) as error:
                kind = MISSING if isinstance(error, FileNotFoundError) else DAMAGED
                report.problems.append(Problem(kind, file, f"cannot be read ({error})"))
                continue
            report.notes |= bit_notes(data)
            side = SIDE_PX[band]
            pixels, problems = check_raster(data, file, 1, ("uint16",), (side, side))
            report.problems.extend(problems)
            if pixels is not None:
                planes[band] = pixels[0]
                outlines[file] = read_outline(data, pixels.shape)
        known = {f"{name}_{end}.tif" for end in FILE_NAMES.values()} | {f"{name}_{_JSON}"}
        for file in os.listdir(os.path.dirname(source.path(name, ""))):  # noqa: PTH120, PTH208
            if file not in known and not is_hidden(file):
                report.problems.append(Problem(EXTRA, f"{name}/{file}", "is not a band"))

    def _check_labels(self, name: str, outline: Outline | None) -> Iterator[Problem]:
        labels = []
        if self._labels is not None:
            if name not in self._labels:  # it is in no split
                return
            labels = self._labels[name]
        elif isinstance(self._source, PatchFolder):
            try:
                labels = self._source.read_labels(name)
            except UserError as error:
                yield Problem(LABEL, name, str(error))
                return
            yield from _check_corner(self._source.path(name, _JSON), name, outline)
        if not labels:
            yield Problem(LABEL, name, "has no labels")
        for label in labels:
            if label not in _KNOWN:
                yield Problem(LABEL, name, f"has the unknown label {label!r}")

    def _place_leaks(self) -> Iterator[Problem]:
        """Find places in two splits of version 2, whose names have the tile.

        None of the 233,966 places of the published metadata is. Version 1 is not compared: its
        splits are spatially correlated, which version 2 reduces (abstract of arXiv 2407.03653).
        """
        seen: dict[str, str] = {}
        for name in filter(self.splits.__contains__, self.names):
            match = _NAME.fullmatch(name)
            if match and match["tile"]:
                other = seen.setdefault(f"{match['tile']}_{match['at']}", name)
                if self.splits[other] != self.splits[name]:
                    what = f"is of the place of {other}, in {self.splits[name]} and "
                    yield Problem(LEAK, name, f"{what}{self.splits[other]}")


def _stored_bands(source: PatchLmdb, names: Sequence[str]) -> tuple[str, ...]:
    """Return the bands that most patches of an LMDB have: ``--bands`` may have left out some."""
    counts: Counter[str] = Counter()
    samples = names[:: max(1, len(names) // _NUM_SAMPLES)]
    for name in samples:
        with suppress(UserError):
            counts.update(source.read_tensors(name).keys())
    return tuple(band for band in ALL_BANDS if 2 * counts[FILE_NAMES[band]] >= len(samples))


def _read_tensors(
    source: PatchLmdb, name: str, bands: Sequence[str], planes: dict[str, np.ndarray]
) -> Iterator[Problem]:
    """Read the bands of a patch from an LMDB."""
    try:
        tensors = source.read_tensors(name)
    except UserError as error:
        yield Problem(DAMAGED, name, str(error))
        return
    for band in bands:
        key = FILE_NAMES[band]
        if key not in tensors:
            yield Problem(MISSING, f"{name}/{key}", "is not in the LMDB")
            continue
        dtype, shape = tensors[key]["dtype"], tuple(tensors[key]["shape"])
        if dtype != "U16":
            yield Problem(TYPE, f"{name}/{key}", f"is of {dtype}")
        elif shape != (SIDE_PX[band],) * 2:
            yield Problem(SIZE, f"{name}/{key}", f"has {' x '.join(map(str, shape))} px")
        else:
            planes[band] = np.frombuffer(tensors[key]["data"], np.uint16).reshape(shape)
    for key in tensors.keys() - set(FILE_NAMES.values()):
        yield Problem(EXTRA, f"{name}/{key}", "is not a band")


def _check_corner(path: str, name: str, outline: Outline | None) -> Iterator[Problem]:
    """Compare the corner in the labels with that of the bands."""
    try:
        corner = json.loads(read_file(path))["coordinates"]
        far = (
            outline and max(abs(outline.left - corner["ulx"]), abs(outline.top - corner["uly"])) > 1
        )
    except (OSError, ValueError, LookupError, TypeError):
        far = False  # other tools write labels alone
    if far:
        yield Problem(PLACE, name, f"is not where its {_JSON} says")
