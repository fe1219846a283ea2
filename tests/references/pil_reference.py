"""The transforms of SeCo and MoCo on one Pillow picture with given parameters, and test pictures.

A slow re-statement with torchvision's functions, which are those that the originals call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # as ColorJitter numbers them
ADJUST: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    TF.adjust_brightness,
    TF.adjust_contrast,
    TF.adjust_saturation,
    TF.adjust_hue,
)


@dataclass(frozen=True)
class View:
    """What one picture goes through.

    Attributes:
        box: Top, left, height and width of the crop in pixels.
        amounts: Factors of brightness, contrast and saturation, and the shift of hue in turns.
        order: In which order these four are applied.
        grey: Whether the picture turns grey.
        sigma: Standard deviation of the blur in pixels, 0 for none.
        flip: Whether left and right change places.
    """

    box: tuple[int, int, int, int]
    amounts: tuple[float, float, float, float]
    order: Sequence[int]
    grey: bool
    sigma: float
    flip: bool


def jitter(picture: Image.Image, amounts: Sequence[float], order: Sequence[int]) -> Image.Image:
    for operation in order:
        picture = ADJUST[operation](picture, amounts[operation])
    return picture


def crop(picture: Image.Image, view: View, size: int) -> Image.Image:
    return TF.resized_crop(picture, *view.box, [size, size])


def distort(picture: Image.Image, view: View) -> Image.Image:
    picture = jitter(picture, view.amounts, view.order)
    if view.grey:
        picture = TF.to_grayscale(picture, num_output_channels=3)
    if view.sigma:
        picture = picture.filter(ImageFilter.GaussianBlur(view.sigma))
    return TF.hflip(picture) if view.flip else picture


def seco_view(picture: Image.Image, view: View, size: int) -> Image.Image:
    """The box is in the coordinates of the flipped picture."""
    return crop(distort(picture, view), view, size)


def moco_view(picture: Image.Image, view: View, size: int) -> Image.Image:
    return distort(crop(picture, view, size), view)


def to_pil(picture: Tensor) -> Image.Image:
    """(3, H, W) uint8 to Pillow."""
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


def from_pil(picture: Image.Image) -> Tensor:
    """Pillow to (3, H, W), float32 in 0..255."""
    return torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1)


def landscape(height: int, width: int, bands: int = 3, seed: int = 0) -> Tensor:
    """Large and small structures common to all bands, some of their own, and sensor noise.

    Returns:
        uint8, shape (bands, height, width); both ends of the range are reached.
    """
    generator = np.random.default_rng(seed)

    def structures(size: int) -> np.ndarray:
        coarse = generator.normal(size=(-(-height // size) + 1, -(-width // size) + 1))
        image = Image.fromarray(coarse.astype(np.float32))
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))

    shared = 45 * structures(48) + 25 * structures(9)
    own = [structures(30) * 30 + generator.normal(0, 3, (height, width)) for _ in range(bands)]
    return torch.from_numpy(np.clip(120 + shared + np.stack(own), 0, 255).astype(np.uint8))


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> Tensor:
    """Independent values 0..255: uint8, shape (bands, height, width)."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (bands, height, width), dtype=np.uint8))


PICTURES = {"landscape": landscape, "noise": noise}
