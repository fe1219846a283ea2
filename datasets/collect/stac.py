"""Scenes and pixels from a public STAC catalogue of Sentinel-2 level 2A, without an account.

One search per place over the time of all its windows: catalogues limit the number of searches, and
a list of scenes is small compared with their pixels. It also reads the scene classification (SCL)
of the patch for scenes in a window. One read per image fetches the blocks around the patch from a
file per band. Nothing here has spoken to a real catalogue yet.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from datasets.bands import RESOLUTION_M
from datasets.collect.scenes import Array, Missing, PatchGrid, Place, Refused, Scene
from datasets.collect.settings import PLACES_PER_SEARCH, Settings
from datasets.collect.stac_files import read_window
from datasets.collect.stac_items import Files, harmonised, parse
from datasets.collect.web import Web
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
_CONNECTIONS = 64  # that are kept; the default of requests in flight is 40
_STRANGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


class Stac:
    """A ``Source`` that searches a STAC catalogue; the first search sends the first request.

    Args:
        settings: Catalogue, collection, bands, clouds.
        timeout_s: Deadline of each whole answer; a read has about 40 of them.
    """

    places_per_search = PLACES_PER_SEARCH["stac"]

    def __init__(self, settings: Settings, *, timeout_s: float) -> None:
        self._settings = settings
        self._url = settings.stac_url.rstrip("/")
        self._web = Web(timeout_s, _CONNECTIONS)
        self._pages = _Pages(self._web)
        self._left_out: Counter[str] = Counter()
        self._doubts: Counter[PatchGrid] = Counter()  # searches that missed classifications
        self._lock = threading.Lock()
        self._is_checked = self._has_searched = False

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        if not self._is_checked:  # a search for another collection just finds nothing
            self.check()
        return [self._measured(self._scenes(place), place.grid) for place in places]

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        """Read the bands of a patch; arguments as in ``Source.read``."""
        files: Files = scene.key
        images = {
            band: read_window(self._web, files.bands[band], grid, RESOLUTION_M[band], "uint16")
            for band in self._settings.bands
        }
        return harmonised(images, files.offset)

    def describe(self) -> dict[str, str]:
        return {
            "source": "stac",
            "catalogue": self._url,
            "collection": self._settings.collection,
            "cloud_score": "scene classification",
            "client": f"pystac-client {pystac_client.__version__}",
        }

    def facts(self) -> dict[str, str]:
        with self._lock:
            left_out = {f"left out, {why}": str(n) for why, n in self._left_out.most_common()}
        return {
            "answers over HTTP": str(self._web.num_answers),
            "bytes received": str(self._web.bytes_received),
            **left_out,
        }

    def check(self) -> None:
        name = self._settings.collection
        try:
            answer = self._web.ask("GET", f"{self._url}/collections/{name}")
        except Missing as error:
            if self._has_searched:
                raise Transient(f"{error}, though searches worked", is_strange=True) from error
            raise self._refusal(error, f"a request for the collection {quoted(name)}") from error
        try:
            is_ours = answer.json()["id"] == name
        except _STRANGE:
            is_ours = False
        if not is_ours:
            raise Transient("an answer that is not a collection", is_strange=True)
        self._is_checked = True

    def _refusal(self, error: Missing, request: str) -> UserError:
        return UserError(
            f"--stac_url {self._url} answers with {error} to {request}: check --stac_url and "
            "--collection, or take another catalogue"
        )

    def _scenes(self, place: Place) -> list[Scene]:
        """Return the scenes in any window, of each the item that was processed last."""
        found: dict[str, Scene] = {}
        for item in self._items(place):
            try:
                epsg, scene = parse(item, self._settings.bands)
                if epsg != place.grid.epsg:
                    raise Refused("another UTM zone")
            except Refused as error:
                with self._lock:
                    self._left_out[str(error)] += 1
                continue
            is_wanted = any(scene.start in window for window in place.windows)
            if scene.cloud_percent < self._settings.cloud_pct and is_wanted:
                known = found.get(scene.name)
                if known is None or _version(scene) > _version(known):
                    found[scene.name] = scene
        return list(found.values())

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
        except Missing as error:
            if self._has_searched:
                raise
            raise self._refusal(error, "a search") from error
        except _STRANGE as error:
            raise Transient("an answer that is not a list of scenes", is_strange=True) from error
        if len(pages) > _MOST_PAGES:
            raise Refused("the catalogue lists scenes without an end")
        self._has_searched = True
        return items

    def _measured(self, scenes: Sequence[Scene], grid: PatchGrid) -> list[Scene]:
        """Add how much of the patch is clear, and has data, where a scene's classes can be read.

        Raises:
            Missing: Some are not there, which has to come more often to be believed: else an error
                of the service would change which scene is the best.
        """
        measured, doubt = [], None
        for scene in scenes:
            try:
                measured.append(self._with_shares(scene, grid))
            except Refused as error:  # its clouds as a whole decide
                doubt = error if isinstance(error, Missing) else doubt
                note = {"scene_classification": str(error)}
                measured.append(replace(scene, properties=scene.properties | note))
        with self._lock:
            self._doubts[grid] += doubt is not None
            is_believed = self._doubts[grid] >= _SCL_TRIES
        if doubt is not None and not is_believed:
            raise doubt
        return measured

    def _with_shares(self, scene: Scene, grid: PatchGrid) -> Scene:
        if scene.key.classes is None:
            return scene
        classes = read_window(self._web, scene.key.classes, grid, _SCL_M, "uint8")
        is_valid = classes != _NO_DATA
        valid, clear = is_valid.mean(), (is_valid & ~np.isin(classes, _UNCLEAR)).mean()
        share = round(float(clear / valid), 6) if valid > 0 else 0.0
        return replace(scene, clear_fraction=share, valid_fraction=round(float(valid), 6))


class _Pages(StacApiIO):
    """Sends pystac-client's requests through our session; repeats are left to our caller."""

    def __init__(self, web: Web) -> None:
        super().__init__(max_retries=None)
        self._web = web

    def request(
        self, href: str, method: str | None = None, headers: Any = None, parameters: Any = None
    ) -> str:
        """Return a page; pystac-client would take another object for an empty one."""
        kind, method = ("json", "POST") if method == "POST" else ("params", "GET")
        response = self._web.ask(method, href, headers=headers, **{kind: parameters})
        if not isinstance(response.json()["features"], list):
            raise TypeError("a page without features")
        return response.content.decode()


def _version(scene: Scene) -> tuple[str, str]:
    return scene.baseline, str(scene.properties["id"])
