"""Render the reflectance per band that the miniature Earth's sensor measures on a date."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.miniature.canvas import CELL_M, noise, rough_noise
from datasets.miniature.covers import DrawnPlace
from datasets.miniature.surfaces import (
    SENSOR_BANDS,
    WAVELENGTH_UM,
    mean_temperature,
    reflect,
    season_angle,
)

Array = NDArray[Any]
# Ground resolution in metres of all 13 bands.
RESOLUTION_M = dict.fromkeys(SENSOR_BANDS, 20)
RESOLUTION_M |= dict.fromkeys(("B2", "B3", "B4", "B8"), 10) | dict.fromkeys(("B1", "B9", "B10"), 60)


@dataclass(frozen=True)
class Weather:
    """Weather and sun at one overpass.

    Attributes:
        day_of_year: 1..366.
        warmth: Degrees by which the season differs from the mean.
        water_level: 0..1.
        snow: Share of the ground with snow, 0..1.
        sun_elevation: Degrees above the horizon.
        haze: Reflectance that the air adds at 0.49 um, 0.01..0.09.
        gain: Factor of the residual error of the atmospheric correction.
    """

    day_of_year: int
    warmth: float
    water_level: float
    snow: float
    sun_elevation: float
    haze: float
    gain: float


def draw_weather(rng: np.random.Generator, latitude: float, date: datetime) -> Weather:
    """Draw the weather of a latitude on a date; there is snow only with frost.

    Args:
        rng: Source of the weather.
        latitude: Degrees, negative in the south.
        date: Date of the overpass.
    """
    day = date.timetuple().tm_yday
    warmth = float(rng.normal(0, 2.5))
    temperature = float(mean_temperature(latitude, day)) + warmth
    declination = 23.4 * np.cos(2 * np.pi * (day - 172) / 365.25)
    # The satellite passes at 10:30, some 22 degrees of hour angle before noon.
    elevation = max(12.0, 85 - abs(latitude - declination))
    wet = 0.5 - 0.25 * np.cos(season_angle(latitude, day + 60)) + rng.normal(0, 0.2)
    return Weather(
        day_of_year=day,
        warmth=warmth,
        water_level=float(np.clip(wet, 0, 1)),
        snow=float(np.clip((0.5 - temperature) / 6 + rng.normal(0, 0.2), 0, 1)),
        sun_elevation=float(elevation),
        haze=float(min(0.01 + rng.exponential(0.015), 0.09)),
        gain=float(np.exp(rng.normal(-0.2, 0.25))),
    )


def observe(
    rng: np.random.Generator, place: DrawnPlace, weather: Weather, bands: Sequence[str]
) -> dict[str, Array]:
    """Render bands at their native resolution.

    Args:
        rng: Source of snow drifts, haze and noise.
        place: Location.
        weather: Weather of the date.
        bands: Names in ``SENSOR_BANDS``.

    Returns:
        Per band the reflectance, float32, shape (side, side): canvas / 2, / 4 or / 12.
    """
    canvas = place.canvas
    spectra = reflect(
        canvas.surfaces,
        place.climate,
        day_of_year=weather.day_of_year,
        warmth=weather.warmth,
        water_level=weather.water_level,
        snow_depth=0.08 + 0.17 * weather.snow,
    ).astype(np.float32)
    index = canvas.labels
    if weather.snow:
        drifts = rough_noise(rng, canvas.cells, 20) < 4 * weather.snow - 2
        index = index + len(canvas.surfaces) * drifts
    light = (1 + canvas.texture) * _sunlight(canvas.height, weather, place.climate.latitude)
    light *= weather.gain
    veil = weather.haze * (1 + 0.3 * noise(rng, canvas.cells // 2, canvas.cells / 6))
    images = {}
    for band in bands:
        number = SENSOR_BANDS.index(band)
        cells = spectra[..., number].reshape(-1).take(index) * light
        path = _block_mean(veil, RESOLUTION_M[band] // 10) * (WAVELENGTH_UM[band] / 0.49) ** -1.5
        image = _block_mean(cells, RESOLUTION_M[band] // CELL_M) * (1 - 1.5 * path) + path
        seen = image + 0.003 * rng.standard_normal(image.shape, dtype=np.float32)
        images[band] = np.maximum(seen, 1e-4).astype(np.float32)
    return images


def _sunlight(height: Array, weather: Weather, latitude: float) -> Array:
    """Return the relative light on each cell: slopes to the sun are bright, shadows dark."""
    # The morning sun is in the south-east on the northern hemisphere, else in the north-east.
    down = 1 if latitude >= 0 else -1
    towards_sun = np.roll(height, (-down, -1), axis=(0, 1))
    towards_sun[-1 if down == 1 else 0] = height[-1 if down == 1 else 0]
    towards_sun[:, -1] = height[:, -1]
    slope = (towards_sun - height) / (CELL_M * 2**0.5)
    cotangent = 1 / np.tan(np.radians(weather.sun_elevation))
    return np.asarray(1 - np.clip(0.45 * cotangent * slope, -0.3, 0.6))


def _block_mean(image: Array, factor: int) -> Array:
    """Average blocks of factor x factor cells."""
    if factor == 1:
        return image
    total = sum(image[i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.asarray(total / np.float32(factor**2))
