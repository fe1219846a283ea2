"""From stored 8-bit values to what an encoder sees: the contract that a checkpoint carries.

A stored value x becomes a picture by the quantile stretch of SeCo, floor(clip((x - low) /
(high - low) * 255, 0, 255)), and the picture becomes an input by (picture / 255 - mean) / std.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the scripts parse their flags, and the downloader works, without torch
    from torch import Tensor

# Mean and standard deviation of ImageNet in 0..1, order R, G, B (torchvision documentation).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What a stored uint8 value is: 255 times reflectance, or the brightness of an ordinary picture.
UNITS = ("reflectance", "picture")
PICTURE_BANDS = ("R", "G", "B")
PICTURE_LETTERS = {"B4": "R", "B3": "G", "B2": "B"}  # of Sentinel-2's red, green and blue
# 2 % and 98 % quantiles of 3,000 random SeCo images, in stored uint8 steps
# (datasets/seco_dataset.py of the original). None were published for the other bands.
RGB_QUANTILES = {"B2": (3.0, 88.0), "B3": (2.0, 103.0), "B4": (0.0, 129.0)}


@dataclass(frozen=True)
class InputSpec:
    """Bands of an input in channel order, and how their stored uint8 values become its numbers.

    Attributes:
        bands: Name of each channel, for example ("B4", "B3", "B2").
        low: Stored value per band that the stretch maps to 0.
        high: Stored value per band that the stretch maps to 255; above ``low``.
        mean: Mean per band, subtracted from the stretched picture in 0..1.
        std: Standard deviation per band, the divisor that follows.
        unit: One of ``UNITS``.
    """

    bands: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unit: str = "reflectance"

    def __post_init__(self) -> None:
        """Refuse, with a ``ValueError``, what is no contract: this may come from any file."""
        columns = (self.low, self.high, self.mean, self.std)
        if not all(isinstance(band, str) and 0 < len(band) < 40 for band in self.bands):
            raise ValueError("names of bands are short strings")
        if not all(band.isprintable() for band in self.bands):
            raise ValueError("names of bands are printable")
        if self.unit not in UNITS:
            raise ValueError(f"the unit is one of {' '.join(UNITS)}")
        if any(len(column) != len(self.bands) for column in columns):
            raise ValueError("each band has one low, high, mean and std")
        if not all(math.isfinite(value) for column in columns for value in column):
            raise ValueError("all numbers are finite")
        if min(self.std) <= 0 or any(
            low >= high for low, high in zip(self.low, self.high, strict=True)
        ):
            raise ValueError("std is above 0, and high above low")

    @classmethod
    def of_pictures(cls, bands: Sequence[str] = PICTURE_BANDS) -> InputSpec:
        """Describe 8-bit pictures of any bands: no stretch, mean and deviation of ImageNet.

        Red, green and blue get ImageNet's own numbers, other bands the mean of the three.
        """
        mean, std = imagenet_statistics(bands)
        count = len(bands)
        return cls(tuple(bands), (0.0,) * count, (255.0,) * count, mean, std, unit="picture")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Read what ``to_dict`` wrote, also before it wrote the unit."""
        columns = dict(values)
        is_picture = tuple(columns["bands"]) == PICTURE_BANDS
        unit = columns.pop("unit", "picture" if is_picture else "reflectance")
        return cls(**{name: tuple(column) for name, column in columns.items()}, unit=unit)

    def to_dict(self) -> dict[str, Any]:
        """Return plain builtins, for a checkpoint or JSON."""
        columns = {name: value for name, value in asdict(self).items() if name != "unit"}
        return {name: list(column) for name, column in columns.items()} | {"unit": self.unit}

    def stretch_table(self) -> Tensor:
        """Tabulate the stretch in float64, as the original computes it: uint8, shape (C, 256)."""
        import numpy as np
        import torch

        stored = np.arange(256.0)
        low, high = np.array(self.low)[:, None], np.array(self.high)[:, None]
        picture = np.clip((stored - low) / (high - low) * 255.0, 0, 255).astype(np.uint8)
        return torch.from_numpy(picture)

    def normalize(self, pictures: Tensor) -> Tensor:
        """Turn stretched pictures, (B, C, H, W) in 0..255, into float inputs of the same shape."""
        import torch

        mean = torch.tensor(self.mean, device=pictures.device)[:, None, None]
        std = torch.tensor(self.std, device=pictures.device)[:, None, None]
        return (pictures.float() / 255 - mean) / std


def letters(bands: Sequence[str]) -> tuple[str, ...]:
    """Name bands as pictures do: B4, B3 and B2 are R, G and B, others keep their names."""
    return tuple(PICTURE_LETTERS.get(band, band) for band in bands)


def imagenet_statistics(bands: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ImageNet's mean and deviation per band; other than red, green and blue get the mean.

    Bands are named R, G, B in pictures, and B4, B3, B2 by Sentinel-2.
    """
    means = dict(zip(PICTURE_BANDS, IMAGENET_MEAN, strict=True))
    stds = dict(zip(PICTURE_BANDS, IMAGENET_STD, strict=True))
    return (
        tuple(means.get(letter, sum(IMAGENET_MEAN) / 3) for letter in letters(bands)),
        tuple(stds.get(letter, sum(IMAGENET_STD) / 3) for letter in letters(bands)),
    )


def quantile_spec(bands: Sequence[str], quantiles: Mapping[str, tuple[float, float]]) -> InputSpec:
    """Describe stored reflectance, stretched between quantiles, then normalised as by SeCo.

    Args:
        bands: Names as B4, each with quantiles.
        quantiles: Stored values per band that become 0 and 255.
    """
    mean, std = imagenet_statistics(bands)  # as the original does for red, green and blue
    return InputSpec(
        bands=tuple(bands),
        low=tuple(quantiles[band][0] for band in bands),
        high=tuple(quantiles[band][1] for band in bands),
        mean=mean,
        std=std,
    )


# What every encoder of SeCo's own code expects, the published ones of SeCo and CACo included.
SECO_SPEC = quantile_spec(("B4", "B3", "B2"), RGB_QUANTILES)
