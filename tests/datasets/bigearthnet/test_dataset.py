"""``Bigearthnet`` and ``BigearthnetDataModule`` used as in the original, without our scripts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from datasets.bigearthnet.facts import GROUP_LABELS, LABELS, NEW_LABELS
from datasets.bigearthnet.index import open_bigearthnet
from datasets.bigearthnet_datamodule import BigearthnetDataModule
from datasets.bigearthnet_dataset import ALL_BANDS, BAND_STATS, RGB_BANDS, Bigearthnet
from tests.references.bigearthnet_files import as_version_2, kept, labels_in
from tests.references.plain_training import MeanColors, plain_trainer
from utils.errors import UserError
from utils.subset import draw_labels

PATCHES = "BigEarthNet-v1.0"


@pytest.fixture(scope="module")
def original(bigearthnet_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layout of the original: its names of the two lists that it has."""
    root = tmp_path_factory.mktemp("original")
    (root / PATCHES).symlink_to(bigearthnet_root / PATCHES)
    for split in ("train", "val"):
        shutil.copy(bigearthnet_root / f"bigearthnet-{split}.txt", root / f"{split}.txt")
    for path in bigearthnet_root.glob("patches_with_*.csv"):
        shutil.copy(path, root)
    return root


def item_of_the_original(folder: Path, *, new_labels: bool = True) -> tuple[np.ndarray, list[int]]:
    """The original's ``__getitem__`` as one loop."""
    channels = []
    for band in ("B04", "B03", "B02"):
        with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
            mean, std = BAND_STATS["mean"][band], BAND_STATS["std"][band]
            low, high = mean - 2 * std, mean + 2 * std
            scaled = (file.read(1) - low) / (high - low) * 255.0
        channels.append(np.clip(scaled, 0, 255).astype(np.uint8))
    labels = json.loads((folder / f"{folder.name}_labels_metadata.json").read_text())["labels"]
    if not new_labels:
        return np.dstack(channels), [int(name in labels) for name in LABELS]
    grouped = {GROUP_LABELS.get(label, label) for label in labels}
    return np.dstack(channels), [int(name in grouped) for name in NEW_LABELS]


@pytest.mark.parametrize("new_labels", [True, False])
@pytest.mark.parametrize("split", ["train", "val"])
def test_items_are_those_of_the_original(
    split: str, new_labels: bool, original: Path, bigearthnet_root: Path
) -> None:
    dataset = Bigearthnet(str(original), split, use_new_labels=new_labels)
    assert list(dataset.names) == kept(bigearthnet_root, split)  # also those without a class
    assert len(dataset) == len(dataset.names)
    for index in range(0, len(dataset), 3):
        image, target = dataset[index]
        folder = original / PATCHES / dataset.names[index]
        pixels, expected = item_of_the_original(folder, new_labels=new_labels)
        assert isinstance(image, Image.Image)
        assert np.array_equal(np.asarray(image), pixels)
        assert (target.dtype, target.tolist()) == (np.float32, expected)
    changed = Bigearthnet(original, split, None, to_tensor, lambda target: target[:5])
    images, targets = next(iter(DataLoader(changed, batch_size=3)))
    assert torch.equal(images[0], to_tensor(dataset[0][0]))
    assert targets.shape == (3, 5)


@pytest.mark.difference("evaluation-spelling")
def test_bands_have_either_spelling_and_come_at_the_size_of_the_finest(original: Path) -> None:
    long, short = (Bigearthnet(original, "val", bands) for bands in (RGB_BANDS, ["B4", "B3", "B2"]))
    assert np.array_equal(long[0][0], short[0][0])
    every = Bigearthnet(original, "val", ALL_BANDS)[0][0]
    assert (every.dtype, every.shape) == (np.uint8, (120, 120, 12))
    red = ALL_BANDS.index("B04")
    assert np.array_equal(every[..., red], np.asarray(long[0][0])[..., 0])
    assert Bigearthnet(original, "val", ["B11"])[0][0].size == (60, 60)


