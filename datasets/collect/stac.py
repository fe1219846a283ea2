"""Scenes and pixels from a public STAC catalogue of Sentinel-2 level 2A, without an account.

One search per place over the time of all its windows: catalogues limit the number of searches, and
what it lists in vain is little beside the pixels. It also reads the scene classification (SCL) of
the patch for scenes that lie in a window. One read per image fetches the blocks around the patch
from a file per band. Nothing here has spoken to a real catalogue yet.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window as PixelWindow

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import Array, Missing, PatchGrid, Place, Refused, Scene
from datasets.collect.settings import Settings
from datasets.collect.stac_http import Answered, RemoteFile, Web
from datasets.collect.stac_items import Files, Unusable, harmonised, parse
from datasets.collect.writer import utm_crs
from utils.errors import UserError, quoted
from utils.retry import Transient

try:
    import pystac_client
    from pystac_client.stac_api_io import StacApiIO
except ImportError as error:
    raise UserError("--source stac needs more: pip install pystac-client") from error

_PAGE, _MOST_PAGES = 100, 50
_SCL_M = 20
_SCL_TRIES = 3  # until a classification is not there; the whole search is tried once more
_NO_DATA, _UNCLEAR = 0, (1, 3, 8, 9, 10)  # saturated, shadow, clouds, cirrus; snow (11) is clear
_LARGEST_BLOCK = 2**24  # pixels; GDAL decodes whole blocks
_TIFF_ONLY = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}


class Stac:
    """A ``Source`` that asks a STAC catalogue; nothing is asked before the first search.

    Args:
        settings: Catalogue, collection, bands, clouds.
        timeout_s: For each answer, whole; a read has about 40 of them.
    """

    places_per_search = 1

    def __init__(self, settings: Settings, *, timeout_s: float) -> None:
        self._settings = settings
        self._url = settings.stac_url.rstrip("/")
        self._web = Web(timeout_s)
        self._pages = _Pages(self._web)
        self._left_out: Counter[str] = Counter()
        self._misses: Counter[tuple[str, PatchGrid]] = Counter()  # of scene classifications
        self._lock = threading.Lock()
        self._is_checked = self._has_searched = False
        # GDAL warns of each tag that it cannot read; what matters of it is raised.
        logging.getLogger("rasterio._env").setLevel(logging.ERROR)

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        """See ``Source``."""
        if not self._is_checked:  # a search for another collection just finds nothing
            self.check()
        return [self._scenes(place) for place in places]

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        """See ``Source``; values are those of baselines before 04.00."""
        files: Files = scene.key
        images = {
            band: self._window(files.bands[band], grid, RESOLUTION_M[band], "uint16")
            for band in self._settings.bands
        }
        return harmonised(images, files.offset)

    def describe(self) -> dict[str, str]:
        """See ``Source``."""
        return {
            "source": "stac",
            "catalogue": self._url,
            "collection": self._settings.collection,
            "cloud_score": "scene classification",
            "client": f"pystac-client {pystac_client.__version__}",
        }

    def facts(self) -> dict[str, str]:
        """See ``Source``."""
        with self._lock:
            left_out = {f"left out, {why}": str(n) for why, n in self._left_out.most_common()}
        return {
            "requests over HTTP": str(self._web.num_requests),
            "bytes received": str(self._web.bytes_received),
            **left_out,
        }

    def check(self) -> None:
        """See ``Source``."""
        name = self._settings.collection
        try:
            answer = self._web.ask("GET", f"{self._url}/collections/{name}")
        except Answered as error:
            if self._has_searched:
                shown = f"HTTP {error.status}, {quoted(str(error), 120)}"
                raise Transient(f"{shown}, though searches worked", is_strange=True) from error
            raise UserError(
                f"--stac_url {self._url} answers with HTTP {error.status} when asked for the "
                f"collection {quoted(name)}: check --stac_url and --collection"
            ) from error
        try:
            is_ours = answer.json()["id"] == name
        except (ValueError, KeyError, TypeError, RecursionError):
            is_ours = False
        if not is_ours:
            raise Transient("an answer that is no collection", is_strange=True)
        self._is_checked = True

    def _scenes(self, place: Place) -> list[Scene]:
        found: dict[str, Scene] = {}
        for item in self._items(place):
            try:
                epsg, scene = parse(item, self._settings.bands)
                if epsg != place.grid.epsg:
                    raise Unusable("another UTM zone")
            except Unusable as error:
                with self._lock:
                    self._left_out[str(error)] += 1
                continue
            if scene.cloud_percent < self._settings.cloud_pct and _is_wanted(scene, place):
                known = found.get(scene.name)
                if known is None or _version(scene) > _version(known):  # processed anew
                    found[scene.name] = scene
        return self._looked_at(list(found.values()), place.grid)

    def _items(self, place: Place) -> list[Any]:
        """Return what the catalogue has over a place, from its first window to its last."""
        first = min(window.start for window in place.windows)
        end = max(window.end for window in place.windows)
        search = pystac_client.ItemSearch(
            f"{self._url}/search",
            collections=[self._settings.collection],
            intersects={"type": "Point", "coordinates": [place.longitude, place.latitude]},
            datetime=f"{first}T00:00:00Z/{end}T00:00:00Z",
            query={"eo:cloud_cover": {"lt": self._settings.cloud_pct}},
            limit=_PAGE,
            stac_io=self._pages,
        )
        try:
            pages = list(islice(search.pages_as_dicts(), _MOST_PAGES + 1))
            items = [item for page in pages for item in page["features"]]
        except Answered as error:
            shown = f"HTTP {error.status}, {quoted(str(error), 120)}"
            if error.status in (401, 403, 404, 405) and self._has_searched:
                raise Transient(f"{shown}, though searches worked", is_strange=True) from error
            if error.status in (401, 403, 404, 405):
                raise UserError(
                    f"--stac_url {self._url} does not let us search ({shown}): check the address, "
                    "or take another catalogue"
                ) from error
            raise Refused(shown) from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise Transient("an answer that is no list of scenes", is_strange=True) from error
        if len(pages) > _MOST_PAGES:
            raise Refused("the catalogue lists scenes without an end")
        self._has_searched = True
        return items

    def _looked_at(self, scenes: Sequence[Scene], grid: PatchGrid) -> list[Scene]:
        """Add how much of the patch is clear, and has data, where a scene's classes can be read.

        Raises:
            Missing: Some are not there, which has to come more often to be believed: else an error
                of the service would change which scene is the best.
        """
        looked, doubt = [], None
        for scene in scenes:
            url = scene.key.classes
            try:
                looked.append(self._with_shares(scene, url, grid) if url else scene)
            except Missing as error:
                key = scene.name, grid
                with self._lock:
                    self._misses[key] += 1
                    is_believed = self._misses[key] >= _SCL_TRIES
                doubt = doubt if is_believed else error
                looked.append(_without_shares(scene, error))
            except Refused as error:
                looked.append(_without_shares(scene, error))
        if doubt is not None:
            raise doubt
        return looked

    def _with_shares(self, scene: Scene, url: str, grid: PatchGrid) -> Scene:
        classes = self._window(url, grid, _SCL_M, "uint8")
        is_valid = classes != _NO_DATA
        valid, clear = is_valid.mean(), (is_valid & ~np.isin(classes, _UNCLEAR)).mean()
        share = round(float(clear / valid), 6) if valid > 0 else 0.0
        return replace(scene, clear_fraction=share, valid_fraction=round(float(valid), 6))

    def _window(self, url: str, grid: PatchGrid, resolution_m: int, dtype: str) -> Array:
        """Read the patch from a file on the same grid; 0 where the file ends."""
        host = urlsplit(url).hostname or ""
        if host.endswith(".blob.core.windows.net") and "sig=" not in url:
            raise UserError(
                f"files at {host} need signed addresses, which are not supported: take another "
                "catalogue with --stac_url"
            )
        remote = RemoteFile(self._web, url)
        try:
            image = _read(remote, grid, resolution_m, dtype)
        except (Refused, RasterioError, ValueError, MemoryError) as error:
            if remote.error is not None:  # what GDAL found wrong was only not there
                raise remote.error from error
            if isinstance(error, Refused):
                raise
            name = quoted(urlsplit(url).path, 200)  # without a token behind it
            raise Missing(f"a file that cannot be decoded, {name}") from error
        if remote.error is not None:
            raise remote.error
        return image


class _Pages(StacApiIO):
    """Sends pystac-client's requests through our session; repeats are left to our caller."""

    def __init__(self, web: Web) -> None:
        super().__init__(max_retries=None)
        self._web = web

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Return the text of an answer."""
        if (method or "GET").upper() == "POST":
            response = self._web.ask("POST", href, headers=headers, json=parameters)
        else:
            response = self._web.ask("GET", href, headers=headers, params=parameters)
        return response.content.decode()

    def read_json(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a page; what is none would count as an empty one."""
        page: dict[str, Any] = super().read_json(*args, **kwargs)
        if not isinstance(page["features"], list):
            raise TypeError("a page without features")
        return page


