"""Read patches of a packed store: raw uint8 rows of a few large files, through memory maps.

``datasets/seco_packed.py`` writes it. A row is a patch, the rows of a place follow each other, and
red, green and blue are in another file than the other bands. Reading a patch is one copy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasets.bands import QUANTILES_NAME, RGB_QUANTILES, seco_input_spec
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.patches import count_dates, parse_quantiles, patch_name
from datasets.seco.pictures import select
from datasets.store.manifest import MANIFEST_NAME, ZEROS, Group, Manifest, Shard, read_manifest
from utils.errors import UserError
from utils.input_spec import InputSpec

if TYPE_CHECKING:  # the downloader, which writes stores, does without torch
    import torch

_CHUNK_BYTES = 2**28  # copied to a device at a time


class _Part(NamedTuple):
    """A group, and the runs of its planes that are used: slices of a row and of a patch."""

    group: Group
    runs: tuple[tuple[slice, slice], ...]


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
        is_pictures = self.manifest.kind == "pictures"
        self.bands = self.manifest.bands if is_pictures else tuple(bands or self.manifest.bands)
        _check_bands(self.bands, self.manifest.bands, root)
        check_files(self.manifest, root)
        if is_pictures:
            self.starts = np.arange(len(self.manifest.places) + 1)
        else:
            self.starts = count_dates(self.manifest.places)
        self._rows: np.ndarray | None = None  # rows of the listed pictures; None stands for all
        if image_list is not None:
            if not is_pictures:
                raise UserError(f"--image_list is for pictures, but {root} holds SeCo patches")
            names = list(self.manifest.places)
            self._rows = np.array(select(names, image_list, root))
            self.starts = np.arange(len(self._rows) + 1)
        self.patch_shape = (len(self.bands), self.manifest.height, self.manifest.width)
        parts = (_Part(group, _runs(group, self.bands)) for group in self.manifest.groups)
        self._parts = [part for part in parts if part.runs]
        self._errors = self._find_errors()
        self._is_bad = np.zeros(self.manifest.num_patches, bool)
        self._is_bad[list(self._errors)] = True
        self._shards: dict[str, np.ndarray] = {}

    @cached_property
    def input_spec(self) -> InputSpec:
        """Bands, stretch and normalisation; a band without quantiles is a ``UserError``."""
        if self.manifest.kind == "pictures":
            return InputSpec.of_pictures()
        path = self.root / QUANTILES_NAME  # measured after the packing
        later = parse_quantiles(path.read_bytes(), path) if path.exists() else RGB_QUANTILES
        return seco_input_spec(self.bands, self.manifest.quantiles | later)

    def name(self, patch: int) -> str:
        """Return "place/scene", or the name of a picture."""
        return self._row_name(self._row(patch))

    def read(self, patch: int) -> np.ndarray:
        """Read a patch: uint8, shape (C, H, W); a bad one raises a ``BadPatchError``."""
        self.check(patch)
        pixels = np.empty(self.patch_shape, np.uint8)
        self.copy(patch, pixels)
        return pixels

    def check(self, patch: int) -> None:
        """Raise the ``BadPatchError`` of a patch that the source could not read."""
        error = self._errors.get(self._row(patch))
        if error is not None:
            raise BadPatchError(error.name, error.reason)

    def copy(self, patch: int, pixels: np.ndarray) -> None:
        """Copy a patch into an array of shape (C, H, W), whether it is good or not."""
        row = self._row(patch)
        for part in self._parts:
            number, row_of_shard = divmod(row, part.group.shards[0].num_patches)
            planes = self._shard(part.group, part.group.shards[number])[row_of_shard]
            for source, target in part.runs:
                pixels[target] = planes[source]

    def are_bad(self, patches: np.ndarray) -> np.ndarray:
        """Return which patches are bad, for an array of patch numbers of any shape."""
        return self._is_bad[patches if self._rows is None else self._rows[patches]]

    def load(self) -> None:
        """Read the files of the requested bands into memory, where they stay."""
        rows = sum(self.manifest.row_bytes(part.group) for part in self._parts)
        needed, free = rows * self.manifest.num_patches, available_memory()
        if needed > free:
            raise UserError(
                f"{self.root} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: "
                "use --cache mmap"
            )
        for group, _ in self._parts:
            for shard in group.shards:
                self._shards[shard.file] = np.array(self._shard(group, shard))

    def to_device(self, device: torch.device) -> torch.Tensor:
        """Copy all patches to a device: uint8, shape (patches, C, H, W)."""
        import torch

        num_patches = int(self.starts[-1])
        size = num_patches * math.prod(self.patch_shape)
        try:
            patches = torch.empty(
                (num_patches, *self.patch_shape), dtype=torch.uint8, device=device
            )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.root} needs {size / 1e9:.1f} GB on {device}, which has less free: "
                "use --cache mmap or ram, or fewer --bands"
            ) from error
        chunk = np.empty((max(1, _CHUNK_BYTES * num_patches // size), *self.patch_shape), np.uint8)
        for start in range(0, num_patches, len(chunk)):
            count = min(len(chunk), num_patches - start)
            for offset in range(count):
                self.copy(start + offset, chunk[offset])
            patches[start : start + count] = torch.from_numpy(chunk[:count])
        return patches

    def _find_errors(self) -> dict[int, BadPatchError]:
        """Return the errors of the rows that the source could not read."""
        flaws: dict[int, dict[str | None, str]] = {}
        for flaw in self.manifest.flaws:
            flaws.setdefault(flaw.patch, {})[flaw.band] = flaw.reason
        errors = {}
        for row, reasons in flaws.items():
            error = _find_error(reasons, self.bands, f"{self.root}/{self._row_name(row)}")
            if error is not None:
                errors[row] = error
        return errors

    def _row_name(self, row: int) -> str:
        if self.manifest.kind == "pictures":
            return self.manifest.places[row]
        return patch_name(self.manifest.places, self.starts, row)

    def _row(self, patch: int) -> int:
        return patch if self._rows is None else int(self._rows[patch])

    def _shard(self, group: Group, shard: Shard) -> np.ndarray:
        """Return the rows of a file, (patches, bands, H, W), mapped when it is first used."""
        rows = self._shards.get(shard.file)
        if rows is None:
            shape = (shard.num_patches, len(group.bands), *self.patch_shape[1:])
            # A plain array: np.memmap objects cost ten times as much to index.
            rows = np.asarray(np.memmap(self.root / shard.file, np.uint8, "r", shape=shape))
            self._shards[shard.file] = rows
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # a spawned process maps them itself


def _runs(group: Group, bands: Sequence[str]) -> tuple[tuple[slice, slice], ...]:
    """Match the planes of a group with the requested bands, neighbours in one run."""
    runs: list[tuple[int, int, int]] = []  # source, target, length
    for target, band in enumerate(bands):
        if band not in group.bands:
            continue
        source = group.bands.index(band)
        before, start, length = runs[-1] if runs else (-1, -1, 0)
        if length and (source, target) == (before + length, start + length):
            runs[-1] = (before, start, length + 1)
        else:
            runs.append((source, target, 1))
    return tuple((slice(s, s + n), slice(t, t + n)) for s, t, n in runs)


def is_packed(data_dir: Path) -> bool:
    """Return whether a folder is a complete packed store."""
    return (data_dir / MANIFEST_NAME).is_file()


def available_memory() -> int:
    """Return the free memory in bytes, as far as Linux reports it."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return free[0] if free else sys.maxsize


def _check_bands(bands: Sequence[str], there: Sequence[str], root: Path) -> None:
    missing = [band for band in bands if band not in there]
    if missing:
        raise UserError(
            f"{root} was packed without {' '.join(missing)}: choose --bands among "
            f"{' '.join(there)}, or pack the data again with more"
        )


def check_files(manifest: Manifest, root: Path) -> None:
    """Refuse a store of which a file is missing or has another size."""
    for path, size in manifest.files(root):
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(
                f"{path} {state}: copy the store again, or delete it and pack the data again"
            )


def _find_error(
    reasons: Mapping[str | None, str], bands: Sequence[str], name: str
) -> BadPatchError | None:
    """Return the error that the source raises for a patch, if its flaws are in ``bands``."""
    if None in reasons:  # a picture
        return BadPatchError(name, reasons[None])
    for band in bands:
        if reasons.get(band, ZEROS) != ZEROS:
            return BadPatchError(f"{name}/{band}.tif", reasons[band])
    if all(band in reasons for band in bands):
        return BadPatchError(name, ZEROS)
    return None
