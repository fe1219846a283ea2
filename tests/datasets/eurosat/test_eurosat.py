"""EuroSAT on disk: layouts, split lists, the seeded split and what can be wrong."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import Tensor

from datasets.eurosat.splits import SPLITS, main, write_split
from datasets.eurosat_dataset import RGB_DATA, EurosatDataset
from datasets.seco.pictures import Pictures
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform

ROOT = Path(__file__).resolve().parents[3]
REAL_ZIP = ROOT.parent / "shared" / "data" / "EuroSAT_RGB.zip"
CLASSES = ("Forest", "River", "SeaLake")


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_classes(root: Path, images_per_class: int = 5) -> Path:
    """Write ``<Class>/<Class>_<n>.jpg``, and the strays of a desktop."""
    for label, name in enumerate(CLASSES):
        for number in range(1, images_per_class + 1):
            write_picture(root / name / f"{name}_{number}.jpg", 100 * label + number)
    (root / ".DS_Store").write_bytes(b"stray")
    (root / "Forest" / "._Forest_1.jpg").write_bytes(b"stray")
    (root / "Forest" / "notes.txt").write_text("stray")
    return root


def read_rgb(dataset: EurosatDataset, num_threads: int = 1) -> Tensor:
    transform = input_transform(InputSpec.of_pictures(), RGB_DATA, "auto")
    return dataset.read_images(transform, num_threads)


def zip_folder(folder: Path, path: Path) -> Path:
    with ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def write_lists(folder: Path, lines: Sequence[Sequence[str]], prefix: str = "") -> None:
    for split, names in zip(SPLITS, lines, strict=False):
        (folder / f"{prefix}{split}.txt").write_text("\n".join(names) + "\n")


def classes_alone(tmp: Path) -> Path:
    return write_classes(tmp / "pictures")


def parent_of_2023(tmp: Path) -> Path:
    return write_classes(tmp / "parent" / "EuroSAT_RGB").parent


def parent_of_2018(tmp: Path) -> Path:
    return write_classes(tmp / "parent" / "2750").parent


def zip_of_2023(tmp: Path) -> Path:
    return zip_folder(parent_of_2023(tmp), tmp / "EuroSAT_RGB.zip")


def zip_of_classes(tmp: Path) -> Path:
    return zip_folder(classes_alone(tmp), tmp / "any.zip")


LAYOUTS = [classes_alone, parent_of_2023, parent_of_2018, zip_of_2023, zip_of_classes]


@pytest.mark.difference("eurosat-classes")
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_pictures_without_strays(
    layout: Callable[[Path], Path], tmp_path: Path
) -> None:
    dataset = EurosatDataset(layout(tmp_path))
    images = read_rgb(dataset, num_threads=2)

    assert dataset.classes == EurosatDataset.all_classes  # also those without pictures
    assert dataset.names == tuple(f"{c}/{c}_{n}.jpg" for c in CLASSES for n in range(1, 6))
    assert dataset.labels.tolist() == [1] * 5 + [8] * 5 + [9] * 5
    assert images.shape == (15, 3, 8, 8)
    assert images.dtype == torch.uint8
    reference = write_classes(tmp_path / "reference")
    for name, image in zip(dataset.names, images, strict=True):
        expected = np.asarray(Image.open(reference / name)).transpose(2, 0, 1)
        assert np.array_equal(image.numpy(), expected)


@pytest.mark.difference("eurosat-splits")
def test_split_without_lists_is_60_20_20_of_every_class(tmp_path: Path) -> None:
    sizes = {"Forest": 25, "River": 5, "SeaLake": 13}
    for name, size in sizes.items():
        (tmp_path / name).mkdir()
        for number in range(size):
            (tmp_path / name / f"{number}.jpg").touch()
    dataset = EurosatDataset(tmp_path)
    splits, again, other = (dataset.splits(seed) for seed in (0, 0, 1))
    counts = {split: dataset.labels[rows].bincount() for split, rows in splits.items()}
    expected = {"train": [15, 3, 9], "val": [5, 1, 2], "test": [5, 1, 2]}
    assert {split: found[found > 0].tolist() for split, found in counts.items()} == expected
    assert torch.equal(torch.cat(list(splits.values())).sort().values, torch.arange(43))
    assert torch.equal(splits["test"], again["test"])
    assert not torch.equal(splits["test"], other["test"])
    (tmp_path / "River" / "2.jpg").unlink()
    with pytest.raises(UserError, match="class River has 4 pictures"):
        EurosatDataset(tmp_path).splits(0)


@pytest.mark.parametrize("prefix", ["", "eurosat-"])
@pytest.mark.parametrize("where", ["root", "parent", "next", "zip"])
def test_public_lists_are_found_and_keep_their_order(
    where: str, prefix: str, tmp_path: Path
) -> None:
    data_dir = parent_of_2023(tmp_path)
    folder = {"root": data_dir / "EuroSAT_RGB", "next": tmp_path}.get(where, data_dir)
    lines = [
        ["SeaLake_1.jpg", "Forest_2.jpg"],  # the public spelling
        ["Forest_4.tif"],  # as for the 13-band archive
        ["2750/River/River_5.jpg", "River/River_1.jpg"],
    ]
    write_lists(folder, lines, prefix)
    if where == "zip":
        data_dir = zip_folder(data_dir, tmp_path / "EuroSAT_RGB.zip")
    dataset = EurosatDataset(data_dir)
    found = {s: [dataset.names[row] for row in rows] for s, rows in dataset.splits(0).items()}
    assert found == {
        "train": ["SeaLake/SeaLake_1.jpg", "Forest/Forest_2.jpg"],
        "val": ["Forest/Forest_4.jpg"],
        "test": ["River/River_5.jpg", "River/River_1.jpg"],
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["Forest_1.jpg", "Forest_77.jpg"], ["Lake_1.jpg"], ["River_1.jpg"]], "2 .*Forest_77"),
        ([["Forest_1.jpg"], ["River_1.jpg"], ["Forest_1.tif"]], "2 .*more than once.*Forest_1"),
        ([["Forest_1.jpg"] * 2, ["River_1.jpg"], ["River_2.jpg"]], "2 .*more than once.*Forest_1"),
        ([["Forest_1.jpg"], [], ["River_1.jpg"]], r"val\.txt is missing or empty"),
        ([["/"], ["Lake_1.jpg"], ["River_1.jpg"]], "not in the data, the first is /"),
        ([["\x1b[31m"], ["Lake_1.jpg"], ["River_1.jpg"]], r"the first is '\\x1b\[31m'"),
        ([["Forest_1.jpg"]], r"val\.txt is missing or empty"),  # rather than another split
    ],
)
def test_lists_that_do_not_fit_are_an_error(
    lines: list[list[str]], message: str, tmp_path: Path
) -> None:
    data_dir = classes_alone(tmp_path)
    write_lists(data_dir, lines)
    with pytest.raises(UserError, match=message):
        EurosatDataset(data_dir).splits(0)


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (classes_alone(tmp_path) / "train.txt").write_text("sentences\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"train\.txt is not a text in UTF-8"):
        EurosatDataset(tmp_path / "pictures").splits(0)


def test_a_plain_name_in_two_folders_needs_its_folder(tmp_path: Path) -> None:
    for seed, name in enumerate(CLASSES):
        write_picture(tmp_path / name / "1.jpg", seed)
    write_lists(tmp_path, [["Forest/1.jpg"], ["River/1.jpg"], ["SeaLake/1.jpg"]])
    assert [rows.item() for rows in EurosatDataset(tmp_path).splits(0).values()] == [0, 1, 2]
    (tmp_path / "val.txt").write_text("1.jpg\n")
    with pytest.raises(UserError, match="not in the data"):
        EurosatDataset(tmp_path).splits(0)


@pytest.mark.parametrize("layout", [parent_of_2018, zip_of_2023], ids=["folder", "zip"])
def test_written_lists_serve_as_public_lists_and_as_image_list(
    layout: Callable[[Path], Path], tmp_path: Path
) -> None:
    data_dir = layout(tmp_path)
    main(["--data_dir", str(data_dir), "--save_path", str(tmp_path / "lists"), "--split_seed", "3"])
    dataset = EurosatDataset(data_dir)
    expected = dataset.splits(3)
    names = [dataset.names[row] for row in expected["train"]]

    pictures = Pictures(data_dir, tmp_path / "lists" / "train.txt")
    assert ["/".join(name.split("/")[-2:]) for name in pictures.names] == names

    write_split(tmp_path, dataset.names, expected)  # next to data_dir
    again = EurosatDataset(data_dir).splits(0)
    assert {split: rows.tolist() for split, rows in again.items()} == {
        split: rows.tolist() for split, rows in expected.items()
    }


def test_folders_that_are_not_eurosat_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "Forest" / "Forest_1.jpg", 0)  # one class is none
    for root in (tmp_path, tmp_path / "Forest"):
        with pytest.raises(UserError, match="has no class folders"):
            EurosatDataset(root)
    with pytest.raises(UserError, match="/dev/zero is neither a zip nor a folder"):
        EurosatDataset(Path("/dev/zero"))


@pytest.mark.parametrize("layout", [classes_alone, parent_of_2023], ids=["classes", "parent"])
def test_pictures_of_something_else_next_to_the_classes_are_refused(
    layout: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = layout(tmp_path)
    stranger = next(root.rglob("Forest")).with_name("previews") / "1.png"
    write_picture(stranger, 1)
    with pytest.raises(
        UserError, match=r"pictures in previews next to EuroSAT's .* AnnualCrop For"
    ):
        EurosatDataset(root)
    stranger.rename(stranger.with_suffix(".notes"))  # folders without pictures are not classes
    assert len(EurosatDataset(root)) == 15


def test_classes_of_a_users_own_are_allowed(tmp_path: Path) -> None:
    for name in ("desert", "city", "lake"):
        write_picture(tmp_path / name / "1.jpg", 0)
    assert EurosatDataset(tmp_path).classes == ("city", "desert", "lake")


@pytest.mark.parametrize(
    "name",
    ["__MACOSX/a.jpg", ".thumbnails/a.jpg", "@eaDir/a.jpg", "River/a\nb.jpg", "River/\udcff.jpg"],
)
def test_hidden_files_are_not_pictures_and_lists_may_name_them(name: str, tmp_path: Path) -> None:
    root = classes_alone(tmp_path)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).touch()
    lines = [["Forest/._Forest_1.jpg", "Forest/Forest_1.jpg"], ["River_1.jpg"], ["SeaLake_1.jpg"]]
    write_lists(root, lines)
    dataset = EurosatDataset(root)
    assert len(dataset) == 15
    assert [len(rows) for rows in dataset.splits(0).values()] == [1, 1, 1]


@pytest.mark.parametrize("num_lists", [3, 1])
@pytest.mark.parametrize("where", ["next to the classes' parent", "next to the classes"])
def test_lists_of_another_data_set_are_ignored(where: str, num_lists: int, tmp_path: Path) -> None:
    data_dir = parent_of_2023(tmp_path)
    folder = data_dir if where == "next to the classes" else data_dir.parent
    dataset = EurosatDataset(data_dir)
    expected = dataset.splits(0)
    write_lists(folder, [["aguasclaras,bercy,bordeaux", "nantes"]] * num_lists)  # OSCD's cities
    with pytest.warns(UserWarning, match=r"^train\.txt.* in .* is ignored: it names none") as shown:
        assert all(map(torch.equal, dataset.splits(0).values(), expected.values()))
    assert len(shown) == 1
    write_lists(folder, [["Forest_1.jpg"], ["River_1.jpg"], ["SeaLake_1.jpg"]], "eurosat-")
    with pytest.warns(UserWarning, match="is ignored"):  # and do not hide EuroSAT's own
        assert [len(rows) for rows in dataset.splits(0).values()] == [1, 1, 1]


def test_lists_of_another_data_set_may_be_in_another_encoding(tmp_path: Path) -> None:
    data_dir = parent_of_2023(tmp_path)
    expected = EurosatDataset(data_dir).splits(0)
    (data_dir.parent / "train.txt").write_text("sentences\n", encoding="utf-16")
    with pytest.warns(UserWarning, match=r"are ignored: .*train\.txt is not a text in UTF-8"):
        found = EurosatDataset(data_dir).splits(0)
    assert all(map(torch.equal, found.values(), expected.values()))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    archive = zip_of_classes(tmp_path)
    content = archive.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.zip is not a whole zip: download or copy it again"):
        EurosatDataset(tmp_path / "cut.zip")
    flipped = bytearray(content)
    flipped[content.index(b"River/River_3.jpg") + 300] ^= 0xFF  # the checksum shows it
    archive.write_bytes(flipped)
    unreadable = r"River/River_3\.jpg .* is not a readable picture"
    with pytest.raises(UserError, match=unreadable):
        read_rgb(EurosatDataset(archive), 2)

    root = tmp_path / "pictures"
    path = root / "River" / "River_3.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=unreadable):
        read_rgb(EurosatDataset(root), 2)
    path.unlink()
    os.mkfifo(path)  # whose reading would wait forever
    with pytest.raises(UserError, match=unreadable):
        read_rgb(EurosatDataset(root), 2)


NOT_RGB = "is not a readable picture of 8-bit RGB as JPEG or PNG"


@pytest.mark.parametrize(
    ("size", "dtype", "message"),
    [
        ((3, 8, 9), "uint8", r"one size are needed: SeaLake/SeaLake_9\.png in .* \(8, 9\) px"),
        ((1, 8, 8), "uint8", NOT_RGB),
        ((3, 8, 8), "uint16", NOT_RGB),
        ((3, 1, 1025), "uint8", NOT_RGB),
    ],
)
def test_a_picture_of_another_kind_is_named(
    size: tuple[int, int, int], dtype: str, message: str, tmp_path: Path
) -> None:
    root = classes_alone(tmp_path)
    shape = dict(zip(("count", "height", "width"), size, strict=True))
    path = root / "SeaLake" / "SeaLake_9.png"
    with rasterio.open(path, "w", driver="PNG", dtype=dtype, **shape) as file:
        file.write(np.ones(size, dtype))
    with pytest.raises(UserError, match=message):
        read_rgb(EurosatDataset(root), 2)


@pytest.mark.skipif(not REAL_ZIP.exists(), reason="the real images are not here")
def test_real_eurosat_has_its_published_counts() -> None:
    dataset = EurosatDataset(REAL_ZIP)
    counts = dict(zip(dataset.classes, dataset.labels.bincount().tolist(), strict=True))
    fewer = {"Pasture": 2000}
    fewer |= dict.fromkeys(("Highway", "Industrial", "PermanentCrop", "River"), 2500)
    assert counts == {name: fewer.get(name, 3000) for name in EurosatDataset.all_classes}
    assert [len(rows) for rows in dataset.splits(0).values()] == [16_200, 5_400, 5_400]


@pytest.mark.slow
@pytest.mark.skipif(not REAL_ZIP.exists(), reason="the real images are not here")
def test_real_eurosat_has_its_published_means() -> None:
    images = read_rgb(EurosatDataset(REAL_ZIP), 2)
    means = torch.stack([images[:, c].float().mean() / 255 for c in range(3)])
    expected = torch.tensor([0.3444, 0.3803, 0.4078])
    torch.testing.assert_close(means, expected, rtol=0, atol=1e-4)
