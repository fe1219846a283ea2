"""Requests to a STAC catalogue and to its files, each within a time, with its errors told apart.

GDAL never touches the network. Its own client repeats and waits as it likes, hides the status and
Retry-After, and keeps other threads from running while it waits for an answer. It reads from here
instead: ``RemoteFile`` fetches the ranges that it asks for.
"""

import io
import re
import threading
import time
from typing import Any

import requests

from datasets.collect.ee_http import PatientAdapter
from datasets.collect.scenes import Missing, Refused
from utils.retry import Transient, retry_after

HEAD_BYTES = 2**15  # header, directories and tables of a COG; also the least that is asked for
_TRIES = 3  # of a range: an image takes 40, and one that fails would cost the others
PAUSE_S = 0.1
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CONNECTIONS = 64  # that are kept; the default of requests in flight is 40
_BUSY = (429, 503)  # S3 says 503 Slow Down
_ASTRAY = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)


class Web:
    """A session that may be used by many threads.

    Args:
        timeout_s: For an answer, whole.
    """

    def __init__(self, timeout_s: float) -> None:
        self._adapter = PatientAdapter(timeout_s, _CONNECTIONS)
        self._session = requests.Session()
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        self._session.auth = lambda request: request  # else passwords of ~/.netrc go to strangers
        self._lock = threading.Lock()
        self.num_requests = 0

    @property
    def bytes_received(self) -> int:
        """Of all answers."""
        return self._adapter.bytes_received

    def ask(self, method: str, url: str, **options: Any) -> requests.Response:
        """Return an answer that is no refusal.

        Raises:
            Transient: It may work later.
            Answered: An answer with another status than 2xx, not worth a repeat.
        """
        is_search = method == "POST"  # ranges of files are small
        with self._lock:
            self.num_requests += 1
        try:
            response = self._session.request(method, url, **options)
        except requests.exceptions.Timeout as error:
            raise Transient("no answer in time", is_too_large=is_search) from error
        except _ASTRAY as error:
            raise Transient("an answer that leads away from the web", is_strange=True) from error
        except requests.exceptions.TooManyRedirects as error:
            raise Transient("redirects without an end", is_strange=True) from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise Transient("the connection broke") from error
        except ValueError as error:  # a Location or an address that urllib3 cannot read
            raise Transient("an answer with a wrong address", is_strange=True) from error
        status = response.status_code
        wait_s = retry_after(response.headers.get("Retry-After", ""))
        if status in _BUSY:
            raise Transient(f"HTTP {status}, too many requests", wait_s=wait_s, is_quota=True)
        if status == 408 or status >= 500:
            is_too_large = is_search and status == 504
            raise Transient(f"HTTP {status}", wait_s=wait_s, is_too_large=is_too_large)
        if not 200 <= status < 300:
            raise Answered(status, response.text)
        return response


class Answered(Exception):
    """The service answered with a status that a repeat will not change.

    Attributes:
        status: Such as 404.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RemoteFile:
    """A TIFF of which ranges are fetched as GDAL asks for them, each once.

    GDAL swallows what a reader raises: ``error`` keeps the first one, and nothing more is fetched.

    Args:
        web: Session.
        url: http or https.

    Raises:
        Transient: It may work later.
        Missing: There is no such file.
        Refused: It is no TIFF.
    """

    def __init__(self, web: Web, url: str) -> None:
        self._web = web
        self._url = url
        self.error: Exception | None = None
        self._parts: list[tuple[int, bytes]] = []
        self.size = 0
        head = self._fetch(0, HEAD_BYTES)
        if not head.startswith(_TIFF):
            raise Refused("a file that is no TIFF")
        self._parts.append((0, head))

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.RawIOBase:
        """Return a reader at the beginning; rasterio opens, and closes, several."""
        return _Reader(self)

    def read_at(self, start: int, count: int) -> bytes:
        """Return a range, cut at the end of the file; nothing after an error."""
        end = min(start + count, self.size)
        for first, part in self._parts:
            if first <= start and end <= first + len(part):
                return part[start - first : end - first]
        if self.error is not None or start >= end:
            return b""
        try:
            part = self._fetch(start, max(count, HEAD_BYTES))
        except (Transient, Refused) as error:
            self.error = error
            return b""
        self._parts.append((start, part))
        return part[: end - start]

    def _fetch(self, start: int, count: int) -> bytes:
        for left in reversed(range(_TRIES)):
            try:
                return self._fetch_once(start, count)
            except Transient as error:
                if error.is_quota or error.wait_s or not left:
                    raise
                time.sleep(PAUSE_S)
        raise AssertionError

    def _fetch_once(self, start: int, count: int) -> bytes:
        headers = {"Range": f"bytes={start}-{start + count - 1}", "Accept-Encoding": "identity"}
        try:
            response = self._web.ask("GET", self._url, headers=headers)
        except Answered as error:
            raise Missing(f"HTTP {error.status} for a file of the scene") from error
        content = response.content
        if response.status_code != 206:
            if content.startswith(_TIFF):
                raise Refused("a server that sends no part of a file")
            raise Transient("an answer that is no part of a file", is_strange=True)
        place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        first, last, size = map(int, place.groups()) if place else (-1, -1, 0)
        if (
            first != start
            or last + 1 != min(start + count, size)
            or len(content) != last + 1 - start
        ):
            raise Transient("another part of a file than was asked for", is_strange=True)
        if self.size not in (0, size):
            raise Transient("a file that changes", is_strange=True)
        self.size = size
        return content


class _Reader(io.RawIOBase):
    """A position in a ``RemoteFile``."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._remote.size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def read(self, count: int = -1) -> bytes:
        content = self._remote.read_at(self._at, self._remote.size if count < 0 else count)
        self._at += len(content)
        return content
