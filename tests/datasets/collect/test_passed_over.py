"""Errors while reading: what passes changes nothing, and what stays is noted; north and south."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from datasets.bands import ALL_BANDS
from datasets.collect.journal import read_journals
from datasets.collect.plan import read_plan
from tests.references.downloader_runs import PLAN, collect, flags
from tests.references.fetch_runs import tree
from tests.servers.earth_engine_expressions import S2
from tests.servers.earth_engine_faults import status
from tests.servers.earth_engine_server import EarthEngineServer, earth_engine
from tests.servers.fake_source import expected_pixels
from tests.servers.stac_server import stac

AT_ONCE = ("--retry_wait", "0.001")
AUSTRALIA = [
    *("--num_locations", "3", "--patch_px", "12", "--num_dates", "2", "--no_land_mask"),
    *("--sampler", "bounded", "--bounds", "110", "-40", "155", "-10", "--dtype", "uint16"),
    *("--reference_date", "2022-06-01", "--cloud_score", "none"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[EarthEngineServer]:
    with earth_engine() as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: EarthEngineServer) -> Path:
    """A collection of 12 places x 3 dates. Read only."""
    save_path = tmp_path_factory.mktemp("reading") / "undisturbed"
    assert collect(flags(save_path, server, *PLAN)) == 0
    return save_path


def test_refusals_of_reads_that_pass_change_nothing(
    server: EarthEngineServer, undisturbed: Path, tmp_path: Path
) -> None:
    refusals = [
        status(404, "Image.load: Image asset 'X/Y' not found."),
        status(400, "User memory limit exceeded."),
    ]
    server.faults["read"].extend(refusals * 4)
    assert collect(flags(tmp_path / "c", server, *PLAN, *AT_ONCE)) == 0
    assert not server.faults["read"]
    assert tree(tmp_path / "c") == tree(undisturbed)


def test_a_scene_that_stays_missing_is_noted_where_another_is_taken(
    server: EarthEngineServer,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = read_plan(undisturbed)
    records = read_journals(undisturbed, plan.hash).values()
    before = next(record for record in records if record.outcome == "done")
    lost, pixels = before.scenes[0], server.pixels
    grid = plan.place(before.place).grid

    def without(asset: str, request: dict[str, object]) -> bytes:
        place = request["grid"]["affineTransform"]  # type: ignore[index]
        corner = place["translateX"], place["translateY"]
        if (asset, corner) == (f"{S2}/{lost}", (grid.left, grid.top)):
            asked.append(asset)
            raise LookupError(f"Image.load: Image asset '{asset}' not found.")
        return pixels(asset, request)

    asked: list[str] = []
    monkeypatch.setattr(server, "pixels", without)
    assert collect(flags(tmp_path / "c", server, *PLAN, *AT_ONCE)) == 0

    record = read_journals(tmp_path / "c", plan.hash)[before.place]
    assert len(asked) >= 4
    assert lost not in record.scenes
    [note] = record.passed_over
    assert note.startswith(f"{lost}: HTTP 404")
    if record.outcome == "done":
        folder = tmp_path / "c" / f"{before.place:06d}"
        metadata = [json.loads(path.read_text()) for path in folder.glob("*/metadata.json")]
        assert [m["passed_over"] for m in metadata if "passed_over" in m] == [[note]]


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
