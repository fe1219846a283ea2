"""What `make demo` promises."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import seed_everything

from benchmarks import demo
from datasets.mini_earth import write_eurosat
from datasets.miniature.covers import COVER_NAMES
from models.backbones import load_encoder
from models.moco2_module import MocoV2
from utils.precision import auto_precision


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)  # each demo takes five minutes of two cores
def test_pre_training_gains_five_points_with_few_labels(tmp_path: Path) -> None:
    """As the mean of five worlds, none of which chose anything."""
    gains = []
    for seed in range(5):
        metrics = demo.main(["--log_dir", str(tmp_path), "--seed", str(seed)])
        gains.append(metrics["pretrain/10"]["test"] - metrics["random/10"]["test"])
    assert np.mean(gains) >= 5


@pytest.mark.usefixtures("laid_out")
def test_a_tiny_demo_writes_its_picture_and_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "write_eurosat", partial(write_eurosat, size=32))
    sizes = {"NUM_DATES": 3, "PATCH_SIZE": 48, "NUM_DRAWS": 2, "FEW_LABELS": 2}
    for name, value in {**sizes, "LABELS": {"all": "all labels", 2: "2 per class"}}.items():
        monkeypatch.setattr(demo, name, value)
    flags = ["--num_places", "64", "--images_per_class", "5", "--max_epochs", "1", "--seed", "3"]
    metrics = demo.main(["--log_dir", str(tmp_path), *flags])
    run_dir = tmp_path / "demo/version_0"
    with Image.open(run_dir / "demo.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert json.loads((run_dir / "results.json").read_text())["metrics"] == metrics
    for encoder in ("random", "pretrain"):
        assert metrics[f"{encoder}/2"]["num_labels"] == 2 * len(COVER_NAMES)
        assert metrics[f"{encoder}/all"]["num_labels"] == 3 * len(COVER_NAMES)
        low, high = metrics[f"{encoder}/2"]["interval"]
        assert low <= metrics[f"{encoder}/2"]["test"] <= high
    said = capsys.readouterr().out
    assert said.count(f"precision: {auto_precision(on_gpu=False)}") == 3  # each script says it once


def test_the_random_encoder_is_the_one_that_pre_training_starts_from() -> None:
    """Both scripts seed alike, and build their encoder before anything else is drawn."""
    seed_everything(3, verbose=False)
    start = MocoV2(demo.ENCODER, emb_spaces=3, num_negatives=8).encoder_q
    seed_everything(3, verbose=False)
    random, _ = load_encoder("random", demo.ENCODER)
    for name, tensor in start.state_dict().items():
        assert torch.equal(tensor, random.state_dict()[name]), name
