"""Scores of change maps, from pixel counts over a whole data set."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from models.result_views import print_table
from models.results import summarise_runs
from utils.errors import printable
from utils.metrics import detection_scores

# Probabilities from which a pixel counts as changed: 0.01, 0.02 ... 0.99.
THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))
SCORES = ("precision", "recall", "f1", "iou")
_HALF = THRESHOLDS.index(0.5)


def count_changes(probability: Tensor, mask: Tensor) -> Tensor:
    """Count changes found, false and missed at every threshold: int64, shape (3, T).

    Args:
        probability: Probability of change, shape (N,).
        mask: Whether the pixel changed, bool, shape (N,).
    """
    thresholds = torch.tensor(THRESHOLDS, device=probability.device)
    # The number of thresholds that are at most the probability of each pixel.
    passed = torch.bucketize(probability.float(), thresholds, right=True)
    size = len(thresholds) + 1
    bins = torch.bincount(passed + size * mask, minlength=2 * size).view(2, -1)
    false, true = bins.flip(1).cumsum(1).flip(1)[:, 1:]
    return torch.stack([true, false, mask.sum() - true])


def best_threshold(counts: Tensor) -> tuple[float, float]:
    """Return the threshold of the best F1, and this F1 in percent; of equal ones, the lowest.

    Args:
        counts: Result of ``count_changes``, or a sum of several, shape (3, T).
    """
    scores = [detection_scores(*column)["f1"] for column in counts.T.tolist()]
    best = max(range(len(scores)), key=scores.__getitem__)
    return THRESHOLDS[best], scores[best]


def mean_of_batches(counts: Tensor) -> dict[str, float]:
    """Return precision, recall and F1 at 0.5 in percent, averaged over batches as the original.

    Args:
        counts: Results of ``count_changes``, shape (batches, 3, T).
    """
    batches = [detection_scores(*batch) for batch in counts[:, :, _HALF].tolist()]
    return {name: mean(scores[name] for scores in batches) for name in SCORES[:3]}


def summarise_cities(counts: Tensor, cities: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the scores over all pixels of all cities, and those of each city.

    The 95 % interval of the mean over the repetitions comes from draws of whole cities with
    replacement, because pixels of one city are not independent.

    Args:
        counts: Pixels found, false and missed: int64, shape (repetitions, cities, 3).
        cities: Names of the cities.
        seed: Seed of the bootstrap.
    """

    def scores(run: int, weights: Tensor | None) -> dict[str, float]:
        drawn = counts[run] if weights is None else weights[:, None] * counts[run]
        return detection_scores(*drawn.sum(0).tolist())

    summary = summarise_runs("test", len(counts), scores, len(cities), seed)
    summary["test/cities"] = {
        city: {
            name: mean(detection_scores(*row)[name] for row in counts[:, number].tolist())
            for name in SCORES
        }
        for number, city in enumerate(cities)
    }
    return summary


def print_results(metrics: Mapping[str, Any]) -> None:
    """Print the scores of every share of the tiles, and the F1 of each city for the largest one.

    Args:
        metrics: Scores of the largest share, and under "by_train_frac" those of each share.
    """
    names = ["val/f1", *(f"val/{name}_batch_mean" for name in SCORES)]
    names += [f"test/{name}" for name in SCORES]
    shares = metrics["by_train_frac"]
    results = [({"tiles %": f"{100 * float(frac):g}"}, each) for frac, each in shares.items()]
    print_table(results, names)
    print(f"test F1 of each city, {results[-1][0]['tiles %']} % of the tiles")
    for city, scores in metrics["test/cities"].items():
        print(f"  {printable(city):25s}{scores['f1']:6.2f} %")
