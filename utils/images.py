"""Decode JPEG, PNG and TIFF with Pillow, with limits that hold before any pixel is decoded."""

from collections.abc import Callable
from io import BytesIO

from PIL import Image

FORMATS = ("JPEG", "PNG", "TIFF")  # of Pillow's many, of which EPS starts another program
MAX_PIXELS = 2**26  # of an image; each takes up to 12 bytes until it is an array
MAX_BYTES = 2**28  # of a file: such an image in RGB, not compressed
_BITS_PER_SAMPLE = 258  # tag of TIFF 6.0
_PNG_DEPTH_OFFSET = 24  # of the bit depth in the IHDR chunk, which is always the first


def read_image(
    data: bytes,
    mode: str,
    check: Callable[[Image.Image], None] = lambda image: None,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """Decode an image.

    Args:
        data: Content of the file.
        mode: Pillow's name of the channels to convert it to, such as "RGB".
        check: Gets the opened image before a pixel is decoded, and raises a ``ValueError`` for what
            it refuses.
        formats: Pillow's names of the formats that the file may have.

    Raises:
        ValueError: The file is not such an image, is damaged, or has more than ``MAX_PIXELS``.
    """
    try:
        with Image.open(BytesIO(data), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} px")
            check(image)
            image.load()
            return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # Pillow raises any kind for a damaged file
        raise ValueError(f"not a readable image: {error}") from error


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
