"""Several rasters, one after the other."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from datasets.imagery.rasters import RasterWindows
from utils.errors import UserError
from utils.patch_blocks import PatchBlock
from utils.report import digest_of


class ManyRasters:
    """The windows of several rasters, one after the other; a ``PatchBlocks``.

    Args:
        rasters: The rasters, two or more, with the same bands and distinct names.
    """

    grid = None

    def __init__(self, rasters: Sequence[RasterWindows]) -> None:
        self.rasters = rasters
        self.transform = rasters[0].transform
        self.num_patches = sum(raster.num_patches for raster in rasters)
        self.is_placed = any(raster.is_placed for raster in rasters)
        self._ends = list(accumulate(map(len, rasters)))
        self.description = f"{self.num_patches:,} windows of {len(rasters)} rasters"
        for raster in rasters:
            if not np.array_equal(raster.transform.table, self.transform.table):
                raise UserError(
                    f"{raster.path} has another unit than {rasters[0].path}: embed them one by one"
                )
        self.digest = digest_of([self.fingerprint()])

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, block: int) -> PatchBlock:
        """Read a block; see ``PatchBlocks.read``."""
        number = next(n for n, end in enumerate(self._ends) if block < end)
        return self.rasters[number].read(block - ([0, *self._ends])[number])

    def picture(self, patch: str) -> np.ndarray:
        """Read the window ``NAME/ROW/COLUMN``: uint8, shape (C, S, S)."""
        name = patch.rsplit("/", 2)[0]
        return next(each for each in self.rasters if each.path.name == name).picture(patch)

    def fingerprint(self) -> str:
        """Identify the files and the division."""
        return repr([raster.fingerprint() for raster in self.rasters])
