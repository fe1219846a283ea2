"""Encode one band as a GeoTIFF in a UTM zone: a short head, and all pixels as one strip.

GDAL needs five times as long for small files, most of it to set each of them up.
"""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from datasets.collect.scenes import Array, PatchGrid

# Types of values by their letter in ``struct``: TIFF 6.0 (Adobe, 1992), section 2.
_TYPES = {"H": 3, "I": 4, "d": 12}
_HEAD_BYTES = 304  # before the pixels: header, directory, values of more than 4 bytes (298)
_JPEG_QUALITY = 75  # the default of libtiff, and so of the published archives


def encode_geotiff(image: Array, grid: PatchGrid, resolution_m: int, compress: str) -> bytes:
    """Return the file of a band; the same image gives the same bytes.

    Args:
        image: Pixels, uint8 or uint16, shape (H, W).
        grid: UTM zone, and the upper left corner.
        resolution_m: Side of a pixel in metres.
        compress: "deflate", which is lossless, or "jpeg" for uint8.
    """
    scheme, predictor, encode = _COMPRESSION[compress]
    strip = encode(image)
    height, width = image.shape
    # Numbers of tags: TIFF 6.0, section 8, but for 317 (Predictor, section 14) and 339
    # (SampleFormat, section 19). From 33550 on: OGC GeoTIFF 1.1 (19-008r4), section 7.
    values: dict[int, tuple[str, tuple[float, ...]]] = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        258: ("H", (8 * image.itemsize,)),  # BitsPerSample
        259: ("H", (scheme,)),
        262: ("H", (1,)),  # PhotometricInterpretation: 0 is black
        273: ("I", (_HEAD_BYTES,)),  # StripOffsets
        277: ("H", (1,)),  # SamplesPerPixel
        278: ("I", (height,)),  # RowsPerStrip
        279: ("I", (len(strip),)),  # StripByteCounts
        284: ("H", (1,)),  # PlanarConfiguration
        317: ("H", (predictor,)),
        339: ("H", (1,)),  # SampleFormat: unsigned
        33550: ("d", (resolution_m, resolution_m, 0)),  # ModelPixelScale
        33922: ("d", (0, 0, 0, grid.left, grid.top, 0)),  # ModelTiepoint: of pixel 0, 0
        34735: ("H", _geo_keys(grid.epsg)),
    }
    longer_at = 8 + 2 + 12 * len(values) + 4
    head, longer = struct.pack("<2sHIH", b"II", 42, 8, len(values)), b""
    for tag, (letter, numbers) in values.items():
        content = struct.pack(f"<{len(numbers)}{letter}", *numbers)
        if len(content) > 4:
            longer += content
            content = struct.pack("<I", longer_at + len(longer) - len(content))
        head += struct.pack("<HHI4s", tag, _TYPES[letter], len(numbers), content)
    return (head + bytes(4) + longer).ljust(_HEAD_BYTES, b"\0") + strip


def _geo_keys(epsg: int) -> tuple[int, ...]:
    """Return the GeoKeyDirectory: OGC GeoTIFF 1.1, sections 7.1.2 (its head) and 7.5 (its keys)."""
    keys = {1024: 1, 1025: 1, 3072: epsg}  # projected; a pixel is an area; ProjectedCRSGeoKey
    entries = [(key, 0, 1, value) for key, value in keys.items()]
    return (1, 1, 0, len(keys), *(number for entry in entries for number in entry))


def _deflate(image: Array) -> bytes:
    """Compress the differences of neighbours in a row; a search for longer matches finds few."""
    rows = image.copy()
    rows[:, 1:] -= image[:, :-1]
    strategy = zlib.Z_RLE  # 0.96 of the size and a fifth of the time of GDAL's level 1
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return packer.compress(rows.astype(rows.dtype.newbyteorder("<")).tobytes()) + packer.flush()


def _jpeg(image: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


# Numbers of Compression and Predictor. Deflate: Adobe Photoshop TIFF Technical Notes (2002).
# JPEG: TIFF Technical Note 2 (1995), by which a strip may have tables of its own.
_COMPRESSION: dict[str, tuple[int, int, Callable[[Array], bytes]]] = {
    "deflate": (8, 2, _deflate),
    "jpeg": (7, 1, _jpeg),
}
