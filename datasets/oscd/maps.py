"""Change maps of OSCD's cities as files: pictures, GeoTIFFs where the cities lie, and arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datasets.bands import RGB_BANDS
from datasets.oscd.change_maps import plot_change_map, save_arrays, write_band
from datasets.oscd.files import City


def write_maps(
    folder: Path,
    cities: Sequence[City],
    probabilities: Sequence[Tensor],
    threshold: float,
    bands: Sequence[str],
) -> None:
    """Write ``<city>.png``, ``<city>_probability.tif`` and ``<city>_change.tif`` of every city.

    Args:
        folder: Where to write.
        cities: What the maps show.
        probabilities: Of change, float32, (H, W) each.
        threshold: Probability from which on a pixel counts as changed.
        bands: Of the cities' images; the pictures show red, green and blue, else the first three.
    """
    shown = [bands.index(band) for band in RGB_BANDS if band in bands]
    channels = shown if len(shown) == len(RGB_BANDS) else [0, 1, 2]
    for city, probability in zip(cities, probabilities, strict=True):
        found = (probability >= threshold).numpy()
        dates = (city.image_1[channels], city.image_2[channels])
        plot_change_map(folder / f"{city.name}.png", dates, city.mask, found, city.name)
        place = (city.crs, city.transform)
        write_band(folder / f"{city.name}_probability.tif", probability.numpy(), *place)
        # 1 and 2, as in OSCD's own change maps.
        write_band(folder / f"{city.name}_change.tif", found.astype(np.uint8) + 1, *place)


def save_probabilities(
    path: Path, cities: Sequence[City], probabilities: Sequence[Tensor], threshold: float
) -> None:
    """Write the arrays ``<city>``, ``<city>_changed`` (the truth) and ``threshold`` as an npz."""
    arrays = {"threshold": np.array(threshold)}
    for city, probability in zip(cities, probabilities, strict=True):
        arrays |= {city.name: probability.numpy(), f"{city.name}_changed": city.mask}
    save_arrays(path, arrays)
