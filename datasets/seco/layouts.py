"""Where the band files of SeCo patches are: in a folder of places, or in a zip of one.

A place is kept as one string "place/scene/scene", which a forked worker process copies faster than
a list of objects. Places are in the same order everywhere: by number, others after them by name.
"""

import os
from array import array
from collections import defaultdict
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.archive import ZipFiles, zip_hint
from datasets.bands import ALL_BANDS, QUANTILES_NAME, band_of, find_band_files
from datasets.geotiff.reader import read_geotiff
from datasets.seco.bad_patches import BadPatchError
from utils.errors import UserError
from utils.files import is_hidden, read_file

_ABSENT = -1  # as an entry
_BITS = {band: 1 << bit for bit, band in enumerate(ALL_BANDS)}
MISSING, _UNREADABLE = "is missing", "is not a readable GeoTIFF"


class SecoFolder:
    """Files ``<place>/<scene>/<band>.tif`` on disk.

    Args:
        root: Folder of the places.
        bands: Bands that will be read.

    Attributes:
        places: A string "place/scene/scene" per place.

    Raises:
        UserError: The folder is missing, or has no places.
    """

    def __init__(self, root: Path, bands: tuple[str, ...]) -> None:
        if not root.is_dir():
            raise UserError(f"{root} is {'not a folder' if root.exists() else 'missing'}")
        self.root = root
        self.places = []
        for place in _subfolders(str(root)):
            folder = f"{root}/{place}"
            dates = [date for date in _subfolders(folder) if _is_date(f"{folder}/{date}", bands[0])]
            if dates:
                self.places.append("/".join([place, *dates]))
        _check_any(self.places, root)

    def band_names(self) -> list[str]:
        """Return the bands that at least one date of the first place has."""
        place, *dates = self.places[0].split("/")
        found = {band for date in dates for band in _band_files(self.root / place / date)}
        return [band for band in ALL_BANDS if band in found]

    def read_band(self, name: str, band: str, patch: int = 0) -> np.ndarray:
        """Read a band of a patch as it is stored.

        Args:
            name: Name "place/scene" of the patch.
            band: Name of the band.
            patch: Number of the patch, which a zip needs.

        Returns:
            uint8, shape (height, width).

        Raises:
            BadPatchError: The file is missing or cannot be decoded.
        """
        return decode_band(*self.read_bytes(name, band, patch))

    def read_bytes(self, name: str, band: str, patch: int = 0) -> tuple[bytes, str]:
        """Return the content of a band's file, and its path.

        Arguments as in ``SecoFolder.read_band``.
        """
        folder = f"{self.root}/{name}"
        path = f"{folder}/{band}.tif"
        try:
            return _read(path), path
        except BadPatchError as error:
            if error.reason != MISSING or not Path(folder).is_dir():
                raise
            other = _band_files(Path(folder)).get(band)  # perhaps B04.tif
            if other is None:
                raise
        return _read(f"{folder}/{other}"), f"{folder}/{other}"

    def band_bytes(self, name: str, band: str, patch: int = 0) -> bytes:
        """Return the content of the file of a band; arguments as in ``SecoFolder.read_band``."""
        folder = self.root / name
        return read_file(folder / _band_files(folder)[band])

    def read_quantiles(self) -> bytes | None:
        """Return the content of the file of quantiles next to the places, or None."""
        path = self.root / QUANTILES_NAME
        return read_file(path) if path.exists() else None


