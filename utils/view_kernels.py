"""Triton kernels of the views: few launches, and every value is read once per pass.

Colour needs two passes, because contrast blends with the mean of the grey picture at its point of
the chain: the first computes the chain up to there and sums grey, the second computes the whole
chain from the stored values. Pictures are stored as (B, H, C, W), the layout in which both matrix
products of a resampling read and write without a copy. ``TRITON_INTERPRET=1`` runs the kernels on a
CPU, which the tests do.

The kernels take pointers to the tensors of the operators in ``utils.fused_views``, by the same
names; sizes C, H, W, h and w; and strides in elements: ``stride_b`` between samples, ``stride_c``
between bands, ``stride_h`` between rows, ``color_stride`` and ``stride`` between the parameters of
samples. Constants: BANDS, IN, SIZE and SUMS are C, ``in_size``, ``size`` and ``num_sums`` as powers
of 2, PIXELS are the pixels of one program, TAPS the weights of a filter. STORED: ``source`` is
bytes, to be stretched by ``table``. COLOR, HUE, FLIP: whether to change colours, to shift hue, to
flip. ROUND: whether each step rounds to whole numbers.

Shapes: B samples, C bands, H x W pixels of a patch, h x w pixels of a view.
"""

# Triton compiles these functions itself: it takes no annotations but constexpr, constants are upper
# case by its convention, and an `if` of a constant and of a value cannot be one.
# ruff: noqa: ANN001, ANN201, ANN202, SIM102
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from utils.color_jitter import CONTRAST, SATURATION

_CONTRAST = tl.constexpr(CONTRAST)
_SATURATION = tl.constexpr(SATURATION)

# Columns of the colour parameters, float32, shape (B, 9).
_ORDER, _HUE = tl.constexpr(3), tl.constexpr(6)
_HUE_SLOT, _TO_GREY = tl.constexpr(7), tl.constexpr(8)


@triton.jit
def _rounded(x):
    """Round to the nearest integer, halves to the even one, as ``torch.round``; x >= 0."""
    nearest = tl.floor(x + 0.5)
    is_odd = nearest - 2 * tl.floor(nearest / 2)
    return nearest - tl.where(nearest - x == 0.5, is_odd, 0.0)


@triton.jit
def _finish(x, ROUND: tl.constexpr):
    x = tl.minimum(tl.maximum(x, 0.0), 255.0)
    if ROUND:
        x = _rounded(x)
    return x


@triton.jit
def _blend(x, weight, mean, operation, factor, ROUND: tl.constexpr):
    """``utils.color_jitter.blend``: x is (BANDS, PIXELS), the rest is of one sample."""
    grey = _finish(tl.sum(x * weight, axis=0), ROUND)
    base = tl.where(operation == _SATURATION, grey, tl.where(operation == _CONTRAST, mean, 0.0))
    blended = base[None, :] + factor * (x - base[None, :])
    blended = tl.minimum(tl.maximum(blended, 0.0), 255.0)
    if ROUND:
        blended = tl.floor(blended)
    return blended


@triton.jit
def _shift_hue(x, band, turns, ROUND: tl.constexpr):
    """``utils.color_jitter.shift_hue`` of R, G, B."""
    red = tl.sum(tl.where(band == 0, x, 0.0), axis=0)
    green = tl.sum(tl.where(band == 1, x, 0.0), axis=0)
    blue = tl.sum(tl.where(band == 2, x, 0.0), axis=0)
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    scale = 1 / tl.maximum(chroma, 1e-6)
    sixth = tl.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    sixth = tl.where(value == red, (green - blue) * scale, sixth) + 6 * turns
    sixth = sixth - 6 * tl.floor(sixth / 6)
    rise = tl.abs(tl.abs(sixth[None, :] - 2 * band) - 3)
    rise = tl.minimum(tl.maximum(rise, 1.0), 2.0)
    return _finish(rise * chroma[None, :] + (value - 2 * chroma)[None, :], ROUND)