def _read(remote: RemoteFile, grid: PatchGrid, resolution_m: int, dtype: str) -> Array:
    side = 10 * grid.size_px // resolution_m
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(**_TIFF_ONLY))
        file = stack.enter_context(rasterio.open("band.tif", driver="GTiff", opener=remote.open))
        where, block = file.transform, file.block_shapes[0]
        column, row = (grid.left - where.c) / resolution_m, (where.f - grid.top) / resolution_m
        is_ours = (where.a, where.b, where.d, where.e) == (resolution_m, 0, 0, -resolution_m)
        if not is_ours or column % 1 or row % 1 or file.crs != utm_crs(grid.epsg):
            raise Refused("a file on another grid")
        if file.count != 1 or file.dtypes[0] != dtype or block[0] * block[1] > _LARGEST_BLOCK:
            raise Refused(f"a file that is not one band of {dtype}")
        left, top = max(0, int(column)), max(0, int(row))
        right, bottom = min(file.width, int(column) + side), min(file.height, int(row) + side)
        image = np.zeros((side, side), dtype)
        if left < right and top < bottom:
            window = PixelWindow(left, top, right - left, bottom - top)
            rows = slice(top - int(row), bottom - int(row))
            image[rows, left - int(column) : right - int(column)] = file.read(1, window=window)
    return image


def _without_shares(scene: Scene, error: Refused) -> Scene:
    """Note why a scene is ranked by its clouds as a whole."""
    return replace(scene, properties=scene.properties | {"scene_classification": str(error)})


def _is_wanted(scene: Scene, place: Place) -> bool:
    day = scene.start.astimezone(UTC).date()
    return any(window.start <= day < window.end for window in place.windows)


def _version(scene: Scene) -> tuple[str, str]:
    """Order items of one scene: the latest processing is the best."""
    return scene.baseline, str(scene.properties["id"])
