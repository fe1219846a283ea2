"""Scenes and pixels from Google Earth Engine, by its client.

Two kinds of requests: one search for several places, which also measures how clear each patch is,
and one read per image, straight from the asset. Nothing here has spoken to the real service yet.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ee
import httplib2
from google.auth.exceptions import GoogleAuthError, TransportError
from googleapiclient.errors import Error as ClientError

from datasets.collect import ee_answers
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
from datasets.collect.settings import PLACES_PER_SEARCH, Settings
from datasets.collect.web import Web
from utils.errors import UserError, quoted
from utils.retry import Transient

Answer = TypeVar("Answer")
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
_MOST_SCENES = 2000  # of a place; near the poles there are several a day
# What the client and its readers of JSON raise for an answer that is not the service's.
_STRANGE = (ClientError, EOFError, ValueError, LookupError, TypeError, AttributeError)


class Transport:
    """The transport below Earth Engine's client, as its ``http_transport`` requires.

    Answers of the service at ``url`` that are errors become ours before the client shortens them.

    Args:
        url: Endpoint of the service.
        timeout_s: Deadline of a whole answer in seconds.
        num_threads: Requests at a time, at most.
    """

    def __init__(self, url: str, timeout_s: float, num_threads: int) -> None:
        self.web = Web(timeout_s, num_threads)
        self.facts: dict[str, str] = {}  # of the last answer in each content type
        self._url = f"{url}/"

    def request(
        self, uri: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any
    ) -> tuple[httplib2.Response, bytes]:
        """Send a request as ``httplib2.Http`` does.

        Args:
            uri: Address.
            method: HTTP method.
            body: Content to send.
            headers: HTTP headers.
        """
        answer = self.web.request(method, uri, is_heavy=True, data=body, headers=headers)
        if "restricted=true" in answer.headers.get("x-earth-engine-quota-status", ""):
            raise ComeBack(
                "the project is in restricted mode, its compute hours of this month are used up: "
                "wait for the next month, or see "
                "developers.google.com/earth-engine/guides/noncommercial_tiers"
            )
        if uri.startswith(self._url):  # the service that renews credentials has errors of its own
            ee_answers.check_answer(answer)
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        self.facts[f"encoding of {kind}"] = answer.headers.get("Content-Encoding", "identity")
        headers = {**answer.headers, "status": str(answer.status_code)}
        return httplib2.Response(headers), answer.content


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
        UserError: The credentials or the project are refused.
        ComeBack: The service does not answer.
    """
    credentials, project = find_credentials(url, project, key_file)
    url = url.rstrip("/")
    transport = Transport(url, timeout_s, num_threads)
    # The client would fetch a list of outdated assets from another host.
    ee.deprecation.InitializeDeprecatedAssets = lambda: None

    def start() -> None:
        ee.Reset()
        ee.data.setMaxRetries(0)  # repeats are ours
        ee.Initialize(credentials, url=url, project=project, http_transport=transport)
        if "Collection.filter" not in ee.ApiFunction.allSignatures():
            raise Transient("an empty list of functions", is_strange=True)

    patient = Requester(RateLimit(1, 10), base_wait_s=0.5, max_wait_s=2, budget_s=patience_s)
    try:
        patient.call(lambda: _translated(start, is_smallest=True))
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
    """A ``Source`` that asks Earth Engine; made by ``connect``.

    Args:
        settings: Collection, bands, clouds.
        transport: Transport of the client.
    """

    places_per_search = PLACES_PER_SEARCH["earthengine"]

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self.transport = transport
        self._has_searched = False

    def search(self, places: Sequence[Place]) -> list[list[Scene]]:
        expression = ee.List([self._scenes_of(place) for place in places])
        answer = _translated(lambda: ee.data.computeValue(expression))
        parse, bands = ee_answers.parse_scene, self._settings.bands
        try:
            found = [
                (place, [parse(scene["properties"], bands) for scene in scenes])
                for place, scenes in zip(places, answer, strict=True)
            ]
        except (*_STRANGE, OverflowError, OSError) as error:
            raise Transient("an answer that is not a list of scenes", is_strange=True) from error
        self._has_searched = True
        return [
            [scene for scene in scenes if f"_T{place.grid.zone:02d}" in scene.name[-7:]]
            for place, scenes in found
        ]

    def check(self) -> None:
        collection, score = self._settings.collection, self._settings.cloud_score
        names = [collection] if score == "none" else [collection, CLOUD_SCORE]
        sizes = ee.List([ee.ImageCollection(name).limit(1).size() for name in names])
        try:
            _translated(lambda: ee.data.computeValue(sizes), is_smallest=True)
        except Missing as error:
            if self._has_searched:
                raise Transient(f"{error}, though searches worked", is_strange=True) from error
            raise UserError(
                f"--collection {quoted(collection)} does not exist, or that of --cloud_score "
                f"{score} ({error}): correct it, or give --cloud_score none"
            ) from error

    def read(self, scene: Scene, grid: PatchGrid) -> dict[str, Array]:
        """Read the bands of a patch; arguments as in ``Source.read``."""
        pixels = self._pixels(scene.name, grid, self._settings.bands)
        return {band: ee_answers.native(band, image) for band, image in pixels.items()}

    def describe(self) -> dict[str, str]:
        score = self._settings.cloud_score
        return {
            "source": "earthengine",
            "collection": self._settings.collection,
            "cloud_score": "none" if score == "none" else f"{CLOUD_SCORE} {score}",
            "client": f"earthengine-api {ee.__version__}",
        }

    def facts(self) -> dict[str, str]:
        return {**self.transport.facts, "bytes received": str(self.transport.web.bytes_received)}

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
            feature = ee.Feature(None, shares).copyProperties(scene, list(ee_answers.PROPERTIES))
            return feature.set("scene", scene.get("system:index"))

        return scenes.map(measure).toList(_MOST_SCENES)

    def _pixels(self, name: str, grid: PatchGrid, bands: Sequence[str]) -> dict[str, Array]:
        """Read bands on the 10 m grid, by as many requests as their size needs."""
        scale = {"scaleX": 10, "shearX": 0, "shearY": 0, "scaleY": -10}
        request = {
            "assetId": f"{self._settings.collection}/{name}",
            "fileFormat": "NPY",
            "bandIds": list(bands),
            "grid": {
                "dimensions": {"width": grid.size_px, "height": grid.size_px},
                "affineTransform": {**scale, "translateX": grid.left, "translateY": grid.top},
                "crsCode": f"EPSG:{grid.epsg}",
            },
        }
        try:
            content = _translated(lambda: ee.data.getPixels(request))
        except Transient as error:
            if not error.is_too_large or len(bands) == 1:
                raise
            half = len(bands) // 2
            first = self._pixels(name, grid, bands[:half])
            return first | self._pixels(name, grid, bands[half:])
        pixels = ee_answers.decode(content, bands, grid.size_px)
        self.transport.facts["dtype of the pixels"] = pixels[bands[0]].dtype.str
        return pixels


def _translated(request: Callable[[], Answer], *, is_smallest: bool = False) -> Answer:
    """Return what a request of the client returns, or raise one of our errors instead of its own.

    Args:
        request: Calls the client.
        is_smallest: Nothing smaller can be requested, so that it is repeated as it is.
    """
    try:
        return request()
    except Transient as error:
        error.is_too_large = error.is_too_large and not is_smallest
        raise
    except Exception as error:  # what the transport let pass; of version 1.7.50
        cause: Any = error if hasattr(error, "resp") else error.__context__
        status = getattr(getattr(cause, "resp", None), "status", 0)
        if isinstance(error, TransportError) or getattr(error, "retryable", False):
            raise Transient("the connection broke") from error  # to the service of credentials
        if isinstance(error, GoogleAuthError) or status == 401:
            raise UserError(
                "Earth Engine's credentials are missing, expired or revoked: run `earthengine "
                "authenticate`, or give --service_account_key"
            ) from error
        if isinstance(error, ee.EEException):  # of the client alone: the request is wrong
            raise Refused(quoted(str(error), 200)) from error
        if isinstance(error, _STRANGE):
            raise Transient("an answer that is not the service's", is_strange=True) from error
        raise
