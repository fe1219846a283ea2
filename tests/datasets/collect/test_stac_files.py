"""Windows of remote GeoTIFFs by ranges, whole, broken off and of the wrong kind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import datasets.collect.stac_files as http
from datasets.collect.scenes import Missing, Refused, Scene
from datasets.collect.stac_items import Files
from datasets.miniature.services.catalogue import TILE_M
from tests.servers.fake_source import expected_pixels
from tests.servers.stac_server import StacServer, cog, place_at, scenes_of, source
from utils.errors import UserError
from utils.retry import Transient

ReadFile = Callable[[bytes | None], Any]


@pytest.mark.parametrize("shift", [10, 20, 40])
def test_a_patch_shifted_off_the_pixels_of_its_files_is_refused(
    shift: int, stac_server: StacServer
) -> None:
    place = place_at(epsg=32753, top=6_050_020 + shift)
    for scene in scenes_of(stac_server, place):
        with pytest.raises(Refused, match="a file on another grid"):
            source(stac_server).read(scene, place.grid)


def test_a_window_over_several_blocks_is_read_at_full_resolution(stac_server: StacServer) -> None:
    stac_server.half_m = 1200  # 240 px: four blocks of 128, and overviews
    place = place_at(size_px=132)
    scene = scenes_of(stac_server, place)[0]

    image = source(stac_server, bands=("B4",)).read(scene, place.grid)["B4"]

    granule = stac_server.catalogue.find(scene.name)
    assert granule is not None
    wanted = expected_pixels(stac_server.catalogue, granule, place.grid, "B4")
    np.testing.assert_array_equal(image, wanted)


@pytest.mark.parametrize(("right", "up"), [(-1, 0), (1, 0), (0, -1), (0, 1)])
def test_a_patch_outside_of_a_tile_has_no_data(
    stac_server: StacServer, scene: Scene, right: int, up: int
) -> None:
    grid = place_at().grid
    outside = replace(grid, left=grid.left + right * 2 * TILE_M, top=grid.top + up * 2 * TILE_M)
    image = source(stac_server, bands=("B4",)).read(scene, outside)["B4"]
    np.testing.assert_array_equal(image, np.zeros((12, 12), np.uint16))


@pytest.mark.parametrize(
    "place", ["", "bytes 5-32772/40000", "bytes */9", "bytes 0-9/10", f"bytes 0-9/{'9' * 5000}"]
)
def test_another_range_than_was_asked_for_is_strange(
    place: str, stac_server: StacServer, scene: Scene
) -> None:
    def answer(handler: Any, body: bytes, kind: str) -> None:
        handler.answer(206, body, kind, [("Content-Range", place)] if place else [])

    stac_server.faults["file"].extend([answer] * 3)
    with pytest.raises(Transient, match="another part") as caught:
        source(stac_server).read(scene, place_at().grid)
    assert caught.value.is_strange


def test_wherever_a_file_breaks_off_it_may_pass(
    scene: Scene, stac_server: StacServer, monkeypatch: pytest.MonkeyPatch
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
    asking, broken = source(stac_server, bands=("B4",)), [0]
    asking.read(scene, place_at().grid)
    whole = len(ranges)
    assert whole > 2
    for number in range(1, whole + 1):
        broken.append(number)
        ranges.clear()
        with pytest.raises(Transient, match="broke"):
            asking.read(scene, place_at().grid)


@pytest.fixture
def read_file(stac_server: StacServer, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> ReadFile:
    """Read a patch from a file that the stac_server has instead of its own."""

    def read(made: bytes | None) -> Any:
        monkeypatch.setattr(stac_server, "file", lambda path: made)
        return source(stac_server, bands=("B4",)).read(scene, place_at().grid)["B4"]

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


def test_addresses_that_need_a_signature_end_the_run(stac_server: StacServer, scene: Scene) -> None:
    bands = dict.fromkeys(scene.key.bands, "https://s2.blob.core.windows.net/a.tif")
    with pytest.raises(UserError, match="signed addresses"):
        source(stac_server).read(replace(scene, key=Files(bands, None, 0)), place_at().grid)