@triton.jit
def _load_pixels(
    source, table, sample, pixel, band, inside, H, W, stride_b, stride_c, stride_h,
    STORED: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Read one block of a sample as 0..255, float32: stored bytes by the stretch's table."""
    offset = sample * stride_b + band * stride_c + (pixel // W) * stride_h + pixel % W
    value = tl.load(source + offset, mask=inside, other=0)
    if STORED:
        x = tl.load(table + band * 256 + value.to(tl.int32), mask=inside, other=0.0)
    else:
        x = _finish(value.to(tl.float32), ROUND)
    return x


@triton.jit
def grey_sums_kernel(
    source, table, weights, color, sums, C, H, W, stride_b, stride_c, stride_h, color_stride,
    BANDS: tl.constexpr, PIXELS: tl.constexpr, STORED: tl.constexpr, HUE: tl.constexpr,
    ROUND: tl.constexpr,
):  # fmt: skip
    """First pass: sum the grey of a block of pixels at the point where contrast stands."""
    sample, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pixel = (block * PIXELS + tl.arange(0, PIXELS))[None, :]
    band = tl.arange(0, BANDS)[:, None]
    inside = (pixel < H * W) & (band < C)
    weight = tl.load(weights + band, mask=band < C, other=0.0)
    x = _load_pixels(
        source, table, sample, pixel, band, inside, H, W, stride_b, stride_c, stride_h,
        STORED, ROUND,
    )  # fmt: skip
    own = color + sample * color_stride
    second, third = tl.load(own + _ORDER + 1), tl.load(own + _ORDER + 2)
    contrast_slot = (second == _CONTRAST).to(tl.int32) + 2 * (third == _CONTRAST).to(tl.int32)
    hue_slot = tl.load(own + _HUE_SLOT).to(tl.int32)
    for slot in tl.static_range(3):
        if HUE:
            if (slot == hue_slot) & (slot <= contrast_slot):
                x = _shift_hue(x, band, tl.load(own + _HUE), ROUND)
        if slot < contrast_slot:
            operation = tl.load(own + _ORDER + slot).to(tl.int32)
            x = _blend(x, weight, 0.0, operation, tl.load(own + operation), ROUND)
    grey = _finish(tl.sum(x * weight, axis=0), ROUND)
    grey = tl.where(tl.sum(inside.to(tl.int32), axis=0) > 0, grey, 0.0)
    tl.store(sums + sample * tl.num_programs(1) + block, tl.sum(grey, axis=0))


@triton.jit
def pictures_kernel(
    source, table, weights, color, sums, pictures, C, H, W, stride_b, stride_c, stride_h,
    color_stride, num_sums,
    BANDS: tl.constexpr, PIXELS: tl.constexpr, SUMS: tl.constexpr, STORED: tl.constexpr,
    COLOR: tl.constexpr, HUE: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Second pass: write the pictures, (B, H, C, W); without COLOR only stretched."""
    sample, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pixel = (block * PIXELS + tl.arange(0, PIXELS))[None, :]
    band = tl.arange(0, BANDS)[:, None]
    inside = (pixel < H * W) & (band < C)
    x = _load_pixels(
        source, table, sample, pixel, band, inside, H, W, stride_b, stride_c, stride_h,
        STORED, ROUND,
    )  # fmt: skip
    if COLOR:
        weight = tl.load(weights + band, mask=band < C, other=0.0)
        part = tl.arange(0, SUMS)
        parts = tl.load(sums + sample * num_sums + part, mask=part < num_sums, other=0.0)
        mean = _finish(tl.sum(parts, axis=0) / (H * W), ROUND)
        own = color + sample * color_stride
        hue_slot = tl.load(own + _HUE_SLOT).to(tl.int32)
        for slot in tl.static_range(4):
            if HUE:
                if slot == hue_slot:
                    x = _shift_hue(x, band, tl.load(own + _HUE), ROUND)
            if slot < 3:
                operation = tl.load(own + _ORDER + slot).to(tl.int32)
                x = _blend(x, weight, mean, operation, tl.load(own + operation), ROUND)
        grey = _finish(tl.sum(x * weight, axis=0), ROUND)
        x = tl.where(tl.load(own + _TO_GREY) > 0, grey[None, :], x)
    offset = sample * C * H * W + (pixel // W) * (C * W) + band * W + pixel % W
    tl.store(pictures + offset, x.to(pictures.dtype.element_ty), mask=inside)


@triton.jit
def resize_map_kernel(start, length, maps, in_size, out_size, stride, IN: tl.constexpr):
    """One row of ``utils.resample.resize_map``."""
    sample, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, count = tl.load(start + sample * stride), tl.load(length + sample * stride)
    pixel = tl.arange(0, IN) - first
    scale = count / out_size
    distance = tl.abs(pixel + 0.5 - (row + 0.5) * scale) / tl.maximum(scale, 1.0)
    inside = (pixel >= 0) & (pixel < count)
    weight = tl.where(inside, tl.maximum(1 - distance, 0.0), 0.0)
    weight = weight / tl.sum(weight, axis=0)
    column = tl.arange(0, IN)
    target = maps + (sample * out_size + row) * in_size + column
    tl.store(target, weight.to(maps.dtype.element_ty), mask=column < in_size)


@triton.jit
def blur_map_kernel(taps, maps, size, stride, TAPS: tl.constexpr, SIZE: tl.constexpr):
    """One row of ``utils.resample.taps_map``; a tap outside falls on the border pixel."""
    sample, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, SIZE)
    weight = tl.zeros((SIZE,), tl.float32)
    for tap in tl.static_range(TAPS):
        pixel = tl.minimum(tl.maximum(row + tap - TAPS // 2, 0), size - 1)
        weight += tl.where(column == pixel, tl.load(taps + sample * stride + tap), 0.0)
    target = maps + (sample * size + row) * size + column
    tl.store(target, weight.to(maps.dtype.element_ty), mask=column < size)


@triton.jit
def views_kernel(
    small, flips, mean, std, views, C, h, w, stride,
    BANDS: tl.constexpr, PIXELS: tl.constexpr, FLIP: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Flip, round and normalise: (B, h, C, w) to (B, C, h, w), channels last."""
    sample, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pixel = (block * PIXELS + tl.arange(0, PIXELS))[:, None]
    band = tl.arange(0, BANDS)[None, :]
    inside = (pixel < h * w) & (band < C)
    row, column = pixel // w, pixel % w
    if FLIP:
        own = flips + sample * stride
        mirrored, upside_down, transposed = tl.load(own), tl.load(own + 1), tl.load(own + 2)
        row, column = tl.where(transposed > 0, column, row), tl.where(transposed > 0, row, column)
        row = tl.where(upside_down > 0, h - 1 - row, row)
        column = tl.where(mirrored > 0, w - 1 - column, column)
    offset = sample * C * h * w + row * (C * w) + band * w + column
    x = tl.load(small + offset, mask=inside, other=0.0).to(tl.float32)
    if ROUND:
        x = _rounded(x)
    centre = tl.load(mean + band, mask=band < C, other=0.0)
    spread = tl.load(std + band, mask=band < C, other=1.0)
    target = views + sample * C * h * w + pixel * C + band
    tl.store(target, (x - centre) / spread, mask=inside)
