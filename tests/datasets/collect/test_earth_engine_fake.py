"""The real client against the loopback Earth Engine, and both against the made-up archive."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from datasets.bands import ALL_BANDS, RESOLUTION_M
from datasets.collect.earth_engine import EarthEngine, connect
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.scenes import PatchGrid, Place, Refused, Scene, Window
from datasets.collect.settings import Settings
from datasets.collect.utm import from_utm
from datasets.miniature.services.__main__ import main as start_service
from datasets.miniature.services.catalogue import REMAINDER, TILE_M, Catalogue, Granule
from datasets.miniature.services.earth_engine import EarthEngineServer, earth_engine
from datasets.miniature.services.expressions import CLEAR, CLOUDY
from datasets.miniature.services.faults import PASSING, FaultPlan
from tests.references.waiting import HANG_S
from tests.servers.fake_source import FakeSource, expected_pixels
from utils.errors import UserError

EPSG = 32632
GRID = PatchGrid(EPSG, 450_000, 5_350_020, 12)
SOUTH = PatchGrid(32753, 450_000, 6_050_020, 12)  # in tile 53HMA
SPRING = Window(date(2020, 3, 1), date(2020, 6, 1))
MARCH = Window(date(2020, 3, 1), date(2020, 3, 16))
AROUND = (0, 4_000_000, 1_000_000, 6_000_000)  # a quarter of a zone
ALL = Settings(cloud_pct=101)  # no scene has more


@pytest.fixture(scope="module")
def _running() -> Iterator[tuple[EarthEngineServer, EarthEngine]]:
    """The client is one per process and costs time to start."""
    with earth_engine() as server:
        yield server, start(server)


@pytest.fixture
def server(_running: tuple[EarthEngineServer, EarthEngine]) -> EarthEngineServer:
    """The server without the changes of earlier tests."""
    server = _running[0]
    server.fault_plan = FaultPlan(0)
    server.requests.clear()
    server.reads.clear()
    server.evaluator.searched.clear()
    return server


@pytest.fixture
def client(
    _running: tuple[EarthEngineServer, EarthEngine], server: EarthEngineServer
) -> EarthEngine:
    client = _running[1]
    client._settings = ALL
    return client


def start(server: EarthEngineServer) -> EarthEngine:
    return connect(
        ALL, url=server.url, project=None, key_file=None, timeout_s=HANG_S, num_threads=16
    )


def at(grid: PatchGrid, *windows: Window, number: int = 0) -> Place:
    left, bottom, right, top = grid.bounds
    lat, lng = from_utm((left + right) / 2, (bottom + top) / 2, grid.epsg)
    return Place(number, float(lat), float(lng), grid, windows)


def some_places(count: int) -> list[Place]:
    """Places all around the world, five windows each."""
    random = np.random.default_rng(0)
    places = []
    for number in range(count):
        zone, north = int(random.integers(1, 61)), int(random.integers(0, 2))
        left, top = 60 * random.integers([6700, 65_000], [10_000, 110_000])  # within the zone
        hemisphere = 327 - north
        top += REMAINDER[hemisphere]
        grid = PatchGrid(100 * hemisphere + zone, int(left), int(top), 12)
        newest = date(2021, 6, 1) - timedelta(days=int(random.integers(365)))
        starts = [newest - timedelta(days=84 * index) for index in range(5)]
        windows = [Window(start, start + timedelta(days=15)) for start in starts]
        places.append(at(grid, *windows, number=number))
    return places


def granule_of(scene: Scene) -> Granule:
    granule = Catalogue().find(scene.name)
    assert granule is not None
    return granule


def test_a_search_finds_all_scenes_over_the_middle_of_the_patch(
    client: EarthEngine,
) -> None:
    windows = MARCH, Window(date(2019, 3, 1), date(2019, 3, 9))
    grid = PatchGrid(EPSG, 502_980, 5_395_020, 12)  # in the overlap of four tiles
    [found] = client.search([at(grid, *windows)])
    left, bottom, right, top = grid.bounds
    expected = {
        granule.name
        for window in windows
        for granule in Catalogue().granules(EPSG, AROUND, window.start, window.end)
        if granule.left < (left + right) / 2 < granule.left + TILE_M
        and granule.bottom < (bottom + top) / 2 < granule.bottom + TILE_M
    }
    assert sorted(scene.name for scene in found) == sorted(expected)
    assert len({scene.name[-6:] for scene in found}) == 4
    assert client.search([at(grid, *windows, *windows)]) == [found]  # each scene once


def test_a_window_has_its_first_day_and_not_its_last(client: EarthEngine) -> None:
    [scenes] = client.search([at(GRID, SPRING)])
    day, one = scenes[0].start.date(), timedelta(days=1)
    on_the_day, before = client.search(
        [at(GRID, Window(day, day + one)), at(GRID, Window(day - one, day))]
    )
    assert scenes[0] in on_the_day
    assert scenes[0] not in before


def test_scenes_as_cloudy_as_the_limit_are_left_out(client: EarthEngine) -> None:
    [scenes] = client.search([at(GRID, SPRING)])
    limit = sorted(scene.cloud_percent for scene in scenes)[len(scenes) // 2]
    client._settings = replace(ALL, cloud_pct=limit)
    [found] = client.search([at(GRID, SPRING)])
    assert found == [scene for scene in scenes if scene.cloud_percent < limit]
    assert found


def test_scenes_of_the_next_zone_are_left_out(
    client: EarthEngine, server: EarthEngineServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    [found] = client.search([at(GRID, SPRING)])
    monkeypatch.setattr(server.evaluator, "other_zones", False)
    assert client.search([at(GRID, SPRING)]) == [found]
    assert {scene.name[-6:-3] for scene in found} == {"T32"}


def across_a_swath(share: float) -> PatchGrid:
    """Return a patch of which about a share has data in a scene with a cloud score."""
    catalogue = Catalogue()
    y = 5_350_000.0
    for granule in catalogue.granules(EPSG, (450_000, y, 450_060, y), SPRING.start, SPRING.end):
        x = np.arange(granule.left, granule.left + TILE_M, 60.0)
        valid = np.flatnonzero(catalogue.is_valid(granule, x, np.full_like(x, y)))
        if 20 < len(valid) < len(x) - 20 and catalogue.has_score(granule):
            left = x[valid[0]] - 600 * (1 - share)
            return PatchGrid(EPSG, int(left // 60 * 60), 5_350_260, 60)
    raise LookupError("no scene with an edge")


WEATHER = PatchGrid(EPSG, 459_600, 5_359_800, 60)  # across a corner of its regions


@pytest.mark.parametrize("grid", [WEATHER, across_a_swath(0.3), across_a_swath(0.7)])
@pytest.mark.difference("collect-clouds")
def test_shares_of_a_patch_are_those_of_its_cells_one_by_one(
    client: EarthEngine, grid: PatchGrid
) -> None:
    catalogue = Catalogue()
    [scenes] = client.search([at(grid, SPRING)])
    clear_shares, valid_shares = set(), set()
    for scene in scenes:
        granule, valid, clear = granule_of(scene), 0, 0
        for row in range(10):
            for column in range(10):
                x = np.array(grid.left + 60 * column + 30)
                y = np.array(grid.top - 60 * row - 30)
                if catalogue.is_valid(granule, x, y):
                    valid += 1
                    clear += not catalogue.is_cloud(granule, x, y)
        is_known = catalogue.has_score(granule) and valid >= 50
        assert scene.valid_fraction == valid / 100
        assert scene.clear_fraction == (round(clear / valid, 6) if is_known else None)
        clear_shares.add(scene.clear_fraction)
        valid_shares.add(scene.valid_fraction)
    assert None in clear_shares
    shares = clear_shares if grid == WEATHER else valid_shares
    assert any(0 < share < 1 for share in shares if share is not None)


def test_clear_is_what_reaches_the_threshold(client: EarthEngine) -> None:
    def largest(threshold: float) -> float:
        client._settings = replace(ALL, clear_threshold=threshold)
        [scenes] = client.search([at(GRID, SPRING)])
        return max(scene.clear_fraction or 0 for scene in scenes)

    assert largest(CLEAR) == 1
    assert largest(CLEAR + 0.01) == 0
    assert CLOUDY < CLEAR


def test_without_a_cloud_score_nobody_knows_how_clear_a_patch_is(client: EarthEngine) -> None:
    client._settings = replace(ALL, cloud_score="none")
    [scenes] = client.search([at(GRID, SPRING)])
    assert {scene.clear_fraction for scene in scenes} == {None}
    assert {scene.valid_fraction for scene in scenes} >= {1.0}


@pytest.mark.parametrize(("side", "letter"), [("right", "E"), ("left", "F")])
@pytest.mark.parametrize("cells", [3, 7])
def test_a_patch_across_the_edge_of_a_tile_has_a_share_of_it_if_its_middle_is_inside(
    client: EarthEngine, side: str, letter: str, cells: int
) -> None:
    tile = 499_980  # of column F; that of column E ends 9.8 km further east
    left = 399_960 + TILE_M - 60 * cells if side == "right" else tile - 600 + 60 * cells
    grid = PatchGrid(EPSG, left, 5_350_020, 60)
    [scenes] = client.search([at(grid, SPRING)])
    own = [scene for scene in scenes if scene.name[-2] == letter]
    if cells == 3:
        assert own == []
        return
    best = max(own, key=lambda scene: (scene.valid_fraction, scene.clear_fraction or 0))
    assert (best.valid_fraction, best.clear_fraction) == (0.7, 1)
    has_data = client.read(best, grid)["B4"].all(0)
    inside = np.arange(60) < 42
    assert (has_data == (inside if side == "right" else inside[::-1])).all()


def test_a_search_of_several_places_is_one_request_in_their_order(
    client: EarthEngine, server: EarthEngineServer
) -> None:
    places = some_places(5)
    found = client.search(places)
    assert server.requests["search"] == 1
    assert found == [client.search([place])[0] for place in places]
    assert set(server.evaluator.searched.values()) == {2}
    assert server.tags >= {"seco"}


@pytest.mark.parametrize("grid", [GRID, SOUTH])
def test_all_bands_are_those_of_the_ground_below_the_patch(
    client: EarthEngine, server: EarthEngineServer, grid: PatchGrid
) -> None:
    scene = whole_scene(client, grid)
    images = client.read(scene, grid)
    assert tuple(images) == ALL_BANDS
    for band in ALL_BANDS:
        expected = expected_pixels(server.catalogue, granule_of(scene), grid, band)
        assert expected.shape == (120 // RESOLUTION_M[band],) * 2
        np.testing.assert_array_equal(images[band], expected)


@pytest.mark.parametrize("grid", [GRID, SOUTH])
@pytest.mark.parametrize(
    ("east", "north", "band"), [(0, 20, "B1"), (0, -20, "B1"), (40, 0, "B1"), (0, 10, "B1|B5")]
)
def test_no_patch_beside_the_pixels_of_a_scene_is_read(
    client: EarthEngine, grid: PatchGrid, east: int, north: int, band: str
) -> None:
    """Each image is looked at: one that was good before says nothing of the next."""
    scene = whole_scene(client, grid)
    client.read(scene, grid)
    shifted = replace(grid, left=grid.left + east, top=grid.top + north)
    with pytest.raises(Refused, match=f"its ({band}) does not come in whole pixels of"):
        client.read(scene, shifted)


class OneHole(Catalogue):
    """An archive in which one band has no data in a square of 60 m."""

    band, corner = "B11", (GRID.left, GRID.top)

    def has_data(self, granule: Granule, band: str, x: Any, y: Any) -> Any:
        left, top = self.corner
        is_hole = (x > left) & (x < left + 60) & (y < top) & (y > top - 60)
        return super().has_data(granule, band, x, y) & ~(is_hole & (band == self.band))


@pytest.mark.parametrize("band", ["B1", "B4", "B11"])
def test_a_hole_in_any_one_band_is_seen_by_the_search(
    client: EarthEngine, server: EarthEngineServer, monkeypatch: pytest.MonkeyPatch, band: str
) -> None:
    scene, holed = whole_scene(client), OneHole()
    holed.band = band
    monkeypatch.setattr(server.evaluator, "catalogue", holed)
    [found] = client.search([at(GRID, SPRING)])
    [seen] = [one for one in found if one.name == scene.name]
    assert seen.valid_fraction == 0.75  # of four squares


def whole_scene(client: EarthEngine, grid: PatchGrid = GRID) -> Scene:
    [scenes] = client.search([at(grid, SPRING)])
    return next(scene for scene in scenes if scene.valid_fraction == 1)


def test_faults_of_every_kind_change_no_answer(
    client: EarthEngine, server: EarthEngineServer
) -> None:
    scene, place = whole_scene(client), at(GRID, MARCH)
    expected, places = client.read(scene, GRID), client.search([place])
    server.fault_plan = FaultPlan(0.4, seed=1)
    requester = Requester(RateLimit(8, 1e6), base_wait_s=0.002, max_wait_s=0.01)

    def collect(_: int) -> bool:
        images = requester.call(lambda: client.read(scene, GRID))
        found = requester.call(lambda: client.search([place]))
        return found == places and all(np.array_equal(images[b], expected[b]) for b in ALL_BANDS)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(collect, range(40)))
    errors = requester.statistics.errors
    assert len(errors) >= 6
    assert server.requests["read"] + server.requests["search"] == 3 + 80 + errors.total()
    assert requester.limit.limit < 8  # halved, and at most 80 successes raised it again


def test_a_plan_of_faults_draws_each_as_often_and_again_the_same() -> None:
    plan, again = FaultPlan(0.3, seed=5), FaultPlan(0.3, seed=5)
    draws = [plan.draw() for _ in range(5000)]
    assert draws == [again.draw() for _ in range(5000)]
    assert sum(fault is not None for fault in draws) / 5000 == pytest.approx(0.3, abs=0.02)
    counts = [draws.count(fault) for fault in PASSING.values()]
    assert min(counts) > 0.7 * max(counts)


def test_the_fake_source_returns_what_the_client_does(client: EarthEngine) -> None:
    settings = replace(ALL, cloud_pct=30)
    client._settings = settings
    beyond = PatchGrid(EPSG, 399_960 + TILE_M - 180, 5_350_020, 60)  # its middle is off a tile
    places = [*some_places(12), at(across_a_swath(0.3), SPRING), at(beyond, SPRING)]
    source = FakeSource(settings)

    def shown(scenes: list[Scene]) -> list[Scene]:
        return sorted((replace(s, properties={}) for s in scenes), key=lambda scene: scene.name)

    expected = [shown(scenes) for scenes in client.search(places)]
    assert [shown(scenes) for scenes in source.search(places)] == expected
    place, scene = places[0], expected[0][0]
    images = source.read(scene, place.grid)
    for band, image in client.read(scene, place.grid).items():
        np.testing.assert_array_equal(images[band], image)


def test_a_name_leads_to_its_granule_and_no_other_name_does() -> None:
    for epsg in (EPSG, 32732):
        for granule in Catalogue().granules(epsg, AROUND, date(2020, 3, 1), date(2020, 3, 3)):
            assert Catalogue().find(granule.name) == granule
            late = replace(granule, start=granule.start + timedelta(seconds=1))
            assert Catalogue().find(late.name) is None


def test_offsets_of_the_products_began_in_january_2022() -> None:
    window = Window(date(2022, 1, 20), date(2022, 2, 1))
    granules = list(Catalogue().granules(EPSG, GRID.bounds, window.start, window.end))
    baselines = {g.start.date(): Catalogue().properties(g)["PROCESSING_BASELINE"] for g in granules}
    assert len(set(baselines.values())) == 2
    for day, baseline in baselines.items():
        assert (baseline >= "04.00") == (day >= date(2022, 1, 25))


def test_a_port_in_use_is_one_sentence(server: EarthEngineServer) -> None:
    port = str(server.server_address[1])
    with pytest.raises(UserError, match=f"--port {port} is in use: choose another"):
        start_service(["--port", port])
