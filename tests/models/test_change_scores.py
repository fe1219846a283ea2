"""Scores of change maps against slow re-counts."""

import pytest
import torch

from models.change_scores import (
    THRESHOLDS,
    best_threshold,
    count_changes,
    mean_of_batches,
    summarise_cities,
)


def test_counts_are_those_of_a_slow_loop_over_thresholds() -> None:
    probability = torch.rand(400).mul(50).round().div(50)  # many equal a threshold
    mask = torch.rand(400) < 0.2
    counts = count_changes(probability, mask)
    assert counts.shape == (3, len(THRESHOLDS))
    for column, threshold in enumerate(THRESHOLDS):
        limit = torch.tensor(threshold).item()  # in float32, as the probabilities are
        found = [value >= limit for value in probability.tolist()]
        pairs = list(zip(found, mask.tolist(), strict=True))
        assert counts[:, column].tolist() == [
            *(pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True)))
        ]


def test_best_threshold_is_that_of_the_highest_f1() -> None:
    probability, mask = torch.tensor([0.1, 0.35, 0.355, 0.9]), torch.tensor([0, 0, 1, 1]).bool()
    assert best_threshold(count_changes(probability, mask)) == (0.11, pytest.approx(80))
    probability[2] = 0.365
    assert best_threshold(count_changes(probability, mask)) == (0.36, 100)


def test_mean_over_batches_is_the_mean_of_each_batchs_scores() -> None:
    batches = [(torch.rand(50), torch.rand(50) < 0.4) for _ in range(3)]
    batches.append((torch.zeros(50), torch.zeros(50, dtype=torch.bool)))  # all scores are 0
    means = mean_of_batches(torch.stack([count_changes(*batch) for batch in batches]))
    totals = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    for probability, mask in batches[:3]:
        found = probability >= 0.5
        true = (found & mask).sum().item()
        precision, recall = true / found.sum().item(), true / mask.sum().item()
        totals["precision"] += 25 * precision
        totals["recall"] += 25 * recall
        totals["f1"] += 25 * 2 * precision * recall / (precision + recall)
    assert means == pytest.approx(totals)


def slow_f1(true: int, false: int, missed: int) -> float:
    precision, recall = true / (true + false), true / (true + missed)
    return 100 * 2 * precision * recall / (precision + recall)


def test_scores_of_cities_and_their_interval_are_means_over_the_repetitions() -> None:
    counts = torch.tensor([[[5, 1, 2], [3, 3, 3]], [[0, 4, 7], [9, 1, 0]]])
    summary = summarise_cities(counts, ["a", "b"], seed=0)
    f1 = {"a": (slow_f1(5, 1, 2) + 0) / 2}
    f1["b"] = (slow_f1(3, 3, 3) + slow_f1(9, 1, 0)) / 2
    assert {city: scores["f1"] for city, scores in summary["test/cities"].items()} == (
        pytest.approx(f1)
    )
    per_seed = [slow_f1(8, 4, 5), slow_f1(9, 5, 7)]
    assert summary["test/f1_per_seed"] == pytest.approx(per_seed)
    # Two cities are drawn as a and a, a and b, or b and b.
    assert summary["test/f1_interval"] == pytest.approx([f1["a"], f1["b"]])