@pytest.mark.parametrize("layout", ["v2", "lmdb"])
def test_other_layouts_give_the_same_items(
    layout: str, bigearthnet_root: Path, lmdb_root: Path, tmp_path: Path
) -> None:
    root = lmdb_root if layout == "lmdb" else as_version_2(bigearthnet_root, tmp_path)
    expected = Bigearthnet(bigearthnet_root, "test")
    found = Bigearthnet(root, "test", lmdb=layout == "lmdb")
    assert len(found) == len(expected)
    for index in range(len(found)):
        assert np.array_equal(found[index][0], expected[index][0])
        assert np.array_equal(found[index][1], expected[index][1])


def test_a_plot_shows_true_colours_and_the_classes(original: Path, bigearthnet_root: Path) -> None:
    dataset = Bigearthnet(original, "train", ["B8", "B4", "B3", "B2"])
    image, target = dataset[1]
    figure = dataset.plot((image, target))
    assert isinstance(figure, Figure)
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(drawn, image[..., 1:] / 255)
    labels = labels_in(bigearthnet_root, dataset.names[1])
    shown = {GROUP_LABELS.get(label, label) for label in labels} & set(NEW_LABELS)
    assert set(figure.axes[0].get_title().split("\n")) == shown
    target[NEW_LABELS.index("Moors, heathland and sclerophyllous vegetation")] = 1
    title = dataset.plot((image, target)).axes[0].get_title()
    assert "Moors, heathland and …" in title.split("\n")


def test_a_plain_trainer_takes_the_data_module(bigearthnet_root: Path, tmp_path: Path) -> None:
    data = BigearthnetDataModule(bigearthnet_root, batch_size=8, num_workers=0)
    model = MeanColors(3, nn.MultiLabelSoftMarginLoss(), data.num_classes)
    trainer = plain_trainer(tmp_path)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)

    index = open_bigearthnet(bigearthnet_root)
    sizes = {split: len(rows) for split, rows in index.splits.items()}
    full = sizes["train"] // 8
    assert [len(batch) for batch in model.seen["train"]] == [8] * 2 * full
    assert model.seen["train"][:full] != model.seen["train"][full:]  # shuffled again
    scored = [row for batch in model.seen["test"] for row in batch]
    assert scored == index.targets[index.splits["test"]].tolist()  # every patch, in order
    assert sum(map(len, model.seen["val"])) == 2 * sizes["val"]


def test_batches_are_pictures_as_in_the_original(original: Path) -> None:
    data = BigearthnetDataModule(original, num_workers=0, batch_size=4, val_frac=0.5)
    data.setup()
    images, _ = next(iter(data.val_dataloader()))
    folder = original / PATCHES / data.val_dataset.names[0]
    resized = Image.fromarray(item_of_the_original(folder)[0]).resize((128, 128), 3)
    assert torch.equal(images[0], to_tensor(resized))


def test_shares_and_an_lmdb_are_those_of_the_script(
    bigearthnet_root: Path, lmdb_root: Path
) -> None:
    data = BigearthnetDataModule(lmdb_root, RGB_BANDS, 0.9, 0.5, True, 4, 0, seed=1)
    data.setup("fit")
    index = open_bigearthnet(bigearthnet_root)
    train = index.splits["train"]
    rows = train[draw_labels(index.targets[train], index.classes, 0.9, 1)]
    assert list(data.train_dataset.names) == [index.names[row] for row in rows]
    assert len(data.val_dataset) == round(len(index.splits["val"]) / 2)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda root: Bigearthnet(root, "valid"), "do not include the valid split, but train, val"),
        (lambda root: Bigearthnet(root, "test"), "do not include the test split"),
        (lambda root: Bigearthnet(root, "val", ["B13"]), "unknown band B13"),
        (lambda root: Bigearthnet(root, "val", download=True), r"datasets/download\.py"),
        (lambda root: Bigearthnet(root / "nowhere", "val"), "nowhere has neither a folder"),
        (lambda root: BigearthnetDataModule(root, batch_size=0).setup(), "use 1 to 2"),
        (lambda root: BigearthnetDataModule(root).setup("test"), "do not include the test split"),
    ],
)
def test_bad_input_is_one_sentence(
    use: Callable[[Path], Any], message: str, original: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        use(original)
    assert "\n" not in str(caught.value)
