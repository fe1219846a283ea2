"""STAC: scenes by their items, pixels by ranges of COGs, against a catalogue on loopback."""

import importlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import datasets.collect.stac_files as http
from datasets.bands import ALL_BANDS, RESOLUTION_M
from datasets.collect.collector import has_gaps
from datasets.collect.scenes import Missing, PatchGrid, Place, Refused, Scene, Window
from datasets.collect.settings import Settings
from datasets.collect.stac import Stac
from datasets.collect.stac_items import Files
from datasets.collect.utm import from_utm
from datasets.collect.web import check_status
from datasets.miniature.services.catalogue import TILE_M, Granule
from datasets.miniature.services.faults import (
    HTML,
    STALLING,
    Fault,
    FaultPlan,
    content,
    cut,
    cut_chunked,
    reset,
    short,
    status,
)
from tests.references.downloader_runs import collect
from tests.references.fetch_runs import tree
from tests.references.waiting import HANG_S
from tests.servers.fake_source import expected_pixels
from tests.servers.stac_server import EARLY, LATE, StacServer, cog, edited, stac
from utils.errors import UserError
from utils.retry import Transient

WINDOWS = (Window(LATE, date(2022, 2, 11)), Window(EARLY, date(2022, 1, 21)))
ReadFile = Callable[[bytes | None], Any]


@pytest.fixture(scope="module")
def shared_server() -> Iterator[StacServer]:
    with stac() as running:
        yield running


@pytest.fixture
def server(shared_server: StacServer) -> Iterator[StacServer]:
    before = dict(vars(shared_server))
    yield shared_server
    shared_server.edit, shared_server.half_m = before["edit"], before["half_m"]
    assert not any(shared_server.faults.values())


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSE_S", 0)


def place_at(
    left: int = 450_000, top: int = 5_500_020, size_px: int = 12, epsg: int = 32632
) -> Place:
    grid = PatchGrid(epsg, left, top, size_px)
    middle = 5 * size_px
    lat, lng = from_utm(left + middle, top - middle, epsg)
    return Place(0, float(lat), float(lng), grid, WINDOWS)


def source(server: StacServer, collection: str = "raw", **settings: Any) -> Stac:
    common = {"source": "stac", "stac_url": server.url, "collection": collection}
    return Stac(Settings(**(common | {"cloud_pct": 100.0} | settings)), timeout_s=HANG_S)


def scenes_of(server: StacServer, place: Place, collection: str = "raw") -> list[Scene]:
    (found,) = source(server, collection).search([place])
    return found


@pytest.fixture(scope="module")
def scene(shared_server: StacServer) -> Scene:
    """One that has an offset."""
    found = scenes_of(shared_server, place_at())
    return next(scene for scene in found if scene.valid_fraction == 1 and scene.key.offset)


def granules_of(server: StacServer, place: Place) -> list[Granule]:
    left, bottom, right, top = place.grid.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    around = (x - 1, y - 1, x + 1, y + 1)
    epsg = place.grid.epsg
    found = (server.catalogue.granules(epsg, around, w.start, w.end) for w in place.windows)
    return [granule for window in found for granule in window]


def test_finds_all_scenes_of_the_windows_in_the_zone_of_the_place(server: StacServer) -> None:
    for place in (place_at(), place_at(left=700_020)):  # where the next zone's granules are, too
        asking = source(server)
        (found,) = asking.search([place])
        assert {scene.name for scene in found} == {g.name for g in granules_of(server, place)}
        assert len(found) > server.page_size  # the search has several pages
    assert int(asking.facts()["left out, another UTM zone"]) > 0


FEW, SOUTH = ("B2", "B8A", "B9"), {"epsg": 32753, "top": 6_050_020}  # in tile 53HMA


