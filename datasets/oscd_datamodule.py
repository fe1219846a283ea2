"""Loaders of OSCD: tiles in an order of (seed, epoch) to train on, and what to validate on."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from datasets.oscd.files import City
from datasets.oscd_dataset import ChangeDetectionDataset, Sample, WholeCities
from utils.data import SeededSampler, epoch_of
from utils.errors import UserError
from utils.subset import stratified_subset


class ChangeDetectionDataModule(LightningDataModule):
    """Batches of augmented tiles to train on, and whole cities, one by one, to validate on.

    Args:
        train: Cities to cut into tiles.
        val: Cities to validate on.
        patch_size: Side of the tiles in pixels.
        batch_size: Tiles per step.
        num_workers: Processes that cut and turn tiles to train on.
        seed: Seed of the order, of the augmentation and of the share.
        train_frac: Share of the tiles to train on, the same of those with and without change.
        only_full_batches: Whether it is as in the original: validation is on tiles as well, the
            filling at the border counts as unchanged, and what does not fill a batch is dropped.
    """

    def __init__(
        self,
        train: Sequence[City],
        val: Sequence[City],
        *,
        patch_size: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        train_frac: float = 1.0,
        only_full_batches: bool = False,
    ) -> None:
        super().__init__()
        self.train = ChangeDetectionDataset(
            train, patch_size, seed=seed, score_padding=only_full_batches
        )
        has_change = self.train.has_change().long()
        self.train.keep(stratified_subset(has_change, train_frac, seed))
        self.val: ChangeDetectionDataset | WholeCities = WholeCities(val)
        if only_full_batches:
            self.val = ChangeDetectionDataset(val, patch_size, score_padding=True)
            for name, tiles in (("training", self.train), ("validation", self.val)):
                if len(tiles) < batch_size:
                    raise UserError(
                        f"--batch_size {batch_size} is more than the {len(tiles)} {name} tiles, "
                        "and a batch that is not full is dropped: lower it"
                    )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.only_full_batches = only_full_batches

    def train_dataloader(self) -> DataLoader[Sample]:
        return self._load_tiles(self.train, self.num_workers)

    def val_dataloader(self) -> DataLoader[Sample]:
        if isinstance(self.val, ChangeDetectionDataset):
            return self._load_tiles(self.val, num_workers=0)
        return DataLoader(self.val, batch_size=1)  # for the sizes differ

    def _load_tiles(self, tiles: ChangeDetectionDataset, num_workers: int) -> DataLoader[Sample]:
        trainer: Any = self.trainer
        assert isinstance(trainer, Trainer)
        # A last batch of one small tile would have no deviation to normalise by.
        is_one_left = len(tiles) % self.batch_size == 1
        return DataLoader(
            tiles,
            self.batch_size,
            sampler=SeededSampler(len(tiles), self.seed, epoch=lambda: epoch_of(trainer)),
            num_workers=num_workers,
            drop_last=self.only_full_batches or (is_one_left and len(tiles) > 1),
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
