"""A web server on loopback that serves one file, as badly as a test requests."""

import re
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from datasets.miniature.services.loopback import LoopbackHandler, LoopbackServer, served
from tests.references.waiting import HANG_S


@dataclass
class Answer:
    """How one request is answered; the default is what a good server does."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    ignores_range: bool = False
    breaks_after: int | None = None  # bytes of the body
    stalls_after: int | None = None
    without_length: bool = False


class FileServer(LoopbackServer):
    """Answers requests by ``answers`` in order, then well.

    Attributes:
        content: The file.
        answers: Of the next requests.
        ranges: Ranges of the requests so far, None for everything.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(_Handler, ())
        self.content = content
        self.answers: list[Answer] = []
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.stop_stalling = self.stopping
        self.hung_up = threading.Event()  # set when a client leaves in the middle of an answer

    @property
    def url(self) -> str:
        return f"{super().url}/file"


class _Handler(LoopbackHandler):
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.paths.append(self.path)
        self.server.ranges.append(asked)
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        content = self.server.content if answer.content is None else answer.content
        is_part = asked is not None and not answer.ignores_range and answer.status is None
        start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if is_part else 0  # type: ignore
        headers = {}
        if is_part and start >= len(content):
            self._send(416, {"Content-Range": f"bytes */{len(content)}"} | answer.headers, b"")
            return
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        status = answer.status or (206 if is_part else 200)
        self._send(status, headers | answer.headers, content[start:], answer)

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, answer: Answer | None = None
    ) -> None:
        answer = answer or Answer()
        self.send_response(status)
        self.send_header("Connection", "close")  # else a client may send its next request into it
        for name, value in headers.items():
            self.send_header(name, value)
        if not answer.without_length and "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        ends = [end for end in (answer.breaks_after, answer.stalls_after) if end is not None]
        try:
            self.wfile.write(body[: min(ends, default=len(body))])
            self.wfile.flush()
        except ConnectionError:
            self.server.hung_up.set()
        if answer.stalls_after is not None:
            self.server.stop_stalling.wait(HANG_S)


def file_server(content: bytes) -> AbstractContextManager[FileServer]:
    """Serve until the block ends."""
    return served(FileServer(content))
