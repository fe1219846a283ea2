"""Loaders of OSCD for a plain ``pytorch_lightning.Trainer``, and transforms of image pairs.

For example: ``Trainer(max_epochs=100).fit(model, datamodule=ChangeDetectionDataModule("oscd"))``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import functional as F

from datasets.loaders import SplitDataModule
from datasets.oscd.files import city_splits
from datasets.oscd_dataset import ChangeDetectionDataset


class RandomFlip:
    """Flip all images left to right, or none of them."""

    def __call__(self, *images: Any) -> tuple[Any, ...]:
        return tuple(F.hflip(image) for image in images) if torch.rand(()) < 0.5 else images


class RandomRotation:
    """Rotate all images by the same 0, 90, 180 or 270 degrees."""

    def __call__(self, *images: Any) -> tuple[Any, ...]:
        turns = int(torch.randint(4, ()))
        return tuple(
            image.rot90(turns, (-2, -1))
            if isinstance(image, Tensor)
            else F.rotate(image, 90 * turns)
            for image in images
        )


class RandomSwap:
    """Exchange the two dates, or not."""

    def __call__(self, img_1: Any, img_2: Any, cm: Any) -> tuple[Any, Any, Any]:
        """Return the arguments, the dates in any order.

        Args:
            img_1: Image of the first date.
            img_2: Image of the second date.
            cm: Change map.
        """
        return (img_2, img_1, cm) if torch.rand(()) < 0.5 else (img_1, img_2, cm)


class ToTensor:
    """Turn every image into a tensor, float32 in 0..1, shape (C, H, W)."""

    def __call__(self, *images: Any) -> tuple[Tensor, ...]:
        return tuple(F.to_tensor(image) for image in images)


class Compose:
    """Apply transforms of several images one after another."""

    def __init__(self, transforms: Sequence[Callable[..., tuple[Any, ...]]]) -> None:
        self.transforms = transforms

    def __call__(self, *images: Any) -> tuple[Any, ...]:
        for transform in self.transforms:
            images = transform(*images)
        return images


class ChangeDetectionDataModule(SplitDataModule):
    """Batches of OSCD: two images, (B, C, S, S), and change maps, (B, 1, S, S), float in 0..1.

    The constructor is that of the original
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/oscd_datamodule.py).
    Unlike the original, whose validation cities are those of the test split, some of the training
    cities are for validation (``city_splits``; docs/differences.md, oscd-splits), images are
    co-registered (oscd-images), and only training drops a last batch that is not full. Padding at
    the border of a city counts as unchanged; ``main_oscd.py`` leaves it out.

    Args:
        data_dir: Folder of the data set, see ``ChangeDetectionDataset``.
        patch_size: Side S of the tiles in pixels.
        batch_size: Tiles per batch and process.
        num_workers: Processes per loader; by default one per available core, at most 8.
        bands: Bands in channel order; None for red, green and blue.
    """

    def __init__(
        self,
        data_dir: str | Path,
        patch_size: int = 96,
        batch_size: int = 32,
        num_workers: int | None = None,
        *,
        bands: Sequence[str] | None = None,
    ) -> None:
        super().__init__(data_dir, batch_size, num_workers)
        self.patch_size = patch_size
        self.bands = bands

    def open_split(self, split: str) -> ChangeDetectionDataset:
        """Return the tiles of the cities of a split, as tensors; those to train on are moved."""
        moves = (RandomFlip(), RandomRotation()) if split == "train" else ()
        names = city_splits(self.data_dir)[split]
        transform = Compose([ToTensor(), *moves])
        return ChangeDetectionDataset(self.data_dir, names, self.bands, transform, self.patch_size)
