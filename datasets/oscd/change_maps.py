"""Change maps as files: pictures for people, GeoTIFFs for maps, arrays for programs."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from utils.files import written_whole
from utils.plots import save_figure

# Right, false and missed changes; what did not change and was not found stays black.
COLORS = {"found": (255, 255, 255), "false alarm": (255, 80, 60), "missed": (70, 150, 255)}


def paint_outcome(mask: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Color true, false and missed changes: bool (H, W) twice -> uint8 (H, W, 3)."""
    outcome = np.zeros((*mask.shape, 3), np.uint8)
    outcome[mask & found] = COLORS["found"]
    outcome[~mask & found] = COLORS["false alarm"]
    outcome[mask & ~found] = COLORS["missed"]
    return outcome


def plot_change_map(
    path: Path, dates: tuple[np.ndarray, np.ndarray], mask: np.ndarray, found: np.ndarray, name: str
) -> None:
    """Draw both dates, the truth and the outcome side by side.

    Args:
        path: PNG to write.
        dates: Pictures in red, green and blue, uint8, (3, H, W) each.
        mask: Whether a pixel changed, bool, shape (H, W).
        found: Whether it was said to, bool, shape (H, W).
        name: Text above the picture.
    """
    height, width = mask.shape
    figure = Figure(figsize=(14, 1 + 3.4 * height / width), layout="constrained", dpi=150)
    truth = np.where(mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    panels = {
        "date 1": dates[0].transpose(1, 2, 0),
        "date 2": dates[1].transpose(1, 2, 0),
        "change": truth,
        "prediction": paint_outcome(mask, found),
    }
    for axes, (title, panel) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        axes.imshow(panel, interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
    patches = [
        Patch(facecolor=(red / 255, green / 255, blue / 255), edgecolor="black", label=label)
        for label, (red, green, blue) in COLORS.items()
    ]
    figure.legend(handles=patches, loc="outside lower right", ncols=len(patches))
    figure.suptitle(name)
    save_figure(figure, path)


def write_band(path: Path, band: np.ndarray, crs: CRS | None, transform: Affine | None) -> None:
    """Write one band, (H, W), where the source lies, whole or not at all."""
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "compress": "deflate"}
    profile |= {"height": band.shape[0], "width": band.shape[1], "dtype": band.dtype}
    if transform is not None:
        profile |= {"crs": crs, "transform": transform}
    with written_whole(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(partial, "w", **profile) as file:
            file.write(band, 1)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as an npz, whole or not at all."""
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its allow_pickle
