"""A loopback Earth Engine that the real client talks to."""

import importlib.util
import io
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from datasets.miniature.services.catalogue import Catalogue, pixel_centres
from datasets.miniature.services.expressions import S2, Evaluator
from datasets.miniature.services.faults import Fault, FaultPlan, missing, no_fault, status
from datasets.miniature.services.loopback import LoopbackHandler, LoopbackServer, served

_ASSETS = "/v1/projects/earthengine-public/assets/"
_LARGEST = 50_331_648  # bytes of a request for pixels
_TOKEN = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}


class EarthEngineServer(LoopbackServer):
    """Answers as Earth Engine does, as far as the collector requests.

    Args:
        catalogue: The archive.
        latency_s: Pause before every answer to a search or a read, s.
        fault_plan: Draws how searches, checks and reads fail.
        is_cheap: Little work per request, for benchmarks: the same pixels for all scenes of a size,
            no scenes of other zones, and a place's scenes are looked for once.
        port: Port to listen on; 0 chooses a free one.

    Attributes:
        requests: Number of requests of each kind: "search", "check", "read", or another path,
            such as "/token" for those who renew credentials.
        search_fault: Returns how a search fails always, of its expression and number of places.
        reads: How often each (asset, left, top) was read.
        tags: Workload tags that came.
    """

    def __init__(
        self,
        catalogue: Catalogue | None = None,
        *,
        latency_s: float = 0.0,
        fault_plan: FaultPlan | None = None,
        is_cheap: bool = False,
        port: int = 0,
    ) -> None:
        super().__init__(_Handler, ("search", "check", "read"), fault_plan, port)
        self.catalogue = catalogue or Catalogue()
        self.evaluator = Evaluator(self.catalogue, remembers=is_cheap)
        self.latency_s = latency_s
        self.search_fault: Callable[[str, int], Fault | None] = lambda expression, count: None
        self.reads: Counter[tuple[str, int, int]] = Counter()
        self.tags: set[str] = set()
        self._cached: dict[tuple[Any, ...], bytes] | None = {} if is_cheap else None

    def pixels(self, asset: str, request: dict[str, Any]) -> bytes:
        """Return an NPY file with a field per band.

        Args:
            asset: Collection and scene.
            request: Body of the request.
        """
        grid, bands = request["grid"], request["bandIds"]
        size, place = grid["dimensions"], grid["affineTransform"]
        left, top = place["translateX"], place["translateY"]
        with self.lock:
            self.reads[asset, left, top] += 1
        width, height = size["width"], size["height"]
        total = width * height * len(bands) * 3  # 2 bytes, and 1 of a mask
        if total > _LARGEST:
            limit = f"must be less than or equal to {_LARGEST} bytes."
            raise ValueError(f"Total request size ({total} bytes) {limit}")
        granule = self.catalogue.find(asset.removeprefix(f"{S2}/"))
        if granule is None or grid["crsCode"] != f"EPSG:{granule.epsg}":
            raise LookupError
        key = (width, height, *bands)
        if self._cached is not None and key in self._cached:
            return self._cached[key]
        x, y = pixel_centres(left, top, width, height, place["scaleX"])
        stack = np.zeros((height, width), [(band, "<u2") for band in bands])
        for band in bands:
            stack[band] = self.catalogue.values(granule, band, x, y)
        file = io.BytesIO()
        np.save(file, stack)
        if self._cached is not None:
            self._cached[key] = file.getvalue()
        return file.getvalue()


class _Handler(LoopbackHandler):
    server: EarthEngineServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.count(path)
        fault, body = self.server.next_fault(path) or no_fault, b""
        if path == "/$discovery/rest":
            body = json.dumps(_discovery(self.server.url)).encode()
        elif path.endswith("/algorithms"):
            body = _algorithms()
        else:
            fault = status(404)
        fault(self, body, self.mime)

    def do_POST(self) -> None:
        body, path = self.body(), urlsplit(self.path).path
        if path == "/token":
            self.server.count(path)
            fault = self.server.next_fault(path) or no_fault
            fault(self, json.dumps(_TOKEN).encode(), self.mime)
            return
        kind = "read"
        if path.endswith("/value:compute"):  # a search measures pixels
            kind = "search" if b"Image.reduceRegion" in body else "check"
        self.server.count(kind)
        time.sleep(self.server.latency_s)
        self._answer_to(kind, path, json.loads(body))()

    def _answer_to(self, kind: str, path: str, request: dict[str, Any]) -> Callable[[], None]:
        """Return what sends the answer."""
        self.server.tags.add(request.get("workloadTag", ""))
        asset = path.removeprefix(_ASSETS).removesuffix(":getPixels")
        value: Any = ()
        try:
            if kind == "read":
                body, mime = self.server.pixels(asset, request), "application/octet-stream"
            else:
                value = self.server.evaluator.evaluate(request["expression"])
                body, mime = json.dumps({"result": value}).encode(), self.mime
        except (ValueError, TypeError, AssertionError) as error:  # as for wrong arguments
            return partial(status(400, str(error)), self, b"", "")
        except LookupError as error:
            wrong = missing("Image", asset, 404) if kind == "read" else status(400, str(error))
            return partial(wrong, self, b"", "")
        fault = self.server.next_fault(kind)
        if kind == "search":
            fault = fault or self.server.search_fault(json.dumps(request["expression"]), len(value))
        return partial(fault or no_fault, self, body, mime)


def earth_engine(**settings: Any) -> AbstractContextManager[EarthEngineServer]:
    """Serve in threads of this process until the block ends."""
    return served(EarthEngineServer(**settings))


def _algorithms() -> bytes:
    """Read the list of functions that the client brings for its own tests."""
    spec = importlib.util.find_spec("ee")  # without the seconds that its import takes
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "tests/algorithms.json").read_bytes()


def _discovery(url: str) -> dict[str, Any]:
    """Describe the interface, as far as the client requests it."""
    query = {"type": "string", "location": "query"}
    methods = {
        "algorithms": _method("list", "GET", "v1/{+parent}/algorithms", "^projects/[^/]+$"),
        "value": _method("compute", "POST", "v1/{+project}/value:compute", "^projects/[^/]+$"),
        "assets": _method(
            "getPixels", "POST", "v1/{+name}:getPixels", "^projects/[^/]+/assets/.*$"
        ),
    }
    return {
        "kind": "discovery#restDescription",
        "name": "earthengine",
        "version": "v1",
        "rootUrl": f"{url}/",
        "servicePath": "",
        "parameters": dict.fromkeys(("alt", "key", "fields", "prettyPrint"), query),
        "schemas": {"Any": {"type": "object", "id": "Any"}},
        "resources": {"projects": {"methods": {}, "resources": methods}},
    }


def _method(name: str, verb: str, path: str, pattern: str) -> dict[str, Any]:
    parameter = path.partition("{+")[2].partition("}")[0]
    where = {"location": "path", "required": True, "type": "string", "pattern": pattern}
    method = {
        "id": f"earthengine.{name}",
        "httpMethod": verb,
        "path": path,
        "parameterOrder": [parameter],
        "parameters": {parameter: where},
        "response": {"$ref": "Any"},
    }
    body = {"request": {"$ref": "Any"}} if verb == "POST" else {}
    return {"methods": {name: method | body}}
