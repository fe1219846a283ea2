"""Where the band files of SeCo patches are: in a folder of places, or in a zip of one.

A place is kept as one string "place/scene/scene", which a forked worker process copies faster than
a list of objects. Places are in the same order everywhere: by number, others after them by name.
"""

import os
from array import array
from itertools import groupby
from pathlib import Path

import numpy as np

from datasets.archive import MEMBER_FIELDS, ZipFiles, ZipMember, zip_hint
from datasets.bands import ALL_BANDS, QUANTILES_NAME, band_of, find_band_files
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.geotiff import UNREADABLE, decode_band, read_band
from utils.errors import UserError
from utils.files import is_hidden

_ABSENT = -1  # as an offset
_BITS = {band: 1 << bit for bit, band in enumerate(ALL_BANDS)}


class SecoFolder:
    """Files ``<place>/<scene>/<band>.tif`` on disk.

    Args:
        root: Folder of the places.
        bands: Bands that will be read.
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
            UserError: The file cannot be decoded.
        """
        folder = self.root / name
        path = folder / f"{band}.tif"
        if not path.exists() and folder.is_dir():  # perhaps another spelling, such as B04.tif
            path = folder / _band_files(folder).get(band, path.name)
        return read_band(path)

    def read_quantiles(self) -> bytes | None:
        """Return the content of the file of quantiles next to the places, or None."""
        path = self.root / QUANTILES_NAME
        return path.read_bytes() if path.exists() else None


class SecoZip:
    """Files ``<place>/<scene>/<band>.tif`` in a zip, perhaps below further folders.

    The zip is read in place: the 13 million small files of SeCo-1M are never unpacked.

    Args:
        path: The zip.
        bands: Bands that will be read; where the others are is not kept.
    """

    def __init__(self, path: Path, bands: tuple[str, ...]) -> None:
        self.path = path
        self.bands = bands
        self._zip = ZipFiles(path)
        numbers, seen, rows = self._list()
        _check_any(list(numbers), path)
        self.places, order = _sort_dates(list(numbers))
        self._members = _tabulate(rows, len(numbers), len(bands))[order]  # (patches, bands)
        of_first = np.array(seen)[order[: self.places[0].count("/")]]
        self._of_first = int(np.bitwise_or.reduce(of_first))

    def band_names(self) -> list[str]:
        """Return the bands that at least one date of the first place has."""
        return [band for band, bit in _BITS.items() if self._of_first & bit]

    def read_band(self, name: str, band: str, patch: int = 0) -> np.ndarray:
        """Read a band of a patch as it is stored; arguments as in ``SecoFolder.read_band``."""
        member = ZipMember(*self._members[patch, self.bands.index(band)].tolist())
        where = f"{self.path}/{name}/{band}.tif"
        if member.offset == _ABSENT:
            raise BadPatchError(where, "is missing")
        try:
            data = self._zip.read(member)
        except ValueError as error:
            raise BadPatchError(where, UNREADABLE) from error
        return decode_band(data, where)

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

    def _list(self) -> tuple[dict[str, int], "array[int]", "array[int]"]:
        """Read the zip's directory once.

        Returns:
            Number of each "place/scene"; the bands of each date, one bit per band; rows of date,
            channel and member.
        """
        numbers: dict[str, int] = {}
        seen, rows = array("H"), array("q")
        channels = {band: channel for channel, band in enumerate(self.bands)}
        root, quantiles, repeated = None, {}, set[str]()
        for name, member in self._zip.members():
            if name.endswith(QUANTILES_NAME):
                quantiles[name.removesuffix(QUANTILES_NAME)] = member
            split = split_member(name)
            if split is None:
                continue
            above, date, band = split
            root = above if root is None else root
            if above != root:
                raise UserError(
                    f"{self.path} holds places in {root or './'} and in {above or './'}: "
                    "keep one SeCo data set in a zip"
                )
            number = numbers.setdefault(date, len(numbers))
            if number == len(seen):
                seen.append(0)
            if seen[number] & _BITS[band]:
                repeated.add(f"{above}{date}")
            seen[number] |= _BITS[band]
            if band in channels:
                rows.extend((number, channels[band], *member))
        # Two files of a band are refused; of two members of one name the last counts, as in unzip.
        files: dict[str, set[str]] = {folder: set() for folder in sorted(repeated)}
        for name, _ in self._zip.members() if files else ():
            folder, _, file = name.rpartition("/")
            files.get(folder, set()).add(file)
        for folder, names in files.items():
            find_band_files(names, f"{self.path}/{folder}")
        self._quantiles = quantiles.get(root or "")
        return numbers, seen, rows


def split_member(name: str) -> tuple[str, str, str] | None:
    """Split the name of a zip's member into the folders above the place, "place/scene" and band.

    None stands for a member that is not a band of a date, such as a preview or a hidden file.
    """
    *above, place, scene, file = name.split("/") if name.count("/") > 1 else ("", "", "")
    band = band_of(file)
    if band is None or is_hidden(name):
        return None
    return "".join(f"{folder}/" for folder in above), f"{place}/{scene}", band


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
    return (int(name) if is_number else float("inf"), name)


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not is_hidden(e.name) and e.is_dir()]
    return sorted(names, key=_natural_order)


def _is_date(folder: str, band: str) -> bool:
    """Look for any band; one that dates usually have shortens the search."""
    if os.path.exists(f"{folder}/{band}.tif"):  # noqa: PTH110 - ten times as fast as pathlib
        return True
    with os.scandir(folder) as entries:
        return any(band_of(e.name) for e in entries)


def _tabulate(rows: "array[int]", num_dates: int, num_bands: int) -> np.ndarray:
    """Turn rows of date, channel and member into a table of members, shape (dates, bands)."""
    members = np.zeros((num_dates, num_bands), MEMBER_FIELDS)
    members["offset"] = _ABSENT
    table = np.array(rows).reshape(-1, 2 + len(MEMBER_FIELDS))
    for column, (field, _) in enumerate(MEMBER_FIELDS, start=2):
        members[field][table[:, 0], table[:, 1]] = table[:, column]
    return members


def _sort_dates(dates: list[str]) -> tuple[list[str], np.ndarray]:
    """Sort "place/scene" as folders are sorted: "place/scene/scene" strings, and the order."""
    split = [date.split("/") for date in dates]
    order = sorted(range(len(dates)), key=lambda i: [_natural_order(part) for part in split[i]])
    places = [
        "/".join([place, *(split[i][1] for i in of_place)])
        for place, of_place in groupby(order, key=lambda i: split[i][0])
    ]
    return places, np.array(order)