class SecoZip:
    """Files ``<place>/<scene>/<band>.tif`` in a zip, perhaps below further folders.

    The zip is read in place: the 13 million small files of SeCo-1M are never unpacked.

    Args:
        path: The zip.
        bands: Bands that will be read; where the others are is not kept.

    Attributes:
        places: A string "place/scene/scene" per place.

    Raises:
        UserError: The zip is damaged, has no places, or more than one data set.
    """

    def __init__(self, path: Path, bands: tuple[str, ...]) -> None:
        self.path = path
        self.bands = bands
        self._zip = ZipFiles(path)
        dates, seen, entries = self._list()
        _check_any(list(dates), path)
        self.places, order = _sort_dates(dates)
        self._entries = np.array(entries).reshape(-1, len(bands))[order]  # (patches, bands)
        of_first = np.array(seen)[order[: self.places[0].count("/")]]
        self._of_first = int(np.bitwise_or.reduce(of_first))

    def band_names(self) -> list[str]:
        """Return the bands that at least one date of the first place has."""
        return [band for band, bit in _BITS.items() if self._of_first & bit]

    def read_band(self, name: str, band: str, patch: int = 0) -> np.ndarray:
        """Read a band of a patch as it is stored; arguments as in ``SecoFolder.read_band``."""
        return decode_band(*self.read_bytes(name, band, patch))

    def read_bytes(self, name: str, band: str, patch: int = 0) -> tuple[bytes, str]:
        """Return the content of a band's file, and its path.

        Arguments as in ``SecoFolder.read_band``.
        """
        entry = int(self._entries[patch, self.bands.index(band)])
        where = f"{self.path}/{name}/{band}.tif"
        if entry == _ABSENT:
            raise BadPatchError(where, MISSING)
        try:
            return self._zip.read(entry), where
        except ValueError as error:
            raise BadPatchError(where, _UNREADABLE) from error

    def band_bytes(self, name: str, band: str, patch: int = 0) -> bytes:
        """Return the content of the file of a band; arguments as in ``SecoFolder.read_band``."""
        return self._zip.read(int(self._entries[patch, self.bands.index(band)]))

    def read_quantiles(self) -> bytes | None:
        """Return the content of the file of quantiles next to the places, or None.

        Raises:
            UserError: The file is damaged.
        """
        try:
            return None if self._quantiles is None else self._zip.read(self._quantiles)
        except ValueError as error:
            raise UserError(
                f"{QUANTILES_NAME} in {self.path} is damaged: copy or write the zip again"
            ) from error

    def _list(self) -> tuple[dict[str, dict[str, int]], "array[int]", "array[int]"]:
        """Read the zip's directory once.

        Returns:
            Number of each date, by place and scene; the bands of each date, one bit per band; the
            entries of the bands to read, those of a date next to each other.
        """
        dates: dict[str, dict[str, int]] = defaultdict(dict)
        seen, entries, width = array("H"), array("q"), len(self.bands)
        root, quantiles, repeated = None, {}, set[str]()
        for folder, files, of_files in self._zip.runs():
            if QUANTILES_NAME in files:
                quantiles[folder] = of_files[files.index(QUANTILES_NAME)]
            found = split_run(folder, files)
            if found is None:
                continue
            *above, place, scene, _ = folder.rsplit("/", 3)
            prefix = f"{above[0]}/" if above else ""
            root = prefix if root is None else root
            if prefix != root:
                raise UserError(
                    f"{self.path} holds places in {root or './'} and in {prefix or './'}: "
                    "keep one SeCo data set in a zip"
                )
            number = dates[place].setdefault(scene, len(seen))
            if number == len(seen):
                seen.append(0)
                entries.extend([_ABSENT] * width)
            if found.is_repeated or seen[number] & found.bits:
                repeated.add(folder)
            seen[number] |= found.bits
            for at, band in enumerate(self.bands, number * width):
                if band in found.positions:
                    entries[at] = of_files[found.positions[band]]
        if repeated:
            self._check_repeated(repeated)
        self._quantiles = quantiles.get(root or "")
        return dates, seen, entries

    def _check_repeated(self, folders: set[str]) -> None:
        """Refuse two files of a band; of two members of one name the last counts, as in unzip."""
        found = defaultdict(set)
        for folder, files, _ in self._zip.runs():
            if folder in folders:
                found[folder].update(files)
        for folder in sorted(found):
            find_band_files(found[folder], f"{self.path}/{folder[:-1]}")


