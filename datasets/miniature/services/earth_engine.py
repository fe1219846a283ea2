"""A loopback Earth Engine that the real client talks to."""

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from datasets.miniature.services.catalogue import Catalogue, pixel_centres
from datasets.miniature.services.discovery import algorithms, discovery
from datasets.miniature.services.expressions import S2, Evaluator
from datasets.miniature.services.faults import Fault, FaultPlan, no_fault, status
from datasets.miniature.services.loopback import LoopbackHandler, LoopbackServer, served

_ASSETS = "/v1/projects/earthengine-public/assets/"
_LARGEST = 50_331_648  # bytes of a request for pixels


class EarthEngineServer(LoopbackServer):
    """Answers as Earth Engine does, as far as the collector requests.

    Attributes:
        requests: Number of requests of each kind: "search", "check", "read", or another path,
            such as "/token" for those who renew credentials.
        search_fault: Returns how a search fails always, of its expression and number of places.
        reads: How often each (asset, left, top) was read.
        tags: Workload tags that came.
        latency_s: Pause before every answer to a search or a read.
        most_at_a_time: More requests at a time are answered with 429.

    Args:
        is_cheap: Little work per request, for benchmarks: the same pixels for all scenes of a
            size, no scenes of other zones, and a place's scenes are looked for once.
    """

    def __init__(
        self,
        catalogue: Catalogue | None = None,
        *,
        port: int = 0,
        latency_s: float = 0.0,
        fault_plan: FaultPlan | None = None,
        most_at_a_time: int = 1000,
        is_cheap: bool = False,
    ) -> None:
        super().__init__(_Handler, ("search", "check", "read"), port=port, fault_plan=fault_plan)
        self.catalogue = catalogue or Catalogue()
        self.evaluator = Evaluator(self.catalogue, other_zones=not is_cheap, remembers=is_cheap)
        self.latency_s = latency_s
        self.search_fault: Callable[[str, int], Fault | None] = lambda expression, count: None
        self.most_at_a_time = most_at_a_time
        self.reads: Counter[tuple[str, int, int]] = Counter()
        self.tags: set[str] = set()
        self.algorithms = algorithms()
        self._at_a_time = 0
        self._is_cheap = is_cheap
        self._cached: dict[tuple[Any, ...], bytes] = {}

    @contextmanager
    def counted(self) -> Iterator[int]:
        """Count the requests that are answered at the same time."""
        with self.lock:
            self._at_a_time += 1
            count = self._at_a_time
        try:
            yield count
        finally:
            with self.lock:
                self._at_a_time -= 1

    def pixels(self, asset: str, request: dict[str, Any]) -> bytes:
        """Return an NPY file with a field per band."""
        grid, bands = request["grid"], request["bandIds"]
        size, place = grid["dimensions"], grid["affineTransform"]
        left, top = place["translateX"], place["translateY"]
        with self.lock:
            self.reads[asset, left, top] += 1
        width, height = size["width"], size["height"]
        total = width * height * len(bands) * 3  # 2 bytes, and 1 of a mask
        if total > _LARGEST:
            raise ValueError(
                f"Total request size ({total} bytes) must be less than or equal to {_LARGEST} "
                "bytes."
            )
        granule = self.catalogue.find(asset.removeprefix(f"{S2}/"))
        if granule is None or grid["crsCode"] != f"EPSG:{granule.epsg}":
            raise LookupError(
                f"Image.load: Image asset '{asset}' not found (does not exist or caller does not "
                "have access)."
            )
        key = (width, height, *bands)
        if self._is_cheap and key in self._cached:
            return self._cached[key]
        x, y = pixel_centres(left, top, width, height, place["scaleX"])
        stack = np.zeros((height, width), [(band, "<u2") for band in bands])
        for band in bands:
            stack[band] = self.catalogue.values(granule, band, x, y)
        file = io.BytesIO()
        np.save(file, stack)
        self._cached[key] = file.getvalue()
        return file.getvalue()


class _Handler(LoopbackHandler):
    server: EarthEngineServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.count(path)
        fault = self.server.next_fault(path)
        if fault is not None:
            fault(self, b"", "application/json")
        elif path == "/$discovery/rest":
            self.answer(200, json.dumps(discovery(self.server.url)).encode())
        elif path.endswith("/algorithms"):
            self.answer(200, self.server.algorithms)
        else:
            status(404)(self, b"", "")

    def do_POST(self) -> None:
        body = self.body()
        path = urlsplit(self.path).path
        if path == "/token":
            self.server.count(path)
            token = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
            fault = self.server.next_fault(path) or no_fault
            fault(self, json.dumps(token).encode(), self.mime)
            return
        kind = "read"
        if path.endswith("/value:compute"):  # a search measures pixels
            kind = "search" if b"Image.reduceRegion" in body else "check"
        self.server.count(kind)
        with self.server.counted() as count:
            time.sleep(self.server.latency_s)
            answer = self._answer_to(kind, path, json.loads(body), count)
        answer()  # uncounted: who has it may ask again before we know

    def _answer_to(
        self, kind: str, path: str, request: dict[str, Any], count: int
    ) -> Callable[[], None]:
        """Return what sends the answer."""
        if count > self.server.most_at_a_time:
            return partial(status(429, "Too many concurrent aggregations."), self, b"", "")
        self.server.tags.add(request.get("workloadTag", ""))
        try:
            if kind != "read":
                value = self.server.evaluator.evaluate(request["expression"])
                body, mime = json.dumps({"result": value}).encode(), "application/json"
            else:
                asset = path.removeprefix(_ASSETS).removesuffix(":getPixels")
                body, mime = self.server.pixels(asset, request), "application/octet-stream"
        except (ValueError, TypeError, AssertionError) as error:  # as for wrong arguments
            return partial(status(400, str(error)), self, b"", "")
        except LookupError as error:
            return partial(status(404 if kind == "read" else 400, str(error)), self, b"", "")
        fault = self.server.next_fault(kind)
        if kind == "search":
            expression = json.dumps(request["expression"])
            fault = fault or self.server.search_fault(expression, len(value))
        if fault is not None:
            return partial(fault, self, body, mime)
        return partial(self.answer, 200, body, mime)


def earth_engine(**settings: Any) -> AbstractContextManager[EarthEngineServer]:
    """Serve in threads of this process until the block ends."""
    return served(EarthEngineServer(**settings))
