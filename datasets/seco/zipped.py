"""Where the band files of SeCo patches are in a zip, perhaps with millions of them.

Places and dates are in the order of ``folder.py``.
"""

from array import array
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.archive import ZipFiles
from datasets.bands import ALL_BANDS, QUANTILES_NAME, band_of, find_band_files
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.folder import MISSING, UNREADABLE, check_any, natural_order
from utils.errors import UserError
from utils.files import is_hidden

_ABSENT = -1  # as an entry
_BITS = {band: 1 << bit for bit, band in enumerate(ALL_BANDS)}


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
        check_any(list(dates), path)
        self.places, order = _sort_dates(dates)
        self._entries = np.array(entries).reshape(-1, len(bands))[order]  # (patches, bands)
        of_first = np.array(seen)[order[: self.places[0].count("/")]]
        self._of_first = int(np.bitwise_or.reduce(of_first))

    def band_names(self) -> list[str]:
        """Return the bands that at least one date of the first place has."""
        return [band for band, bit in _BITS.items() if self._of_first & bit]

    def read_bytes(self, name: str, band: str, patch: int) -> tuple[bytes, str]:
        """Return the content of a band's file, and its path.

        Arguments as in ``SecoFolder.read_bytes``.
        """
        entry = int(self._entries[patch, self.bands.index(band)])
        where = f"{self.path}/{name}/{band}.tif"
        if entry == _ABSENT:
            raise BadPatchError(where, MISSING)
        try:
            return self._zip.read(entry), where
        except ValueError as error:
            raise BadPatchError(where, UNREADABLE) from error

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


def _sort_dates(dates: dict[str, dict[str, int]]) -> tuple[list[str], np.ndarray]:
    """Sort places and scenes as folders are: "place/scene/scene" strings, and all numbers."""
    places, order = [], array("q")
    for place in sorted(dates, key=natural_order):
        scenes = dates[place]
        names = sorted(scenes, key=natural_order)
        places.append("/".join([place, *names]))
        order.extend([scenes[name] for name in names])
    return places, np.array(order)
