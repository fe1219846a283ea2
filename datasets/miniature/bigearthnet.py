"""BigEarthNet v1.0's layout for the miniature Earth: patch folders, labels and lists."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from datasets.bands import ALL_BANDS, two_digit_name
from datasets.miniature.canvas import Canvas
from datasets.miniature.covers import COVER_NAMES, draw_place
from datasets.miniature.files import Grid, to_dn, write_native
from datasets.miniature.render import observe
from datasets.miniature.surfaces import draw_weather

SIZE_PX = 120
SPLIT_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
PatchReport = tuple[str, bool, bool]  # name, is snowy, is cloudy
_MIN_SHARE = 0.04  # of the patch, for a label
_CLOUDY_HAZE = 0.05

# CORINE level-3 names (BigEarthNet's 43) of each cover: in moist and in dry climates.
_NAMES = {
    "AnnualCrop": ("Non-irrigated arable land", "Permanently irrigated land"),
    "HerbaceousVegetation": ("Natural grassland", "Sclerophyllous vegetation"),
    "Industrial": ("Industrial or commercial units",) * 2,
    "Pasture": ("Pastures",) * 2,
    "PermanentCrop": ("Fruit trees and berry plantations", "Vineyards"),
    "Residential": ("Discontinuous urban fabric",) * 2,
    "Highway": ("Road and rail networks and associated land",) * 2,
    "River": ("Water courses",) * 2,
}


def write_patch(root: Path, number: int, *, seed: int) -> PatchReport:
    """Write the folder of one patch, 12 uint16 bands and the labels; return what lists need.

    Args:
        root: Folder of the data set.
        number: Number of the patch; with ``seed`` the seed of its random numbers.
        seed: Seed of the world.
    """
    rng = np.random.default_rng([seed, 3, number])
    place = draw_place(rng, str(rng.choice(COVER_NAMES)), size_px=SIZE_PX)
    # The archive covers ten countries of Europe.
    latitude = float(np.clip(abs(place.climate.latitude), 37, 62))
    place.climate = replace(place.climate, latitude=latitude)
    grid = Grid.at(latitude, float(rng.uniform(-9, 28)))
    start = datetime(2017, 6, 1, 10, tzinfo=UTC) + timedelta(
        days=int(rng.integers(365)), seconds=int(rng.integers(7200))
    )
    weather = draw_weather(rng, latitude, start)
    craft, stamp = "AB"[int(rng.integers(2))], f"{start:%Y%m%dT%H%M%S}"
    name = f"S2{craft}_MSIL2A_{stamp}_{number // 90}_{number % 90}"
    folder = root / "BigEarthNet-v1.0" / name
    folder.mkdir(parents=True)
    for band, image in observe(rng, place, weather, ALL_BANDS).items():
        path = folder / f"{name}_{two_digit_name(band)}.tif"
        write_native(path, to_dn(image), grid, band, SIZE_PX)
    side_m, orbit = SIZE_PX * 10, int(rng.integers(1, 144))
    corners = (grid.left, grid.top, grid.left + side_m, grid.top - side_m)
    content = {
        "labels": _label_names(place),
        "coordinates": dict(zip(("ulx", "uly", "lrx", "lry"), corners, strict=True)),
        "projection": CRS.from_epsg(grid.epsg).to_wkt(),
        "tile_source": f"S2{craft}_MSIL1C_{stamp}_N0205_R{orbit:03d}_T{grid.tile}_{stamp}.SAFE",
        "acquisition_date": f"{start:%Y-%m-%d %H:%M:%S}",
    }
    (folder / f"{name}_labels_metadata.json").write_text(json.dumps(content))
    return name, weather.snow > 0, weather.haze > _CLOUDY_HAZE


def _label_names(place: Canvas) -> list[str]:
    """Return the CORINE names of the covers of visible parts of the place, sorted."""
    shares = np.bincount(place.cover.ravel(), minlength=len(COVER_NAMES)) / place.cover.size
    labels = []
    for cover, share in zip(COVER_NAMES, shares, strict=True):
        if share < _MIN_SHARE:
            continue
        if cover == "Forest":
            labels.append(_forest_name(place))
        elif cover == "SeaLake":
            labels.append("Sea and ocean" if share > 0.6 else "Water bodies")
        else:
            labels.append(_NAMES[cover][place.climate.aridity > 0.6])
    return sorted(labels)


def _forest_name(place: Canvas) -> str:
    """Name the forest after its prevailing trees."""
    forest = place.labels[place.cover == COVER_NAMES.index("Forest")]
    is_conifer = np.array([surface.kind == "conifer" for surface in place.surfaces])
    share = is_conifer[forest].mean()
    if 0.25 < share < 0.75:
        return "Mixed forest"
    return "Coniferous forest" if share >= 0.75 else "Broad-leaved forest"


def write_lists(root: Path, reports: list[PatchReport], *, seed: int) -> None:
    """Write the three split lists, and the lists of patches with snow and with clouds.

    Args:
        root: Folder of the data set.
        reports: Results of ``write_patch``.
        seed: Seed of the world.
    """
    names, snowy, cloudy = (np.array(column) for column in zip(*reports, strict=True))
    order = np.random.default_rng([seed, 4]).permutation(len(names))
    ends = np.round(np.cumsum(list(SPLIT_SHARES.values())) * len(names)).astype(int)
    for split, part in zip(SPLIT_SHARES, np.split(order, ends[:-1]), strict=True):
        _write_names(root / f"bigearthnet-{split}.txt", names[part])
    _write_names(root / "patches_with_seasonal_snow.csv", names[snowy])
    _write_names(root / "patches_with_cloud_and_shadow.csv", names[cloudy])


def _write_names(path: Path, names: Iterable[str]) -> None:
    path.write_text("".join(f"{name}\n" for name in sorted(names)))
