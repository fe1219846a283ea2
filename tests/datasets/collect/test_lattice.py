"""Patches begin where Sentinel-2's pixels of 60 m begin, north and south of the equator."""

import hashlib
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.collect.places import places_to_csv
from datasets.collect.plan import Plan, make_plan, open_plan, read_plan
from datasets.collect.sampling import Places, around, bounded, sample_places
from datasets.collect.settings import Settings
from datasets.collect.utm import from_utm
from datasets.miniature.services.catalogue import REMAINDER, TILE_M, TILES, Catalogue, Granule
from utils.errors import UserError

PLAN = Settings(num_locations=40, sampler="uniform", land_mask=False, reference_date="2021-06-30")
SOUTH = replace(PLAN, sampler="bounded", bounds=(110.0, -40.0, 155.0, -10.0))


def check_on_granules(places: Places, side_m: int) -> None:
    """Check all windows, at 10, 20 and 60 m, against the granules over each place."""
    catalogue = Catalogue()
    rows = zip(places.epsg.tolist(), places.left.tolist(), places.top.tolist(), strict=True)
    for epsg, left, top in rows:
        x, y = left + side_m // 2, top - side_m // 2
        here = (x - 1, y - 1, x + 1, y + 1)
        granules = list(catalogue.granules(epsg, here, date(2020, 1, 1), date(2020, 1, 6)))
        assert granules
        for granule in granules:
            for size in (10, 20, 60):
                assert (left - granule.left) % size == 0
                assert (granule.top - top) % size == 0
                assert side_m % size == 0


@pytest.mark.parametrize("name", TILES)
def test_granules_of_the_made_up_archive_lie_as_those_of_esa_do(name: str) -> None:
    epsg, left, top = TILES[name]
    assert (left % 60, top % 60) == (0, REMAINDER[epsg // 100])
    here = (left + 50_000, top - 50_001, left + 50_001, top - 50_000)
    [granule] = Catalogue().granules(epsg, here, date(2020, 1, 1), date(2020, 1, 6))
    assert (granule.left, granule.top, granule.bottom) == (left, top, top - TILE_M)


@settings(max_examples=12)
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([6, 12, 66, 264, 1182]),
    st.sampled_from([(-180, -56, 180, 0), (-180, 0, 180, 83), (-180, -0.3, 180, 0.3)]),
)
def test_all_windows_of_a_plan_are_whole_pixels_of_the_granules(
    seed: int, patch_px: int, bounds: Any
) -> None:
    places = sample_places(
        seed, 12, bounded(*bounds), patch_px=patch_px, max_shift_days=1, is_land=None
    )
    check_on_granules(places, 10 * patch_px)


def test_a_patch_of_the_south_may_touch_the_equator() -> None:
    """The equator is a line of the lattice, of which the next line keeps a distance of 10 m."""
    places = sample_places(
        0, 3000, bounded(10, -0.05, 11, 0.05), patch_px=12, max_shift_days=1, is_land=None
    )
    south, north = places.epsg >= 32700, places.epsg < 32700
    assert places.top[south].max() == 10_000_000 - 120  # within 10 m of it the zone is uncertain
    assert (places.top[north] - 120).min() == 120


@settings(max_examples=60)
@given(st.floats(-79.9, 83.9), st.floats(-180, 179.99), st.sampled_from([6, 12, 264]))
def test_matched_places_are_snapped_to_the_pixels_of_the_granules(
    lat: float, lng: float, patch_px: int
) -> None:
    places = around(np.array([lat]), np.array([lng]), patch_px)
    hemisphere = int(places.epsg[0]) // 100
    assert (int(places.left[0]) % 60, int(places.top[0]) % 60) == (0, REMAINDER[hemisphere])
    assert abs(places.lat[0] - lat) * 111_000 < 31


def test_a_match_file_of_the_south_is_planned_on_the_granules(tmp_path: Path) -> None:
    rows = [from_utm(left + 30_000, top - 30_000, epsg) for epsg, left, top in TILES.values()]
    path = tmp_path / "places.csv"
    path.write_text("lat,lng\n" + "".join(f"{lat},{lng}\n" for lat, lng in rows))
    check_on_granules(make_plan(replace(PLAN, match_file=str(path))).places, 2640)


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({"bounds": (-10.0, 35.0, 20.0, 60.0), "land_mask": True}, "47b2a94c92248522"),
        ({"bounds": (-180.0, 0.0, 180.0, 83.0), "patch_px": 12, "seed": 3}, "be0a834ee9daeed5"),
    ],
)
def test_northern_plans_are_what_they_were_before_the_south_had_its_own_lattice(
    changes: Any, digest: str
) -> None:
    """The digests are of the last version that measured all corners from a northing of 0."""
    plan = make_plan(replace(PLAN, num_locations=500, sampler="bounded", **changes))
    assert plan.places_sha256.startswith(digest)


def old_plan(folder: Path, chosen: Settings) -> None:
    """Write a plan of the south as earlier versions did: 20 m off the lattice."""
    plan = open_plan(folder, chosen, set())
    plan.places.top[:] += 20
    assert (plan.places.top % 60 == 0).all()
    text = places_to_csv(plan.places)
    (folder / "places.csv").write_bytes(text)
    record = json.loads((folder / "plan.json").read_text())
    digest = hashlib.sha256(text).hexdigest()
    (folder / "plan.json").write_text(json.dumps(record | {"places_sha256": digest}))


def test_an_earlier_plan_of_the_south_is_refused_with_the_bands_that_are_wrong(
    tmp_path: Path,
) -> None:
    old_plan(tmp_path, SOUTH)
    with pytest.raises(
        UserError, match=r"120 southern places .* B1 and B9 are wrong .*--save_path"
    ):
        read_plan(tmp_path)


def test_an_earlier_plan_of_the_south_without_such_bands_is_good(tmp_path: Path) -> None:
    """Pixels of 10 and 20 m begin on both lattices."""
    old_plan(tmp_path, replace(SOUTH, bands=("B4", "B8A")))
    plan: Plan = read_plan(tmp_path)
    start = Catalogue()
    for number in range(10):
        grid = plan.place(number).grid
        found = start.granules(grid.epsg, grid.bounds, date(2020, 1, 1), date(2020, 1, 6))
        granule: Granule = next(iter(found))
        assert (granule.top - grid.top) % 20 == 0
