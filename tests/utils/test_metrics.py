"""Metrics against scikit-learn, to 1e-9, on random predictions with and without ties."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from utils.metrics import (
    RankedScores,
    accuracy,
    average_precision,
    bootstrap_interval,
    detection_scores,
    map_micro,
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
    expected = 100 * sk.average_precision_score(targets, scores, average="micro")
    assert map_micro(targets, scores) == pytest.approx(expected, rel=0, abs=1e-9)
    assert map_micro(targets.float(), scores.double()) == map_micro(targets, scores)
    ranked = RankedScores(targets, scores).average_precision()
    assert 100 * ranked == pytest.approx(expected, rel=0, abs=1e-9)


def test_average_precision_without_positive_samples_is_not_a_number() -> None:
    targets, scores = torch.zeros(50), torch.randn(50)
    assert np.isnan(average_precision(targets, scores))
    assert np.isnan(RankedScores(targets, scores).average_precision())
    weights = torch.arange(50) % 2  # the only positive sample is not drawn
    assert np.isnan(RankedScores(torch.arange(50) == 0, scores).average_precision(weights))


@pytest.mark.parametrize("levels", [None, 4])
def test_weighted_average_precision_is_that_of_repeated_samples(levels: int | None) -> None:
    targets, scores = predictions(60, 3, levels)
    weights = torch.randint(3, (60,))
    repeated = (rows.repeat_interleave(weights, 0) for rows in (targets, scores))
    expected = map_micro(*repeated)
    ours = 100 * RankedScores(targets, scores).average_precision(weights)
    assert ours == pytest.approx(expected, rel=0, abs=1e-9)


def test_accuracy_counts_the_largest_score() -> None:
    labels, scores = torch.randint(4, (300,)), torch.randn(300, 4)
    right = sum(
        int(row.argmax()) == label for row, label in zip(scores, labels.tolist(), strict=True)
    )
    assert accuracy(labels, scores) == pytest.approx(100 * right / 300, abs=1e-9)


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
