"""From stored 8-bit values to what an encoder sees: the contract that a checkpoint carries.

A stored value x becomes a picture by the quantile stretch of SeCo, floor(clip((x - low) /
(high - low) * 255, 0, 255)), and the picture becomes an input by (picture / 255 - mean) / std.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Mean and standard deviation of ImageNet in 0..1, order R, G, B (torchvision documentation).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """Bands of an input in channel order, and how their stored uint8 values become its numbers.

    Attributes:
        bands: Name of each channel, for example ("B4", "B3", "B2").
        low: Stored value per band that the stretch maps to 0.
        high: Stored value per band that the stretch maps to 255; above ``low``.
        mean: Mean per band, subtracted from the stretched picture in 0..1.
        std: Standard deviation per band, the divisor that follows.
    """

    bands: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse, with a ``ValueError``, what is no contract: this may come from any file."""
        columns = (self.low, self.high, self.mean, self.std)
        if not all(isinstance(band, str) for band in self.bands):
            raise ValueError("names of bands are strings")
        if any(len(column) != len(self.bands) for column in columns):
            raise ValueError("each band has one low, high, mean and std")
        if not all(math.isfinite(value) for column in columns for value in column):
            raise ValueError("all numbers are finite")
        if min(self.std) <= 0 or any(
            low >= high for low, high in zip(self.low, self.high, strict=True)
        ):
            raise ValueError("std is above 0, and high above low")

    @classmethod
    def of_pictures(cls) -> "InputSpec":
        """Describe ordinary 8-bit RGB pictures: no stretch, ImageNet mean and deviation."""
        return cls(("R", "G", "B"), (0.0,) * 3, (255.0,) * 3, IMAGENET_MEAN, IMAGENET_STD)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "InputSpec":
        """Read what ``to_dict`` wrote."""
        return cls(**{name: tuple(column) for name, column in values.items()})

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain builtins, for a checkpoint or JSON."""
        return {name: list(column) for name, column in asdict(self).items()}

    def stretch_table(self) -> Tensor:
        """Tabulate the stretch in float64, as the original computes it: uint8, shape (C, 256)."""
        stored = np.arange(256.0)
        low, high = np.array(self.low)[:, None], np.array(self.high)[:, None]
        picture = np.clip((stored - low) / (high - low) * 255.0, 0, 255).astype(np.uint8)
        return torch.from_numpy(picture)

    def normalize(self, pictures: Tensor) -> Tensor:
        """Turn stretched pictures, (B, C, H, W) in 0..255, into float inputs of the same shape."""
        mean = torch.tensor(self.mean, device=pictures.device)[:, None, None]
        std = torch.tensor(self.std, device=pictures.device)[:, None, None]
        return (pictures.float() / 255 - mean) / std
