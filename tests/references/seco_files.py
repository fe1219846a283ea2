"""Files of a SeCo data set: a GeoTIFF, and the zip of a folder."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import rasterio


def write_tif(path: Path, image: np.ndarray) -> None:
    """Write an image of shape (H, W) or (bands, H, W), without coordinates."""
    layers = image.reshape(-1, *image.shape[-2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        count, height, width = layers.shape
        size = {"count": count, "height": height, "width": width}
        with rasterio.open(path, "w", driver="GTiff", dtype=layers.dtype, **size) as file:
            file.write(layers)


def zip_folder(root: Path, path: Path, prefix: str = "", method: int = 8) -> Path:
    """Pack a folder in an order that is not sorted."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(root.rglob("*"), key=lambda file: file.name[::-1]):
            archive.write(file, f"{prefix}{file.relative_to(root).as_posix()}")
    return path
