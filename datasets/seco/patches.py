"""SeCo patches: ``<place>/<scene>/<band>.tif``, the layout of both published archives.

A place is a folder of dates, a date (scene) is a folder with one single-band uint8 GeoTIFF per
band: 264, 132 or 44 px for 10, 20 or 60 m. The folder of the places may be unpacked or in a zip.
Other files are ignored: metadata, hidden files, and the previews ``<place>/<scene>.tif`` of the
100K archive, which are brightened.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.archive import ZipFiles, is_zip
from datasets.bands import (
    QUANTILES_NAME,
    RESOLUTION_M,
    RGB_BANDS,
    RGB_QUANTILES,
    band_of,
    check_bands,
    seco_input_spec,
)
from datasets.seco.bad_patches import BadPatchError, first_readable
from datasets.seco.folder import SecoFolder, decode_band
from datasets.seco.zipped import SecoZip, split_run
from utils.errors import NOT_AS_WRITTEN, UserError
from utils.files import is_hidden
from utils.input_spec import InputSpec

_NUM_SAMPLES = 32  # patches that show the unit: fewer may all be dark


class SecoPatches:
    """Patches as they are stored, one per date of a place; a ``PatchSource``.

    Args:
        root: Folder of the places, or zip that holds it.
        bands: Bands in channel order. Those of 20 and 60 m are interpolated to the 10 m grid,
            bilinearly; the outer edges of the grids coincide, as in the archives, so that the
            centre of the first 20 m pixel is the common corner of the first four of 10 m.

    Attributes:
        places: A string "place/scene/scene" per place.
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        patch_shape: Bands, height and width in 10 m pixels.

    Raises:
        UserError: There are no SeCo patches, or the first place lacks one of the bands.
    """

    def __init__(self, root: Path, bands: Sequence[str] = RGB_BANDS) -> None:
        self.root = root
        self.bands = check_bands(bands)
        layout = SecoZip if root.is_file() else SecoFolder
        self._files: SecoZip | SecoFolder = layout(root, self.bands)
        self.places = self._files.places
        self.starts = count_dates(self.places)
        there = self._files.band_names()
        missing = [band for band in self.bands if band not in there]
        if missing:  # from all dates; a single date without a band is damaged
            raise UserError(
                f"{root} has no band {' '.join(missing)}, as its place "
                f"{self.places[0].split('/')[0]} shows: choose bands among {' '.join(there)}"
            )
        finest = min(self.bands, key=RESOLUTION_M.__getitem__)
        count = int(self.starts[-1])
        first = first_readable(lambda patch: self._read_band(patch, finest), count)
        height, width = (size * (RESOLUTION_M[finest] // 10) for size in first.shape)
        self.patch_shape = (len(self.bands), height, width)

    @cached_property
    def quantiles(self) -> dict[str, tuple[float, float]]:
        """2 % and 98 % quantiles per band, as far as they are known."""
        return parse_quantiles(self._files.read_quantiles(), self.root / QUANTILES_NAME)

    @cached_property
    def input_spec(self) -> InputSpec:
        """Bands, stretch and normalisation; a band without quantiles is a ``UserError``."""
        return seco_input_spec(self.bands, self.quantiles)

    def name(self, patch: int) -> str:
        """Return "place/scene"."""
        return patch_name(self.places, self.starts, patch)

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read a patch; no band may be damaged, nor all of them zero.

        Arguments as in ``PatchSource.read``.
        """
        pixels = np.empty(self.patch_shape, np.uint8) if out is None else out
        for channel in range(len(pixels)):
            pixels[channel] = self.read_plane(patch, channel)
        if not pixels.any():
            raise BadPatchError(f"{self.root}/{self.name(patch)}", "holds only zeros")
        return pixels

    def read_plane(self, patch: int, channel: int) -> np.ndarray:
        """Read one band of a patch on the 10 m grid: uint8, shape (H, W).

        Args:
            patch: Number of the patch.
            channel: Index of the band in ``bands``.

        Raises:
            UserError: The patch differs from the others in size.
        """
        height, width = self.patch_shape[1:]
        band = self.bands[channel]
        name, factor = self.name(patch), RESOLUTION_M[band] // 10
        stored = self._read_band(patch, band)
        # The side of a patch need not be a multiple of 60 m: the number of pixels is rounded.
        excess = np.abs(np.array(stored.shape) * factor - (height, width))
        if (excess >= factor).any():
            raise UserError(
                f"{self.root}/{name}/{band}.tif has {stored.shape[0]} x {stored.shape[1]} px of "
                f"{10 * factor} m, but the patches of this data set are {height} x {width} px of "
                "10 m: all need the same size"
            )
        return on_10_m_grid(stored, height, width)

    def band_bytes(self, patch: int) -> bytes:
        """Return the content of the file of the first band of a patch."""
        return self._files.read_bytes(self.name(patch), self.bands[0], patch)[0]

    def samples(self) -> Iterator[np.ndarray]:
        """Yield bands of some patches as they are stored, spread over the data set."""
        count = int(self.starts[-1])
        for patch in range(0, count, max(1, count // _NUM_SAMPLES)):
            for band in self.bands:
                with suppress(BadPatchError):  # is raised when the patch is due
                    yield self._read_band(patch, band)

    def _read_band(self, patch: int, band: str) -> np.ndarray:
        return decode_band(*self._files.read_bytes(self.name(patch), band, patch))


def count_dates(places: Sequence[str]) -> np.ndarray:
    """Return the number of the first patch of each place, and of all: int64, shape (P + 1,)."""
    return np.cumsum([0, *(place.count("/") for place in places)])


def patch_name(places: Sequence[str], starts: np.ndarray, patch: int) -> str:
    """Return the name "place/scene" of a patch.

    Args:
        places: Place with its dates, "place/scene/scene", for each place.
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        patch: Number of the patch.
    """
    index = int(np.searchsorted(starts, patch, side="right")) - 1
    place, *dates = places[index].split("/")
    return f"{place}/{dates[patch - int(starts[index])]}"


def day_of(name: str) -> str:
    """Return the day of "place/scene", such as 2019-04-05, or "" for another name.

    Scenes are named as in Earth Engine, <start>_<end>_<tile>: 20190405T103021_20190405T103020_T31.
    """
    found = re.match(r"(\d{4})(\d{2})(\d{2})T\d{6}_", name.rsplit("/", 1)[-1])
    return "-".join(found.groups()) if found else ""


def parse_quantiles(content: bytes | None, name: object) -> dict[str, tuple[float, float]]:
    """Read 2 % and 98 % quantiles per band in stored uint8 steps.

    Those of B2, B3 and B4 are always the published ones, so that RGB means the same for every data
    set and encoder; those of other bands come from ``quantiles.json`` in the data set, if there is
    one (``datasets/seco_utils.py`` writes it).

    Args:
        content: Bytes of the file; None if it does not exist.
        name: Path of the file, for the error.

    Raises:
        UserError: The content is damaged.
    """
    try:
        measured = {} if content is None else check_quantiles(json.loads(content)["quantiles"])
    except NOT_AS_WRITTEN as error:
        raise UserError(f"{name} is damaged: write it again with datasets/seco_utils.py") from error
    return measured | RGB_QUANTILES


def check_quantiles(measured: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Return pairs of floats; raise ``ValueError`` for what cannot stretch uint8 values."""
    pairs = {band: (float(low), float(high)) for band, (low, high) in measured.items()}
    if not all(0 <= low < high <= 256 for low, high in pairs.values()):  # NaN is not either
        raise ValueError(pairs)
    return pairs


def is_seco(data_dir: Path) -> bool:
    """Return whether a folder or zip holds ``<place>/<scene>/<band>.tif``."""
    if data_dir.is_dir():
        files = (path.relative_to(data_dir) for path in data_dir.glob("*/*/*"))
        return any(band_of(file.name) and not is_hidden(file.as_posix()) for file in files)
    if not is_zip(data_dir):
        return False
    return any(split_run(folder, files) for folder, files, _ in ZipFiles(data_dir).runs())


def on_10_m_grid(stored: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate a band bilinearly to the 10 m grid, see ``SecoPatches``.

    Args:
        stored: uint8, shape (h, w).
        height: Height in 10 m pixels.
        width: Width in 10 m pixels.
    """
    if stored.shape == (height, width):
        return stored
    # Pillow puts pixel centres at i + 0.5, and renormalises weights at the edge: it repeats it.
    return np.asarray(Image.fromarray(stored).resize((width, height), Image.Resampling.BILINEAR))
