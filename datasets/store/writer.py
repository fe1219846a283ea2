"""Write a packed store in parallel; an interrupted packing resumes with the rows that it lacks.

The files get their full size before the first patch is read: each patch has its row, which any
process can write at any time. A bitmap notes the finished rows. The manifest is written last: a
store with a manifest is complete.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.seco.bad_patches import BadPatchError, check_bad_count
from datasets.seco.patches import SecoPatches
from datasets.seco.pictures import Pictures
from datasets.store.manifest import (
    MANIFEST_NAME,
    ZEROS,
    Flaw,
    Manifest,
    plan_groups,
    read_manifest,
)
from datasets.store.rows import (
    check_free_disk,
    create_files,
    finish_store,
    missing_files,
    sync_files,
    verify_store,
    write_rows,
)
from utils.errors import UserError
from utils.files import read_file, remove_partials, written_whole
from utils.locks import sole_writer
from utils.pools import in_processes
from utils.progress import progress

LOCK_NAME = "packing.lock"
BITMAP_NAME = "packing.rows"
_OLD_JOURNAL_NAME = "packing.jsonl"  # before December 2026
_CHUNK = 64  # patches that a process reads and writes at a time
_SYNC_BYTES = 2**28  # written between two waits for the disk

Source = SecoPatches | Pictures


def pack(source: Source, save_path: Path, num_workers: int) -> Manifest:
    """Pack a source into a store, or resume that, and return the manifest.

    Args:
        source: Patches to pack; they are only read.
        save_path: Folder of the store.
        num_workers: Processes that read and write; 0 uses this one.

    Raises:
        UserError: The folder holds something else or is in use, the disk is too small, or too many
            patches are bad.
    """
    plan = plan_store(source)
    save_path.mkdir(parents=True, exist_ok=True)
    busy = f"another process packs into {save_path}: wait for it, or choose another folder"
    with sole_writer(save_path / LOCK_NAME, busy):
        if (save_path / MANIFEST_NAME).exists():
            return _complete(plan, save_path, num_workers)
        check_free_disk(plan, save_path)
        bitmap = _Bitmap(save_path / BITMAP_NAME, plan, source.root)
        bitmap.open()
        if missing_files(plan, save_path):
            bitmap.done[:] = False
        bitmap.flush()  # before the files are created: a kill in between leaves no wrong bit
        create_files(plan, save_path)
        flaws = _write_patches(source, plan, save_path, bitmap, num_workers)
        plan = finish_store(plan, save_path, flaws, num_workers)
        bitmap.path.unlink()
    return plan


def plan_store(source: Source) -> Manifest:
    """Lay out the store of a source; its files have no hashes yet."""
    _, height, width = source.patch_shape
    groups = plan_groups(source.bands, int(source.starts[-1]))
    if isinstance(source, Pictures):
        return Manifest("pictures", tuple(source.names), height, width, {}, groups)
    return Manifest("seco", tuple(source.places), height, width, source.quantiles, groups)


def is_begun(folder: Path) -> bool:
    """Return whether a packing into a folder was interrupted."""
    return any((folder / name).exists() for name in (BITMAP_NAME, _OLD_JOURNAL_NAME))


def _complete(plan: Manifest, save_path: Path, num_workers: int) -> Manifest:
    """Return the manifest of a finished store, if its content is the planned one, and whole."""
    found = read_manifest(save_path)
    if replace(found, groups=plan_groups(found.bands, found.num_patches), flaws=()) != plan:
        raise UserError(
            f"{save_path} is a store of other data or --bands: choose another --save_path"
        )
    return verify_store(save_path, num_workers)


class _Bitmap:
    """Which chunks of rows are written and have no flaws, for a packing to resume from.

    Rows with flaws are read again, since the source may have been repaired. The file holds the hash
    of the plan and of its source, and one bit per chunk. A zip that has changed is another source.
    """

    def __init__(self, path: Path, plan: Manifest, source: Path) -> None:
        self.path = path
        stat = source.stat()
        version = [stat.st_size, stat.st_mtime_ns] if source.is_file() else []
        content = json.dumps([plan.to_json(), str(source.resolve()), version, _CHUNK])
        self._plan = hashlib.sha256(content.encode()).digest()
        self.done = np.zeros(-(-plan.num_patches // _CHUNK), bool)

    def open(self) -> None:
        """Read the bitmap of an interrupted packing, or begin one in an empty folder."""
        folder = self.path.parent
        remove_partials(self.path)
        if self.path.exists():
            content = read_file(self.path)
            bits = np.frombuffer(content, np.uint8)[len(self._plan) :]
            if not content.startswith(self._plan) or len(bits) != -(-len(self.done) // 8):
                raise UserError(
                    f"{folder} holds the beginning of a store of other data or --bands, or its "
                    "source has changed: use the flags of that packing, or another --save_path"
                )
            self.done = np.unpackbits(bits, count=len(self.done)).astype(bool)
            return
        strangers = sorted({path.name for path in folder.iterdir()} - {LOCK_NAME})
        if strangers:
            raise UserError(
                f"{folder} is not empty, it holds {strangers[0]}: choose another --save_path, or "
                "delete it if it is an interrupted packing of an earlier version"
            )

    def flush(self) -> None:
        """Write the file; the rows have to be on the disk before."""
        with written_whole(self.path) as partial:
            partial.write_bytes(self._plan + np.packbits(self.done).tobytes())


def _write_patches(
    source: Source, plan: Manifest, save_path: Path, bitmap: _Bitmap, num_workers: int
) -> list[Flaw]:
    """Write all chunks that the bitmap lacks; return the flaws of all patches."""
    starts = np.flatnonzero(~bitmap.done) * _CHUNK
    chunks = [range(start, min(start + _CHUNK, plan.num_patches)) for start in starts.tolist()]
    done = plan.num_patches - sum(map(len, chunks))
    bar = progress(desc="packing", total=plan.num_patches, initial=done, unit=" patches")
    flaws: list[Flaw] = []
    fresh = 0  # bytes written since the last flush
    results = in_processes(_Writer(source, plan, save_path), chunks, num_workers)
    try:
        for chunk, found in zip(chunks, results, strict=True):
            flaws += found
            check_bad_count(_bad_names(source, flaws), plan.num_patches)
            bitmap.done[chunk.start // _CHUNK] = not found
            bar.update(len(chunk))
            fresh += len(chunk) * sum(plan.row_bytes(group) for group in plan.groups)
            if fresh > _SYNC_BYTES:
                sync_files(plan, save_path)
                bitmap.flush()
                fresh = 0
    finally:
        bar.close()
        sync_files(plan, save_path)
        bitmap.flush()
    return flaws


def _bad_names(source: Source, flaws: Sequence[Flaw]) -> list[str]:
    """Name the patches of which a band cannot be read, or all bands are zero."""
    zeros = Counter(flaw.patch for flaw in flaws if flaw.band and flaw.reason == ZEROS)
    bad = {flaw.patch for flaw in flaws if not flaw.band or flaw.reason != ZEROS}
    bad |= {patch for patch, count in zeros.items() if count == len(source.bands)}
    return [source.name(patch) for patch in sorted(bad)]


@dataclass(frozen=True)
class _Writer:
    """Reads patches and writes them into their rows, in any process."""

    source: Source
    plan: Manifest
    save_path: Path

    def __call__(self, chunk: range) -> list[Flaw]:
        """Write a chunk of patches; return their flaws."""
        pixels = np.zeros((len(chunk), *self.source.patch_shape), np.uint8)
        flaws: list[Flaw] = []
        for patch, target in zip(chunk, pixels, strict=True):
            flaws += self._read(patch, target)
        write_rows(self.plan, self.save_path, chunk.start, self.source.bands, pixels)
        return flaws

    def _read(self, patch: int, pixels: np.ndarray) -> Iterator[Flaw]:
        """Read a patch into zeros of shape (C, H, W), as far as it can be read; yield its flaws."""
        if isinstance(self.source, Pictures):
            try:
                pixels[:] = self.source.read(patch)
            except BadPatchError as error:
                yield Flaw(patch, None, error.reason)
            return
        for channel, band in enumerate(self.source.bands):
            try:
                pixels[channel] = self.source.read_plane(patch, channel)
            except BadPatchError as error:
                yield Flaw(patch, band, error.reason)
            else:
                if not pixels[channel].any():
                    yield Flaw(patch, band, ZEROS)
