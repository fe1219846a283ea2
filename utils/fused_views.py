"""The steps of a view on a GPU, each as one operator of torch around one Triton kernel.

Shapes: B samples, C bands, H x W pixels of a patch, h x w pixels of a view.
"""

import torch
import triton
from torch import Tensor

from utils import view_kernels as kernels

_VALUES = 1024  # of one program
# Triton 3.10 changes this default, and 3.9 warns of it.
_OPTIONS = {"enable_fp_fusion": True}


def color_jitter(
    stored: Tensor, table: Tensor, weights: Tensor, color: Tensor, hue: bool
) -> Tensor:
    """Stretch pictures and change their colours: fp16, 0..255, shape (B, H, C, W).

    Args:
        stored: Bytes, which the table stretches, or fp16 in 0..255, which it does not; shape
            (B, C, H, W), the pixels of a row next to each other.
        table: Stretch, float32, shape (C, 256).
        weights: Share of each band in grey, float32, shape (C,).
        color: Parameters, float32, shape (B, 9): factors of brightness, contrast and saturation,
            the order of these three, hue in turns, blends before hue, whether to end grey.
        hue: Whether hue changes, if there are three bands.
    """
    sums = grey_sums(stored, table, weights, color, hue)
    return colored(stored, table, weights, color, sums, hue)


@torch.library.custom_op("seco::grey_sums", mutates_args=())
def grey_sums(stored: Tensor, table: Tensor, weights: Tensor, color: Tensor, hue: bool) -> Tensor:
    """First pass: sum grey where contrast stands, by block: float32, shape (B, blocks).

    Arguments as in ``color_jitter``.
    """
    sums = _empty_sums(stored)
    _launch_color(stored, table, weights, color, sums, None, hue)
    return sums


@torch.library.custom_op("seco::colored", mutates_args=())
def colored(
    stored: Tensor, table: Tensor, weights: Tensor, color: Tensor, sums: Tensor, hue: bool
) -> Tensor:
    """Second pass: return the changed pictures.

    Args:
        stored: Stored bytes, shape (B, C, H, W).
        table: Stretch, float32, shape (C, 256).
        weights: Share of each band in grey, float32, shape (C,).
        color: Parameters of the colour jitter, float32, one row per sample.
        sums: Result of ``grey_sums``.
        hue: Whether hue is shifted.
    """
    pictures = _empty_pictures(stored)
    _launch_color(stored, table, weights, color, sums, pictures, hue)
    return pictures


def _launch_color(
    stored: Tensor,
    table: Tensor,
    weights: Tensor,
    color: Tensor,
    sums: Tensor,
    pictures: Tensor | None,
    hue: bool,
) -> None:
    """Fill the sums, or the pictures."""
    _, bands, height, width = stored.shape
    kernels.color_kernel[sums.shape](
        stored, table, weights, color, sums, sums if pictures is None else pictures,
        *stored.stride()[:3], color.stride(0),
        C=bands, H=height, W=width, BANDS=triton.next_power_of_2(bands), PIXELS=_block(bands),
        SUMS=triton.next_power_of_2(sums.shape[1]), STORED=stored.dtype == torch.uint8, HUE=hue,
        FIRST=pictures is None, **_OPTIONS,
    )  # fmt: skip


