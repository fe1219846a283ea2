"""A band's GeoTIFF is, for GDAL, the file that GDAL writes."""

import logging
import warnings
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from datasets.collect.scenes import Array, PatchGrid
from datasets.geotiff.plain import read_georeference
from datasets.geotiff.writer import encode_geotiff, utm_tags


def picture(side: int, dtype: str) -> Array:
    """A slope with waves and noise, as smooth as a band."""
    rows, columns = np.indices((side, side))
    noise = np.random.default_rng(side).normal(0, 3, (side, side))
    image = 90 + 40 * np.sin(rows / 20) * np.cos(columns / 15) + noise
    scale = 1 if dtype == "uint8" else 39
    return np.asarray((scale * image).clip(1, 255 * scale).astype(dtype))


def by_gdal(image: Array, grid: PatchGrid, resolution_m: int, **compression: Any) -> bytes:
    planes = image if image.ndim == 3 else image[None]
    count, height, width = planes.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=image.dtype,
            crs=f"EPSG:{grid.epsg}",
            transform=rasterio.Affine(resolution_m, 0, grid.left, 0, -resolution_m, grid.top),
            **compression,
        ) as file:
            file.write(planes)
        return bytes(memory.getbuffer())


def seen(content: bytes) -> dict[str, Any]:
    """Return what GDAL reads; a warning of it fails."""
    with (
        warnings.catch_warnings(action="error"),
        MemoryFile(content) as memory,
        memory.open() as file,
    ):
        profile = {k: v for k, v in file.profile.items() if not k.startswith("block")}
        facts = (file.crs.to_wkt(), file.bounds, file.tags(), file.tags(1), file.colorinterp)
        return profile | {"facts": facts, "pixels": file.read().tolist()}


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [
        ("uint8", {"compress": "deflate", "zlevel": 1, "predictor": 2}),
        ("uint16", {"compress": "deflate", "zlevel": 1, "predictor": 2}),
        ("uint8", {"compress": "jpeg"}),
    ],
)
@pytest.mark.parametrize(("side", "resolution_m"), [(264, 10), (44, 60), (1, 60)])
@pytest.mark.parametrize("epsg", [32601, 32660, 32756])
@pytest.mark.difference("collect-jpeg")
def test_gdal_reads_the_file_as_its_own(
    caplog: pytest.LogCaptureFixture,
    dtype: str,
    compression: dict[str, Any],
    side: int,
    resolution_m: int,
    epsg: int,
) -> None:
    grid = PatchGrid(epsg, 340_020, 6_320_020, 10 * side // resolution_m)
    image = picture(side, dtype)
    place = utm_tags(epsg, grid.left, grid.top, resolution_m)

    with caplog.at_level(logging.WARNING, "rasterio"), rasterio.Env():
        file = encode_geotiff(image, place, compression["compress"])
        reference = by_gdal(image, grid, resolution_m, **compression)
        assert seen(file) == seen(reference)

    assert not caplog.records
    assert len(file) <= 1.05 * len(reference)
    assert file == encode_geotiff(image.copy(), place, compression["compress"])


def test_flat_and_wild_pictures_are_kept() -> None:
    """One value, all values, and a step from the least to the largest one."""
    for dtype in (np.uint8, np.uint16):
        top = np.iinfo(dtype).max
        for image in (
            np.full((7, 5), top, dtype),
            np.random.default_rng(0).integers(0, top, (64, 64), dtype, endpoint=True),
            np.array([[0, top], [top, 0]], dtype),
            np.arange(90, dtype=dtype).reshape(9, 10)[:, ::2],
        ):
            content = encode_geotiff(image, utm_tags(32601, 0, 60, 10))
            assert seen(content)["pixels"] == [image.tolist()]


@pytest.mark.parametrize(("dtype", "count"), [("uint8", 3), ("uint16", 13), ("float32", 1)])
def test_gdal_reads_several_bands_and_floats_as_its_own(
    caplog: pytest.LogCaptureFixture, dtype: str, count: int
) -> None:
    image = np.stack([picture(40 + n, "uint8")[:24, :40] for n in range(count)]).astype(dtype) / 3
    image = image.astype(dtype)
    grid = PatchGrid(32756, 340_020, 6_320_020, 24)
    with caplog.at_level(logging.WARNING, "rasterio"), rasterio.Env():
        file = encode_geotiff(image, utm_tags(grid.epsg, grid.left, grid.top, 10))
        predictor = 1 if dtype == "float32" else 2
        options = {"compress": "deflate", "zlevel": 1, "predictor": predictor}
        reference = by_gdal(image, grid, 10, **options, interleave="band")
        assert seen(file) == seen(reference)
    assert not caplog.records


def test_any_georeference_is_copied() -> None:
    """A rotated grid in degrees, big endian, as GDAL writes it."""
    image = picture(30, "uint8")
    transform = rasterio.Affine(1e-4, 2e-5, 7.5, 3e-5, -1e-4, 43.5)
    layout = {"driver": "GTiff", "count": 1, "height": 30, "width": 30, "dtype": "uint8"}
    with MemoryFile() as memory:
        with memory.open(**layout, crs="EPSG:4326", transform=transform, endianness="BIG") as file:
            file.write(image, 1)
        given = bytes(memory.getbuffer())
    copied = encode_geotiff(image.astype(np.float32), read_georeference(given))
    for content in (given, copied):
        with MemoryFile(content) as memory, memory.open() as file:
            assert file.crs.to_epsg() == 4326
            assert file.transform.almost_equals(transform)
