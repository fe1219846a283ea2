"""Results of classifiers against scikit-learn and slow loops: as numbers, lines and pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, recall_score
from torch import Tensor

from utils import classification
from utils.classification import (
    accuracies,
    label_metrics,
    measure,
    measure_batches,
    precision_by_class,
    print_results,
    recall_by_class,
    write_pictures,
)
from utils.metrics import map_micro

CLASSES = ["a", "b", "c", "d"]


def labels_and_scores(count: int = 40, runs: int = 2) -> tuple[Tensor, Tensor]:
    """Labels with an unknown class, and scores with ties: (N, 4) and (S, N, 4)."""
    targets = (torch.rand(count, 4) < torch.tensor([0.5, 0.2, 0.1, 0.0])).to(torch.uint8)
    targets[0, :3] = 1
    return targets, (torch.randn(runs, count, 4) * 3).round() / 3


# --- one class per sample ---------------------------------------------------------------------


def test_accuracies_have_the_interval_of_their_mean() -> None:
    labels = torch.arange(400) % 4
    scores = torch.randn(3, 400, 4)
    scores[..., 0] += 0.5
    metrics = accuracies("test", labels, scores, interval_seed=0)
    right = [(values.argmax(1) == labels).double().mean().item() for values in scores]
    assert metrics["test/accuracy_per_seed"] == pytest.approx([100 * share for share in right])
    mean = sum(right) / 3
    low, high = metrics["test/accuracy_interval"]
    per_sample = (scores.argmax(-1) == labels).double().mean(0)
    deviation = 100 * per_sample.std().item() / 400**0.5
    assert (low, high) == pytest.approx(
        (100 * mean - 1.96 * deviation, 100 * mean + 1.96 * deviation), abs=0.8
    )
    assert "val/accuracy_interval" not in accuracies("val", labels, scores)


def test_recall_and_confusion_are_scikit_learns() -> None:
    labels, scores = torch.arange(90) % 3, torch.randn(2, 90, 4)
    metrics = recall_by_class("test", labels, scores, ["a", "b", "c", "never"])
    expected = sum(confusion_matrix(labels, values.argmax(1), labels=range(4)) for values in scores)
    assert torch.equal(torch.tensor(metrics["test/confusion"]), torch.tensor(expected / 2))
    recalls = [
        recall_score(labels, values.argmax(1), labels=[0, 1, 2], average=None) for values in scores
    ]
    assert metrics["test/recall"].keys() == {"a", "b", "c"}
    assert list(metrics["test/recall"].values()) == pytest.approx(
        list(100 * (recalls[0] + recalls[1]) / 2)
    )


def test_batch_mean_of_accuracies_drops_the_rest() -> None:
    labels, scores = torch.arange(11) % 4, torch.randn(1, 11, 4)
    right = (scores[0].argmax(1) == labels).double()
    found = measure_batches(labels, scores, 4)
    assert found["val/accuracy_batch_mean"] == pytest.approx(100 * right[:8].mean().item())


# --- several labels per sample ----------------------------------------------------------------


@pytest.mark.difference("ben-map")
def test_metrics_are_those_of_scikit_learn_for_every_run() -> None:
    targets, scores = labels_and_scores()
    found = label_metrics("val", targets, scores)
    for run, each in enumerate(scores):
        known = average_precision_score(targets[:, :3], each[:, :3], average="macro")
        expected = {
            "map_micro": average_precision_score(targets, each, average="micro"),
            "map_macro": known,
            "f1_micro": f1_score(targets, each > 0, average="micro"),
            "f1_macro": f1_score(targets, each > 0, average="macro", zero_division=0),
        }
        for name, value in expected.items():
            assert found[f"val/{name}_per_seed"][run] == pytest.approx(100 * value, abs=1e-9)
    chosen_by = map_micro(targets, scores[0])
    assert chosen_by == pytest.approx(found["val/map_micro_per_seed"][0], rel=0, abs=1e-9)
    assert "val/map_micro_interval" not in found


def test_interval_surrounds_the_mean_and_narrows_with_samples() -> None:
    widths = []
    for count in (60, 960):
        targets, _ = labels_and_scores(count)
        found = label_metrics("test", targets, targets + torch.randn(2, count, 4), interval_seed=1)
        for name in ("map_micro", "map_macro", "f1_micro", "f1_macro"):
            low, high = found[f"test/{name}_interval"]
            assert low < found[f"test/{name}"] < high
        low, high = found["test/map_micro_interval"]
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_precision_per_class_is_none_where_a_class_has_no_sample() -> None:
    targets, scores = labels_and_scores()
    found = precision_by_class("test", targets, scores, CLASSES)["test/ap_per_class"]
    assert found["d"] is None
    runs = [average_precision_score(targets[:, 1], each[:, 1]) for each in scores]
    assert found["b"] == pytest.approx(100 * np.mean(runs), abs=1e-9)


def test_batch_mean_drops_the_rest_and_ranks_float32_probabilities() -> None:
    targets, scores = labels_and_scores(count=11, runs=2)
    scores = scores * 20  # many probabilities are exactly 1
    found = measure_batches(targets, scores, 4)
    for run, each in enumerate(scores):
        probabilities = torch.sigmoid(each)
        parts = [
            average_precision_score(targets[part], probabilities[part], average="micro")
            for part in (slice(0, 4), slice(4, 8))
        ]
        expected = pytest.approx(100 * np.mean(parts), abs=1e-9)
        assert found["val/map_micro_batch_mean_per_seed"][run] == expected


# --- lines and pictures -----------------------------------------------------------------------


def results(multi_label: bool) -> dict[str, Any]:
    """Results of two methods on two shares; the first one's larger share is on top."""
    targets, scores = labels_and_scores()
    found: dict[str, Any] = {"linear": {}, "knn5": {}}
    for shares in found.values():
        for share, count in (("0.1", 123), ("1", 1234)):
            own = targets if multi_label else targets.argmax(1)
            shares[share] = measure({"test": own}, {"test": scores + targets}, CLASSES, 0)
            shares[share]["num_labelled"] = count
            scores = scores.flip(1)
    shown = found["linear"]["1"] | {"method": "linear", "classes": CLASSES}
    return shown | {"by_method": found}


