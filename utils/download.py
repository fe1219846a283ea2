"""Download files: resume, retry, try several addresses, verify, then rename."""

import hashlib
import random
import re
import shutil
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

from utils.errors import UserError, os_error_sentence
from utils.files import flush_to_disk
from utils.locks import locked
from utils.progress import progress
from utils.retry import Transient, retry_after

# The current form, the form before 2023, and that of the programming interface.
_ZENODO_FORMS = (
    "https://zenodo.org/records/{record}/files/{name}?download=1",
    "https://zenodo.org/record/{record}/files/{name}?download=1",
    "https://zenodo.org/api/records/{record}/files/{name}/content",
)
_HEX_DIGITS = {"md5": 32, "sha256": 64}
_CHUNK = 2**16  # bytes; a process that is killed loses less than one chunk
TRIES = 6  # failures in a row, none of which brought a further byte, before the next address
TIMEOUT_S = 30.0  # longest silence of a server
_FIRST_WAIT_S = 1.0  # after a failure; doubles with every further one
LONGEST_WAIT_S = 300.0  # a server that requests a longer wait is given up
_BUSY = {408, 425, 429}  # a later try may succeed, as with 5xx
_RANGE_WRONG = 416
# RFC 9110, section 14.4: position of a part in the file, and bytes of the whole file.
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)
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

    def __post_init__(self) -> None:
        """Validate the entry without a download: digest length, file name, URL scheme."""
        for kind, digest in self.digests().items():
            if len(digest) != _HEX_DIGITS[kind] or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"{self.name}: {digest} is not a {kind}")
        if not self.digests() or not self.urls or self.name != Path(self.name).name:
            raise ValueError(f"{self.name}: a plain name, an address and a digest are needed")
        if any(urlsplit(url).scheme not in ("http", "https") for url in self.urls):
            raise ValueError(f"{self.name}: addresses start with http or https")

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
    """Return the addresses of a file in a record of Zenodo."""
    return tuple(form.format(record=record, name=name) for form in _ZENODO_FORMS)


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Download a file into a folder, or resume an interrupted download.

    Until it is verified it is called ``.<name>.partial``. If several processes request the same
    file, one downloads it and the others wait.

    Args:
        file: File to download.
        folder: Folder to download into; created if needed.

    Returns:
        Path of the verified file.

    Raises:
        UserError: Another file of this name exists, no address provides the right bytes, or the
            disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / file.name, folder / f".{file.name}.partial"
    with locked(folder / f".{file.name}.lock"):
        if target.exists():
            defect = file.defect(target)
            if defect is not None:
                url = file.urls[0]
                raise UserError(f"{target} is another file than {url} ({defect}): move it away")
            print(f"{target} exists already, verified")
            return target
        reasons = []
        for url in file.urls:
            reason = _fetch_from(url, file, partial)
            if reason is None:
                flush_to_disk(partial)
                partial.replace(target)
                return target
            reasons.append(f"{urlsplit(url).hostname}: {reason}")
            print(f"{file.name} from {reasons[-1]}", file=sys.stderr)
    rest = f", which resumes {partial} unless you delete it" if partial.exists() else ""
    raise UserError(
        f"{file.name} could not be downloaded from any address ({'; '.join(reasons)}): start the "
        f"same command again later{rest}"
    )


