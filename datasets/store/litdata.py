"""Patches in chunks for LitData: written once, then streamed from object storage or a folder.

An item of a chunk is a place with all its dates, as raw uint8 patches. What is made of it is left
to ``PatchDataset``, so that a stream gives the samples that the folder gives; only their order is
LitData's: chunks at random, and the places of a chunk at random.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from datasets.seco.bad_patches import BadPatchError, check_bad_count
from datasets.seco.samples import PatchSource
from datasets.store.litdata_manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    PlacesManifest,
    check_index,
    fetch,
    parse_manifest,
    require_litdata,
)
from utils.errors import UserError
from utils.files import address
from utils.progress import progress
from utils.report import write_json

CHUNK_BYTES = 2**26  # 64 MiB, LitData's choice for object storage


def write_litdata(
    source: PatchSource, save_path: Path, num_workers: int = 0, *, chunk_bytes: int = CHUNK_BYTES
) -> PlacesManifest:
    """Write a set that LitData streams: chunks, its index, and our manifest.

    A patch that cannot be read is stored as zeros and listed in the manifest. The set appears under
    its name when it is complete; an interrupted one leaves nothing but its folder ``.partial``.

    Args:
        source: The patches; they are only read.
        save_path: Folder of the set, which must not exist. It can then be copied to a bucket.
        num_workers: Processes that read; 0 reads in this one.
        chunk_bytes: Size of a chunk, the unit of a download.

    Returns:
        The manifest, which has been written.

    Raises:
        UserError: LitData is missing, the folder is there or in use, the disk is too small, or too
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
        _check_free_disk(source, partial)
        manifest = _write_chunks(source, partial, num_workers, chunk_bytes)
        write_json(partial / MANIFEST_NAME, manifest.to_json())
        partial.rename(save_path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _check_free_disk(source: PatchSource, folder: Path) -> None:
    needed, free = int(source.starts[-1]) * patch_bytes(source), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, but the set needs {needed / 1e9:.1f}: "
            "make room, or choose another --save_path"
        )


def _write_chunks(
    source: PatchSource, folder: Path, num_workers: int, chunk_bytes: int
) -> PlacesManifest:
    """Write the chunks in the order of the places, and collect what the manifest tells."""
    from litdata.streaming.writer import BinaryWriter  # optional

    from datasets.store.litdata_places import PlaceLoader

    # One process writes: the number of an item in the chunks is that of its place.
    writer = BinaryWriter(str(folder), chunk_bytes=chunk_bytes, item_loader=PlaceLoader())
    reader = DataLoader(_Items(source), batch_size=None, num_workers=num_workers)
    num_places = len(source.starts) - 1
    manifest = PlacesManifest(source.starts, source.patch_shape, source.input_spec)
    for place, item in enumerate(
        progress(reader, total=num_places, desc="writing", unit=" places")
    ):
        if isinstance(item, str):
            raise UserError(item)
        patches, bad = item
        manifest.bad.update((patch, (name, reason)) for patch, name, reason in bad)
        check_bad_count([name for name, _ in manifest.bad.values()], int(source.starts[-1]))
        writer.add_item(place, patches.numpy().tobytes())
    writer.done()
    writer.merge()
    return manifest


class _Items(Dataset[Any]):
    """Reads what is stored with each place, see ``PlacesManifest.stand_ins``."""

    def __init__(self, source: PatchSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source.starts) - 1

    def __getitem__(self, place: int) -> Any:
        """Return patches, uint8, shape (T, C, H, W), and what is bad; or the text of an error."""
        try:
            return self._read(place)
        except UserError as error:
            return str(error)

    def _read(self, place: int) -> tuple[np.ndarray, list[tuple[int, str, str]]]:
        source, patches = self._source, []
        bad: list[tuple[int, str, str]] = []
        for offset in range(len(self)):
            here = (place + offset) % len(self)
            num_bad = len(bad)
            for patch in range(source.starts[here], source.starts[here + 1]):
                try:
                    patches.append(source.read(patch))
                except BadPatchError as error:
                    patches.append(np.zeros(source.patch_shape, np.uint8))
                    bad.append((patch, error.name, error.reason))
            check_bad_count([name for _, name, _ in bad], int(source.starts[-1]))
            if len(bad) == num_bad:
                break
        return np.stack(patches), bad


class StreamedPlaces:
    """The patches of a set in chunks, a ``PatchSource`` for the place at hand.

    Args:
        data_dir: Bucket with prefix (``s3://``, ``gs://``), or folder.

    Raises:
        UserError: Nothing is there, it is damaged, or it is none of ours.
    """

    def __init__(self, data_dir: Path) -> None:
        require_litdata()
        self.root = data_dir
        self.address = address(data_dir)
        text = fetch(self.address, MANIFEST_NAME)
        self.manifest = parse_manifest(text, f"{self.address}/{MANIFEST_NAME}")
        self.starts = self.manifest.starts
        self.patch_shape = self.manifest.patch_shape
        self.input_spec = self.manifest.input_spec
        self.bands = self.input_spec.bands
        self.index = fetch(self.address, INDEX_NAME)
        check_index(self.index, len(self.starts) - 1, f"{self.address}/{INDEX_NAME}")
        self._first = 0  # patch at hand
        self._at_hand = np.empty((0, *self.patch_shape), np.uint8)

    def check_bands(self, bands: Sequence[str]) -> None:
        """Refuse other bands than those of the set, or another order: chunks come as a whole."""
        if tuple(bands) != self.bands:
            raise UserError(
                f"{self.address} holds the bands {' '.join(self.bands)}, not {' '.join(bands)}: "
                "change --bands, or write another set"
            )

    def name(self, patch: int) -> str:
        """Return "place/date" in numbers: the set does not keep the names of the source."""
        place = self.place_of(patch)
        return f"{place}/{patch - self.starts[place]}"

    def place_of(self, patch: int) -> int:
        """Return the place that a patch belongs to."""
        return int(np.searchsorted(self.starts, patch, side="right")) - 1

    def hold(self, place: int, stored: np.ndarray) -> None:
        """Take the bytes of a place at hand: uint8, one dimension."""
        expected = self.manifest.item_patches(place) * patch_bytes(self)
        if len(stored) != expected:
            raise UserError(
                f"{self.address} has {len(stored)} instead of {expected} bytes for place {place}: "
                "it is damaged, copy or write it again"
            )
        self._first = int(self.starts[place])
        self._at_hand = stored.reshape(-1, *self.patch_shape)

    def read(self, patch: int) -> np.ndarray:
        """Return a patch of the place at hand, or of one that stands in for it."""
        if patch in self.manifest.bad:
            raise BadPatchError(*self.manifest.bad[patch])
        return self._at_hand[(patch - self._first) % int(self.starts[-1])]


def patch_bytes(source: PatchSource) -> int:
    """Return the size of a stored patch."""
    return int(np.prod(source.patch_shape))
