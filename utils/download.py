"""Download files: resume, retry, try several addresses, verify, then rename."""

import hashlib
import random
import re
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

from utils.errors import UserError, os_error_sentence, printable
from utils.files import flush_to_disk, require_free
from utils.locks import locked
from utils.progress import progress
from utils.retry import Transient, retry_after

# The current form, the form before 2023, and that of the programming interface.
_ZENODO_FORMS = (
    "https://zenodo.org/records/{record}/files/{name}?download=1",
    "https://zenodo.org/record/{record}/files/{name}?download=1",
    "https://zenodo.org/api/records/{record}/files/{name}/content",
)
_CHUNK = 2**16  # bytes; a process that is killed loses less than one chunk
TRIES = 6  # failures in a row, none of which brought a further byte, before the next address
TIMEOUT_S = 30.0  # longest silence of a server
LONGEST_WAIT_S = 300.0  # a server that requests a longer wait is given up
_BUSY = {408, 425, 429}  # a later try may succeed, as with 5xx
_RANGE_WRONG = 416
# RFC 9110, sections 8.6 and 14.4: bytes of the body; position of a part and bytes of the file.
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
# Compressed transfer would make positions in the file unknown.
_HEADERS = {"User-Agent": "seasonal-contrast", "Accept-Encoding": "identity"}


class _Refused(Exception):
    """This address does not provide the file; another one may."""


@dataclass(frozen=True)
class RemoteFile:
    """A file whose content is known before it is downloaded.

    Attributes:
        name: File name on this machine.
        urls: Addresses of the same bytes, the preferred one first.
        licence: Licence of the content.
        size: Bytes, if its publisher recorded them exactly.
        md5: Hexadecimal digest; at least one of the two is needed, and both are verified.
        sha256: Hexadecimal digest.
    """

    name: str
    urls: tuple[str, ...]
    licence: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None

    def digests(self) -> dict[str, str]:
        """Return the digests that are given, by their kind."""
        given = {"md5": self.md5, "sha256": self.sha256}
        return {kind: digest for kind, digest in given.items() if digest is not None}

    def defect(self, path: Path) -> str | None:
        """Return how a file on this machine differs from this one; None if it is the same."""
        if self.size not in (None, _size(path)):
            return f"{_size(path)} bytes instead of {self.size}"
        for kind, expected in self.digests().items():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != expected:
                return f"{kind} {found} instead of {expected}"
        return None


def zenodo_urls(record: int, name: str) -> tuple[str, ...]:
    """Return the addresses of a file on Zenodo.

    Args:
        record: Number of the record.
        name: Name of the file.
    """
    return tuple(form.format(record=record, name=name) for form in _ZENODO_FORMS)


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Download a file into a folder, or resume an interrupted download, and return its path.

    Until it is verified it is called ``.<name>.partial``. If several processes request the same
    file, one downloads it and the others wait.

    Args:
        file: Addresses, size and checksum of the file.
        folder: Folder of the file; it is created.

    Raises:
        UserError: Another file of this name exists, no address provides the right bytes, or the
            disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / file.name, folder / f".{file.name}.partial"
    reasons = []
    with locked(folder / f".{file.name}.lock"):
        if target.exists():
            if defect := file.defect(target):
                url = file.urls[0]
                raise UserError(f"{target} is another file than {url} ({defect}): move it away")
            print(f"{target} exists already, verified")
            return target
        for url in file.urls:
            try:
                _fetch_from(url, file, partial)
                flush_to_disk(partial)
                return partial.replace(target)
            except _Refused as refusal:
                reasons.append(f"{urlsplit(url).hostname}: {refusal}")
                print(printable(f"{file.name} from {reasons[-1]}"), file=sys.stderr)
    rest = f", which resumes {partial} unless you delete it" if partial.exists() else ""
    raise UserError(
        f"{file.name} could not be downloaded from any address ({'; '.join(reasons)}): start the "
        f"same command again later{rest}"
    )


