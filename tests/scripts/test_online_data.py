"""Which data set a folder is, and what the probes of a pre-training get from it."""

import shutil
from pathlib import Path

import pytest
import torch

import main_bigearthnet
import main_eurosat
from datasets.bigearthnet.index import open_bigearthnet
from datasets.bigearthnet.pictures import BigEarthNetPictures
from datasets.bigearthnet_dataset import main as write_lmdb
from datasets.eurosat_dataset import EurosatDataset
from datasets.online_data import evaluation_command, read_online_data
from tests.references.probe_pictures import stacked
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.probe_data import ProbeData

SECO_RGB = InputSpec(  # red, green, blue as SeCo stores and stretches them
    ("B4", "B3", "B2"), (0, 2, 3), (129, 103, 88), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
)


def same(first: ProbeData, second: ProbeData) -> bool:
    return all(
        torch.equal(stacked(first, split), stacked(second, split))
        and torch.equal(first.targets[split], second.targets[split])
        for split in ("train", "val")
    )


def sizes(data: ProbeData) -> list[int]:
    return [len(targets) for targets in data.targets.values()]


def test_eurosat_gives_its_splits(eurosat_root: Path) -> None:
    found = read_online_data(eurosat_root, SECO_RGB, 1)
    dataset = EurosatDataset(eurosat_root)
    splits = dataset.splits(0)
    every = dataset.read_images(found.transform, 1)
    assert torch.equal(stacked(found, "train"), every[splits["train"]])
    assert torch.equal(stacked(found, "val"), every[splits["val"]])
    assert torch.equal(found.targets["val"], dataset.labels[splits["val"]])
    assert not found.is_multi_label
    assert len(found.classes) == 10
    assert found.transform.spec.mean == SECO_RGB.mean  # normalised as in the pre-training


def test_the_command_that_evaluates_is_one_for_the_data_set(
    eurosat_root: Path, bigearthnet_root: Path
) -> None:
    encoder = ["--backbone_type", "pretrain", "--ckpt_path", "last.ckpt"]
    script, *flags = evaluation_command(eurosat_root)
    assert script == "main_eurosat.py"
    assert main_eurosat.parse_args([*flags, *encoder]).data_dir == eurosat_root
    script, *flags = evaluation_command(bigearthnet_root)
    assert script == "main_bigearthnet.py"
    args = main_bigearthnet.parse_args([*flags, *encoder])
    assert (args.data_dir, args.method, args.lmdb) == (bigearthnet_root, ["linear"], False)


def test_a_zip_is_eurosat_too(eurosat_root: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(
        str(tmp_path / "EuroSAT"), "zip", eurosat_root.parent, eurosat_root.name
    )
    assert same(
        read_online_data(eurosat_root, SECO_RGB, 1), read_online_data(Path(archive), SECO_RGB, 1)
    )


def test_bigearthnet_gives_a_share_of_its_splits(bigearthnet_root: Path) -> None:
    found = read_online_data(bigearthnet_root, SECO_RGB, 1, fewest_patches=4)
    index = open_bigearthnet(bigearthnet_root)
    assert sizes(found) == [4, 4]
    assert found.is_multi_label
    assert len(found.classes) == 19
    every = BigEarthNetPictures(index, index.splits["val"], found.transform)
    known = {every[item][0].numpy().tobytes(): every.targets[item] for item in range(len(every))}
    assert all(
        torch.equal(known[picture.numpy().tobytes()], targets)
        for picture, targets in zip(stacked(found, "val"), found.targets["val"], strict=True)
    )
    assert same(found, read_online_data(bigearthnet_root, SECO_RGB, 2, fewest_patches=4))


def test_an_lmdb_of_bigearthnet_gives_the_same(bigearthnet_root: Path, tmp_path: Path) -> None:
    flags = ["--bands", "B4", "B3", "B2", "--num_workers", "1"]
    write_lmdb(["--data_dir", str(bigearthnet_root), "--save_dir", str(tmp_path / "db"), *flags])
    expected = read_online_data(bigearthnet_root, SECO_RGB, 1, fewest_patches=3)
    assert same(expected, read_online_data(tmp_path / "db", SECO_RGB, 1, fewest_patches=3))
    assert evaluation_command(tmp_path / "db")[-1] == "--lmdb"
    assert same(expected, read_online_data(tmp_path, SECO_RGB, 1, fewest_patches=3))


def test_the_share_is_one_percent_but_all_of_a_small_part(
    bigearthnet_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = bigearthnet_root / "BigEarthNet-v1.0"
    whole = [len(rows) for rows in open_bigearthnet(root).splits.values()][:2]
    found = read_online_data(root, SECO_RGB, 1)
    assert sizes(found) == whole
    monkeypatch.setattr("datasets.online_data.BIGEARTHNET_SHARE", 0.2)
    found = read_online_data(root, SECO_RGB, 1, fewest_patches=1)
    assert sizes(found) == [round(size / 5) for size in whole]


def test_an_encoder_of_other_bands_is_refused_before_anything_is_read(
    bigearthnet_root: Path, eurosat_root: Path
) -> None:
    many = InputSpec(("B8", "B10", "B4"), (0,) * 3, (255,) * 3, (0.5,) * 3, (0.2,) * 3)
    for root, named in ((bigearthnet_root, "BigEarthNet has no B10"), (eurosat_root, "has no B8")):
        with pytest.raises(UserError, match=named):
            read_online_data(root, many, 1)
