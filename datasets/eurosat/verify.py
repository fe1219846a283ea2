"""What is wrong with EuroSAT's pictures, classes and lists: a part of ``datasets/verify.py``."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from datasets.bands import EUROSAT_BANDS
from datasets.checking.checks import (
    bit_notes,
    check_order,
    check_picture,
    check_raster,
    content_of,
    most_common,
)
from datasets.checking.outlines import hash_place, read_outline
from datasets.checking.problems import (
    DAMAGED,
    EXTRA,
    LABEL,
    LEAK,
    MISSING,
    SWAP_NOTE,
    SWAPPED,
    TYPE,
    ZEROED,
    Problem,
    Report,
)
from datasets.eurosat.files import (
    CLASSES,
    SmallFiles,
    class_of,
    find_folders,
    is_geotiff,
    is_picture,
)
from datasets.eurosat.splits import LIST_PREFIXES, SPLITS, find_lists, list_problems
from utils.errors import UserError
from utils.files import is_hidden

_NUM_SAMPLES = 256
_CHANNELS_NOTE = "red and blue are compared over all pictures, not in a single one"
_NUMBER = re.compile(r"(\w+)_(\d+)\.\w+")  # <Class>_<n>.jpg, n from 1 on in both archives
_USUAL_SHARE = 0.9  # of the numbers of a class: more are missing in a subset on purpose
# In the archive of 27,000 pictures red varies more than blue: the mean of ln(std R / std B) is
# 0.44, with a standard deviation of 0.35. The mean of no channel is below 22; one of zeros is noisy
# after JPEG.
_BLACK = 8


class EurosatCheck:
    """The pictures of a EuroSAT folder or zip, RGB or 13 bands.

    Args:
        root: Zip, or folder of the classes or above.

    Attributes:
        names: ``<Class>/<file>`` of the pictures.
        problems: What is wrong with classes, numbers and lists.
        notes: What cannot be found.
        splits: Split of each listed picture.

    Raises:
        UserError: There are no class folders.
    """

    def __init__(self, root: Path) -> None:
        self._files = SmallFiles(root)
        self._root, self.names = find_folders(self._files)
        self._is_geotiff = sum(map(is_geotiff, self.names)) * 2 > len(self.names)
        self.splits: dict[str, str] = {}
        self.problems = [*self._class_problems(), *self._gaps(), *self._list_problems()]
        self._shape: tuple[int, int] | None = None
        self._shape = self._sample()
        self.notes: tuple[str, ...] = (SWAP_NOTE,) if self._is_geotiff else (_CHANNELS_NOTE,)

    def check(self, index: int) -> Report:
        """Read a picture.

        Args:
            index: Index in ``names``.
        """
        name = self.names[index]
        try:
            data = self._files.read(self._root + name)
        except (OSError, ValueError) as error:
            return Report([Problem(DAMAGED, name, f"cannot be read ({error})")], num_files=1)
        pixels, problems = self._decode(data, name)
        report, salt = Report(problems, num_files=1), str(self._is_geotiff)
        if not self._files.path.is_file():  # a zip has checksums
            report.notes |= bit_notes(data)
        if pixels is None:
            return report
        if content := content_of(pixels, salt):
            report.contents[name] = content
        if not self._is_geotiff:
            channels = zip(["red", "green", "blue"], pixels, strict=True)
            zeros = [channel for channel, plane in channels if plane.mean() < _BLACK]
        else:
            planes = dict(zip(EUROSAT_BANDS, pixels, strict=True))
            # 0 stands for no data (S2-PDGS-TAS-DI-PSD, special values), in every band.
            zeros = [band for band, plane in planes.items() if not plane.any()]
            report.problems.extend(check_order(planes, name))
            if outline := read_outline(data, pixels.shape):
                report.place = hash_place(*outline)
        report.problems.extend(Problem(ZEROED, name, f"{band} holds only zeros") for band in zeros)
        return report

    def _decode(self, data: bytes, name: str) -> tuple[np.ndarray | None, list[Problem]]:
        if is_geotiff(name) != self._is_geotiff:
            return None, [Problem(TYPE, name, "is not of the type of the other pictures")]
        if self._is_geotiff:
            return check_raster(data, name, len(EUROSAT_BANDS), ("uint16",), self._shape)
        return check_picture(data, name, self._shape)

    def _sample(self) -> tuple[int, int] | None:
        """Return the usual size; find red and blue swapped in all pictures."""
        shapes, ratios = [], []
        for name in self.names[:: max(1, len(self.names) // _NUM_SAMPLES)]:
            with suppress(OSError, ValueError):
                pixels, _ = self._decode(self._files.read(self._root + name), name)
                if pixels is not None:
                    shapes.append(pixels.shape[1:])
                    red, _, blue, *_ = pixels.std(axis=(1, 2)) + 0.5
                    ratios.append(np.log(red / blue))
        if not self._is_geotiff and len(ratios) >= _NUM_SAMPLES // 2 and np.mean(ratios) < 0:
            what = "red varies less than blue: look swapped in all pictures"
            self.problems.append(Problem(SWAPPED, str(self._files.path.name), what))
        return most_common(shapes)

    def _class_problems(self) -> Iterator[Problem]:
        folders = set(map(class_of, self.names))
        has_classes = bool(folders & set(CLASSES))
        for name in self.names:
            folder, file = name.split("/")
            match = _NUMBER.fullmatch(file)
            if has_classes and folder not in CLASSES:
                yield Problem(LABEL, name, "is in a folder that is not a class")
            elif match and match[1] in CLASSES and match[1] != folder:
                yield Problem(LABEL, name, "is in the folder of another class than its name says")
        for name in self._files.below(self._root):
            folder, _, file = name.rpartition("/")
            if is_hidden(name) or not file or is_picture(name):
                continue
            try:
                self._files.read(self._root + name)
            except FileNotFoundError:
                continue  # a folder
            except (OSError, ValueError) as error:
                yield Problem(DAMAGED, name, f"cannot be read ({error})")
            if is_picture(f"Class/{file}") and "/" not in name:
                yield Problem(LABEL, name, "is not in the folder of a class")
            elif folder in folders:
                yield Problem(EXTRA, name, "is not a picture")

    def _gaps(self) -> Iterator[Problem]:
        """Find numbers that are missing in a class, unless it is a subset."""
        numbers: dict[str, set[int]] = defaultdict(set)
        for name in self.names:
            folder, file = name.split("/")
            if (match := _NUMBER.fullmatch(file)) and match[1] == folder:
                numbers[folder].add(int(match[2]))
        suffix = Counter(Path(name).suffix for name in self.names).most_common(1)[0][0]
        for folder, found in sorted(numbers.items()):
            absent = sorted(set(range(1, max(found) + 1)) - found)
            if len(found) >= _USUAL_SHARE * max(found):
                for number in absent:
                    name = f"{folder}/{folder}_{number}{suffix}"
                    yield Problem(MISSING, name, "is missing in the numbers of its class")

    def _list_problems(self) -> Iterator[Problem]:
        for kind in LIST_PREFIXES:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    lists, _ = find_lists(self._files, self._root, self.names, kind)
            except UserError as error:
                yield Problem(LABEL, "lists", str(error))
                continue
            for split in SPLITS if lists else ():
                if not lists.get(split):
                    yield Problem(LABEL, f"{split}.txt", f"is missing in the {kind} split")
            found = list_problems(lists)
            for line in found["not in the data"]:
                yield Problem(MISSING, line, f"is in a list of the {kind} split only")
            for line in sorted({*found["listed more than once"]}):
                yield Problem(LEAK, line, f"is listed more than once in the {kind} split")
            for split, rows in lists.items():
                for _, row in rows:
                    if row is not None:
                        self.splits.setdefault(self.names[row], split)
