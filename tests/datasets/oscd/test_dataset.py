"""``ChangeDetectionDataset`` and its data module used as in the original, without our scripts."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from datasets.oscd.files import city_splits
from datasets.oscd_datamodule import (
    ChangeDetectionDataModule,
    Compose,
    RandomFlip,
    RandomRotation,
    RandomSwap,
    ToTensor,
)
from datasets.oscd_dataset import ALL_BANDS, QUANTILES, RGB_BANDS, ChangeDetectionDataset
from tests.references.plain_training import MeanColors, plain_trainer
from utils.errors import UserError

SIDE = 60


def items_of_the_original(root: Path, split: str, side: int) -> list[list[np.ndarray]]:
    """The original's class, restated as one loop."""
    items = []
    for name in (root / f"{split}.txt").read_text().strip().split(","):
        images = []
        for date in (1, 2):
            channels = []
            for band in ("B04", "B03", "B02"):
                (path,) = (root / name / f"imgs_{date}").glob(f"*_{band}.tif")
                low, high = QUANTILES["min_q"][band], QUANTILES["max_q"][band]
                with rasterio.open(path) as file:
                    share = np.clip((file.read(1) - low) / (high - low), 0, 1)
                channels.append((share * 255).astype(np.uint8))
            images.append(Image.fromarray(np.dstack(channels)))
        images.append(Image.open(root / name / "cm/cm.png").convert("L"))
        width, height = images[0].size
        for left, upper in product(range(0, width, side), range(0, height, side)):
            limits = (left, upper, left + side, upper + side)
            items.append([np.asarray(image.crop(limits)) for image in images])
    return items


@pytest.mark.parametrize("split", ["train", "test"])
def test_items_are_those_of_the_original(split: str, root: Path) -> None:
    dataset = ChangeDetectionDataset(str(root), split, patch_size=25, aligned=False)
    expected = items_of_the_original(root, split, 25)
    assert len(dataset) == len(expected) == 2 * 9
    for index, (img_1, img_2, cm) in enumerate(expected):
        found = dataset[index]
        assert [image.mode for image in found] == ["RGB", "RGB", "L"]
        assert np.array_equal(np.asarray(found[2]), cm)
        for own, image in zip(found[:2], (img_1, img_2), strict=True):
            difference = np.asarray(own).astype(int) - image
            assert np.abs(difference).max() <= 1  # of rounding at the edge of a step
            assert (difference == 0).mean() > 0.99


def test_splits_are_those_of_the_lists_or_cities(root: Path) -> None:
    train, test, every = (
        list(dict.fromkeys(name for name, _ in ChangeDetectionDataset(root, split).samples))
        for split in ("train", "test", "all")
    )
    assert train == (root / "train.txt").read_text().strip().split(",")
    assert every == train + test
    assert ChangeDetectionDataset(root, ["bercy"]).samples == [("bercy", (0, 0, 96, 96))]
    assert len(ChangeDetectionDataset(root)) == 4


def test_bands_have_either_spelling_and_any_number(root: Path) -> None:
    long, short = (
        ChangeDetectionDataset(root, "test", bands)[0] for bands in (RGB_BANDS, ["B4", "B3", "B2"])
    )
    assert np.array_equal(long[0], short[0])
    many = ChangeDetectionDataset(root, "test", ALL_BANDS, patch_size=80)[0]
    assert (many[0].dtype, many[0].shape) == (np.uint8, (80, 80, 13))
    red = ALL_BANDS.index("B04")
    assert np.array_equal(many[0][:SIDE, :SIDE, red], np.asarray(long[0])[:SIDE, :SIDE, 0])


