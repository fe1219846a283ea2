"""The files of a packed store: create them, write rows into them, hash them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.store.manifest import MANIFEST_NAME, Flaw, Manifest, read_manifest
from datasets.store.reader import check_files
from utils.errors import UserError, os_error_sentence
from utils.files import require_free
from utils.progress import progress
from utils.report import write_json

_SPARE_BYTES = 2**26  # for the manifest and the bitmap of a packing
_HASH_BYTES = 2**24  # read at a time


def check_free_disk(plan: Manifest, save_path: Path) -> None:
    """Refuse a store that the disk cannot hold; the part that is written needs no more room.

    Arguments as in ``missing_files``.
    """
    files = plan.files(save_path)
    written = sum(path.stat().st_blocks * 512 for path, _ in files if path.exists())
    require_free(save_path, sum(size for _, size in files) + _SPARE_BYTES - written)


def missing_files(plan: Manifest, save_path: Path) -> list[tuple[Path, int]]:
    """Return path and size of the files that do not exist or have another size.

    Args:
        plan: Manifest of the store to write.
        save_path: Folder of the store.
    """
    files = plan.files(save_path)
    return [(p, size) for p, size in files if not p.is_file() or p.stat().st_size != size]


def create_files(plan: Manifest, save_path: Path) -> None:
    """Create the missing files at their full size; arguments as in ``missing_files``."""
    for path, size in missing_files(plan, save_path):
        with _errors_named(path), path.open("wb") as file:
            file.truncate(size)


def write_rows(
    plan: Manifest, save_path: Path, first: int, bands: Sequence[str], patches: np.ndarray
) -> None:
    """Write patches into their rows of all files.

    Args:
        plan: Layout of the store.
        save_path: Folder of the store.
        first: Row of the first patch.
        bands: Bands in the order of the channels.
        patches: uint8, shape (N, C, H, W).

    Raises:
        UserError: A file cannot be written.
    """
    for group in plan.groups:
        channels = [bands.index(band) for band in group.bands]
        path = save_path / group.shards[0].file
        with _errors_named(path), path.open("r+b") as file:
            file.seek(first * plan.row_bytes(group))
            file.write(np.ascontiguousarray(patches[:, channels]).data)


def sync_files(plan: Manifest, save_path: Path) -> None:
    """Wait until everything written is on the disk; arguments as in ``missing_files``."""
    for path, _ in plan.files(save_path):
        with _errors_named(path), path.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Raise errors of writing with the path, which those of an open file lack."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {os_error_sentence(error, path)}, and run the same command again, which "
            "resumes where it stopped"
        ) from error


def finish_store(
    plan: Manifest, save_path: Path, flaws: Sequence[Flaw], num_workers: int
) -> Manifest:
    """Hash the files, and write the manifest that makes them a store.

    Args:
        plan: Layout and content of the store.
        save_path: Folder of the store.
        flaws: Flaws of the source, sorted by patch.
        num_workers: Files that are read at the same time, at least one.
    """
    manifest = replace(_hashed(plan, save_path, num_workers), flaws=tuple(flaws))
    write_json(save_path / MANIFEST_NAME, manifest.to_json())
    return manifest


def verify_store(save_path: Path, num_workers: int) -> Manifest:
    """Hash the files of a store; one that differs from the manifest is a ``UserError``.

    Args:
        save_path: Folder of the store.
        num_workers: Files that are read at the same time, at least one.
    """
    manifest = read_manifest(save_path)
    check_files(manifest, save_path)
    found = _hashed(manifest, save_path, num_workers)
    pairs = zip(manifest.groups, found.groups, strict=True)
    damaged = [
        shard.file
        for group, found_group in pairs
        for shard in set(group.shards) - set(found_group.shards)
    ]
    if damaged:
        raise UserError(
            f"{save_path}: {' '.join(sorted(damaged))} differs from the hash in {MANIFEST_NAME}: "
            "copy the store again, or delete it and pack the data again"
        )
    return manifest


def _hashed(manifest: Manifest, save_path: Path, num_workers: int) -> Manifest:
    """Return the manifest with the sha256 of the files as they are."""
    files = manifest.files(save_path)
    bar = progress(desc="hashing", total=sum(size for _, size in files), unit="B", unit_scale=True)

    def hash_file(file_and_size: tuple[Path, int]) -> str:
        path, left = file_and_size  # a collection cuts off what is behind the rows later
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(min(_HASH_BYTES, left)):
                digest.update(block)
                left -= len(block)
                bar.update(len(block))
        return digest.hexdigest()

    with bar, ThreadPoolExecutor(max(1, num_workers)) as pool:
        hashes = pool.map(hash_file, files)
        groups = [
            replace(g, shards=tuple(replace(s, sha256=next(hashes)) for s in g.shards))
            for g in manifest.groups
        ]
    return replace(manifest, groups=tuple(groups))
