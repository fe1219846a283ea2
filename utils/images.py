"""Errors of Pillow for damaged images, and bits per channel."""

import zlib

from PIL import Image

# Errors of opening and decoding a damaged file, also from a zip.
IMAGE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError),  # Pillow
    *(zlib.error, NotImplementedError, RuntimeError),
)
_BITS_PER_SAMPLE = 258  # tag of TIFF 6.0
_PNG_DEPTH_OFFSET = 24  # of the bit depth in the IHDR chunk, which is always the first


def bit_depth(image: Image.Image, data: bytes) -> int:
    """Return the bits per channel of the file; Pillow reduces 16-bit colour to 8 without notice.

    Args:
        image: Opened image, PNG, TIFF or JPEG.
        data: Content of its file.
    """
    if image.format == "PNG":
        return data[_PNG_DEPTH_OFFSET]
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    return 8
