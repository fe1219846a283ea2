"""What the miniature Earth's sensor measures on a date: reflectance per band of a place."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datasets.bands import RESOLUTION_M
from datasets.miniature.canvas import CELL_M, Array, Canvas, Rng, noise, rough_noise
from datasets.miniature.surfaces import SENSOR_BANDS, WAVELENGTHS_UM, Weather, reflect

SENSOR_RESOLUTION_M = RESOLUTION_M | {"B10": 60}  # of all 13 bands


def level_1c(weather: Weather) -> Weather:
    """Return the weather as in data sets without snow whose air is not corrected."""
    return replace(weather, snow=0.0, haze=weather.haze + 0.03)


def observe(rng: Rng, place: Canvas, weather: Weather, bands: Sequence[str]) -> dict[str, Array]:
    """Render bands at their native resolution.

    Args:
        rng: Source of snow drifts, haze and noise.
        place: Location.
        weather: Weather of the date.
        bands: Names in ``SENSOR_BANDS``.

    Returns:
        Per band the reflectance, float32, shape (side, side): canvas / 2, / 4 or / 12.
    """
    spectra = reflect(place.surfaces, place.climate, weather).astype(np.float32)
    index = place.labels
    if weather.snow:
        drifts = rough_noise(rng, place.cells, 20) < 4 * weather.snow - 2
        index = index + len(place.surfaces) * drifts
    light = (1 + place.texture) * _sunlight(place, weather.sun_elevation)
    light *= weather.gain
    veil = weather.haze * (1 + 0.3 * noise(rng, place.cells // 2, place.cells / 6))
    images = {}
    for band in bands:
        number, side_m = SENSOR_BANDS.index(band), SENSOR_RESOLUTION_M[band]
        cells = spectra[..., number].reshape(-1).take(index) * light
        scattering = (float(WAVELENGTHS_UM[number]) / 0.49) ** -1.5
        path = _block_mean(veil, side_m // 10) * scattering
        image = _block_mean(cells, side_m // CELL_M) * (1 - 1.5 * path) + path
        seen = image + 0.003 * rng.standard_normal(image.shape, dtype=np.float32)
        images[band] = np.maximum(seen, 1e-4).astype(np.float32)
    return images


def _sunlight(place: Canvas, sun_elevation: float) -> Array:
    """Return the relative light on each cell: slopes to the sun are bright, shadows dark."""
    # The morning sun is in the south-east on the northern hemisphere, else in the north-east.
    height, down = place.height, 1 if place.climate.latitude >= 0 else -1
    towards_sun = np.roll(height, (-down, -1), axis=(0, 1))
    towards_sun[-1 if down == 1 else 0] = height[-1 if down == 1 else 0]
    towards_sun[:, -1] = height[:, -1]
    slope = (towards_sun - height) / (CELL_M * 2**0.5)
    cotangent = 1 / np.tan(np.radians(sun_elevation))
    return np.asarray(1 - np.clip(0.45 * cotangent * slope, -0.3, 0.6))


def _block_mean(image: Array, factor: int) -> Array:
    """Average blocks of factor x factor cells."""
    if factor == 1:
        return image
    total = sum(image[i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.asarray(total / np.float32(factor**2))