def test_transforms_move_images_and_map_alike(root: Path) -> None:
    transform = Compose([ToTensor(), RandomFlip(), RandomRotation()])
    plain = ChangeDetectionDataset(root, "test", transform=ToTensor(), patch_size=32)[0]
    dataset = ChangeDetectionDataset(root, "test", None, transform, 32)
    positions = [
        [torch.rot90(part.flip(-1) if flip else part, turns, (-2, -1)) for part in plain]
        for flip in (False, True)
        for turns in range(4)
    ]
    seen = set()
    for _ in range(60):
        sample = dataset[0]
        (match,) = (n for n, each in enumerate(positions) if all(map(torch.equal, sample, each)))
        seen.add(match)
    assert seen == set(range(8))
    images = ChangeDetectionDataset(root, "test", patch_size=32)[0]
    swapped = [RandomSwap()(*images) for _ in range(20)]
    assert {(one is images[0], two is images[0]) for one, two, _ in swapped} == {
        (True, False),
        (False, True),
    }
    torch.manual_seed(3)
    turned = Compose([RandomRotation(), ToTensor()])(*images)  # PIL images and tensors alike
    torch.manual_seed(3)
    assert all(map(torch.equal, turned, Compose([ToTensor(), RandomRotation()])(*images)))


def test_a_plot_shows_both_dates_and_the_changes(root: Path) -> None:
    dataset = ChangeDetectionDataset(root, "test", ["B8", "B4", "B3", "B2"])
    img_1, img_2, cm = dataset[0]
    figure = dataset.plot((img_1, img_2, cm))
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == ["date 1", "date 2", "change"]
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    np.testing.assert_allclose(drawn[1], img_2[..., 1:] / 255)
    np.testing.assert_allclose(drawn[2], np.asarray(cm) / 255)
    tensors = dataset.plot(ToTensor()(img_1, img_2, cm))
    again = np.asarray(tensors.axes[0].images[0].get_array())
    np.testing.assert_allclose(again, drawn[0], atol=1e-6)


def test_a_plain_trainer_takes_the_data_module(root: Path, tmp_path: Path) -> None:
    data = ChangeDetectionDataModule(root, patch_size=25, batch_size=4, num_workers=0)
    model = MeanColors(3, nn.BCEWithLogitsLoss(), 1)
    trainer = plain_trainer(tmp_path)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert [len(batch) for batch in model.seen["train"]] == [4] * 4  # of 9 tiles, 8 fill batches
    assert model.seen["train"][:2] != model.seen["train"][2:]
    assert sum(map(len, model.seen["val"])) == 2 * 9
    assert sum(map(len, model.seen["test"])) == 2 * 9
    names = [{name for name, _ in each.samples} for each in (data.train_dataset, data.test_dataset)]
    assert names == [set(city_splits(root)[split]) for split in ("train", "test")]


def test_batches_are_tensors_in_0_to_1(root: Path) -> None:
    data = ChangeDetectionDataModule(str(root), 25, 4, 1, bands=["B8", "B4"])
    img_1, img_2, cm = next(iter(data.val_dataloader()))
    assert img_1.shape == img_2.shape == (4, 2, 25, 25)
    assert (img_1.dtype, cm.shape, cm.unique().tolist()) == (torch.float32, (4, 1, 25, 25), [0, 1])
    assert 0 <= img_1.min() < img_1.max() <= 1
    first = ChangeDetectionDataset(root, city_splits(root)["val"], ["B8", "B4"], ToTensor(), 25)[0]
    assert all(
        torch.equal(batch[0], own) for batch, own in zip((img_1, img_2, cm), first, strict=True)
    )


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda root: ChangeDetectionDataset(root, "val"), "unknown split 'val': name train, test"),
        (
            lambda root: ChangeDetectionDataset(root, ["oslo"]),
            r"unknown split \['oslo'\]: .* bercy",
        ),
        (lambda root: ChangeDetectionDataset(root, bands=["B13"]), "OSCD has no B13"),
        (lambda root: ChangeDetectionDataset(root, patch_size=0), "patch_size is 0"),
        (lambda root: ChangeDetectionDataset(root / "nowhere"), "nowhere holds no OSCD city"),
        (lambda root: ChangeDetectionDataModule(root).setup(), "has 1 samples: use 1 to 1"),
    ],
)
def test_bad_input_is_one_sentence(use: Callable[[Path], Any], message: str, root: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        use(root)
    assert "\n" not in str(caught.value)
