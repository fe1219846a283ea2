"""Surfaces of the miniature Earth: their reflectance in each band and season.

A surface is a mixture of end members (soil, leaves, straw, water, snow, ...) whose shares follow
the temperature and the drought of a date. Reflectance is in 0..1, wavelength order of Sentinel-2.
The spectra are our own round numbers after the usual shapes: green peak, red edge, water
absorption in the short-wave infrared, bright clouds-free snow that is dark beyond 1.5 um.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Central wavelength in micrometres (Sentinel-2 user handbook).
WAVELENGTH_UM = {
    "B1": 0.443,
    "B2": 0.490,
    "B3": 0.560,
    "B4": 0.665,
    "B5": 0.705,
    "B6": 0.740,
    "B7": 0.783,
    "B8": 0.842,
    "B8A": 0.865,
    "B9": 0.945,
    "B10": 1.375,
    "B11": 1.610,
    "B12": 2.190,
}
SENSOR_BANDS = tuple(WAVELENGTH_UM)  # all 13; level-2A data lack B10

# Per cent of reflectance at B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12.
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
END_MEMBERS = tuple(_PER_CENT)
SPECTRA = np.array([_PER_CENT[name] for name in END_MEMBERS]) / 100  # (end members, 13)
SOILS = tuple(name for name in END_MEMBERS if name.endswith(" soil"))
WATERS = tuple(name for name in END_MEMBERS if name.endswith(" water"))


class Kind(NamedTuple):
    """How surfaces of one kind behave over the year; shares are in 0..1.

    Attributes:
        ground: End member below the plants; "soil" and "water" are those of the place.
        leaf: End member of the green parts.
        evergreen: Green share in the worst season.
        seasonal: Green share that the growing season adds.
        straw: Share of dry plants in the part that is not green.
        is_crop: Green follows sowing and harvest, not the temperature alone.
        snow: Part of it that snow can hide.
    """

    ground: str
    leaf: str = "leaves"
    evergreen: float = 0.0
    seasonal: float = 0.0
    straw: float = 0.0
    is_crop: bool = False
    snow: float = 0.9


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
    "clear water": Kind("clear water", snow=0.0),
    "turbid water": Kind("turbid water", snow=0.0),
    "green water": Kind("green water", snow=0.0),
    "sand": Kind("sand"),
    "asphalt": Kind("asphalt", snow=0.3),
    "concrete": Kind("concrete", snow=0.7),
    "tiles": Kind("tiles"),
    "slate": Kind("slate"),
    "metal": Kind("metal", snow=0.8),
}


@dataclass(frozen=True)
class Surface:
    """One surface of a place.

    Attributes:
        kind: Key of ``KINDS``.
        tone: Factor of its brightness.
        hue: Exponent of the wavelength, redder above 0.
        shift_days: Days by which its season precedes the usual one.
        floods_at: Water level, 0..1, that covers it; above 1 for land that stays dry.
    """

    kind: str
    tone: float = 1.0
    hue: float = 0.0
    shift_days: float = 0.0
    floods_at: float = 2.0


@dataclass(frozen=True)
class Climate:
    """Properties of a place on all dates.

    Attributes:
        latitude: Degrees, negative in the south.
        aridity: 0 for green summers, 1 for brown ones.
        soil: Reflectance of its bare soil, shape (13,).
        water: Reflectance of its water, shape (13,).
    """

    latitude: float
    aridity: float
    soil: Array
    water: Array


def draw_climate(rng: np.random.Generator) -> Climate:
    """Draw latitude (most land and most cities lie in the northern middle ones) and tones."""
    latitude = float(np.clip(rng.normal(40, 12), 0, 62)) * (1 if rng.random() < 0.85 else -1)
    return Climate(
        latitude=latitude,
        aridity=float(rng.beta(1, 1)),
        soil=_blend(rng, SOILS),
        water=_blend(rng, WATERS),
    )


def _blend(rng: np.random.Generator, names: Sequence[str]) -> Array:
    """Mix end members at random, mostly one of them: shape (13,)."""
    shares = rng.dirichlet(np.full(len(names), 0.5))
    rows = SPECTRA[[END_MEMBERS.index(name) for name in names]]
    return np.asarray((shares[:, None] * rows).sum(axis=0))


def season_angle(latitude: float, day_of_year: float | Array) -> Any:
    """Return the angle of the year, 0 at the local warmest day (20 July in the north)."""
    warmest = 201 if latitude >= 0 else 18
    return 2 * np.pi * (day_of_year - warmest) / 365.25


def mean_temperature(latitude: float, day_of_year: float | Array) -> Any:
    """Return degrees Celsius: 27 at the equator, colder and more seasonal towards the poles."""
    yearly = 27 - 0.0075 * latitude**2
    return yearly + 0.3 * abs(latitude) * np.cos(season_angle(latitude, day_of_year))


def reflect(
    surfaces: Sequence[Surface],
    climate: Climate,
    *,
    day_of_year: float,
    warmth: float,
    water_level: float,
    snow_depth: float,
) -> Array:
    """Return the reflectance of surfaces on one date.

    Args:
        surfaces: N surfaces.
        climate: Their place.
        day_of_year: 1..366.
        warmth: Degrees by which this year's season differs from the mean.
        water_level: 0 (drought) .. 1 (flood).
        snow_depth: Share of the ground that is hidden below snow, in 0..1.

    Returns:
        Shape (2, N, 13): without snow, and below snow.
    """
    kinds = [KINDS[surface.kind] for surface in surfaces]
    shift = np.array([surface.shift_days for surface in surfaces])
    green = _green_share(kinds, climate, day_of_year + shift, warmth)
    straw = (1 - green) * np.array([kind.straw for kind in kinds])
    own = {"soil": climate.soil, "water": climate.water}
    ground = np.array([own[k.ground] if k.ground in own else _spectrum(k.ground) for k in kinds])
    leaf = np.array([_spectrum(kind.leaf) for kind in kinds])
    bare = (1 - green - straw)[:, None] * ground
    mixed = bare + green[:, None] * leaf + straw[:, None] * _spectrum("straw")
    mixed *= np.array([surface.tone for surface in surfaces])[:, None]
    colour = np.array(list(WAVELENGTH_UM.values())) / 0.6
    mixed *= colour ** np.array([surface.hue for surface in surfaces])[:, None]
    flooded = np.array([surface.floods_at < water_level for surface in surfaces])
    mixed = np.where(flooded[:, None], climate.water, mixed)
    hidden = np.where(flooded, 0, [kind.snow for kind in kinds])[:, None] * snow_depth
    return np.stack([mixed, (1 - hidden) * mixed + hidden * _spectrum("snow")])


def _spectrum(name: str) -> Array:
    """Return the reflectance of an end member, shape (13,)."""
    return np.asarray(SPECTRA[END_MEMBERS.index(name)])


def _green_share(kinds: Sequence[Kind], climate: Climate, day: Array, warmth: float) -> Array:
    """Return the share of green leaves per surface on its own day of the year, shape (N,)."""
    temperature = mean_temperature(climate.latitude, day) + warmth
    growth = 1 / (1 + np.exp(-(temperature - 9) / 2.5))
    drought = climate.aridity / (1 + np.exp(-(temperature - 21) / 2))
    # A crop greens 50 days before the warmest day, within about five weeks, and is then cut.
    phase = season_angle(climate.latitude, day) + 2 * np.pi * 50 / 365.25
    crop = np.exp(2.2 * (np.cos(phase) - 1))
    is_crop = np.array([kind.is_crop for kind in kinds])
    season = np.where(is_crop, crop, growth * (1 - 0.85 * drought))
    evergreen = np.array([kind.evergreen for kind in kinds])
    return np.asarray(evergreen + season * np.array([kind.seasonal for kind in kinds]))
