"""Write a set of LitData chunks, see ``litdata.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.seco.bad_patches import BadPatchError, check_bad_count
from datasets.store.litdata import MANIFEST_NAME, PlacesManifest, require_litdata
from utils.errors import UserError
from utils.files import remove_partials, require_free, written_whole
from utils.locks import sole_writer
from utils.pools import in_processes
from utils.progress import progress
from utils.report import write_json

if TYPE_CHECKING:  # packing does without torch
    from datasets.seco.samples import PatchSource

CHUNK_BYTES = 2**26  # 64 MiB, LitData's default for object storage


def write_litdata(
    source: PatchSource, save_path: Path, num_workers: int = 0, *, chunk_bytes: int = CHUNK_BYTES
) -> PlacesManifest:
    """Write a set that LitData streams: chunks, its index, and our manifest, which is returned.

    A patch that cannot be read is stored as zeros and listed in the manifest. The set gets its name
    when it is complete; what a killed process left is removed by the next one.

    Args:
        source: The patches; they are only read.
        save_path: Folder of the set, which must not exist. It can then be copied to a bucket.
        num_workers: Processes that read; 0 uses this one.
        chunk_bytes: Size of a chunk, the unit of a download.

    Raises:
        UserError: LitData is missing, the folder exists or is in use, the disk is too small, or too
            many patches are bad.
    """
    require_litdata()
    from litdata.streaming.writer import BinaryWriter  # optional

    from datasets.store.litdata_loader import PlaceLoader

    save_path = save_path.resolve()
    save_path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"another process writes {save_path}: wait for it, or choose another folder"
    with sole_writer(save_path.with_name(f"{save_path.name}.lock"), busy):
        if save_path.exists():
            raise UserError(f"{save_path} exists: remove it, or choose another --save_path")
        num_places, num_patches = len(source.starts) - 1, int(source.starts[-1])
        require_free(save_path.parent, num_patches * int(np.prod(source.patch_shape)))
        remove_partials(save_path)
        bad: dict[int, tuple[str, str]] = {}
        with written_whole(save_path) as partial:
            writer = BinaryWriter(str(partial), chunk_bytes=chunk_bytes, item_loader=PlaceLoader())
            items = in_processes(_PlaceReader(source), range(num_places), num_workers)
            bar = progress(items, desc="writing", total=num_places, unit=" places")
            for place, (content, found) in enumerate(bar):
                bad |= found
                check_bad_count([name for name, _ in bad.values()], num_patches)
                writer.add_item(place, content)
            writer.done()
            writer.merge()
            manifest = PlacesManifest(source.starts, source.patch_shape, source.input_spec, bad)
            write_json(partial / MANIFEST_NAME, manifest.to_json())
    return manifest


@dataclass(frozen=True)
class _PlaceReader:
    """Reads the item of a place, in any process."""

    source: PatchSource

    def __call__(self, place: int) -> tuple[bytes, dict[int, tuple[str, str]]]:
        """Return the bytes of a place; name and reason of its bad patches, which are zeros."""
        patches = range(self.source.starts[place], self.source.starts[place + 1])
        pixels = np.zeros((len(patches), *self.source.patch_shape), np.uint8)
        bad: dict[int, tuple[str, str]] = {}
        for patch, target in zip(patches, pixels, strict=True):
            try:
                target[:] = self.source.read(patch)
            except BadPatchError as error:
                bad[patch] = (error.name, error.reason)
        return pixels.tobytes(), bad
