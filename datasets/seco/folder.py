"""Where the band files of SeCo patches are in a folder of places, and how each is decoded.

A place is kept as one string "place/scene/scene", which a forked worker process copies faster than
a list of objects. Places are in the same order everywhere: by number, others after them by name.
"""

import os
from math import inf
from pathlib import Path

import numpy as np

from datasets.archive import zip_hint
from datasets.bands import ALL_BANDS, QUANTILES_NAME, band_of, find_band_files
from datasets.geotiff.reader import read_geotiff
from datasets.seco.bad_patches import BadPatchError
from utils.errors import UserError
from utils.files import is_hidden, read_file

MISSING, UNREADABLE = "is missing", "is not a readable GeoTIFF"


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
        check_any(self.places, root)

    def band_names(self) -> list[str]:
        """Return the bands that at least one date of the first place has."""
        place, *dates = self.places[0].split("/")
        found = {band for date in dates for band in _band_files(self.root / place / date)}
        return [band for band in ALL_BANDS if band in found]

    def read_bytes(self, name: str, band: str, patch: int) -> tuple[bytes, str]:
        """Return the content of a band's file, and its path: the arguments of ``decode_band``.

        Args:
            name: Name "place/scene" of the patch.
            band: Name of the band.
            patch: Number of the patch, which a zip needs.

        Raises:
            BadPatchError: The file is missing or cannot be read.
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

    def read_quantiles(self) -> bytes | None:
        """Return the content of the file of quantiles next to the places, or None."""
        path = self.root / QUANTILES_NAME
        return read_file(path) if path.exists() else None


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
        raise BadPatchError(str(path), UNREADABLE) from error


def decode_band(data: bytes, name: str) -> np.ndarray:
    """Read a band from the bytes of a file, as ``read_band`` does.

    Args:
        data: Content of the file.
        name: Its name, for errors.

    Returns:
        uint8, shape (height, width).

    Raises:
        BadPatchError: The file cannot be decoded.
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
        raise BadPatchError(name, UNREADABLE) from error


def check_any(places: list[str], root: Path) -> None:
    """Refuse a folder or zip without places.

    Args:
        places: Its places.
        root: The folder or zip.

    Raises:
        UserError: There are none, or it is a packed store.
    """
    if (root / "manifest.json").is_file():
        raise UserError(f"{root} is a packed store: read it with PackedStore or SecoDataModule")
    if not places:
        raise UserError(
            f"{root} holds no SeCo places, which are folders PLACE/SCENE/B4.tif{zip_hint(root)}"
        )


def natural_order(name: str) -> tuple[float, str]:
    """Return the key by which places and dates are sorted: numbers first, then names."""
    is_number = name.isascii() and name.isdigit()
    return (int(name) if is_number else inf, name)


def _band_files(folder: Path) -> dict[str, str]:
    return find_band_files((path.name for path in folder.iterdir()), folder)


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and e.is_dir()]
    return sorted(names, key=natural_order)


def _is_date(folder: str, band: str) -> bool:
    """Look for any band; one that dates usually have shortens the search."""
    if os.access(f"{folder}/{band}.tif", os.F_OK):  # a tenth of the time of pathlib
        return True
    with os.scandir(folder) as entries:
        return any(band_of(e.name) for e in entries)
