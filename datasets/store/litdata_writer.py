"""Write a set of LitData chunks, see ``litdata.py``."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.seco.bad_patches import BadPatchError, check_bad_count
from datasets.store.litdata import (
    INDEX_NAME,
    MANIFEST_NAME,
    PlacesManifest,
    check_index,
    require_litdata,
)
from datasets.store.rows import require_free
from utils.errors import UserError
from utils.report import write_json

if TYPE_CHECKING:  # packing does without torch
    from datasets.seco.samples import PatchSource

CHUNK_BYTES = 2**26  # 64 MiB, LitData's default for object storage
_BAD_NAME, _ERROR_NAME = "bad.jsonl", "error.txt"  # notes of the writing processes


def write_litdata(
    source: PatchSource, save_path: Path, num_workers: int = 0, *, chunk_bytes: int = CHUNK_BYTES
) -> PlacesManifest:
    """Write a set that LitData streams: chunks, its index, and our manifest.

    A patch that cannot be read is stored as zeros and listed in the manifest. The set gets its name
    when it is complete; an interrupted one leaves nothing but its folder ``.partial``.

    Args:
        source: The patches; they are only read.
        save_path: Folder of the set, which must not exist. It can then be copied to a bucket.
        num_workers: Processes that read and write, at least one.
        chunk_bytes: Size of a chunk, the unit of a download.

    Returns:
        The manifest, which has been written.

    Raises:
        UserError: LitData is missing, the folder exists or is in use, the disk is too small, or too
            many patches are bad.
    """
    require_litdata()
    save_path = save_path.resolve()
    partial = save_path.with_name(f"{save_path.name}.partial")
    for path in (save_path, partial):
        if path.exists():
            raise UserError(
                f"{path} exists: remove it, unless another process is writing it, or choose "
                "another --save_path"
            )
    partial.mkdir(parents=True)
    try:
        require_free(partial, int(source.starts[-1]) * int(np.prod(source.patch_shape)))
        manifest = _write_chunks(source, partial, num_workers, chunk_bytes)
        write_json(partial / MANIFEST_NAME, manifest.to_json())
        partial.rename(save_path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _write_chunks(
    source: PatchSource, folder: Path, num_workers: int, chunk_bytes: int
) -> PlacesManifest:
    """Write the chunks in the order of the places, and collect the manifest."""
    from litdata import optimize  # optional

    from datasets.store.litdata_loader import PlaceLoader

    num_places = len(source.starts) - 1
    reader = _PlaceReader(source, folder)
    optimize(
        reader,
        list(range(num_places)),
        str(folder),
        chunk_bytes=chunk_bytes,
        num_workers=min(max(1, num_workers), num_places),
        keep_data_ordered=True,  # the number of an item is that of its place
        reorder_files=False,
        start_method=multiprocessing.get_start_method(),  # it sets it for the whole program
        item_loader=PlaceLoader(),
        verbose=False,
    )
    if (folder / _ERROR_NAME).exists():
        raise UserError((folder / _ERROR_NAME).read_text())
    index = folder / INDEX_NAME
    try:
        check_index(index.read_bytes(), num_places, str(index))
    except (UserError, OSError) as error:  # LitData does not notice it
        raise UserError(
            "a worker process was killed, perhaps because the memory is full: run the same command "
            "again with fewer --num_workers"
        ) from error
    bad = {patch: (name, reason) for patch, name, reason in reader.bad()}
    (folder / _BAD_NAME).unlink(missing_ok=True)
    return PlacesManifest(source.starts, source.patch_shape, source.input_spec, bad)


@dataclass(frozen=True)
class _PlaceReader:
    """Reads the item of a place, in any process; files in ``folder`` collect what went wrong."""

    source: PatchSource
    folder: Path

    def __call__(self, place: int) -> bytes:
        """Return the bytes of a place, and of those that may have to stand in for it.

        An error is noted, and the remaining places are empty: LitData leaves processes behind where
        one of them raises.
        """
        error_path = self.folder / _ERROR_NAME
        if error_path.exists():
            return b""
        try:
            return self._read(place)
        except UserError as error:
            error_path.write_text(str(error))
            return b""

    def bad(self) -> list[tuple[int, str, str]]:
        """Return number, name and reason of the bad patches that any process has met."""
        path = self.folder / _BAD_NAME
        lines = path.read_text().splitlines() if path.exists() else []
        return sorted({tuple(json.loads(line)) for line in lines})

    def _read(self, place: int) -> bytes:
        source, content = self.source, b""
        num_places, num_patches = len(source.starts) - 1, int(source.starts[-1])
        for here in (np.arange(num_places) + place) % num_places:
            bad = []
            for patch in range(source.starts[here], source.starts[here + 1]):
                try:
                    content += source.read(patch).tobytes()
                except BadPatchError as error:
                    content += bytes(int(np.prod(source.patch_shape)))
                    bad.append((patch, error.name, error.reason))
            if not bad:
                break
            with (self.folder / _BAD_NAME).open("a") as file:  # one write: lines stay whole
                file.write("".join(json.dumps(each) + "\n" for each in bad))
            check_bad_count([name for _, name, _ in self.bad()], num_patches)
        return content
