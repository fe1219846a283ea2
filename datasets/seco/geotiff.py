"""One band of a SeCo patch as a single-band uint8 GeoTIFF.

Training from a packed store reads no GeoTIFFs, and so does not import rasterio, which is slow.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.seco.bad_patches import BadPatchError
from utils.errors import UserError
from utils.files import check_regular

if TYPE_CHECKING:
    import numpy as np
    from rasterio.io import DatasetReader

# Coordinates are not needed, and reading them would take half of the time.
_OPTIONS = {"driver": "GTiff", "GEOREF_SOURCES": "NONE"}
UNREADABLE = "is not a readable GeoTIFF"


def read_band(path: Path) -> np.ndarray:
    """Read a band from a file: uint8, shape (height, width).

    Raises:
        BadPatchError: The file is missing or damaged.
        UserError: The file is not a single uint8 band.
    """
    return _read(path, str(path))


def decode_band(data: bytes, name: str) -> np.ndarray:
    """Read a band from the bytes of a file, as ``read_band`` does.

    Args:
        data: Content of the file.
        name: Its name, for errors.
    """
    if not data:  # rasterio would create a new file
        raise BadPatchError(name, UNREADABLE)
    return _read(data, name)


def _read(source: Path | bytes, name: str) -> np.ndarray:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if isinstance(source, Path):
                check_regular(source)
                with rasterio.open(source, **_OPTIONS) as file:
                    return _pixels(file, name)
            with rasterio.MemoryFile(source) as memory, memory.open(**_OPTIONS) as file:
                return _pixels(file, name)
    except (RasterioError, OSError) as error:
        is_missing = isinstance(source, Path) and not source.exists()
        raise BadPatchError(name, "is missing" if is_missing else UNREADABLE) from error


def _pixels(file: DatasetReader, name: str) -> np.ndarray:
    if file.count != 1 or file.dtypes[0] != "uint8":
        raise UserError(
            f"{name} has {file.count} {'band' if file.count == 1 else 'bands'} of "
            f"{file.dtypes[0]}, but a file of a SeCo patch is one band of uint8, 255 times "
            "reflectance: store floor(255 * min(reflectance, 1)), where reflectance is digital "
            "numbers / 10,000, or collect with --dtype uint8"
        )
    return file.read(1)
