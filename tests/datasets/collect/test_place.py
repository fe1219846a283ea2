"""What a thread does for one place: which scenes it takes, and which it passes over."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from datasets.bands import ALL_BANDS
from datasets.collect.collector import Collector
from datasets.collect.journal import Record
from datasets.collect.plan import Plan, open_plan, read_plan
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.scenes import Array, Lack, PatchGrid, Place, Refused, Scene, choose
from datasets.collect.writer import PlaceWriter
from datasets.miniature.services.catalogue import Catalogue
from datasets.miniature.services.earth_engine import EarthEngineServer
from tests.references.downloader_runs import collect, flags
from tests.references.fetch_runs import SETTINGS as SHARED
from tests.servers.fake_source import FakeSource, expected_pixels
from tests.servers.stac_server import stac

SETTINGS = replace(SHARED, num_locations=6)


def collector_in(save_path: Path, plan: Plan, source: FakeSource) -> Collector:
    writer = PlaceWriter(save_path, plan.settings, source.describe(), (0, 1))
    return Collector(plan, source, Requester(RateLimit(1, 1e6)), writer)


def collected(collector: Collector, number: int) -> Record:
    [(place, found)] = collector.search([number])
    assert not isinstance(found, Lack)
    return collector.collect(place, found)


class Broken(FakeSource):
    """A source of which some scenes have a pixel without data in a band, or are refused."""

    holes: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        images = super().read(scene, grid)
        if scene.name in self.refused:
            raise Refused("HTTP 404, not found")
        if scene.name in self.holes:
            images["B3"][3, 5] = 0
        return images


def windows_of(source: FakeSource, place: Place) -> list[list[str]]:
    """Name the scenes of each window, the best first."""
    found = choose(place, source.search([place])[0], source.settings)
    assert not isinstance(found, Lack)
    return [[scene.name for scene in scenes] for scenes in found]


@pytest.mark.parametrize(
    ("kind", "why"), [("holes", "has pixels without data"), ("refused", "HTTP 404, not found")]
)
def test_a_scene_that_is_passed_over_is_noted_where_the_next_is_written(
    tmp_path: Path, kind: str, why: str
) -> None:
    plan = open_plan(tmp_path, SETTINGS, set())
    source = Broken(SETTINGS, Catalogue(cloudiness=0.0))
    newest, oldest = windows_of(source, plan.place(0))
    setattr(source, kind, frozenset({newest[0]}))

    record = collected(collector_in(tmp_path, plan, source), 0)

    assert record.scenes == tuple(sorted([newest[1], oldest[0]]))
    assert record.passed_over == (f"{newest[0]}: {why}",)
    noted = [
        json.loads((tmp_path / "000000" / name / "metadata.json").read_text()).get("passed_over")
        for name in (newest[1], oldest[0])
    ]
    assert noted == [[f"{newest[0]}: {why}"], None]


def test_a_window_with_a_refused_scene_and_no_other_good_one_is_requested_again(
    tmp_path: Path,
) -> None:
    """That the others have holes does not settle it: "cloudy" would be final for --retry failed."""
    plan = open_plan(tmp_path, SETTINGS, set())
    source = Broken(SETTINGS, Catalogue(cloudiness=0.0))
    newest, _ = windows_of(source, plan.place(0))
    source.refused, source.holes = frozenset(newest[:1]), frozenset(newest[1:])

    record = collected(collector_in(tmp_path, plan, source), 0)

    assert (record.outcome, len(record.passed_over)) == ("refused", len(newest))
    assert record.passed_over[0] == record.reason == f"{newest[0]}: HTTP 404, not found"


def test_a_pass_is_never_taken_twice_at_a_place(tmp_path: Path) -> None:
    """Both windows are the same but for a day, so that both have the same best scene."""
    settings = replace(SETTINGS, interval_days=1, window_days=60)
    plan = open_plan(tmp_path, settings, set())
    source = FakeSource(settings, Catalogue(cloudiness=0.0))

    record = collected(collector_in(tmp_path, plan, source), 0)

    assert len({name.partition("_")[0] for name in record.scenes}) == 2


def test_a_refused_search_is_requested_again_by_halves_and_condemns_no_other_place(
    tmp_path: Path,
) -> None:
    def on_search(places: Sequence[Place]) -> None:
        if 2 in [place.number for place in places]:
            raise Refused("User memory limit exceeded")

    plan = open_plan(tmp_path, SETTINGS, set())
    source = FakeSource(SETTINGS, Catalogue(cloudiness=0.0), on_search=on_search)

    found = collector_in(tmp_path, plan, source).search(range(5))

    assert [place.number for place, _ in found] == [0, 1, 2, 3, 4]
    assert [isinstance(one, Lack) for _, one in found] == [False, False, True, False, False]
    assert found[2][1] == Lack("refused", "User memory limit exceeded")
    assert source.searched == {0: 2, 1: 2, 2: 3, 3: 3, 4: 3}


AUSTRALIA = [
    *("--num_locations", "3", "--patch_px", "12", "--num_dates", "2", "--no_land_mask"),
    *("--sampler", "bounded", "--bounds", "110", "-40", "155", "-10", "--dtype", "uint16"),
    *("--reference_date", "2022-06-01", "--cloud_score", "none"),
]


@pytest.mark.parametrize("kind", ["earthengine", "stac"])
def test_files_of_southern_places_hold_the_pixels_of_their_granules(
    kind: str, server: EarthEngineServer, tmp_path: Path
) -> None:
    """From the plan to the files, at 10, 20 and 60 m."""
    save_path = tmp_path / "south"
    with stac() as catalogue:
        more = ["--source", "stac", "--stac_url", catalogue.url, "--collection", "raw"]
        argv = flags(save_path, server, *AUSTRALIA, *(more if kind == "stac" else []))
        assert collect(argv) == 0
    plan = read_plan(save_path)
    paths = sorted(save_path.glob("[0-9]*/*/*.tif"))
    assert len(paths) == 3 * 2 * len(ALL_BANDS)
    for path in paths:
        grid = plan.place(int(path.parts[-3])).grid
        granule = server.catalogue.find(path.parts[-2])
        assert granule is not None
        assert grid.epsg // 100 == 327
        with rasterio.open(path) as file:
            image = file.read(1)
        wanted = expected_pixels(server.catalogue, granule, grid, path.stem)
        np.testing.assert_array_equal(image, wanted)
