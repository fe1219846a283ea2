"""Lists of the sha256 of every file, in the format of ``sha256sum``: write and compare them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from datasets.checking.problems import DAMAGED, EXTRA, MISSING, Problem, Tally
from utils.download import RemoteFile
from utils.errors import UserError
from utils.files import is_hidden, read_list, written_whole
from utils.pools import in_processes
from utils.progress import progress

_CHUNK = 16  # files that a process hashes at a time


def compare_published(path: Path, published: Iterable[RemoteFile]) -> list[Problem]:
    """Compare an archive that has the name, and as far as it is known the size, of a published one.

    Args:
        path: A zip, or a folder, which is not compared.
        published: All published files.
    """
    known = [file for file in published if file.name == path.name and path.is_file()]
    return [
        Problem(DAMAGED, path.name, f"differs from the {kind} of the published archive")
        for file in known
        if file.size in (None, path.stat().st_size)
        for kind, digest in file.digests().items()
        if _hash(path, kind) != digest
    ]


def list_files(data_dir: Path) -> list[str]:
    """List all files of a data set, relative to its folder and sorted; a zip is one file."""
    if data_dir.is_file():
        return [data_dir.name]
    paths = (path for path in data_dir.rglob("*") if path.is_file())
    names = (path.relative_to(data_dir).as_posix() for path in paths)
    return sorted(name for name in names if not is_hidden(name))


def hash_files(data_dir: Path, names: Sequence[str], num_workers: int) -> Iterator[tuple[str, str]]:
    """Yield name and sha256 of files, in order, under a progress bar.

    Args:
        data_dir: Folder, or the only file.
        names: Names relative to the folder.
        num_workers: Processes that read; 0 uses this one.
    """
    chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    root = data_dir.parent if data_dir.is_file() else data_dir
    with progress(desc="hashing", unit=" files", total=len(names)) as bar:
        for chunk, found in zip(
            chunks, in_processes(partial(_hash_chunk, root), chunks, num_workers), strict=True
        ):
            bar.update(len(chunk))
            yield from zip(chunk, found, strict=True)


def _hash_chunk(root: Path, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(_hash(root / name, "sha256"))
        except OSError as error:
            found.append(f"cannot be read ({error.strerror})")
    return found


def _hash(path: Path, kind: str) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, kind).hexdigest()


def write_checksums(data_dir: Path, path: Path, num_workers: int) -> None:
    """Write the sha256 of every file in the format of sha256sum.

    Args:
        data_dir: Folder or zip.
        path: File to write.
        num_workers: Processes that read; 0 uses this one.
    """
    names = [name for name in list_files(data_dir) if data_dir / name != path]
    with written_whole(path) as partial_file, partial_file.open("w") as file:
        for name, digest in hash_files(data_dir, names, num_workers):
            file.write(f"{digest}  {name}\n")


def compare_checksums(data_dir: Path, path: Path, num_workers: int) -> Tally:
    """Compare every file with a list of ``write_checksums``.

    Args:
        data_dir: Folder or zip.
        path: The list.
        num_workers: Processes that read; 0 uses this one.

    Raises:
        UserError: The list is not one.
    """
    lines = read_list(path.read_bytes(), path).splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if not expected or not all(len(digest) == 64 for digest in expected.values()):
        raise UserError(f"{path} is not a list of --write_checksums: write it again")
    names = [name for name in list_files(data_dir) if data_dir / name != path]
    tally = Tally()
    for name, digest in hash_files(data_dir, names, num_workers):
        tally.num_files += 1
        if name not in expected:
            tally.add([Problem(EXTRA, name, "is not in the list")])
        elif digest != expected[name]:
            tally.add([Problem(DAMAGED, name, "differs from its sha256")])
    for name in sorted(expected.keys() - set(names)):
        tally.add([Problem(MISSING, name, "is missing")])
    return tally
