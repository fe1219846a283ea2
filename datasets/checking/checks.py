"""Checks of one file or patch that ``verify.py`` makes for all data sets."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import combinations, pairwise

import numpy as np
from PIL import Image

from datasets.bands import ALL_BANDS
from datasets.checking.problems import (
    BIT_NOTES,
    DAMAGED,
    JPEG_NOTE,
    SIZE,
    SWAPPED,
    TYPE,
    Problem,
)
from datasets.geotiff.plain import read_compression
from datasets.geotiff.reader import MAX_SIDE_PX, read_geotiff
from utils.errors import UserError
from utils.images import bit_depth

# A sum of correlations of neighbours that a swap raises by more does not occur: the most on three
# real patches of BigEarthNet is 0.19 (B3 and B4 over meadows).
_SWAP_GAIN = 0.75
_MAX_COMPARED_PX = 64  # side to which bands are averaged before they are compared
_MIN_COMPARED_PX = 8  # fewer pixels correlate by chance
_MIN_ORDERED = 8  # bands that order each other
# Water vapour absorbs B10 (datasets/oscd/facts.py: its bright end is 51 DN, of the others 1,589
# or more), so that no band is much darker; high clouds are bright in all.
_MAX_B10, _TIMES_DARKEST = 200, 4
# Mean of the neighbours in wavelength, in steps of uint8 (39 DN), from which on a band is not black
# in nature: water is black from B5 on, and there all neighbours are dark.
_LIT = 8


class _UnfitError(Exception):
    """The header of a file is not that of the data set."""


def bit_notes(data: bytes) -> set[str]:
    """Return what a changed bit does to a file like this one; nothing if a checksum shows it.

    Args:
        data: Content of a GeoTIFF, JPEG or PNG.
    """
    is_jpeg = data.startswith(b"\xff\xd8")
    note = JPEG_NOTE if is_jpeg else BIT_NOTES.get(read_compression(data))
    return {note} if note else set()


def check_raster(
    data: bytes, name: str, count: int, dtypes: Sequence[str], shape: tuple[int, int] | None = None
) -> tuple[np.ndarray | None, list[Problem]]:
    """Decode a GeoTIFF whose header is as expected.

    Args:
        data: Content of the file.
        name: Its name.
        count: Number of bands.
        dtypes: Types that the values may have.
        shape: Height and width; None accepts all.

    Returns:
        Values, shape (C, H, W), or None; the problem, if there is one.
    """
    problems: list[Problem] = []

    def check(found: int, dtype: str, size: tuple[int, int]) -> None:
        if found != count or dtype not in dtypes:
            problems.append(Problem(TYPE, name, f"has {found} bands of {dtype}"))
        elif shape is not None and size != shape:
            problems.append(Problem(SIZE, name, _differs(size, shape)))
        if problems:
            raise _UnfitError

    try:
        return read_geotiff(data, name, check), problems
    except _UnfitError:
        pass
    except UserError as error:
        problems.append(Problem(SIZE, name, str(error)))
    except ValueError as error:
        problems.append(Problem(DAMAGED, name, f"is not a readable GeoTIFF ({error})"))
    return None, problems


def check_picture(
    data: bytes, name: str, shape: tuple[int, int] | None = None, *, grey: bool = False
) -> tuple[np.ndarray | None, list[Problem]]:
    """Decode a JPEG or PNG.

    Args:
        data: Content of the file.
        name: Its name.
        shape: Height and width; None accepts all.
        grey: Whether it may have any mode, and is converted to grey; else it is RGB.

    Returns:
        Values, shape (3, H, W), or (H, W) of grey, or None; the problem, if there is one.
    """
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            if (image.mode != "RGB" and not grey) or bit_depth(image, data) > 8:
                return None, [Problem(TYPE, name, f"is of mode {image.mode}")]
            size = (image.height, image.width)
            if max(size) > MAX_SIDE_PX or (shape is not None and size != shape):
                return None, [Problem(SIZE, name, _differs(size, shape or size))]
            if image.format == "PNG":
                _check_chunks(data)
            if grey:
                return np.asarray(image.convert("L")), []
            return np.asarray(image).transpose(2, 0, 1), []
    except Exception as error:  # Pillow raises any kind for a damaged file
        return None, [Problem(DAMAGED, name, f"is not a readable JPEG or PNG ({error})")]


def _check_chunks(data: bytes) -> None:
    """Raise a ``ValueError`` for a PNG with a wrong checksum; Pillow does not compare them all."""
    at = 8
    while at < len(data):
        (size,) = struct.unpack_from(">L", data, at)
        end = at + 8 + size
        if data[end : end + 4] != struct.pack(">L", zlib.crc32(data[at + 4 : end])):
            raise ValueError("a checksum differs")
        at = end + 4


def content_of(pixels: np.ndarray, salt: str = "") -> int:
    """Hash pixels to 64 bits; 0 for a constant image, which occurs more than once in good data.

    Args:
        pixels: Values of any shape.
        salt: Kind of the file; only files of one kind are compared.
    """
    if pixels.min() == pixels.max():
        return 0
    key = f"{salt}{pixels.shape}{pixels.dtype}".encode()
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8, key=key[:64])
    return int.from_bytes(digest.digest())


def check_order(planes: Mapping[str, np.ndarray], name: str) -> list[Problem]:
    """Find a pair of bands that, swapped, would be more like their neighbours in wavelength.

    This is a guess: see ``SWAP_NOTE``. Bands of different size are not compared.

    Args:
        planes: Values of each band, (H, W), on grids with the same outline.
        name: The patch.
    """
    bands = [band for band in ALL_BANDS if band in planes]
    if len(bands) < _MIN_ORDERED:
        return []
    if "B10" in planes:
        means = {band: float(plane.mean()) for band, plane in planes.items()}
        darkest = min(means, key=means.__getitem__)
        if means["B10"] > max(_MAX_B10, _TIMES_DARKEST * means[darkest]):
            return [Problem(SWAPPED, name, f"look swapped: B10 and {darkest}")]
    side = min(_MAX_COMPARED_PX, *(min(planes[band].shape) for band in bands))
    if side < _MIN_COMPARED_PX:
        return []
    rows = np.stack([_shrink(planes[band], side) for band in bands])
    if (rows.std(1) < 1e-6).any():
        return []
    correlation = np.corrcoef(rows)

    def total(order: Sequence[int]) -> float:
        return float(sum(correlation[a, b] for a, b in pairwise(order)))

    right = list(range(len(bands)))
    best, pair = _SWAP_GAIN, ("", "")
    for a, b in combinations(right, 2):
        if planes[bands[a]].shape == planes[bands[b]].shape:
            order = right.copy()
            order[a], order[b] = b, a
            if (gain := total(order) - total(right)) > best:
                best, pair = gain, (bands[a], bands[b])
    return [Problem(SWAPPED, name, f"look swapped: {' and '.join(pair)}")] if pair[0] else []


def black_bands(planes: Mapping[str, np.ndarray]) -> list[str]:
    """Return bands of uint8 that are all zero, although their neighbours in wavelength are bright.

    Args:
        planes: Values of each band, uint8, (H, W).
    """
    bands = [band for band in ALL_BANDS if band in planes]
    found = []
    for at, band in enumerate(bands):
        if not planes[band].any():
            near = [
                planes[other].mean() for other in bands[max(0, at - 1) : at + 2] if other != band
            ]
            if near and np.mean(near) >= _LIT:
                found.append(band)
    return found


def most_common(values: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the most frequent value, the smallest of several; None without any."""
    seen = list(values)
    return max(sorted(set(seen)), key=seen.count) if seen else None


def _differs(size: tuple[int, int], shape: tuple[int, int]) -> str:
    return f"has {size[1]} x {size[0]} px instead of {shape[1]} x {shape[0]}"


def _shrink(plane: np.ndarray, side: int) -> np.ndarray:
    """Average a band to (side, side), flattened."""
    rows, columns = (np.arange(side) * size // side for size in plane.shape)
    sums = np.add.reduceat(plane, rows, axis=0, dtype=np.float64)
    sums = np.add.reduceat(sums, columns, axis=1)
    heights, widths = (
        np.diff([*first, size]) for first, size in zip((rows, columns), plane.shape, strict=True)
    )
    return np.asarray(sums / heights[:, None] / widths).ravel()
