"""Read patches of a packed store: raw uint8 rows of a few large files.

``datasets/seco_packed.py`` writes it. A row is a patch, the rows of a place follow each other, and
red, green and blue are in another file than the other bands. Reading a patch is one copy, from the
page cache of the system. A memory map would end the process if a file became shorter (SIGBUS).
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.bands import QUANTILES_NAME, seco_input_spec
from datasets.seco.bad_patches import BadPatchError, are_constant
from datasets.seco.patches import count_dates, parse_quantiles, patch_name
from datasets.seco.pictures import select
from datasets.store.manifest import MANIFEST_NAME, ZEROS, Group, Manifest, read_manifest
from datasets.store.memory import read_shared
from utils.errors import UserError
from utils.files import read_file
from utils.input_spec import InputSpec
from utils.stored_values import NDVI, NDVI_BANDS

if TYPE_CHECKING:  # the downloader, which writes stores, does without torch
    import torch

_CHUNK_BYTES = 2**28  # copied to a device at a time


class PackedStore:
    """The patches of a store; a ``PatchSource``.

    Args:
        root: Folder of the store.
        bands: Bands of SeCo patches in channel order; None takes all bands of the store.
        image_list: File with the names of the pictures to use, see ``Pictures``.

    Attributes:
        manifest: Content and layout of the store.
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        patch_shape: Bands, height and width in pixels of 10 m.

    Raises:
        UserError: The store is damaged or incomplete, or lacks a band or a listed picture.
    """

    def __init__(
        self, root: Path, bands: Sequence[str] | None = None, image_list: Path | None = None
    ) -> None:
        self.root = root
        self.manifest = read_manifest(root)
        self._is_pictures = self.manifest.kind == "pictures"
        there, places = self.manifest.bands, self.manifest.places
        self.bands = there if self._is_pictures else tuple(bands or there)
        missing = [band for band in self.bands if band not in there]
        if missing:
            known = (*there, NDVI) if set(NDVI_BANDS) <= set(there) else there
            raise UserError(
                f"{root} was packed without {' '.join(missing)}: choose --bands among "
                f"{' '.join(known)}, or pack the data again with more"
            )
        if image_list is not None and not self._is_pictures:
            raise UserError(f"--image_list is for pictures, but {root} holds SeCo patches")
        check_files(self.manifest, root)
        self._rows: Sequence[int] = range(self.manifest.num_patches)  # of the patches
        self.starts = count_dates(places)
        if self._is_pictures:
            self._rows = select(list(places), image_list, root) if image_list else self._rows
            self.starts = np.arange(len(self._rows) + 1)
        self.patch_shape = (len(self.bands), self.manifest.height, self.manifest.width)
        # The groups of which planes are used, each with slices of a row and of a patch.
        parts = ((group, _runs(group, self.bands)) for group in self.manifest.groups)
        self._parts = [(group, runs) for group, runs in parts if runs]
        self._errors = self._find_errors()
        self._descriptors: dict[str, int] = {}
        self._loaded: dict[str, np.ndarray] = {}

    @cached_property
    def input_spec(self) -> InputSpec:
        """Bands, stretch and normalisation; a band without quantiles is a ``UserError``."""
        if self._is_pictures:
            return InputSpec.of_pictures()
        path = self.root / QUANTILES_NAME  # measured after the packing
        later = parse_quantiles(read_file(path) if path.exists() else None, path)
        return seco_input_spec(self.bands, self.manifest.quantiles | later)

    def name(self, patch: int) -> str:
        """Return "place/scene", or the name of a picture."""
        return self._row_name(self._rows[patch])

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read a patch; arguments as in ``PatchSource.read``."""
        self.check(patch)
        pixels = np.empty(self.patch_shape, np.uint8) if out is None else out
        self._copy(patch, pixels)
        return pixels

    def check(self, patch: int) -> None:
        """Raise the ``BadPatchError`` of a patch that the source could not read."""
        name_and_reason = self._errors.get(self._rows[patch])
        if name_and_reason is not None:
            raise BadPatchError(*name_and_reason)

    def _copy(self, patch: int, pixels: np.ndarray) -> None:
        """Copy a patch into an array of shape (C, H, W), whether it is good or not."""
        row = self._rows[patch]
        for group, runs in self._parts:
            number, row_of_shard = divmod(row, group.shards[0].num_patches)
            shard = group.shards[number]
            rows = self._loaded.get(shard.file)
            for source, target in runs:
                if rows is None:
                    plane = row_of_shard * len(group.bands) + source.start
                    self._read_planes(shard.file, plane, pixels[target])
                else:
                    pixels[target] = rows[row_of_shard, source]

    def _read_planes(self, file: str, first: int, planes: np.ndarray) -> None:
        """Read neighbouring planes of a file, shape (planes, H, W)."""
        descriptor = self._descriptors.get(file)
        if descriptor is None:
            descriptor = self._descriptors[file] = os.open(self.root / file, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
        try:
            count = os.preadv(descriptor, [planes.data], first * planes[0].nbytes)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.root / file)) from error
        if count < planes.nbytes:
            raise UserError(
                f"{self.root / file} became shorter while it was read: copy the store again, or "
                "delete it and pack the data again"
            )

    def load(self) -> None:
        """Read the files of the requested bands into memory, one copy for a machine's processes.

        Raises:
            UserError: The memory is too small, or a file cannot be read.
        """
        shards = [(group, shard) for group, _ in self._parts for shard in group.shards]
        contents = read_shared([self.root / shard.file for _, shard in shards])
        for (group, shard), content in zip(shards, contents, strict=True):
            shape = shard.num_patches, len(group.bands), *self.patch_shape[1:]
            self._loaded[shard.file] = content.reshape(shape)

    def to_device(self, device: torch.device) -> tuple[torch.Tensor, list[str]]:
        """Copy all patches to a device.

        Returns:
            uint8, shape (patches, C, H, W); names of patches whose bands are all constant.

        Raises:
            UserError: The device has too little memory.
        """
        import torch

        shape = (len(self._rows), *self.patch_shape)
        try:
            patches = torch.empty(shape, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.root} needs {math.prod(shape) / 1e9:.1f} GB on {device}, which has less "
                "free: use --cache mmap or ram, or fewer --bands"
            ) from error
        constant: list[int] = []
        count = max(1, _CHUNK_BYTES // math.prod(self.patch_shape))
        for part in patches.split(count):
            chunk = np.empty(part.shape, np.uint8)
            first = part.storage_offset() // math.prod(self.patch_shape)
            for offset, pixels in enumerate(chunk):
                self._copy(first + offset, pixels)
            part.copy_(torch.from_numpy(chunk))
            constant += (first + np.flatnonzero(are_constant(chunk))).tolist()
        return patches, [self.name(patch) for patch in constant]

    def _find_errors(self) -> dict[int, tuple[str, str]]:
        """Return name and reason of the rows that the source could not read."""
        flaws: dict[int, dict[str | None, str]] = {}
        for flaw in self.manifest.flaws:
            flaws.setdefault(flaw.patch, {})[flaw.band] = flaw.reason
        found = {row: _find_error(reasons, self.bands) for row, reasons in flaws.items()}
        return {
            row: (f"{self.root}/{self._row_name(row)}{error[0]}", error[1])
            for row, error in found.items()
            if error is not None
        }

    def _row_name(self, row: int) -> str:
        places = self.manifest.places
        return places[row] if self._is_pictures else patch_name(places, self.starts, row)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}, "_loaded": {}}  # of a process


