"""A server on loopback that counts its requests, and fails as a test demands."""

import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from datasets.miniature.services.faults import Fault, FaultPlan


class LoopbackServer(ThreadingHTTPServer):
    """Answers many threads; a request of a kind in ``faults`` may fail.

    Attributes:
        requests: Number of requests of each kind.
        faults: Faults of the next requests by kind, before those of ``fault_plan``.
        headers: Added to all answers.
        stopping: Set at the end, for answers that stall.

    Args:
        handler: Class that answers.
        kinds: Kinds of requests that may fail.
        fault_plan: Draws how the requests fail.
        port: Port to listen on; 0 chooses a free one.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        handler: type["LoopbackHandler"],
        kinds: Sequence[str],
        fault_plan: FaultPlan | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.fault_plan = fault_plan or FaultPlan(0)
        self.faults: dict[str, deque[Fault]] = {kind: deque() for kind in kinds}
        self.headers: tuple[tuple[str, str], ...] = ()
        self.requests: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """Address without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print a traceback, unless the client has gone away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def count(self, kind: str) -> None:
        """Count a request."""
        with self.lock:
            self.requests[kind] += 1

    def next_fault(self, kind: str) -> Fault | None:
        """Return how the next request of a kind fails, or None."""
        if kind not in self.faults:
            return None
        with self.lock:
            queued = self.faults[kind].popleft() if self.faults[kind] else None
        return queued or self.fault_plan.draw()


class LoopbackHandler(BaseHTTPRequestHandler):
    """Sends answers over kept connections; ``mime`` is their usual content type."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    mime = "application/json; charset=UTF-8"
    server: Any

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def body(self) -> bytes:
        """Read the body of the request."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def head(
        self, code: int, kind: str, length: int | None, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send status and headers; a body of unknown length is sent in chunks.

        Args:
            code: HTTP status.
            kind: Content type.
            length: Bytes of the body; None sends it in chunks.
            headers: Headers besides those of all answers.
        """
        self.send_response(code)
        known = {item[0] for item in headers}
        size = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", length)
        for name, value in (("Content-Type", kind), size, *self.server.headers):
            if name not in known:
                self.send_header(name, str(value))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def answer(
        self, code: int, body: bytes, kind: str | None = None, headers: Sequence[Any] = ()
    ) -> None:
        """Send an answer with its body.

        Args:
            code: HTTP status.
            body: Body of the answer.
            kind: Content type; None is that of the service.
            headers: Headers besides those of all answers.
        """
        self.head(code, kind or self.mime, len(body), headers)
        self.wfile.write(body)


Server = TypeVar("Server", bound=LoopbackServer)


@contextmanager
def served(server: Server) -> Iterator[Server]:
    """Serve in threads of this process until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
