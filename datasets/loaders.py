"""Batches of the labelled data sets for a plain ``pytorch_lightning.Trainer``."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, default_collate

from utils.cores import available_cores
from utils.errors import UserError

_MOST_WORKERS = 8  # as many as in the original


class SplitDataModule(LightningDataModule):
    """Loaders of the splits that ``open_split`` of a subclass opens, by ``setup`` or at first use.

    Training batches are shuffled, and a last one that is not full is dropped; all of val and test
    is loaded in order.

    Args:
        data_dir: Zip or folder of the data set.
        batch_size: Samples per batch and process.
        num_workers: Processes per loader; None for one per available core, at most 8.
    """

    collate_fn: Callable[[list[Any]], Any] = staticmethod(default_collate)

    def __init__(self, data_dir: str | Path, batch_size: int, num_workers: int | None) -> None:
        super().__init__()
        cores = min(_MOST_WORKERS, available_cores())
        self.data_dir = Path(data_dir)
        self.batch_size = batch_size
        self.num_workers = cores if num_workers is None else num_workers

    def open_split(self, split: str) -> Any:
        """Return the data set of "train", "val" or "test"."""
        raise NotImplementedError

    @cached_property
    def train_dataset(self) -> Any:
        return self.open_split("train")

    @cached_property
    def val_dataset(self) -> Any:
        return self.open_split("val")

    @cached_property
    def test_dataset(self) -> Any:
        return self.open_split("test")

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage: "test", or train and val.

        Raises:
            UserError: The train split is smaller than a batch.
        """
        opened = [self.test_dataset] if stage == "test" else [self.val_dataset, self.train_dataset]
        count = len(opened[-1])
        if stage != "test" and not 1 <= self.batch_size <= count:
            raise UserError(
                f"batch_size is {self.batch_size}, but the train split of {self.data_dir} has "
                f"{count} samples: use 1 to {count}"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._load(self.train_dataset, is_training=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._load(self.val_dataset, is_training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._load(self.test_dataset, is_training=False)

    def _load(self, dataset: Dataset[Any], *, is_training: bool) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            self.batch_size,
            shuffle=is_training,
            drop_last=is_training,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.collate_fn,
        )
