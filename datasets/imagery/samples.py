"""Separate patches of one size, such as those of a data set or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from datasets.geotiff.footprints import corners_of
from datasets.geotiff.reader import locate
from utils.errors import UserError
from utils.input_spec import InputTransform
from utils.patch_blocks import PatchBlock, spans
from utils.report import digest_of

_PATCHES_PER_BLOCK = 256
_BLOCK_BYTES = 2**26  # of pictures
_NUM_SAMPLES = 16  # patches that show whether any has a position


class SamplePatches:
    """Patches that are read one by one; a ``PatchBlocks``.

    Args:
        path: The data set.
        names: Name of each patch.
        read: Returns the picture of a patch by its number, uint8, shape (C, H, W); None leaves it
            out.
        transform: Conversion of stored values to inputs of the encoder.
        size: Side of the pictures in pixels; None keeps that of the first, which all must have.
        day: Returns the day of a patch by its number, "" if unknown.
        locate: Returns the content of a GeoTIFF of the patch, b"" if there is none.
        identity: Text that changes with the files.
        digest: See ``PatchBlocks``; None for that of the names.
    """

    grid = None

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        read: Callable[[int], np.ndarray | None],
        transform: InputTransform,
        size: int | None,
        *,
        day: Callable[[int], str] = lambda index: "",
        locate: Callable[[int], bytes] = lambda index: b"",
        identity: str,
        digest: str | None = None,
    ) -> None:
        self.path = path
        self.names = names
        self.transform = transform
        self.size = size
        self.num_patches = len(names)
        self.digest = digest or digest_of(names)
        self._read, self._day, self._locate, self._identity = read, day, locate, identity
        first = next((each for each in map(read, range(len(names))) if each is not None), None)
        if first is None:
            raise UserError(f"{path} has no patch that can be read: replace it")
        first = self._sized(first)
        self._shape = first.shape
        sampled = np.linspace(0, len(names) - 1, _NUM_SAMPLES).astype(int).tolist()
        self.is_placed = any(map(self._is_placed, sorted({*sampled})))
        most = max(1, min(_PATCHES_PER_BLOCK, _BLOCK_BYTES // first.size))
        self._blocks = spans(len(names), most)
        self.description = (
            f"{len(names):,} patches of {first.shape[2]} x {first.shape[1]} px in {path}"
        )

    def __len__(self) -> int:
        return len(self._blocks)

    def read(self, block: int) -> PatchBlock:
        """Read the patches of a block; see ``PatchBlocks.read``.

        Raises:
            UserError: The patches differ in size.
        """
        rows, pictures = [], []
        for row in self._blocks[block]:
            found = self._read(row)
            if found is None:
                continue
            found = self._sized(found)
            if found.shape != self._shape:
                raise UserError(
                    f"{self.names[row]} in {self.path} has {found.shape[2]} x {found.shape[1]} px, "
                    f"but {self.names[0]} {self._shape[2]} x {self._shape[1]} px: add --patch_size "
                    "to bring all to one size"
                )
            rows.append(row)
            pictures.append(found)
        return PatchBlock(
            np.stack(pictures) if pictures else np.empty((0, *self._shape), np.uint8),
            [self.names[row] for row in rows],
            str(self.path),
            [self._day(row) for row in rows],
            np.concatenate([np.empty((0, 4, 2)), *map(self._corners, rows)]),
            np.empty((len(rows), 0), np.int64),
        )

    def picture(self, patch: str) -> np.ndarray:
        """Read the patch with this name: uint8, shape (C, H, W)."""
        picture = self._read(list(self.names).index(patch))
        assert picture is not None  # it has been embedded
        return self._sized(picture)

    def fingerprint(self) -> str:
        """Identify the files and the size of the pictures."""
        return f"{self._identity} {self.size}"

    def _sized(self, picture: np.ndarray) -> np.ndarray:
        if self.size is None or picture.shape[1:] == (self.size, self.size):
            return picture
        stack = torch.from_numpy(np.array(picture))[None]
        side = (self.size, self.size)
        return interpolate(stack, side, mode="bilinear", antialias=True)[0].numpy()

    def _is_placed(self, row: int) -> bool:
        with suppress(UserError):  # is raised, or left out, when the patch is due
            return bool(np.isfinite(self._corners(row)).any())
        return False

    def _corners(self, row: int) -> np.ndarray:
        content = self._locate(row)
        if not content:
            return np.full((1, 4, 2), np.nan)
        crs, transform, width, height = locate(content, self.names[row])
        return corners_of(crs, transform, np.array([[0, 0, width, height]]))