@pytest.mark.parametrize(
    ("multi_label", "metric", "of_classes", "last", "pictures"),
    [
        (False, "accuracy", "test recall", "c", ["confusion.png", "label_efficiency.png"]),
        (
            *(True, "map_micro", "test average precision", "d"),
            ["average_precision.png", "label_efficiency.png"],
        ),
    ],
)
def test_results_are_printed_and_drawn(
    multi_label: bool,
    metric: str,
    of_classes: str,
    last: str,
    pictures: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = results(multi_label)
    print_results(metrics)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(f"test/{metric}")]
    assert [row[1:3] for row in rows] == [
        [method, labels] for method in ("linear", "knn5") for labels in ("123", "1,234")
    ]
    assert rows[1][3] == f"{metrics[f'test/{metric}']:.2f}"
    assert f"{of_classes}, linear, 1,234 labels" in lines  # once, of the method on top
    assert lines[-1].split()[0] == last
    write_pictures(tmp_path, metrics, "title")
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    assert all(Image.open(path).width > 300 for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("multi_label", "curves"),
    [
        (False, ["linear", "knn5"]),
        (True, [f"{m}, test/map_{a}" for m in ("linear", "knn5") for a in ("micro", "macro")]),
    ],
)
def test_pictures_name_what_they_show(
    multi_label: bool, curves: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recalls of one method were once shown under the accuracy of another."""
    drawn: dict[str, Any] = {}
    for name in ("plot_confusion", "plot_per_class", "plot_label_curve"):
        keep = lambda *args, name=name: drawn.update({name: args})  # noqa: E731
        monkeypatch.setattr(classification, name, keep)
    metrics = results(multi_label)
    write_pictures(tmp_path, metrics, "EuroSAT")
    value = metrics["test/map_micro" if multi_label else "test/accuracy"]
    title = drawn["plot_per_class" if multi_label else "plot_confusion"][-1]
    name = "micro mAP" if multi_label else "accuracy"
    assert title == f"EuroSAT, linear, 1,234 labels\ntest {name} {value:.1f} %"
    assert list(drawn["plot_label_curve"][1]) == curves
    assert drawn["plot_label_curve"][1][curves[0]].keys() == {0.1, 1.0}
