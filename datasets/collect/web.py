"""HTTP with a deadline for each whole answer; what fails is ``Transient``, or a status to judge."""

import threading
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from utils.retry import Transient, retry_after

_CHUNK = 2**16
_BUSY = (429, 503)  # S3 says 503 Slow Down
_ASTRAY = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)


class Answered(Exception):
    """The service answered with a status that a repeat will not change.

    Attributes:
        status: HTTP status, such as 404.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Web:
    """A session that may be used by many threads.

    Args:
        timeout_s: For each answer, from sending the request to its last byte; one that is silent at
            the end may take twice as long.
        num_threads: Connections that are kept.
    """

    def __init__(self, timeout_s: float, num_threads: int) -> None:
        self.timeout_s = timeout_s
        # More requests at a time than are kept open take connections of their own.
        adapter = _DeadlineAdapter(pool_connections=2, pool_maxsize=num_threads)
        self._session = requests.Session()
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._session.auth = lambda request: request  # else passwords of ~/.netrc go to strangers
        self._lock = threading.Lock()
        self.num_requests = 0
        self.bytes_received = 0

    def request(
        self, method: str, url: str, *, is_heavy: bool = False, **options: Any
    ) -> requests.Response:
        """Return an answer of any status, with all of its body.

        Args:
            method: HTTP method.
            url: http or https.
            is_heavy: Whether a smaller request might be answered in time.
            **options: Arguments of ``requests.Session.request``.

        Raises:
            Transient: No whole answer came.
        """
        with self._lock:
            self.num_requests += 1
        try:
            response = self._session.request(method, url, timeout=self.timeout_s, **options)
        except requests.exceptions.Timeout as error:
            raise Transient("no answer in time", is_too_large=is_heavy) from error
        except _ASTRAY as error:
            raise Transient("an answer that leads away from the web", is_strange=True) from error
        except requests.exceptions.TooManyRedirects as error:
            raise Transient("redirects without an end", is_strange=True) from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise Transient("the connection broke") from error
        except ValueError as error:  # a Location or an address that urllib3 cannot read
            raise Transient("an answer with a wrong address", is_strange=True) from error
        with self._lock:
            self.bytes_received += len(response.content)
        return response

    def ask(self, method: str, url: str, **options: Any) -> requests.Response:
        """Return an answer with a status of success.

        Raises:
            Transient: It may work later.
            Answered: An answer with another status than 2xx, not worth a repeat.
        """
        is_search = method == "POST"  # ranges of files are small
        response = self.request(method, url, is_heavy=is_search, **options)
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


class _DeadlineAdapter(HTTPAdapter):
    """Reads whole answers within a total time, also those of redirects.

    The limits of requests and urllib3 are on the silence between two packets: an answer that drips
    never ends.
    """

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request, and return its answer with all of its body.

        Urllib3 takes the timeout until the headers, and then between two packets; here it is also
        that of the whole answer.
        """
        # requests has no public way to set a body; without these names the tests of STAC fail.
        end = time.monotonic() + kwargs["timeout"]
        response = super().send(request, *args, **kwargs)
        try:
            response._content = _read(response, end)
        except (HTTPError, OSError) as error:
            response.close()
            if isinstance(error, requests.exceptions.RequestException):
                raise
            if isinstance(error, ReadTimeoutError):
                raise requests.exceptions.ReadTimeout(error, request=request) from error
            raise requests.exceptions.ConnectionError(error, request=request) from error
        response._content_consumed = True
        return response


def _read(response: requests.Response, end: float) -> bytes:
    """Read a body as it comes; ``read`` would wait for a whole chunk, however slowly it drips.

    An answer that ends before its announced length is an error of urllib3 already.
    """
    raw, parts = response.raw, []
    while part := raw.read1(_CHUNK, decode_content=True):
        parts.append(part)
        if time.monotonic() > end:
            raise requests.exceptions.ReadTimeout("the answer took too long")
    raw.release_conn()
    return b"".join(parts)
