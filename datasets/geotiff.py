"""The only reader of GeoTIFFs, with limits that hold before any pixel is decoded.

GDAL takes about a millisecond for a small file, most of it to open it. What SeCo, BigEarthNet and
our collector write is therefore decoded here: one band in strips or tiles, not compressed, or with
Deflate or JPEG (TIFF 6.0, its Technical Note 2 for JPEG, Supplement 2 for Deflate). GDAL reads all
other files, and decides what is damaged.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasets.geotiff_writer import LETTERS, Tags
from utils.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rasterio.crs import CRS
    from rasterio.io import DatasetReader
    from rasterio.transform import Affine

# A tile of Sentinel-2 has 109.8 km, 10,980 px of 10 m (ESA, Sentinel-2 Products Specification
# Document, S2-PDGS-TAS-DI-PSD); no band that is read here is larger.
MAX_SIDE_PX = 10_980
MAX_BYTES = 2**28  # of a file, and of its pixels: such a band of 16 bits
# GDAL looks neither for files next to a file (.aux.xml, .ovr, .msk) nor keeps many decoded blocks.
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64,  # MB
}

Check = Callable[[int, str, tuple[int, int]], None]

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
# GDAL logs each tag that it cannot read, also with texts of the file; what matters is raised.
logging.getLogger("rasterio._env").setLevel(logging.CRITICAL)
_GDAL_LOCK = Lock()  # warning filters belong to all threads


class _Layout(NamedTuple):
    """How the pixels of a file are stored."""

    shape: tuple[int, int]  # height and width
    dtype: np.dtype
    block: tuple[int, int]  # rows and columns of a strip or tile
    is_tiled: bool
    compression: int
    predictor: int
    offsets: Sequence[int]
    sizes: Sequence[int]  # in bytes
    tables: bytes  # of all JPEG streams


def read_geotiff(data: bytes, name: str, check: Check) -> np.ndarray:
    """Decode all bands of a file.

    Args:
        data: Content of the file.
        name: Its name, for errors.
        check: Gets the number of bands, their type and (height, width) before a pixel is decoded,
            and raises an error for what it refuses.

    Returns:
        Stored values, shape (C, H, W).

    Raises:
        ValueError: The file is not a GeoTIFF, or damaged.
        UserError: A side has more than ``MAX_SIDE_PX``, or the pixels more than ``MAX_BYTES``.
    """
    layout = _parse(data)
    if layout is not None:
        _check_size(name, layout.dtype.itemsize, layout.shape, layout.block)
        check(1, layout.dtype.name, layout.shape)
        pixels = _decode(data, layout)
        if pixels is not None:
            return pixels[None]
    with opened(data) as file:
        pixel_bytes = file.count * max(_item_bytes(dtype) for dtype in file.dtypes)
        _check_size(name, pixel_bytes, file.shape, file.block_shapes[0])
        check(file.count, file.dtypes[0], file.shape)
        return np.asarray(file.read())


def one_band(name: object, count: int, dtype: str, shape: tuple[int, int] = (0, 0)) -> None:
    """Refuse a file of several bands, of which one would have to be guessed.

    Its arguments are those of a ``Check``.

    Args:
        name: Name of the file, for the message.
        count: Number of its bands.
        dtype: NumPy's name of their type.
        shape: Height and width, which are not checked.
    """
    if count != 1:
        raise UserError(
            f"{name} has {count} bands of {dtype}, but a file with one band is needed: use the "
            "original file"
        )


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


@contextmanager
def opened(
    data: bytes, drivers: Sequence[str] = ("GTiff",), *, located: bool = False
) -> Iterator[DatasetReader]:
    """Open the content of a file with rasterio.

    Args:
        data: Content of the file.
        drivers: Formats of GDAL that it may have.
        located: Whether to read the georeference, which takes half of the time.

    Raises:
        ValueError: The file has another format, or is damaged, also where it is read later.
    """
    from rasterio import Env
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    if not data:  # rasterio would create a new file
        raise ValueError("an empty file")
    try:
        with Env(**GDAL_OPTIONS), MemoryFile(data) as memory:
            with _GDAL_LOCK, warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                options = {} if located else {"GEOREF_SOURCES": "NONE"}
                file = memory.open(driver=list(drivers), **options)
            with file:
                yield file
    except RasterioError as error:
        raise ValueError(f"not readable: {error}") from error


def open_quietly(path: Path, driver: str) -> DatasetReader:
    """Open a raster without a warning about a missing georeference.

    Args:
        path: The file.
        driver: GDAL's name of its format.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with _GDAL_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver=driver)


def place_of(file: DatasetReader) -> tuple[CRS | None, Affine | None]:
    """Return coordinate system and transform of a raster, None for what it does not say.

    Args:
        file: The raster.
    """
    transform = file.transform
    # rasterio gives the identity for a file without a transform.
    is_known = not transform.is_identity and bool(np.isfinite(tuple(transform)).all())
    is_known = is_known and transform.determinant != 0
    return file.crs, transform if is_known else None


def locate(data: bytes, name: str) -> tuple[CRS | None, Affine | None, int, int]:
    """Return coordinate system and transform of a file, None if it has none, and its size.

    Args:
        data: Content of the file.
        name: Its name, for errors.

    Returns:
        The coordinate reference system, the transform from column and row to its coordinates, and
        width and height in pixels.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with opened(data, located=True) as file:
            return *place_of(file), file.width, file.height
    except ValueError as error:
        raise UserError(f"{name} is not a readable GeoTIFF: replace it") from error


def _item_bytes(dtype: str) -> int:
    """Return the bytes of a value; GDAL's complex integers become complex64."""
    return 8 if dtype == "complex_int16" else np.dtype(dtype).itemsize


def _check_size(name: str, pixel_bytes: int, *sizes: tuple[int, int]) -> None:
    """Refuse what takes too much memory: all pixels, or one block, of ``sizes``."""
    height, width = map(max, *sizes)
    if max(height, width) > MAX_SIDE_PX or height * width * pixel_bytes > MAX_BYTES:
        raise UserError(
            f"{name} has {width} x {height} px of {8 * pixel_bytes} bits, more than the "
            f"{MAX_SIDE_PX} of a whole tile of Sentinel-2 in 16 bits: cut it into patches"
        )


def _parse(data: bytes) -> _Layout | None:
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
    return _Layout(shape, dtype, block, is_tiled, compression, predictor, offsets, sizes, tables)


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


def _decode(data: bytes, layout: _Layout) -> np.ndarray | None:
    """Decode all blocks: (H, W); None where GDAL has to decide."""
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
            block = _decode_plain(stored, layout, shape)
        if block is None:
            return None
        block, target = block[: height - y, : width - x], pixels[y : y + rows, x : x + columns]
        if layout.predictor == 2:
            np.add.accumulate(block, axis=1, dtype=pixels.dtype, out=target)
        else:
            target[:] = block
    return pixels


def _decode_plain(stored: bytes, layout: _Layout, shape: tuple[int, int]) -> np.ndarray | None:
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
