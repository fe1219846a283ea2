"""Collecting straight into a packed store (``--format packed``), which has few files.

Places are files in ``.places/`` until their block is complete and their rows are on the disk: block
b has the rows from 25 * b * dates on, its places by number, their dates by name.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.bands import RGB_QUANTILES
from datasets.collect.blocks import BLOCK, Block, blocks_of
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
        self._side = plan.settings.patch_px
        num_patches = plan.num_places * plan.settings.num_dates
        self._groups = plan_groups(plan.settings.bands, num_patches)

    def open(self, has_begun: bool = False) -> None:
        """Create the files at their full size, and the folder of waiting places.

        Args:
            has_begun: Whether a journal has places that are done: their rows have to be there.

        Raises:
            UserError: A file is missing whose rows the journal has.
        """
        bare = self._manifest(())
        with locked(self.save_path / _LOCK_NAME):
            if (self.save_path / MANIFEST_NAME).exists():
                return
            for path, _ in missing_files(bare, self.save_path) if has_begun else ():
                raise UserError(
                    f"{path} is missing, cut off or of an earlier version, and with it places that "
                    "the journal has: restore it, or collect into another --save_path, which "
                    f"--match_file {self.save_path / 'places.csv'} gives the same places"
                )
            self.places.mkdir(exist_ok=True)
            check_free_disk(bare, self.save_path)
            create_files(bare, self.save_path)

    def pack(self, block: Block) -> None:
        """Write the rows of the places of a complete block that still wait."""
        settings = self._plan.settings
        waiting = []
        for row, number in enumerate(sorted(block.done)):
            folder = self.places / f"{number:06d}"
            if folder.is_dir():
                first = (block.number * BLOCK + row) * settings.num_dates
                patches = self._read(folder)
                write_rows(self._manifest(()), self.save_path, first, settings.bands, patches)
                waiting.append(folder)
        if waiting:
            sync_files(self._manifest(()), self.save_path)
        for folder in waiting:
            gone = folder.with_name(f".{folder.name}")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)  # half a folder would be written again, in part
            shutil.rmtree(gone)

    def finish(self, records: Mapping[int, Record]) -> bool:
        """Write the manifest if the blocks of all shards are in the store; return whether it is."""
        blocks = blocks_of(self._plan)
        outcomes = {number: record.outcome for number, record in records.items()}
        for block in blocks:
            block.settle(outcomes)
        if not all(block.is_complete for block in blocks):
            return False
        with locked(self.save_path / _LOCK_NAME):  # the second process finds it done
            if (self.save_path / MANIFEST_NAME).exists():
                return True
            if any(not path.name.startswith(".") for path in self.places.iterdir()):
                return False  # another shard is about to write them
            done = [number for block in blocks for number in sorted(block.done)]
            names = ["/".join([f"{number:06d}", *records[number].scenes]) for number in done]
            bare = self._manifest(names)
            flaws = _zero_planes(bare, self.save_path)
            finish_store(bare, self.save_path, flaws, available_cores())
            shutil.rmtree(self.places, ignore_errors=True)
        return True

    def _manifest(self, places: Sequence[str]) -> Manifest:
        side = self._side
        return Manifest("seco", tuple(places), side, side, RGB_QUANTILES, self._groups)

    def _read(self, folder: Path) -> Array:
        """Read all dates of a place on the 10 m grid: uint8, shape (T, C, H, W)."""
        side = self._side
        scenes = sorted(path for path in folder.iterdir() if path.is_dir())
        images = [
            [
                on_10_m_grid(read_band(scene / f"{band}.tif"), side, side)
                for band in self._plan.settings.bands
            ]
            for scene in scenes
        ]
        return np.array(images, np.uint8)


def _zero_planes(manifest: Manifest, save_path: Path) -> list[Flaw]:
    """Find bands of patches that hold only zeros, which ``store.writer`` lists as flaws too."""
    found = []
    for group, (path, _) in zip(manifest.groups, manifest.files(save_path), strict=True):
        shape = (manifest.num_patches, len(group.bands), manifest.height * manifest.width)
        rows = np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
        for patch, planes in enumerate(rows):
            found += [Flaw(patch, group.bands[i], ZEROS) for i in np.flatnonzero(~planes.any(1))]
    return sorted(found, key=lambda flaw: flaw.patch)
