"""Every way in which requests to Earth Engine are known to fail, as a server does it."""

import json
import random
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.waiting import HANG_S

# Called with the handler and the good answer: body and content type.
Fault = Callable[[Any, bytes, str], None]


def status(
    code: int,
    message: str = "it went wrong",
    *,
    reason: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Fault:
    """Answer with an error of the service."""

    def answer(handler: Any, body: bytes, kind: str) -> None:
        errors = {"errors": [{"reason": reason, "message": message}]} if reason else {}
        error = {"code": code, "message": message, "status": "ERROR", **errors}
        handler.answer(code, json.dumps({"error": error}).encode(), headers=headers)

    return answer


def content(body: bytes, kind: str = "text/html", code: int = 200) -> Fault:
    """Answer with something else."""
    return lambda handler, _body, _kind: handler.answer(code, body, kind)


def reset(handler: BaseHTTPRequestHandler, body: bytes, kind: str) -> None:
    """Reset the connection."""
    now = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    handler.connection.close()
    handler.close_connection = True


def cut(handler: Any, body: bytes, kind: str) -> None:
    """Close the connection in the middle of the body."""
    handler.head(200, kind, len(body))
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def cut_chunked(handler: Any, body: bytes, kind: str) -> None:
    """Close the connection in the middle of a body of unknown length."""
    handler.head(200, kind, None)
    half = body[: len(body) // 2]
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
    handler.close_connection = True


def short(handler: Any, body: bytes, kind: str) -> None:
    """Send half of the body as if it were all."""
    handler.answer(200, body[: len(body) // 2], kind)


def hang(handler: Any, body: bytes, kind: str) -> None:
    """Answer nothing as long as the server runs."""
    handler.close_connection = True
    handler.server.stopping.wait(HANG_S)


def drip(handler: Any, body: bytes, kind: str) -> None:
    """Send a byte now and then, and the last one never."""
    handler.head(200, kind, len(body))
    for byte in body[:-1]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.stopping.wait(0.02):
            break
    hang(handler, body, kind)


def no_fault(handler: Any, body: bytes, kind: str) -> None:
    """Answer well, where others in a queue of faults do not."""
    handler.answer(200, body, kind)


class Held:
    """A fault that answers well, but not before the test allows it.

    Attributes:
        asked: Set by the first request that it holds.
        released: Lets all of them go on.
    """

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def __call__(self, handler: Any, body: bytes, kind: str) -> None:
        self.asked.set()
        self.released.wait(HANG_S)
        no_fault(handler, body, kind)


STALLING: dict[str, Fault] = {"hang": hang, "drip": drip}
HTML = b"<html><body>Please log in</body></html>"
# After these a repeat works.
PASSING: dict[str, Fault] = {
    "429": status(429, "Too many concurrent aggregations."),
    "429 with Retry-After": status(429, "Quota exceeded", headers=(("Retry-After", "0"),)),
    "500": status(500),
    "503": status(503),
    "502 with a page": content(HTML, code=502),
    "403 for the rate": status(403, "Quota exceeded", reason="rateLimitExceeded"),
    "reset": reset,
    "cut": cut,
    "cut in chunks": cut_chunked,
    "short": short,
    "empty": content(b"", "application/octet-stream"),
    "a page": content(HTML),
    "an empty object": content(b"{}", "application/json"),
}


class FaultPlan:
    """Makes a share of the requests fail, each way as often as the others.

    Args:
        share: 0 to 1.
        seed: Of the draws.
        faults: The ways.
    """

    def __init__(self, share: float, seed: int = 0, faults: dict[str, Fault] | None = None) -> None:
        self.share = share
        self.faults = PASSING if faults is None else faults
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> Fault | None:
        """Return how the next request fails, or None."""
        with self._lock:
            if self._random.random() >= self.share:
                return None
            return self.faults[self._random.choice(sorted(self.faults))]
