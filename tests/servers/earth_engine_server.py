"""A loopback Earth Engine that the real client talks to; also a process of its own:

python -m tests.servers.earth_engine_server --latency 0.05 --fault_share 0.1
"""

import argparse
import io
import json
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tests.servers.earth_engine_catalogue import Catalogue, pixel_centres
from tests.servers.earth_engine_discovery import algorithms, discovery
from tests.servers.earth_engine_expressions import S2, Evaluator
from tests.servers.earth_engine_faults import Fault, FaultPlan, status

_ASSETS = "/v1/projects/earthengine-public/assets/"
_LARGEST = 50_331_648  # bytes of a request for pixels


class EarthEngineServer(ThreadingHTTPServer):
    """Answers as Earth Engine does, as far as the collector asks.

    Attributes:
        requests: How often each kind was asked: "search", "check", "read", or another path.
        search_fault: Returns how a search fails always, of its expression and number of places.
        reads: How often each (asset, left, top) was read.
        tags: Workload tags that came.
        faults: Of the next requests by kind, before those of ``fault_plan``.
        latency_s: Before every answer to a search or a read.
        most_at_a_time: More requests at a time are answered with 429.
        headers: Added to all answers.
        stopping: Set at the end, for answers that stall.

    Args:
        is_cheap: Little work per request, for benchmarks: the same pixels for all scenes of a
            size, no scenes of other zones, and a place's scenes are looked for once.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

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
        super().__init__(("127.0.0.1", port), _Handler)
        self.catalogue = catalogue or Catalogue()
        self.evaluator = Evaluator(self.catalogue, other_zones=not is_cheap, remembers=is_cheap)
        self.latency_s = latency_s
        self.fault_plan = fault_plan or FaultPlan(0)
        kinds = ("search", "check", "read")
        self.faults: dict[str, deque[Fault]] = {kind: deque() for kind in kinds}
        self.search_fault: Callable[[str, int], Fault | None] = lambda expression, count: None
        self.most_at_a_time = most_at_a_time
        self.headers: tuple[tuple[str, str], ...] = ()
        self.requests: Counter[str] = Counter()
        self.reads: Counter[tuple[str, int, int]] = Counter()
        self.tags: set[str] = set()
        self.algorithms = algorithms()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._at_a_time = 0
        self._is_cheap = is_cheap
        self._cached: dict[tuple[Any, ...], bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client may go away
            super().handle_error(request, client_address)

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

    def next_fault(self, kind: str) -> Fault | None:
        if kind not in self.faults:
            return None
        queue = self.faults[kind]
        with self.lock:
            queued = queue.popleft() if queue else None
        return queued or self.fault_plan.draw()

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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: EarthEngineServer

    def log_message(self, *arguments: object) -> None:
        pass

    def head(
        self, code: int, kind: str, length: int | None, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        for name, value in (*self.server.headers, *headers):
            self.send_header(name, value)
        self.end_headers()

    def answer(
        self,
        code: int,
        body: bytes,
        kind: str = "application/json; charset=UTF-8",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.head(code, kind, len(body), headers)
        self.wfile.write(body)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        with self.server.lock:
            self.server.requests[path] += 1
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
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if path == "/token":
            token = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
            with self.server.lock:
                self.server.requests[path] += 1
            self.answer(200, json.dumps(token).encode())
            return
        kind = "read"
        if path.endswith("/value:compute"):  # a search measures pixels
            kind = "search" if b"Image.reduceRegion" in body else "check"
        with self.server.lock:
            self.server.requests[kind] += 1
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


@contextmanager
def earth_engine(**settings: Any) -> Iterator[EarthEngineServer]:
    """Serve in threads of this process until the block ends."""
    server = EarthEngineServer(**settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    """Serve until the process ends; the first line that is printed is the address."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--latency", type=float, default=0.0)
    add("--fault_share", type=float, default=0.0)
    add("--fault_seed", type=int, default=0)
    add("--most_at_a_time", type=int, default=1000)
    add("--cloudiness", type=float, default=0.44)
    add("--cheap_pixels", action="store_true", help="the same pixels for all scenes")
    args = parser.parse_args()
    server = EarthEngineServer(
        Catalogue(cloudiness=args.cloudiness),
        port=args.port,
        latency_s=args.latency,
        fault_plan=FaultPlan(args.fault_share, args.fault_seed),
        most_at_a_time=args.most_at_a_time,
        is_cheap=args.cheap_pixels,
    )
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
