"""Loaders of BigEarthNet for a plain ``pytorch_lightning.Trainer``.

For example: ``Trainer().fit(model, datamodule=BigearthnetDataModule("BigEarthNet"))``.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor
from torch.utils.data import default_collate

from datasets.bands import RGB_BANDS, check_bands, short_name
from datasets.bigearthnet.facts import BIGEARTHNET_SPEC
from datasets.bigearthnet.index import BigEarthNet, open_bigearthnet
from datasets.bigearthnet.pictures import BigEarthNetPictures
from datasets.loaders import SplitDataModule
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform
from utils.subset import draw_labels, rarest_labels, stratified_subset


def _collate(items: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return pictures in 0..1, float32, (B, C, S, S), and labels, float32, (B, classes)."""
    pictures, targets, _ = default_collate(items)
    return pictures / 255, targets


class BigearthnetDataModule(SplitDataModule):
    """Batches of BigEarthNet: pictures in 0..1, (B, C, 128, 128), and labels of 0 and 1, (B, 19).

    The constructor is that of the original
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/bigearthnet_datamodule.py),
    and so are the pictures: two standard deviations around the mean of each band, resized from 120
    to 128 px. Unlike the original, shares are drawn without replacement (docs/differences.md,
    ben-subset), patches with no class are left out (ben-unlabelled), and every picture of val and
    test is scored.

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
    """

    num_classes = 19
    collate_fn = staticmethod(_collate)

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
        super().__init__(data_dir, batch_size, num_workers)
        self.bands = check_bands([short_name(band) for band in bands or RGB_BANDS])
        self.train_frac = 1.0 if train_frac is None else train_frac
        self.val_frac = 1.0 if val_frac is None else val_frac
        self.lmdb = lmdb
        self.seed = seed

    @cached_property
    def _index(self) -> BigEarthNet:
        return open_bigearthnet(self.data_dir, lmdb=self.lmdb, num_classes=self.num_classes)

    def open_split(self, split: str) -> BigEarthNetPictures:
        """Return the pictures of a split, or of the share of it.

        Raises:
            UserError: The lists do not include the split.
        """
        if split not in self._index.splits:
            raise UserError(
                f"the lists of {self.data_dir} do not include the {split} split: add it"
            )
        rows = self._index.splits[split]
        targets = self._index.targets[rows]
        if split == "train":
            rows = rows[draw_labels(targets, self._index.classes, self.train_frac, self.seed)]
        elif split == "val":
            rows = rows[stratified_subset(rarest_labels(targets), self.val_frac, self.seed)]
        transform = input_transform(InputSpec.of_pictures(self.bands), BIGEARTHNET_SPEC, "paper")
        return BigEarthNetPictures(self._index, rows, transform)
