"""BigEarthNet v1.0's layout for the miniature Earth: patch folders, labels and lists."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.bands import ALL_BANDS, RESOLUTION_M
from datasets.miniature.covers import COVER_NAMES, DrawnPlace, draw_place
from datasets.miniature.files import Grid, to_dn, two_digits, write_geotiff
from datasets.miniature.render import draw_weather, observe

SUBFOLDER = "BigEarthNet-v1.0"
SIZE_PX = 120
SPLIT_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
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


class PatchReport(NamedTuple):
    """Properties of a patch for the lists."""

    name: str
    is_snowy: bool
    is_cloudy: bool


def write_patch(root: Path, number: int, *, seed: int) -> PatchReport:
    """Write the folder of one patch: 12 uint16 bands and the labels."""
    rng = np.random.default_rng([seed, 3, number])
    place = draw_place(rng, str(rng.choice(COVER_NAMES)), size_px=SIZE_PX)
    # The archive covers ten countries of Europe.
    latitude = float(np.clip(abs(place.climate.latitude), 37, 62))
    place = DrawnPlace(place.canvas, replace(place.climate, latitude=latitude))
    grid = Grid.at(latitude, float(rng.uniform(-9, 28)))
    start = datetime(2017, 6, 1, 10, tzinfo=UTC) + timedelta(
        days=int(rng.integers(365)), seconds=int(rng.integers(7200))
    )
    weather = draw_weather(rng, latitude, start)
    craft = "AB"[int(rng.integers(2))]
    name = f"S2{craft}_MSIL2A_{start:%Y%m%dT%H%M%S}_{number // 90}_{number % 90}"
    folder = root / SUBFOLDER / name
    folder.mkdir(parents=True)
    for band, image in observe(rng, place, weather, ALL_BANDS).items():
        path = folder / f"{name}_{two_digits(band)}.tif"
        write_geotiff(path, to_dn(image), grid, RESOLUTION_M[band])
    side_m = SIZE_PX * 10
    corners = (grid.left, grid.top, grid.left + side_m, grid.top - side_m)
    orbit, tile = int(rng.integers(1, 144)), grid.tile(latitude)
    stamp = f"{start:%Y%m%dT%H%M%S}"
    content = {
        "labels": label_names(place),
        "coordinates": dict(zip(("ulx", "uly", "lrx", "lry"), corners, strict=True)),
        "projection": grid.crs.to_wkt(),
        "tile_source": f"S2{craft}_MSIL1C_{stamp}_N0205_R{orbit:03d}_T{tile}_{stamp}.SAFE",
        "acquisition_date": f"{start:%Y-%m-%d %H:%M:%S}",
    }
    (folder / f"{name}_labels_metadata.json").write_text(json.dumps(content))
    return PatchReport(name, weather.snow > 0, weather.haze > _CLOUDY_HAZE)


def label_names(place: DrawnPlace) -> list[str]:
    """Return the CORINE names of the covers of visible parts of the place, sorted."""
    shares = np.bincount(place.canvas.cover.ravel(), minlength=len(COVER_NAMES))
    seen = [
        name
        for name, cells in zip(COVER_NAMES, shares / place.canvas.cover.size, strict=True)
        if cells >= _MIN_SHARE
    ]
    labels = []
    for cover in seen:
        if cover == "Forest":
            labels.append(_forest_name(place))
        elif cover == "SeaLake":
            is_open = shares[COVER_NAMES.index(cover)] > 0.6 * place.canvas.cover.size
            labels.append("Sea and ocean" if is_open else "Water bodies")
        else:
            labels.append(_NAMES[cover][place.climate.aridity > 0.6])
    return sorted(labels)


def _forest_name(place: DrawnPlace) -> str:
    """Name the forest after its prevailing trees."""
    canvas = place.canvas
    forest = canvas.labels[canvas.cover == COVER_NAMES.index("Forest")]
    is_conifer = np.array([surface.kind == "conifer" for surface in canvas.surfaces])
    share = is_conifer[forest].mean()
    if 0.25 < share < 0.75:
        return "Mixed forest"
    return "Coniferous forest" if share >= 0.75 else "Broad-leaved forest"


def write_lists(root: Path, reports: list[PatchReport], *, seed: int) -> None:
    """Write the three split lists, and the lists of patches with snow and with clouds."""
    order = np.random.default_rng([seed, 4]).permutation(len(reports))
    ends = np.round(np.cumsum(list(SPLIT_SHARES.values())) * len(reports)).astype(int)
    for split, part in zip(SPLIT_SHARES, np.split(order, ends[:-1]), strict=True):
        _write_lines(
            root / f"bigearthnet-{split}.txt", sorted(reports[index].name for index in part)
        )
    snowy = sorted(report.name for report in reports if report.is_snowy)
    cloudy = sorted(report.name for report in reports if report.is_cloudy)
    _write_lines(root / "patches_with_seasonal_snow.csv", snowy)
    _write_lines(root / "patches_with_cloud_and_shadow.csv", cloudy)


def _write_lines(path: Path, lines: list[str]) -> None:
    """Write one name per line."""
    path.write_text("".join(f"{line}\n" for line in lines))
