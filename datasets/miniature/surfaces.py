"""Surfaces of the miniature Earth: their reflectance in each band, season and weather.

A surface is a mixture of end members (soil, leaves, straw, water, snow, ...) whose shares follow
the temperature and the drought of a date. Reflectance is in 0..1, wavelength order of Sentinel-2.
The spectra are our own round numbers after the usual shapes: green peak, red edge, water
absorption in the short-wave infrared, bright snow that is dark beyond 1.5 um.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.bands import ALL_BANDS

Array = NDArray[Any]

# Central wavelengths in micrometres (Sentinel-2 user handbook); level-2A data lack B10.
SENSOR_BANDS = (*ALL_BANDS[:-2], "B10", *ALL_BANDS[-2:])
WAVELENGTHS_UM = np.array(
    [0.443, 0.490, 0.560, 0.665, 0.705, 0.740, 0.783, 0.842, 0.865, 0.945, 1.375, 1.610, 2.190]
)
# Per cent of reflectance in the 13 bands.
_PER_CENT = {
    "brown soil": (7, 8, 11, 15, 17, 19, 21, 23, 25, 25, 1, 32, 28),
    "red soil": (5, 6, 9, 17, 20, 23, 25, 27, 28, 28, 1, 35, 30),
    "pale soil": (14, 17, 22, 26, 28, 30, 32, 34, 36, 36, 1, 42, 38),
    "dark soil": (4, 5, 7, 8, 10, 11, 12, 14, 15, 15, 1, 20, 18),
    "leaves": (3, 3, 6, 3, 10, 28, 36, 38, 40, 40, 1, 20, 9),
    "needles": (2, 2, 3, 2, 5, 15, 19, 21, 22, 22, 0, 10, 5),
    "straw": (7, 9, 13, 17, 20, 23, 25, 27, 29, 29, 1, 34, 26),
    "clear water": (5, 4.5, 3.5, 2, 1.8, 1.4, 1.2, 1, 1, 1, 0, 0.5, 0.3),
    "turbid water": (8, 10, 13, 11, 10, 6, 5, 4, 3.5, 3, 0, 1, 0.5),
    "green water": (4, 5, 9, 5, 6, 4, 3, 2, 2, 2, 0, 0.5, 0.3),
    "sand": (15, 19, 24, 28, 30, 31, 32, 33, 34, 34, 2, 40, 37),
    "asphalt": (8, 9, 10, 10.5, 11, 11.5, 12, 13, 13.5, 14, 1, 16, 15),
    "concrete": (17, 20, 23, 25, 26, 27, 28, 29, 30, 30, 2, 33, 31),
    "tiles": (6, 7, 10, 18, 21, 23, 25, 26, 27, 27, 1, 32, 30),
    "slate": (8, 9, 9.5, 9.5, 10, 10, 11, 11, 11, 11, 1, 13, 13),
    "metal": (34, 37, 39, 40, 40, 41, 41, 41, 42, 42, 3, 42, 38),
    "snow": (82, 85, 84, 82, 81, 79, 77, 74, 72, 62, 3, 8, 7),
}
_SPECTRA = {name: np.array(row) / 100 for name, row in _PER_CENT.items()}


class Kind(NamedTuple):
    """How surfaces of one kind behave over the year; shares are in 0..1."""

    ground: str  # end member below the plants; "soil" and "water" are those of the place
    leaf: str = "leaves"  # end member of the green parts
    evergreen: float = 0.0  # green share in the worst season
    seasonal: float = 0.0  # green share that the growing season adds
    straw: float = 0.0  # share of dry plants in the part that is not green
    is_crop: bool = False  # green follows sowing and harvest, not the temperature alone
    snow: float = 0.9  # part of it that snow can hide


KINDS = {
    "crop": Kind("soil", seasonal=0.85, straw=0.35, is_crop=True, snow=1.0),
    "grass": Kind("soil", evergreen=0.2, seasonal=0.6, straw=0.7, snow=1.0),
    "dry grass": Kind("soil", evergreen=0.05, seasonal=0.4, straw=0.6, snow=1.0),
    "shrub": Kind("soil", leaf="needles", evergreen=0.45, seasonal=0.25, straw=0.4, snow=0.7),
    "deciduous": Kind("soil", evergreen=0.12, seasonal=0.75, straw=0.6, snow=0.5),
    "conifer": Kind("dark soil", leaf="needles", evergreen=0.8, seasonal=0.1, snow=0.35),
    "orchard": Kind("soil", evergreen=0.25, seasonal=0.5, straw=0.4, snow=0.6),
    "soil": Kind("soil", evergreen=0.03, seasonal=0.1, straw=0.15, snow=1.0),
    "water": Kind("water", snow=0.0),
    "sand": Kind("sand"),
    "asphalt": Kind("asphalt", snow=0.3),
    "concrete": Kind("concrete", snow=0.7),
    "tiles": Kind("tiles"),
    "slate": Kind("slate"),
    "metal": Kind("metal", snow=0.8),
}


class Surface(NamedTuple):
    """One surface of a place."""

    kind: str  # key of KINDS
    tone: float = 1.0  # factor of its brightness
    hue: float = 0.0  # exponent of the wavelength, redder above 0
    shift_days: float = 0.0  # days by which its season precedes the usual one
    floods_at: float = 2.0  # water level, 0..1, that covers it; above 1 for land that stays dry


@dataclass(frozen=True)
class Climate:
    """Properties of a place on all dates."""

    latitude: float  # degrees, negative in the south
    aridity: float  # 0 for green summers, 1 for brown ones
    soil: Array  # reflectance of its bare soil, shape (13,)
    water: Array  # reflectance of its water, shape (13,)


@dataclass(frozen=True)
class Weather:
    """Weather and sun at one overpass."""

    day_of_year: int  # 1..366
    warmth: float  # degrees by which the season differs from the mean
    water_level: float  # 0 (drought) .. 1 (flood)
    snow: float  # share of the ground with snow, 0..1
    sun_elevation: float  # degrees above the horizon
    haze: float  # reflectance that the air adds at 0.49 um, 0.01..0.09
    gain: float  # factor of the residual error of the atmospheric correction


def draw_climate(rng: np.random.Generator) -> Climate:
    """Draw latitude (most land and most cities lie in the northern middle ones) and tones."""
    latitude = float(np.clip(rng.normal(40, 12), 0, 62)) * (1 if rng.random() < 0.85 else -1)
    aridity = float(rng.beta(1, 1))
    return Climate(latitude, aridity, soil=_blend(rng, "soil"), water=_blend(rng, "water"))


def _blend(rng: np.random.Generator, substance: str) -> Array:
    """Mix all end members of a substance at random, mostly one of them: shape (13,)."""
    rows = np.array([row for name, row in _SPECTRA.items() if name.endswith(f" {substance}")])
    shares = rng.dirichlet(np.full(len(rows), 0.5))
    return np.asarray((shares[:, None] * rows).sum(axis=0))


def draw_weather(rng: np.random.Generator, latitude: float, date: datetime) -> Weather:
    """Draw the weather of a latitude on a date; there is snow only with frost.

    Args:
        rng: Source of the weather.
        latitude: Degrees, negative in the south.
        date: Date of the overpass.
    """
    day = date.timetuple().tm_yday
    warmth = float(rng.normal(0, 2.5))
    temperature = float(_mean_temperature(latitude, day)) + warmth
    declination = 23.4 * np.cos(2 * np.pi * (day - 172) / 365.25)
    wet = 0.5 - 0.25 * np.cos(_season_angle(latitude, day + 60)) + rng.normal(0, 0.2)
    return Weather(
        day_of_year=day,
        warmth=warmth,
        water_level=float(np.clip(wet, 0, 1)),
        snow=float(np.clip((0.5 - temperature) / 6 + rng.normal(0, 0.2), 0, 1)),
        # The satellite passes at 10:30, some 22 degrees of hour angle before noon.
        sun_elevation=float(max(12.0, 85 - abs(latitude - declination))),
        haze=float(min(0.01 + rng.exponential(0.015), 0.09)),
        gain=float(np.exp(rng.normal(-0.2, 0.25))),
    )


def _season_angle(latitude: float, day_of_year: float | Array) -> Any:
    """Return the angle of the year, 0 at the local warmest day (20 July in the north)."""
    warmest = 201 if latitude >= 0 else 18
    return 2 * np.pi * (day_of_year - warmest) / 365.25


def _mean_temperature(latitude: float, day_of_year: float | Array) -> Any:
    """Return degrees Celsius: 27 at the equator, colder and more seasonal towards the poles."""
    yearly = 27 - 0.0075 * latitude**2
    return yearly + 0.3 * abs(latitude) * np.cos(_season_angle(latitude, day_of_year))


def reflect(surfaces: Sequence[Surface], climate: Climate, weather: Weather) -> Array:
    """Return the reflectance on one date, without snow and below it: shape (2, N, 13).

    Args:
        surfaces: N surfaces.
        climate: That of their place.
        weather: That of the date.
    """
    kinds = [KINDS[surface.kind] for surface in surfaces]
    _, tone, hue, shift_days, floods_at = zip(*surfaces, strict=True)
    green = _green_share(kinds, climate, weather.day_of_year + np.array(shift_days), weather.warmth)
    straw = (1 - green) * np.array([kind.straw for kind in kinds])
    grounds = _SPECTRA | {"soil": climate.soil, "water": climate.water}
    ground = np.array([grounds[kind.ground] for kind in kinds])
    leaf = np.array([_SPECTRA[kind.leaf] for kind in kinds])
    bare = (1 - green - straw)[:, None] * ground
    mixed = bare + green[:, None] * leaf + straw[:, None] * _SPECTRA["straw"]
    mixed *= np.array(tone)[:, None]
    mixed *= (WAVELENGTHS_UM / 0.6) ** np.array(hue)[:, None]
    flooded = np.array(floods_at) < weather.water_level
    mixed = np.where(flooded[:, None], climate.water, mixed)
    depth = 0.08 + 0.17 * weather.snow
    hidden = np.where(flooded, 0, [kind.snow for kind in kinds])[:, None] * depth
    return np.stack([mixed, (1 - hidden) * mixed + hidden * _SPECTRA["snow"]])


def _green_share(kinds: Sequence[Kind], climate: Climate, day: Array, warmth: float) -> Array:
    """Return the share of green leaves per surface on its own day of the year, shape (N,)."""
    temperature = _mean_temperature(climate.latitude, day) + warmth
    growth = 1 / (1 + np.exp(-(temperature - 9) / 2.5))
    drought = climate.aridity / (1 + np.exp(-(temperature - 21) / 2))
    # A crop greens 50 days before the warmest day, within about five weeks, and is then cut.
    phase = _season_angle(climate.latitude, day) + 2 * np.pi * 50 / 365.25
    crop = np.exp(2.2 * (np.cos(phase) - 1))
    season = np.where([kind.is_crop for kind in kinds], crop, growth * (1 - 0.85 * drought))
    evergreen = np.array([kind.evergreen for kind in kinds])
    return np.asarray(evergreen + season * np.array([kind.seasonal for kind in kinds]))
