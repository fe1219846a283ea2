"""STAC: scenes by their items, pixels by ranges of COGs, against a catalogue on loopback."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.bands import ALL_BANDS, RESOLUTION_M
from datasets.collect.collector import has_gaps
from datasets.collect.scenes import Missing, Place, Scene
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
from tests.servers.fake_source import expected_pixels
from tests.servers.stac_server import (
    StacServer,
    edited,
    place_at,
    scenes_of,
    source,
)
from utils.errors import UserError
from utils.retry import Transient


def granules_of(stac_server: StacServer, place: Place) -> list[Granule]:
    left, bottom, right, top = place.grid.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    around = (x - 1, y - 1, x + 1, y + 1)
    epsg = place.grid.epsg
    found = (stac_server.catalogue.granules(epsg, around, w.start, w.end) for w in place.windows)
    return [granule for window in found for granule in window]


def test_finds_all_scenes_of_the_windows_in_the_zone_of_the_place(stac_server: StacServer) -> None:
    for place in (place_at(), place_at(left=700_020)):  # where the next zone's granules are, too
        asking = source(stac_server)
        (found,) = asking.search([place])
        assert {scene.name for scene in found} == {g.name for g in granules_of(stac_server, place)}
        assert len(found) > stac_server.page_size  # the search has several pages
    assert int(asking.facts()["left out, another UTM zone"]) > 0


FEW, SOUTH = ("B2", "B8A", "B9"), {"epsg": 32753, "top": 6_050_020}  # in tile 53HMA


@pytest.mark.parametrize(
    ("collection", "where", "bands"),
    [("raw", {}, ALL_BANDS), ("raw", SOUTH, FEW), ("sentinel-2-l2a", {}, FEW)],
    ids=["north", "south", "Earth Search"],
)
def test_values_are_those_of_the_archive_before_and_after_the_offset(
    collection: str, where: dict[str, int], bands: tuple[str, ...], stac_server: StacServer
) -> None:
    place, seen = place_at(**where), set()
    for scene in scenes_of(stac_server, place, collection):
        images = source(stac_server, collection, bands=bands).read(scene, place.grid)
        granule = stac_server.catalogue.find(scene.name)
        assert granule is not None
        seen.add(scene.baseline)
        for band, image in images.items():
            wanted = expected_pixels(stac_server.catalogue, granule, place.grid, band)
            np.testing.assert_array_equal(image, wanted)
            assert (image.dtype, image.shape[0]) == (np.uint16, 120 // RESOLUTION_M[band])
    assert seen == {"02.13", "04.00"}


def place_over_an_edge(stac_server: StacServer) -> Place:
    """Return a place whose eastern half is beyond a tile."""
    edge = Granule(32632, 4, 55, granules_of(stac_server, place_at())[0].start).left + TILE_M
    return place_at(left=edge - 60, top=5_560_020)


def test_a_patch_over_a_tiles_edge_has_no_data_there(stac_server: StacServer) -> None:
    place = place_over_an_edge(stac_server)
    outside = [scene for scene in scenes_of(stac_server, place) if scene.valid_fraction < 1]

    assert {scene.valid_fraction for scene in outside} <= {0.0, 0.5}
    half = next(scene for scene in outside if scene.valid_fraction == 0.5)
    assert has_gaps(source(stac_server).read(half, place.grid), half.is_clamped)


def test_shares_of_clear_and_valid_pixels_come_from_the_scene_classes(
    stac_server: StacServer,
) -> None:
    """Within a tile, and over its edge, where clear pixels are a share of the valid ones."""
    for place in (place_at(), place_over_an_edge(stac_server)):
        for scene in scenes_of(stac_server, place):
            granule = stac_server.catalogue.find(scene.name)
            assert granule is not None
            steps = 20 * (np.arange(6) + 0.5)
            east, north = np.meshgrid(place.grid.left + steps, place.grid.top - steps)
            valid = stac_server.catalogue.is_valid(granule, east, north)
            clear = valid & ~stac_server.catalogue.is_cloud(granule, east, north)
            assert scene.valid_fraction == pytest.approx(valid.mean(), abs=1e-6)
            share = clear.sum() / valid.sum() if valid.any() else 0.0
            assert scene.clear_fraction == pytest.approx(share, abs=1e-6)


def test_scene_classes_that_stay_missing_are_noted_and_others_wait_for_them(
    stac_server: StacServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: a search with many of them is not tried more often than one with a few."""
    place, asking, file = place_at(), source(stac_server), stac_server.file
    (wanted,) = asking.search([place])
    stac_server.faults["file"].append(status(404))
    with pytest.raises(Missing, match="HTTP 404"):
        asking.search([place])
    assert asking.search([place]) == [wanted]
    asking = source(stac_server)
    monkeypatch.setattr(stac_server, "file", lambda path: None if "SCL" in path else file(path))
    for _ in range(2):
        with pytest.raises(Missing):
            asking.search([place])
    (found,) = asking.search([place])
    assert [scene.name for scene in found] == [scene.name for scene in wanted]
    assert {scene.clear_fraction for scene in found} == {None}
    notes = {scene.properties["scene_classification"] for scene in found}
    assert notes == {"HTTP 404"}


