"""What `make demo` promises."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import seed_everything

from benchmarks import demo
from models.backbones import load_encoder
from models.moco2_module import MocoV2


@pytest.mark.slow
def test_pre_training_wins_by_five_points_with_few_labels(tmp_path: Path) -> None:
    metrics = demo.main(["--log_dir", str(tmp_path)])
    assert metrics["pretrain/10"]["test"] >= metrics["random/10"]["test"] + 5
    assert metrics["pretrain/all"]["test"] > metrics["random/all"]["test"]
    assert (tmp_path / "demo/version_0/demo.png").is_file()


def test_the_random_encoder_is_the_one_that_pre_training_starts_from() -> None:
    """Both scripts seed alike, and build their encoder before anything else is drawn."""
    seed_everything(3, verbose=False)
    start = MocoV2("resnet18", emb_spaces=3, num_negatives=8).encoder_q
    seed_everything(3, verbose=False)
    random, _ = load_encoder("random", "resnet18")
    for name, tensor in start.state_dict().items():
        assert torch.equal(tensor, random.state_dict()[name]), name
