"""Collecting straight into a packed store (``--format packed``), which has few files.

Places are files in ``.places/`` until their block is complete and their rows are on the disk: block
b has the rows from 25 * b * dates on, its places by number, their dates by name. At the end, places
of later rows and those that still wait fill the rows of places that could not be collected.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.bands import RGB_QUANTILES
from datasets.collect.blocks import BLOCK, Block, blocks_of
from datasets.collect.journal import Record, Shard, forget, read_journals
from datasets.collect.plan import Plan
from datasets.collect.scenes import Array
from datasets.collect.writer import METADATA_NAME
from datasets.seco.folder import read_band
from datasets.seco.patches import on_10_m_grid
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
    write_rows,
)
from utils.cores import available_cores
from utils.errors import UserError
from utils.files import read_file
from utils.locks import locked

_PLACES_FOLDER, _LOCK_NAME = ".places", "store.lock"


class PackedCollection:
    """A store that is filled block by block.

    Args:
        save_path: Folder of the collection and of the store.
        plan: Plan of the collection.
    """

    def __init__(self, save_path: Path, plan: Plan) -> None:
        self.save_path = save_path
        self.places = save_path / _PLACES_FOLDER
        self._plan = plan
        self._bare = self._manifest((), plan.num_places)
        self._late: set[int] = set()  # numbers of blocks that ``finish`` writes, see ``open``

    @property
    def is_finished(self) -> bool:
        """Whether it is a store, perhaps of fewer places than planned."""
        return (self.save_path / MANIFEST_NAME).exists()

    def forget_damaged(self, shard: Shard) -> list[int]:
        """Have places of a shard that wait and were damaged collected again; return their numbers.

        Args:
            shard: Number and count.

        Raises:
            UserError: A place is damaged, and another process collects.
        """
        records = read_journals(self.save_path, self._plan.hash)
        waiting = self._waiting()
        damaged = {
            number: waiting[number]
            for block in self._blocks(records, shard)
            for number in block.done
            if number in waiting
            if not all(self._is_whole(waiting[number] / s) for s in records[number].scenes)
        }
        forget(self.save_path, set(damaged))
        for folder in damaged.values():
            _remove(folder)
        return sorted(damaged)

    def open(self, records: Mapping[int, Record], shard: Shard) -> None:
        """Create the files at their full size, and the folder of waiting places.

        Args:
            records: Records of all journals. The rows of places that are done have to be there.
            shard: Number and count. Of its blocks, one with failures may be completed by a retry
                while another shard makes a store without its rows, so that ``finish`` writes it.

        Raises:
            UserError: A file is missing whose rows the journal has.
        """
        blocks = self._blocks(records, shard)
        self._late = {b.number for b in blocks if b.failures and not b.is_complete}
        has_begun = any(record.outcome == "done" for record in records.values())
        with locked(self.save_path / _LOCK_NAME):
            self.places.mkdir(exist_ok=True)
            if self.is_finished:
                return
            for path, _ in missing_files(self._bare, self.save_path) if has_begun else ():
                raise UserError(
                    f"{path} is missing, cut off or of an earlier version, and with it places that "
                    "the journal has: restore it, or collect into another --save_path, which "
                    f"--match_file {self.save_path / 'places.csv'} gives the same places"
                )
            check_free_disk(self._bare, self.save_path)
            create_files(self._bare, self.save_path)

    def pack(self, block: Block) -> None:
        """Write the rows of the places of a complete block that still wait."""
        is_left = block.number in self._late or self.is_finished
        waiting = {} if is_left else self._waiting()
        rows = {row: n for row, n in enumerate(block.done, BLOCK * block.number) if n in waiting}
        for row, number in rows.items():
            self._write(row, self._read(waiting[number]))
        if rows:
            sync_files(self._bare, self.save_path)
        for number in rows.values():
            _remove(waiting[number])

    def finish(self) -> int:
        """Make the store if no place is to come, or add to it what a retry collected.

        A row that is copied stays until the manifest is written: after an interruption, the next
        call ends with the same files.

        Returns:
            Number of places in the store; 0 as long as there is none.
        """
        with locked(self.save_path / _LOCK_NAME):  # the second process finds it done
            records = read_journals(self.save_path, self._plan.hash)
            blocks = self._blocks(records)
            late, self._late = self._late, set()
            for block in blocks:
                if block.is_complete and block.number in late:
                    self.pack(block)
            waiting = self._waiting()
            names = {n: "/".join([f"{n:06d}", *r.scenes]) for n, r in records.items() if r.scenes}
            stored: dict[int, str] = {}  # names of places by the row of their first date
            for block in () if self.is_finished else blocks:
                if not block.is_settled:
                    return 0
                if block.is_complete and not waiting.keys().isdisjoint(block.done):
                    return 0  # another shard is about to write them
                if block.is_complete:
                    stored |= enumerate((names[n] for n in block.done), BLOCK * block.number)
            if self.is_finished:
                stored |= enumerate(read_manifest(self.save_path).places)
            known = set(stored.values())
            found = {names[n]: folder for n, folder in waiting.items() if n in names}
            manifest = self._fill(stored, {name: found[name] for name in found.keys() - known})
            if manifest.places:
                self._clean_up(manifest, found.values())
        return len(manifest.places)

    def _fill(self, stored: dict[int, str], fresh: Mapping[str, Path]) -> Manifest:
        """Make a store without holes, of rows and of places that are still files.

        Args:
            stored: Names of places by the row of their first date, those of the last ones move.
            fresh: Folders of places by name.
        """
        count = len(stored) + len(fresh)
        holes = iter([row for row in range(count) if row not in stored])
        for row in [row for row in stored if row >= count]:
            hole = next(holes)
            self._write(hole, self._stored(row))
            stored[hole] = stored.pop(row)
        for hole, name in zip(holes, sorted(fresh), strict=True):
            self._write(hole, self._read(fresh[name]))
            stored[hole] = name
        manifest = self._manifest([stored[row] for row in range(count)], count)
        if count and (fresh or not self.is_finished):
            sync_files(manifest, self.save_path)
            flaws = _zero_planes(manifest, self.save_path)
            finish_store(manifest, self.save_path, flaws, available_cores())
        return manifest

    def _clean_up(self, manifest: Manifest, waiting: Iterable[Path]) -> None:
        """Remove the rows and files that the store does not need; shards may retry the others."""
        for path, size in manifest.files(self.save_path):
            if path.stat().st_size > size:
                os.truncate(path, size)
        for folder in waiting:
            _remove(folder)
        for folder in self.places.glob(".*"):  # of an interrupted removal
            shutil.rmtree(folder, ignore_errors=True)
        if len(manifest.places) == self._plan.num_places:
            shutil.rmtree(self.places, ignore_errors=True)

    def _blocks(self, records: Mapping[int, Record], shard: Shard = (0, 1)) -> list[Block]:
        """Return the blocks of a shard with their outcomes."""
        blocks = blocks_of(self._plan, None, shard)
        outcomes = {number: record.outcome for number, record in records.items()}
        for block in blocks:
            block.settle(outcomes)
        return blocks

    def _waiting(self) -> dict[int, Path]:
        """Return the folders of places that are not in the store yet."""
        return {int(path.name): path for path in self.places.glob("*") if path.name.isdigit()}

    def _manifest(self, places: Sequence[str], num_places: int) -> Manifest:
        settings = self._plan.settings
        groups = plan_groups(settings.bands, num_places * settings.num_dates)
        side = settings.patch_px
        return Manifest("seco", tuple(places), side, side, RGB_QUANTILES, groups)

    def _write(self, row: int, patches: Array) -> None:
        """Write a place's patches, uint8, shape (T, C, H, W), bands as in the groups."""
        write_rows(self._bare, self.save_path, row * len(patches), self._bare.bands, patches)

    def _stored(self, row: int) -> Array:
        """Read the patches of a place from its row, shaped as for ``_write``."""
        dates, side, parts = self._plan.settings.num_dates, self._bare.height, []
        files = self._bare.files(self.save_path)
        for group, (path, _) in zip(self._bare.groups, files, strict=True):
            size = dates * self._bare.row_bytes(group)
            pixels = np.fromfile(path, np.uint8, size, offset=row * size)
            parts.append(pixels.reshape(dates, len(group.bands), side, side))
        return np.concatenate(parts, axis=1)

    def _read(self, folder: Path) -> Array:
        """Read the patches of a place from its files on the 10 m grid, shaped as for ``_write``."""
        side = self._bare.height
        scenes = sorted(path for path in folder.iterdir() if path.is_dir())
        for scene in scenes:
            if not self._is_whole(scene):
                raise UserError(
                    f"{scene} was damaged after it was collected: run the same command again, "
                    "which collects its place again"
                )
        images = [
            [
                on_10_m_grid(read_band(scene / f"{band}.tif"), side, side)
                for band in self._bare.bands
            ]
            for scene in scenes
        ]
        return np.array(images, np.uint8)

    def _is_whole(self, scene: Path) -> bool:
        """Return whether the files of a date are those that were collected."""
        try:
            files = json.loads(read_file(scene / METADATA_NAME))["files"]
            return all(
                hashlib.sha256(read_file(scene / f"{band}.tif")).hexdigest()
                == files[f"{band}.tif"]["sha256"]
                for band in self._bare.bands
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _remove(folder: Path) -> None:
    """Remove the folder of a place at once: half a folder would be written again, in part."""
    gone = folder.with_name(f".{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _zero_planes(manifest: Manifest, save_path: Path) -> list[Flaw]:
    """Find bands of patches that hold only zeros, which ``store.writer`` lists as flaws too."""
    found = []
    for group, (path, _) in zip(manifest.groups, manifest.files(save_path), strict=True):
        shape = (manifest.num_patches, len(group.bands), manifest.height * manifest.width)
        rows = np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
        for patch, planes in enumerate(rows):
            found += [Flaw(patch, group.bands[i], ZEROS) for i in np.flatnonzero(~planes.any(1))]
    return sorted(found, key=lambda flaw: flaw.patch)
