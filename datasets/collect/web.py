"""HTTP with a deadline for each whole answer; every failure is one of the outcomes of a request."""

import threading
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from datasets.collect.scenes import Missing
from utils.retry import Transient, retry_after

_CHUNK = 2**16
_LATE = (requests.exceptions.Timeout, ReadTimeoutError, TimeoutError)


class Web:
    """A session that may be used by many threads.

    Args:
        timeout_s: For each whole answer; one that is silent at its end may take twice as long.
        num_threads: Connections that are kept; further requests open connections of their own.
    """

    def __init__(self, timeout_s: float, num_threads: int) -> None:
        self.timeout_s = timeout_s
        adapter = HTTPAdapter(pool_connections=2, pool_maxsize=num_threads)
        self._session = requests.Session()
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._session.auth = lambda request: request  # else passwords of ~/.netrc go to strangers
        hooks: dict[str, Any] = {"response": [_read_whole]}
        self._session.hooks = hooks
        self._lock = threading.Lock()
        self.num_answers = 0
        self.bytes_received = 0

    def request(
        self, method: str, url: str, *, is_heavy: bool = False, **options: Any
    ) -> requests.Response:
        """Return an answer of any status, with all of its body; ``Transient`` if there is none.

        Args:
            method: HTTP method.
            url: http or https.
            is_heavy: Whether a smaller request might be answered in time.
            **options: Arguments of ``requests.Session.request``.
        """
        try:
            response = self._session.request(method, url, timeout=self.timeout_s, **options)
        except _LATE as error:
            raise Transient("no answer in time", is_too_large=is_heavy) from error
        except (ValueError, requests.exceptions.TooManyRedirects) as error:
            raise Transient("an answer that leads away from the web", is_strange=True) from error
        except (HTTPError, OSError) as error:
            raise Transient("the connection broke") from error
        with self._lock:
            self.num_answers += 1
            self.bytes_received += len(response.content)
        return response

    def ask(self, method: str, url: str, **options: Any) -> requests.Response:
        """Return an answer with a status of success.

        Args:
            method: HTTP method.
            url: http or https.
            options: Arguments of ``requests.Session.request``.

        Raises:
            Transient: The request may work later.
            Missing: It has another status, such as 404.
        """
        is_search = method == "POST"  # ranges of files are small
        response = self.request(method, url, is_heavy=is_search, **options)
        status = response.status_code
        check_status(response, is_quota=status == 503, is_too_large=is_search and status == 504)
        if not 200 <= status < 300:
            raise Missing(f"HTTP {status}")
        return response


def check_status(
    response: requests.Response, *, is_quota: bool, is_too_large: bool, shown: str = ""
) -> None:
    """Raise ``Transient`` for a status after which a repeat may work.

    Args:
        response: Answer of any status.
        is_quota: Whether it means too many requests, as 429 always does; S3 says 503 Slow Down.
        is_too_large: Whether a smaller request may work.
        shown: Reason to give where the request is too large.
    """
    status, wait_s = response.status_code, retry_after(response.headers.get("Retry-After", ""))
    if status == 429 or is_quota:
        raise Transient(f"HTTP {status}, too many requests", wait_s=wait_s, is_quota=True)
    if is_too_large:
        raise Transient(shown or f"HTTP {status}", wait_s=wait_s, is_too_large=True)
    if status == 408 or status >= 500:
        raise Transient(f"HTTP {status}", wait_s=wait_s)


def _read_whole(response: requests.Response, timeout: float, **_: Any) -> None:
    """Read a body within the time of its request, also that of a redirect.

    The limits of requests and urllib3 are on the silence between two packets, so that an answer
    that drips would never end, and ``read`` would wait for a whole chunk. An answer that ends
    before its announced length is an error of urllib3.
    """
    end = time.monotonic() - response.elapsed.total_seconds() + timeout
    raw, parts = response.raw, []
    try:
        while part := raw.read1(_CHUNK, decode_content=True):
            parts.append(part)
            if time.monotonic() > end:
                raise TimeoutError
    except BaseException:
        response.close()
        raise
    raw.release_conn()
    # requests has no public way to set a body; without these names all tests of sources fail.
    response._content, response._content_consumed = b"".join(parts), True
