"""The missing rest of a file from one address, appended to what is there already.

The rules are those of HTTP: RFC 9110, sections 13.1.5 (If-Range) and 14 (ranges).
"""

import errno
import shutil
import socket
import ssl
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from utils.errors import UserError
from utils.retry import Transient, retry_after

_CHUNK = 2**18  # bytes of a read, at most
_BUSY = {408, 425, 429}  # beside 5xx: later it may work
_RANGE_WRONG = 416


class Refused(Exception):
    """This address does not give the file; another one may."""


class _WebRedirects(HTTPRedirectHandler):
    """Follow redirects to http and https only."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise HTTPError(req.full_url, code, "leads away from the web", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class HttpSource:
    """A file at one address.

    Args:
        url: http or https.
        size: Bytes of the whole file, if they are known.
        timeout_s: Longest silence of the server.
    """

    def __init__(self, url: str, size: int | None, timeout_s: float) -> None:
        self.url = url
        self.size = size
        self.timeout_s = timeout_s
        self._opener = build_opener(_WebRedirects())
        self._etag: str | None = None

    def append_to(self, partial: Path, bar: tqdm) -> bool:
        """Get what ``partial`` lacks; whatever goes wrong, the bytes that came stay there.

        Args:
            partial: First bytes of the file, or no file yet.
            bar: Progress in bytes.

        Returns:
            Whether all of the file came by this call, nothing of it by an earlier one.

        Raises:
            Transient: Try again.
            Refused: Try elsewhere.
            UserError: The disk is full.
        """
        have = partial.stat().st_size if partial.exists() else 0
        if self.size is not None and have >= self.size:
            return False  # also if it is too much: whoever verifies it will see
        try:
            response = self._open(have)
        except HTTPError as error:
            self._answer_to(error, partial, have)
            return False
        with response:
            start, total = self._check(response, have)
            _check_room(partial, total - start if total is not None else 0)
            bar.total, bar.n = total, start
            bar.refresh()
            received = start + _write(response, partial, start, total, bar)
        if total is not None and received < total:
            raise Transient(f"the connection broke off after {received} of {total} bytes")
        return start == 0

    def _open(self, have: int) -> HTTPResponse:
        """Ask for the bytes from ``have`` on."""
        headers = {"User-Agent": "seasonal-contrast", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._etag is not None:
                headers["If-Range"] = self._etag
        try:
            return self._opener.open(Request(self.url, headers=headers), timeout=self.timeout_s)
        except HTTPError:
            raise
        except (OSError, HTTPException) as error:
            raise _network_error(error) from error

    def _answer_to(self, error: HTTPError, partial: Path, have: int) -> None:
        """Return if the file is complete; raise what follows from any other answer but 2xx."""
        with error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == _RANGE_WRONG:
                if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                    return
                partial.unlink(missing_ok=True)
                raise Transient(reason)
            if error.code in _BUSY or error.code >= 500:
                raise Transient(reason, wait_s=retry_after(error.headers.get("Retry-After", "")))
            raise Refused(reason)

    def _check(self, response: HTTPResponse, have: int) -> tuple[int, int | None]:
        """Return the position of the first byte that comes, and the bytes of the whole file."""
        headers = response.headers
        if headers.get_content_type() == "text/html":
            raise Refused("a web page instead of the file")
        length = headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdecimal() else self.size
        if response.status == 206:
            start, total = _content_range(headers.get("Content-Range", ""), self.size)
            if start != have:
                raise Refused(f"bytes from {start} on instead of those from {have} on")
        if self.size is not None and total != self.size:
            raise Refused(f"a file of {total} bytes instead of {self.size}")
        if total is not None and total < have:
            raise Refused(f"a file of {total} bytes, though {have} are there already")
        etag = headers.get("ETag")
        self._etag = None if etag is None or etag.startswith("W/") else etag
        return start, total


def _content_range(text: str, size: int | None) -> tuple[int, int | None]:
    """Read ``bytes first-last/total``: the first byte, and the total as far as it is known."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    if unit != "bytes" or not first.isdecimal() or not last.isdecimal():
        raise Refused(f"a part of the file without its place ({text or 'no Content-Range'})")
    return int(first), int(total) if total.isdecimal() else size or int(last) + 1


def _write(response: HTTPResponse, partial: Path, start: int, total: int | None, bar: tqdm) -> int:
    """Write the body from ``start`` on as it comes, hardly more than the file has; count it."""
    count = 0
    try:
        with partial.open("r+b" if start else "wb") as out:
            out.seek(start)
            while total is None or start + count <= total:
                data = _read(response)
                if not data:
                    break
                out.write(data)
                out.flush()  # a process that is killed leaves what came
                count += len(data)
                bar.update(len(data))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            "the disk is full: free some space and start the same command again, which goes on "
            f"with {partial}"
        ) from error
    return count


def _read(response: HTTPResponse) -> bytes:
    """Return what has come, at once: ``read`` would lose it if the connection broke meanwhile."""
    try:
        return response.read1(_CHUNK)
    except (OSError, HTTPException) as error:
        raise _network_error(error) from error


def _check_room(partial: Path, missing: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(partial.parent).free
    if missing > free:
        raise UserError(
            f"{partial.parent} has {free / 1e9:.1f} GB free, {missing / 1e9:.1f} GB are still to "
            "come: free the difference, or choose another folder"
        )


def _network_error(error: Exception) -> Transient | Refused:
    """Tell a passing failure from one that stays; the words are for people."""
    reason: Any = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not valid ({reason.verify_message})")
    if isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN:
        return Refused("its name is not known")
    if isinstance(reason, TimeoutError):
        return Transient("no answer in time")
    return Transient(str(reason) or type(reason).__name__)
