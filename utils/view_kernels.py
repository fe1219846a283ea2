"""Triton kernels of the views: few launches, and every value is read once per pass.

Colour needs two passes, because contrast blends with the mean of the grey picture at its point of
the chain: the first computes the chain up to there and sums grey, the second computes the whole
chain from the stored values. Pictures are stored as (B, H, C, W), the layout in which both matrix
products of a resampling read and write without a copy. Sizes are constants, which makes divisions
by them cheap. ``TRITON_INTERPRET=1`` runs the kernels on a CPU, which the tests do.

The kernels take pointers to the tensors of the operators in ``utils.fused_views``, by the same
names; sizes C, H, W, h and w; and strides in elements: ``stride_b`` between samples, ``stride_c``
between bands, ``stride_h`` between rows, ``color_stride`` and ``stride`` between the parameters of
samples. Constants: BANDS, IN, SIZE and SUMS are C, ``in_size``, ``size`` and the number of sums as
powers of 2, PIXELS and VALUES are those of one program, TAPS the weights of a filter. STORED:
``source`` is bytes, to be stretched by ``table``. FIRST: whether this is the pass that sums. HUE,
FLIP: whether to shift hue, to flip.

Shapes: B samples, C bands, H x W pixels of a patch, h x w pixels of a view.
"""

# Triton compiles these functions itself: it takes no annotations but constexpr, constants are upper
# case by its convention, and an `if` of a constant and of a value cannot be one.
# ruff: noqa: ANN001, ANN201, ANN202, SIM102, SIM108
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from utils.color_jitter import CONTRAST, GREY_WEIGHTS, SATURATION

_CONTRAST = tl.constexpr(CONTRAST)
_SATURATION = tl.constexpr(SATURATION)
_RED, _GREEN, _BLUE = (tl.constexpr(weight) for weight in GREY_WEIGHTS)

# Columns of the colour parameters, float32, shape (B, 9).
_ORDER, _HUE = tl.constexpr(3), tl.constexpr(6)
_HUE_SLOT, _TO_GREY = tl.constexpr(7), tl.constexpr(8)


