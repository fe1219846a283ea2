"""The views of ``utils.transforms`` on a CPU: one sample after the other, on 8-bit pictures.

The original works on 8-bit pictures, too. OpenCV does so in the cache of a core, several times as
fast as the batched path makes floats, and what a sample does not need is skipped: colour, blur, and
pixels outside of the crop. Pictures are uint8, shape (H, W, C), or (H, W) when they are grey.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from utils.augment_config import AugmentConfig
from utils.color_jitter import BRIGHTNESS, CONTRAST, grey_weights

Picture = NDArray[Any]  # uint8
Window = tuple[slice, slice]  # rows and columns

_GREY_OF_RGB, _IDENTITY = grey_weights(3).double().numpy(), np.eye(3)

cv2.setNumThreads(1)  # ``utils.transforms`` starts the threads, which make a view each


@dataclass(frozen=True)
class View:
    """Parameters of one view of one patch, as plain numbers; see ``utils.view_draws.ViewDraws``.

    Attributes:
        box: Top, left, height and width of the crop.
        blends: Brightness, contrast and saturation with their factors, in their order.
        hue: Shift of hue in turns; 0 changes nothing.
        hue_slot: Number of blends before hue.
        to_grey: Whether the view becomes grey at the end.
        taps: Symmetric weights of the blur; a single weight means no blur.
        flip: Whether left and right change places.
        flip_rows: Whether top and bottom do, afterwards.
        transpose: Whether rows become columns, after both flips.
    """

    box: tuple[int, int, int, int]
    blends: tuple[tuple[int, float], ...] = ()
    hue: float = 0.0
    hue_slot: int = 0
    to_grey: bool = False
    taps: tuple[float, ...] = (1.0,)
    flip: bool = False
    flip_rows: bool = False
    transpose: bool = False

    def windows(self, reach: int) -> tuple[Window, Window]:
        """Return the box with ``reach`` pixels around it, and where the box is in that window."""
        top, left, height, width = self.box
        first_row, first_column = max(0, top - reach), max(0, left - reach)
        outer = slice(first_row, top + height + reach), slice(first_column, left + width + reach)
        top, left = top - first_row, left - first_column
        return outer, (slice(top, top + height), slice(left, left + width))


class ViewMaker:
    """Makes one view after the other, in any thread.

    Args:
        table: Picture value per band and stored value, uint8, shape (C, 256).
        mean: Mean per band in 0..255, subtracted from the picture, shape (C, 1, 1).
        std: Standard deviation per band, the divisor that follows, shape (C, 1, 1).
        config: Distribution of the views; ``round_to_uint8`` truncates and rounds exactly where
            Pillow does, which is slower.
    """

    def __init__(self, table: Tensor, mean: Tensor, std: Tensor, config: AugmentConfig) -> None:
        is_picture = bool((table == torch.arange(256)).all())
        self.tables = None if is_picture else table.numpy()
        self.crop_size, self.crop_first = config.crop_size, config.crop_first
        self.as_pillow = config.round_to_uint8
        self.mean = mean.flatten().repeat(self.crop_size)  # of a row of pixels
        self.scale = 1 / std.flatten().repeat(self.crop_size)

    def __call__(self, patch: Tensor, view: View, target: Tensor) -> None:
        """Write the normalised view of a stored patch into the target.

        Args:
            patch: uint8, (C, H, W).
            view: What to do with it.
            target: float32, (C, crop_size, crop_size), with the bands last in memory.
        """
        size, bands = self.crop_size, patch.numpy()
        outer, inner = view.windows(0 if self.crop_first else len(view.taps) // 2)
        contrasts = any(kind == CONTRAST and factor != 1 for kind, factor in view.blends)
        if self.crop_first or not contrasts:  # contrast needs the mean of the whole patch
            bands, outer = bands[:, *outer], (slice(None), slice(None))
        picture = self._stretch(bands)
        if self.crop_first:
            picture = resize(picture, size, self.as_pillow)
        picture = color_jitter(picture, view, outer, self.as_pillow)
        picture = blur(picture, view.taps, self.as_pillow)
        if not self.crop_first:
            picture = resize(picture[inner], size, self.as_pillow)
        picture = turn(picture, view)
        if picture.ndim == 2:
            picture = cv2.merge([picture] * len(patch))
        rows = target.permute(1, 2, 0).view(size, -1)
        rows.copy_(torch.from_numpy(picture).view(size, -1)).sub_(self.mean).mul_(self.scale)

    def _stretch(self, bands: Picture) -> Picture:
        """Map stored values, (C, H, W), to a picture."""
        planes = list(np.ascontiguousarray(bands))  # OpenCV merges windows five times as slowly
        if self.tables is not None:
            planes = [cv2.LUT(band, table) for band, table in zip(planes, self.tables, strict=True)]
        return cv2.merge(planes).reshape(*bands.shape[1:], len(bands))


def color_jitter(picture: Picture, view: View, window: Window, as_pillow: bool) -> Picture:
    """Apply brightness, contrast, saturation and hue in the order of the view, then grey.

    Args:
        picture: RGB or multi-band picture, uint8, shape (H, W, C).
        view: Parameters of the view.
        window: Rows and columns that are kept after contrast has taken its mean grey from the whole
            picture.
        as_pillow: Whether every step rounds as Pillow does, instead of as OpenCV.
    """
    for slot in range(len(view.blends) + 1):
        if slot == view.hue_slot and view.hue and picture.shape[2] == 3:
            picture = _shift_hue(picture, view.hue, as_pillow)
        if slot < len(view.blends):
            picture = _blend(picture, *view.blends[slot], window, as_pillow)
    return to_grey(picture) if view.to_grey else picture


def to_grey(picture: Picture) -> Picture:
    """Return the luminance of RGB, or the mean of other bands, shape (H, W)."""
    height, width, bands = picture.shape
    if bands == 3:
        return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    values = np.ascontiguousarray(picture).reshape(-1, bands)
    return cv2.reduce(values, 1, cv2.REDUCE_AVG).reshape(height, width)


def blur(picture: Picture, taps: tuple[float, ...], as_pillow: bool) -> Picture:
    """Blur along both axes; borders repeat the last pixel.

    Args:
        picture: Picture, uint8, shape (H, W, C) or (H, W).
        taps: Symmetric weights that sum to 1; one weight means no blur.
        as_pillow: Whether to use Pillow's Gaussian blur of the same variance, as the original does.
    """
    if len(taps) == 1:
        return picture
    if not as_pillow:
        weights = np.array(taps, np.float32)
        blurred = cv2.sepFilter2D(picture, -1, weights, weights, borderType=cv2.BORDER_REPLICATE)
        return blurred.reshape(picture.shape)
    # The variance of the taps is that of the blur (Gwosdek et al. 2011, equation 14).
    sigma = float(np.sqrt(np.dot(taps, (np.arange(len(taps)) - len(taps) // 2) ** 2)))
    kernel = ImageFilter.GaussianBlur(sigma)
    planes = [np.asarray(Image.fromarray(band).filter(kernel)) for band in cv2.split(picture)]
    return cv2.merge(planes).reshape(picture.shape)


def resize(picture: Picture, size: int, as_pillow: bool) -> Picture:
    """Scale to a square, with the weights of ``utils.resample.resize_map``.

    Args:
        picture: Picture, uint8, shape (H, W, C) or (H, W).
        size: Height and width of the result in pixels.
        as_pillow: Whether to use the exact weights for enlarging, too, instead of OpenCV's.
    """
    height, width = picture.shape[:2]
    if max(height, width) <= size and not as_pillow:  # only shrinking needs a filter
        scaled = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
    else:
        planes = torch.from_numpy(picture.reshape(height, width, -1)).permute(2, 0, 1)[None]
        batch = F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
        scaled = cv2.merge(list(batch[0].numpy()))
    return scaled.reshape(size, size, *picture.shape[2:])


def turn(picture: Picture, view: View) -> Picture:
    """Flip and transpose a picture.

    Args:
        picture: Picture, uint8, shape (H, W, C) or (H, W).
        view: Parameters of the view.
    """
    if view.flip:
        picture = cv2.flip(picture, 1).reshape(picture.shape)
    if view.flip_rows:
        picture = cv2.flip(picture, 0).reshape(picture.shape)
    return np.ascontiguousarray(picture.swapaxes(0, 1)) if view.transpose else picture


def _shift_hue(picture: Picture, turns: float, as_pillow: bool) -> Picture:
    """Shift the hue of RGB; a turn has 255 steps, as torchvision counts them."""
    if as_pillow:
        hsv = np.array(Image.fromarray(picture).convert("HSV"))
    else:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
    shift = np.zeros(hsv.shape[1:], np.uint8)
    shift[:, 0] = int(turns * 255) % 256
    np.add(hsv, shift, out=hsv)  # wraps around; a row at a time, NumPy would add pixel by pixel
    if as_pillow:
        planes = [Image.fromarray(plane) for plane in cv2.split(hsv)]
        return np.array(Image.merge("HSV", planes).convert("RGB"))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _blend(picture: Picture, kind: int, factor: float, window: Window, as_pillow: bool) -> Picture:
    """Change brightness, contrast or saturation, as ``utils.color_jitter.blend``."""
    if factor == 1:
        return picture
    # OpenCV rounds; Pillow truncates, which a shift by almost a half makes of it.
    shift = -0.499 if as_pillow else 0.0
    bands = picture.shape[2]
    if kind == CONTRAST:
        mean = cv2.mean(to_grey(picture))[0]
        shift += (1 - factor) * (int(mean + 0.5) if as_pillow else mean)
        picture = picture[window]
    if kind in (BRIGHTNESS, CONTRAST):
        values = np.ascontiguousarray(picture).reshape(len(picture), -1)
        return cv2.transform(values, np.array([[factor, shift]])).reshape(picture.shape)
    if bands == 3 and not as_pillow:  # in one step
        return cv2.transform(picture, (1 - factor) * _GREY_OF_RGB + factor * _IDENTITY)
    grey = cv2.merge([to_grey(picture)] * bands).reshape(picture.shape)
    return cv2.addWeighted(picture, factor, grey, 1 - factor, shift).reshape(picture.shape)
