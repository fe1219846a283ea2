"""Longitude and latitude of the corners of patches, and the size of their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rasterio.crs import CRS
    from rasterio.transform import Affine

_WGS84 = "EPSG:4326"
# Metres per degree of latitude: a 90th of the quadrant of WGS 84, 10,001,965.7 m (NGA.STND.0036).
_M_PER_DEGREE = 111_133.0
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])  # column, row: counterclockwise, north up


def corners_of(crs: CRS | None, transform: Affine | None, boxes: np.ndarray) -> np.ndarray:
    """Return the corners of boxes of pixels.

    Args:
        crs: Coordinate reference system; None if unknown.
        transform: From column and row to coordinates; None if unknown.
        boxes: First column, first row, width and height of each box, shape (N, 4).

    Returns:
        Longitude and latitude of the upper left, lower left, lower right and upper right corner, in
        degrees, float64, shape (N, 4, 2); NaN where they are unknown or beyond the projection.
    """
    corners = np.full((len(boxes), 4, 2), np.nan)
    if crs is None or transform is None or not len(boxes):
        return corners
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    columns, rows = (boxes[:, None, :2] + _CORNERS * boxes[:, None, 2:]).reshape(-1, 2).T
    a, b, c, d, e, f = tuple(transform)[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    try:
        to_degrees = Transformer.from_crs(crs.to_wkt(), _WGS84, always_xy=True)
    except ProjError:  # a local system, whose place on Earth is unknown
        return corners
    corners.reshape(-1, 2)[:] = np.stack(to_degrees.transform(x, y), axis=1)
    # PROJ returns infinity for what a projection does not show.
    corners[~np.isfinite(corners).all((1, 2))] = np.nan
    # A patch in degrees may begin beyond the antimeridian.
    east = corners[..., 0]
    corners[..., 0] = np.where(np.abs(east) <= 180, east, (east + 180) % 360 - 180)
    return corners


def pixel_m(crs: CRS | None, transform: Affine | None, height: int) -> float:
    """Return the ground resolution in metres, the mean of both directions; NaN if unknown.

    Args:
        crs: Coordinate reference system, None if unknown; in degrees, a degree of longitude is
            measured at the middle row.
        transform: From column and row to coordinates; None if unknown.
        height: Rows of the raster.
    """
    if crs is None or transform is None:
        return np.nan
    across = np.hypot(transform.a, transform.d)
    down = np.hypot(transform.b, transform.e)
    if not crs.is_geographic:
        metres = crs.units_factor[1]  # linear_units_factor refuses local systems
        return float((across + down) / 2 * metres)
    latitude = transform.e * height / 2 + transform.f
    across *= np.cos(np.radians(latitude))
    return float((across + down) / 2 * _M_PER_DEGREE)
