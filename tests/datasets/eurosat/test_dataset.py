"""``EurosatDataset`` as in the original: one split, map-style, in any layout."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from datasets.bands import EUROSAT_BANDS
from datasets.eurosat_dataset import EurosatDataset
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform

# Not in alphabetical order, as in the public lists; the class is the part before the underscore.
TRAIN = ("SeaLake_2.jpg", "AnnualCrop_5.jpg", "Forest_1.jpg", "SeaLake_1.jpg", "River_3.jpg")
VAL = ("HerbaceousVegetation_4.jpg", "AnnualCrop_1.jpg")


@pytest.fixture
def original(pictures: Path, tmp_path: Path) -> Path:
    """Layout of the original: class folders, and two lists of file names."""
    root = Path(shutil.copytree(pictures, tmp_path / "EuroSAT"))
    (root / "train.txt").write_text("\n".join(TRAIN) + "\n")
    (root / "val.txt").write_text("\n".join(VAL))
    return root


def items_of_the_original(root: Path, split: str) -> list[tuple[Image.Image, int]]:
    """The original's class, restated as one loop."""
    classes = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    items: list[tuple[Image.Image, int]] = []
    for name in (root / f"{split}.txt").read_text().splitlines():
        folder = name.split("_")[0]
        items.append((Image.open(root / folder / name), classes.index(folder)))
    return items


@pytest.mark.parametrize("split", ["train", "val"])
def test_items_are_those_of_the_original(split: str, original: Path) -> None:
    dataset = EurosatDataset(str(original), split)
    expected = items_of_the_original(original, split)
    assert isinstance(dataset, Dataset)
    assert len(dataset) == len(expected)
    for (image, label), (own, target) in zip(
        (dataset[i] for i in range(len(dataset))), expected, strict=True
    ):
        assert type(label) is int
        assert label == target
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(own))


def test_names_and_labels_follow_the_list_and_items_make_batches(original: Path) -> None:
    plain, dataset = (EurosatDataset(original, "train", each) for each in (None, to_tensor))
    assert dataset.names == tuple(f"{name.split('_')[0]}/{name}" for name in TRAIN)
    assert dataset.labels.tolist() == [9, 0, 1, 9, 8]
    assert dataset.classes == EurosatDataset.all_classes
    assert dataset.class_to_idx["SeaLake"] == 9
    images, labels = next(iter(DataLoader(dataset, batch_size=5)))
    assert torch.equal(images, torch.stack([to_tensor(plain[i][0]) for i in range(5)]))
    assert torch.equal(labels, dataset.labels)
    transform = input_transform(InputSpec.of_pictures(), dataset.spec, "auto")
    assert torch.equal(plain.read_images(transform, 1) / 255, images)


def test_a_zip_and_a_copy_for_another_process_give_the_same(original: Path) -> None:
    archive = shutil.make_archive(str(original), "zip", original.parent, original.name)
    folder = original.rename(original.with_name("2750"))
    packed = shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    with pytest.raises(UserError, match="has no class folders"):
        EurosatDataset(archive, "val")  # its folder has no name that an archive of EuroSAT has
    expected = EurosatDataset(folder.parent, "val")
    for dataset in (EurosatDataset(packed, "val"), pickle.loads(pickle.dumps(expected))):
        assert dataset.names == expected.names
        assert np.array_equal(np.asarray(dataset[1][0]), np.asarray(expected[1][0]))


def test_without_lists_the_splits_are_a_seeded_draw_of_all(pictures: Path) -> None:
    whole = EurosatDataset(pictures)
    parts = {split: EurosatDataset(pictures, split, split_seed=3) for split in whole.all_splits}
    assert len(whole) == 50
    assert sorted(name for part in parts.values() for name in part.names) == list(whole.names)
    for split, rows in whole.splits(3).items():
        assert parts[split].names == tuple(whole.names[row] for row in rows.tolist())
        assert torch.equal(parts[split].labels, whole.labels[rows])
        assert torch.equal(parts[split].splits(3)[split], rows)  # positions among all


def test_thirteen_bands_are_digital_numbers(bands: Path) -> None:
    dataset = EurosatDataset(bands, "test")
    image, label = dataset[0]
    with rasterio.open(bands / dataset.names[0]) as file:
        assert np.array_equal(image, file.read().astype(np.float32))
    assert (image.dtype, image.shape, label) == (torch.float32, (13, 16, 16), 0)


def test_plots_show_true_colours_and_the_class(original: Path, bands: Path) -> None:
    dataset = EurosatDataset(original, "train")
    image, label = dataset[0]
    for shown in (image, to_tensor(image), torch.from_numpy(np.array(image)).permute(2, 0, 1)):
        figure = dataset.plot((shown, label))
        assert isinstance(figure, Figure)
        drawn = np.asarray(figure.axes[0].images[0].get_array(), float)
        np.testing.assert_allclose(255 * drawn, np.asarray(image), atol=1e-3)
        assert figure.axes[0].get_title() == "SeaLake"
    multispectral = EurosatDataset(bands)
    dn, label = multispectral[0]
    pictures = [
        np.asarray(multispectral.plot((values, label), title="crop").axes[0].images[0].get_array())
        for values in (dn, dn / 10_000)  # digital numbers and reflectance look the same
    ]
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1e-5)
    red, green, blue = (dn[EUROSAT_BANDS.index(band)] for band in ("B4", "B3", "B2"))
    scale = torch.stack([red, green, blue]).quantile(0.98)
    np.testing.assert_allclose(pictures[0][..., 0], (red / scale).clamp(0, 1), atol=1e-5)


def test_bad_input_is_one_sentence(original: Path, tmp_path: Path) -> None:
    def refuse(message: str, split: str = "train", kind: str = "random") -> None:
        with pytest.raises(UserError, match=message) as caught:
            EurosatDataset(original, split, split_kind=kind)[0]
        assert "\n" not in str(caught.value)

    refuse("unknown split 'valid': the splits are train, val, test", "valid")
    refuse("unknown kind of split 'north': the kinds are random, spatial", kind="north")
    refuse(r"lists of a split, but test\.txt is missing or empty: add it or remove", "test")
    shutil.move(original / "SeaLake", tmp_path / "SeaLake")
    refuse(r"2 names .* not in the data, the first is SeaLake_2\.jpg: add missing pictures")
    shutil.move(tmp_path / "SeaLake", original / "SeaLake")
    (original / "train.txt").write_text("\n")
    refuse(r"train\.txt is missing or empty: add it")
    (original / "train.txt").write_text("Forest_1.jpg\n")
    (original / "Forest" / "Forest_1.jpg").write_bytes(b"cut")
    refuse(r"Forest_1\.jpg .* is not a readable picture of 8-bit RGB")
    with pytest.raises(IndexError):
        EurosatDataset(original, "train")[1]
