"""The steps of a view on a GPU, each as one operator of torch around one Triton kernel.

Shapes: B samples, C bands, H x W pixels of a patch, h x w pixels of a view.
"""

import torch
import triton
from torch import Tensor

from utils import view_kernels as kernels

_PIXELS = 1024  # of one program


@torch.library.custom_op("seco::grey_sums", mutates_args=())
def grey_sums(
    stored: Tensor, table: Tensor | None, weights: Tensor, color: Tensor, hue: bool, rounded: bool
) -> Tensor:
    """Sum the grey of a picture at the point of the chain where contrast stands, block by block.

    Args:
        stored: Pictures as ``pictures`` takes them.
        table: Stretch, float32, shape (C, 256); None if the pictures are stretched already.
        weights: Share of each band in grey, float32, shape (C,).
        color: Parameters of the colour jitter, float32, one row per sample.
        hue: Whether hue is shifted.
        rounded: Whether each step rounds to whole numbers, as 8-bit pictures do.

    Returns:
        Sums, float32, shape (B, blocks).
    """
    layout, constants = _launch(stored, table, hue, rounded)
    blocks = triton.cdiv(layout["H"] * layout["W"], constants["PIXELS"])
    sums = torch.empty(len(stored), blocks, device=stored.device)
    lookup = weights if table is None else table
    kernels.grey_sums_kernel[(len(stored), blocks)](
        stored, lookup, weights, color, sums, **layout, color_stride=color.stride(0), **constants
    )
    return sums


@torch.library.custom_op("seco::pictures", mutates_args=())
def pictures(
    stored: Tensor,
    table: Tensor | None,
    weights: Tensor,
    color: Tensor | None,
    sums: Tensor | None,
    hue: bool,
    rounded: bool,
) -> Tensor:
    """Stretch and colour pictures.

    Args:
        stored: Bytes (B, C, H, W) with their ``table``, or fp16 in 0..255 (B, H, C, W) without.
        table: Stretch, float32, shape (C, 256).
        weights: Share of each band in grey, float32, shape (C,).
        color: Parameters, float32, shape (B, 9): factors of brightness, contrast and saturation,
            the order of these three, hue in turns, blends before hue, whether to end grey. None
            leaves colours alone.
        sums: Result of ``grey_sums``, with ``color``.
        hue: Whether hue changes; only for three bands.
        rounded: Round after each operation.

    Returns:
        fp16, 0..255, shape (B, H, C, W).
    """
    layout, constants = _launch(stored, table, hue, rounded)
    batch, bands, height, width = len(stored), layout["C"], layout["H"], layout["W"]
    blocks = triton.cdiv(height * width, constants["PIXELS"])
    result = stored.new_empty(batch, height, bands, width, dtype=torch.float16)
    lookup = weights if table is None else table
    has_color = color is not None and sums is not None
    kernels.pictures_kernel[(batch, blocks)](
        stored, lookup, weights, color if has_color else weights, sums if has_color else weights,
        result, **layout, color_stride=color.stride(0) if color is not None else 0,
        num_sums=blocks, SUMS=triton.next_power_of_2(blocks), COLOR=has_color, **constants,
    )  # fmt: skip
    return result


