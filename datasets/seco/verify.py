"""What is wrong with a SeCo folder or zip: the part of ``datasets/verify.py`` for its layout."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from datasets.archive import ZipFiles
from datasets.bands import ALL_BANDS, QUANTILES_NAME, band_of
from datasets.checking.checks import (
    bit_notes,
    black_bands,
    check_order,
    check_raster,
    content_of,
    most_common,
)
from datasets.checking.outlines import Outline, check_outlines, read_outline
from datasets.checking.problems import (
    DAMAGED,
    EXTRA,
    MISSING,
    SWAP_NOTE,
    ZEROED,
    Problem,
    Report,
)
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.folder import MISSING as IS_MISSING
from datasets.seco.folder import SecoFolder, decode_band
from datasets.seco.patches import count_dates
from datasets.seco.zipped import SecoZip
from utils.errors import UserError
from utils.files import is_hidden

_NUM_SAMPLES = 64  # patches that show bands and sizes
_USUAL_SHARE = 0.9  # of the places, that have one number of dates: then the others lack some
# Of a collection, and of the published archives; previews are next to the folder of their date.
_METADATA = "metadata.json"
_ROOT_SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".md", ".lock", ".png", ".log")
# The original's downloader crops each band and date by itself, to whole pixels of 60 m, and so the
# outlines of a place of 2,640 m differ: adjust_coords in datasets/seco_downloader.py of
# github.com/ServiceNow/seasonal-contrast at 8285173.
_TOLERANCE = 0.1


class SecoCheck:
    """The places of a SeCo folder or zip.

    Args:
        root: Folder of the places, or zip of it.

    Attributes:
        names: Names of the places.
        problems: What is wrong with the layout.
        notes: What cannot be found.
        splits: Empty: there are none.

    Raises:
        UserError: There are no places.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = SecoZip(root, ALL_BANDS) if root.is_file() else SecoFolder(root, ALL_BANDS)
        places = [place.split("/") for place in self._files.places]
        self.names = [name for name, *_ in places]
        self._dates = [dates for _, *dates in places]
        self._starts = count_dates(self._files.places)
        self.splits: Mapping[str, str] = {}
        self._shapes = self._sample()
        self.notes = (SWAP_NOTE,)
        counts = Counter(map(len, self._dates))
        usual, times = counts.most_common(1)[0]
        self._num_dates = usual if times >= _USUAL_SHARE * len(places) else 0
        self.problems = list(self._zip_extras() if root.is_file() else self._root_extras())

    def check(self, place: int) -> Report:
        """Read all files of a place.

        Args:
            place: Index in ``names``.
        """
        name, dates = self.names[place], self._dates[place]
        report = Report()
        outlines: dict[str, Outline | None] = {}
        if len(dates) < self._num_dates:
            what = f"has {len(dates)} dates instead of {self._num_dates}"
            report.problems.append(Problem(MISSING, name, what))
        for offset, date in enumerate(dates):
            patch = int(self._starts[place]) + offset
            self._check_date(f"{name}/{date}", patch, report, outlines)
        report.problems.extend(check_outlines(outlines, _TOLERANCE, name))
        if not self.root.is_file():
            report.problems.extend(self._folder_extras(name, dates))
        return report

    def _check_date(
        self, name: str, patch: int, report: Report, outlines: dict[str, Outline | None]
    ) -> None:
        """Check the bands of a date; add to the report and to the outlines."""
        planes: dict[str, np.ndarray] = {}
        hashes = self._read_hashes(name)
        for band, shape in self._shapes.items():
            file = f"{name}/{band}.tif"
            try:
                data, path = self._files.read_bytes(name, band, patch)
            except BadPatchError as error:
                kind = MISSING if error.reason == IS_MISSING else DAMAGED
                report.problems.append(Problem(kind, file, error.reason))
                continue
            report.num_files += 1
            expected = hashes.get(os.path.basename(path))  # noqa: PTH119 - fast
            if expected not in (None, hashlib.sha256(data).hexdigest()):
                report.problems.append(Problem(DAMAGED, file, f"differs from {_METADATA}"))
            if not self.root.is_file():  # a zip has checksums
                report.notes |= bit_notes(data)
            pixels, problems = check_raster(data, file, 1, ("uint8",), shape)
            report.problems.extend(problems)
            if pixels is None:
                continue
            planes[band] = pixels[0]
            if content := content_of(pixels):
                report.contents[file] = content
            outlines[file] = read_outline(data, pixels.shape)
        dark = black_bands(planes) if any(map(np.any, planes.values())) else list(planes)
        report.problems.extend(
            Problem(ZEROED, f"{name}/{band}.tif", "holds only zeros") for band in dark
        )
        report.problems.extend(check_order(planes, name))

    def _read_hashes(self, name: str) -> dict[str, str]:
        """Read the hashes that our collector writes into the metadata of a date."""
        path = self.root / name / _METADATA
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            files = json.loads(path.read_bytes())["files"]
            return {file: str(entry["sha256"]) for file, entry in files.items()}
        return {}

    def _sample(self) -> dict[str, tuple[int, int]]:
        """Return the bands that most dates have, with their usual size."""
        shapes: dict[str, list[tuple[int, int]]] = {band: [] for band in ALL_BANDS}
        count = int(self._starts[-1])
        patches = range(0, count, max(1, count // _NUM_SAMPLES))
        for patch in patches:
            place = int(np.searchsorted(self._starts, patch, side="right")) - 1
            date = self._dates[place][patch - int(self._starts[place])]
            for band, seen in shapes.items():
                with suppress(UserError):
                    data = self._files.read_bytes(f"{self.names[place]}/{date}", band, patch)
                    seen.append(decode_band(*data).shape)
        usual = {band: most_common(seen) for band, seen in shapes.items()}
        shown = {band: shape for band, shape in usual.items() if shape is not None}
        return {b: shape for b, shape in shown.items() if 2 * len(shapes[b]) >= len(patches)}

    def _root_extras(self) -> Iterator[Problem]:
        known = set(self.names)
        for entry in sorted(self.root.iterdir()):
            name = entry.name
            if is_hidden(name) or name in known or name == QUANTILES_NAME:
                continue
            if entry.is_dir() and not name.endswith("_previews"):
                kind = MISSING if any(entry.iterdir()) or name.isdigit() else EXTRA
                yield Problem(kind, name, "is a folder without bands of a date")
            elif not entry.is_dir() and not name.endswith(_ROOT_SUFFIXES):
                yield Problem(EXTRA, name, "does not belong to a SeCo data set")

    def _folder_extras(self, place: str, dates: list[str]) -> Iterator[Problem]:
        for entry in os.scandir(self.root / place):
            name = entry.name
            if is_hidden(name):
                continue
            if name in dates:
                yield from _extras_of(f"{place}/{name}", os.listdir(entry.path))  # noqa: PTH208
            elif entry.is_dir():
                yield Problem(MISSING, f"{place}/{name}", "holds no bands")
            elif name.rpartition(".")[0] not in dates:
                yield Problem(EXTRA, f"{place}/{name}", "is not a date, nor a preview of one")

    def _zip_extras(self) -> Iterator[Problem]:
        places = dict(zip(self.names, map(set, self._dates), strict=True))
        archive = ZipFiles(self.root)
        for folder, files, entries in archive.runs():
            *_, place, date, _ = ["", "", *folder.split("/")]
            for name, entry in zip(files, entries, strict=True):
                if band_of(name) is None:  # such as metadata, which ``check`` does not read
                    try:
                        archive.read(entry)
                    except ValueError as error:
                        yield Problem(DAMAGED, folder + name, str(error))
            if date in places.get(place, ()):
                yield from _extras_of(f"{place}/{date}", files)
                continue
            for name in files:
                is_preview = name.rpartition(".")[0] in places.get(date, ())
                is_known = is_preview or name.endswith(_ROOT_SUFFIXES) or is_hidden(folder + name)
                if name and not is_known:
                    yield Problem(EXTRA, folder + name, "does not belong to a SeCo data set")


def _extras_of(folder: str, files: list[str]) -> Iterator[Problem]:
    """Find what is not a band or metadata of a date, and second files of a band."""
    bands = [band for name in files if (band := band_of(name))]
    for name in files:
        band = band_of(name)
        if name in ("", _METADATA) or is_hidden(name):
            continue
        if band is None:
            yield Problem(EXTRA, f"{folder}/{name}", "is not a band")
        elif bands.count(band) > 1 and name != f"{band}.tif":
            yield Problem(EXTRA, f"{folder}/{name}", f"is another file of {band}")