def test_clouds_are_looked_at_here_too(stac_server: StacServer) -> None:
    stac_server.edit = lambda item: edited(
        item, lambda i: i["properties"].update({"eo:cloud_cover": 10})
    )
    assert source(stac_server, cloud_pct=10.0).search([place_at()]) == [[]]


def test_only_scenes_in_a_window_cost_requests_for_files(stac_server: StacServer) -> None:
    before = stac_server.requests["file"]
    found = scenes_of(stac_server, place_at())
    assert stac_server.requests["file"] - before == len(found)  # a small file is one range


def test_of_two_versions_of_a_scene_the_newer_one_is_taken(stac_server: StacServer) -> None:
    def double(asked: dict[str, Any]) -> list[dict[str, Any]]:
        new = [
            edited(item, lambda i: i["properties"].update({"s2:processing_baseline": "05.10"}))
            for item in find(asked)
        ]
        return [*new, *find(asked)]

    find = stac_server.find
    stac_server.find = double  # type: ignore[method-assign]
    try:
        found = scenes_of(stac_server, place_at())
    finally:
        stac_server.find = find  # type: ignore[method-assign]
    assert {scene.baseline for scene in found} == {"05.10"}


# Faults.

PASSING: dict[str, Fault] = {
    "408": content(HTML, code=408),
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
def test_faults_of_searches_may_pass(kind: str, stac_server: StacServer) -> None:
    stac_server.faults["search"].append({**PASSING, "half a page": short}[kind])
    with pytest.raises(Transient):
        source(stac_server).search([place_at()])


@pytest.mark.parametrize("kind", STALLING)
def test_a_search_that_takes_too_long_ends(
    kind: str, stac_server: StacServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = source(stac_server)
    monkeypatch.setattr(asking._web, "timeout_s", 0.2)
    stac_server.faults["search"].append(STALLING[kind])
    with pytest.raises(Transient, match="no answer in time"):
        asking.search([place_at()])
    stac_server.faults["search"].clear()  # a busy machine may not have asked yet


@pytest.mark.parametrize("kind", PASSING)
def test_faults_of_files_are_repeated_at_once_and_may_pass(
    kind: str, stac_server: StacServer, scene: Scene
) -> None:
    asking = source(stac_server, bands=("B4",))

    stac_server.faults["file"].extend([PASSING[kind]] * 2)
    asking.read(scene, place_at().grid)
    stac_server.faults["file"].extend([PASSING[kind]] * 3)
    with pytest.raises(Transient):
        asking.read(scene, place_at().grid)


@pytest.mark.parametrize("kind", ["search", "file"])
@pytest.mark.parametrize("code", [429, 503])
def test_too_many_requests_come_with_the_wait(
    code: int, kind: str, stac_server: StacServer, scene: Scene
) -> None:
    place = place_at()
    stac_server.faults[kind].append(status(code, headers=(("Retry-After", "7"),)))
    asking = source(stac_server)
    with pytest.raises(Transient) as caught:
        asking.search([place]) if kind == "search" else asking.read(scene, place.grid)
    assert (caught.value.is_quota, caught.value.wait_s) == (True, 7)


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_catalogue_that_does_not_let_us_search_ends_the_run(
    code: int, stac_server: StacServer
) -> None:
    stac_server.faults["search"].append(status(code))
    asking = source(stac_server)
    with pytest.raises(UserError, match=f"answers with HTTP {code} to a search"):
        asking.search([place_at()])
    asking.search([place_at()])
    stac_server.faults["search"].append(status(code))
    with pytest.raises(Missing):  # only this one, as long as the collection is there
        asking.search([place_at()])


def test_a_collection_that_is_not_there_is_named(stac_server: StacServer) -> None:
    with pytest.raises(UserError, match="HTTP 404 to a request for the collection sentinel-3"):
        source(stac_server, "sentinel-3").search([place_at()])


def test_reads_at_a_time_do_not_mix(stac_server: StacServer) -> None:
    place = place_at()
    asking = source(stac_server, bands=("B2", "B4"))
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
    stac_server: StacServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*PLAN, "--bands", "B2", "--stac_url", stac_server.url, "--save_path"]
    assert collect([*flags, str(tmp_path / "a")]) == 0
    faults = {**PASSING, "429": status(429), "503": status(503)}
    stac_server.fault_plan = FaultPlan(0.1, faults=faults)
    stac_server.faults["file"].extend([status(404)] * 10)  # a file is there at its next reading
    try:
        assert collect([*flags, str(tmp_path / "b")]) == 0
    finally:
        stac_server.fault_plan = FaultPlan(0)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert collect(["--save_path", str(tmp_path / "b"), "--verify"]) == 0
    assert capsys.readouterr().out.endswith("4 of 4 places, 0 damaged\n")
