"""Draw the random parameters of the views of a batch.

They are a function of the samples' keys (``utils.data``) alone, not of the device or the batch.
Shapes: B samples.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.augment_config import AugmentConfig
from utils.augment_cpu import View
from utils.color_jitter import ColorParams
from utils.data import uniform
from utils.distributed import exchange, to_device
from utils.resample import gaussian_taps

_MAX_RATIO = 4 / 3  # of width to height; the default of torchvision's RandomResizedCrop
_TRIES = 10  # crops that RandomResizedCrop tries before it takes the largest


@dataclass(frozen=True)
class ViewDraws:
    """Parameters of the view of each sample of a batch, as one tensor that moves at once.

    Attributes:
        values: float32, shape (B, 4): top, left, height and width of the crop in pixels. If
            ``synthetic``, shape (B, 16 + taps): these; factors of brightness, contrast and
            saturation; their order; hue in turns, blends before hue, whether to end grey; whether
            left and right, top and bottom, rows and columns change places; taps of the blur.
        synthetic: Whether more than the crop is drawn.
        hue: Whether hue changes.
    """

    values: Tensor
    synthetic: bool
    hue: bool

    @property
    def boxes(self) -> Tensor:
        """Top, left, height and width of the crop in pixels, float32, shape (B, 4)."""
        return self.values[:, :4]

    @property
    def color(self) -> ColorParams:
        """Colour jitter and grey, if ``synthetic``."""
        factors, order, rest = self.values[:, 4:13].split(3, dim=1)
        hue, slot, grey = rest.unbind(1)
        return ColorParams(factors, order.long(), hue if self.hue else None, slot.long(), grey > 0)

    @property
    def flips(self) -> Tensor:
        """Whether left and right, top and bottom, rows and columns change places: bool, (B, 3)."""
        return self.values[:, 13:16] > 0

    @property
    def taps(self) -> Tensor:
        """Filter of the blur along either axis, float32, shape (B, taps)."""
        return self.values[:, 16:]

    def to(self, device: torch.device) -> "ViewDraws":
        """Copy to a device without waiting for it."""
        return replace(self, values=to_device(self.values, device))

    def exchanged(self, order: Tensor, device: torch.device) -> "ViewDraws":
        """Return the draws of the samples that ``utils.distributed.exchange`` brings here.

        Args:
            order: Permutation of the samples of all processes, shape (W * B,).
            device: Device of the result.
        """
        return replace(self, values=exchange(to_device(self.values, device), order))

    def views(self) -> list[View]:
        """Return the parameters of each sample as plain numbers."""
        boxes = self.boxes.int().tolist()
        if not self.synthetic:
            return [View(tuple(box)) for box in boxes]
        color = self.color
        columns = zip(
            boxes,
            color.blend_order.tolist(),
            color.factors.tolist(),
            [0.0] * len(boxes) if color.hue is None else color.hue.tolist(),
            color.hue_slot.tolist(),
            color.to_grey.tolist(),
            self.taps.tolist(),
            self.flips.tolist(),
            strict=True,
        )
        return [
            View(
                tuple(box),
                tuple((operation, factors[operation]) for operation in order),
                turn,
                slot,
                grey,
                _without_zeros(taps),
                *flips,
            )
            for box, order, factors, turn, slot, grey, taps, flips in columns
        ]


def _without_zeros(taps: list[float]) -> tuple[float, ...]:
    """Cut off the zeros at both ends of a symmetric filter."""
    first = next(number for number, weight in enumerate(taps) if weight)
    return tuple(taps[first : len(taps) - first])


def draw_views(
    keys: Tensor, streams: Mapping[int, bool], size: tuple[int, int], config: AugmentConfig
) -> list[ViewDraws]:
    """Draw views of each sample, all at once: small tensors cost as much as large ones.

    Args:
        keys: Streams of the samples (``utils.data.sample_keys``), int64, shape (B,).
        streams: For the number of each view, by which the views of a sample differ, whether all
            changes are drawn; otherwise only a crop.
        size: Height and width of the patches.
        config: Distribution of the views.
    """
    ordered = sorted(streams, key=lambda stream: not streams[stream])
    draws = Draws(torch.cat([keys + stream for stream in ordered]), 0)
    boxes = crop_boxes(draws, *size, config.crop_scale)
    values = dict(zip(ordered, boxes.split(len(keys)), strict=True))
    num_synthetic = sum(streams.values())
    if num_synthetic:
        draws.keep(num_synthetic * len(keys))
        changes = _changes(draws, config).split(len(keys))
        for stream, more in zip(ordered, changes, strict=False):
            values[stream] = torch.cat([values[stream], more], dim=1)
    hue = config.color_jitter[3] != 0
    return [ViewDraws(values[stream], full, full and hue) for stream, full in streams.items()]


def _changes(draws: "Draws", config: AugmentConfig) -> Tensor:
    """Draw all but the crop, as the columns of ``ViewDraws``: float32, shape (B, 12 + taps)."""
    color, sigma = color_params(draws, config), blur_sigma(draws, config)
    flip, never = draws.below(config.flip_prob), torch.zeros_like(color.to_grey)
    flips = [flip, never, never]
    if config.rotate:
        flips[1:] = draws.below(config.flip_prob), draws.below(config.flip_prob)
    hue = torch.zeros_like(sigma) if color.hue is None else color.hue
    single = torch.stack([n.float() for n in (hue, color.hue_slot, color.to_grey, *flips)], 1)
    taps = gaussian_taps(sigma, config.blur_sigma[1])
    return torch.cat([color.factors, color.blend_order, single, taps], dim=1)


class Draws:
    """Successive uniform numbers of every sample of a batch, from the keys of a stream.

    Args:
        keys: Keys of the samples, int64, shape (B,), see ``utils.data``.
        stream: Number of the view within its sample, which separates its random numbers.
    """

    def __init__(self, keys: Tensor, stream: int) -> None:
        self._values = uniform(keys, stream, count=48)  # (B, 48), more than a view uses
        self._used = 0

    def keep(self, count: int) -> None:
        """Draw further numbers only for the first ``count`` samples."""
        self._values = self._values[:count]

    def __call__(self, count: int) -> Tensor:
        """Return the next numbers in [0, 1), shape (B, count)."""
        start, self._used = self._used, self._used + count
        return self._values[:, start : self._used]

    def between(self, low: float, high: float, count: int = 1) -> Tensor:
        """Return numbers in [low, high), shape (B, count).

        Args:
            low: Smallest number.
            high: Upper bound, which is not drawn.
            count: Numbers per sample.
        """
        return low + (high - low) * self(count)

    def below(self, probability: float) -> Tensor:
        """Return True with this probability, shape (B,)."""
        return self(1)[:, 0] < probability


def crop_boxes(draws: Draws, height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """Draw boxes as torchvision's ``RandomResizedCrop``: the first of ten tries that fits.

    Args:
        draws: Uniform numbers of the samples.
        height: Height of the patches in pixels.
        width: Width of the patches in pixels.
        scale: Range of the crop's share of the area, in 0..1.

    Returns:
        Top, left, height and width of each box in pixels, float32, shape (B, 4).
    """
    area = height * width * draws.between(*scale, count=_TRIES)  # (B, 10)
    ratio = draws.between(-math.log(_MAX_RATIO), math.log(_MAX_RATIO), count=_TRIES).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)
    fallback_width = min(width, round(height * _MAX_RATIO))
    fallback_height = min(height, round(width * _MAX_RATIO))
    box_width = torch.where(any_fits, widths.gather(1, first)[:, 0], fallback_width)
    box_height = torch.where(any_fits, heights.gather(1, first)[:, 0], fallback_height)
    place = draws(2)
    top = torch.where(
        any_fits, (place[:, 0] * (height - box_height + 1)).floor(), (height - fallback_height) // 2
    )
    left = torch.where(
        any_fits, (place[:, 1] * (width - box_width + 1)).floor(), (width - fallback_width) // 2
    )
    return torch.stack([top, left, box_height, box_width], dim=1)


def color_params(draws: Draws, config: AugmentConfig) -> ColorParams:
    """Draw the parameters of ``ColorJitter`` (in random order) and ``RandomGrayscale``.

    Args:
        draws: Random numbers of the view.
        config: Strengths and probabilities.
    """
    brightness, contrast, saturation, hue = config.color_jitter
    apply = draws.below(config.jitter_prob)
    factors = torch.cat(
        [draws.between(max(0.0, 1 - s), 1 + s) for s in (brightness, contrast, saturation)], dim=1
    )
    shift = draws.between(-hue, hue)[:, 0]
    return ColorParams(
        factors=torch.where(apply[:, None], factors, 1.0),
        blend_order=draws(3).argsort(dim=1),
        hue=shift * apply if hue else None,
        hue_slot=(draws(1)[:, 0] * 4).long(),
        to_grey=draws.below(config.grayscale_prob),
    )


def blur_sigma(draws: Draws, config: AugmentConfig) -> Tensor:
    """Draw the standard deviation of the blur in pixels.

    Args:
        draws: Random numbers of the view.
        config: Range and probability of the blur.

    Returns:
        Deviations, 0 where a view is not blurred, shape (B,).
    """
    sigma = draws.between(*config.blur_sigma)[:, 0]
    return sigma * draws.below(config.blur_prob)
