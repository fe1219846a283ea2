"""What an item of a STAC catalogue says about a scene, and about its offset."""

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pytest

from datasets.collect.scenes import Refused, Scene
from datasets.collect.stac_items import harmonised, parse
from tests.servers.stac_server import EARLY, LATE, StacServer, edited


def item_of(collection: str = "sentinel-2-l2a", day: date = LATE) -> dict[str, Any]:
    """Make an item without a server that serves it."""
    server = StacServer()
    try:
        window = (450_000, 5_500_000, 450_001, 5_500_001)
        granule = next(server.catalogue.granules(32632, window, day, date(day.year, 12, 31)))
        return server.item(granule, collection, 450_000, 5_500_000)
    finally:
        server.server_close()


def parsed(item: dict[str, Any]) -> tuple[int, Scene]:
    return parse(item, ("B2", "B8A"))


OFFSETS: list[tuple[str, date, dict[str, Any], int | None]] = [
    ("raw", EARLY, {}, 0),
    ("raw", LATE, {}, 1000),
    ("raw", LATE, {"s2:processing_baseline": "05.11"}, 1000),
    ("sentinel-2-l2a", EARLY, {}, 0),
    ("sentinel-2-l2a", LATE, {}, 0),
    ("sentinel-2-l2a", LATE, {"earthsearch:boa_offset_applied": False}, None),
]


@pytest.mark.parametrize(("collection", "day", "properties", "offset"), OFFSETS)
def test_the_offset_follows_baseline_and_catalogue(
    collection: str, day: date, properties: dict[str, Any], offset: int | None
) -> None:
    item = edited(item_of(collection, day), lambda new: new["properties"].update(properties))
    scene = parsed(item)[1]
    assert scene.key.offset == offset
    # Where another subtracted the offset in unsigned numbers, 0 may be dark.
    assert scene.is_clamped == (day == LATE and offset != 1000)


def test_the_flag_of_other_collections_is_believed() -> None:
    def change(new: dict[str, Any]) -> None:
        new["collection"] = "sentinel-2-c1-l2a"
        new["properties"]["earthsearch:boa_offset_applied"] = False

    assert parsed(edited(item_of(), change))[1].key.offset == 1000


def stated(scale: float, offset: float) -> dict[str, Any]:
    raster = [{"scale": scale, "offset": offset}]
    return edited(item_of("raw"), lambda new: new["assets"]["B04"].update({"raster:bands": raster}))


@pytest.mark.parametrize(("said", "offset"), [(0, 0), (-0.1, 1000)])
def test_raster_bands_give_the_offset_where_no_flag_does(said: float, offset: int) -> None:
    assert parsed(stated(0.0001, said))[1].key.offset == offset


@pytest.mark.parametrize(("scale", "said"), [(0.001, 0), (0.0001, -0.05)])
def test_files_in_another_unit_are_left_out(scale: float, said: float) -> None:
    with pytest.raises(Refused, match="an unknown offset, or values in another unit"):
        parsed(stated(scale, said))


def test_dark_values_stay_apart_from_no_data() -> None:
    image = np.array([[0, 1, 1000], [1001, 1500, 65535]], np.uint16)

    (changed,) = harmonised({"B2": image}, 1000).values()

    np.testing.assert_array_equal(changed, [[0, 1, 1], [1, 500, 64535]])
    assert changed.dtype == np.uint16


def test_a_denied_offset_is_judged_by_dark_pixels() -> None:
    dark = {"B2": np.full((4, 4), 300, np.uint16), "B11": np.full((2, 2), 2000, np.uint16)}
    assert harmonised(dark, None) is dark
    with pytest.raises(Refused, match="it is not known"):
        harmonised({"B2": np.full((4, 4), 1300, np.uint16)}, None)


