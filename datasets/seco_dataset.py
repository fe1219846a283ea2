"""SeCo patches on disk: ``<place>/<scene>/<band>.tif``, the layout of both published archives.

A place is a folder of dates, a date (scene) is a folder with one single-band uint8 GeoTIFF per
band: 264, 132 or 44 px for 10, 20 or 60 m. What else lies around is ignored: metadata, hidden
files, and the previews ``<place>/<scene>.tif`` of the 100K archive, which are brightened.
"""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from torch.utils.data import Dataset

from datasets.bad_patches import BadPatchError, OnBadPatch, first_good
from datasets.bands import RESOLUTION_M, RGB_BANDS, RGB_QUANTILES, check_bands, seco_input_spec
from utils.errors import UserError

QUANTILES_NAME = "quantiles.json"


class SecoDataset(Dataset[dict[str, Any]]):
    """Patches of several dates of a place, as stored.

    A sample is a place with dates drawn at random, or with ``every_date`` one date of a place. It
    is a function of (seed, epoch, index) alone: whoever reads it, and in which order.

    Args:
        root: Folder of the places.
        bands: Bands in channel order. Those of 20 and 60 m are brought to the 10 m grid by
            bilinear interpolation; the outer edges of the grids coincide, as in the archives, so
            that the centre of the first 20 m pixel lies on the corner of the first four of 10 m.
        num_dates: Dates of a place in a sample; 1 if ``every_date``.
        every_date: Take every date of every place as a sample of its own.
        replace: Draw dates with replacement, as the original does.
        seed: Seed of the draw.
        on_bad_patch: Raise ``BadPatchError``, or skip to the next good sample.

    Attributes:
        input_spec: Bands, stretch and normalisation of the patches.
        patch_shape: Bands, height and width in 10 m pixels.
    """

    def __init__(
        self,
        root: Path,
        bands: Sequence[str] = RGB_BANDS,
        num_dates: int = 3,
        *,
        every_date: bool = False,
        replace: bool = False,
        seed: int = 0,
        on_bad_patch: OnBadPatch = "raise",
    ) -> None:
        self.root = root
        self.bands = check_bands(bands)
        self.num_dates = 1 if every_date else num_dates
        self.replace = replace
        self.seed = seed
        self.on_bad_patch = on_bad_patch
        places = index_places(root, self.bands[0])
        _check_dates(places, root, 1 if replace else self.num_dates)
        _check_bands_exist(places[0], root, self.bands)
        # Strings "place/scene/scene": few objects, which a forked worker has to copy.
        self._samples = split_dates(places) if every_date else places
        self.input_spec = seco_input_spec(self.bands, read_quantiles(root))
        size, _ = first_good(self._read_size, 0, len(self), on_bad_patch)
        self.patch_shape = (len(self.bands), *size)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Read the sample of (epoch, index).

        Returns:
            "patches": uint8, shape (T, C, H, W); "epoch" and "index" as asked for; "bad": names of
            the bad patches in whose place this sample was read, normally none.
        """
        epoch, index = key
        patches, bad = first_good(
            lambda i: self._read_sample(epoch, i), index, len(self), self.on_bad_patch
        )
        return {"patches": torch.from_numpy(patches), "epoch": epoch, "index": index, "bad": bad}

    def _read_sample(self, epoch: int, index: int) -> np.ndarray:
        place, *dates = self._samples[index].split("/")
        seeds = np.random.SeedSequence(self.seed, spawn_key=(epoch, index))
        drawn = np.random.default_rng(seeds).choice(dates, self.num_dates, replace=self.replace)
        return np.stack([self._read_patch(self.root / place / date) for date in drawn])

    def _read_patch(self, folder: Path) -> np.ndarray:
        """Read one date: uint8, shape (C, H, W)."""
        patch = np.empty(self.patch_shape, np.uint8)
        height, width = patch.shape[1:]
        for channel, band in zip(patch, self.bands, strict=True):
            path, factor = folder / f"{band}.tif", RESOLUTION_M[band] // 10
            stored = read_band(path)
            # A patch that is no multiple of 60 m is covered by a rounded number of pixels.
            excess = np.abs(np.array(stored.shape) * factor - (height, width))
            if (excess >= factor).any():
                raise UserError(
                    f"{path} has {stored.shape[0]} x {stored.shape[1]} px of {10 * factor} m, but "
                    f"the patches of this data set are {height} x {width} px of 10 m: "
                    "all need the same size"
                )
            channel[:] = _resize(stored, height, width)
        if not patch.any():
            raise BadPatchError(str(folder), "holds only zeros")
        return patch

    def _read_size(self, index: int) -> tuple[int, int]:
        """Measure the finest band of the sample's first date: height, width in 10 m pixels."""
        place, date, *_ = self._samples[index].split("/")
        band = min(self.bands, key=RESOLUTION_M.__getitem__)
        height, width = read_band(self.root / place / date / f"{band}.tif").shape
        factor = RESOLUTION_M[band] // 10
        return height * factor, width * factor


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


