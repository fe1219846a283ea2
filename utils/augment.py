"""The one implementation of the views: stored uint8 patches in, normalised views out.

Works on whole batches on any device, without a loop over samples and without waiting for the
device. All randomness is a function of the samples' keys (``utils.random``).

SeCo applies, at the full size of a patch, colour jitter, grey, blur and flip, and then crops; MoCo
crops first. Blur, flip, crop and resize are one linear map per axis (``utils.resample``).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.color_jitter import ColorParams, color_jitter
from utils.normalization import InputSpec
from utils.random import uniform
from utils.resample import blur_map, resample, resize_map

_MAX_RATIO = 4 / 3  # of width to height; the default of torchvision's RandomResizedCrop
_TRIES = 10  # crops that RandomResizedCrop tries before it takes the largest


@dataclass(frozen=True)
class AugmentConfig:
    """Distribution of the views; the defaults are those of MoCo-v2 and SeCo.

    Attributes:
        crop_size: Height and width of a view in pixels.
        crop_scale: Range of the crop's share of the patch.
        color_jitter: Strength of brightness, contrast, saturation (factors in 1 - s .. 1 + s) and
            hue (turns in -s .. s, at most 0.5).
        jitter_prob: Probability of colour jitter.
        grayscale_prob: Probability of a grey picture.
        blur_prob: Probability of blur.
        blur_sigma: Range of its standard deviation in pixels.
        flip_prob: Probability of a horizontal flip.
        rotate: Also flip vertically and transpose, each with ``flip_prob``: all eight positions of
            a square, for imagery without an up.
        crop_first: Crop before colour and blur, as MoCo does, rather than after, as SeCo does.
        round_to_uint8: Round after each operation, as the 8-bit pictures of the original did.
    """

    crop_size: int = 224
    crop_scale: tuple[float, float] = (0.2, 1.0)
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_prob: float = 0.8
    grayscale_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    flip_prob: float = 0.5
    rotate: bool = False
    crop_first: bool = False
    round_to_uint8: bool = False


class Augment(nn.Module):
    """Draw views of patches.

    Args:
        spec: Bands of the patches, their stretch and their normalisation.
        config: Distribution of the views.
    """

    table: Tensor
    row: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec, config: AugmentConfig) -> None:
        super().__init__()
        self.config = config
        table = spec.stretch_table()  # (C, 256)
        self.is_picture = bool((table == torch.arange(256)).all())  # then there is no stretch
        buffers = {
            "table": table.float().flatten(),
            "row": 256 * torch.arange(len(table), dtype=torch.int32)[:, None, None],
            "mean": 255 * torch.tensor(spec.mean)[:, None, None],
            "std": 255 * torch.tensor(spec.std)[:, None, None],
        }
        for name, values in buffers.items():  # a checkpoint carries the InputSpec instead
            self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def forward(self, patches: Tensor, keys: Tensor, stream: int, synthetic: bool) -> Tensor:
        """Make one view of each patch.

        Args:
            patches: Stored values, uint8, shape (B, C, H, W).
            keys: Streams of the samples (``utils.random.sample_keys``), int64, shape (B,).
            stream: Number of the view, so that the views of a sample differ.
            synthetic: Apply everything; else only crop, resize and normalise.

        Returns:
            Normalised views, float32, channels last, shape (B, C, crop_size, crop_size).
        """
        config = self.config
        draws = Draws(keys, stream)
        height, width = patches.shape[2:]
        pictures = self._stretch(patches)
        rows, columns = crop_maps(draws, height, width, config)
        if not synthetic:
            return self._normalize(resample(pictures, rows, columns))
        color = color_params(draws, config)
        sigma = blur_sigma(draws, config)
        flip = draws.below(config.flip_prob)[:, None, None]
        if config.crop_first:
            pictures = self._round(resample(pictures, rows, columns))
            rows = columns = blur_map(sigma, config.crop_size, config.blur_sigma[1])
        else:
            rows = rows @ blur_map(sigma, height, config.blur_sigma[1])
            columns = columns @ blur_map(sigma, width, config.blur_sigma[1])
        pictures = color_jitter(pictures, color, config.round_to_uint8)
        views = resample(pictures, rows, torch.where(flip, columns.flip(1), columns))
        if config.rotate:
            # Transposed first, the second flip would be the first one again.
            flip, transpose = draws.below(config.flip_prob), draws.below(config.flip_prob)
            views = torch.where(flip[:, None, None, None], views.flip(2), views)
            views = torch.where(transpose[:, None, None, None], views.mT, views)
        return self._normalize(views)

    def _stretch(self, patches: Tensor) -> Tensor:
        """Look the picture's values up, 0..255, float32."""
        if self.is_picture:
            return patches.float()
        index = patches.int() + self.row
        return self.table.index_select(0, index.flatten()).view(patches.shape)

    def _round(self, pictures: Tensor) -> Tensor:
        return pictures.round() if self.config.round_to_uint8 else pictures

    def _normalize(self, views: Tensor) -> Tensor:
        views = (self._round(views) - self.mean) / self.std
        return views.contiguous(memory_format=torch.channels_last)


class Draws:
    """Successive uniform numbers of every sample of a batch; a call takes the next ``count``."""

    def __init__(self, keys: Tensor, stream: int) -> None:
        self._values = uniform(keys, stream, count=48)  # (B, 48), more than a view uses
        self._used = 0

    def __call__(self, count: int) -> Tensor:
        """Return numbers in [0, 1), shape (B, count)."""
        start, self._used = self._used, self._used + count
        return self._values[:, start : self._used]

    def between(self, low: float, high: float, count: int = 1) -> Tensor:
        """Return numbers in [low, high), shape (B, count)."""
        return low + (high - low) * self(count)

    def below(self, probability: float) -> Tensor:
        """Return True with this probability, shape (B,)."""
        return self(1)[:, 0] < probability


def crop_boxes(draws: Draws, height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """Draw boxes as torchvision's ``RandomResizedCrop``: the first of ten tries that fits.

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


def crop_maps(
    draws: Draws, height: int, width: int, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Draw boxes and return their maps of rows (B, crop, H) and of columns (B, crop, W)."""
    top, left, box_height, box_width = crop_boxes(draws, height, width, config.crop_scale).unbind(1)
    return (
        resize_map(top, box_height, height, config.crop_size),
        resize_map(left, box_width, width, config.crop_size),
    )


def color_params(draws: Draws, config: AugmentConfig) -> ColorParams:
    """Draw what ``ColorJitter`` (in random order) and ``RandomGrayscale`` do to each sample."""
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
    """Draw the standard deviation of the blur, 0 where there is none, shape (B,)."""
    sigma = draws.between(*config.blur_sigma)[:, 0]
    return sigma * draws.below(config.blur_prob)