@pytest.mark.parametrize(
    ("tile", "epsg"),
    [("T32UPV", 32632), ("T01CAA", 32701), ("T60XAA", 32660), ("T36NXF", 32636), ("T36MXE", 32736)],
)
def test_the_zone_is_that_of_the_tile(tile: str, epsg: int) -> None:
    """Bands C to M of MGRS are south of the equator, N to X north of it."""

    def change(new: dict[str, Any]) -> None:
        old = new["properties"]["s2:product_uri"]
        new["properties"]["s2:product_uri"] = re.sub("_T[0-9A-Z]{5}_", f"_{tile}_", old)

    assert parsed(edited(item_of(), change))[0] == epsg


def test_names_are_those_of_earth_engine() -> None:
    item = item_of()
    zone, scene = parsed(item)
    sensed = item["properties"]["s2:product_uri"][11:26]
    assert scene.name.startswith(f"{sensed}_{sensed[:-2]}")
    assert scene.name.endswith("_T" + item["properties"]["grid:code"].removeprefix("MGRS-"))
    assert zone == 32632


HOSTILE_IDS = ["../../etc/passwd", "/tmp/x", "..", "a\0b", "x" * 5000, "\x1b[31m", "", "\ud800"]


@pytest.mark.parametrize("suffix", HOSTILE_IDS)
def test_a_strangers_id_never_leaves_the_folder(suffix: str) -> None:
    """Only the name of a product becomes that of a folder."""

    def change(new: dict[str, Any]) -> None:
        new["id"] = f"{new['id']}/{suffix}"
        del new["properties"]["s2:product_uri"]

    item = item_of()
    assert parsed(edited(item, change))[1].name == parsed(item)[1].name
    with pytest.raises(Refused, match="no name of a product"):
        parsed(edited(edited(item, change), lambda new: new.update(id=suffix)))


HOSTILE_HREFS = [
    *("/etc/passwd", "file:///etc/passwd", "/vsicurl/http://x/a.tif", "s3://bucket/a.tif"),
    *("zip+https://x/a.zip!b.tif", "ftp://x/a.tif", "https:///a.tif", "http://[x/a.tif", 7, None),
    *("http://x/a\nb.tif", "http://x/a.jp2"),
]


@pytest.mark.parametrize("href", HOSTILE_HREFS)
def test_files_that_are_not_on_the_web_are_no_bands(href: Any) -> None:
    kind = "image/jp2" if str(href).endswith("jp2") else "image/tiff"
    item = edited(item_of(), lambda new: new["assets"]["blue"].update(href=href, type=kind))
    with pytest.raises(Refused, match="not a GeoTIFF on the web"):
        parsed(item)


BROKEN: list[Callable[[dict[str, Any]], Any]] = [
    lambda item: item.pop("id"),
    lambda item: item.pop("assets"),
    lambda item: item.update(assets=[1]),
    lambda item: item.update(properties=None),
    lambda item: item["properties"].update(datetime=None),
    lambda item: item["properties"].update(datetime="2022-03-01T10:00:00"),
    lambda item: item["properties"].update({"eo:cloud_cover": "NaN"}),
    lambda item: item["properties"].update({"eo:cloud_cover": None}),
    lambda item: item["properties"].update({"s2:product_uri": "x"}),
    lambda item: item["assets"].update(blue="x"),
    lambda item: item["properties"].update({"s2:processing_baseline": "new"}),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_items_that_lack_something_are_left_out(number: int) -> None:
    with pytest.raises(Refused):
        parsed(edited(item_of(), BROKEN[number]))


@pytest.mark.parametrize("item", [None, 7, "item", [], {}])
def test_what_is_not_an_item_is_left_out(item: Any) -> None:
    with pytest.raises(Refused):
        parse(item, ("B2",))


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), None, ["x"]])
def test_what_metadata_cannot_hold_is_left_out(value: Any) -> None:
    key = "view:sun_elevation"
    item = edited(item_of(), lambda new: new["properties"].update({key: value}))
    assert parsed(item)[1].properties.get(key) in (None, 10**400)
