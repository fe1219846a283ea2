"""Collecting straight into a packed store: ``--format packed``.

Places are kept as files in ``.places/``, which is hidden, until their block is complete. Then they
become rows of the store: block b has the rows from 25 * b * dates on, its places by number, their
dates by name. Few files exist at a time, for any size of the collection.

A place's files are only removed when its rows are on the disk: what is in ``.places`` has to be
written, a second time if need be, and what is not has been.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.bands import RGB_QUANTILES
from datasets.collect.blocks import BLOCK, BlockState, blocks_of
from datasets.collect.journal import Record
from datasets.collect.plan import Plan
from datasets.collect.scenes import Array
from datasets.seco.geotiff import read_band
from datasets.seco.patches import on_10_m_grid
from datasets.store.manifest import MANIFEST_NAME, ZEROS, Flaw, Manifest, plan_groups
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
from utils.locks import locked

PLACES_FOLDER, LOCK_NAME = ".places", "store.lock"
_PART_BYTES = 4 * 10**9


class PackedCollection:
    """A store that is filled block by block.

    Args:
        save_path: Folder of the collection and of the store.
        plan: Plan of the collection.
    """

    def __init__(self, save_path: Path, plan: Plan) -> None:
        self.save_path = save_path
        self.places = save_path / PLACES_FOLDER
        self._plan = plan
        settings = plan.settings
        self._side = settings.patch_px
        num_patches = plan.num_places * settings.num_dates
        self._groups = plan_groups(settings.bands, num_patches)

    def open(self, has_begun: bool = False) -> None:
        """Create the shards at their full size, and the folder of waiting places.

        Args:
            has_begun: Whether a journal has places that are done: their rows have to be there.
        """
        bare = self._manifest(())
        with locked(self.save_path / LOCK_NAME):
            if (self.save_path / MANIFEST_NAME).exists():
                return
            self.places.mkdir(exist_ok=True)
            self._join_parts(bare)
            check_free_disk(bare, self.save_path)
            for path, _ in missing_files(bare, self.save_path) if has_begun else ():
                raise UserError(
                    f"{path} is missing or cut off, and with it places that the journal has: "
                    "restore it, or choose another --save_path"
                )
            create_files(bare, self.save_path)

    def pack(self, block: BlockState) -> None:
        """Write the rows of the places of a complete block that still wait."""
        waiting = [n for n in block.done if (self.places / f"{n:06d}").is_dir()]
        if not waiting:
            return
        rows = {number: row for row, number in enumerate(sorted(block.done))}
        first = block.block.number * BLOCK
        for number in waiting:
            row = (first + rows[number]) * self._plan.settings.num_dates
            images = self._read(self.places / f"{number:06d}")
            bands = self._plan.settings.bands
            write_rows(self._manifest(()), self.save_path, row, bands, images)
        sync_files(self._manifest(()), self.save_path)
        for number in waiting:
            folder = self.places / f"{number:06d}"
            gone = folder.with_name(f".{folder.name}")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)  # half a folder would be written again, in part
            shutil.rmtree(gone)

    def finish(self, records: Mapping[int, Record]) -> bool:
        """Write the manifest if the blocks of all shards are in the store; return whether it is."""
        outcomes = {number: record.outcome for number, record in records.items()}
        blocks = [BlockState(block, outcomes) for block in blocks_of(self._plan)]
        if not all(block.is_complete for block in blocks):
            return False
        with locked(self.save_path / LOCK_NAME):  # the second process finds it done
            if (self.save_path / MANIFEST_NAME).exists():
                return True
            if any(not path.name.startswith(".") for path in self.places.iterdir()):
                return False  # another shard is about to write them
            bare = self._manifest(_names(blocks, records))
            finish_store(
                bare, self.save_path, _zero_planes(bare, self.save_path), available_cores()
            )
            shutil.rmtree(self.places, ignore_errors=True)
        return True

    def _manifest(self, places: Sequence[str]) -> Manifest:
        side = self._side
        return Manifest("seco", tuple(places), side, side, RGB_QUANTILES, self._groups)

    def _read(self, folder: Path) -> Array:
        """Read all dates of a place on the 10 m grid: uint8, shape (T, C, H, W)."""
        bands, side = self._plan.settings.bands, self._side
        scenes = sorted(path for path in folder.iterdir() if path.is_dir())
        images = [
            [on_10_m_grid(read_band(scene / f"{band}.tif"), side, side) for band in bands]
            for scene in scenes
        ]
        return np.array(images, np.uint8)

    def _join_parts(self, bare: Manifest) -> None:
        """Join the files of 4 GB into which a group of bands was cut before December 2026."""
        for group, (whole, num_bytes) in zip(bare.groups, bare.files(self.save_path), strict=True):
            row_bytes = bare.row_bytes(group)
            part_bytes = max(1, _PART_BYTES // row_bytes) * row_bytes
            parts = set(self.save_path.glob(whole.name.replace("00000", "?????")))
            for part in sorted(parts - {whole}) if whole in parts else ():
                start = int(part.stem[-5:]) * part_bytes
                if part.stat().st_size < min(part_bytes, num_bytes - start):
                    raise UserError(f"{part} is cut off: restore it, or choose another --save_path")
                with part.open("rb") as source, whole.open("r+b") as target:
                    target.seek(start)
                    shutil.copyfileobj(source, target)
                    target.flush()
                    os.fsync(target.fileno())
                part.unlink()


def _names(blocks: Iterable[BlockState], records: Mapping[int, Record]) -> list[str]:
    """Return "place/scene/scene" of all places, in the order of their rows."""
    return [
        "/".join([f"{number:06d}", *records[number].scenes])
        for block in blocks
        for number in sorted(block.done)
    ]


def _zero_planes(manifest: Manifest, save_path: Path) -> list[Flaw]:
    """Find bands of patches that hold only zeros, which ``store.writer`` lists as flaws too."""
    found = []
    for group, (path, _) in zip(manifest.groups, manifest.files(save_path), strict=True):
        shape = (manifest.num_patches, len(group.bands), manifest.height * manifest.width)
        rows = np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
        for patch, planes in enumerate(rows):
            is_empty = ~planes.any(axis=1)
            names = (b for b, empty in zip(group.bands, is_empty, strict=True) if empty)
            found += [Flaw(patch, band, ZEROS) for band in names]
    return sorted(found, key=lambda flaw: flaw.patch)
