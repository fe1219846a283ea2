"""A loopback STAC catalogue with small COGs of the made-up archive, and places to ask it for."""

import copy
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import PatchGrid, Place, Scene, Window
from datasets.collect.settings import Settings
from datasets.collect.stac import Stac
from datasets.collect.utm import from_utm, to_utm, utm_epsg
from datasets.miniature.services.catalogue import TILE_M, Catalogue, Granule, pixel_centres
from datasets.miniature.services.faults import (
    FaultPlan,
    no_fault,
    status,
)
from datasets.miniature.services.loopback import LoopbackHandler, LoopbackServer, served
from tests.references.waiting import HANG_S

EARTH_SEARCH = {
    **{"coastal": "B1", "blue": "B2", "green": "B3", "red": "B4", "rededge1": "B5"},
    **{"rededge2": "B6", "rededge3": "B7", "nir": "B8", "nir08": "B8A", "nir09": "B9"},
    **{"swir16": "B11", "swir22": "B12", "scl": "SCL"},
}
PLAIN = {re.sub(r"^B(\d)$", r"B0\1", name): name for name in [*RESOLUTION_M, "SCL"]}
# The first gives files from which it has subtracted the offset, the second those of the products.
COLLECTIONS = {"sentinel-2-l2a": EARTH_SEARCH, "raw": PLAIN}

EARLY, LATE = date(2022, 1, 11), date(2022, 2, 1)  # before and after products have an offset


