"""Every way in which requests to Earth Engine are known to fail, as a server does it."""

import json
import random
import socket
import struct
import threading
from typing import Any, Protocol

HANG_S = 600.0  # of an answer that stalls, unless the server stops before
# google.rpc.Code of each status (cloud.google.com/apis/design/errors).
_CODES = {
    **{400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"},
    **{404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"},
    **{503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"},
}


class Fault(Protocol):
    """A way to answer a request, usually a wrong one."""

    def __call__(self, handler: Any, body: bytes, kind: str, /) -> None:
        """Answer.

        Args:
            handler: Handler of the request.
            body: Body of the good answer.
            kind: Content type of the good answer.
        """


def status(
    code: int,
    message: str = "An internal error has occurred",
    *,
    reason: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Fault:
    """Answer with an error of the service.

    Args:
        code: HTTP status.
        message: Message of the error.
        reason: Reason for programs.
        headers: HTTP headers.
    """
    error: dict[str, Any] = {"code": code, "message": message, "status": _CODES[code]}
    if reason:
        error["errors"] = [{"reason": reason, "message": message}]
    return content(json.dumps({"error": error}).encode(), "application/json", code, headers)


def content(
    body: bytes,
    kind: str = "text/html",
    code: int = 200,
    headers: tuple[tuple[str, str], ...] = (),
) -> Fault:
    """Answer with something else.

    Args:
        body: Content to send.
        kind: Its content type.
        code: HTTP status.
        headers: HTTP headers.
    """
    return lambda handler, _body, _kind: handler.answer(code, body, kind, headers)


def reset(handler: Any, body: bytes, kind: str) -> None:
    """Reset the connection.

    Args:
        handler: Handler of the request.
        body: Body of a good answer.
        kind: Its content type.
    """
    now = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    handler.connection.close()
    handler.close_connection = True


def cut(handler: Any, body: bytes, kind: str) -> None:
    """Close the connection in the middle of the body. Arguments as in ``reset``."""
    handler.head(200, kind, len(body))
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def cut_chunked(handler: Any, body: bytes, kind: str) -> None:
    """Close the connection in the middle of a body of unknown length. Arguments as in ``reset``."""
    handler.head(200, kind, None)
    half = body[: len(body) // 2]
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
    handler.close_connection = True


def short(handler: Any, body: bytes, kind: str) -> None:
    """Send half of the body as if it were all. Arguments as in ``reset``."""
    handler.answer(200, body[: len(body) // 2], kind)


def hang(handler: Any, body: bytes, kind: str) -> None:
    """Answer nothing as long as the server runs. Arguments as in ``reset``."""
    handler.close_connection = True
    handler.server.stopping.wait(HANG_S)


def drip(handler: Any, body: bytes, kind: str) -> None:
    """Send a byte now and then, and the last one never. Arguments as in ``reset``."""
    handler.head(200, kind, len(body))
    for byte in body[:-1]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.stopping.wait(0.02):
            break
    hang(handler, body, kind)


def no_fault(handler: Any, body: bytes, kind: str) -> None:
    """Answer well, where others in a queue of faults do not. Arguments as in ``reset``."""
    handler.answer(200, body, kind)


def missing(kind: str, asset: str, code: int = 400) -> Fault:
    """Answer as for an asset that is not there, as in Open-ET/openet-ssebop issue 74.

    Args:
        kind: Kind of the asset.
        asset: Its name.
        code: HTTP status.
    """
    text = f"{kind} asset '{asset}' not found (does not exist or caller does not have access)."
    return status(code, f"{kind}.load: {text}")


# With HTTP 400: gee-community/geemap issues 1790 and 1092, and the errors of scaling in
# developers.google.com/earth-engine/guides/debugging.
TOO_LARGE: dict[str, Fault] = {
    "timed out": status(400, "Computation timed out."),
    "memory": status(400, "User memory limit exceeded."),
    "payload": status(400, "Request payload size exceeds the limit: 10485760 bytes."),
    "504": status(504, "Deadline exceeded"),
}
# developers.google.com/earth-engine/guides/cost_controls
DAY = status(
    429,
    "Your usage exceeded the custom quota for 'earthengine.googleapis.com/daily_eecu_usage_time', "
    "which is adjustable by your administrator in the Google Cloud console: "
    "https://console.cloud.google.com/quotas/?project=_.",
)


def quota(limit: str) -> Fault:
    """Answer as any Google API whose quota is used up (google-gemini/gemini-cli issue 10513)."""
    return status(
        429,
        f"Quota exceeded for quota metric 'Number of read requests' and limit '{limit}' of service "
        "'earthengine.googleapis.com' for consumer 'project_number:599401802498'.",
        reason="rateLimitExceeded",
    )


class Held:
    """A fault that answers correctly, but not before a test sets ``released``.

    Attributes:
        asked: Set by the first request that it holds.
    """

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def __call__(self, handler: Any, body: bytes, kind: str) -> None:
        """Wait, then answer without a fault. Arguments as in ``Fault``."""
        self.asked.set()
        self.released.wait(HANG_S)
        no_fault(handler, body, kind)


STALLING: dict[str, Fault] = {"hang": hang, "drip": drip}
HTML = b"<html><body>Please log in</body></html>"
_BUSY = "Too many concurrent aggregations."
# After these a repeat works.
PASSING: dict[str, Fault] = {
    "429": status(429, _BUSY),
    "429 with Retry-After": status(429, _BUSY, headers=(("Retry-After", "0"),)),
    "429 of a minute": quota("Number of read requests per minute per user"),
    "500": status(500),
    "503": status(503),
    "502 with a page": content(HTML, code=502),
    "403 for the rate": status(403, "Rate Limit Exceeded", reason="rateLimitExceeded"),
    "reset": reset,
    "cut": cut,
    "cut in chunks": cut_chunked,
    "short": short,
    "empty": content(b"", "application/octet-stream"),
    "a page": content(HTML),
    "an empty object": content(b"{}", "application/json"),
}


class FaultPlan:
    """Makes a share of the requests fail, each way in ``faults`` as often as the others.

    Args:
        share: Share of the requests, 0 .. 1.
        seed: Seed of the draw.
        faults: Ways to fail.
    """

    def __init__(self, share: float, seed: int = 0, faults: dict[str, Fault] | None = None) -> None:
        self._share = share
        self._faults = list((PASSING if faults is None else faults).values())
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> Fault | None:
        """Return how the next request fails, or None."""
        with self._lock:
            if self._random.random() >= self._share:
                return None
            return self._random.choice(self._faults)
