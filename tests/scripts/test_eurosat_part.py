"""``main_eurosat.py`` on a part of EuroSAT's classes, whose labels stay those of the whole."""

import shutil
from pathlib import Path

import pytest

import main_eurosat
from datasets.eurosat_dataset import EurosatDataset
from datasets.mini_earth import write_eurosat


@pytest.mark.parametrize("method", ["linear", "lbfgs"])
def test_classes_without_pictures_keep_their_places(method: str, tmp_path: Path) -> None:
    write_eurosat(tmp_path / "EuroSAT", images_per_class=5, size=16, num_workers=1)
    kept = ("Forest", "River", "SeaLake")
    for name in set(EurosatDataset.all_classes) - set(kept):
        shutil.rmtree(tmp_path / "EuroSAT" / name)
    flags = ["--data_dir", str(tmp_path / "EuroSAT"), "--method", method, "--max_epochs", "2"]
    flags += [
        "--backbone_type",
        "random",
        "--base_encoder",
        "resnet18_slim",
        "--gpus",
        "0",
        "--num_seeds",
        "1",
        "--debug",
    ]
    metrics = main_eurosat.main([*flags, "--batch_size", "4", "--precision", "32-true"])
    assert metrics["classes"] == list(EurosatDataset.all_classes)
    assert set(metrics["test/recall"]) == set(kept)
    assert len(metrics["test/confusion"]) == 10
    assert metrics["num_train"] == 9
