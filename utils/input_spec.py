"""The input contract of an encoder, and the conversion of evaluation data sets to it.

Pre-training: a stored 8-bit value x becomes a picture by SeCo's stretch, floor(clip((x - low) /
(high - low) * 255, 0, 255)), and the picture an input by (picture / 255 - mean) / std. Evaluation:
one table per band converts 8-bit pictures or uint16 digital numbers (DN, 10,000 times reflectance).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.stored_values import (
    DN_PER_UNIT,
    NDVI,
    NDVI_BANDS,
    ndvi_plane,
    stored_bands,
    stored_values,
    stretch,
)

if TYPE_CHECKING:  # the scripts parse their flags, and the collector works, without torch
    import numpy as np
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
# auto: as in the pre-training of the encoder. paper: only the data set's own stretch. imagenet: the
# data set's own stretch, then mean and standard deviation of ImageNet. none: no stretch.
INPUT_NORMS = ("auto", "paper", "imagenet", "none")
_LARGEST = 1e30  # of a number in a contract; integers of JSON may be too large for a float
BANDS_OF_LETTERS = {letter: band for band, letter in PICTURE_LETTERS.items()}


@dataclass(frozen=True)
class InputSpec:
    """Bands of an input in channel order, and how their stored uint8 values become its numbers.

    Attributes:
        bands: Name of each channel, for example ("B4", "B3", "B2"); NDVI needs B8 and B4.
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
        """Raise a ``ValueError`` for an invalid contract, because it may come from any file."""
        names = (isinstance(b, str) and 0 < len(b) < 40 and b.isprintable() for b in self.bands)
        columns = (self.low, self.high, self.mean, self.std)
        if not (
            all(names)
            and all(len(each) == len(self.bands) for each in columns)
            and all(isinstance(value, Real) for each in columns for value in each)
            and all(abs(value) <= _LARGEST for each in columns for value in each)
            and all(low < high for low, high in zip(self.low, self.high, strict=True))
            and (NDVI not in self.bands or set(NDVI_BANDS) <= set(self.bands))
            and min(self.std) > 0
            and self.unit in UNITS
        ):
            raise ValueError(
                "each band has a short name, a finite low below its high, a finite mean, and a "
                f"std above 0; the unit is one of {' '.join(UNITS)}; NDVI comes with B8 and B4"
            )

    @classmethod
    def of_pictures(cls, bands: Sequence[str] = PICTURE_BANDS) -> InputSpec:
        """Describe 8-bit pictures of any bands: no stretch, the statistics of ImageNet."""
        return replace(quantile_spec(bands, dict.fromkeys(bands, (0.0, 255.0))), unit="picture")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Read the result of ``to_dict``; old ones have no unit."""
        columns = dict(values)
        is_picture = tuple(columns["bands"]) == PICTURE_BANDS
        unit = columns.pop("unit", "picture" if is_picture else "reflectance")
        return cls(**{name: tuple(column) for name, column in columns.items()}, unit=unit)

    def to_dict(self) -> dict[str, Any]:
        """Return plain builtins, for a checkpoint or JSON."""
        columns = {name: value for name, value in asdict(self).items() if name != "unit"}
        return {name: list(column) for name, column in columns.items()} | {"unit": self.unit}

    def stretch_table(self) -> Tensor:
        """Tabulate the stretch, computed in float64 as in the original: uint8, shape (C, 256)."""
        import torch

        return torch.from_numpy(stretch(256, self.low, self.high))

    def normalize(self, pictures: Tensor) -> Tensor:
        """Convert stretched pictures, (B, C, H, W) in 0..255, to float inputs of the same shape."""
        import torch

        mean = torch.tensor(self.mean, device=pictures.device)[:, None, None]
        std = torch.tensor(self.std, device=pictures.device)[:, None, None]
        return (pictures.float() / 255 - mean) / std


def letters(bands: Sequence[str]) -> tuple[str, ...]:
    """Rename B4, B3 and B2 to R, G and B, as pictures name them; keep other names."""
    return tuple(PICTURE_LETTERS.get(band, band) for band in bands)


def imagenet_statistics(bands: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ImageNet's statistics per band; other than red, green and blue get their mean."""
    means = dict(zip(PICTURE_BANDS, IMAGENET_MEAN, strict=True))
    stds = dict(zip(PICTURE_BANDS, IMAGENET_STD, strict=True))
    return (
        tuple(means.get(letter, sum(IMAGENET_MEAN) / 3) for letter in letters(bands)),
        tuple(stds.get(letter, sum(IMAGENET_STD) / 3) for letter in letters(bands)),
    )


def quantile_spec(bands: Sequence[str], quantiles: Mapping[str, tuple[float, float]]) -> InputSpec:
    """Describe stored reflectance, stretched between quantiles and normalised as in SeCo.

    Args:
        bands: Names of the bands in channel order.
        quantiles: Stored values of each band that become 0 and 255, in 0..255; not of NDVI.

    Raises:
        UserError: NDVI cannot be computed from the other bands.
    """
    limits = {band: quantiles[band] for band in stored_bands(bands)} | {NDVI: (0.0, 255.0)}
    low, high = zip(*(limits[band] for band in bands), strict=True)
    # The original normalises red, green and blue by ImageNet's statistics.
    return InputSpec(tuple(bands), low, high, *imagenet_statistics(bands))


# Contract of the original code, and so of the published encoders of SeCo and CACo.
SECO_SPEC = quantile_spec(("B4", "B3", "B2"), RGB_QUANTILES)


