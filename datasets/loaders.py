"""Loaders of the plain data modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import UserError


def plain_loader(
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int,
    *,
    is_training: bool = False,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """Load batches; in training they are shuffled, and a last one that is not full is dropped."""
    return DataLoader(
        dataset,
        batch_size,
        shuffle=is_training,
        drop_last=is_training,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate_fn,
    )


def check_batch_size(batch_size: int, data_dir: Path, num_training: int) -> None:
    """Refuse a batch that the training samples do not fill once."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: use 1 or more")
    if num_training < batch_size:
        raise UserError(
            f"the train split of {data_dir} has {num_training} samples, fewer than one batch of "
            f"{batch_size}: lower batch_size"
        )
