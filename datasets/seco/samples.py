"""Samples of a training: which dates of a place belong together.

Loader processes that are not forks of the training import this file, so it imports no Lightning.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from datasets.seco.bad_patches import BadPatchError, OnBadPatch, are_constant, first_good
from utils.data import sample_keys, uniform
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.reading import Reading, watch_reading
from utils.report import digest_of

_DATES_STREAM = 1000  # of a sample's random numbers; the views take the first ones


class PatchSource(Protocol):
    """Patches of places, wherever they are stored.

    Attributes:
        root: Folder or file of the data.
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        patch_shape: Bands C, height and width.
    """

    root: Path
    starts: np.ndarray
    patch_shape: tuple[int, int, int]

    @property
    def input_spec(self) -> InputSpec:
        """Bands, stretch and normalisation of the patches."""
        ...

    def name(self, patch: int) -> str:
        """Return the name of a patch, for messages and dates."""
        ...

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        """Read a patch: uint8, shape (C, H, W).

        Args:
            patch: Number of the patch.
            out: Array of the patch's shape to write into; None allocates one.

        Raises:
            BadPatchError: The patch cannot be used.
        """
        ...


def digest_of_places(source: PatchSource) -> str:
    """Return digits that identify places and patches by name, wherever they are stored.

    Args:
        source: The patches.
    """
    starts = source.starts
    names = (f"{first} {source.name(first)}" for first in starts[:-1].tolist())
    return digest_of([*names, str(starts[-1])])


class PatchDataset(Dataset[dict[str, Any]]):
    """Patches of several dates of a place, as stored.

    A sample is a place with dates drawn at random, or with ``every_date`` one date of a place. It
    is a function of (seed, epoch, index) alone, for any source, number of workers and order.

    Args:
        source: The patches.
        num_dates: Dates T of a place in a sample; 1 if ``every_date``.
        every_date: Take every date of every place as a sample of its own.
        replace: Draw dates with replacement, as the original does.
        seed: Seed of the draw.
        on_bad_patch: Raise ``BadPatchError``, or skip to the next good sample.

    Raises:
        UserError: A place has too few dates.
    """

    def __init__(
        self,
        source: PatchSource,
        num_dates: int = 3,
        *,
        every_date: bool = False,
        replace: bool = False,
        seed: int = 0,
        on_bad_patch: OnBadPatch = "raise",
    ) -> None:
        self.source = source
        self.num_dates = 1 if every_date else num_dates
        self.every_date = every_date
        self.replace = replace
        self.seed = seed
        self.on_bad_patch = on_bad_patch
        self._counts = torch.from_numpy(np.diff(source.starts))
        self._check_dates(1 if replace else self.num_dates)

    def __len__(self) -> int:
        return int(self.source.starts[-1]) if self.every_date else len(self._counts)

    def describe(self) -> dict[str, Any]:
        """Return the number of places and patches, their size, and a digest of their names."""
        starts, shape = self.source.starts, self.source.patch_shape
        size = {"patches": int(starts[-1]), "patch": " x ".join(map(str, shape))}
        return {"places": len(starts) - 1, **size, "digest": digest_of_places(self.source)}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Read the sample of (epoch, index).

        Returns:
            "patches": uint8, shape (T, C, H, W); "epoch" and "index" of the key; "bad": names of
            the bad patches that this sample replaces, and "constant": names of constant patches,
            normally none.
        """
        batch = self.__getitems__([key])
        return batch | {"patches": batch["patches"][0], "epoch": key[0], "index": key[1]}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Read a batch: "patches", (B, T, C, H, W); "epoch", "index", (B,); names of all."""
        shape = (len(keys), self.num_dates, *self.source.patch_shape)
        patches = torch.empty(shape, dtype=torch.uint8)
        if get_worker_info() is not None:
            patches.share_memory_()  # now, while it is empty: torch would copy it afterwards
        rows = torch.tensor(keys)
        names = self.read_into(rows, patches.numpy())
        return {"patches": patches, "epoch": rows[:, 0], "index": rows[:, 1]} | names

    def read_into(self, keys: Tensor, pixels: np.ndarray) -> dict[str, list[str]]:
        """Read samples.

        Args:
            keys: Epoch and index of each sample, int64, shape (B, 2).
            pixels: Where they are written, uint8, shape (B, T, C, H, W).

        Returns:
            "bad": names of the bad patches that they replace; "constant": names of patches whose
            bands are all constant.
        """
        numbers = np.empty(pixels.shape[:2], np.int64)

        def read(row: int, patches: list[int]) -> None:
            numbers[row] = patches
            for patch, target in zip(patches, pixels[row], strict=True):
                self.source.read(patch, target)

        watch_reading()
        with Reading(self.source.root):
            bad = self.visit(keys, read)
        constant = numbers[are_constant(pixels)].tolist()
        return {"bad": bad, "constant": [self.source.name(patch) for patch in constant]}

    def visit(self, keys: Tensor, read: Callable[[int, list[int]], object]) -> list[str]:
        """Call ``read`` with the row and the patches of each sample, or of its replacement.

        Args:
            keys: Epoch and index of each sample, int64, shape (B, 2).
            read: Raises a ``BadPatchError`` for a sample that has to be replaced.

        Returns:
            Names of the bad patches.
        """
        names: list[str] = []
        for row, patches in enumerate(self.draw(*keys.T).tolist()):
            try:
                read(row, patches)
            except BadPatchError:
                names += self._replace(row, keys[row], read)
        return names

    def _replace(
        self, row: int, key: Tensor, read: Callable[[int, list[int]], object]
    ) -> list[str]:
        """Read the next good sample, and return the names of the bad patches before it."""

        def attempt(good: int) -> None:
            read(row, self.draw(key[:1], torch.tensor([good]))[0].tolist())

        return first_good(attempt, int(key[1]), len(self), self.on_bad_patch)[1]

    def draw(self, epochs: Tensor, indices: Tensor) -> Tensor:
        """Draw the patches of samples: numbers of patches in the source, int64, shape (B, T).

        Args:
            epochs: Epoch of each sample, int64, shape (B,).
            indices: Index of each sample, int64, shape (B,).
        """
        if self.every_date:
            return indices[:, None]
        counts = self._counts[indices][:, None]  # (B, 1)
        keys = sample_keys(self.seed, epochs, indices)
        if self.replace:
            dates = (uniform(keys, _DATES_STREAM, self.num_dates) * counts).long()
        else:
            order = uniform(keys, _DATES_STREAM, int(counts.max()))
            order[torch.arange(order.shape[1]) >= counts] = 1  # beyond all others: never drawn
            dates = order.argsort(dim=1, stable=True)[:, : self.num_dates]
        return torch.from_numpy(self.source.starts)[indices][:, None] + dates

    def _check_dates(self, needed: int) -> None:
        place = int(self._counts.argmin())
        count = int(self._counts[place])
        if count < needed:
            name = self.source.name(int(self.source.starts[place])).split("/")[0]
            raise UserError(
                f"place {name} has {count} date{'s' * (count != 1)}, but a sample needs {needed} "
                "of each place: remove the place, or use a mode with fewer dates: two in data_mode "
                "moco_tp (SeasonalContrastTemporal), one in moco (SeasonalContrastBasic)"
            )


def collate(batch: Any) -> dict[str, Any]:
    """Return what ``PatchDataset.__getitems__`` has put together already."""
    return batch