@dataclass(frozen=True)
class DataSpec:
    """Stored values of a data set, and the stretch of its authors.

    Attributes:
        name: Name for messages, such as "BigEarthNet".
        bands: R, G, B for pictures, or names as B4 and B8A for reflectance.
        low: Stored value per band that the stretch maps to 0.
        high: Stored value per band that the stretch maps to 255.
        unit: "picture" (uint8) or "reflectance" (uint16, DN).
    """

    name: str
    bands: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: str = "reflectance"

    @classmethod
    def of_pictures(cls, name: str) -> DataSpec:
        """Describe a data set of stretched 8-bit RGB pictures."""
        return cls(name, PICTURE_BANDS, (0.0,) * 3, (255.0,) * 3, unit="picture")

    @classmethod
    def of_reflectance(cls, name: str, bands: tuple[str, ...]) -> DataSpec:
        """Describe uint16 DN of Sentinel-2 bands, stretched from reflectance 0 to 1.

        Args:
            name: Name of the data set, for messages.
            bands: Names of the bands in channel order.
        """
        return cls(name, bands, (0.0,) * len(bands), (float(DN_PER_UNIT),) * len(bands))


class InputTransform:
    """Conversion of stored values to inputs.

    Args:
        channels: The encoder's channels by the data set's names, C of them; ``bands`` are those
            that are read, all but NDVI.
        table: Picture of every stored value, uint8, shape (C, 256 or 65536).
        spec: Contract of an encoder that is trained on such inputs.
    """

    def __init__(self, channels: tuple[str, ...], table: np.ndarray, spec: InputSpec) -> None:
        self.channels = channels
        self.bands = stored_bands(channels)
        self.table = table
        self.spec = spec

    def to_picture(self, stored: np.ndarray) -> np.ndarray:
        """Map stored values of the ``bands``, (bands, H, W), to a picture, uint8, (C, H, W).

        Args:
            stored: 8-bit pictures as uint8, reflectance as uint16 DN.

        Raises:
            UserError: The type is another one, so the unit is unknown, or the shape is.
        """
        import numpy as np

        is_picture = self.table.shape[1] == 256
        expected = "uint8 (8-bit pictures)" if is_picture else "uint16 (10,000 times reflectance)"
        if str(stored.dtype) != expected.split()[0]:
            raise UserError(
                f"stored values are {stored.dtype}, but {expected} is expected: convert them"
            )
        if stored.ndim != 3 or len(stored) != len(self.bands):
            raise UserError(
                f"stored values have shape {stored.shape}, but one image of {len(self.bands)} "
                f"bands, {' '.join(self.bands)}, is expected"
            )
        return np.stack(self.planes(list(stored)))

    def planes(self, stored: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Map the ``bands``, each of a size (h, w) of its own, to planes of a picture, uint8."""
        planes = list(stored)
        if NDVI in self.channels:
            near_infrared, red = (stored[self.bands.index(band)] for band in NDVI_BANDS)
            found = ndvi_plane(near_infrared, red, stored_values(self.table.shape[1]))
            planes.insert(self.channels.index(NDVI), found)
        return [row[plane] for row, plane in zip(self.table, planes, strict=True)]

    def normalize(self, pictures: Tensor) -> Tensor:
        """Convert uint8 pictures, (B, C, H, W), to float32 inputs of the same shape.

        Raises:
            UserError: The pictures are not uint8.
        """
        if str(pictures.dtype) != "torch.uint8":
            raise UserError(
                f"pictures are {pictures.dtype}, but torch.uint8 from 0 to 255 is expected: "
                "multiply pictures in 0..1 by 255 and convert them"
            )
        return self.spec.normalize(pictures)

    def fingerprint(self) -> str:
        """Return a sha256 of the conversion, for the names of cached features."""
        scaling = repr((self.channels, self.spec.mean, self.spec.std)).encode()
        return hashlib.sha256(scaling + self.table.tobytes()).hexdigest()


def input_transform(spec: InputSpec, data: DataSpec, input_norm: str) -> InputTransform:
    """Return the conversion of a data set for an encoder.

    Args:
        spec: Contract of the encoder.
        data: Stored values of the data set, which must have the encoder's bands.
        input_norm: One of ``INPUT_NORMS``.
    """
    import numpy as np

    bands = _matching_bands(spec, data)
    count = len(bands)
    mean, std = (0.0,) * count, (1.0,) * count
    if input_norm == "auto":
        mean, std = spec.mean, spec.std
    elif input_norm == "imagenet":
        mean, std = imagenet_statistics(bands)
    used = InputSpec(spec.bands, (0.0,) * count, (255.0,) * count, mean, std, "picture")
    if data.unit == "picture":
        table = np.tile(stored_values(256), (count, 1))
    elif input_norm == "none":
        table, used = np.tile(stored_values(65_536), (count, 1)), replace(used, unit="reflectance")
    elif input_norm == "auto" and spec.unit == "reflectance":
        table, used = stretch(256, spec.low, spec.high)[:, stored_values(65_536)], spec
    else:
        limits = dict(zip(data.bands, zip(data.low, data.high, strict=True), strict=True))
        limits[NDVI] = (0.0, float(DN_PER_UNIT))
        table = stretch(65_536, *zip(*(limits[band] for band in bands), strict=True))
    return InputTransform(bands, table, used)


def _matching_bands(spec: InputSpec, data: DataSpec) -> tuple[str, ...]:
    """Return the encoder's bands with the data set's names; a missing one is a ``UserError``."""
    names = PICTURE_LETTERS if data.unit == "picture" else BANDS_OF_LETTERS
    bands = tuple(names.get(band, band) for band in spec.bands)
    missing = [band for band in bands if band not in (*data.bands, NDVI)]
    if missing:
        raise UserError(
            f"the encoder was trained on {' '.join(spec.bands)}, but {data.name} has no "
            f"{' '.join(missing)}: use a data set with these bands, or an encoder of "
            f"{' '.join(data.bands)}"
        )
    return bands
