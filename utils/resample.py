"""Crop, resize, flip and blur of a batch as matrices: ``rows @ X @ columns.T`` for a picture X.

Shapes: B samples, C bands.
"""

import math

import torch
from torch import Tensor


def resize_map(start: Tensor, length: Tensor, in_size: int, out_size: int) -> Tensor:
    """Cut ``length`` pixels from ``start`` on and scale them, antialiased, to ``out_size``.

    The weights are those of Pillow's bilinear filter: a triangle as wide as the scale, cut off at
    the border of the crop.

    Args:
        start: First pixel of the crop, shape (B,).
        length: Pixels of the crop, shape (B,).
        in_size: Pixels of the picture along this axis.
        out_size: Pixels of the result.

    Returns:
        Maps of shape (B, out_size, in_size); each row sums to 1.
    """
    scale = (length / out_size)[:, None, None]
    pixel = torch.arange(in_size, device=start.device) - start[:, None]  # (B, in), within the crop
    centre = (torch.arange(out_size, device=start.device)[:, None] + 0.5) * scale  # (B, out, 1)
    distance = (pixel[:, None] + 0.5 - centre).abs() / scale.clamp(min=1)  # (B, out, in)
    inside = (pixel >= 0) & (pixel < length[:, None])
    weights = (1 - distance).clamp(min=0) * inside[:, None]
    return weights / weights.sum(dim=2, keepdim=True)


def taps_map(taps: Tensor, size: int) -> Tensor:
    """Build the matrices of a symmetric filter; borders repeat the last pixel.

    Args:
        taps: Weights of each sample, shape (B, 2 * reach + 1).
        size: Pixels along the axis.

    Returns:
        Maps of shape (B, size, size); each row sums to 1.
    """
    reach = taps.shape[1] // 2
    output = torch.arange(size, device=taps.device)[:, None]
    source = torch.arange(-reach, size + reach, device=taps.device)
    tap = (source - output + reach).clamp(-1, 2 * reach + 1) + 1  # 0 and the last are outside
    padded = torch.nn.functional.pad(taps, (1, 1))
    spread = padded[:, tap]  # (B, size, size + 2 * reach)
    blur = spread[:, :, reach : reach + size].clone()
    blur[:, :, 0] += spread[:, :, :reach].sum(dim=2)
    blur[:, :, -1] += spread[:, :, reach + size :].sum(dim=2)
    return blur


def gaussian_taps(sigma: Tensor, max_sigma: float) -> Tensor:
    """Return the filter of Pillow's ``GaussianBlur``, three passes of an extended box: (B, taps).

    The box is that of Gwosdek et al. 2011, equations 7, 11 and 14.

    Args:
        sigma: Standard deviation in pixels, shape (B,); 0 leaves the picture as it is.
        max_sigma: Upper bound of ``sigma``; sets the width of the filter without a look at it.
    """
    box = _box_taps(sigma**2, math.floor((math.sqrt(4 * max_sigma**2 + 1) - 1) / 2) + 1)
    return _convolve(_convolve(box, box), box)


def blur(pictures: Tensor, taps: Tensor) -> Tensor:
    """Filter along both axes; borders repeat the last pixel of the picture.

    Args:
        pictures: Pictures, float, shape (B, C, H, W).
        taps: Symmetric weights of each sample, shape (B, 2 * reach + 1).
    """
    rows, columns = (taps_map(taps, size) for size in pictures.shape[2:])
    return resample(pictures, rows, columns)


def blur_uint8(pictures: Tensor, taps: Tensor) -> Tensor:
    """Blur as Pillow blurs 8-bit pictures.

    Each of the three boxes along each axis repeats the border of its own picture, and rounds
    (``ImagingBoxBlur`` in Pillow's src/libImaging/BoxBlur.c). Arguments as in ``blur``; pictures
    hold whole numbers 0..255.
    """
    count = taps.shape[1]
    distance = torch.arange(count, device=taps.device) - count // 2
    variance = (taps * distance**2).sum(dim=1)  # exactly that of the Gaussian
    box = _box_taps(variance, reach := count // 6)[:, :, None, None, None]
    for _axis in range(2):
        width = pictures.shape[3]
        for _pass in range(3):
            padded = torch.nn.functional.pad(pictures, (reach, reach, 0, 0), mode="replicate")
            pictures = torch.full_like(pictures, 0.5)
            for tap in range(box.shape[1]):
                pictures += box[:, tap] * padded[..., tap : tap + width]
            pictures.floor_()
        pictures = pictures.mT
    return pictures


def _box_taps(variance: Tensor, reach: int) -> Tensor:
    """Return the box of a Gaussian of three boxes: (B,) -> (B, 2 * reach + 1)."""
    variance = variance / 3  # of one box
    whole = ((torch.sqrt(12 * variance + 1) - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1) ** 2))
    distance = torch.arange(-reach, reach + 1, device=variance.device).abs()
    box = (whole[:, None] + 1 - distance).clamp(0, 1)
    box = box + part[:, None] * (distance == whole[:, None] + 1)
    return box / (2 * (whole + part) + 1)[:, None]


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    """Convolve row by row: (B, m) with (B, n) -> (B, m + n - 1)."""
    result = a.new_zeros(a.shape[0], a.shape[1] + b.shape[1] - 1)
    for shift in range(b.shape[1]):
        result[:, shift : shift + a.shape[1]] += a * b[:, shift : shift + 1]
    return result


def resample(
    pictures: Tensor, rows: Tensor, columns: Tensor, round_to_uint8: bool = False
) -> Tensor:
    """Apply one map to each axis, as two batched matrix products.

    Args:
        pictures: Shape (B, C, H, W).
        rows: Shape (B, h, H).
        columns: Shape (B, w, W).
        round_to_uint8: Round after each product, as Pillow does.

    Returns:
        Float32 pictures of shape (B, C, h, w). On a GPU the products are computed in fp16, whose
        error stays below 0.2 of 255 (bf16: up to 1.4), unless they are rounded.
    """
    dtype = torch.float16 if pictures.is_cuda and not round_to_uint8 else torch.float32
    batch, bands, height, _ = pictures.shape
    narrow = pictures.to(dtype).flatten(1, 2) @ columns.mT.to(dtype)  # (B, C * H, w)
    if round_to_uint8:
        narrow = narrow.add_(0.5).floor_()
    width = narrow.shape[2]
    tall = narrow.view(batch, bands, height, width).transpose(1, 2).flatten(2)  # (B, H, C * w)
    small = rows.to(dtype) @ tall  # (B, h, C * w)
    if round_to_uint8:
        small = small.add_(0.5).floor_()
    return small.view(batch, -1, bands, width).transpose(1, 2).float()
