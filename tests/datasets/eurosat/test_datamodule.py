"""``EurosatDataModule`` in a plain ``Trainer``."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from datasets.eurosat_datamodule import EurosatDataModule
from datasets.eurosat_dataset import EurosatDataset
from tests.references.plain_training import MeanColors, plain_trainer
from utils.errors import UserError


def test_a_plain_trainer_fits_two_epochs_and_tests(pictures: Path, tmp_path: Path) -> None:
    data = EurosatDataModule(pictures, batch_size=8, num_workers=0)
    model = MeanColors(3, nn.CrossEntropyLoss(), data.num_classes)
    before = model.layer.weight.detach().clone()
    trainer = plain_trainer(tmp_path)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)

    assert not torch.equal(model.layer.weight, before)
    first, second = model.seen["train"][:3], model.seen["train"][3:]
    assert [len(labels) for labels in [*first, *second]] == [8] * 6  # of 30, 24 fill batches
    assert first != second  # shuffled again
    val, test = (EurosatDataset(pictures, split).labels.tolist() for split in ("val", "test"))
    assert model.seen["val"] == [val[:8], val[8:]] * 2  # every picture, in order
    assert model.seen["test"] == [test[:8], test[8:]]


@pytest.mark.difference("eurosat-datamodule")
def test_batches_are_those_of_the_original_by_default(pictures: Path) -> None:
    data = EurosatDataModule(str(pictures))
    assert data.batch_size == 32
    assert 1 <= data.num_workers <= 8
    assert data.num_classes == 10
    data = EurosatDataModule(pictures, 10, 1)  # loaded by another process
    images, labels = next(iter(data.val_dataloader()))
    assert (images.dtype, images.shape) == (torch.float32, (10, 3, 16, 16))
    assert 0 <= images.min() < images.max() <= 1
    assert (labels.dtype, labels.tolist()) == (torch.int64, list(range(10)))


@pytest.mark.difference("eurosat-datamodule")
def test_lists_of_the_original_need_no_test(pictures: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pictures, tmp_path / "EuroSAT"))
    (root / "train.txt").write_text("River_1.jpg\nForest_2.jpg\nRiver_2.jpg\n")
    (root / "val.txt").write_text("Highway_5.jpg\n")
    data = EurosatDataModule(root, batch_size=2, num_workers=0)
    data.setup()
    assert (len(data.train_dataset), len(data.val_dataset)) == (3, 1)
    assert len(data.train_dataloader()) == 1
    with pytest.raises(UserError, match=r"test\.txt is missing or empty: add it"):
        data.setup("test")


def test_thirteen_bands_are_reflectance_and_a_transform_replaces_it(bands: Path) -> None:
    images, _ = next(iter(EurosatDataModule(bands, 10, 0).test_dataloader()))
    expected = torch.stack([EurosatDataset(bands, "test")[i][0] for i in range(10)])
    torch.testing.assert_close(images, expected / 10_000)
    data = EurosatDataModule(bands, 10, 0, lambda dn: dn[[3, 2, 1]])
    assert torch.equal(next(iter(data.test_dataloader()))[0], expected[:, [3, 2, 1]])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, but .* use 1 to 30"),
        ({"batch_size": 31}, "batch_size is 31, but the train split of .* has 30 samples: use 1"),
        ({"split_kind": "north"}, "unknown kind of split 'north'"),
    ],
)
def test_bad_input_is_one_sentence(flags: dict, message: str, pictures: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        EurosatDataModule(pictures, num_workers=0, **flags).setup("fit")
    assert "\n" not in str(caught.value)
