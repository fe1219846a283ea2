"""Colour operations on a batch, each sample with its own factors and its own order.

The operations are those of torchvision and Pillow: brightness, contrast and saturation blend a
picture with black, with its mean grey and with its grey version; hue turns the colour circle.
Pictures are floats in 0..255, shape (B, C, H, W). With three bands they are taken as R, G, B; with
more, grey is the mean of the bands, and hue does not exist.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION = range(3)
# ITU-R BT.601, as Pillow converts RGB to L.
GREY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ColorParams:
    """Parameters of the colour operations of each sample of a batch.

    Attributes:
        factors: Factor of brightness, contrast and saturation, shape (B, 3); 1 changes nothing.
        blend_order: Permutation of these three per sample, int64, shape (B, 3).
        hue: Shift of hue in turns, -0.5..0.5, shape (B,), or None to leave hue alone.
        hue_slot: How many of the three blends come before hue, 0..3, int64, shape (B,).
        to_grey: Samples that end as grey pictures, bool, shape (B,).
    """

    factors: Tensor
    blend_order: Tensor
    hue: Tensor | None
    hue_slot: Tensor
    to_grey: Tensor


def color_jitter(pictures: Tensor, params: ColorParams, round_to_uint8: bool = False) -> Tensor:
    """Apply all colour operations.

    Hue is by far the most expensive operation, so it is computed once, between the blends before it
    and those after it; a blend on the other side of a sample's hue has factor 1.

    Args:
        pictures: Shape (B, C, H, W), 0..255.
        params: Parameters of each sample.
        round_to_uint8: Round after each operation, as 8-bit pictures do.
    """
    hue = params.hue if pictures.shape[1] == 3 else None
    sides = (False, True) if hue is not None else (None,)
    for after_hue in sides:
        if after_hue and hue is not None:
            shift = shift_hue_uint8 if round_to_uint8 else shift_hue
            pictures = finish(shift(pictures, hue), round_to_uint8)
        for slot in range(3):
            operation = params.blend_order[:, slot]
            factor = params.factors.gather(1, operation[:, None])[:, 0]
            if after_hue is not None:
                factor = torch.where((slot >= params.hue_slot) == after_hue, factor, 1.0)
            pictures = blend(pictures, operation, factor, round_to_uint8)
    grey = finish(to_grey(pictures), round_to_uint8)
    return torch.where(_per_sample(params.to_grey), grey, pictures)


def blend(pictures: Tensor, operation: Tensor, factor: Tensor, round_to_uint8: bool) -> Tensor:
    """Change brightness, contrast or saturation.

    Args:
        pictures: Shape (B, C, H, W), 0..255.
        operation: BRIGHTNESS, CONTRAST or SATURATION for each sample, shape (B,).
        factor: Factor of the operation, 0 or more, shape (B,).
        round_to_uint8: Round after each step, as 8-bit pictures do.
    """
    grey = finish(to_grey(pictures), round_to_uint8)  # (B, 1, H, W)
    mean = finish(grey.mean(dim=(2, 3), keepdim=True), round_to_uint8)  # (B, 1, 1, 1)
    base = torch.where(_per_sample(operation == SATURATION), grey, mean)
    base = base * _per_sample(operation != BRIGHTNESS)
    blended = torch.lerp(base, pictures, _per_sample(factor)).clamp(0, 255)
    return blended.floor() if round_to_uint8 else blended  # Pillow's blend truncates


def grey_weights(bands: int) -> Tensor:
    """Return the share of each band in grey: float32, shape (C,)."""
    return torch.tensor(GREY_WEIGHTS if bands == 3 else [1 / bands] * bands)


def to_grey(pictures: Tensor) -> Tensor:
    """Return the luminance of RGB, or the mean of other bands, shape (B, 1, H, W)."""
    if pictures.shape[1] != 3:
        return pictures.mean(dim=1, keepdim=True)
    red, green, blue = GREY_WEIGHTS
    grey = pictures[:, :1] * red
    return grey.add_(pictures[:, 1:2], alpha=green).add_(pictures[:, 2:], alpha=blue)


def shift_hue(pictures: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of RGB pictures; value and saturation (HSV) do not change.

    Args:
        pictures: Shape (B, 3, H, W), 0..255.
        turns: Shift of each sample in turns of the colour circle, shape (B,).
    """
    red, green, blue = pictures.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = 1 / chroma.clamp(min=1e-6)
    # Which band is the largest decides; lerp by 0 or 1 chooses exactly, and faster than where.
    sixth = torch.lerp(
        (red - green).mul_(scale).add_(4),
        (blue - red).mul_(scale).add_(2),
        (value == green).float(),
    )
    sixth = torch.lerp(sixth, (green - blue).mul_(scale), (value == red).float())
    sixth = sixth.add_(6 * turns[:, None, None])
    sixth = sixth.sub_((sixth / 6).floor_().mul_(6))  # on the circle of 0..6; cheaper than %
    return _from_hue(sixth, value, chroma)


def shift_hue_uint8(pictures: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of 8-bit pictures, whose hue and saturation have 8 bits, too.

    The same numbers as in ``rgb2hsv_row`` and ``hsv2rgb`` of Pillow's src/libImaging/Convert.c.
    Arguments as in ``shift_hue``; pictures hold whole numbers.
    """
    value = pictures.amax(dim=1)
    chroma = value - pictures.amin(dim=1)
    below = (value[:, None] - pictures) / chroma.clamp(min=1)[:, None]
    of_red, of_green, of_blue = below.unbind(dim=1)
    sixth = torch.where(
        of_green == 0, 2 + of_red.double() - of_blue, 4 + of_green.double() - of_red
    )
    sixth = torch.where(of_red == 0, of_blue - of_green, sixth).float()
    steps = (255 * ((sixth.double() / 6 + 1) % 1).float().double()).floor_()  # of 255 in a turn
    steps = (steps + (255 * turns).trunc()[:, None, None]) % 256
    saturation = (255 * (chroma / value.clamp(min=1)).double()).floor_()
    shifted = _from_hue((steps / 42.5).float(), value, (saturation * value / 255).float())
    return torch.where(_per_sample(turns == 0), pictures, shifted.round_())


def _from_hue(sixth: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Return RGB, (B, 3, H, W), from hue on a circle of 0..6, value, and value times saturation."""
    # On the circle red falls to its minimum at 5, green at 3 and blue at 1. A band rises, stays and
    # falls around 2, and around 8, which is 2 again.
    corners = torch.arange(0.0, -5.0, -2.0, device=value.device)[:, None, None]
    rise = (sixth[:, None] + corners).abs_().sub_(3).abs_().clamp_(1, 2)
    return rise.mul_(chroma[:, None]).add_((value - 2 * chroma)[:, None])


def _per_sample(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), which broadcasts over pictures."""
    return values[:, None, None, None]


def finish(pictures: Tensor, round_to_uint8: bool) -> Tensor:
    """Clip to 0..255 in place, as every 8-bit operation does, and round if requested.

    Args:
        pictures: Pictures, float, in any shape.
        round_to_uint8: Whether to round to whole numbers.
    """
    clipped = pictures.clamp_(0, 255)
    return clipped.round_() if round_to_uint8 else clipped