@triton.jit
def _clip(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _base(color, slot, grey, mean):
    """Return the factor of a blend of ``utils.color_jitter``, and what it adds to a picture."""
    operation = tl.load(color + _ORDER + slot).to(tl.int32)
    factor = tl.load(color + operation)
    base = tl.where(operation == _SATURATION, grey, tl.where(operation == _CONTRAST, mean, 0.0))
    return factor, (1 - factor) * base


@triton.jit
def _load(source, table, inside, STORED: tl.constexpr):
    """Read 0..255, float32: stored bytes by the stretch's table."""
    value = tl.load(source, mask=inside, other=0)
    if STORED:
        x = tl.load(table + value.to(tl.int32))
    else:
        x = _clip(value.to(tl.float32))
    return x


@triton.jit
def _store(target, x, inside):
    tl.store(target, x.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _luminance(red, green, blue):
    return _clip(_RED * red + _GREEN * green + _BLUE * blue)


@triton.jit
def _hue_band(sixth, corner, value, chroma):
    rise = tl.abs(tl.abs(sixth - corner) - 3)
    return tl.minimum(tl.maximum(rise, 1.0), 2.0) * chroma + (value - 2 * chroma)


@triton.jit
def _shift_hue(red, green, blue, turns):
    """``utils.color_jitter.shift_hue``."""
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    scale = 1 / tl.maximum(chroma, 1e-6)
    sixth = tl.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    sixth = tl.where(value == red, (green - blue) * scale, sixth) + 6 * turns
    sixth = sixth - 6 * tl.floor(sixth * (1 / 6))
    red, green = _hue_band(sixth, 0, value, chroma), _hue_band(sixth, 2, value, chroma)
    return red, green, _hue_band(sixth, 4, value, chroma)


@triton.jit
def _color_rgb(red, green, blue, color, mean, last, HUE: tl.constexpr):
    """Apply the blends before slot ``last``, and hue if it stands before or there."""
    hue_slot = tl.load(color + _HUE_SLOT).to(tl.int32)
    for slot in tl.static_range(4):
        if HUE:
            if (slot == hue_slot) & (slot <= last):
                red, green, blue = _shift_hue(red, green, blue, tl.load(color + _HUE))
        if slot < 3:
            if slot < last:
                factor, base = _base(color, slot, _luminance(red, green, blue), mean)
                red, green = _clip(factor * red + base), _clip(factor * green + base)
                blue = _clip(factor * blue + base)
    return red, green, blue


@triton.jit
def _color_bands(x, weight, color, mean, last):
    """Apply the blends before slot ``last`` to any bands, (BANDS, PIXELS)."""
    for slot in tl.static_range(3):
        if slot < last:
            factor, base = _base(color, slot, tl.sum(x * weight, axis=0), mean)
            x = _clip(factor * x + base[None, :])
    return x


@triton.jit
def color_kernel(
    source, table, weights, color, sums, pictures, stride_b, stride_c, stride_h, color_stride,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BANDS: tl.constexpr, PIXELS: tl.constexpr,
    SUMS: tl.constexpr, STORED: tl.constexpr, HUE: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Sum the grey of a block of pixels where contrast stands, or write (B, H, C, W)."""
    sample, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    pixel = block * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < H * W
    source += sample * stride_b + (pixel // W) * stride_h + pixel % W
    pictures += sample * (C * H * W) + (pixel // W) * (C * W) + pixel % W
    color += sample * color_stride
    sums += sample * blocks
    if FIRST:
        second, third = tl.load(color + _ORDER + 1), tl.load(color + _ORDER + 2)
        last = (second == _CONTRAST).to(tl.int32) + 2 * (third == _CONTRAST).to(tl.int32)
        mean = 0.0
    else:
        last = 3
        part = tl.arange(0, SUMS)
        mean = tl.sum(tl.load(sums + part, mask=part < blocks, other=0.0), axis=0) / (H * W)
    is_grey = tl.load(color + _TO_GREY) > 0
    if C == 3:
        red = _load(source, table, inside, STORED)
        green = _load(source + stride_c, table + 256, inside, STORED)
        blue = _load(source + 2 * stride_c, table + 512, inside, STORED)
        red, green, blue = _color_rgb(red, green, blue, color, mean, last, HUE)
        grey = _luminance(red, green, blue)
        if not FIRST:
            _store(pictures, tl.where(is_grey, grey, red), inside)
            _store(pictures + W, tl.where(is_grey, grey, green), inside)
            _store(pictures + 2 * W, tl.where(is_grey, grey, blue), inside)
    else:
        band = tl.arange(0, BANDS)[:, None]
        exists = (band < C) & inside[None, :]
        weight = tl.load(weights + band, mask=band < C, other=0.0)
        rows = table + tl.minimum(band, C - 1) * 256
        x = _load(source[None, :] + band * stride_c, rows, exists, STORED)
        x = _color_bands(x, weight, color, mean, last)
        grey = tl.sum(x * weight, axis=0)
        if not FIRST:
            _store(pictures[None, :] + band * W, tl.where(is_grey, grey[None, :], x), exists)
    if FIRST:
        tl.store(sums + block, tl.sum(tl.where(inside, grey, 0.0), axis=0))


@triton.jit
def stretch_kernel(
    source, table, pictures, stride_b, stride_c, stride_h,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """Write stretched pictures, (B, H, C, W)."""
    sample, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    value = block * VALUES + tl.arange(0, VALUES)
    inside = value < C * H * W
    band = (value // W) % C
    at = sample * stride_b + band * stride_c + (value // (C * W)) * stride_h + value % W
    x = _load(source + at, table + band * 256, inside, True)
    _store(pictures + sample * (C * H * W) + value, x, inside)


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
    _store(maps + (sample * out_size + row) * in_size + column, weight, column < in_size)


@triton.jit
def blur_map_kernel(taps, maps, size, stride, TAPS: tl.constexpr, SIZE: tl.constexpr):
    """One row of ``utils.resample.taps_map``; a tap outside falls on the border pixel."""
    sample, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, SIZE)
    weight = tl.zeros((SIZE,), tl.float32)
    for tap in tl.static_range(TAPS):
        pixel = tl.minimum(tl.maximum(row + tap - TAPS // 2, 0), size - 1)
        weight += tl.where(column == pixel, tl.load(taps + sample * stride + tap), 0.0)
    _store(maps + (sample * size + row) * size + column, weight, column < size)


@triton.jit
def views_kernel(
    small, flips, mean, scale, views, stride,
    C: tl.constexpr, h: tl.constexpr, w: tl.constexpr, VALUES: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    """Flip and normalise: (B, h, C, w) to (B, C, h, w), channels last."""
    sample, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    value = block * VALUES + tl.arange(0, VALUES)
    inside = value < C * h * w
    band, pixel = value % C, value // C
    row, column = pixel // w, pixel % w
    if FLIP:
        own = flips + sample * stride
        mirrored, upside_down, transposed = tl.load(own), tl.load(own + 1), tl.load(own + 2)
        row, column = tl.where(transposed > 0, column, row), tl.where(transposed > 0, row, column)
        row = tl.where(upside_down > 0, h - 1 - row, row)
        column = tl.where(mirrored > 0, w - 1 - column, column)
    first = sample * (C * h * w)
    x = tl.load(small + first + row * (C * w) + band * w + column, mask=inside, other=0.0)
    x = (x.to(tl.float32) - tl.load(mean + band)) * tl.load(scale + band)
    _store(views + first + value, x, inside)
