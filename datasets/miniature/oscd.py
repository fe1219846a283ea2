"""OSCD's layout for the miniature Earth: cities on two dates, and the construction between them."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.miniature.canvas import Canvas, frame
from datasets.miniature.covers import DrawnPlace, draw_place, paint
from datasets.miniature.files import Grid, to_dn, two_digits, write_geotiff
from datasets.miniature.render import RESOLUTION_M, draw_weather, observe
from datasets.miniature.surfaces import SENSOR_BANDS

Array = NDArray[Any]

_SURROUNDINGS = ("Residential", "Industrial", "AnnualCrop", "Pasture", "HerbaceousVegetation")
_NEW = ("Industrial", "Residential")


def write_city(root: Path, city: str, number: int, *, seed: int, size: int) -> None:
    """Write both dates of a city at native resolutions and on the 10 m grid, and the changes.

    Args:
        root: Folder of the data set.
        city: Name of the city's folder.
        number: Number of the city; with ``seed`` the seed of its random numbers.
        seed: Seed of the world.
        size: Side in pixels of 10 m.
    """
    rng = np.random.default_rng([seed, 5, number])
    before = draw_place(rng, str(rng.choice(_SURROUNDINGS)), size_px=size)
    canvas, is_new = build(before.canvas, rng)
    after = DrawnPlace(canvas, before.climate)
    latitude, longitude = before.climate.latitude, float(rng.uniform(-120, 140))
    grid = Grid.at(latitude, longitude)
    first = datetime(2015, 8, 1, 10, 30, tzinfo=UTC) + timedelta(days=int(rng.integers(365)))
    second = first + timedelta(days=int(rng.integers(500, 900)))
    for period, place, date in ((1, before, first), (2, after, second)):
        weather = draw_weather(rng, latitude, date)
        weather = replace(weather, snow=0.0, haze=weather.haze + 0.03)  # clear days, level 1C
        images = observe(rng, place, weather, SENSOR_BANDS)
        prefix = f"S2A_MSIL1C_{date:%Y%m%dT%H%M%S}_T{grid.tile(latitude)}"
        _write_date(root / city, period, prefix, images, grid, size)
    days = f"date_1: {first:%Y%m%d}\ndate_2: {second:%Y%m%d}\n"
    (root / city / "dates.txt").write_text(days)
    _write_changes(root / city / "cm", city, is_new[:size, :size], grid)


def build(canvas: Canvas, rng: np.random.Generator) -> tuple[Canvas, Array]:
    """Build on some sites.

    Args:
        canvas: The city before; it is not changed.
        rng: Source of sites and buildings.

    Returns:
        The canvas after, and the changed pixels of 10 m: bool, shape (cells / 2, cells / 2).
    """
    later = deepcopy(canvas)
    sites = np.zeros((canvas.cells, canvas.cells), bool)
    for _ in range(int(rng.integers(3, 9))):
        u, v = frame(rng, canvas.cells)
        reach = 0.4 * canvas.cells
        u, v = u - rng.uniform(-reach, reach), v - rng.uniform(-reach, reach)
        half_width, half_length = rng.uniform(0.02, 0.07, 2) * canvas.cells + 2
        site = (np.abs(u) < half_width) & (np.abs(v) < half_length) & ~sites
        paint(later, str(rng.choice(_NEW)), site, rng)
        sites |= site
    changed = sum(sites[i::2, j::2].astype(int) for i in range(2) for j in range(2))
    return later, np.asarray(changed) >= 2


def _write_date(
    folder: Path, period: int, prefix: str, images: dict[str, Array], grid: Grid, size: int
) -> None:
    """Write one date's ``imgs_<period>`` and ``imgs_<period>_rect``."""
    native, aligned = folder / f"imgs_{period}", folder / f"imgs_{period}_rect"
    native.mkdir(parents=True)
    aligned.mkdir()
    for band, image in images.items():
        resolution_m = RESOLUTION_M[band]
        side, factor = -(-size * 10 // resolution_m), resolution_m // 10
        dn = to_dn(image)[:side, :side]
        write_geotiff(native / f"{prefix}_{two_digits(band)}.tif", dn, grid, resolution_m)
        fine = dn.repeat(factor, axis=0).repeat(factor, axis=1)[:size, :size]
        write_geotiff(aligned / f"{two_digits(band)}.tif", fine, grid, 10)


def _write_changes(folder: Path, city: str, is_new: Array, grid: Grid) -> None:
    """Write the picture (0 or 255) and the raster (1 = no change, 2 = change)."""
    folder.mkdir()
    Image.fromarray(np.where(is_new, 255, 0).astype(np.uint8)).save(folder / "cm.png")
    write_geotiff(folder / f"{city}-cm.tif", np.where(is_new, 2, 1).astype(np.uint8), grid, 10)
