"""Whole small images of all kinds that readers take, for ``mutations.py`` to damage."""

import io
import zlib
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

Rng = np.random.Generator
EPSG, LEFT, TOP = 32632, 600_000, 5_200_020  # of the TIFFs


def image_seeds() -> dict[str, bytes]:
    """Return small whole files of all kinds, by "kind: description"."""
    rng = np.random.default_rng(15)
    return _by_gdal(rng) | _by_pillow(rng)


def _pixels(rng: Rng, *shape: int, dtype: str = "uint8") -> np.ndarray:
    """Draw values of 0 to 6,000 that rise from left to right."""
    smooth = rng.integers(0, 200, shape) + np.arange(shape[-1])
    return np.asarray((smooth * (20 if dtype == "uint16" else 1)).clip(0, 6000).astype(dtype))


def _by_gdal(rng: Rng) -> dict[str, bytes]:
    seeds: dict[str, bytes] = {}
    pixels = partial(_pixels, rng)

    def tiff(name: str, planes: np.ndarray, **options: Any) -> None:
        seeds[f"tiff: {name}"] = _tiff(planes, **options)

    band, dn = pixels(1, 48, 48), pixels(1, 120, 120, dtype="uint16")
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    for compress in ("none", "deflate", "lzw", "packbits", "zstd", "lzma", "lerc", "webp"):
        if compress != "webp":  # of three or four bands only
            tiff(f"uint8 {compress}", band, compress=compress)
        tiff(f"rgb {compress}", pixels(3, 48, 48), compress=compress, photometric="RGB")
    for compress in ("none", "deflate", "lzw", "zstd"):
        tiff(f"uint16 {compress}", dn, compress=compress)
        tiff(f"13 bands {compress}", pixels(13, 64, 64, dtype="uint16"), compress=compress)
    tiff("uint16 predictor", dn, compress="deflate", predictor=2, **tiles)
    tiff("float predictor", pixels(1, 48, 48, dtype="float32"), compress="deflate", predictor=3)
    tiff("jpeg", band, compress="jpeg")
    tiff("jpeg tiles", band, compress="jpeg", **tiles)
    tiff("ycbcr", pixels(3, 48, 48), compress="jpeg", photometric="YCBCR", interleave="pixel")
    tiff("planes", pixels(13, 64, 64, dtype="uint16"), interleave="band", compress="deflate")
    tiff("big endian", dn, ENDIANNESS="BIG")
    tiff("bigtiff", dn, BIGTIFF="YES", compress="deflate")
    tiff("uint16 small", dn[:, :48, :48], compress="deflate")
    tiff("int16", pixels(1, 48, 48, dtype="int16"))
    tiff("complex", pixels(1, 48, 48).astype("complex64"))
    tiff("1 bit", (band > 99).astype("uint8"), nbits=1, compress="ccittfax4")
    tiff("12 bit", dn, nbits=12)
    tiff("map", np.array(1 + (band > 99), "uint8"))
    tiff("sparse", np.zeros((1, 120, 120), "uint16"), sparse_ok=True)
    tiff("rgba", pixels(4, 48, 48), photometric="RGB", alpha="YES")
    tiff("cmyk", pixels(4, 48, 48), photometric="CMYK", compress="jpeg", interleave="pixel")
    return seeds


def _tiff(planes: np.ndarray, **options: Any) -> bytes:
    count, height, width = planes.shape
    profile = {"count": count, "height": height, "width": width, "dtype": planes.dtype}
    profile |= {"crs": CRS.from_epsg(EPSG), "transform": from_origin(LEFT, TOP, 10, 10)}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile, **options) as file:
            file.write(planes)
        return bytes(memory.read())


def _by_pillow(rng: Rng) -> dict[str, bytes]:
    rgb = Image.fromarray(_pixels(rng, 48, 48, 3))
    grey, deep = rgb.convert("L"), Image.fromarray(_pixels(rng, 48, 48, dtype="uint16"))
    change = grey.point(lambda value: 255 * (value > 99))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "orientation"
    profile = zlib.compress(bytes(2000))[:400]
    saved: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("rgb", "JPEG", rgb, {"exif": exif}),
        ("grey", "JPEG", grey, {}),
        ("progressive", "JPEG", rgb, {"progressive": True, "icc_profile": profile}),
        ("cmyk", "JPEG", rgb.convert("CMYK"), {}),
        ("restarts", "JPEG", rgb, {"restart_marker_blocks": 2, "subsampling": "4:4:4"}),
        ("pages", "MPO", rgb, {"save_all": True, "append_images": [rgb]}),
        ("rgb", "PNG", rgb, {"exif": exif}),
        ("map", "PNG", change, {}),
        ("profile", "PNG", grey, {"icc_profile": profile}),
        ("palette", "PNG", rgb.quantize(16), {"transparency": 3}),
        ("1 bit", "PNG", change.convert("1"), {}),
        ("16 bit", "PNG", deep, {}),
        ("rgba", "PNG", rgb.convert("RGBA"), {}),
        ("frames", "PNG", rgb, {"save_all": True, "append_images": [rgb]}),
        ("palette", "TIFF", rgb.quantize(16), {"compression": "tiff_lzw"}),
        ("g3", "TIFF", change.convert("1"), {"compression": "group3"}),
        ("jpeg", "TIFF", rgb, {"compression": "jpeg"}),
        ("lab", "TIFF", Image.merge("LAB", rgb.split()), {}),
        ("pages", "TIFF", rgb, {"save_all": True, "append_images": [rgb]}),
        *((kind.lower(), kind, rgb, {}) for kind in ("BMP", "GIF", "WEBP", "PPM", "EPS", "ICO")),
    ]
    return {
        f"{kind.lower()}: {name}": _saved(kind, image, options)
        for name, kind, image, options in saved
    }


def _saved(kind: str, image: Image.Image, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
