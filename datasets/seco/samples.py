"""Samples of a training: which dates of a place belong together.

Loader processes that are not forks of the training import this file, so it imports no Lightning.
"""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from datasets.seco.bad_patches import OnBadPatch, first_good
from utils.data import sample_keys, uniform
from utils.errors import UserError
from utils.input_spec import InputSpec

_DATES_STREAM = 1000  # of a sample's random numbers; the views take the first ones


class PatchSource(Protocol):
    """Patches of places, wherever they are stored.

    Attributes:
        starts: Number of the first patch of each place, and of all patches; int64, shape (P + 1,).
        patch_shape: Bands C, height and width.
    """

    starts: np.ndarray
    patch_shape: tuple[int, int, int]

    @property
    def input_spec(self) -> InputSpec:
        """Bands, stretch and normalisation of the patches."""
        ...

    def name(self, patch: int) -> str:
        """Return the name of a patch, for messages and dates."""
        ...

    def read(self, patch: int) -> np.ndarray:
        """Read a patch: uint8, shape (C, H, W); an unusable one raises ``BadPatchError``."""
        ...


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

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Read the sample of (epoch, index).

        Returns:
            "patches": uint8, shape (T, C, H, W); "epoch" and "index" of the key; "bad": names of
            the bad patches that this sample replaces, normally none.
        """
        epoch, index = key

        def read(index: int) -> np.ndarray:
            patches = self.draw(torch.tensor([epoch]), torch.tensor([index]))[0].tolist()
            return np.stack([self.source.read(patch) for patch in patches])

        patches, bad = first_good(read, index, len(self), self.on_bad_patch)
        return {"patches": torch.from_numpy(patches), "epoch": epoch, "index": index, "bad": bad}

    def draw(self, epochs: Tensor, indices: Tensor) -> Tensor:
        """Draw the patches of samples.

        Args:
            epochs: Epoch of each sample, int64, shape (B,).
            indices: Index of each sample, int64, shape (B,).

        Returns:
            Numbers of patches in the source, int64, shape (B, T).
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


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples to tensors and join the lists of bad patches."""
    names = [name for sample in samples for name in sample.pop("bad")]
    batch: dict[str, Tensor] = default_collate(samples)
    return batch | {"bad": names}
