"""A city and its surroundings on two dates, each as one GeoTIFF of any size, and what was built."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from datasets.geotiff.writer import Tags, encode_geotiff, utm_tags
from datasets.miniature.canvas import Canvas, Rng, noise
from datasets.miniature.covers import draw_place, paint
from datasets.miniature.files import Grid, to_dn
from datasets.miniature.oscd import build
from datasets.miniature.render import observe
from datasets.miniature.surfaces import draw_weather

_BANDS = ("B2", "B3", "B4", "B8")  # those of 10 m
_DISTRICTS = ("Industrial", "Forest", "AnnualCrop", "Pasture", "SeaLake")
_DISTRICT_CELLS = 170
_LINES = ("River", "Highway")
# DateTime: TIFF 6.0, section 8. GDAL_METADATA: gdal.org/en/stable/drivers/raster/gtiff.html
_ASCII, _DATE_TIME, _METADATA = 2, 306, 42112


def draw_city(rng: Rng, size_px: int) -> Canvas:
    """Draw streets and houses, with districts of other covers, a river and a highway.

    Args:
        rng: Source of everything about the city.
        size_px: Side in pixels of 10 m; the canvas is filled up to whole 60 m pixels.
    """
    city = draw_place(rng, "Residential", size_px=size_px)
    for cover in _DISTRICTS:
        paint(city, cover, noise(rng, city.cells, _DISTRICT_CELLS) > 1, rng)
    everywhere = np.ones((city.cells, city.cells), bool)
    for cover in _LINES:
        paint(city, cover, everywhere, rng)
    return city


def write_dates(root: Path, number: int, *, seed: int, size: int) -> None:
    """Write ``<number>/before.tif``, ``after.tif`` (DN) and ``changes.tif`` (0, or 255 if built).

    Args:
        root: Folder of all cities.
        number: Number of the city, which names its folder.
        seed: Seed of the world.
        size: Side in pixels of 10 m.
    """
    rng = np.random.default_rng([seed, 6, number])
    before = draw_city(rng, size)
    after, is_new = build(before, rng)
    grid = Grid.at(before.climate.latitude, float(rng.uniform(-120, 140)))
    first = datetime(2018, 5, 1, 10, 30, tzinfo=UTC) + timedelta(days=int(rng.integers(120)))
    second = first + timedelta(days=int(rng.integers(700, 760)))  # about the same season
    place = utm_tags(grid.epsg, grid.left, grid.top, resolution_m=10)
    folder = root / f"{number:06d}"
    folder.mkdir()
    for name, canvas, date in (("before", before, first), ("after", after, second)):
        weather = replace(draw_weather(rng, grid.latitude, date), snow=0.0)
        images = observe(rng, canvas, weather, _BANDS)
        stack = np.stack([to_dn(images[band])[:size, :size] for band in _BANDS])
        (folder / f"{name}.tif").write_bytes(encode_geotiff(stack, {**place, **_named(date)}))
    changes = np.where(is_new[:size, :size], 255, 0).astype(np.uint8)
    (folder / "changes.tif").write_bytes(encode_geotiff(changes, place))


def _named(date: datetime) -> Tags:
    """Return the tags that name date and bands."""
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{number}" role="description">{band}</Item>'
        for number, band in enumerate(_BANDS)
    )
    texts = {
        _DATE_TIME: f"{date:%Y:%m:%d %H:%M:%S}",
        _METADATA: f"<GDALMetadata>{items}</GDALMetadata>",
    }
    return {tag: (_ASCII, tuple(f"{text}\0".encode())) for tag, text in texts.items()}
