"""From what a data set stores to what an encoder was trained on.

Data sets store 8-bit pictures, or reflectance as uint16 digital numbers (DN, 10,000 times
reflectance). Either becomes a uint8 picture in the encoder's bands and order, by one table per
band, and the picture becomes an input by (picture / 255 - mean) / std.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.normalization import (
    PICTURE_BANDS,
    PICTURE_LETTERS,
    InputSpec,
    imagenet_statistics,
)

if TYPE_CHECKING:  # the scripts parse their flags before NumPy and torch are imported
    import numpy as np
    from torch import Tensor

# auto: as in the pre-training of the encoder. paper: the data set's own stretch and nothing more.
# imagenet: the data set's own stretch, then mean and deviation of ImageNet. none: no stretch.
INPUT_NORMS = ("auto", "paper", "imagenet", "none")
_DN_PER_UNIT = 10_000  # of reflectance
_BANDS_OF_LETTERS = {letter: band for band, letter in PICTURE_LETTERS.items()}


@dataclass(frozen=True)
class DataSpec:
    """What a data set stores, and how its authors or users make pictures of it.

    Attributes:
        name: For messages, such as "BigEarthNet".
        bands: Bands that it has: R, G, B of pictures, or names as B4 and B8A of reflectance.
        low: Stored value per band that its own stretch maps to 0.
        high: Stored value per band that its own stretch maps to 255.
        unit: "picture" (uint8) or "reflectance" (uint16, DN).
    """

    name: str
    bands: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: str = "reflectance"

    @classmethod
    def of_pictures(cls, name: str) -> DataSpec:
        """Describe a data set of 8-bit RGB pictures, which are stretched already."""
        return cls(name, PICTURE_BANDS, (0.0,) * 3, (255.0,) * 3, unit="picture")

    @classmethod
    def of_reflectance(cls, name: str, bands: tuple[str, ...]) -> DataSpec:
        """Describe uint16 DN of Sentinel-2 bands; its own stretch is that of reflectance 0..1."""
        count = len(bands)
        return cls(name, bands, (0.0,) * count, (float(_DN_PER_UNIT),) * count)


class InputTransform:
    """The way from stored values to inputs.

    Attributes:
        bands: Bands to read from the data set, in the encoder's channel order (C of them).
        table: Picture of every stored value, uint8, shape (C, 256 or 65536).
        mean: Per band, subtracted from the picture in 0..1.
        std: Per band, the divisor that follows.
        spec: Contract of an encoder that is trained on such inputs.
    """

    def __init__(self, bands: tuple[str, ...], table: np.ndarray, spec: InputSpec) -> None:
        self.bands = bands
        self.table = table
        self.mean, self.std = spec.mean, spec.std
        self.spec = spec

    def to_picture(self, stored: np.ndarray) -> np.ndarray:
        """Map stored values, (C, H, W), to a uint8 picture of the same shape.

        Args:
            stored: 8-bit pictures as uint8, reflectance as uint16 DN; another type is a
                ``UserError``, for its unit is unknown.
        """
        import numpy as np

        expected = np.uint8 if self.table.shape[1] == 256 else np.uint16
        if stored.dtype != expected:
            unit = "8-bit pictures" if expected == np.uint8 else "10,000 times reflectance"
            raise UserError(
                f"stored values are {stored.dtype}, but {np.dtype(expected)} ({unit}) is expected: "
                "convert them"
            )
        return np.stack([row[plane] for row, plane in zip(self.table, stored, strict=True)])

    def normalize(self, pictures: Tensor) -> Tensor:
        """Turn uint8 pictures, (B, C, H, W), into float32 inputs of the same shape.

        Another type is a ``UserError``: floats in 0..1 would be divided by 255 twice.
        """
        import torch

        if pictures.dtype != torch.uint8:
            raise UserError(
                f"pictures are {pictures.dtype}, but torch.uint8 from 0 to 255 is expected: "
                "multiply pictures in 0..1 by 255 and convert them"
            )
        mean = torch.tensor(self.mean, device=pictures.device)[:, None, None]
        std = torch.tensor(self.std, device=pictures.device)[:, None, None]
        return (pictures.float() / 255 - mean) / std

    def fingerprint(self) -> str:
        """Identify the transform by a sha256, for names of cached features."""
        digest = hashlib.sha256(repr((self.bands, self.mean, self.std)).encode())
        digest.update(self.table.tobytes())
        return digest.hexdigest()


def input_transform(spec: InputSpec, data: DataSpec, input_norm: str) -> InputTransform:
    """Convert a data set for an encoder; what cannot be converted is a ``UserError``.

    Args:
        spec: What the encoder expects.
        data: What the data set stores.
        input_norm: One of ``INPUT_NORMS``.
    """
    import numpy as np

    bands = _matching_bands(spec, data)
    rows = [data.bands.index(band) for band in bands]
    low, high = np.array(data.low)[rows, None], np.array(data.high)[rows, None]
    mean, std = (0.0,) * len(bands), (1.0,) * len(bands)
    if input_norm == "auto":
        mean, std = spec.mean, spec.std
    elif input_norm == "imagenet":
        mean, std = imagenet_statistics(bands)
    used = InputSpec(spec.bands, (0.0,) * len(bands), (255.0,) * len(bands), mean, std, "picture")
    if data.unit == "picture":
        table = np.tile(np.arange(256, dtype=np.uint8), (len(bands), 1))
    elif input_norm == "none":
        table = np.tile(_stored_reflectance(), (len(bands), 1))
        used = replace(used, unit="reflectance")
    elif input_norm == "auto" and spec.unit == "reflectance":
        table = spec.stretch_table().numpy()[:, _stored_reflectance()]
        used = spec
    else:
        table = np.clip((np.arange(65_536.0) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return InputTransform(bands, table, used)


def _matching_bands(spec: InputSpec, data: DataSpec) -> tuple[str, ...]:
    """Name the encoder's bands as the data set does; one that it does not have is an error."""
    names = PICTURE_LETTERS if data.unit == "picture" else _BANDS_OF_LETTERS
    bands = tuple(names.get(band, band) for band in spec.bands)
    missing = [band for band in bands if band not in data.bands]
    if missing:
        raise UserError(
            f"the encoder was trained on {' '.join(spec.bands)}, but {data.name} has no "
            f"{' '.join(missing)}: take a data set with these bands, or an encoder of "
            f"{' '.join(data.bands)}"
        )
    return bands


def _stored_reflectance() -> np.ndarray:
    """Store every DN as SeCo does: floor(255 * min(DN / 10000, 1)), uint8, shape (65536,)."""
    import numpy as np

    return np.minimum(np.arange(65_536) * 255 // _DN_PER_UNIT, 255).astype(np.uint8)
