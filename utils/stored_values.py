"""Values of bands as files store them: as 8 bits, as a picture, and NDVI of them.

No file holds NDVI: training and evaluation compute it from the stored values of B8 and B4. SSL4Eco
(arXiv 2504.18256, section A-2) stores it like reflectance, times 10,000 and 0 where it is negative
(data_download/download_ssl4eco.py of its repository); so it has the unit of the bands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:  # the scripts parse their flags without NumPy and torch
    import numpy as np
    from torch import Tensor

NDVI = "NDVI"
NDVI_BANDS = ("B8", "B4")  # near infrared and red
DN_PER_UNIT = 10_000  # digital numbers of reflectance 1


@cache
def stored_values(count: int) -> np.ndarray:
    """Return what SeCo stores for all 256 values of pictures, or all 65,536 DN: uint8, (count,)."""
    import numpy as np

    per_unit = 255 if count == 256 else DN_PER_UNIT
    return np.minimum(np.arange(count) * 255 // per_unit, 255).astype(np.uint8)


def stretch(count: int, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """Map values to pictures, in float64 as the original: uint8, shape (C, count).

    Args:
        count: Number of values, from 0 on.
        low: Value per band that becomes 0, C of them.
        high: Value per band that becomes 255.
    """
    import numpy as np

    lowest, highest = np.array(low)[:, None], np.array(high)[:, None]
    picture = (np.arange(float(count)) - lowest) / (highest - lowest) * 255.0
    return np.clip(picture, 0, 255).astype(np.uint8)


def stored_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the bands that files hold: all but NDVI.

    Args:
        bands: Names of channels.

    Raises:
        UserError: A name is repeated, or NDVI cannot be computed from the others.
    """
    if len(set(bands)) < len(bands):
        raise UserError(f"--bands needs distinct names, not: {' '.join(bands)}")
    if NDVI in bands and not set(NDVI_BANDS) <= set(bands):
        raise UserError(f"NDVI is computed from B8 and B4: name them next to {' '.join(bands)}")
    return tuple(band for band in bands if band != NDVI)


def ndvi(near_infrared: Tensor, red: Tensor) -> Tensor:
    """Return floor(255 * max(NDVI, 0)), exactly; 0 where both bands are 0.

    Args:
        near_infrared: Stored values of B8, uint8, of any shape.
        red: Stored values of B4, uint8, of the same shape.
    """
    b8, b4 = near_infrared.int(), red.int()
    return (255 * (b8 - b4).clamp(min=0) // (b8 + b4).clamp(min=1)).byte()


def ndvi_plane(near_infrared: np.ndarray, red: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Return NDVI in the unit of its bands: the smallest values that are stored as ``ndvi``.

    Args:
        near_infrared: Values of B8, of any shape, in 0..N - 1.
        red: Values of B4, of the same shape.
        stored: Stored value of each of the N values, rising, uint8, shape (N,).
    """
    import numpy as np
    import torch

    smallest = np.searchsorted(stored, np.arange(256)).astype(red.dtype)
    pair = torch.from_numpy(stored[np.stack([near_infrared, red])])
    return smallest[ndvi(*pair).numpy()]


def add_ndvi(stored: Tensor, bands: Sequence[str]) -> Tensor:
    """Insert NDVI at its place among the channels, if it is one of them.

    Args:
        stored: Stored values of the other bands, uint8, shape (..., bands, H, W).
        bands: Names of all channels, C of them.

    Returns:
        uint8, shape (..., C, H, W).
    """
    if NDVI not in bands:
        return stored
    import torch

    names, place = stored_bands(bands), bands.index(NDVI)
    pair = (stored[..., names.index(band), :, :] for band in NDVI_BANDS)
    before, after = stored.tensor_split([place], dim=-3)
    return torch.cat([before, ndvi(*pair).unsqueeze(-3), after], dim=-3)
