"""The folder of a SeCo data set: which places and dates are there, and their files."""

import os
from pathlib import Path

import numpy as np

from datasets.bands import QUANTILES_NAME, RESOLUTION_M, band_of, find_band_files
from datasets.geotiff import read_band
from utils.errors import UserError
from utils.files import is_hidden


class SecoFolder:
    """Files ``<place>/<scene>/<band>.tif`` on disk."""

    def __init__(self, root: Path, bands: tuple[str, ...]) -> None:
        self.root = root
        self.places = index_places(root, bands[0])

    def band_names(self) -> list[str]:
        """Return the bands that at least one date of the first place has."""
        return find_bands(self.root, self.places[0])

    def read_band(self, name: str, patch: int, band: str) -> np.ndarray:
        """Read a band of "place/scene" as it is stored: uint8, shape (height, width)."""
        return read_band(band_path(self.root / name, band))

    def read_quantiles(self) -> bytes | None:
        """Return the file of the quantiles beside the places, or None."""
        path = self.root / QUANTILES_NAME
        return path.read_bytes() if path.exists() else None


def index_places(root: Path, band: str) -> list[str]:
    """List the places in the same order on every machine: by number, others after them by name.

    Args:
        root: Folder of the places.
        band: A band that dates usually have, which shortens the search.

    Returns:
        A string "place/scene/scene" per place with its sorted dates; never an empty list.
    """
    if not root.is_dir():
        raise UserError(f"{root} is {'not a folder' if root.exists() else 'missing'}: --data_dir")
    places = []
    for place in _subfolders(str(root)):
        folder = f"{root}/{place}"
        dates = [date for date in _subfolders(folder) if _is_date(f"{folder}/{date}", band)]
        if dates:
            places.append("/".join([place, *dates]))
    if not places:
        raise UserError(f"{root} holds no SeCo places, which are folders PLACE/SCENE/B4.tif")
    return places


def split_dates(places: list[str]) -> list[str]:
    """Turn each "place/scene/scene" into one "place/scene" per date."""
    split = (place.split("/") for place in places)
    return [f"{place}/{date}" for place, *dates in split for date in dates]


def find_bands(root: Path, place: str) -> list[str]:
    """Return the bands that at least one date of "place/scene/scene" has."""
    name, *dates = place.split("/")
    found: set[str] = set()
    for date in dates:
        found |= _band_files(root / name / date).keys()
    return [band for band in RESOLUTION_M if band in found]


def band_path(folder: Path, band: str) -> Path:
    """Return the file of a band in the folder of a date; one that is missing is called B4.tif."""
    path = folder / f"{band}.tif"
    if path.exists() or not folder.is_dir():
        return path
    return folder / _band_files(folder).get(band, path.name)


def _band_files(folder: Path) -> dict[str, str]:
    return find_band_files((path.name for path in folder.iterdir()), folder)


def natural_order(name: str) -> tuple[float, str]:
    """Sort numbers by value, and other names after them."""
    is_number = name.isascii() and name.isdigit()
    return (int(name) if is_number else float("inf"), name)


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and e.is_dir()]
    return sorted(names, key=natural_order)


def _is_date(folder: str, band: str) -> bool:
    if os.path.exists(f"{folder}/{band}.tif"):  # noqa: PTH110 - ten times as fast as pathlib
        return True
    with os.scandir(folder) as entries:
        return any(band_of(e.name) for e in entries)
