"""Writing a packed store: many processes, resumable, and little is lost.

The shards are laid out before the first patch is read, so that each patch has its place and a chunk
of patches can be written by any process at any time. A journal notes the finished chunks; an
interrupted packing skips them. The manifest is written last: a store with a manifest is complete.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from multiprocessing import connection, parent_process
from pathlib import Path
from threading import Thread

import numpy as np

from datasets.seco.bad_patches import BadPatchError, check_bad_count
from datasets.seco.patches import SecoPatches
from datasets.seco.pictures import Pictures
from datasets.store.journal import JOURNAL_NAME, LOCK_NAME, PackingJournal
from datasets.store.manifest import (
    MANIFEST_NAME,
    ZEROS,
    Flaw,
    Group,
    Manifest,
    Shard,
    plan_groups,
    read_manifest,
)
from datasets.store.reader import check_shards
from utils.errors import UserError
from utils.locks import sole_writer
from utils.pools import process_pool
from utils.progress import progress
from utils.report import write_json

_CHUNK = 64  # patches; at a time and process
_SYNC_BYTES = 2**28  # written between two waits for the disk
_SPARE_BYTES = 2**26  # for the manifest and the journal
_HASH_BYTES = 2**24

Source = SecoPatches | Pictures


def pack(source: Source, save_path: Path, num_workers: int) -> Manifest:
    """Pack a source into a store, or go on with an interrupted packing of it.

    Args:
        source: What to pack; it is only read.
        save_path: Folder of the store.
        num_workers: Processes that read and write; 0 uses this one.

    Returns:
        The manifest, which has been written.

    Raises:
        UserError: The folder holds something else, is in use, or the disk is too small.
    """
    plan = plan_store(source)
    save_path.mkdir(parents=True, exist_ok=True)
    busy = f"another process packs into {save_path}: wait for it, or choose another folder"
    with sole_writer(save_path / LOCK_NAME, busy):
        if (save_path / MANIFEST_NAME).exists():
            return _complete(plan, save_path)
        check_free_disk(plan, save_path)
        journal = PackingJournal(save_path / JOURNAL_NAME, plan, source.root)
        journal.open()
        _create_shards(plan, save_path, journal)
        flaws = _write_chunks(source, plan, save_path, journal, num_workers)
        plan = replace(plan, groups=hash_groups(plan, save_path, num_workers), flaws=flaws)
        write_json(save_path / MANIFEST_NAME, plan.to_json())
        journal.path.unlink()
    return plan


def plan_store(source: Source) -> Manifest:
    """Lay out the store of a source; its shards have no hashes yet."""
    _, height, width = source.patch_shape
    groups = plan_groups(source.bands, int(source.starts[-1]), height * width)
    if isinstance(source, Pictures):
        return Manifest("pictures", tuple(source.names), height, width, {}, groups)
    return Manifest("seco", tuple(source.places), height, width, source.quantiles, groups)


def verify_store(save_path: Path, num_workers: int) -> Manifest:
    """Hash every shard of a store again; one that differs from the manifest is a ``UserError``."""
    manifest = read_manifest(save_path)
    check_shards(manifest, save_path)
    hashed = hash_groups(manifest, save_path, num_workers)
    damaged = [
        str(save_path / shard.file)
        for group, found in zip(manifest.groups, hashed, strict=True)
        for shard, again in zip(group.shards, found.shards, strict=True)
        if shard != again
    ]
    if damaged:
        raise UserError(
            f"{' '.join(damaged)} {'differs' if len(damaged) == 1 else 'differ'} from the hash in "
            f"{MANIFEST_NAME}: copy the store again, or delete it and pack the data again"
        )
    return manifest


def _complete(plan: Manifest, save_path: Path) -> Manifest:
    """Return the manifest of a store that is finished, if it is the one asked for."""
    found = read_manifest(save_path)
    bare = tuple(
        replace(group, shards=tuple(replace(shard, sha256="") for shard in group.shards))
        for group in found.groups
    )
    if replace(found, groups=bare, flaws=()) != plan:
        raise UserError(
            f"{save_path} is a store of other data or --bands: choose another --save_path"
        )
    check_shards(found, save_path)
    return found


def shard_files(plan: Manifest, save_path: Path) -> list[tuple[Path, int]]:
    """Return path and size of every shard."""
    return [
        (save_path / shard.file, shard.num_patches * plan.row_bytes(group))
        for group in plan.groups
        for shard in group.shards
    ]


def check_free_disk(plan: Manifest, save_path: Path) -> None:
    """Refuse a store that the disk cannot hold; what is written of it counts as there."""
    shards = shard_files(plan, save_path)
    there = sum(path.stat().st_blocks * 512 for path, _ in shards if path.exists())
    needed = sum(size for _, size in shards) + _SPARE_BYTES - there
    free = shutil.disk_usage(save_path).free
    if needed > free:
        raise UserError(
            f"the store needs {needed / 1e9:.1f} GB in {save_path}, {free / 1e9:.1f} GB are free: "
            "free some, choose another --save_path, or fewer --bands"
        )


def _create_shards(plan: Manifest, save_path: Path, journal: PackingJournal) -> None:
    """Create the shards at their full size; other ones make the journal worthless."""
    for path, size in shard_files(plan, save_path):
        if not path.exists() or path.stat().st_size != size:
            journal.forget()
            with path.open("wb") as file:
                file.truncate(size)


def _write_chunks(
    source: Source, plan: Manifest, save_path: Path, journal: PackingJournal, num_workers: int
) -> tuple[Flaw, ...]:
    """Write all chunks that the journal does not have; return the flaws of all patches."""
    writer = _ChunkWriter(source, plan, save_path)
    todo = [chunk for chunk in range(writer.num_chunks) if chunk not in journal.flaws]
    done = plan.num_patches - sum(len(writer.patches(chunk)) for chunk in todo)
    bar = progress(desc="packing", total=plan.num_patches, initial=done, unit=" patches")
    bad: list[str] = []
    with bar:
        try:
            for chunk, flaws in _run(writer, todo, num_workers):
                journal.add(chunk, flaws)
                bad += writer.bad_names(flaws)
                check_bad_count(bad, plan.num_patches)
                bar.update(len(writer.patches(chunk)))
                if journal.num_fresh * writer.chunk_bytes > _SYNC_BYTES:
                    sync_shards(plan, save_path)
                    journal.flush()
        finally:
            sync_shards(plan, save_path)
            journal.flush()
    return tuple(flaw for chunk in sorted(journal.flaws) for flaw in journal.flaws[chunk])


class _ChunkWriter:
    """Reads the patches of a chunk and writes them where they belong, in whichever process."""

    def __init__(self, source: Source, plan: Manifest, save_path: Path) -> None:
        self.source = source
        self.plan = plan
        self.save_path = save_path
        self.num_chunks = -(-plan.num_patches // _CHUNK)
        self.chunk_bytes = _CHUNK * sum(plan.row_bytes(group) for group in plan.groups)

    def patches(self, chunk: int) -> range:
        """Return the patches of a chunk."""
        return range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, self.plan.num_patches))

    def bad_names(self, flaws: list[Flaw]) -> list[str]:
        """Name the patches of which a band cannot be read, or all are zero."""
        zeros = Counter(flaw.patch for flaw in flaws if flaw.band and flaw.reason == ZEROS)
        bad = {flaw.patch for flaw in flaws if not flaw.band or flaw.reason != ZEROS}
        bad |= {patch for patch, count in zeros.items() if count == len(self.plan.bands)}
        return [self.source.name(patch) for patch in sorted(bad)]

    def __call__(self, chunk: int) -> list[Flaw]:
        """Write a chunk; return what was wrong with its patches."""
        patches = self.patches(chunk)
        pixels = np.zeros((len(patches), *self.source.patch_shape), np.uint8)
        flaws = []
        for patch, target in zip(patches, pixels, strict=True):
            flaws += _read(self.source, patch, target)
        for group in self.plan.groups:
            channels = [self.source.bands.index(band) for band in group.bands]
            self._write(group, patches.start, pixels[:, channels])
        return flaws

    def _write(self, group: Group, start: int, rows: np.ndarray) -> None:
        """Write rows from a patch on, which may lie on both sides of a border of shards."""
        per_shard, row_bytes = group.shards[0].num_patches, self.plan.row_bytes(group)
        while len(rows):
            number, row = divmod(start, per_shard)
            here, rows = rows[: per_shard - row], rows[per_shard - row :]
            start += len(here)
            path = self.save_path / group.shards[number].file
            try:
                with path.open("r+b", buffering=0) as file:
                    write_all(file.fileno(), here.tobytes(), row * row_bytes)
            except OSError as error:
                raise UserError(
                    f"cannot write {path} ({error.strerror}): make room, and run the same command "
                    "again, which goes on where it stopped"
                ) from error


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all bytes; the system may take fewer at a time."""
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _read(source: Source, patch: int, pixels: np.ndarray) -> list[Flaw]:
    """Read what can be read of a patch into zeros of shape (C, H, W); return its flaws."""
    if isinstance(source, Pictures):
        try:
            pixels[:] = source.read(patch)
        except BadPatchError as error:
            return [Flaw(patch, None, error.reason)]
        return []
    flaws = []
    for channel, band in enumerate(source.bands):
        try:
            pixels[channel] = source.read_plane(patch, channel)
        except BadPatchError as error:
            flaws.append(Flaw(patch, band, error.reason))
        else:
            if not pixels[channel].any():
                flaws.append(Flaw(patch, band, ZEROS))
    return flaws