def _fetch_from(url: str, file: RemoteFile, partial: Path) -> str | None:
    """Complete ``partial`` from one address and verify it.

    Wrong bytes are deleted. If some of them came from an earlier call or connection, those may be
    the wrong ones, and the whole file is downloaded once more.

    Returns:
        Why the address is given up; None on success.
    """
    most, failures, second_chance = _size(partial), 0, True
    with progress(desc=file.name, total=file.size, unit="B", unit_scale=True) as bar:
        while True:
            try:
                in_one_piece = _append(url, file.size, partial, bar)
            except _Refused as refusal:
                return str(refusal)
            except Transient as failure:
                failures = 1 if _size(partial) > most else failures + 1
                most = max(most, _size(partial))
                if failures >= TRIES or failure.wait_s > LONGEST_WAIT_S:
                    return f"{failure}, given up"
                wait_s = _wait_s(failures, failure.wait_s)
                bar.write(f"{file.name}: {failure}, again in {wait_s:.0f} s", file=sys.stderr)
                time.sleep(wait_s)
                continue
            bar.set_postfix_str("verifying")
            defect = file.defect(partial)
            if defect is None:
                return None
            partial.unlink()
            if in_one_piece or not second_chance:
                return f"wrong bytes ({defect})"
            second_chance = False
            bar.write(f"{file.name}: wrong bytes ({defect}), again from the start", file=sys.stderr)


def _wait_s(failures: int, requested_s: float) -> float:
    """Return the seconds until the next try, randomised so that clients do not synchronise."""
    wait_s = max(requested_s, _FIRST_WAIT_S * 2 ** (failures - 1))
    factor = random.SystemRandom().uniform(1, 1.5)  # leaves the seeded generators alone
    return min(wait_s * factor, LONGEST_WAIT_S)


def _append(url: str, size: int | None, partial: Path, bar: tqdm) -> bool:
    """Download what ``partial`` lacks; received bytes stay there after any error.

    Args:
        url: Address of the file.
        size: Bytes of the whole file, if they are known.
        partial: First bytes of the file, or no file yet.
        bar: Progress in bytes.

    Returns:
        Whether this call downloaded all bytes of the file.

    Raises:
        Transient: A later try may succeed.
        _Refused: Another address may succeed.
        UserError: The disk is full.
    """
    have = _size(partial)
    if size is not None and have >= size:
        return False  # the verification finds excess bytes
    headers = _HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == _RANGE_WRONG:
                return False  # complete or too long: the verification decides
            start, total = _check(response, have, size)
            bar.total, bar.n = total, start
            bar.refresh()
            end = _write(response, partial, start, total, bar)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _network_error(error) from error
    if total is not None and end < total:
        raise Transient(f"the connection ended after {end} of {total} bytes")
    return start == 0


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
    length = headers.get("Content-Length", "")
    start, total = 0, int(length) if length.isdecimal() else size
    if status == 206:
        place = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if place is None:
            raise _Refused("a part of the file without its position")
        start, total = int(place[1]), size or int(place[2]) + 1
        if place[3] != "*":
            total = int(place[3])
        if start != have:
            raise _Refused(f"bytes from {start} on instead of those from {have} on")
    if size is not None and total != size:
        raise _Refused(f"a file of {total} bytes instead of {size}")
    if total is not None and total < have:
        raise _Refused(f"a file of {total} bytes, though {have} are downloaded already")
    return start, total


def _write(
    response: requests.Response, partial: Path, start: int, total: int | None, bar: tqdm
) -> int:
    """Write the body from ``start`` on, at most one chunk beyond ``total``; return its end."""
    missing, free = (total or start) - start, shutil.disk_usage(partial.parent).free
    if missing > free:
        raise UserError(
            f"{partial.parent} has {free / 1e9:.1f} GB free, but {missing / 1e9:.1f} GB are still "
            "missing: free the difference, or choose another folder"
        )
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
        if sentence is None:
            raise
        raise UserError(f"{sentence}; start the same command again, which resumes") from error


def _network_error(error: Exception) -> Transient | _Refused:
    """Classify a network error by its innermost cause, which also has the readable text."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _Refused(f"its certificate is not valid ({cause.verify_message})")
    if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
        return _Refused("its name is not known")
    if isinstance(error, requests.exceptions.InvalidSchema):
        return _Refused("a redirect to another protocol than http")
    if isinstance(cause, TimeoutError):
        return Transient("no answer in time")
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return Transient("the connection ended early")
    return Transient(str(cause) or type(cause).__name__)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
