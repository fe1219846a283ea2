"""Loaders of EuroSAT for a plain ``pytorch_lightning.Trainer``.

For example: ``Trainer(max_epochs=100).fit(model, datamodule=EurosatDataModule("EuroSAT_RGB"))``.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from datasets.eurosat_dataset import EurosatDataset
from datasets.loaders import check_batch_size, plain_loader
from utils.cores import available_cores

_MOST_WORKERS = 8  # as many as in the original
_DN_PER_UNIT = 10_000  # digital numbers per unit of reflectance


def as_input(image: Image.Image | Tensor) -> Tensor:
    """Turn the image of an item into floats.

    Args:
        image: RGB picture, or digital numbers of 13 bands, shape (13, H, W).

    Returns:
        float32: pictures in 0..1, shape (3, H, W); reflectance, about 0..1, shape (13, H, W).
    """
    return image / _DN_PER_UNIT if isinstance(image, Tensor) else to_tensor(image)


class EurosatDataModule(LightningDataModule):
    """Batches of EuroSAT: images, float, shape (B, C, H, W), and labels, int64, shape (B,).

    ``EurosatDataModule(data_dir)`` is the original's
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/eurosat_datamodule.py):
    batches of 32 pictures in 0..1, shuffled for training, where a last batch that is not full is
    dropped. The original drops it in validation, too, and has no test split; here every picture of
    val and test is scored.

    Args:
        data_dir: Zip or folder of EuroSAT, see ``EurosatDataset``.
        batch_size: Images per batch and process.
        num_workers: Processes per loader; by default one per available core, at most 8.
        transform: Applied to the image of each item; None stands for ``as_input``.
        split_seed: Seed of the split that is drawn where there are no lists.
        split_kind: "random" or "spatial", see ``EurosatDataset``.

    Attributes:
        train_dataset: Opened by ``setup`` or at first use.
        val_dataset: Opened likewise.
        test_dataset: Opened likewise; until then lists need no ``test.txt``.

    Raises:
        UserError: ``setup`` or a loader cannot open its split, or the train split has fewer
            pictures than a batch.
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
        super().__init__()
        cores = min(_MOST_WORKERS, available_cores())
        self.data_dir = Path(data_dir)
        self.batch_size = batch_size
        self.num_workers = cores if num_workers is None else num_workers
        self.transform = as_input if transform is None else transform
        self.split_seed = split_seed
        self.split_kind = split_kind

    @property
    def num_classes(self) -> int:
        """Number of classes: 10, or that of the user's own class folders."""
        return len(self.train_dataset.classes)

    @cached_property
    def train_dataset(self) -> EurosatDataset:
        return self._open("train")

    @cached_property
    def val_dataset(self) -> EurosatDataset:
        return self._open("val")

    @cached_property
    def test_dataset(self) -> EurosatDataset:
        return self._open("test")

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage: "test", or train and val."""
        opened = [self.test_dataset] if stage == "test" else [self.train_dataset, self.val_dataset]
        if stage != "test":
            check_batch_size(self.batch_size, self.data_dir, len(opened[0]))

    def train_dataloader(self) -> DataLoader[tuple[Any, int]]:
        data = self.train_dataset
        return plain_loader(data, self.batch_size, self.num_workers, is_training=True)

    def val_dataloader(self) -> DataLoader[tuple[Any, int]]:
        return plain_loader(self.val_dataset, self.batch_size, self.num_workers)

    def test_dataloader(self) -> DataLoader[tuple[Any, int]]:
        return plain_loader(self.test_dataset, self.batch_size, self.num_workers)

    def _open(self, split: str) -> EurosatDataset:
        return EurosatDataset(
            self.data_dir,
            split,
            self.transform,
            split_seed=self.split_seed,
            split_kind=self.split_kind,
        )
