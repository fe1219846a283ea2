"""Metrics against scikit-learn, to 1e-9, on random predictions with and without ties."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from utils.metrics import (
    MultiLabelScores,
    RankedScores,
    average_precision,
    batch_mean,
    bootstrap_interval,
    detection_scores,
    multi_label_f1,
)


def predictions(count: int, classes: int, levels: int | None) -> tuple[Tensor, Tensor]:
    """Random labels and scores; few levels make many ties."""
    targets = torch.rand(count, classes) < torch.linspace(0.05, 0.6, classes)
    targets[0] = True  # no class without a sample
    scores = torch.randn(count, classes)
    return targets, scores if levels is None else (scores * levels).round() / levels


@pytest.mark.parametrize("levels", [None, 1, 4])
def test_average_precision_is_scikit_learns(levels: int | None) -> None:
    targets, scores = predictions(500, 7, levels)
    ours = MultiLabelScores(targets, scores)
    arguments = targets.numpy(), scores.numpy()
    micro = sk.average_precision_score(*arguments, average="micro")
    each = sk.average_precision_score(*arguments, average=None)
    assert ours.micro() / 100 == pytest.approx(micro, rel=0, abs=1e-9)
    assert ours.macro() / 100 == pytest.approx(np.mean(each), rel=0, abs=1e-9)
    assert np.array(ours.per_class()) / 100 == pytest.approx(each, rel=0, abs=1e-9)


@pytest.mark.parametrize("levels", [None, 1, 4])
def test_average_precision_by_sorted_values_is_scikit_learns(levels: int | None) -> None:
    targets, scores = (tensor.flatten() for tensor in predictions(500, 7, levels))
    expected = sk.average_precision_score(targets.numpy(), scores.numpy())
    assert average_precision(targets, scores) == pytest.approx(expected, rel=0, abs=1e-9)
    assert average_precision(targets.float(), scores) == average_precision(targets, scores)
    assert np.isnan(average_precision(torch.zeros(500 * 7), scores))


def test_weighted_average_precision_is_that_of_repeated_samples() -> None:
    targets, scores = predictions(60, 3, 4)
    weights = torch.randint(3, (60,))
    ours = MultiLabelScores(targets, scores)
    repeated = MultiLabelScores(
        targets.repeat_interleave(weights, 0), scores.repeat_interleave(weights, 0)
    )
    assert ours.micro(weights) == pytest.approx(repeated.micro(), rel=0, abs=1e-9)
    assert ours.per_class(weights) == pytest.approx(repeated.per_class(), rel=0, abs=1e-9)


def test_a_class_without_samples_has_no_average_precision_and_leaves_the_mean_alone() -> None:
    targets, scores = predictions(50, 3, None)
    with_empty = torch.cat([targets, torch.zeros(50, 1, dtype=torch.bool)], 1)
    ours = MultiLabelScores(with_empty, torch.cat([scores, torch.randn(50, 1)], 1))
    assert np.isnan(ours.per_class()[3])
    assert ours.macro() == pytest.approx(MultiLabelScores(targets, scores).macro(), rel=0, abs=1e-9)


def test_f1_of_labels_is_scikit_learns() -> None:
    targets, scores = predictions(200, 6, None)
    targets[:, 5], scores[:, 5] = False, -1.0  # neither there nor predicted
    predicted = scores > 0
    micro, macro = multi_label_f1(targets, predicted)
    for ours, average in ((micro, "micro"), (macro, "macro")):
        expected = sk.f1_score(targets.numpy(), predicted.numpy(), average=average, zero_division=0)
        assert ours / 100 == pytest.approx(expected, rel=0, abs=1e-9)


def test_weighted_f1_is_that_of_repeated_samples() -> None:
    targets, scores = predictions(60, 3, None)
    weights = torch.randint(3, (60,))
    repeated = (rows.repeat_interleave(weights, 0) for rows in (targets, scores > 0))
    expected = multi_label_f1(*repeated)
    assert multi_label_f1(targets, scores > 0, weights) == pytest.approx(expected, rel=0, abs=1e-9)


def test_scores_of_a_detection_are_scikit_learns() -> None:
    truth, found = torch.rand(300) < 0.2, torch.rand(300) < 0.3
    ours = detection_scores(
        int((truth & found).sum()), int((~truth & found).sum()), int((truth & ~found).sum())
    )
    expected = {
        "precision": sk.precision_score(truth, found),
        "recall": sk.recall_score(truth, found),
        "f1": sk.f1_score(truth, found),
        "iou": sk.jaccard_score(truth, found),
    }
    assert ours == pytest.approx(
        {name: 100 * value for name, value in expected.items()}, rel=0, abs=1e-9
    )
    assert detection_scores(0, 0, 0) == dict.fromkeys(expected, 0.0)


def test_batch_mean_drops_the_last_batch() -> None:
    targets, scores = predictions(23, 4, None)

    def micro(targets: Tensor, scores: Tensor) -> float:
        return MultiLabelScores(targets, scores).micro()

    expected = [
        100 * sk.average_precision_score(targets[i : i + 5], scores[i : i + 5], average="micro")
        for i in (0, 5, 10, 15)
    ]
    ours = batch_mean(micro, targets, scores, batch_size=5)
    assert ours == pytest.approx(np.mean(expected), abs=1e-9)


def test_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = torch.randn(2000, dtype=torch.float64)
    low, high = bootstrap_interval(lambda w: float(values @ w.double() / w.sum()), 2000, seed=1)
    margin = 1.96 * float(values.std()) / 2000**0.5
    assert low == pytest.approx(float(values.mean()) - margin, abs=0.25 * margin)
    assert high == pytest.approx(float(values.mean()) + margin, abs=0.25 * margin)


def test_interval_is_the_same_for_the_same_seed() -> None:
    ranked = RankedScores(torch.rand(80) < 0.3, torch.randn(80))
    first, again, other = (
        bootstrap_interval(ranked.average_precision, 80, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
