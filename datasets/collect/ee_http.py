"""The transport below Earth Engine's client: what it lacks is an end to slow answers."""

import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

_CHUNK = 2**16
QUOTA_STATUS = "x-earth-engine-quota-status"


class PatientAdapter(HTTPAdapter):
    """Reads whole answers within a total time, and remembers what they looked like.

    The client's own limit is on the silence between two packets: an answer that drips never ends.

    Args:
        timeout_s: For an answer, from sending the request to its last byte; one that is silent at
            the end may take twice as long.
        num_threads: Connections that are kept.
    """

    def __init__(self, timeout_s: float, num_threads: int) -> None:
        super().__init__(pool_connections=2, pool_maxsize=num_threads, pool_block=False)
        self._timeout_s = timeout_s
        self.is_restricted = False
        self.bytes_received = 0
        self._lock = threading.Lock()
        self.headers: dict[str, str] = {}  # of the last answer in each content type

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request, and return its answer with all of its body."""
        end = time.monotonic() + self._timeout_s
        kwargs["timeout"] = self._timeout_s  # until the headers, then between two packets
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
        with self._lock:
            self.bytes_received += len(response._content)
            self._look_at(response.headers)
        return response

    def _look_at(self, headers: Mapping[str, str]) -> None:
        if "parallelism_restricted=true" in headers.get(QUOTA_STATUS, ""):
            self.is_restricted = True
        kind = headers.get("Content-Type", "").partition(";")[0]
        encoding = headers.get("Content-Encoding", "identity")
        own = [f"{key}: {value}" for key, value in headers.items() if "earth-engine" in key.lower()]
        self.headers[kind] = ", ".join([f"encoding {encoding}", *own])


class Session(requests.Session):
    """Looks once per host for proxies and certificates in the environment.

    Else every request goes through all variables several times; what that saves is small.
    """

    def __init__(self, adapter: PatientAdapter) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {}
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def merge_environment_settings(self, url: Any, *given: Any) -> Any:
        """Return what the client's arguments, which are always the same, and the host call for."""
        host = urlsplit(url).netloc
        if host not in self._settings:
            self._settings[host] = super().merge_environment_settings(url, *given)
        return self._settings[host]


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
