"""The only writer of GeoTIFFs: a short head, and the pixels of each band as one strip.

GDAL needs five times as long for small files, most of it to set each of them up.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from itertools import accumulate

import numpy as np
from PIL import Image

# Kinds of values and their letter in ``struct``: TIFF 6.0 (Adobe, 1992), section 2.
_SHORT, _LONG, _DOUBLE = 3, 4, 12
LETTERS = {2: "B", _SHORT: "H", _LONG: "I", _DOUBLE: "d"}
_BYTES = {2: 1, _SHORT: 2, _LONG: 4, _DOUBLE: 8}
Tags = Mapping[int, tuple[int, tuple[float, ...]]]  # kind and values by number
_JPEG_QUALITY = 75  # the default of libtiff, and so of the published archives
_FORMATS = {"u": 1, "f": 3}  # SampleFormat by NumPy's kind


def utm_tags(epsg: int, left: int, top: int, resolution_m: int) -> Tags:
    """Return the georeference of a file: OGC GeoTIFF 1.1 (19-008r4), section 7.

    Args:
        epsg: Code of its UTM zone.
        left: Easting of the upper left corner in metres.
        top: Northing of that corner.
        resolution_m: Side of a pixel in metres.
    """
    keys = {1024: 1, 1025: 1, 3072: epsg}  # projected; a pixel is an area; ProjectedCRSGeoKey
    entries = [(key, 0, 1, value) for key, value in keys.items()]
    directory = (1, 1, 0, len(keys), *(number for entry in entries for number in entry))
    return {
        33550: (_DOUBLE, (resolution_m, resolution_m, 0)),  # ModelPixelScale
        33922: (_DOUBLE, (0, 0, 0, left, top, 0)),  # ModelTiepoint: of pixel 0, 0
        34735: (_SHORT, directory),  # GeoKeyDirectory
    }


def encode_geotiff(image: np.ndarray, georeference: Tags, compress: str = "deflate") -> bytes:
    """Return the file of one or more bands; the same image gives the same bytes.

    Args:
        image: Pixels, uint8, uint16 or float32, shape (H, W) or (C, H, W).
        georeference: Tags, as ``utm_tags`` returns them; none for a file without one.
        compress: "deflate", which is lossless, or "jpeg" for one band of uint8.
    """
    scheme, encode = _COMPRESSION[compress]
    planes = image if image.ndim == 3 else image[None]
    count, height, width = planes.shape
    strips = [encode(plane) for plane in planes]
    num_colors = 3 if count == 3 and image.dtype == np.uint8 else 1
    is_differenced = compress == "deflate" and image.dtype.kind == "u"
    # Numbers of tags: TIFF 6.0, section 8, but for 317 (Predictor, section 14), 338 (ExtraSamples,
    # section 18) and 339 (SampleFormat, section 19).
    values: dict[int, tuple[int, tuple[float, ...]]] = {
        256: (_LONG, (width,)),
        257: (_LONG, (height,)),
        258: (_SHORT, (8 * image.itemsize,) * count),  # BitsPerSample
        259: (_SHORT, (scheme,)),
        262: (_SHORT, (2 if num_colors == 3 else 1,)),  # PhotometricInterpretation: RGB; 0 is black
        273: (_LONG, (0,) * count),  # StripOffsets, see below
        277: (_SHORT, (count,)),  # SamplesPerPixel
        278: (_LONG, (height,)),  # RowsPerStrip
        279: (_LONG, tuple(map(len, strips))),  # StripByteCounts
        284: (_SHORT, (1 if count == 1 else 2,)),  # PlanarConfiguration: band after band
        317: (_SHORT, (2 if is_differenced else 1,)),
        **({338: (_SHORT, (0,) * (count - num_colors))} if count > num_colors else {}),
        339: (_SHORT, (_FORMATS[image.dtype.kind],) * count),
        **georeference,
    }
    longer_at = 8 + 2 + 12 * len(values) + 4
    sizes = [len(numbers) * _BYTES[kind] for kind, numbers in values.values()]
    begin = -(-(longer_at + sum(size for size in sizes if size > 4)) // 8) * 8
    values[273] = (_LONG, tuple(accumulate(map(len, strips[:-1]), initial=begin)))
    head, longer = struct.pack("<2sHIH", b"II", 42, 8, len(values)), b""
    for tag, (kind, numbers) in sorted(values.items()):
        content = struct.pack(f"<{len(numbers)}{LETTERS[kind]}", *numbers)
        if len(content) > 4:
            longer += content
            content = struct.pack("<I", longer_at + len(longer) - len(content))
        head += struct.pack("<HHI4s", tag, kind, len(numbers), content)
    return b"".join([(head + bytes(4) + longer).ljust(begin, b"\0"), *strips])


def _deflate(image: np.ndarray) -> bytes:
    """Compress the differences of neighbours in a row; a search for longer matches finds few."""
    rows = image.astype(image.dtype.newbyteorder("<"))
    if image.dtype.kind == "u":
        rows[:, 1:] -= image[:, :-1]
    strategy = zlib.Z_RLE  # 0.96 of the size and a fifth of the time of GDAL's level 1
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return packer.compress(rows.tobytes()) + packer.flush()


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


# Numbers of Compression. Deflate: Adobe Photoshop TIFF Technical Notes (2002). JPEG: TIFF Technical
# Note 2 (1995), by which a strip may have tables of its own.
_COMPRESSION: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
    "deflate": (8, _deflate),
    "jpeg": (7, _jpeg),
}
