"""The zip of a SeCo data set, read in place: its 13 million small files never touch the disk."""

from array import array
from itertools import groupby
from pathlib import Path

import numpy as np

from datasets.archive import MEMBER_FIELDS, ZipFiles, ZipMember
from datasets.bands import ALL_BANDS, QUANTILES_NAME, band_of, find_band_files
from datasets.geotiff import UNREADABLE, decode_band
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.folder import natural_order
from utils.errors import UserError
from utils.files import is_hidden

_ABSENT = -1  # as an offset
_BITS = {band: 1 << bit for bit, band in enumerate(ALL_BANDS)}


class SecoZip:
    """Files ``<place>/<scene>/<band>.tif`` in a zip, perhaps below further folders.

    Args:
        path: The zip.
        bands: Bands that will be read; where the others are is not kept.
    """

    def __init__(self, path: Path, bands: tuple[str, ...]) -> None:
        self.path = path
        self.bands = bands
        self._zip = ZipFiles(path)
        dates, bands_of_dates, members = self._list()
        if not dates:
            raise UserError(f"{path} holds no SeCo places, which are folders PLACE/SCENE/B4.tif")
        self.places, order = _sort_dates(dates)
        self._members = members[order]  # (patches, bands)
        self._first_bands = bands_of_dates[order[: self.places[0].count("/")]]

    def band_names(self) -> list[str]:
        """Return the bands that at least one date of the first place has."""
        seen = int(np.bitwise_or.reduce(self._first_bands))
        return [band for band, bit in _BITS.items() if seen & bit]

    def read_band(self, name: str, patch: int, band: str) -> np.ndarray:
        """Read a band of "place/scene" as it is stored: uint8, shape (height, width)."""
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
        """Return the file of the quantiles beside the places, or None."""
        try:
            return None if self._quantiles is None else self._zip.read(self._quantiles)
        except ValueError as error:
            raise UserError(f"{QUANTILES_NAME} in {self.path} is damaged") from error

    def _list(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Read the zip's directory once.

        Returns:
            "place/scene" of every date; the bands that each has, one bit per band; their members,
            shape (dates, bands).
        """
        numbers: dict[str, int] = {}
        seen, rows = array("H"), array("q")
        channels = {band: channel for channel, band in enumerate(self.bands)}
        folder, quantiles, repeated = None, {}, set[str]()
        for name, member in self._zip.members():
            if name.endswith(QUANTILES_NAME):
                quantiles[name.removesuffix(QUANTILES_NAME)] = member
            split = split_member(name)
            if split is None:
                continue
            above, date, band = split
            folder = above if folder is None else folder
            if above != folder:
                raise UserError(
                    f"{self.path} holds places in {folder or './'} and in {above or './'}: "
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
        self._check_spellings(repeated)
        self._quantiles = quantiles.get(folder or "")
        return list(numbers), np.array(seen), _tabulate(rows, len(numbers), len(channels))

    def _check_spellings(self, folders: set[str]) -> None:
        """Refuse two files of a band; of two members of one name the last counts, as in unzip."""
        files: dict[str, set[str]] = {folder: set() for folder in folders}
        for name, _ in self._zip.members() if folders else ():
            folder, _, file = name.rpartition("/")
            if folder in files:
                files[folder].add(file)
        for folder in sorted(files):
            find_band_files(files[folder], f"{self.path}/{folder}")


def split_member(name: str) -> tuple[str, str, str] | None:
    """Split a member into the folders above the place, "place/scene" and band.

    None stands for a member that is no band of a date, such as a preview or a hidden file.
    """
    *above, place, scene, file = name.split("/") if name.count("/") > 1 else ("", "", "")
    band = band_of(file)
    if band is None or is_hidden(name):
        return None
    return "".join(f"{folder}/" for folder in above), f"{place}/{scene}", band


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
    order = sorted(range(len(dates)), key=lambda i: [natural_order(part) for part in split[i]])
    places = [
        "/".join([place, *(split[i][1] for i in of_place)])
        for place, of_place in groupby(order, key=lambda i: split[i][0])
    ]
    return places, np.array(order)
