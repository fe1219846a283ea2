"""UTM coordinates of many points at a time, in NumPy: PROJ needs a call per zone.

The series of Krueger as Karney gives them ("Transverse Mercator with an accuracy of a few
nanometers", 2011, doi 10.1007/s00190-011-0445-3), cut behind the 4th power of the third
flattening. Points are arrays, or numbers, of one shape.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

# WGS 84
_RADIUS_M = 6_378_137.0
_FLATTENING = 1 / 298.257223563
_ECCENTRICITY = np.sqrt(_FLATTENING * (2 - _FLATTENING))
_N = _FLATTENING / (2 - _FLATTENING)
# UTM
_SCALE = 0.9996
_FALSE_EASTING_M = 500_000.0
_FALSE_NORTHING_M = 10_000_000.0  # in the south

_QUADRANT_M = _SCALE * _RADIUS_M / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
# Karney's equations 35 and 36, from the first power of n to the fourth.
_FORWARD = (
    _N / 2 - 2 / 3 * _N**2 + 5 / 16 * _N**3 + 41 / 180 * _N**4,
    13 / 48 * _N**2 - 3 / 5 * _N**3 + 557 / 1440 * _N**4,
    61 / 240 * _N**3 - 103 / 140 * _N**4,
    49561 / 161280 * _N**4,
)
_INVERSE = (
    _N / 2 - 2 / 3 * _N**2 + 37 / 96 * _N**3 - 1 / 360 * _N**4,
    1 / 48 * _N**2 + 1 / 15 * _N**3 - 437 / 1440 * _N**4,
    17 / 480 * _N**3 - 37 / 840 * _N**4,
    4397 / 161280 * _N**4,
)


def utm_epsg(lat: ArrayLike, lng: ArrayLike) -> Array:
    """Return the code of the zone in which Sentinel-2's grid (MGRS) has a point.

    Args:
        lat: Degrees, -80 .. 84; the equator counts as north.
        lng: Degrees, of any turn.

    Returns:
        326xx in the north, 327xx in the south, int64; xx is the zone, 1 .. 60.
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
    """Project points to a zone of their own.

    Args:
        lat: Degrees.
        lng: Degrees.
        epsg: As of ``utm_epsg``; points may lie some degrees outside of the zone.

    Returns:
        Easting and northing in metres.
    """
    phi = np.radians(np.asarray(lat, np.float64))
    lam = np.radians(wrapped(np.asarray(lng) - _central_meridian(epsg)))
    conformal = _conformal(np.tan(phi))
    xi = np.arctan2(conformal, np.cos(lam))
    eta = np.arcsinh(np.sin(lam) / np.hypot(conformal, np.cos(lam)))
    zeta = xi + 1j * eta
    zeta = zeta + sum(a * np.sin(2 * j * zeta) for j, a in enumerate(_FORWARD, 1))
    return (
        _FALSE_EASTING_M + _QUADRANT_M * zeta.imag,
        false_northing(epsg) + _QUADRANT_M * zeta.real,
    )


def from_utm(easting: ArrayLike, northing: ArrayLike, epsg: ArrayLike) -> tuple[Array, Array]:
    """Return latitude and longitude in degrees of points in a zone of their own, in metres."""
    north = np.asarray(northing, np.float64) - false_northing(epsg)
    zeta = (north + 1j * (np.asarray(easting, np.float64) - _FALSE_EASTING_M)) / _QUADRANT_M
    zeta = zeta - sum(b * np.sin(2 * j * zeta) for j, b in enumerate(_INVERSE, 1))
    xi, eta = zeta.real, zeta.imag
    lam = np.arctan2(np.sinh(eta), np.cos(xi))
    conformal = np.sin(xi) / np.hypot(np.sinh(eta), np.cos(xi))
    lng = wrapped(np.degrees(lam) + _central_meridian(epsg))
    return np.degrees(np.arctan(_geographic(conformal))), lng


def false_northing(epsg: ArrayLike) -> Array:
    """Return the northing of the equator in metres, float64: 0 or, in the south, 10,000,000."""
    return np.where(np.asarray(epsg) >= 32700, _FALSE_NORTHING_M, 0.0)


def _central_meridian(epsg: ArrayLike) -> Array:
    return 6.0 * (np.asarray(epsg) % 100) - 183


def _conformal(tau: Array) -> Array:
    """Turn the tangent of a latitude into that of the conformal latitude (equations 7 to 9)."""
    sine = tau / np.hypot(1, tau)
    sigma = np.sinh(_ECCENTRICITY * np.arctanh(_ECCENTRICITY * sine))
    return np.asarray(tau * np.hypot(1, sigma) - sigma * np.hypot(1, tau))


def _geographic(conformal: Array) -> Array:
    """Invert ``_conformal`` by Newton's method (equations 19 to 21): it squares the error."""
    rest = 1 - _ECCENTRICITY**2
    tau = conformal
    for _ in range(3):
        value = _conformal(tau)
        slope = rest * np.hypot(1, tau) * np.hypot(1, value) / (1 + rest * tau**2)
        tau = tau + (conformal - value) / slope
    return tau
