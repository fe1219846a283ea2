"""BigEarthNet's folders: which patches, which labels, which pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from datasets.bands import ALL_BANDS, two_digit_name
from datasets.bigearthnet.facts import NEW_LABELS, SIDE_PX
from datasets.bigearthnet.folder import PatchFolder
from datasets.bigearthnet.index import UNLABELLED, BigEarthNet, open_bigearthnet
from datasets.bigearthnet.lists import BAD_LISTS, CLOUD, SNOW
from datasets.bigearthnet.pictures import BigEarthNetPictures
from tests.references.bigearthnet_files import REAL, as_version_2, copied, kept, labels_in, lines
from tests.references.bigearthnet_pictures import original_input, pictures, transform
from utils.errors import UserError

TINY = REAL / "bigearthnet_tiny"
PATCHES = "BigEarthNet-v1.0"


@pytest.mark.difference("ben-lists", "ben-unlabelled")
def test_splits_are_those_of_the_original(bigearthnet_root: Path) -> None:
    index = open_bigearthnet(bigearthnet_root, keep_unlabelled=True)
    for split, rows in index.splits.items():
        assert [index.names[row] for row in rows] == kept(bigearthnet_root, split)
    snowy, cloudy = (len(lines(bigearthnet_root / BAD_LISTS[why])) for why in (SNOW, CLOUD))
    assert index.left_out == {SNOW: snowy, CLOUD: cloudy, UNLABELLED: 0}
    assert snowy > 0
    assert cloudy > 0


@pytest.mark.difference("ben-unlabelled")
def test_patches_without_a_class_are_left_out_and_counted(bigearthnet_root: Path) -> None:
    index = open_bigearthnet(bigearthnet_root)
    names = [name for split in index.splits for name in kept(bigearthnet_root, split)]
    road = {"Road and rail networks and associated land"}
    expected = [name for name in names if set(labels_in(bigearthnet_root, name)) - road]
    assert list(index.names) == expected
    assert index.left_out[UNLABELLED] == len(names) - len(expected) > 0
    assert index.targets.any(1).all()
    assert torch.cat(list(index.splits.values())).tolist() == list(range(len(expected)))
    assert f"{len(names) - len(expected)} without any" in index.summary()


@pytest.mark.difference("ben-bands")
def test_pictures_are_the_originals_exactly(bigearthnet_root: Path) -> None:
    index = open_bigearthnet(bigearthnet_root)
    data = pictures(index)
    for item in range(0, len(data), 5):
        picture, _, number = data[item]
        normalised = transform().normalize(picture[None])[0]
        expected = original_input(bigearthnet_root / PATCHES / data.names[item])
        assert torch.equal(normalised, expected)
        assert picture.dtype == torch.uint8
        assert number == item


def test_targets_are_floats_of_their_own_rows(bigearthnet_root: Path) -> None:
    index = open_bigearthnet(bigearthnet_root)
    rows = index.splits["val"].flip(0)
    data = BigEarthNetPictures(index, rows, transform())
    assert torch.stack([data[item][1] for item in range(len(data))]).equal(
        index.targets[rows].float()
    )
    assert data.names == tuple(index.names[row] for row in rows)


def test_twelve_bands_keep_their_order_and_come_from_their_own_grids(
    bigearthnet_root: Path,
) -> None:
    index = open_bigearthnet(bigearthnet_root)
    way = transform(ALL_BANDS)
    picture, *_ = BigEarthNetPictures(index, torch.arange(1), way, image_size=120)[0]
    folder = bigearthnet_root / PATCHES / index.names[0]
    for channel, band in enumerate(ALL_BANDS):
        with rasterio.open(folder / f"{folder.name}_{two_digit_name(band)}.tif") as file:
            stored = file.read(1)
        assert stored.shape == (SIDE_PX[band], SIDE_PX[band])
        if SIDE_PX[band] == 120:  # no resize left
            assert (picture[channel].numpy() == way.table[channel][stored]).all()
        else:
            small = Image.fromarray(way.table[channel][stored])
            bicubic = np.asarray(small.resize((120, 120), Image.Resampling.BICUBIC))
            assert (picture[channel].numpy() == bicubic).all()


def test_version_2_is_found_out_from_its_folder(bigearthnet_root: Path, tmp_path: Path) -> None:
    root = as_version_2(bigearthnet_root, tmp_path)
    first, second = open_bigearthnet(bigearthnet_root), open_bigearthnet(root)
    assert second.classes == NEW_LABELS
    assert second.targets.equal(first.targets)
    assert {split: len(rows) for split, rows in second.splits.items()} == {
        split: len(rows) for split, rows in first.splits.items()
    }
    assert pictures(second)[3][0].equal(pictures(first)[3][0])
    for data_dir, index in ((root / "BigEarthNet-S2", second), (bigearthnet_root / PATCHES, first)):
        assert open_bigearthnet(data_dir).names == index.names  # the folder of the patches itself
    (root / "metadata.parquet").unlink()
    with pytest.raises(UserError, match=r"has no metadata\.parquet"):
        open_bigearthnet(root)


def test_patches_of_version_2_need_no_folders_of_scenes(
    bigearthnet_root: Path, tmp_path: Path
) -> None:
    root = as_version_2(bigearthnet_root, tmp_path)
    expected = open_bigearthnet(root)
    for patch in sorted(root.glob("BigEarthNet-S2/*/*")):
        patch.rename(root / "BigEarthNet-S2" / patch.name)
    for scene in sorted(root.glob("BigEarthNet-S2/*")):
        if not any(scene.iterdir()):
            scene.rmdir()
    index = open_bigearthnet(root)
    assert index.names == expected.names
    assert pictures(index)[0][0].any()


def test_patches_in_another_layout_are_answered_with_the_right_one(
    bigearthnet_root: Path, tmp_path: Path
) -> None:
    root = as_version_2(bigearthnet_root, tmp_path / "v2")
    deep = root / "BigEarthNet-S2"
    deep.rename(root / "deep")
    deep.mkdir()
    (root / "deep").rename(deep / "BigEarthNet-S2")  # unpacked twice
    expected = (
        r"none of the \d+ listed patches, such as S2.*, but S2.*: BigEarthNet-S2/SCENE/PATCH/"
    )
    with pytest.raises(UserError, match=expected):
        open_bigearthnet(root)
    root = copied(bigearthnet_root, tmp_path / "v1")
    (root / PATCHES).rename(root / "deep")
    (root / PATCHES).mkdir()
    (root / "deep").rename(root / PATCHES / PATCHES)
    expected = rf"such as S2.*, but {PATCHES}: {PATCHES}/PATCH/PATCH_B02\.tif is expected"
    with pytest.raises(UserError, match=expected):
        open_bigearthnet(root)


@pytest.mark.parametrize("factor", [1e-4, 0.02])
def test_patches_in_another_unit_are_refused(
    bigearthnet_root: Path, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_bigearthnet(bigearthnet_root)
    rows = torch.arange(40) % len(index.names)
    BigEarthNetPictures(index, rows, transform())
    whole = PatchFolder.read

    def scaled(self: PatchFolder, name: str, bands: tuple[str, ...]) -> list[np.ndarray]:
        return [(plane * factor).astype(np.uint16) for plane in whole(self, name, bands)]

    monkeypatch.setattr(PatchFolder, "read", scaled)
    with pytest.raises(UserError, match=rf"{PATCHES} holds .*(8-bit pictures|no value above 0)"):
        BigEarthNetPictures(index, rows, transform())


def test_fingerprint_changes_with_a_file_a_band_and_the_size(
    bigearthnet_root: Path, tmp_path: Path
) -> None:
    index = open_bigearthnet(copied(bigearthnet_root, tmp_path / "copy"))
    before = pictures(index).fingerprint()
    assert pictures(index).fingerprint() == before
    assert pictures(index, image_size=64).fingerprint() != before
    assert pictures(index, split="val").fingerprint() != before
    path = next((tmp_path / "copy" / PATCHES / index.names[2]).glob("*_B03.tif"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert pictures(index).fingerprint() != before


def test_absent_patches_are_told_by_count_and_name(bigearthnet_root: Path, tmp_path: Path) -> None:
    root = copied(bigearthnet_root, tmp_path / "copy")
    gone = kept(root, "train")[2:4]
    for name in gone:
        (root / PATCHES / name).rename(tmp_path / name)
    with pytest.raises(UserError, match=rf"^2 of the \d+ listed .* first is {gone[0]}: restore"):
        open_bigearthnet(root)


def break_band(path: Path, size: int, dtype: str = "uint16") -> None:
    profile = {"driver": "GTiff", "count": 1, "width": size, "height": size, "dtype": dtype}
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.ones((1, size, size), dtype))


@pytest.mark.parametrize(
    ("size", "dtype", "message"),
    [
        (60, "uint16", r"_B04\.tif has 60 x 60 px, B4 of BigEarthNet 120 x 120"),
        (120, "uint8", r"_B04\.tif holds uint8 values"),
        (0, "", r"_B04\.tif is not a readable GeoTIFF"),
        (-1, "", r"_B04\.tif is missing"),
    ],
)
def test_a_band_that_does_not_fit_is_named(
    bigearthnet_root: Path, tmp_path: Path, size: int, dtype: str, message: str
) -> None:
    index = open_bigearthnet(copied(bigearthnet_root, tmp_path / "copy"))
    name = index.names[int(index.splits["train"][0])]
    path = tmp_path / "copy" / PATCHES / name / f"{name}_B04.tif"
    if size > 0:
        break_band(path, size, dtype)
    elif size == 0:
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.unlink()
    with pytest.raises(UserError, match=message):
        pictures(index)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "_labels_metadata.json is missing: without it"),
        ("{", "is not readable JSON"),
        ("[" * 60_000, "is not readable JSON"),
        ("[]", "holds no list of labels"),
        (json.dumps({"labels": "Pastures"}), "holds no list of labels"),
        (json.dumps({"labels": ["Moonscape"]}), "has the unknown label 'Moonscape'"),
    ],
)
def test_labels_that_cannot_be_used_name_their_patch(
    bigearthnet_root: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    root = copied(bigearthnet_root, tmp_path / "copy")
    name = kept(root, "val")[0]
    path = root / PATCHES / name / f"{name}_labels_metadata.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        open_bigearthnet(root)


def test_a_split_of_unlabelled_patches_is_empty(bigearthnet_root: Path, tmp_path: Path) -> None:
    root = copied(bigearthnet_root, tmp_path / "copy")
    name = kept(root, "val")[0]
    (root / "bigearthnet-val.txt").write_text(name)
    labels = root / PATCHES / name / f"{name}_labels_metadata.json"
    labels.write_text(json.dumps({"labels": ["Airports"]}))
    with pytest.raises(UserError, match="val split has only patches without any"):
        open_bigearthnet(root)


@pytest.mark.parametrize("there", [True, False])
def test_another_folder_is_refused(tmp_path: Path, there: bool) -> None:
    message = "has neither a folder BigEarthNet-v1.0 nor" if there else "is not a folder"
    with pytest.raises(UserError, match=message):
        open_bigearthnet(tmp_path if there else tmp_path / "nowhere")


@pytest.mark.skipif(not TINY.is_dir(), reason="the real patches are not here")
def test_real_patches_are_the_originals_exactly() -> None:
    folder = PatchFolder(TINY, by_scene=False)
    names = sorted(folder.names())
    assert len(names) == 3
    counts = [len(labels) for labels in folder.read_labels(names)]
    assert counts == [2, 1, 4]
    assert [band.shape[0] for band in folder.read(names[0], ALL_BANDS)] == [
        SIDE_PX[band] for band in ALL_BANDS
    ]
    index = BigEarthNet(folder, tuple(names), torch.ones(3, 19), {}, NEW_LABELS, {})
    data = BigEarthNetPictures(index, torch.arange(3), transform())
    for item, name in enumerate(names):
        normalised = transform().normalize(data[item][0][None])[0]
        assert torch.equal(normalised, original_input(TINY / name))
