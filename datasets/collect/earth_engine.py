"""Scenes and pixels from Google Earth Engine; the only file that imports its client.

Two kinds of requests: one search for several places, which also measures how clear each patch is,
and one read per image, straight from the asset. Nothing here has spoken to the real service yet.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ee
import httplib2

from datasets.collect.ee_answers import PROPERTIES, decode, native, parse_scene, translate, zone_of
from datasets.collect.ee_credentials import find_credentials
from datasets.collect.rate_limit import RateLimit, Requester
from datasets.collect.scenes import (
    GRID_M,
    Array,
    ComeBack,
    Missing,
    PatchGrid,
    Place,
    Refused,
    Scene,
)
from datasets.collect.settings import Settings
from datasets.collect.web import Web
from utils.errors import UserError, quoted
from utils.retry import Transient

Answer = TypeVar("Answer")
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
_QUOTA_STATUS = "x-earth-engine-quota-status"
_RESTRICTED = (
    "the project is in restricted mode, its compute hours of this month are used up: wait for the "
    "next month, or see developers.google.com/earth-engine/guides/noncommercial_tiers"
)
_MOST_SCENES = 2000  # of a place; near the poles there are several a day


class Transport:
    """The transport below Earth Engine's client, as its ``http_transport`` requires.

    Args:
        timeout_s: For each whole answer.
        num_threads: Connections that are kept.
    """

    def __init__(self, timeout_s: float, num_threads: int) -> None:
        self.web = Web(timeout_s, num_threads)
        self.is_restricted = False
        self.headers: dict[str, str] = {}  # of the last answer in each content type

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
        redirections: Any = None,
        connection_type: Any = None,
    ) -> tuple[httplib2.Response, bytes]:
        """Send a request as ``httplib2.Http`` does; raises ``Transient`` if no answer comes."""
        answer = self.web.request(method, uri, is_heavy=True, data=body, headers=headers)
        if "parallelism_restricted=true" in answer.headers.get(_QUOTA_STATUS, ""):
            self.is_restricted = True
        own = [
            f"{key}: {value}"
            for key, value in answer.headers.items()
            if "earth-engine" in key.lower()
        ]
        encoding = f"encoding {answer.headers.get('Content-Encoding', 'identity')}"
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        self.headers[kind] = ", ".join([encoding, *own])
        facts = {**answer.headers, "status": str(answer.status_code)}
        return httplib2.Response(facts), answer.content


def connect(
    settings: Settings,
    *,
    url: str,
    project: str | None,
    key_file: Path | None,
    timeout_s: float,
    num_threads: int,
    patience_s: float = 30.0,
) -> "EarthEngine":
    """Start the client, which is one per process.

    Args:
        settings: Collection, bands, clouds.
        url: Endpoint; one on loopback needs no credentials.
        project: Google Cloud project, else that of the environment or the credentials.
        key_file: Key of a service account, else that of the environment.
        timeout_s: Deadline of a whole answer.
        num_threads: Requests at a time, at most.
        patience_s: Time for repeats of what fails at the start.

    Raises:
        UserError: Credentials or project are missing or refused, which no repeat changes.
        ComeBack: There is no answer, or not one of the service, or the project's quota is used up.
    """
    own_client = ee.oauth.CLIENT_ID, ee.oauth.CLIENT_SECRET
    credentials, project = find_credentials(url, project, key_file, own_client=own_client)
    transport = Transport(timeout_s, num_threads)
    # The client would fetch a list of outdated assets from another host, and warn on every answer.
    ee.deprecation.InitializeDeprecatedAssets = lambda: None
    warnings.filterwarnings("ignore", message="Your project has exceeded")
    patient = Requester(RateLimit(1, 10), base_wait_s=0.5, max_wait_s=2, budget_s=patience_s)
    try:
        patient.call(lambda: _start(credentials, url, project, transport))
    except Refused as error:  # in words of the service's own
        raise UserError(
            f"Earth Engine does not start for the project {project} ({error}): check --project and "
            "--ee_url"
        ) from error
    except Transient as error:
        raise ComeBack(
            f"Earth Engine does not answer at {url} ({error}): check the network, and --ee_url if "
            "you gave one"
        ) from error
    ee.data.setWorkloadTag("seco")
    return EarthEngine(settings, transport)


class EarthEngine:
    """A ``Source`` that asks Earth Engine; made by ``connect``."""

    places_per_search = 5

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self.transport = transport
        self._facts: dict[str, str] = {}
        self._has_searched = False
        scores = () if settings.cloud_score == "none" else (CLOUD_SCORE,)
        self._collections = (settings.collection, *scores)

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        """See ``Source``; the shares of clear and valid pixels are measured at 60 m."""
        expression = ee.List([self._scenes_of(place) for place in places])
        try:
            answer = self._ask(lambda: ee.data.computeValue(expression))
        except Missing as error:
            if not error.asset or error.asset in self._collections:
                self.check()
            raise
        try:
            bands = self._settings.bands
            found = [[parse_scene(scene["properties"], bands) for scene in own] for own in answer]
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise Transient("an answer that is not a list of scenes", is_strange=True) from error
        if len(found) != len(places):
            raise Transient("an answer for other places", is_strange=True)
        self._has_searched = True
        return [
            [scene for scene in scenes if zone_of(scene.name) == place.grid.zone]
            for place, scenes in zip(places, found, strict=True)
        ]

    def check(self) -> None:
        """See ``Source``; a computation, since these fail apart from the rest of the service."""
        sizes = ee.List([ee.ImageCollection(name).limit(1).size() for name in self._collections])
        try:
            self._ask(lambda: ee.data.computeValue(sizes))
        except Missing as error:
            if self._has_searched:
                raise Transient(f"{error}, though searches worked", is_strange=True) from error
            of_score = error.asset == CLOUD_SCORE
            flag = "--cloud_score" if of_score else "--collection"
            value = self._settings.cloud_score if of_score else self._settings.collection
            remedy = "give --cloud_score none" if of_score else "correct it"
            raise UserError(f"{flag} {quoted(value)} does not exist ({error}): {remedy}") from error
        except Transient as error:
            raise _alone(error) from error

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        """See ``Source``; 20 m and 60 m bands arrive upsampled to 10 m and are subsampled."""
        pixels = self._pixels(scene.name, grid, self._settings.bands)
        return {band: native(band, image) for band, image in pixels.items()}

    def describe(self) -> dict[str, str]:
        """See ``Source``."""
        score = self._settings.cloud_score
        return {
            "source": "earthengine",
            "collection": self._settings.collection,
            "cloud_score": "none" if score == "none" else f"{CLOUD_SCORE} {score}",
            "client": f"earthengine-api {ee.__version__}",
        }

    def facts(self) -> dict[str, str]:
        """See ``Source``."""
        seen = {f"answers of {kind}": text for kind, text in self.transport.headers.items()}
        return self._facts | seen | {"bytes received": str(self.transport.web.bytes_received)}

    def _scenes_of(self, place: Place) -> ee.List:
        """Describe the scenes of a place: features with their properties and shares of pixels."""
        settings, grid = self._settings, place.grid
        crs = f"EPSG:{grid.epsg}"
        patch = ee.Geometry.Rectangle(list(grid.bounds), proj=crs, geodesic=False)
        windows = [ee.Filter.date(str(w.start), str(w.end)) for w in place.windows]
        scenes = (
            ee.ImageCollection(settings.collection)
            .filterBounds(ee.Geometry.Point(place.longitude, place.latitude))
            .filter(ee.Filter.Or(*windows))
            .filter(ee.Filter.lt("CLOUDY_PIXEL_PERCENTAGE", settings.cloud_pct))
        )
        has_score = settings.cloud_score != "none"
        if has_score:
            score = ee.ImageCollection(CLOUD_SCORE)
            scenes = scenes.linkCollection(score, [settings.cloud_score])

        def measure(scene: ee.Image) -> ee.Feature:
            # Shares of all pixels, so that a hole in the scores gives numbers instead of nothing.
            image = scene.select(list(settings.bands)).mask().unmask(0, False)
            if has_score:
                score = scene.select(settings.cloud_score)
                known = score.mask().unmask(0, False).rename("known")
                clear = score.gte(settings.clear_threshold).unmask(0, False).rename("clear")
                image = image.addBands(known).addBands(clear)
            transform = [GRID_M, 0, grid.left, 0, -GRID_M, grid.top]
            shares = image.reduceRegion(ee.Reducer.mean(), patch, crs=crs, crsTransform=transform)
            feature = ee.Feature(None, shares).copyProperties(scene, list(PROPERTIES))
            return feature.set("scene", scene.get("system:index"))

        return scenes.map(measure).toList(_MOST_SCENES)

    def _pixels(self, name: str, grid: PatchGrid, bands: Sequence[str]) -> dict[str, Array]:
        """Read bands on the 10 m grid, by as many requests as their size needs."""
        request = {
            "assetId": f"{self._settings.collection}/{name}",
            "fileFormat": "NPY",
            "bandIds": list(bands),
            "grid": {
                "dimensions": {"width": grid.size_px, "height": grid.size_px},
                "affineTransform": {
                    "scaleX": 10,
                    "shearX": 0,
                    "translateX": grid.left,
                    "shearY": 0,
                    "scaleY": -10,
                    "translateY": grid.top,
                },
                "crsCode": f"EPSG:{grid.epsg}",
            },
        }
        try:
            content = self._ask(lambda: ee.data.getPixels(request))
        except Transient as error:
            if not error.is_too_large or len(bands) == 1:
                raise
        else:
            pixels = decode(content, bands, grid.size_px)
            self._facts["dtype of the pixels"] = pixels[bands[0]].dtype.str
            return pixels
        half = len(bands) // 2
        first = self._pixels(name, grid, bands[:half])
        return first | self._pixels(name, grid, bands[half:])

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        try:
            answer = request()
        except Transient:
            raise
        except Exception as error:
            if self.transport.is_restricted:
                raise ComeBack(_RESTRICTED) from error
            raise translate(error) from error
        if self.transport.is_restricted:
            raise ComeBack(_RESTRICTED)
        return answer


def _start(credentials: Any, url: str, project: str, transport: Transport) -> None:
    """Let the client, from its beginning, request what the service can do."""
    ee.Reset()
    ee.data.setMaxRetries(0)  # repeats are ours
    try:
        ee.Initialize(credentials, url=url.rstrip("/"), project=project, http_transport=transport)
        functions = ee.ApiFunction.allSignatures()
    except Transient as error:
        raise _alone(error) from error
    except Exception as error:
        raise _alone(translate(error)) from error
    if "Collection.filter" not in functions:
        raise Transient("an empty list of functions", is_strange=True)


def _alone(error: Exception) -> Exception:
    """Return what to raise where nothing smaller can be requested: it is repeated as it is."""
    if isinstance(error, Transient) and error.is_too_large:
        return Transient(str(error), wait_s=error.wait_s)
    return error
