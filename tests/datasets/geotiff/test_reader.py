"""The reader of GeoTIFFs against GDAL, on whole and on damaged files of many kinds."""

import struct
import tracemalloc
import warnings
import zlib
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.errors
from rasterio.io import MemoryFile

from datasets.geotiff import reader
from datasets.geotiff.plain import decode_plain, parse_plain
from datasets.geotiff.reader import one_band, read_geotiff
from datasets.geotiff.writer import encode_geotiff, utm_tags
from utils.errors import UserError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "bigearthnet_tiny"
TILES = {"tiled": True, "blockxsize": 64, "blockysize": 32}
LAYOUTS: list[dict[str, Any]] = [
    *({"compress": each} | more for each, more in product(("NONE", "DEFLATE"), ({}, TILES))),
    *({"compress": "JPEG", "jpeg_quality": each} for each in (30, 75, 95)),
    {"compress": "JPEG"} | TILES,
    {"compress": "DEFLATE", "predictor": 2},
    {"compress": "DEFLATE", "predictor": 2, "endianness": "BIG"},
]
# What GDAL reads.
OTHERS: list[dict[str, Any]] = [
    *({"compress": each} for each in ("LZW", "ZSTD")),
    *({"nbits": 7}, {"bigtiff": "YES"}, {"photometric": "MINISWHITE"}),
]


def pattern(height: int, width: int, dtype: str) -> np.ndarray:
    """A smooth wave with noise, of values that fill the type."""
    y, x = np.mgrid[:height, :width]
    wave = np.sin(y / 9) + np.cos(x / 7) + np.random.default_rng(0).random((height, width)) / 4
    low, high = (-9000, 9000) if dtype == "int16" else (0, 120 if dtype == "uint8" else 60_000)
    return np.interp(wave, [-2, 2.25], [low, high]).astype(dtype)


def encode(bands: np.ndarray, **options: Any) -> bytes:
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with memory.open(driver="GTiff", **size, **options) as file:
            file.write(bands)
        return bytes(memory.read())


def gdal(data: bytes) -> np.ndarray | None:
    """Read with GDAL alone; None for a file that it refuses."""
    try:
        with reader.opened(data) as file:
            return np.asarray(file.read())
    except ValueError:
        return None


def small(count: int, dtype: str, shape: tuple[int, int]) -> None:
    """Refuse what damage has made large."""
    if count > 20 or max(shape) > 2000:
        raise ValueError("large")


FILES = [  # data, whether GDAL is not needed, whether it is a JPEG
    (
        encode(pattern(height, width, dtype)[None], **options),
        number < len(LAYOUTS),
        options.get("compress") == "JPEG",
    )
    for height, width in ((264, 264), (44, 132), (67, 33))
    for dtype in ("uint8", "uint16", "int16", "float32")
    for number, options in enumerate(LAYOUTS + OTHERS)
    if dtype == "uint8" or not (options.get("compress") == "JPEG" or "nbits" in options)
    if dtype != "float32" or "predictor" not in options
]


def test_pixels_are_those_of_gdal_and_usual_files_are_read_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [gdal(data) for data, *_ in FILES]
    for (data, is_usual, _), pixels in zip(FILES, expected, strict=True):
        assert pixels is not None
        with monkeypatch.context() as patch:
            if is_usual:
                patch.delattr(reader, "opened")
            found = read_geotiff(data, "x.tif", small)
        np.testing.assert_array_equal(found, pixels)
        assert found.dtype == pixels.dtype
    bands = np.stack([pattern(48, 40, "uint16") + band for band in range(13)])
    np.testing.assert_array_equal(read_geotiff(encode(bands), "x.tif", small), bands)


@pytest.mark.skipif(not REAL.exists(), reason="needs the real patches of BigEarthNet")
def test_real_patches_of_bigearthnet_are_read_as_by_gdal() -> None:
    paths = sorted(REAL.glob("*/*.tif"))
    assert len(paths) == 36
    for path in paths:
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(
                read_geotiff(path.read_bytes(), path.name, small), file.read()
            )


