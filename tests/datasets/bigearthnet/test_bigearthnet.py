"""BigEarthNet's folders: which patches, which labels, which pictures."""

import json
import os
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


@pytest.fixture
def copy(bigearthnet_root: Path, tmp_path: Path) -> Path:
    """The data set, to change."""
    return copied(bigearthnet_root, tmp_path / "copy")


@pytest.mark.difference("ben-lists", "ben-unlabelled")
def test_splits_are_those_of_the_original(bigearthnet_root: Path) -> None:
    index = open_bigearthnet(bigearthnet_root, keep_unlabelled=True)
    for split, rows in index.splits.items():
        assert [index.names[row] for row in rows] == kept(bigearthnet_root, split)
    snowy, cloudy = (len(lines(bigearthnet_root / BAD_LISTS[why])) for why in (SNOW, CLOUD))
    assert index.left_out == {SNOW: snowy, CLOUD: cloudy, UNLABELLED: 0}
    assert min(snowy, cloudy) > 0


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
def test_items_are_pictures_of_the_original_with_their_labels(bigearthnet_root: Path) -> None:
    index = open_bigearthnet(bigearthnet_root)
    rows = index.splits["val"].flip(0)
    data = BigEarthNetPictures(index, rows, transform())
    assert data.names == tuple(index.names[row] for row in rows)
    for item in range(len(data)):
        picture, target, number = data[item]
        assert (picture.dtype, number) == (torch.uint8, item)
        assert target.equal(index.targets[rows[item]].float())
        normalised = transform().normalize(picture[None])[0]
        expected = original_input(bigearthnet_root / PATCHES / data.names[item])
        assert torch.equal(normalised, expected)


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
        expected = way.table[channel][stored]
        if SIDE_PX[band] < 120:
            small = Image.fromarray(expected)
            expected = np.asarray(small.resize((120, 120), Image.Resampling.BICUBIC))
        assert (picture[channel].numpy() == expected).all()


def test_version_2_is_found_out_from_its_folder(bigearthnet_root: Path, tmp_path: Path) -> None:
    root = as_version_2(bigearthnet_root, tmp_path)
    first, second = open_bigearthnet(bigearthnet_root), open_bigearthnet(root)
    assert second.classes == NEW_LABELS
    assert second.targets.equal(first.targets)
    assert all(map(torch.equal, second.splits.values(), first.splits.values()))
    assert pictures(second)[3][0].equal(pictures(first)[3][0])
    for data_dir, index in ((root / "BigEarthNet-S2", second), (bigearthnet_root / PATCHES, first)):
        assert open_bigearthnet(data_dir).names == index.names  # the folder of the patches itself
    for patch in sorted(root.glob("BigEarthNet-S2/*/*")):
        patch.rename(root / "BigEarthNet-S2" / patch.name)  # without the folders of scenes
    assert pictures(open_bigearthnet(root))[3][0].equal(pictures(first)[3][0])


def test_absent_patches_and_other_layouts_are_refused_with_count_name_and_layout(
    copy: Path, tmp_path: Path
) -> None:
    gone = kept(copy, "train")[2:4]
    for name in gone:
        (copy / PATCHES / name).rename(tmp_path / name)
    with pytest.raises(UserError, match=rf"^2 of the \d+ listed .* first is {gone[0]}: restore"):
        open_bigearthnet(copy)
    (copy / PATCHES).rename(tmp_path / "inner")
    (copy / PATCHES).mkdir()
    (tmp_path / "inner").rename(copy / PATCHES / PATCHES)  # unpacked twice
    with pytest.raises(UserError, match=rf"^(\d+) of the \1 listed .*{PATCHES} \(PATCH is exp"):
        open_bigearthnet(copy)


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


def fingerprint(of: BigEarthNetPictures) -> str:
    return of.fingerprint(torch.arange(len(of)))