_writer: _ChunkWriter  # of a worker process


def _start_worker(writer: _ChunkWriter) -> None:
    global _writer
    _writer = writer
    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def end_with_parent() -> None:
        connection.wait([sentinel])
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()


def _write_chunk(chunk: int) -> list[Flaw]:
    return _writer(chunk)


def _run(
    writer: _ChunkWriter, chunks: list[int], num_workers: int
) -> Iterator[tuple[int, list[Flaw]]]:
    """Write chunks side by side; yield each with its flaws when it is written."""
    if num_workers == 0:
        yield from ((chunk, writer(chunk)) for chunk in chunks)
        return
    left, num_workers = iter(chunks), min(num_workers, max(1, len(chunks)))
    with process_pool(num_workers, _start_worker, writer) as pool:
        # Few at a time, so that an error ends the work soon.
        running = {pool.submit(_write_chunk, c): c for c in islice(left, 2 * num_workers)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
                running |= {pool.submit(_write_chunk, c): c for c in islice(left, 1)}


def sync_shards(plan: Manifest, save_path: Path) -> None:
    """Wait until everything written is on the disk."""
    for path, _ in shard_files(plan, save_path):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def hash_groups(plan: Manifest, save_path: Path, num_workers: int) -> tuple[Group, ...]:
    """Return the groups with the hash of every shard."""
    total = sum(size for _, size in shard_files(plan, save_path))
    bar = progress(desc="hashing", total=total, unit="B", unit_scale=True)

    def hash_shard(shard: Shard) -> Shard:
        digest = hashlib.sha256()
        with (save_path / shard.file).open("rb", buffering=0) as file:
            while block := file.read(_HASH_BYTES):
                digest.update(block)
                bar.update(len(block))
        return replace(shard, sha256=digest.hexdigest())

    with bar, ThreadPoolExecutor(max(1, num_workers)) as pool:
        return tuple(
            replace(group, shards=tuple(pool.map(hash_shard, group.shards)))
            for group in plan.groups
        )