class _BandFiles(NamedTuple):
    """Which of some files of a folder are bands."""

    positions: dict[str, int]  # by band; the last file of it
    bits: int  # one per band
    is_repeated: bool  # whether a band has two files


def split_run(folder: str, files: list[str]) -> _BandFiles | None:
    """Return the bands among a folder's files; None if it is not a date of a place.

    A file that is not a band, such as metadata or a hidden file, is left out.

    Args:
        folder: Folder in the zip, "place/scene/" below any others.
        files: Names of its files, without the folder.
    """
    found = _find_bands(tuple(files))
    is_date = found.bits and folder.count("/") > 1 and not is_hidden(folder)
    return found if is_date else None


@lru_cache(2**10)  # most dates have the same files
def _find_bands(files: tuple[str, ...]) -> _BandFiles:
    bands = [(band, position) for position, file in enumerate(files) if (band := band_of(file))]
    positions = dict(bands)
    bits = sum(_BITS[band] for band in positions)
    return _BandFiles(positions, bits, len(positions) < len(bands))


def read_band(path: Path | str) -> np.ndarray:
    """Read a band of a patch from a file: uint8, shape (height, width).

    Raises:
        BadPatchError: The file is missing or damaged.
        UserError: The file is not a single uint8 band, or larger than any.
    """
    return decode_band(_read(path), str(path))


def _read(path: Path | str) -> bytes:
    try:
        return read_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadPatchError(str(path), MISSING) from error
    except (OSError, ValueError) as error:
        raise BadPatchError(str(path), _UNREADABLE) from error


def decode_band(data: bytes, name: str) -> np.ndarray:
    """Read a band from the bytes of a file, as ``read_band`` does.

    Args:
        data: Content of the file.
        name: Its name, for errors.

    Raises:
        UserError: The file is not one band of uint8.
    """

    def check(count: int, dtype: str, shape: tuple[int, int]) -> None:
        if count != 1 or dtype != "uint8":
            raise UserError(
                f"{name} has {count} {'band' if count == 1 else 'bands'} of {dtype}, but a file of "
                "a SeCo patch is one band of uint8, 255 times reflectance: store floor(255 * "
                "min(reflectance, 1)), where reflectance is digital numbers / 10,000, or collect "
                "with --dtype uint8"
            )

    try:
        return read_geotiff(data, name, check)[0]
    except ValueError as error:
        raise BadPatchError(name, _UNREADABLE) from error


def _check_any(places: list[str], root: Path) -> None:
    if (root / "manifest.json").is_file():
        raise UserError(f"{root} is a packed store: read it with PackedStore or SecoDataModule")
    if not places:
        raise UserError(
            f"{root} holds no SeCo places, which are folders PLACE/SCENE/B4.tif{zip_hint(root)}"
        )


def _band_files(folder: Path) -> dict[str, str]:
    return find_band_files((path.name for path in folder.iterdir()), folder)


def _natural_order(name: str) -> tuple[float, str]:
    is_number = name.isascii() and name.isdigit()
    return (int(name) if is_number else inf, name)


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and e.is_dir()]
    return sorted(names, key=_natural_order)


def _is_date(folder: str, band: str) -> bool:
    """Look for any band; one that dates usually have shortens the search."""
    if os.access(f"{folder}/{band}.tif", os.F_OK):  # a tenth of the time of pathlib
        return True
    with os.scandir(folder) as entries:
        return any(band_of(e.name) for e in entries)


def _sort_dates(dates: dict[str, dict[str, int]]) -> tuple[list[str], np.ndarray]:
    """Sort places and scenes as folders are: "place/scene/scene" strings, and all numbers."""
    places, order = [], array("q")
    for place in sorted(dates, key=_natural_order):
        scenes = dates[place]
        names = sorted(scenes, key=_natural_order)
        places.append("/".join([place, *names]))
        order.extend([scenes[name] for name in names])
    return places, np.array(order)