@pytest.mark.parametrize(
    ("collection", "where", "bands"),
    [("raw", {}, ALL_BANDS), ("raw", SOUTH, FEW), ("sentinel-2-l2a", {}, FEW)],
    ids=["north", "south", "Earth Search"],
)
def test_values_are_those_of_the_archive_before_and_after_the_offset(
    collection: str, where: dict[str, int], bands: tuple[str, ...], server: StacServer
) -> None:
    place, seen = place_at(**where), set()
    for scene in scenes_of(server, place, collection):
        images = source(server, collection, bands=bands).read(scene, place.grid)
        granule = server.catalogue.find(scene.name)
        assert granule is not None
        seen.add(scene.baseline)
        for band, image in images.items():
            wanted = expected_pixels(server.catalogue, granule, place.grid, band)
            np.testing.assert_array_equal(image, wanted)
            assert (image.dtype, image.shape[0]) == (np.uint16, 120 // RESOLUTION_M[band])
    assert seen == {"02.13", "04.00"}


@pytest.mark.parametrize("shift", [10, 20, 40])
def test_a_patch_shifted_off_the_pixels_of_its_files_is_refused(
    shift: int, server: StacServer
) -> None:
    place = place_at(epsg=32753, top=6_050_020 + shift)
    for scene in scenes_of(server, place):
        with pytest.raises(Refused, match="a file on another grid"):
            source(server).read(scene, place.grid)


def test_a_window_over_several_blocks_is_read_at_full_resolution(server: StacServer) -> None:
    server.half_m = 1200  # 240 px: four blocks of 128, and overviews
    place = place_at(size_px=132)
    scene = scenes_of(server, place)[0]

    image = source(server, bands=("B4",)).read(scene, place.grid)["B4"]

    granule = server.catalogue.find(scene.name)
    assert granule is not None
    wanted = expected_pixels(server.catalogue, granule, place.grid, "B4")
    np.testing.assert_array_equal(image, wanted)


def test_a_patch_over_a_tiles_edge_has_no_data_there(server: StacServer) -> None:
    edge = Granule(32632, 4, 55, granules_of(server, place_at())[0].start).left + TILE_M
    place = place_at(left=edge - 60, top=5_560_020)
    outside = [scene for scene in scenes_of(server, place) if scene.valid_fraction < 1]

    assert {scene.valid_fraction for scene in outside} <= {0.0, 0.5}
    half = next(scene for scene in outside if scene.valid_fraction == 0.5)
    assert has_gaps(source(server).read(half, place.grid), half.is_clamped)


@pytest.mark.parametrize(("right", "up"), [(-1, 0), (1, 0), (0, -1), (0, 1)])
def test_a_patch_outside_of_a_tile_has_no_data(
    server: StacServer, scene: Scene, right: int, up: int
) -> None:
    grid = place_at().grid
    outside = replace(grid, left=grid.left + right * 2 * TILE_M, top=grid.top + up * 2 * TILE_M)
    image = source(server, bands=("B4",)).read(scene, outside)["B4"]
    np.testing.assert_array_equal(image, np.zeros((12, 12), np.uint16))


def test_shares_of_clear_and_valid_pixels_come_from_the_scene_classes(server: StacServer) -> None:
    place = place_at()
    for scene in scenes_of(server, place):
        granule = server.catalogue.find(scene.name)
        assert granule is not None
        east, north = np.meshgrid(
            place.grid.left + 20 * (np.arange(6) + 0.5), place.grid.top - 20 * (np.arange(6) + 0.5)
        )
        valid = server.catalogue.is_valid(granule, east, north)
        clear = valid & ~server.catalogue.is_cloud(granule, east, north)
        assert scene.valid_fraction == pytest.approx(valid.mean(), abs=1e-6)
        share = clear.sum() / valid.sum() if valid.any() else 0.0
        assert scene.clear_fraction == pytest.approx(share, abs=1e-6)


def test_the_share_of_clear_pixels_is_one_of_the_valid_pixels(
    server: StacServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = np.repeat(np.array([0, 0, 0, 4, 4, 9], np.uint8), 6).reshape(6, 6)
    monkeypatch.setattr("datasets.collect.stac.read_window", lambda *_: classes)
    for scene in scenes_of(server, place_at()):
        assert (scene.valid_fraction, scene.clear_fraction) == (0.5, pytest.approx(2 / 3, abs=1e-6))


@pytest.mark.parametrize("status", [408, 500, 503])
def test_a_status_after_which_a_repeat_may_work_is_transient(status: int) -> None:
    response = requests.Response()
    response.status_code = status
    with pytest.raises(Transient, match=f"HTTP {status}"):
        check_status(response, is_quota=False, is_too_large=False)


def test_scene_classes_that_stay_missing_are_noted_and_others_wait_for_them(
    server: StacServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: a search with many of them is not tried more often than one with a few."""
    place, asking, file = place_at(), source(server), server.file
    (wanted,) = asking.search([place])
    server.faults["file"].append(status(404))
    with pytest.raises(Missing, match="HTTP 404"):
        asking.search([place])
    assert asking.search([place]) == [wanted]
    asking = source(server)
    monkeypatch.setattr(server, "file", lambda path: None if "SCL" in path else file(path))
    for _ in range(2):
        with pytest.raises(Missing):
            asking.search([place])
    (found,) = asking.search([place])
    assert [scene.name for scene in found] == [scene.name for scene in wanted]
    assert {scene.clear_fraction for scene in found} == {None}
    notes = {scene.properties["scene_classification"] for scene in found}
    assert notes == {"HTTP 404"}


def test_clouds_are_looked_at_here_too(server: StacServer) -> None:
    server.edit = lambda item: edited(
        item, lambda i: i["properties"].update({"eo:cloud_cover": 10})
    )
    assert source(server, cloud_pct=10.0).search([place_at()]) == [[]]


def test_only_scenes_in_a_window_cost_requests_for_files(server: StacServer) -> None:
    before = server.requests["file"]
    found = scenes_of(server, place_at())
    assert server.requests["file"] - before == len(found)  # a small file is one range


def test_of_two_versions_of_a_scene_the_newer_one_is_taken(server: StacServer) -> None:
    def double(asked: dict[str, Any]) -> list[dict[str, Any]]:
        new = [
            edited(item, lambda i: i["properties"].update({"s2:processing_baseline": "05.10"}))
            for item in find(asked)
        ]
        return [*new, *find(asked)]

    find = server.find
    server.find = double  # type: ignore[method-assign]
    try:
        found = scenes_of(server, place_at())
    finally:
        server.find = find  # type: ignore[method-assign]
    assert {scene.baseline for scene in found} == {"05.10"}


# Faults.

PASSING: dict[str, Fault] = {
    "500": status(500),
    "502 with a page": content(HTML, code=502),
    "reset": reset,
    "cut": cut,
    "cut in chunks": cut_chunked,
    "a page": content(HTML),
    "empty": content(b""),
    "an empty object": content(b"{}", "application/json"),
}


@pytest.mark.parametrize("kind", [*PASSING, "half a page"])
def test_faults_of_searches_may_pass(kind: str, server: StacServer) -> None:
    server.faults["search"].append({**PASSING, "half a page": short}[kind])
    with pytest.raises(Transient):
        source(server).search([place_at()])


@pytest.mark.parametrize("kind", STALLING)
def test_a_search_that_takes_too_long_ends(
    kind: str, server: StacServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = source(server)
    monkeypatch.setattr(asking._web, "timeout_s", 0.2)
    server.faults["search"].append(STALLING[kind])
    with pytest.raises(Transient, match="no answer in time"):
        asking.search([place_at()])


@pytest.mark.parametrize("kind", PASSING)
def test_faults_of_files_are_repeated_at_once_and_may_pass(
    kind: str, server: StacServer, scene: Scene
) -> None:
    asking = source(server, bands=("B4",))

    server.faults["file"].extend([PASSING[kind]] * 2)
    asking.read(scene, place_at().grid)
    server.faults["file"].extend([PASSING[kind]] * 3)
    with pytest.raises(Transient):
        asking.read(scene, place_at().grid)


def test_a_fault_in_the_middle_of_a_file_is_not_a_broken_file(
    server: StacServer, read_file: ReadFile
) -> None:
    noise = np.random.default_rng(0).integers(1, 9000, (200, 200)).astype(np.uint16)
    made = cog(noise, 32632, 450_000, 5_500_020, 10)  # larger than one range

    def head(handler: Any, body: bytes, kind: str) -> None:
        place = f"bytes 0-{len(body) - 1}/{len(made)}"
        handler.answer(206, body, kind, [("Content-Range", place)])

    server.faults["file"].extend([head, *[status(500)] * 3])
    with pytest.raises(Transient, match="HTTP 500"):
        read_file(made)
    np.testing.assert_array_equal(read_file(made), np.maximum(noise[:12, :12], 1001) - 1000)


@pytest.mark.parametrize(
    "place", ["", "bytes 5-32772/40000", "bytes */9", "bytes 0-9/10", f"bytes 0-9/{'9' * 5000}"]
)
def test_another_range_than_was_asked_for_is_strange(
    place: str, server: StacServer, scene: Scene
) -> None:
    def answer(handler: Any, body: bytes, kind: str) -> None:
        handler.answer(206, body, kind, [("Content-Range", place)] if place else [])

    server.faults["file"].extend([answer] * 3)
    with pytest.raises(Transient, match="another part") as caught:
        source(server).read(scene, place_at().grid)
    assert caught.value.is_strange


def test_wherever_a_file_breaks_off_it_may_pass(
    scene: Scene, server: StacServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[int] = []
    fetch = http.RemoteFile._fetch

    def fetch_until(self: http.RemoteFile, start: int, count: int) -> bytes:
        ranges.append(start)
        if len(ranges) == broken[-1]:
            raise Transient("the connection broke")
        return fetch(self, start, count)

    monkeypatch.setattr(http, "HEAD_BYTES", 64)
    monkeypatch.setattr(http.RemoteFile, "_fetch", fetch_until)
    asking, broken = source(server, bands=("B4",)), [0]
    asking.read(scene, place_at().grid)
    whole = len(ranges)
    assert whole > 2
    for number in range(1, whole + 1):
        broken.append(number)
        ranges.clear()
        with pytest.raises(Transient, match="broke"):
            asking.read(scene, place_at().grid)


@pytest.mark.parametrize("kind", ["search", "file"])
@pytest.mark.parametrize("code", [429, 503])
def test_too_many_requests_come_with_the_wait(
    code: int, kind: str, server: StacServer, scene: Scene
) -> None:
    place = place_at()
    server.faults[kind].append(status(code, headers=(("Retry-After", "7"),)))
    asking = source(server)
    with pytest.raises(Transient) as caught:
        asking.search([place]) if kind == "search" else asking.read(scene, place.grid)
    assert (caught.value.is_quota, caught.value.wait_s) == (True, 7)


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_catalogue_that_does_not_let_us_search_ends_the_run(
    code: int, server: StacServer
) -> None:
    server.faults["search"].append(status(code))
    asking = source(server)
    with pytest.raises(UserError, match=f"answers with HTTP {code} to a search"):
        asking.search([place_at()])
    asking.search([place_at()])
    server.faults["search"].append(status(code))
    with pytest.raises(Missing):  # only this one, as long as the collection is there
        asking.search([place_at()])


def test_a_collection_that_is_not_there_is_named(server: StacServer) -> None:
    with pytest.raises(UserError, match="HTTP 404 to a request for the collection sentinel-3"):
        source(server, "sentinel-3").search([place_at()])


@pytest.fixture
def read_file(server: StacServer, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> ReadFile:
    """Read a patch from a file that the server has instead of its own."""

    def read(made: bytes | None) -> Any:
        monkeypatch.setattr(server, "file", lambda path: made)
        return source(server, bands=("B4",)).read(scene, place_at().grid)["B4"]

    return read


PIXELS = np.full((30, 30), 2000, np.uint16)
WRONG_FILES = {
    "zone": cog(PIXELS, 32633, 450_000, 5_500_020, 10),
    "half a pixel": cog(PIXELS, 32632, 450_005, 5_500_020, 10),
    "20 m": cog(PIXELS, 32632, 450_000, 5_500_020, 20),
    "type": cog(PIXELS.astype(np.uint8), 32632, 450_000, 5_500_020, 10, predictor=1),
    "torn": cog(PIXELS, 32632, 450_000, 5_500_020, 10)[:-20],
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "VRT": b"<VRTDataset rasterXSize='30' rasterYSize='30'></VRTDataset>",
}


WRONG_WORDS = {
    **dict.fromkeys(("zone", "half a pixel", "20 m"), "on another grid"),
    **{"type": "not one band of uint16", "torn": "cannot be decoded"},
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_files_of_another_kind_are_refused(kind: str, read_file: ReadFile) -> None:
    with pytest.raises(Refused, match=WRONG_WORDS.get(kind, "not a TIFF")):
        read_file(WRONG_FILES[kind])
    assert (read_file(cog(PIXELS, 32632, 450_000, 5_500_020, 10)) == 1000).all()
    with pytest.raises(Missing, match="HTTP 404"):
        read_file(None)


def test_addresses_that_need_a_signature_end_the_run(server: StacServer, scene: Scene) -> None:
    bands = dict.fromkeys(scene.key.bands, "https://s2.blob.core.windows.net/a.tif")
    with pytest.raises(UserError, match="signed addresses"):
        source(server).read(replace(scene, key=Files(bands, None, 0)), place_at().grid)


def test_reads_at_a_time_do_not_mix(server: StacServer) -> None:
    place = place_at()
    asking = source(server, bands=("B2", "B4"))
    (scenes,) = asking.search([place])
    alone = [asking.read(scene, place.grid) for scene in scenes]
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda scene: asking.read(scene, place.grid), 8 * scenes)
        for images, wanted in zip(together, 8 * alone, strict=True):
            for band, image in images.items():
                np.testing.assert_array_equal(image, wanted[band])


def test_a_missing_client_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    monkeypatch.delitem(sys.modules, "datasets.collect.stac")
    with pytest.raises(UserError, match="pip install pystac-client"):
        importlib.import_module("datasets.collect.stac")


# The downloader.

PLAN = [
    *("--source", "stac", "--collection", "raw", "--num_locations", "4", "--patch_px", "12"),
    *("--num_dates", "2", "--no_land_mask", "--reference_date", "2022-06-01"),
    *("--bands", "B4", "B3", "B2", "--retry_wait", "0.01", "--min_free_gb", "0"),
    *("--num_workers", "4", "--log_freq", "100"),
]


def test_faults_do_not_change_what_is_collected(
    server: StacServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*PLAN, "--bands", "B2", "--stac_url", server.url, "--save_path"]
    assert collect([*flags, str(tmp_path / "a")]) == 0
    faults = {**PASSING, "429": status(429), "503": status(503)}
    server.fault_plan = FaultPlan(0.1, faults=faults)
    server.faults["file"].extend([status(404)] * 10)  # a file is there at its next reading
    try:
        assert collect([*flags, str(tmp_path / "b")]) == 0
    finally:
        server.fault_plan = FaultPlan(0)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert collect(["--save_path", str(tmp_path / "b"), "--verify"]) == 0
    assert capsys.readouterr().out.endswith("4 of 4 places, 0 damaged\n")