def is_packed(data_dir: Path) -> bool:
    """Return whether a folder is a complete packed store."""
    return (data_dir / MANIFEST_NAME).is_file()


def check_files(manifest: Manifest, root: Path) -> None:
    """Refuse a store of which a file is missing or has another size.

    Args:
        manifest: Manifest of the store.
        root: Folder of the store.

    Raises:
        UserError: A file is missing or has another size.
    """
    for path, size in manifest.files(root):
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(
                f"{path} {state}: copy the store again, or delete it and pack the data again"
            )


def _runs(group: Group, bands: Sequence[str]) -> list[tuple[slice, slice]]:
    """Match the planes of a group with the requested bands, neighbours in one run."""
    runs: list[tuple[slice, slice]] = []  # of a row, of a patch
    for target, band in enumerate(bands):
        if band not in group.bands:
            continue
        source = group.bands.index(band)
        if runs and (runs[-1][0].stop, runs[-1][1].stop) == (source, target):
            first, to = runs.pop()
            runs.append((slice(first.start, source + 1), slice(to.start, target + 1)))
        else:
            runs.append((slice(source, source + 1), slice(target, target + 1)))
    return runs


def _find_error(reasons: Mapping[str | None, str], bands: Sequence[str]) -> tuple[str, str] | None:
    """Return file and reason of the error that the source raises for ``bands`` of a patch."""
    if None in reasons:  # a picture
        return "", reasons[None]
    for band in bands:
        if reasons.get(band, ZEROS) != ZEROS:
            return f"/{band}.tif", reasons[band]
    return ("", ZEROS) if all(band in reasons for band in bands) else None