def _fetch_from(url: str, file: RemoteFile, partial: Path) -> None:
    """Complete ``partial`` from one address and verify it; wrong bytes are deleted."""
    most, failures = _size(partial), 0
    with progress(desc=file.name, total=file.size, unit="B", unit_scale=True) as bar:
        while True:
            try:
                _append(url, file.size, partial, bar)
                break
            except Transient as failure:
                failures = 1 if _size(partial) > most else failures + 1
                most = max(most, _size(partial))
                if failures >= TRIES or failure.wait_s > LONGEST_WAIT_S:
                    raise _Refused(f"{failure}, given up") from failure
                # Randomised, so that clients do not synchronise, without the seeded generators.
                wait_s = max(failure.wait_s, 2.0 ** (failures - 1))
                wait_s = min(wait_s * random.SystemRandom().uniform(1, 1.5), LONGEST_WAIT_S)
                text = printable(f"{file.name}: {failure}, again in {wait_s:.0f} s")
                bar.write(text, file=sys.stderr)
                time.sleep(wait_s)
        bar.set_postfix_str("verifying")
        if defect := file.defect(partial):
            partial.unlink()
            raise _Refused(f"wrong bytes ({defect}), which are deleted")


def _append(url: str, size: int | None, partial: Path, bar: tqdm) -> None:
    """Download what ``partial`` lacks; received bytes stay there after any error."""
    have = _size(partial)
    if size is not None and have >= size:
        return  # the verification finds excess bytes
    headers = _HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == _RANGE_WRONG:
                return  # complete or too long: the verification decides
            start, total = _check(response, have, size)
            bar.total, bar.n = total, start
            bar.refresh()
            end = _write(response, partial, start, total, bar)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise _network_error(error) from error
    if total is not None and end < total:
        raise Transient(f"the connection ended after {end} of {total} bytes")


def _check(response: requests.Response, have: int, size: int | None) -> tuple[int, int | None]:
    """Refuse an answer that cannot continue the ``have`` bytes of a file of ``size`` bytes.

    Returns:
        Position of the first byte of the body in the file; bytes of the whole file, if known.
    """
    status, headers = response.status_code, response.headers
    if status in _BUSY or status >= 500:
        wait_s = retry_after(headers.get("Retry-After", ""))
        raise Transient(f"HTTP {status} {response.reason}", wait_s=wait_s)
    if status not in (200, 206):
        raise _Refused(f"HTTP {status} {response.reason}")
    if headers.get("Content-Type", "").startswith("text/html"):
        raise _Refused("a web page instead of the file")
    length = _LENGTH.fullmatch(headers.get("Content-Length", ""))
    start, total = 0, int(length[0]) if length else size
    if status == 206:
        place = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if place is None or int(place[1]) != have:
            raise _Refused(f"not the part of the file from byte {have} on")
        start, total = have, size or int(place[2]) + 1
        if place[3] != "*":
            total = int(place[3])
    if size is not None and total != size:
        raise _Refused(f"a file of {total} bytes instead of {size}")
    if total is not None and total < have:
        raise _Refused(f"a file of {total} bytes, though {have} are downloaded already")
    return start, total


def _write(
    response: requests.Response, partial: Path, start: int, total: int | None, bar: tqdm
) -> int:
    """Write the body from ``start`` on, at most one chunk beyond ``total``; return its end."""
    require_free(partial.parent, (total or start) - start)
    try:
        with partial.open("r+b" if start else "wb") as out:
            out.seek(start)
            # Not ``iter_content``, which decompresses a .gz that a server labels as encoded.
            while data := response.raw.read(_CHUNK, decode_content=False):
                out.write(data)
                out.flush()  # a process that is killed keeps what was received
                bar.update(len(data))
                if total is not None and out.tell() > total:
                    break
            return out.tell()
    except OSError as error:
        sentence = os_error_sentence(error, partial)
        raise UserError(f"{sentence}; start the same command again, which resumes") from error


def _network_error(error: Exception) -> Transient | _Refused:
    """Classify a network error by its innermost cause, which also has the readable text."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    if isinstance(error, ValueError):  # requests' and Python's, for what is not an address
        return _Refused("a redirect to what is not an address of http")
    is_temporary = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
    if isinstance(cause, ssl.SSLCertVerificationError | socket.gaierror) and not is_temporary:
        return _Refused(str(cause))
    return Transient(str(cause) or type(cause).__name__)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
