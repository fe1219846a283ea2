"""Figures of small runs of the evaluation scripts, which no change of the code may change.

They were computed in November 2026, before the evaluation was rewritten, by the same calls. Other
processors sum in another order: scores may differ by 1 %, rankings by some points, accuracies by
one image.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import main_bigearthnet
import main_eurosat
import main_oscd
from datasets.mini_earth import write_eurosat

COMMON = [
    *("--backbone_type", "random", "--base_encoder", "resnet18_slim", "--seed", "0"),
    *("--precision", "32-true", "--gpus", "0", "--num_workers", "0", "--num_seeds", "1", "--debug"),
]
METHODS = ["--method", "linear", "lbfgs", "knn"]
RATE = ["--learning_rate", "1e-2"]
EUROSAT = {"linear": 15.0, "lbfgs": 10.0, "knn5": 25.0, "knn20": 30.0}  # of 10 classes
EUROSAT_FEATURES = 0.452484
EUROSAT_SCORES = [
    *(0.111609, -0.136772, 0.119751, 0.146197, -0.191311),
    *(0.334542, 0.0525410, -0.0970954, 0.225369, 0.0989105),
]
BIGEARTHNET = {
    "linear": (8.14836, 7.20551),
    "lbfgs": (24.26403, 3.50877),
    "knn5": (15.29200, 2.63158),
    "knn20": (14.88943, 0.0),
}
BIGEARTHNET_SCORES = [-0.396905, -0.361271, 0.491999, 0.202854, -0.138019]
OSCD = [21.29925, 15.86687, 8.86678, 75.36765]
OSCD_PROBABILITIES = [0.502253, 0.507546]


def test_figures_of_eurosat(tmp_path: Path) -> None:
    write_eurosat(tmp_path / "EuroSAT", images_per_class=10, size=32, num_workers=1)
    flags = ["--data_dir", str(tmp_path / "EuroSAT"), "--save_predictions", str(tmp_path / "p.npz")]
    metrics = main_eurosat.main([*COMMON, *flags, *METHODS, "--max_epochs", "4", *RATE])
    found = {name: shares["1"]["test/accuracy"] for name, shares in metrics["by_method"].items()}
    assert found == pytest.approx(EUROSAT, abs=5.1)
    saved = np.load(tmp_path / "p.npz")
    assert saved["scores"].mean(0) == pytest.approx(EUROSAT_SCORES, rel=0.01, abs=0.002)
    assert saved["embeddings"].mean() == pytest.approx(EUROSAT_FEATURES, rel=0.01)


def test_figures_of_bigearthnet(bigearthnet_root: Path, tmp_path: Path) -> None:
    flags = ["--data_dir", str(bigearthnet_root), "--save_predictions", str(tmp_path / "p.npz")]
    flags += ["--batch_size", "8", "--image_size", "32", *RATE]
    metrics = main_bigearthnet.main([*COMMON, *flags, *METHODS, "--max_epochs", "4"])
    found = {
        name: (shares["1"]["test/map_micro"], shares["1"]["test/f1_macro"])
        for name, shares in metrics["by_method"].items()
    }
    for name, values in BIGEARTHNET.items():
        assert found[name] == pytest.approx(values, abs=1)
    scores = np.load(tmp_path / "p.npz")["scores"]
    assert scores.mean(0)[:5] == pytest.approx(BIGEARTHNET_SCORES, rel=0.01, abs=0.002)


def test_figures_of_oscd(oscd_root: Path, tmp_path: Path) -> None:
    flags = ["--data_dir", str(oscd_root), "--save_predictions", str(tmp_path / "p.npz")]
    flags += ["--patch_size", "32", "--batch_size", "2", "--max_epochs", "2"]
    metrics = main_oscd.main([*COMMON, *flags])
    names = ("val/f1", "test/f1", "test/precision", "test/recall")
    assert [metrics[name] for name in names] == pytest.approx(OSCD, abs=1)
    maps: Any = np.load(tmp_path / "p.npz")
    found = [maps[city].mean() for city in ("brasilia", "montpellier")]
    assert found == pytest.approx(OSCD_PROBABILITIES, rel=0.01)