def split_dates(places: Sequence[str]) -> list[str]:
    """Turn each "place/scene/scene" into one "place/scene" per date."""
    split = (place.split("/") for place in places)
    return [f"{place}/{date}" for place, *dates in split for date in dates]


def find_bands(root: Path, place: str) -> list[str]:
    """Return the bands that at least one date of "place/scene/scene" has."""
    name, *dates = place.split("/")
    files = {path.name for date in dates for path in (root / name / date).iterdir()}
    return [band for band in RESOLUTION_M if f"{band}.tif" in files]


def read_band(path: Path) -> np.ndarray:
    """Read a single-band uint8 GeoTIFF of shape (height, width)."""
    try:
        with warnings.catch_warnings():
            # SeCo's use as pictures needs no coordinates, and half of the time would go into them.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff", GEOREF_SOURCES="NONE") as file:
                if file.count != 1:
                    raise UserError(
                        f"{path} has {file.count} bands, SeCo patches are one file per band: "
                        "--data_dir is not a SeCo data set"
                    )
                if file.dtypes[0] != "uint8":
                    raise UserError(
                        f"{path} holds {file.dtypes[0]} reflectance, SeCo patches are uint8 "
                        "(255 times reflectance): convert them first"
                    )
                return file.read(1)
    except RasterioError as error:
        state = "is not a readable GeoTIFF" if path.exists() else "is missing"
        raise BadPatchError(str(path), state) from error


def read_quantiles(root: Path) -> dict[str, tuple[float, float]]:
    """Return 2 % and 98 % quantiles per band in stored uint8 steps.

    Those of B2, B3 and B4 are always the published ones, so that RGB means the same for every data
    set and encoder; those of other bands come from ``quantiles.json`` in the data set, if there is
    one (``datasets/seco_utils.py`` writes it).
    """
    path = root / QUANTILES_NAME
    if not path.exists():
        return RGB_QUANTILES
    try:
        measured = json.loads(path.read_text())["quantiles"]
        pairs = {band: (float(low), float(high)) for band, (low, high) in measured.items()}
        if not all(0 <= low < high <= 256 for low, high in pairs.values()):  # NaN is not either
            raise ValueError(pairs)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: write it again with datasets/seco_utils.py") from error
    return pairs | RGB_QUANTILES


def _resize(stored: np.ndarray, height: int, width: int) -> np.ndarray:
    if stored.shape == (height, width):
        return stored
    # Pillow puts pixel centres at i + 0.5, and renormalises weights at the edge: it repeats it.
    return np.asarray(Image.fromarray(stored).resize((width, height), Image.Resampling.BILINEAR))


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    return sorted(names, key=_order)


def _order(name: str) -> tuple[float, str]:
    is_number = name.isascii() and name.isdigit()
    return (int(name) if is_number else float("inf"), name)


def _is_date(folder: str, band: str) -> bool:
    if os.path.exists(f"{folder}/{band}.tif"):  # noqa: PTH110 - ten times as fast as pathlib
        return True
    with os.scandir(folder) as entries:
        return any(e.name.endswith(".tif") and not e.name.startswith(".") for e in entries)


def _check_dates(places: list[str], root: Path, needed: int) -> None:
    for entry in places:
        place, *dates = entry.split("/")
        if len(dates) < needed:
            raise UserError(
                f"{root / place} has {len(dates)} date{'s' * (len(dates) != 1)}, but --data_mode "
                f"needs {needed} of each place: remove the place or take --data_mode moco"
            )


def _check_bands_exist(place: str, root: Path, bands: Sequence[str]) -> None:
    """Refuse bands that no date of a place has; one date without is only damaged."""
    there = find_bands(root, place)
    missing = [band for band in bands if band not in there]
    if missing:
        raise UserError(
            f"{root} has no band {' '.join(missing)}, as its place {place.split('/')[0]} shows: "
            f"choose --bands among {' '.join(there)}"
        )