def test_fingerprint_changes_with_a_file_a_band_and_the_size(copy: Path) -> None:
    index = open_bigearthnet(copy)
    before = fingerprint(pictures(index))
    assert fingerprint(pictures(index)) == before
    assert fingerprint(pictures(index, image_size=64)) != before
    assert fingerprint(pictures(index, split="val")) != before
    path = next((copy / PATCHES / index.names[2]).glob("*_B03.tif"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert fingerprint(pictures(index)) != before
    path.unlink()
    with pytest.raises(UserError, match=r"_B03\.tif is missing: restore it"):
        fingerprint(pictures(index))


def test_a_band_that_does_not_fit_is_named(copy: Path) -> None:
    index = open_bigearthnet(copy)
    name = index.names[int(index.splits["train"][0])]
    path = copy / PATCHES / name / f"{name}_B04.tif"

    def refuse(message: str) -> None:
        with pytest.raises(UserError, match=rf"_B04\.tif {message}"):
            pictures(index)[0]

    for count, size, dtype, message in (
        (1, 60, "uint16", "holds uint16 values of 60 x 60 px, but B4 of BigEarthNet has 120 x 120"),
        (1, 120, "uint8", "holds uint8 values of 120 x 120 px, but B4 of BigEarthNet has 120 x 12"),
        (3, 120, "uint16", "has 3 bands of uint16, but a file with one band is needed"),
    ):
        profile = {"driver": "GTiff", "count": count, "width": size, "height": size, "dtype": dtype}
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.ones((count, size, size), dtype))
        refuse(message)
    path.write_bytes(b"II*\0")
    refuse("is missing or not a readable GeoTIFF")
    path.unlink()
    refuse("is missing or not a readable GeoTIFF")
    os.mkfifo(path)
    refuse("is missing or not a readable GeoTIFF")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "_labels_metadata.json is missing or holds no list"),
        ("{", "holds no list of labels"),
        ("[" * 60_000, "holds no list of labels"),
        ("[]", "holds no list of labels"),
        (json.dumps({"labels": "Pastures"}), "holds no list of labels"),
        (json.dumps({"labels": [3]}), "holds no list of labels"),
        (json.dumps({"labels": ["Moonscape"]}), "has the label 'Moonscape'"),
    ],
)
def test_labels_that_cannot_be_used_name_their_patch(
    copy: Path, content: str | None, message: str
) -> None:
    name = kept(copy, "val")[0]
    path = copy / PATCHES / name / f"{name}_labels_metadata.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        open_bigearthnet(copy)


def test_a_split_of_unlabelled_patches_is_empty(copy: Path) -> None:
    name = kept(copy, "val")[0]
    (copy / "bigearthnet-val.txt").write_text(name)
    labels = copy / PATCHES / name / f"{name}_labels_metadata.json"
    labels.write_text(json.dumps({"labels": ["Airports"]}))
    with pytest.raises(UserError, match="no patch is left in the val split"):
        open_bigearthnet(copy)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for data_dir in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"has neither a folder BigEarthNet-v1\.0 nor"):
            open_bigearthnet(data_dir)
    (tmp_path / "BigEarthNet-S2").mkdir()
    with pytest.raises(UserError, match=r"has no metadata\.parquet"):
        open_bigearthnet(tmp_path)


@pytest.mark.skipif(not TINY.is_dir(), reason="the real patches are not here")
def test_real_patches_are_the_originals_exactly() -> None:
    folder = PatchFolder(TINY, by_scene=False)
    names = sorted(folder.names())
    assert [len(folder.read_labels(name)) for name in names] == [2, 1, 4]
    assert [band.shape[0] for band in folder.read(names[0], ALL_BANDS)] == [
        SIDE_PX[band] for band in ALL_BANDS
    ]
    index = BigEarthNet(folder, tuple(names), torch.ones(3, 19), {}, NEW_LABELS, {})
    data = BigEarthNetPictures(index, torch.arange(3), transform())
    for item, name in enumerate(names):
        normalised = transform().normalize(data[item][0][None])[0]
        assert torch.equal(normalised, original_input(TINY / name))
