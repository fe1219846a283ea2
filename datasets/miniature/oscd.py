"""OSCD's layout for the miniature Earth: cities on two dates, and the construction between them."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.bands import two_digit_name
from datasets.miniature.canvas import Array, Canvas, Rng, frame
from datasets.miniature.covers import draw_place, paint
from datasets.miniature.files import Grid, repeated_to_10_m, to_dn, write_geotiff, write_native
from datasets.miniature.render import level_1c, observe
from datasets.miniature.surfaces import SENSOR_BANDS, draw_weather

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
    after, is_new = build(before, rng)
    grid = Grid.at(before.climate.latitude, float(rng.uniform(-120, 140)))
    first = datetime(2015, 8, 1, 10, 30, tzinfo=UTC) + timedelta(days=int(rng.integers(365)))
    second = first + timedelta(days=int(rng.integers(500, 900)))
    for period, place, date in ((1, before, first), (2, after, second)):
        native = root / city / f"imgs_{period}"
        aligned = root / city / f"imgs_{period}_rect"
        native.mkdir(parents=True)
        aligned.mkdir()
        weather = level_1c(draw_weather(rng, grid.latitude, date))
        prefix = f"S2A_MSIL1C_{date:%Y%m%dT%H%M%S}_T{grid.tile}"
        for band, image in observe(rng, place, weather, SENSOR_BANDS).items():
            name, dn = two_digit_name(band), to_dn(image)
            write_native(native / f"{prefix}_{name}.tif", dn, grid, band, size)
            write_geotiff(aligned / f"{name}.tif", repeated_to_10_m(dn, band, size), grid)
    days = f"date_1: {first:%Y%m%d}\ndate_2: {second:%Y%m%d}\n"
    (root / city / "dates.txt").write_text(days)
    changes = root / city / "cm"
    changes.mkdir()
    is_new = is_new[:size, :size]
    Image.fromarray(np.where(is_new, 255, 0).astype(np.uint8)).save(changes / "cm.png")
    # 1 = no change, 2 = change
    write_geotiff(changes / f"{city}-cm.tif", np.where(is_new, 2, 1).astype(np.uint8), grid)


def build(canvas: Canvas, rng: Rng) -> tuple[Canvas, Array]:
    """Build on some sites; return the city after, and the changed pixels of 10 m, bool.

    Args:
        canvas: The city before; it is not changed.
        rng: Source of sites and buildings.
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
