"""A picture of a collected place: its dates side by side, oldest first, in red, green and blue.

Pictures lie beside the collection, for folders of places are read by programs that take every
picture for a band.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.bands import RGB_BANDS, RGB_QUANTILES
from datasets.collect.scenes import Array, Place
from utils.files import written_whole


def preview_folder(save_path: Path) -> Path:
    """Return the folder beside the collection."""
    return save_path.resolve().with_name(f"{save_path.resolve().name}_previews")


def write_preview(folder: Path, place: Place, images: dict[str, Array]) -> None:
    """Write 000123.png from the images of each scene: uint8 as stored, (3, H, W), red first."""
    dates = [stretch(images[name]) for name in sorted(images)]
    strip = np.concatenate(dates, axis=2).transpose(1, 2, 0)
    with written_whole(folder / f"{place.name}.png") as partial:
        Image.fromarray(np.ascontiguousarray(strip)).save(partial, "png")


def stretch(image: Array) -> Array:
    """Stretch red, green and blue, (3, H, W), by the published quantiles to 0..255."""
    low, high = (np.array([RGB_QUANTILES[band][end] for band in RGB_BANDS]) for end in (0, 1))
    scaled = (image - low[:, None, None]) / (high - low)[:, None, None]
    return np.asarray((np.clip(scaled, 0, 1) * 255).astype(np.uint8))
