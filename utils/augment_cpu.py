"""The views of ``utils.transforms`` on a CPU: one sample after the other, in its cache.

A core does so 10 times as fast as memory delivers batches, and skips what a sample does not need:
colour, blur, and pixels outside of the crop. Results agree with the batched path to 0.01 of 255.
Pictures are float32, 0..255, shape (C, H, W); operations change them in place where they can.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.augment_config import AugmentConfig
from utils.color_jitter import BRIGHTNESS, SATURATION, finish, shift_hue, to_grey


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


class ViewMaker:
    """Makes one view after the other, in any thread.

    Args:
        table: Picture value per band and stored value, uint8, shape (C, 256).
        mean: Mean per band in 0..255, subtracted from the picture.
        std: Standard deviation per band, the divisor that follows.
        config: Distribution of the views.
    """

    def __init__(self, table: Tensor, mean: Tensor, std: Tensor, config: AugmentConfig) -> None:
        self.tables = [bytes(row) for row in table.tolist()]
        self.mean = mean
        self.std = std
        self.crop_size = config.crop_size
        self.crop_first = config.crop_first
        self.round_to_uint8 = config.round_to_uint8

    def __call__(self, patch: Tensor, view: View, target: Tensor) -> None:
        """Write the normalised view of a stored patch, uint8, (C, H, W), into the target."""
        box = view.box
        if self.crop_first or not view.blends:  # pixels outside of the crop have no effect
            patch, box = cut(patch, box), (0, 0, *box[2:])
        picture = self._stretch(patch)
        if self.crop_first and view.blends:
            picture = self._round(resize(picture, self.crop_size))
            picture = color_jitter(picture, view, self.round_to_uint8)
            picture = blur(picture, view.taps, (0, 0, self.crop_size, self.crop_size))
            picture = self._normalize(self._round(picture))
        else:
            picture = color_jitter(picture, view, self.round_to_uint8)
            picture = blur(picture, view.taps, box)
            if self.round_to_uint8:
                picture = self._normalize(resize(picture, self.crop_size).round())
            else:  # the weights of a resize add up to 1: it may as well come last
                picture = resize(self._normalize(picture), self.crop_size, bands_last=True)
        target.copy_(turn(picture, view))

    def _stretch(self, patch: Tensor) -> Tensor:
        """Map stored values to picture values, 0..255, float32, (C, H, W)."""
        picture = torch.empty(patch.shape)
        for table, stored, target in zip(self.tables, patch, picture, strict=True):
            looked_up = bytearray(stored.numpy().tobytes().translate(table))
            target.copy_(torch.frombuffer(looked_up, dtype=torch.uint8).view_as(target))
        return picture

    def _round(self, picture: Tensor) -> Tensor:
        return picture.round() if self.round_to_uint8 else picture

    def _normalize(self, picture: Tensor) -> Tensor:
        """Return (C, H, W), also of a grey picture of one band."""
        return (picture - self.mean).div_(self.std)


def turn(picture: Tensor, view: View) -> Tensor:
    """Flip and transpose."""
    if view.flip:
        picture = picture.flip(2)
    if view.flip_rows:
        picture = picture.flip(1)
    return picture.mT if view.transpose else picture


def color_jitter(picture: Tensor, view: View, round_to_uint8: bool) -> Tensor:
    """Apply the blends, hue between them, and grey, which leaves one band."""
    before, after = view.blends[: view.hue_slot], view.blends[view.hue_slot :]
    for operation, factor in before:
        _blend(picture, operation, factor, round_to_uint8)
    if view.hue and len(picture) == 3:
        turns = torch.tensor([view.hue])
        picture = finish(shift_hue(picture[None], turns), round_to_uint8)[0]
    for operation, factor in after:
        _blend(picture, operation, factor, round_to_uint8)
    return finish(to_grey(picture[None]), round_to_uint8)[0] if view.to_grey else picture


def blur(picture: Tensor, taps: Sequence[float], box: tuple[int, int, int, int]) -> Tensor:
    """Blur as ``utils.resample.taps_map``, and return only the box."""
    if len(taps) == 1:
        return cut(picture, box)
    reach = len(taps) // 2
    top, left, height, width = box
    rows, columns = picture.shape[1:]
    window = picture[
        :,
        max(0, top - reach) : top + height + reach,
        max(0, left - reach) : left + width + reach,
    ]
    beyond = (left, columns - left - width, top, rows - top - height)
    outside = [max(0, reach - space) for space in beyond]
    if any(outside):
        window = F.pad(window, outside, mode="replicate")
    tall = taps[0] * window[:, :height]
    for shift, weight in enumerate(taps[1:], start=1):
        tall.add_(window[:, shift : shift + height], alpha=weight)
    # Shifting all pixels as one row is faster; what wraps around is outside of the box.
    line = tall.flatten()
    length = line.numel() - 2 * reach
    wide = torch.empty_like(tall)
    blurred = wide.view(-1)[:length]
    torch.mul(line[:length], taps[0], out=blurred)
    for shift, weight in enumerate(taps[1:], start=1):
        blurred.add_(line[shift : shift + length], alpha=weight)
    return wide[:, :, :width]


def resize(picture: Tensor, size: int, *, bands_last: bool = False) -> Tensor:
    """Scale to a square, with the weights of ``utils.resample.resize_map``.

    Args:
        picture: Shape (C, H, W).
        size: Height and width of the result.
        bands_last: The result may have the memory layout that is faster when it grows.
    """
    # Without a filter, which only shrinking needs, the weights are the same.
    shrinks = max(picture.shape[1:]) > size
    batch = picture[None]
    if bands_last and not shrinks:
        batch = batch.contiguous(memory_format=torch.channels_last)
    return F.interpolate(batch, (size, size), mode="bilinear", antialias=shrinks)[0]


def _blend(picture: Tensor, operation: int, factor: float, round_to_uint8: bool) -> None:
    """Change brightness, contrast or saturation, as ``utils.color_jitter.blend``."""
    if factor == 1:
        return
    if operation == BRIGHTNESS:
        base = picture.new_zeros(1)
    else:
        base = finish(to_grey(picture[None]), round_to_uint8)[0]
        if operation != SATURATION:
            base = finish(base.mean(), round_to_uint8)
    torch.lerp(base.expand_as(picture), picture, factor, out=picture)
    picture.clamp_(0, 255)
    if round_to_uint8:
        picture.floor_()


def cut(picture: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Return the part of a picture in a box."""
    top, left, height, width = box
    return picture[:, top : top + height, left : left + width]
