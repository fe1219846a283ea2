"""Multi-label metrics against scikit-learn and slow loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

from models.label_task import map_micro, probe_each
from models.probes import Labelled
from utils.multi_label import (
    BATCH_MEAN,
    batch_mean_of_micro,
    label_metrics,
    per_class_precision,
    print_results,
    write_pictures,
)

CLASSES = ["a", "b", "c", "d"]


def sample(count: int = 40, runs: int = 2) -> tuple[Tensor, Tensor]:
    """Labels with an unknown class, and logits with ties: (N, 4) and (S, N, 4)."""
    targets = (torch.rand(count, 4) < torch.tensor([0.5, 0.2, 0.1, 0.0])).to(torch.uint8)
    targets[0, :3] = 1
    return targets, (torch.randn(runs, count, 4) * 3).round() / 3


@pytest.mark.difference("ben-map")
def test_metrics_are_those_of_scikit_learn_for_every_run() -> None:
    targets, logits = sample()
    found = label_metrics("val", targets, logits)
    for run, scores in enumerate(logits):
        known = average_precision_score(targets[:, :3], scores[:, :3], average="macro")
        expected = {
            "map_micro": average_precision_score(targets, scores, average="micro"),
            "map_macro": known,
            "f1_micro": f1_score(targets, scores > 0, average="micro"),
            "f1_macro": f1_score(targets, scores > 0, average="macro", zero_division=0),
        }
        for name, value in expected.items():
            assert found[f"val/{name}_per_seed"][run] == pytest.approx(100 * value, abs=1e-9)
    chosen_by = map_micro(targets, logits[0])
    assert chosen_by == pytest.approx(found["val/map_micro_per_seed"][0], rel=0, abs=1e-9)
    assert "val/map_micro_interval" not in found


def test_interval_surrounds_the_mean_and_narrows_with_samples() -> None:
    widths = []
    for count in (60, 960):
        targets, _ = sample(count)
        found = label_metrics("test", targets, targets + torch.randn(2, count, 4), interval_seed=1)
        for name in ("map_micro", "map_macro", "f1_micro", "f1_macro"):
            low, high = found[f"test/{name}_interval"]
            assert low < found[f"test/{name}"] < high
        low, high = found["test/map_micro_interval"]
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_precision_per_class_is_none_where_a_class_has_no_sample() -> None:
    targets, logits = sample()
    found = per_class_precision("test", targets, logits, CLASSES)["test/ap_per_class"]
    assert found["d"] is None
    runs = [average_precision_score(targets[:, 1], scores[:, 1]) for scores in logits]
    assert found["b"] == pytest.approx(100 * np.mean(runs), abs=1e-9)


def test_batch_mean_drops_the_rest_and_ranks_float32_probabilities() -> None:
    targets, logits = sample(count=11, runs=2)
    logits = logits * 20  # many probabilities are exactly 1
    found = batch_mean_of_micro(targets, logits, 4)
    for run, scores in enumerate(logits):
        probabilities = torch.sigmoid(scores)
        parts = [
            average_precision_score(targets[part], probabilities[part], average="micro")
            for part in (slice(0, 4), slice(4, 8))
        ]
        assert found[f"{BATCH_MEAN}_per_seed"][run] == pytest.approx(100 * np.mean(parts), abs=1e-9)


def test_results_are_printed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets, logits = sample()
    result = label_metrics("test", targets, logits) | {"num_labelled": 1234}
    result |= per_class_precision("test", targets, logits, CLASSES)
    few = result | {"num_labelled": 123}
    metrics = result | {"method": "linear", "by_train_frac": {"0.1": few, "1": result}}
    print_results(metrics)
    lines = capsys.readouterr().out.splitlines()
    micro = [line.split() for line in lines if line.startswith("test/map_micro")]
    assert [line[1:3] for line in micro] == [["linear", "123"], ["linear", "1,234"]]
    assert micro[0][3] == f"{result['test/map_micro']:.2f}"
    assert "test average precision, linear, 1,234 labels" in lines
    assert lines[-1].split() == ["d", "-", "%"]
    write_pictures(tmp_path, metrics, "title")
    for name in ("average_precision.png", "label_efficiency.png"):
        assert Image.open(tmp_path / name).width > 300


def test_a_probe_sees_its_own_rows_alone() -> None:
    targets, _ = sample(60)
    data = {s: Labelled(torch.randn(60, 6), targets.float()) for s in ("train", "val", "test")}
    settings = {"max_epochs": 4, "batch_size": 8, "learning_rate": 0.1, "milestones": [2]}
    settings |= {"select_epoch": True, "standardise": True, "dropout": 0.0, "drop_last": False}
    rows = torch.arange(20, 50)
    both = probe_each(data, [torch.arange(30), rows], seeds=[1, 2], **settings)  # type: ignore[arg-type]
    hidden = Labelled(data["train"].features.clone(), data["train"].labels.clone())
    hidden.features[:20] = torch.nan
    hidden.labels[50:] = 9
    alone = probe_each(data | {"train": hidden}, [rows], seeds=[2], **settings)  # type: ignore[arg-type]
    assert both.scores["test"][1].equal(alone.scores["test"][0])
    assert both.chosen["best_epochs"][1:] == alone.chosen["best_epochs"]
    assert both.embeddings is data["test"].features


@pytest.mark.parametrize(("select_epoch", "epoch"), [(True, 1), (False, 6)])
def test_the_epoch_is_chosen_on_val_alone(select_epoch: bool, epoch: int) -> None:
    features = torch.randn(200, 3)
    targets = (features > 0).float()
    data = {"train": Labelled(features, targets), "test": Labelled(features, targets)}
    data["val"] = Labelled(features, 1 - targets)  # what is learned makes it worse
    found = probe_each(
        data,
        [torch.arange(200)],
        seeds=[0],
        max_epochs=6,
        batch_size=50,
        learning_rate=0.1,
        milestones=[],
        select_epoch=select_epoch,
        standardise=False,
        dropout=0.0,
        drop_last=False,
    )
    assert found.chosen["best_epochs"] == [epoch]
