"""Loaders of EuroSAT for a plain ``pytorch_lightning.Trainer``.

For example: ``Trainer(max_epochs=100).fit(model, datamodule=EurosatDataModule("EuroSAT_RGB"))``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from datasets.eurosat_dataset import EurosatDataset
from datasets.loaders import SplitDataModule

_DN_PER_UNIT = 10_000  # digital numbers per unit of reflectance


def as_input(image: Image.Image | Tensor) -> Tensor:
    """Turn a picture into floats in 0..1, (3, H, W), and digital numbers into reflectance."""
    return image / _DN_PER_UNIT if isinstance(image, Tensor) else to_tensor(image)


class EurosatDataModule(SplitDataModule):
    """Batches of EuroSAT: images, float, shape (B, C, H, W), and labels, int64, shape (B,).

    ``EurosatDataModule(data_dir)`` is the original's
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/eurosat_datamodule.py):
    batches of 32 pictures in 0..1. The original drops a last batch that is not full in validation,
    too, and has no test split; here every picture of val and test is scored.

    Args:
        data_dir: Zip or folder of EuroSAT, see ``EurosatDataset``; lists need ``test.txt`` only for
            the test split.
        batch_size: Images per batch and process.
        num_workers: Processes per loader; by default one per available core, at most 8.
        transform: Applied to the image of each item; None stands for ``as_input``.
        split_seed: Seed of the split that is drawn where there are no lists.
        split_kind: "random" or "spatial", see ``EurosatDataset``.
    """

    def __init__(
        self,
        data_dir: str | Path,
        batch_size: int = 32,
        num_workers: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        *,
        split_seed: int = 0,
        split_kind: str = "random",
    ) -> None:
        super().__init__(data_dir, batch_size, num_workers)
        self.transform = transform or as_input
        self._split: dict[str, Any] = {"split_seed": split_seed, "split_kind": split_kind}

    @property
    def num_classes(self) -> int:
        """Number of classes: 10, or that of the user's own class folders."""
        return len(self.train_dataset.classes)

    def open_split(self, split: str) -> EurosatDataset:
        """Return one split, its images transformed."""
        return EurosatDataset(self.data_dir, split, self.transform, **self._split)
