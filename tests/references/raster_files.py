"""GeoTIFFs whose pixels say where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine, from_origin

# A corner of UTM zone 31N in metres, and pixels of 10 m.
UTM = {"crs": "EPSG:32631", "transform": from_origin(500_000, 5_400_000, 10, 10)}
IN_DEGREES = from_origin(2.0, 48.0, 0.0001, 0.0001)


def coded(rows: int, columns: int, num_bands: int = 3) -> np.ndarray:
    """Return digital numbers that differ in every pixel and band: uint16, shape (C, H, W)."""
    row, column = np.mgrid[:rows, :columns]
    planes = [300 + band * 2000 + (7 * row + 3 * column) % 1999 for band in range(num_bands)]
    return np.stack(planes).astype(np.uint16)


def write_raster(
    path: Path,
    pixels: np.ndarray,
    bands: tuple[str, ...] = ("B2", "B3", "B4"),
    transform: Affine = UTM["transform"],
    crs: str | None = UTM["crs"],
    **profile: Any,
) -> Path:
    """Write pixels, (C, H, W), as a tiled GeoTIFF.

    Args:
        path: File to write.
        pixels: Stored values.
        bands: Names of the bands; () writes none.
        transform: From column and row to coordinates.
        crs: Coordinate reference system; None writes none.
        profile: Further settings of the file.
    """
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    settings = {"driver": "GTiff", "crs": crs, "transform": transform, **shape, **tiles, **profile}
    with rasterio.open(path, "w", **settings) as file:
        file.write(pixels)
        for band, name in enumerate(bands, 1):
            file.set_band_description(band, name)
    return path