def test_damaged_files_are_left_to_gdal_or_read_as_by_gdal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut, or with wrong bytes. GDAL decodes wrong codes of a JPEG too, to other wrong pixels."""
    rng, num_read = np.random.default_rng(1), 0
    for number in range(900):
        data, _, is_jpeg = FILES[number % len(FILES)]
        damaged = bytearray(data)
        if number % 3 == 0:
            del damaged[rng.integers(len(damaged)) :]
        else:
            last = min(330, len(damaged)) if number % 3 == 1 else len(damaged)
            damaged[rng.integers(last)] = rng.integers(256)
        with monkeypatch.context() as patch:
            patch.setattr(reader, "opened", left_to_gdal)
            try:
                found = read_geotiff(bytes(damaged), "x.tif", small)
            except (LeftToGdal, ValueError, UserError):
                continue
        num_read += 1
        expected = gdal(bytes(damaged))
        assert expected is not None
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert is_jpeg or np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")
    assert 100 < num_read < 600


class LeftToGdal(Exception):
    """A file that is not decoded here."""


def left_to_gdal(data: bytes) -> None:
    raise LeftToGdal


def huge(compress: str) -> bytes:
    size = {"count": 1, "height": 60_000, "width": 60_000, "dtype": "uint8"}
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        memory.open(driver="GTiff", **size, compress=compress, sparse_ok=True).close()
        return bytes(memory.read())


@pytest.mark.parametrize("compress", ["DEFLATE", "LZW"])
def test_a_huge_band_is_refused_before_it_is_decoded(compress: str) -> None:
    tracemalloc.start()
    with pytest.raises(
        UserError, match=r"x\.tif has 60000 x 60000 px of 8 bits, more than the 10980 of"
    ):
        read_geotiff(huge(compress), "x.tif", lambda *_: None)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_a_block_inflates_to_its_own_size_at_most() -> None:
    layout = parse_plain(encode(np.zeros((1, 8, 8), np.uint8), compress="DEFLATE"))
    assert layout is not None
    bomb = zlib.compress(bytes(10**8))
    tracemalloc.start()
    assert decode_plain(bomb, layout._replace(offsets=[0], sizes=[len(bomb)])) is None
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("declared", [(65_000, 65_000), (8, 16)])
def test_a_jpeg_of_another_size_than_its_block_is_not_allocated(declared: tuple[int, int]) -> None:
    data = bytearray(encode(np.zeros((1, 8, 8), np.uint8), compress="JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", *declared)
    layout = parse_plain(bytes(data))
    assert layout is not None
    assert decode_plain(bytes(data), layout) is None


def test_several_bands_are_named_where_one_is_needed() -> None:
    data = encode(np.zeros((3, 8, 8), np.uint16))
    with pytest.raises(UserError, match=r"B04\.tif has 3 bands of uint16, but .* one band"):
        read_geotiff(data, "B04.tif", partial(one_band, "B04.tif"))


def plain_tiff(*tags: tuple[int, int, int, int], pixels: bytes = bytes([3] * 8)) -> bytes:
    """Write a TIFF of 2 x 4 uint8 pixels with further tags: number, type, count, value."""
    after = 8 + 2 + 12 * (7 + len(tags)) + 4
    needed = [(256, 4), (257, 2), (258, 8), (259, 1), (262, 1), (273, after), (279, 8)]
    entries = sorted([*((tag, 4, 1, value) for tag, value in needed), *tags])
    directory = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + directory + bytes(4) + pixels


def test_a_predictor_counts_only_where_pixels_are_compressed() -> None:
    data = plain_tiff((317, 3, 1, 2))
    expected = gdal(data)
    assert expected is not None
    assert (expected == 3).all()
    np.testing.assert_array_equal(read_geotiff(data, "x.tif", small), expected)


def test_tags_with_many_values_take_no_more_memory_than_the_file() -> None:
    claims = [(tag, 7, 10**6, 8) for tag in (277, 284, 317, 339, 325, 347) for _ in range(10)]
    data = plain_tiff(*claims, pixels=bytes(10**6))
    tracemalloc.start()
    assert parse_plain(data) is None
    assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    tracemalloc.stop()


def test_damaged_compressed_pixels_are_refused_where_gdal_makes_some_up() -> None:
    data = encode(pattern(48, 40, "uint16")[None], compress="DEFLATE")
    layout = parse_plain(data)
    assert layout is not None
    at, size = layout.offsets[0], layout.sizes[0]
    cases = [data[:at] + bytes(size) + data[at + size :]]
    cases += [data[: at + size // 2] + bytes(size - size // 2) + data[at + size :]]
    flipped = bytearray(data)
    flipped[at + size - 1] ^= 1  # of the checksum
    for damaged in (*cases, bytes(flipped)):
        with pytest.raises(ValueError, match="Error -"):
            read_geotiff(damaged, "x.tif", small)


@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_collected_files_are_read_without_gdal(
    compress: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pattern(264, 264, "uint8")
    data = encode_geotiff(image, utm_tags(32631, 500_000, 5_000_000, 10), compress)
    expected = gdal(data)
    monkeypatch.delattr(reader, "opened")
    np.testing.assert_array_equal(read_geotiff(data, "x.tif", small), expected)