def _block(bands: int) -> int:
    """Return the pixels of one program; the kernel of any bands holds a power of two of them."""
    return _VALUES if bands == 3 else max(1, 4 * _VALUES // triton.next_power_of_2(bands))


def _empty_sums(stored: Tensor) -> Tensor:
    batch, bands, height, width = stored.shape
    return torch.empty(batch, triton.cdiv(height * width, _block(bands)), device=stored.device)


def _empty_pictures(stored: Tensor) -> Tensor:
    batch, bands, height, width = stored.shape
    return stored.new_empty(batch, height, bands, width, dtype=torch.float16)


@torch.library.custom_op("seco::stretched", mutates_args=())
def stretched(stored: Tensor, table: Tensor) -> Tensor:
    """Stretch bytes, and leave their colours alone; see ``color_jitter``.

    Args:
        stored: Stored bytes, shape (B, C, H, W).
        table: Stretch, float32, shape (C, 256).
    """
    batch, bands, height, width = stored.shape
    pictures = _empty_pictures(stored)
    kernels.stretch_kernel[batch, triton.cdiv(bands * height * width, _VALUES)](
        stored, table, pictures, *stored.stride()[:3],
        C=bands, H=height, W=width, VALUES=_VALUES, **_OPTIONS,
    )  # fmt: skip
    return pictures


@torch.library.custom_op("seco::resize_map", mutates_args=())
def resize_map(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    """Compute the maps of ``utils.resample`` in fp16; start and length are columns of one tensor.

    Arguments as in ``resize_map`` of that file.
    """
    maps = start.new_empty(len(start), out_size, in_size, dtype=torch.float16)
    kernels.resize_map_kernel[len(start), out_size](
        start, length, maps, in_size, out_size, start.stride(0),
        IN=triton.next_power_of_2(in_size), **_OPTIONS,
    )  # fmt: skip
    return maps


@torch.library.custom_op("seco::blur_map", mutates_args=())
def blur_map(taps: Tensor, size: int) -> Tensor:
    """Compute the maps of ``utils.resample`` in fp16; arguments as in ``taps_map`` there."""
    maps = taps.new_empty(len(taps), size, size, dtype=torch.float16)
    kernels.blur_map_kernel[len(taps), size](
        taps, maps, size, taps.stride(0),
        TAPS=taps.shape[1], SIZE=triton.next_power_of_2(size), **_OPTIONS,
    )  # fmt: skip
    return maps


@torch.library.custom_op("seco::finish_views", mutates_args=())
def finish_views(small: Tensor, flips: Tensor | None, mean: Tensor, scale: Tensor) -> Tensor:
    """Flip and normalise fp16 pictures (B, h, C, w): float32, shape (B, C, h, w), channels last.

    Args:
        small: Pictures, 0..255.
        flips: Columns of ``ViewDraws.flips`` as floats, shape (B, 3), or None.
        mean: Per band, 0..255, shape (C,).
        scale: Factor per band, after the mean is subtracted, shape (C,).
    """
    batch, height, bands, width = small.shape
    views = _empty_views(small)
    kernels.views_kernel[batch, triton.cdiv(height * bands * width, _VALUES)](
        small, small if flips is None else flips, mean, scale, views,
        0 if flips is None else flips.stride(0),
        C=bands, h=height, w=width, VALUES=_VALUES, FLIP=flips is not None, **_OPTIONS,
    )  # fmt: skip
    return views


def _empty_views(small: Tensor) -> Tensor:
    batch, height, bands, width = small.shape
    shape = (batch, bands, height, width)
    return torch.empty(shape, device=small.device, memory_format=torch.channels_last)


def resample(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one map to each axis, as two matrix products without a copy: shape (B, h, C, w).

    Args:
        pictures: Shape (B, H, C, W).
        rows: Shape (B, h, H).
        columns: Shape (B, w, W).
    """
    batch, height, bands, width = pictures.shape
    narrow = pictures.view(batch, height * bands, width) @ columns.mT  # (B, H * C, w)
    small = rows @ narrow.view(batch, height, -1)  # (B, h, C * w)
    return small.view(batch, rows.shape[1], bands, -1)


# Shapes alone, for torch.compile and for counting on tensors without memory.
@resize_map.register_fake
def _(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    return start.new_empty(len(start), out_size, in_size, dtype=torch.float16)


@blur_map.register_fake
def _(taps: Tensor, size: int) -> Tensor:
    return taps.new_empty(len(taps), size, size, dtype=torch.float16)


grey_sums.register_fake(lambda stored, *_: _empty_sums(stored))
colored.register_fake(lambda stored, *_: _empty_pictures(stored))
stretched.register_fake(lambda stored, *_: _empty_pictures(stored))
finish_views.register_fake(lambda small, *_: _empty_views(small))
