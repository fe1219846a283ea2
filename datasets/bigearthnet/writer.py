"""Write BigEarthNet's LMDB in parallel; the same command resumes an interrupted run.

Everything is written into a hidden folder and moved out at the end, the LMDB last: a folder with
``data.mdb`` is complete.
"""

import hashlib
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import lmdb

from datasets.bigearthnet.facts import SIDE_PX, multi_hot
from datasets.bigearthnet.folder import PatchFolder
from datasets.bigearthnet.index import labels_of
from datasets.bigearthnet.lists import METADATA, Listing, write_metadata
from datasets.bigearthnet.lmdb_store import DATA_FILE, encode_patch
from utils.errors import UserError
from utils.files import require_free
from utils.locks import sole_writer
from utils.pools import in_processes
from utils.progress import progress
from utils.report import write_json

_BLOCK = 256  # patches per transaction, which an interruption can lose
_HEADER_BYTES = 1024  # of a value (names, types, shapes) and its key
_PAGE_BYTES = 4096  # of an LMDB on most machines
_SPARE_BYTES = 2**26


def write_lmdb(
    source: PatchFolder, listing: Listing, save_dir: Path, bands: Sequence[str], num_workers: int
) -> None:
    """Write the listed patches, and their splits and labels next to them.

    Args:
        source: Folder of the patches; it is only read.
        listing: Which of them to write.
        save_dir: Folder for ``data.mdb`` and ``metadata.parquet``.
        bands: Bands to write, as "B2" and "B8A".
        num_workers: Reader processes; 0 reads in this process.

    Raises:
        UserError: The folder holds an LMDB, or cannot be written.
    """
    if (save_dir / DATA_FILE).exists():
        raise UserError(f"{save_dir} holds an LMDB already: choose another --save_dir")
    labels = labels_of(source, listing)
    multi_hot(listing.names, labels, 19)  # refuses unknown labels before hours of work
    folder = save_dir / ".partial"
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process is writing into {save_dir}: wait until it ends"
    with sole_writer(folder / "writing.lock", busy):
        _check_plan(folder, (str(source.root.resolve()), *bands, *sorted(listing.names)))
        try:
            _write_patches(folder, source, sorted(listing.names), bands, num_workers)
        except lmdb.Error as error:
            raise UserError(
                f"cannot write the LMDB in {folder}: {error}: free space if the disk is full, else "
                "delete this folder to start again"
            ) from error
        write_metadata(folder / METADATA, listing, labels)
        for name in (METADATA, DATA_FILE):
            (folder / name).replace(save_dir / name)
        shutil.rmtree(folder)


def _check_plan(folder: Path, plan: tuple[str, ...]) -> None:
    """Refuse to continue an LMDB of other patches or bands."""
    digest = hashlib.sha256(repr(plan).encode(errors="surrogateescape")).hexdigest()
    path = folder / "source.json"
    if not path.exists():
        write_json(path, {"plan": digest})
    elif digest not in path.read_text():
        raise UserError(
            f"{folder} is an unfinished LMDB of other patches or --bands: continue with the same "
            "ones, or delete the folder"
        )


def _write_patches(
    folder: Path, source: PatchFolder, names: list[str], bands: Sequence[str], num_workers: int
) -> None:
    """Write the patches that are missing, one block per transaction."""
    value_bytes = sum(2 * SIDE_PX[band] ** 2 for band in bands) + _HEADER_BYTES
    patch_bytes = -(-value_bytes // _PAGE_BYTES) * _PAGE_BYTES  # a value fills whole pages
    # The map size reserves addresses, not disk space, so that twice the need is harmless.
    size = 2 * len(names) * patch_bytes + _SPARE_BYTES
    with lmdb.open(str(folder), map_size=size, lock=False) as environment:
        with environment.begin() as transaction:
            done = {key.decode() for key in transaction.cursor().iternext(values=False)}
        missing = [name for name in names if name not in done]
        require_free(folder.parent, len(missing) * patch_bytes + _SPARE_BYTES)
        with progress(total=len(names), initial=len(done), desc="LMDB", unit=" patches") as bar:
            read = partial(_encoded, source, bands)
            values = in_processes(read, missing, num_workers, ahead=32)
            patches = zip(missing, values, strict=True)
            while block := list(islice(patches, _BLOCK)):
                with environment.begin(write=True) as transaction:
                    for name, value in block:
                        transaction.put(name.encode(), value)
                bar.update(len(block))


def _encoded(source: PatchFolder, bands: Sequence[str], name: str) -> bytes:
    return encode_patch(dict(zip(bands, source.read(name, bands), strict=True)))
