"""Where land is, to 30 arc seconds: the mask of the package global-land-mask (GLOBE, 1 km).

The package itself takes 7 s and 917 MB when it is imported; here its file is read with a bit per
cell, which takes 2 to 3 s and 117 MB.
"""

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

Array = NDArray[Any]

_ROWS, _COLUMNS = 21_600, 43_200  # cells of 1/120 degree, from 90 N 180 W
_STRIP = 240  # rows that are unpacked at a time
_FILE = "globe_combined_mask_compressed.npz"


class LandMask:
    """The mask, in memory as long as this object."""

    def __init__(self) -> None:
        package = find_spec("global_land_mask")
        if package is None or package.origin is None:
            raise UserError(
                "--land_mask needs global-land-mask: pip install global-land-mask, or give "
                "--no_land_mask"
            )
        path = Path(package.origin).with_name(_FILE)
        try:
            with zipfile.ZipFile(path) as archive, archive.open("mask.npy") as file:
                self._sea = _read_bits(file)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} cannot be read: install global-land-mask 1.0.0 again"
            ) from error

    def is_land(self, lat: Array, lng: Array) -> Array:
        """Tell which points, in degrees, are on land or on a lake; any one shape."""
        row = np.clip(((90 - lat) * 120).astype(np.int64), 0, _ROWS - 1)
        column = np.clip(((lng + 180) * 120).astype(np.int64), 0, _COLUMNS - 1)
        byte = self._sea[row, column // 8]
        return (byte >> (7 - column % 8).astype(np.uint8)) & 1 == 0


def _read_bits(file: IO[bytes]) -> Array:
    """Read the array of booleans, with a bit for each, shape (rows, columns / 8)."""
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if (shape, is_fortran, dtype) != ((_ROWS, _COLUMNS), False, np.dtype(bool)):
        raise ValueError(f"an array of {dtype} {shape}")
    strips = []
    for _ in range(_ROWS // _STRIP):
        cells = np.frombuffer(file.read(_STRIP * _COLUMNS), bool)
        strips.append(np.packbits(cells.reshape(_STRIP, _COLUMNS), axis=1))
    return np.concatenate(strips)
