"""A band's GeoTIFF is, for GDAL, the file that GDAL writes."""

import logging
import warnings
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from datasets.collect.geotiff_writer import encode_geotiff
from datasets.collect.scenes import Array, PatchGrid


def picture(side: int, dtype: str) -> Array:
    """A slope with waves and noise, as smooth as a band."""
    rows, columns = np.indices((side, side))
    noise = np.random.default_rng(side).normal(0, 3, (side, side))
    image = 90 + 40 * np.sin(rows / 20) * np.cos(columns / 15) + noise
    scale = 1 if dtype == "uint8" else 39
    return np.asarray((scale * image).clip(1, 255 * scale).astype(dtype))


def by_gdal(image: Array, grid: PatchGrid, resolution_m: int, **compression: Any) -> bytes:
    height, width = image.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=1,
            height=height,
            width=width,
            dtype=image.dtype,
            crs=f"EPSG:{grid.epsg}",
            transform=rasterio.Affine(resolution_m, 0, grid.left, 0, -resolution_m, grid.top),
            **compression,
        ) as file:
            file.write(image, 1)
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

    with caplog.at_level(logging.WARNING, "rasterio"), rasterio.Env():
        file = encode_geotiff(image, grid, resolution_m, compression["compress"])
        reference = by_gdal(image, grid, resolution_m, **compression)
        assert seen(file) == seen(reference)

    assert not caplog.records
    assert len(file) <= 1.05 * len(reference)
    assert file == encode_geotiff(image.copy(), grid, resolution_m, compression["compress"])


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
            content = encode_geotiff(image, PatchGrid(32601, 0, 60, 6), 10, "deflate")
            assert seen(content)["pixels"] == [image.tolist()]
