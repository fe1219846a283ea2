"""Patches of any imagery, in blocks of neighbours, as the embedding of them takes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from utils.input_spec import InputTransform


class Grid(NamedTuple):
    """A regular grid of patches over one raster.

    Attributes:
        crs: Coordinate reference system as WKT, "" if unknown.
        transform: Coefficients (a, b, c, d, e, f) from column and row of the grid to coordinates.
        shape: Rows and columns.
    """

    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]


class PatchBlock(NamedTuple):
    """N patches that are read together.

    Attributes:
        pictures: What the transform of the encoder makes of them, uint8, shape (N, C, H, W).
        ids: Name of each patch, unique in the data set.
        source: File or data set of the patches.
        days: Date of each patch by ISO 8601, "" if unknown.
        corners: Longitude and latitude (EPSG:4326) of the upper left, lower left, lower right and
            upper right corner, in degrees, float64, shape (N, 4, 2); NaN if unknown.
        cells: Row and column in the grid, int64, shape (N, 2); empty, (N, 0), without a grid.
    """

    pictures: np.ndarray
    ids: list[str]
    source: str
    days: list[str]
    corners: np.ndarray
    cells: np.ndarray


class PatchBlocks(Protocol):
    """Imagery as a sequence of blocks, which threads read at the same time.

    Attributes:
        transform: Conversion of stored values to inputs of the encoder.
        num_patches: Number of all patches; of a raster, some may hold no data.
        is_placed: Whether patches have positions on Earth, as far as a sample of them shows.
        description: What they are, for people.
        digest: 16 hexadecimal digits that identify the data set; of separate patches by their
            names, wherever they are stored.
    """

    transform: InputTransform
    num_patches: int
    is_placed: bool
    description: str
    digest: str

    @property
    def grid(self) -> Grid | None:
        """Where the patches are in a raster; None for separate patches."""
        ...

    def __len__(self) -> int:
        """Return the number of blocks."""
        ...

    def read(self, block: int) -> PatchBlock:
        """Read the patches of a block that hold data.

        Raises:
            UserError: A file is damaged.
        """
        ...

    def picture(self, patch: str) -> np.ndarray:
        """Read the patch with this id: uint8, shape (C, H, W)."""
        ...

    def fingerprint(self) -> str:
        """Return a text that changes with the files and with the division into patches."""
        ...


def spans(count: int, size: int) -> Sequence[range]:
    """Divide items into runs of nearly equal length.

    Args:
        count: Number of items.
        size: Largest length of a run.
    """
    number = -(-count // size)
    ends = [count * index // number for index in range(number + 1)] if number else [0]
    return [range(*each) for each in pairwise(ends)]
