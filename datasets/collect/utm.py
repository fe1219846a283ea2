"""UTM zones as Sentinel-2's grid (MGRS) has them; PROJ projects points to zones of their own."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from datasets.collect.scenes import Array
from utils.errors import UserError

_FALSE_NORTHING_M = 10_000_000.0  # in the south
_WGS_84 = 4326


def utm_epsg(lat: ArrayLike, lng: ArrayLike) -> Array:
    """Return the zone in which Sentinel-2's grid (MGRS) has a point: 326xx, in the south 327xx.

    Args:
        lat: Degrees, -80 .. 84; the equator counts as north.
        lng: Degrees, of any turn.
    """
    lat, lng = np.asarray(lat), wrapped(lng)
    zone = ((lng + 180) // 6).astype(np.int64) + 1
    # South of Norway 32V is wider at the cost of 31V, and around Svalbard 32X, 34X, 36X are not.
    zone = np.where((lat >= 56) & (lat < 64) & (lng >= 3) & (lng < 12), 32, zone)
    svalbard = 31 + 2 * ((lng + 3) // 12).astype(np.int64)
    zone = np.where((lat >= 72) & (lng >= 0) & (lng < 42), svalbard, zone)
    return np.where(lat >= 0, 32600, 32700) + zone


def wrapped(lng: ArrayLike) -> Array:
    """Bring longitudes to -180 .. 180, without 180 itself."""
    turned = (np.asarray(lng, np.float64) + 180) % 360 - 180
    return np.where(turned >= 180, -180.0, turned)  # the remainder of -1e-20 is rounded to 360


def to_utm(lat: ArrayLike, lng: ArrayLike, epsg: ArrayLike) -> tuple[Array, Array]:
    """Return easting and northing in metres of points in degrees, which may leave their zones.

    Args:
        lat: Latitudes.
        lng: Longitudes.
        epsg: Code of the zone, one or one per point.
    """
    return _projected(lng, lat, epsg, from_zone=False)


def from_utm(easting: ArrayLike, northing: ArrayLike, epsg: ArrayLike) -> tuple[Array, Array]:
    """Return latitude and longitude in degrees of points in a zone of their own, in metres.

    Args:
        easting: Eastings.
        northing: Northings.
        epsg: Code of the zone, one or one per point.
    """
    lng, lat = _projected(easting, northing, epsg, from_zone=True)
    return lat, wrapped(lng)


def _projected(
    x: ArrayLike, y: ArrayLike, epsg: ArrayLike, *, from_zone: bool
) -> tuple[Array, Array]:
    x, y, epsg = np.broadcast_arrays(np.asarray(x, np.float64), y, epsg)
    results = np.empty(x.shape), np.empty(x.shape)
    for code in np.unique(epsg).tolist():
        own, systems = epsg == code, (utm_crs(_WGS_84), utm_crs(code))
        pair = transform(*(reversed(systems) if from_zone else systems), x[own], y[own])
        for result, values in zip(results, pair, strict=True):
            result[own] = values
    return results


def false_northing(epsg: ArrayLike) -> Array:
    """Return the northing of the equator in metres, float64: 0 or, in the south, 10,000,000."""
    return np.where(np.asarray(epsg) >= 32700, _FALSE_NORTHING_M, 0.0)


@lru_cache(maxsize=128)
def utm_crs(epsg: int) -> CRS:
    """Look a code up once: it costs as much as writing a file.

    Raises:
        UserError: PROJ does not find its table of coordinate systems.
    """
    try:
        return CRS.from_epsg(epsg)
    except CRSError as error:
        raise UserError(
            "PROJ does not find its table of coordinate systems: unset PROJ_DATA and PROJ_LIB, and "
            "run the same command again to resume"
        ) from error
