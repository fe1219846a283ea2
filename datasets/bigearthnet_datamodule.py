"""Loaders of BigEarthNet for a plain ``pytorch_lightning.Trainer``.

For example: ``Trainer().fit(model, datamodule=BigearthnetDataModule("BigEarthNet"))``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from datasets.bands import RGB_BANDS, check_bands, short_name
from datasets.bigearthnet.facts import BIGEARTHNET_SPEC, IMAGE_SIZE
from datasets.bigearthnet.index import open_bigearthnet
from datasets.bigearthnet.pictures import draw_splits
from datasets.loaders import check_batch_size, plain_loader
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform

Batch = tuple[Tensor, Tensor]


class BigearthnetDataModule(LightningDataModule):
    """Batches of BigEarthNet: pictures in 0..1, (B, C, 128, 128), and labels of 0 and 1, (B, 19).

    The constructor is that of the original
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/bigearthnet_datamodule.py),
    and so are the pictures: two standard deviations around the mean of each band, resized from 120
    to 128 px. Training batches are shuffled, and a last one that is not full is dropped. Unlike the
    original, shares are drawn without replacement (docs/differences.md, ben-subset), patches with
    no class are left out (ben-unlabelled), and every picture of val and test is scored.

    Args:
        data_dir: Folder of v1 or v2, or of an LMDB, see ``Bigearthnet``.
        bands: Bands in channel order, such as "B04" or "B4"; None for red, green and blue.
        train_frac: Share of the train patches in 0..1; the same patches as those of
            ``main_bigearthnet.py --train_frac`` with this seed.
        val_frac: Share of the val patches in 0..1.
        lmdb: Whether ``data_dir`` holds an LMDB of ``datasets/bigearthnet_dataset.py``.
        batch_size: Patches per batch and process.
        num_workers: Processes per loader.
        seed: Seed of the shares.

    Attributes:
        train_dataset: Set by ``setup``; items are a uint8 picture, labels and a number.
        val_dataset: Likewise.
        test_dataset: Likewise; None if the lists do not include a test split.

    Raises:
        UserError: ``setup`` cannot open the data, a share has lost a class, or the train split has
            fewer patches than a batch.
    """

    num_classes = 19

    def __init__(
        self,
        data_dir: str | Path,
        bands: Sequence[str] | None = None,
        train_frac: float | None = None,
        val_frac: float | None = None,
        lmdb: bool = False,
        batch_size: int = 32,
        num_workers: int = 16,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.data_dir = Path(data_dir)
        self.bands = check_bands([short_name(band) for band in bands or RGB_BANDS])
        self.train_frac = train_frac
        self.val_frac = val_frac
        self.lmdb = lmdb
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Read the lists and labels of all splits, once."""
        if hasattr(self, "train_dataset"):
            return
        frac = 1.0 if self.train_frac is None else self.train_frac
        spec = InputSpec.of_pictures(self.bands)
        data = draw_splits(
            open_bigearthnet(self.data_dir, lmdb=self.lmdb, num_classes=self.num_classes),
            input_transform(spec, BIGEARTHNET_SPEC, "paper"),
            image_size=IMAGE_SIZE,
            train_fracs=[frac],
            val_frac=1.0 if self.val_frac is None else self.val_frac,
            seeds=[self.seed],
            needs_test=False,
        )
        self.train_dataset = data.pictures["train"].take(data.draws[frac][0])
        self.val_dataset = data.pictures["val"]
        self.test_dataset = data.pictures.get("test")
        check_batch_size(self.batch_size, self.data_dir, len(self.train_dataset))

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._load(self.train_dataset, is_training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._load(self.val_dataset)

    def test_dataloader(self) -> DataLoader[Batch]:
        if self.test_dataset is None:
            raise UserError(f"the lists of {self.data_dir} do not include a test split: add one")
        return self._load(self.test_dataset)

    def _load(self, data: Dataset[Any], *, is_training: bool = False) -> DataLoader[Batch]:
        size, workers = self.batch_size, self.num_workers
        return plain_loader(data, size, workers, is_training=is_training, collate_fn=_collate)


def _collate(items: list[tuple[Tensor, Tensor, int]]) -> Batch:
    """Return pictures in 0..1, float32, (B, C, S, S), and labels, float32, (B, classes)."""
    pictures, targets, _ = default_collate(items)
    return pictures / 255, targets
