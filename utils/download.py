"""Files from the internet: resumed, retried, from several places, verified before they are used."""

import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from utils.errors import UserError
from utils.http_source import HttpSource, Refused
from utils.locks import locked
from utils.progress import progress
from utils.retry import Transient

# Today's form, that of the time before 2023, and that of the programming interface.
_ZENODO_FORMS = (
    "https://zenodo.org/records/{record}/files/{name}?download=1",
    "https://zenodo.org/record/{record}/files/{name}?download=1",
    "https://zenodo.org/api/records/{record}/files/{name}/content",
)
_HEX_DIGITS = {"md5": 32, "sha256": 64}
_CHUNK = 2**20


@dataclass(frozen=True)
class RemoteFile:
    """A file that is known before it is downloaded.

    Attributes:
        name: What it is called here.
        urls: The same bytes at several addresses, the best one first.
        licence: Of its content.
        size: Bytes, where somebody recorded them exactly.
        md5: Hexadecimal digest; at least one of the two is needed, all that are given are checked.
        sha256: Hexadecimal digest.
    """

    name: str
    urls: tuple[str, ...]
    licence: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        """Find slips of the pen, such as an md5 in the place of a sha256, without a download."""
        for kind, digest in self.digests().items():
            if len(digest) != _HEX_DIGITS[kind] or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"{self.name}: {digest} is no {kind}")
        if not self.digests() or not self.urls or self.name != Path(self.name).name:
            raise ValueError(f"{self.name}: a plain name, an address and a digest are needed")
        if any(urlsplit(url).scheme not in ("http", "https") for url in self.urls):
            raise ValueError(f"{self.name}: addresses start with http or https")

    def digests(self) -> dict[str, str]:
        """Return the digests that are given, by their kind."""
        given = {"md5": self.md5, "sha256": self.sha256}
        return {kind: digest for kind, digest in given.items() if digest is not None}

    def defect(self, path: Path) -> str | None:
        """Return in what a file here differs, or None if it is this one."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"{size} bytes instead of {self.size}"
        found = _digests(path, self.digests())
        for kind, expected in self.digests().items():
            if found[kind] != expected:
                return f"{kind} {found[kind]} instead of {expected}"
        return None


@dataclass(frozen=True)
class Patience:
    """How long to try one address.

    Attributes:
        tries: Failures in a row, none of which brought a further byte, before the next address.
        timeout_s: Longest silence of a server.
        first_wait_s: Wait after the first failure; it doubles with every further one.
        longest_wait_s: No longer wait, and no server that asks for one.
        sleep: Waits so many seconds.
    """

    tries: int = 6
    timeout_s: float = 30
    first_wait_s: float = 1
    longest_wait_s: float = 300
    sleep: Callable[[float], None] = time.sleep

    def wait_s(self, failures: int, asked_s: float) -> float:
        """Return the time to the next try, by chance a little longer: not all come back at once."""
        wait = max(asked_s, self.first_wait_s * 2 ** (failures - 1))
        chance = random.SystemRandom().uniform(1, 1.5)  # leaves the seeded generators alone
        return min(wait * chance, self.longest_wait_s)


def zenodo_urls(record: int, name: str) -> tuple[str, ...]:
    """Return the addresses of a file in a record of Zenodo."""
    return tuple(form.format(record=record, name=name) for form in _ZENODO_FORMS)


def fetch(file: RemoteFile, folder: Path, patience: Patience | None = None) -> Path:
    """Download a file into a folder, or go on with a download that was interrupted.

    Until it is verified it is called ``.<name>.partial``; a killed process leaves that, and the
    next call takes it up. Several processes may ask for the same file: one downloads, the others
    wait.

    Args:
        file: What to get.
        folder: Where to put it; created if need be.
        patience: When to give an address up.

    Returns:
        Path of the file.

    Raises:
        UserError: Another file of this name is there, no address gives the right bytes, or the
            disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / file.name, folder / f".{file.name}.partial"
    with locked(folder / f".{file.name}.lock"):
        if target.exists():
            _check_present(file, target)
            return target
        reasons = []
        for url in file.urls:
            reason = _fetch_from(url, file, partial, patience or Patience())
            if reason is None:
                _publish(partial, target)
                return target
            reasons.append(f"{urlsplit(url).hostname}: {reason}")
            print(f"{file.name} from {reasons[-1]}", file=sys.stderr)
    rest = f", which goes on with {partial} unless you delete it" if partial.exists() else ""
    raise UserError(
        f"{file.name} could not be downloaded from any address ({'; '.join(reasons)}): start the "
        f"same command again later{rest}"
    )


def _fetch_from(url: str, file: RemoteFile, partial: Path, patience: Patience) -> str | None:
    """Complete ``partial`` from one address; return why that is impossible, or None if it is done.

    Wrong bytes are deleted. If some of them came from an earlier call or connection, those may be
    the wrong ones, and the whole file is fetched once more.
    """
    source = HttpSource(url, file.size, patience.timeout_s)
    most, failures, second_chance = _size(partial), 0, True
    with progress(desc=file.name, total=file.size, unit="B", unit_scale=True) as bar:
        while True:
            try:
                in_one_piece = source.append_to(partial, bar)
            except Refused as refusal:
                return str(refusal)
            except Transient as failure:
                failures = 1 if _size(partial) > most else failures + 1
                most = max(most, _size(partial))
                if failures >= patience.tries or failure.wait_s > patience.longest_wait_s:
                    return f"{failure}, given up"
                wait_s = patience.wait_s(failures, failure.wait_s)
                bar.write(f"{file.name}: {failure}, again in {wait_s:.0f} s", file=sys.stderr)
                patience.sleep(wait_s)
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


def _check_present(file: RemoteFile, target: Path) -> None:
    defect = file.defect(target)
    if defect is not None:
        raise UserError(
            f"{target} is another file than {file.urls[0]} ({defect}): move it away to download "
            "that one"
        )
    print(f"{target} is there already, verified")


def _publish(partial: Path, target: Path) -> None:
    """Give the verified bytes their name once they are on the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def _digests(path: Path, kinds: dict[str, str]) -> dict[str, str]:
    """Compute several digests in one pass."""
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in hashes.values():
                digest.update(chunk)
    return {kind: digest.hexdigest() for kind, digest in hashes.items()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
