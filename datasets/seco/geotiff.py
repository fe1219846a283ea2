"""One band of a SeCo patch as a single-band uint8 GeoTIFF."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.seco.bad_patches import BadPatchError
from utils.errors import UserError

# Training from a packed store reads no GeoTIFFs, and so does not import rasterio, which is slow.
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
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, **_OPTIONS) as file:
                return _read(file, str(path))
    except RasterioError as error:
        raise BadPatchError(str(path), UNREADABLE if path.exists() else "is missing") from error


def decode_band(data: bytes, name: str) -> np.ndarray:
    """Read a band from the bytes of a file: uint8, shape (height, width).

    Args:
        data: Content of the file.
        name: Its name, for errors.

    Raises:
        BadPatchError: The file is damaged.
        UserError: The file is not a single uint8 band.
    """
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    if not data:  # rasterio would create a new file
        raise BadPatchError(name, UNREADABLE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with MemoryFile(data) as memory, memory.open(**_OPTIONS) as file:
                return _read(file, name)
    except RasterioError as error:
        raise BadPatchError(name, UNREADABLE) from error


def _read(file: DatasetReader, name: str) -> np.ndarray:
    if file.count != 1:
        raise UserError(
            f"{name} has {file.count} bands, SeCo patches are one file per band: "
            "--data_dir is not a SeCo data set"
        )
    if file.dtypes[0] != "uint8":
        raise UserError(
            f"{name} holds {file.dtypes[0]} values, but SeCo patches are uint8, 255 times "
            "reflectance: store floor(255 * min(reflectance, 1)), where reflectance is digital "
            "numbers / 10,000, or collect with --dtype uint8"
        )
    return file.read(1)