def _launch(
    stored: Tensor, table: Tensor | None, hue: bool, rounded: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Return sizes and strides of pictures, and the constants of their kernels."""
    if table is not None:
        _, bands, height, width = stored.shape
        stride_c, stride_h = stored.stride(1), stored.stride(2)
    else:
        _, height, bands, width = stored.shape
        stride_c, stride_h = stored.stride(2), stored.stride(1)
    layout = {"C": bands, "H": height, "W": width, "stride_c": stride_c, "stride_h": stride_h}
    layout["stride_b"] = stored.stride(0)
    padded = triton.next_power_of_2(bands)
    constants = {"BANDS": padded, "PIXELS": _PIXELS * 4 // max(4, padded)}
    return layout, constants | {"STORED": table is not None, "HUE": hue, "ROUND": rounded}


@torch.library.custom_op("seco::resize_map", mutates_args=())
def resize_map(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    """Compute ``utils.resample.resize_map`` in fp16; start and length are columns of one tensor.

    Args:
        start: First pixel of each crop, shape (B,).
        length: Length of each crop in pixels, shape (B,).
        in_size: Pixels of the patch along the axis.
        out_size: Pixels of the view along the axis.

    Returns:
        Maps of shape (B, out_size, in_size).
    """
    maps = start.new_empty(len(start), out_size, in_size, dtype=torch.float16)
    kernels.resize_map_kernel[(len(start), out_size)](
        start, length, maps, in_size, out_size, start.stride(0), triton.next_power_of_2(in_size)
    )
    return maps


@torch.library.custom_op("seco::blur_map", mutates_args=())
def blur_map(taps: Tensor, size: int) -> Tensor:
    """Compute ``utils.resample.taps_map`` in fp16.

    Args:
        taps: Symmetric weights, shape (B, 2 * reach + 1).
        size: Pixels along the axis.

    Returns:
        Maps of shape (B, size, size).
    """
    maps = taps.new_empty(len(taps), size, size, dtype=torch.float16)
    kernels.blur_map_kernel[(len(taps), size)](
        taps, maps, size, taps.stride(0), taps.shape[1], triton.next_power_of_2(size)
    )
    return maps


@torch.library.custom_op("seco::finish_views", mutates_args=())
def finish_views(
    small: Tensor, flips: Tensor | None, mean: Tensor, std: Tensor, rounded: bool
) -> Tensor:
    """Flip, round and normalise fp16 pictures (B, h, C, w).

    Args:
        small: Pictures, 0..255.
        flips: Columns of ``ViewDraws.flips`` as floats, shape (B, 3), or None.
        mean: Per band, 0..255, shape (C,).
        std: Per band, 0..255, shape (C,).
        rounded: Round to whole levels first.

    Returns:
        float32, shape (B, C, h, w), channels last.
    """
    batch, height, bands, width = small.shape
    views = _empty_views(small)
    padded = triton.next_power_of_2(bands)
    pixels = _PIXELS * 4 // max(4, padded)
    kernels.views_kernel[(batch, triton.cdiv(height * width, pixels))](
        small, small if flips is None else flips, mean, std, views, bands, height, width,
        flips.stride(0) if flips is not None else 0,
        BANDS=padded, PIXELS=pixels, FLIP=flips is not None, ROUND=rounded,
    )  # fmt: skip
    return views


def _empty_views(small: Tensor) -> Tensor:
    batch, height, bands, width = small.shape
    shape = (batch, bands, height, width)
    return torch.empty(shape, device=small.device, memory_format=torch.channels_last)


def resample(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one map to each axis, as two matrix products without a copy between them.

    Args:
        pictures: Shape (B, H, C, W).
        rows: Shape (B, h, H).
        columns: Shape (B, w, W).

    Returns:
        Shape (B, h, C, w), in the type of the operands.
    """
    batch, height, bands, width = pictures.shape
    narrow = pictures.view(batch, height * bands, width) @ columns.mT  # (B, H * C, w)
    small = rows @ narrow.view(batch, height, -1)  # (B, h, C * w)
    return small.view(batch, rows.shape[1], bands, -1)


# Shapes alone, for torch.compile and for counting on tensors without memory.
@grey_sums.register_fake
def _(stored: Tensor, table: Tensor | None, *_: object) -> Tensor:
    layout, constants = _launch(stored, table, False, False)
    blocks = triton.cdiv(layout["H"] * layout["W"], constants["PIXELS"])
    return torch.empty(len(stored), blocks, device=stored.device)


@pictures.register_fake
def _(stored: Tensor, table: Tensor | None, *_: object) -> Tensor:
    layout, _constants = _launch(stored, table, False, False)
    shape = (len(stored), layout["H"], layout["C"], layout["W"])
    return stored.new_empty(shape, dtype=torch.float16)


@resize_map.register_fake
def _(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    return start.new_empty(len(start), out_size, in_size, dtype=torch.float16)


@blur_map.register_fake
def _(taps: Tensor, size: int) -> Tensor:
    return taps.new_empty(len(taps), size, size, dtype=torch.float16)


finish_views.register_fake(lambda small, *_: _empty_views(small))
