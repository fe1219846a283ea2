"""Stretched bands as images for transforms and notebooks, and figures of them."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from datasets.bands import RGB_BANDS
from utils.input_spec import InputSpec, letters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE_LENGTH = 34  # of a title above an image, in characters


def to_image(picture: np.ndarray) -> Any:
    """Return a picture, uint8, (C, H, W), as a PIL image; not of 1 or 3 bands, as (H, W, C)."""
    pixels = np.ascontiguousarray(picture.transpose(1, 2, 0))
    if len(picture) in (1, 3):
        return Image.fromarray(pixels[..., 0] if len(picture) == 1 else pixels)
    return pixels


def plot_images(views: Sequence[Any], titles: Sequence[str], spec: InputSpec) -> Figure:
    """Draw images side by side, in true colour where the bands allow it.

    Args:
        views: PIL images, arrays of shape (H, W, C) or tensors of shape (C, H, W): uint8, floats in
            0..1, or, if any is negative, floats normalised as ``spec`` describes.
        titles: Text above each image; long lines end with an ellipsis.
        spec: Bands of the images and their normalisation.

    Returns:
        A figure that pyplot does not know, so that nothing has to be closed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(views), 3.8), layout="constrained")
    row = figure.subplots(1, len(views), squeeze=False)[0]
    for axes, view, title in zip(row, views, titles, strict=True):
        lines = [shorten(line, _LINE_LENGTH, placeholder=" …") for line in title.split("\n")]
        axes.imshow(_shown(view, spec), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title("\n".join(lines), parse_math=False)  # names may hold a "$"
    return figure


def _shown(view: Any, spec: InputSpec) -> np.ndarray:
    """Return red, green, blue in 0..1, (H, W, 3); else the first three bands, or the first."""
    if isinstance(view, Tensor):
        view = view.detach().cpu().permute(1, 2, 0)
    pixels = np.atleast_3d(np.asarray(view))  # (H, W, C)
    num_bands = pixels.shape[-1]
    if pixels.dtype == np.uint8:
        pixels = pixels / 255
    elif pixels.min() < 0 and num_bands == len(spec.bands):
        pixels = pixels * np.array(spec.std) + np.array(spec.mean)
    bands, shown = letters(spec.bands), letters(RGB_BANDS)
    if num_bands == len(bands) and set(shown) <= set(bands):
        pixels = pixels[..., [bands.index(band) for band in shown]]
    return np.clip(pixels[..., :3] if num_bands >= 3 else pixels[..., 0], 0, 1)
