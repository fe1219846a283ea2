"""Plain TIFFs without GDAL: one band in strips or tiles, not compressed, or with Deflate or JPEG.

TIFF 6.0, its Technical Note 2 for JPEG, Supplement 2 for Deflate. Whatever is not usual is left to
GDAL.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets.geotiff.writer import LETTERS, Tags

# Tags of TIFF 6.0, and what it takes for an absent one.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _PREDICTOR, _SAMPLE_FORMAT, _JPEG_TABLES = 277, 284, 317, 339, 347
_STRIPS = (278, 257, 273, 279)  # rows and columns of a block, offsets, sizes in bytes
_TILES = (323, 322, 324, 325)
_SUBFILE, _FILL_ORDER = 254, 266
_DEFAULTS = {_BITS: 1, _COMPRESSION: 1, _SAMPLES: 1, _PLANAR: 1, _PREDICTOR: 1, _SAMPLE_FORMAT: 1}
_DEFAULTS |= {_SUBFILE: 0, _FILL_ORDER: 1, 278: 2**32 - 1}
_USUAL = {_SUBFILE: [(0,)], _FILL_ORDER: [(1,)], _SAMPLES: [(1,)], _PLANAR: [(1,), (2,)]}
_USUAL |= {_PHOTOMETRIC: [(1,)]}  # 0 is black
_LISTS = {*_STRIPS[2:], *_TILES[2:], _JPEG_TABLES}  # all other tags have one value
_MOST_VALUES = 2**20
_USED = {_WIDTH, _HEIGHT, _JPEG_TABLES, *_STRIPS, *_TILES, *_DEFAULTS, *_USUAL}
_CODES = {3: "H", 4: "L", 7: "B"}  # of ``struct``, by the type of values: short, long, undefined
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # of bytes, by the start of a file
# ModelPixelScale, Tiepoint and Transformation; GeoKeyDirectory and its numbers and texts.
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
_GEO_KEYS = 34735
_NONE, _JPEG, _DEFLATE = 1, 7, (8, 32946)
_TYPES: dict[tuple[int, ...], str] = {(1, 8): "u1", (1, 16): "u2", (2, 16): "i2", (3, 32): "f4"}
_START = b"\xff\xd8"  # of a JPEG stream


class Layout(NamedTuple):
    """How the pixels of a file are stored."""

    shape: tuple[int, int]  # height and width
    dtype: np.dtype  # with its order of bytes
    block: tuple[int, int]  # rows and columns of a strip or tile
    is_tiled: bool  # else in strips, of which the last may be shorter
    compression: int  # number of TIFF 6.0
    predictor: int  # 2 for differences of neighbours in a row, else 1
    offsets: Sequence[int]  # of the blocks in the file
    sizes: Sequence[int]  # in bytes
    tables: bytes  # of all JPEG streams


def parse_plain(data: bytes) -> Layout | None:
    """Read the first directory; None stands for what GDAL has to read."""
    try:
        order = _ORDERS[data[:4]]
        tags = _read_tags(data, order)
        (height,), (width,) = tags[_HEIGHT], tags[_WIDTH]
        is_tiled = _TILES[0] in tags
        rows, columns, offsets, sizes = (tags[tag] for tag in (_TILES if is_tiled else _STRIPS))
        block = (rows[0], columns[0]) if is_tiled else (min(rows[0], height), width)
        dtype = np.dtype(order + _TYPES[tags[_SAMPLE_FORMAT] + tags[_BITS]])
        (compression,), (predictor,) = tags[_COMPRESSION], tags[_PREDICTOR]
    except (struct.error, LookupError, ValueError):
        return None
    num_blocks = -(-height // max(1, block[0])) * -(-width // max(1, block[1]))
    is_usual = (
        min(height, width, *block) > 0
        and num_blocks == len(offsets) == len(sizes)
        and all(at > 0 and at + size <= len(data) for at, size in zip(offsets, sizes, strict=True))
        and all(tags.get(tag) in values for tag, values in _USUAL.items())
        and (predictor == 1 or (predictor == 2 and dtype.kind in "ui" and compression in _DEFLATE))
        and (compression != _JPEG or dtype == np.uint8)
    )
    if not is_usual or compression not in (_NONE, _JPEG, *_DEFLATE):
        return None
    tables, shape = bytes(tags.get(_JPEG_TABLES, ())), (height, width)
    return Layout(shape, dtype, block, is_tiled, compression, predictor, offsets, sizes, tables)


def decode_plain(data: bytes, layout: Layout) -> np.ndarray | None:
    """Decode all blocks: (H, W); None where GDAL has to decide.

    Args:
        data: Content of the file.
        layout: What ``parse_plain`` found in it.

    Raises:
        ValueError: The compressed pixels are damaged.
    """
    height, width = layout.shape
    rows, columns = layout.block
    pixels = np.empty(layout.shape, layout.dtype.newbyteorder("="))
    corners = ((y, x) for y in range(0, height, rows) for x in range(0, width, columns))
    for (y, x), at, size in zip(corners, layout.offsets, layout.sizes, strict=True):
        shape = (rows if layout.is_tiled else min(rows, height - y), columns)
        stored = data[at : at + size]
        if layout.compression == _JPEG:
            block = _decode_jpeg(stored, layout.tables, shape)
        else:
            block = _decode_block(stored, layout, shape)
        if block is None:
            return None
        block, target = block[: height - y, : width - x], pixels[y : y + rows, x : x + columns]
        if layout.predictor == 2:
            np.add.accumulate(block, axis=1, dtype=pixels.dtype, out=target)
        else:
            target[:] = block
    return pixels


def read_georeference(data: bytes) -> Tags:
    """Return the tags of a file that tell where its pixels are; empty without readable ones."""
    try:
        order = _ORDERS[data[:4]]
        found = {
            tag: (kind, _values(data, order, LETTERS[kind], number, inline))
            for tag, kind, number, inline in _entries(data, order)
            if tag in _GEOREFERENCE and number <= _MOST_VALUES
        }
    except (struct.error, LookupError, ValueError):  # a BigTIFF, or damaged ones
        return {}
    return dict(sorted(found.items())) if _GEO_KEYS in found else {}


def read_compression(data: bytes) -> int:
    """Return the number of Compression (TIFF 6.0) of a file; 0 if its header is not readable."""
    try:
        return _read_tags(data, _ORDERS[data[:4]])[_COMPRESSION][0]
    except (struct.error, LookupError, ValueError):  # a BigTIFF, or a damaged one
        return 0


def _read_tags(data: bytes, order: str) -> dict[int, tuple[int, ...]]:
    """Return the values of the used tags, or their defaults."""
    tags: dict[int, tuple[int, ...]] = {tag: (value,) for tag, value in _DEFAULTS.items()}
    seen: set[int] = set()
    for tag, kind, number, inline in _entries(data, order):
        if tag not in _USED:
            continue
        if tag in seen or number > (_MOST_VALUES if tag in _LISTS else 1):
            raise ValueError("a repeated tag, or too many values")
        seen.add(tag)
        tags[tag] = _values(data, order, _CODES[kind], number, inline)
    return tags


def _entries(data: bytes, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Return tag, kind, number and inline bytes of all values of the first directory."""
    (at,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    entries = data[at + 2 : at + 2 + 12 * count]
    if len(entries) < 12 * count:
        raise ValueError("a directory beyond the end")
    return struct.iter_unpack(f"{order}HHL4s", entries)


def _values(data: bytes, order: str, code: str, number: int, inline: bytes) -> tuple[Any, ...]:
    size = number * struct.calcsize(f"={code}")
    if size > 4:
        (begin,) = struct.unpack(f"{order}L", inline)
        inline = data[begin : begin + size]
    if len(inline) < size:
        raise ValueError("values beyond the end")
    return struct.unpack(f"{order}{number}{code}", inline[:size])


def _decode_block(stored: bytes, layout: Layout, shape: tuple[int, int]) -> np.ndarray | None:
    """Decode a block that is not compressed, or by Deflate, which is inflated to its own size."""
    size = shape[0] * shape[1] * layout.dtype.itemsize
    if layout.compression != _NONE:
        inflater = zlib.decompressobj()
        try:
            stored = inflater.decompress(stored, size + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if not inflater.eof and len(stored) <= size:  # GDAL would fill up, with anything
            raise ValueError("compressed data end too early")
    return np.frombuffer(stored, layout.dtype).reshape(shape) if len(stored) == size else None


def _decode_jpeg(stored: bytes, tables: bytes, shape: tuple[int, int]) -> np.ndarray | None:
    """Decode a block of one component, whose size is checked before OpenCV allocates it."""
    import cv2

    if tables:  # both are streams from a start to an end
        if (tables[:2], tables[-2:], stored[:2]) != (_START, b"\xff\xd9", _START):
            return None
        stored = tables[:-2] + stored[2:]
    at = 2
    while stored[at : at + 2] in (b"\xff\xe0", b"\xff\xdb", b"\xff\xc4"):  # JFIF, and tables
        at += 2 + int.from_bytes(stored[at + 2 : at + 4], "big")
    head = struct.pack(">2sHBHHB", b"\xff\xc0", 11, 8, *shape, 1)  # baseline, 8 bit, 1 component
    if stored[at : at + 10] != head or stored[at + 11 : at + 12] != b"\x11":  # not subsampled
        return None
    pixels = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if pixels is None or pixels.shape != shape else pixels