def edited(item: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    new = copy.deepcopy(item)
    change(new)
    return new


class StacServer(LoopbackServer):
    """Answers as a catalogue, and its store of files, do.

    Attributes:
        requests: Number of requests of each kind: "search", "file", or another path.
        page_size: Items of an answer.
        edit: Changes an item before it is sent.
        half_m: Files hold this much around the place, where the granule does not end.
    """

    def __init__(
        self, catalogue: Catalogue | None = None, *, fault_plan: FaultPlan | None = None
    ) -> None:
        super().__init__(_Handler, ("search", "file"), fault_plan)
        self.catalogue = catalogue or Catalogue()
        self.page_size = 3
        self.edit = lambda item: item
        self.half_m = 300
        self.pages: list[list[dict[str, Any]]] = []
        self.file = lru_cache(maxsize=500)(self._file)

    def find(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the items of a search: of the point's zone, and of its eastern neighbour."""
        (collection,) = asked["collections"]
        lng, lat = asked["intersects"]["coordinates"]
        first, end = (date.fromisoformat(text[:10]) for text in asked["datetime"].split("/"))
        own, items = int(utm_epsg(lat, lng)), []
        for epsg in (own, own + 1 if own % 100 < 60 else own - 59):
            x, y = (float(value) for value in to_utm(lat, lng, epsg))
            for granule in self.catalogue.granules(epsg, (x - 1, y - 1, x + 1, y + 1), first, end):
                cloud = self.catalogue.properties(granule)["CLOUDY_PIXEL_PERCENTAGE"]
                if cloud < asked["query"]["eo:cloud_cover"]["lt"]:
                    items.append(self.edit(self.item(granule, collection, round(x), round(y))))
        return items

    def item(self, granule: Granule, collection: str, x: int, y: int) -> dict[str, Any]:
        known = self.catalogue.properties(granule)
        sensed, strip, tile = granule.name.split("_")
        baseline = known["PROCESSING_BASELINE"]
        product = f"S2A_MSIL2A_{sensed}_N{baseline.replace('.', '')}_R001_{tile}_{sensed}"
        properties: dict[str, Any] = {
            "datetime": granule.start.isoformat().replace("+00:00", ".024000Z"),
            "eo:cloud_cover": known["CLOUDY_PIXEL_PERCENTAGE"],
            "platform": "sentinel-2a",
            "s2:product_uri": f"{product}.SAFE",
            "s2:datastrip_id": f"S2A_OPER_MSI_L2A_DS_2APS_{sensed}_S{strip}_N{baseline}",
            "s2:processing_baseline": baseline,
        }
        raster = {}
        if collection == "raw":
            properties["proj:code"] = f"EPSG:{granule.epsg}"
        else:
            properties["grid:code"] = f"MGRS-{granule.tile}"
            properties["earthsearch:boa_offset_applied"] = baseline >= "04"
            raster = {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]}
        folder = f"{self.url}/{collection}/{granule.name}/{x}_{y}"
        assets = {
            key: {
                "href": f"{folder}/{key}.tif",
                "type": "image/tiff; application=geotiff",
                **raster,
            }
            for key in COLLECTIONS[collection]
        }
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": product,
            "collection": collection,
            "geometry": None,
            "properties": properties,
            "links": [],
            "assets": assets,
        }

    def page(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Return some items with the link to the others: a POST, then a GET, and so on."""
        answer = {"type": "FeatureCollection", "features": items[: self.page_size], "links": []}
        if items[self.page_size :]:
            with self.lock:
                self.pages.append(items[self.page_size :])
                number = len(self.pages) - 1
            link: dict[str, Any] = {"rel": "next", "href": f"{self.url}/search?token={number}"}
            if number % 2 == 0:
                link = {"rel": "next", "href": f"{self.url}/search", "method": "POST"}
                link["body"] = {"token": number}
            answer["links"] = [link]
        return answer

    def _file(self, path: str) -> bytes | None:
        """Return a COG: of ``/collection/granule/x_y/key.tif``."""
        parts = path.strip("/").removesuffix(".tif").split("/")
        granule = self.catalogue.find(parts[1]) if len(parts) == 4 else None
        if granule is None or parts[0] not in COLLECTIONS:
            return None
        band = COLLECTIONS[parts[0]][parts[3]]
        # Whole pixels of 60 m of the granule, around the place.
        x, y = (int(text) for text in parts[2].split("_"))
        x, y = x - (x - granule.left) % 60, y - (y - granule.top) % 60
        half = self.half_m
        left, right = max(x - half, granule.left), min(x + half, granule.left + TILE_M)
        bottom, top = max(y - half, granule.bottom), min(y + half, granule.top)
        size = 20 if band == "SCL" else RESOLUTION_M[band]
        east, north = pixel_centres(left, top, (right - left) // size, (top - bottom) // size, size)
        if band == "SCL":
            image = np.where(self.catalogue.is_cloud(granule, east, north), 9, 4).astype(np.uint8)
            image[~self.catalogue.is_valid(granule, east, north)] = 0
        else:
            image = self.catalogue.values(granule, band, east, north)
            if (
                parts[0] == "raw"
                and self.catalogue.properties(granule)["PROCESSING_BASELINE"] > "04"
            ):
                image = np.where(image > 0, image + 1000, 0).astype(np.uint16)
        return cog(image, granule.epsg, left, top, size)


def cog(image: np.ndarray, epsg: int, left: float, top: float, size: float, **more: Any) -> bytes:
    """Return a Cloud-Optimised GeoTIFF: small blocks, and overviews if it is larger."""
    settings = {
        **{"driver": "COG", "compress": "deflate", "predictor": 2, "blocksize": 128},
        **{"count": 1, "dtype": image.dtype, "crs": f"EPSG:{epsg}", "nodata": 0},
    }
    with MemoryFile() as memory:
        with memory.open(
            height=image.shape[0],
            width=image.shape[1],
            transform=from_origin(left, top, size, size),
            **(settings | more),
        ) as file:
            file.write(image, 1)
        return bytes(memory.getbuffer())


class _Handler(LoopbackHandler):
    mime = "application/geo+json"
    server: StacServer

    def do_POST(self) -> None:
        self._search(json.loads(self.body()))

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/search":
            self._search({"token": int(parse_qs(parts.query)["token"][0])})
        elif parts.path.startswith("/collections/"):
            self.server.count(parts.path)
            name = parts.path.removeprefix("/collections/")
            if name in COLLECTIONS:  # stac-spec, collection-spec.md: fields that are required
                self.answer(200, json.dumps({"type": "Collection", "id": name}).encode())
            else:
                status(404)(self, b"", "")
        else:
            self._send_file(parts.path)

    def _search(self, asked: dict[str, Any]) -> None:
        self.server.count("search")
        known = self.server.pages[asked["token"]] if "token" in asked else self.server.find(asked)
        body = json.dumps(self.server.page(known)).encode()
        (self.server.next_fault("search") or no_fault)(self, body, self.mime)

    def _send_file(self, path: str) -> None:
        self.server.count("file")
        content = self.server.file(path)
        if content is None:
            status(404)(self, b"", "")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        assert asked is not None, "the whole file was requested"
        start, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        body = content[start : last + 1]
        fault = self.server.next_fault("file")
        if fault is None:
            place = ("Content-Range", f"bytes {start}-{last}/{len(content)}")
            self.answer(206, body, "image/tiff", [place])
        else:
            fault(self, body, "image/tiff")


def stac(**settings: Any) -> AbstractContextManager[StacServer]:
    """Serve in threads of this process until the block ends."""
    return served(StacServer(**settings))


WINDOWS = (Window(LATE, date(2022, 2, 11)), Window(EARLY, date(2022, 1, 21)))


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
