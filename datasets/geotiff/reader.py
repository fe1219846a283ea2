"""The only reader of GeoTIFFs, with limits that hold before any pixel is decoded.

GDAL takes about a millisecond for a small file, most of it to open it. What SeCo, BigEarthNet and
our collector write is therefore decoded here: one band in strips or tiles, not compressed, or with
Deflate or JPEG (TIFF 6.0, its Technical Note 2 for JPEG, Supplement 2 for Deflate). GDAL reads all
other files, and decides what is damaged.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from datasets.geotiff.plain import decode_plain, parse_plain
from utils.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rasterio.crs import CRS
    from rasterio.io import DatasetReader
    from rasterio.transform import Affine

# A tile of Sentinel-2 has 109.8 km, 10,980 px of 10 m (ESA, Sentinel-2 Products Specification
# Document, S2-PDGS-TAS-DI-PSD); no band that is read here is larger.
MAX_SIDE_PX = 10_980
MAX_BYTES = 2**28  # of a file, and of its pixels: such a band of 16 bits
# GDAL looks neither for files next to a file (.aux.xml, .ovr, .msk) nor keeps many decoded blocks.
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64,  # MB
}

Check = Callable[[int, str, tuple[int, int]], None]

# GDAL logs each tag that it cannot read, also with texts of the file; what matters is raised.
logging.getLogger("rasterio._env").setLevel(logging.CRITICAL)
_GDAL_LOCK = Lock()  # warning filters belong to all threads


def read_geotiff(data: bytes, name: str, check: Check) -> np.ndarray:
    """Decode all bands of a file.

    Args:
        data: Content of the file.
        name: Its name, for errors.
        check: Gets the number of bands, their type and (height, width) before a pixel is decoded,
            and raises an error for what it refuses.

    Returns:
        Stored values, shape (C, H, W).

    Raises:
        ValueError: The file is not a GeoTIFF, or damaged.
        UserError: A side has more than ``MAX_SIDE_PX``, or the pixels more than ``MAX_BYTES``.
    """
    layout = parse_plain(data)
    if layout is not None:
        _check_size(name, layout.dtype.itemsize, layout.shape, layout.block)
        check(1, layout.dtype.name, layout.shape)
        pixels = decode_plain(data, layout)
        if pixels is not None:
            return pixels[None]
    with opened(data) as file:
        pixel_bytes = file.count * max(_item_bytes(dtype) for dtype in file.dtypes)
        _check_size(name, pixel_bytes, file.shape, file.block_shapes[0])
        check(file.count, file.dtypes[0], file.shape)
        return np.asarray(file.read())


def one_band(name: object, count: int, dtype: str, shape: tuple[int, int] = (0, 0)) -> None:
    """Refuse a file of several bands, of which one would have to be guessed.

    Its arguments are those of a ``Check``.

    Args:
        name: Name of the file, for the message.
        count: Number of its bands.
        dtype: NumPy's name of their type.
        shape: Height and width, which are not checked.
    """
    if count != 1:
        raise UserError(
            f"{name} has {count} bands of {dtype}, but a file with one band is needed: use the "
            "original file"
        )


@contextmanager
def opened(
    data: bytes, drivers: Sequence[str] = ("GTiff",), *, located: bool = False
) -> Iterator[DatasetReader]:
    """Open the content of a file with rasterio.

    Args:
        data: Content of the file.
        drivers: Formats of GDAL that it may have.
        located: Whether to read the georeference, which takes half of the time.

    Raises:
        ValueError: The file has another format, or is damaged, also where it is read later.
    """
    from rasterio import Env
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    if not data:  # rasterio would create a new file
        raise ValueError("an empty file")
    try:
        with Env(**GDAL_OPTIONS), MemoryFile(data) as memory:
            with _quietly():
                options = {} if located else {"GEOREF_SOURCES": "NONE"}
                file = memory.open(driver=list(drivers), **options)
            with file:
                yield file
    except RasterioError as error:
        raise ValueError(f"not readable: {error}") from error


def open_quietly(path: Path, driver: str) -> DatasetReader:
    """Open a raster without a warning about a missing georeference.

    Args:
        path: The file.
        driver: GDAL's name of its format.
    """
    import rasterio

    with _quietly():
        return rasterio.open(path, driver=driver)


@contextmanager
def _quietly() -> Iterator[None]:
    """Ignore that a file has no georeference."""
    from rasterio.errors import NotGeoreferencedWarning

    with _GDAL_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def place_of(file: DatasetReader) -> tuple[CRS | None, Affine | None]:
    """Return coordinate system and transform of a raster, None for what it does not say.

    Args:
        file: The raster.
    """
    transform = file.transform
    # rasterio gives the identity for a file without a transform.
    is_known = not transform.is_identity and bool(np.isfinite(tuple(transform)).all())
    is_known = is_known and transform.determinant != 0
    return file.crs, transform if is_known else None


def locate(data: bytes, name: str) -> tuple[CRS | None, Affine | None, int, int]:
    """Return coordinate system and transform of a file, None if it has none, and its size.

    Args:
        data: Content of the file.
        name: Its name, for errors.

    Returns:
        The coordinate reference system, the transform from column and row to its coordinates, and
        width and height in pixels.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with opened(data, located=True) as file:
            return *place_of(file), file.width, file.height
    except ValueError as error:
        raise UserError(f"{name} is not a readable GeoTIFF: replace it") from error


def _item_bytes(dtype: str) -> int:
    """Return the bytes of a value; GDAL's complex integers become complex64."""
    return 8 if dtype == "complex_int16" else np.dtype(dtype).itemsize


def _check_size(name: str, pixel_bytes: int, *sizes: tuple[int, int]) -> None:
    """Refuse what takes too much memory: all pixels, or one block, of ``sizes``."""
    height, width = map(max, *sizes)
    if max(height, width) > MAX_SIDE_PX or height * width * pixel_bytes > MAX_BYTES:
        raise UserError(
            f"{name} has {width} x {height} px of {8 * pixel_bytes} bits, more than the "
            f"{MAX_SIDE_PX} of a whole tile of Sentinel-2 in 16 bits: cut it into patches"
        )
