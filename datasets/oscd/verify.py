"""What is wrong with OSCD's cities, change maps and lists: a part of ``datasets/verify.py``."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from datasets.bands import check_dn, find_band_files, two_digit_name
from datasets.checking.checks import (
    bit_notes,
    check_order,
    check_picture,
    check_raster,
    content_of,
    most_common,
)
from datasets.checking.outlines import Outline, check_outlines, read_outline
from datasets.checking.problems import (
    DAMAGED,
    EXTRA,
    LABEL,
    LEAK,
    MISSING,
    SIZE,
    SWAP_NOTE,
    TYPE,
    ZEROED,
    Problem,
    Report,
)
from datasets.geotiff.reader import MAX_BYTES
from datasets.oscd.facts import BAND_QUANTILES
from datasets.oscd.files import find_cities, folders_with, read_city_lists
from utils.errors import UserError
from utils.files import is_hidden, read_file

_ALIGNED, _NATIVE = ("imgs_1_rect", "imgs_2_rect"), ("imgs_1", "imgs_2")
_DTYPES = ("uint16", "int16", "float32")  # the archive has uint16, resampled copies the others
_MAPS = ("cm.png", "{}-cm.tif")
# The second date is registered to the first, and native bands are cropped to whole pixels.
_TOLERANCE = 0.1


class OscdCheck:
    """The cities of OSCD.

    Args:
        root: Folder of the cities, or above.

    Attributes:
        names: Names of the cities.
        problems: What is wrong with the lists.
        notes: What cannot be found.
        splits: Split of each city.

    Raises:
        UserError: There are no cities.
    """

    def __init__(self, root: Path) -> None:
        self._images, self._labels = find_cities(root), folders_with(root, "cm")
        self.names = sorted(self._images)
        self.notes = (SWAP_NOTE,)
        self.problems: list[Problem] = []
        self.splits: dict[str, str] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lists = read_city_lists(root, self.names)
        for split, cities in lists.items():
            for city in cities:
                if self.splits.setdefault(city, split) != split:
                    self.problems.append(Problem(LEAK, city, "is in train.txt and in test.txt"))
                if city not in self._images:
                    self.problems.append(Problem(MISSING, city, f"is only in the list {split}"))
        for city in self.names:
            if city not in self.splits:
                self.problems.append(Problem(EXTRA, city, "is in no list"))

    def check(self, index: int) -> Report:
        """Read all images of a city, and its change map.

        Args:
            index: Index in ``names``.
        """
        city = self.names[index]
        root, report, num_files = self._images[city], Report(), 0
        aligned: dict[str, np.ndarray] = {}
        for folder in (*_ALIGNED, *_NATIVE):
            if (root / folder).is_dir():
                planes = _check_folder(root / folder, city, report)
                num_files += len(planes)
                if folder in _ALIGNED:
                    aligned |= {f"{city}/{folder}/{band}": plane for band, plane in planes.items()}
            elif folder in _ALIGNED:
                report.problems.append(Problem(MISSING, f"{city}/{folder}", "is missing"))
        size = most_common(plane.shape for plane in aligned.values())
        for name, plane in aligned.items():
            if plane.shape != size:
                report.problems.append(Problem(SIZE, name, f"has {plane.shape[::-1]} px"))
        report.problems.extend(_check_map(self._labels.get(city), city, size))
        report.num_files = num_files + 1
        return report


def _check_folder(folder: Path, city: str, report: Report) -> dict[str, np.ndarray]:
    """Check the 13 bands of a date; add to the report, and return them."""
    where, salt = f"{city}/{folder.name}", "native" * (folder.name in _NATIVE)
    names = [path.name for path in folder.iterdir() if not is_hidden(path.name)]
    try:
        files = find_band_files(names, where)
    except UserError as error:
        report.problems.append(Problem(EXTRA, where, str(error)))
        return {}
    # ``find_band_files`` knows the bands of level 2A only.
    for name in names:
        if name.upper().endswith(("B10.TIF", "B10.TIFF")):
            files["B10"] = name
    for name in sorted(set(names) - set(files.values())):
        report.problems.append(Problem(EXTRA, f"{where}/{name}", "is not a band"))
    planes: dict[str, np.ndarray] = {}
    outlines: dict[str, Outline | None] = {}
    for band in BAND_QUANTILES:
        name = f"{where}/{files.get(band, f'{two_digit_name(band)}.tif')}"
        if band not in files:
            report.problems.append(Problem(MISSING, name, "is missing"))
            continue
        found, problems = _check_file(folder / files[band], name, band)
        report.problems.extend(problems)
        if found is not None:
            planes[band], data = found
            report.notes |= bit_notes(data)
            outlines[name] = read_outline(data, planes[band].shape)
            if content := content_of(planes[band], salt):
                report.contents[name] = content
    kinds = [plane.dtype.name for plane in planes.values()]
    for band, plane in planes.items():
        if kinds.count(plane.dtype.name) * 2 < len(kinds):
            report.problems.append(Problem(TYPE, f"{where}/{band}", f"is of {plane.dtype}"))
    known = {name: outline for name, outline in outlines.items() if outline}  # not all have one
    report.problems.extend(check_outlines(known, _TOLERANCE, where))
    report.problems.extend(check_order(planes, where))
    if salt:
        report.problems.extend(_check_native_sizes(planes, where))
    return planes


def _check_file(
    path: Path, name: str, band: str
) -> tuple[tuple[np.ndarray, bytes] | None, list[Problem]]:
    """Read a band: values and content of the file, or None; its problems."""
    try:
        data = read_file(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        return None, [Problem(DAMAGED, name, f"cannot be read ({error})")]
    pixels, problems = check_raster(data, name, 1, _DTYPES)
    if pixels is None:
        return None, problems
    if not pixels.any():  # 0 stands for no data (S2-PDGS-TAS-DI-PSD, special values)
        return (pixels[0], data), [Problem(ZEROED, name, "holds only zeros")]
    try:
        check_dn([pixels], name, band)
    except UserError as error:
        problems = [Problem(TYPE, name, str(error))]
    return (pixels[0], data), problems


def _check_native_sizes(planes: Mapping[str, np.ndarray], where: str) -> Iterator[Problem]:
    """Compare the sizes of bands of one resolution."""
    sizes = {band: plane.shape for band, plane in planes.items()}
    for bands in (
        ("B2", "B3", "B4", "B8"),
        ("B5", "B6", "B7", "B8A", "B11", "B12"),
        ("B1", "B9", "B10"),
    ):
        usual = most_common(sizes[band] for band in bands if band in sizes)
        for band in bands:
            if band in sizes and sizes[band] != usual:
                yield Problem(SIZE, f"{where}/{band}", f"has {sizes[band][::-1]} px")


def _check_map(folder: Path | None, city: str, size: tuple[int, int] | None) -> Iterator[Problem]:
    """Check the change map of a city, as PNG or GeoTIFF."""
    found = 0
    for file in _MAPS:
        path = folder / "cm" / file.format(city) if folder else None
        if path is None or not path.exists():
            continue
        found += 1
        name = f"{city}/cm/{path.name}"
        try:
            data = read_file(path, MAX_BYTES)
        except (OSError, ValueError) as error:
            yield Problem(DAMAGED, name, f"cannot be read ({error})")
            continue
        if path.suffix == ".png":
            values, problems = check_picture(data, name, size, grey=True)
            known = (0, 255)
        else:
            values, problems = check_raster(data, name, 1, ("uint8", "uint16"), size)
            known = (1, 2)
        yield from problems
        if values is not None and not np.isin(values, known).all():
            yield Problem(LABEL, name, f"has values other than {known[0]} and {known[1]}")
    if not found:
        yield Problem(LABEL, f"{city}/cm", "the change map is missing")
