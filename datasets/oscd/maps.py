"""Write predicted change maps of cities as figures, GeoTIFFs on the city's grid, and arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from datasets.bands import RGB_BANDS
from datasets.geotiff.writer import encode_geotiff
from datasets.oscd.files import City
from utils.files import written_whole
from utils.plots import save_figure

# Right, false and missed changes; unchanged pixels that were not found stay black.
COLORS = {"found": (255, 255, 255), "false alarm": (255, 80, 60), "missed": (70, 150, 255)}


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
        probabilities: Probabilities of change, float32, (H, W) each.
        threshold: Probability from which a pixel counts as changed.
        bands: Bands of the images; red, green and blue are shown, else the first three.
    """
    shown = RGB_BANDS if set(RGB_BANDS) <= set(bands) else bands[:3]
    channels = [bands.index(band) for band in shown]
    for city, probability in zip(cities, probabilities, strict=True):
        found = (probability >= threshold).numpy()
        _plot(folder / f"{city.name}.png", city, channels, found)
        _write_band(folder / f"{city.name}_probability.tif", probability.numpy(), city)
        # 1 and 2, as in OSCD's own change maps.
        _write_band(folder / f"{city.name}_change.tif", found.astype(np.uint8) + 1, city)


def save_probabilities(
    path: Path, cities: Sequence[City], probabilities: Sequence[Tensor], threshold: float
) -> None:
    """Write the arrays ``<city>``, ``<city>_changed`` (the truth) and ``threshold`` as an npz.

    Args:
        path: File to write.
        cities: Cities, with the truth of each.
        probabilities: Probability of change of each city, float32, shape (H, W).
        threshold: Probability from which a pixel counts as changed.
    """
    arrays = {"threshold": np.array(threshold)}
    for city, probability in zip(cities, probabilities, strict=True):
        arrays |= {city.name: probability.numpy(), f"{city.name}_changed": city.mask}
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its allow_pickle


def _plot(path: Path, city: City, channels: Sequence[int], found: np.ndarray) -> None:
    """Draw both dates, the truth and the pixels that were ``found``, bool, (H, W)."""
    height, width = city.mask.shape
    figure = Figure(figsize=(14, 1 + 3.4 * height / width), layout="constrained", dpi=150)
    outcome = np.zeros((height, width, 3), np.uint8)
    outcome[city.mask & found] = COLORS["found"]
    outcome[~city.mask & found] = COLORS["false alarm"]
    outcome[city.mask & ~found] = COLORS["missed"]
    panels = {
        "date 1": city.image_1[channels].transpose(1, 2, 0),
        "date 2": city.image_2[channels].transpose(1, 2, 0),
        "change": np.repeat(city.mask[..., None].astype(np.uint8) * 255, 3, axis=2),
        "prediction": outcome,
    }
    for axes, (title, panel) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        axes.imshow(panel, interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
    patches = [
        Patch(facecolor=(red / 255, green / 255, blue / 255), edgecolor="black", label=label)
        for label, (red, green, blue) in COLORS.items()
    ]
    figure.legend(handles=patches, loc="outside lower right", ncols=len(patches))
    figure.suptitle(city.name)
    save_figure(figure, path)


def _write_band(path: Path, band: np.ndarray, city: City) -> None:
    """Write one band, (H, W), with the coordinates of a city, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_bytes(encode_geotiff(band, city.georeference))
