"""Files of a SeCo data set: write and read a GeoTIFF, zip a folder or pack it."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import rasterio

from datasets import seco_packed


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


def read_tif(path: Path) -> np.ndarray:
    """Read the first band with rasterio: (H, W)."""
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def zip_folder(root: Path, path: Path, prefix: str = "", method: int = 8) -> Path:
    """Pack a folder in an order that is not sorted."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(root.rglob("*"), key=lambda file: file.name[::-1]):
            archive.write(file, f"{prefix}{file.relative_to(root).as_posix()}")
    return path


def pack(source: Path, store: Path, *flags: str) -> None:
    """Pack a data set in this process, unless other flags are given."""
    command = ["--data_dir", str(source), "--save_path", str(store), *flags]
    seco_packed.main([*command, "--num_workers", "0"] if "--num_workers" not in flags else command)
