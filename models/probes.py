"""Methods that evaluate a frozen encoder by its features: Adam, L-BFGS, k nearest neighbours.

Each takes the labelled rows of every repetition and scores the held-out sets. A sample has one
class or any number of labels. Shapes: S repetitions, N samples, D features, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from models.linear_probe import (
    Labelled,
    LinearClassifier,
    Recipe,
    Score,
    fit_linear_probe,
    standardisation,
)
from utils.progress import progress

# Inverse strengths C in half decades, the most regularised first: each starts where the last ended.
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-8, 5))
_MAX_ITERATIONS = 500
_SIMILARITIES = 1024  # rows of the similarity matrix at a time


@dataclass(frozen=True)
class Predictions:
    """Scores of the held-out sets by one method; what validation chose for each repetition."""

    scores: dict[str, Tensor]  # of each set, larger means more likely, shape (S, N, C)
    chosen: dict[str, list[float]] = field(default_factory=dict)  # S values by name
    embeddings: Tensor | None = None  # of the last set in the first repetition, shape (N, D)
    checkpoint: Path | None = None  # encoder that the first repetition wrote


Splits = Mapping[str, Labelled]
Method = Callable[..., Predictions]  # takes the labelled rows of every repetition


def probe_by_adam(
    data: Splits,
    num_classes: int,
    rows: Sequence[Tensor],
    *,
    seeds: Sequence[int],
    recipe: Recipe,
    score: Score,
) -> Predictions:
    """Train a linear probe per repetition; the score on val chooses its epoch.

    Args:
        data: Features of train, val and perhaps test.
        num_classes: C.
        rows: Labelled rows of the train split for each repetition.
        seeds: Seed of start, order and dropout of each repetition.
        recipe: How it is trained.
        score: Score of val.
    """
    val = data["val"] if recipe.select_epoch else None
    fit = partial(fit_linear_probe, data["train"], num_classes, recipe=recipe, val=val, score=score)
    fits = [fit(chosen, seed=seed) for seed, chosen in zip(seeds, rows, strict=True)]
    epochs: list[float] = [epoch for _, epoch in fits]
    return _predict(data, [probe.scores for probe, _ in fits], {"best_epochs": epochs})


def probe_by_lbfgs(
    data: Splits, num_classes: int, rows: Sequence[Tensor], *, score: Score
) -> Predictions:
    """Fit a logistic regression per repetition; the score on val chooses its strength.

    Args:
        data: Features of train, val and perhaps test.
        num_classes: Number C of classes.
        rows: Labelled rows of the train split for each repetition, int64, shape (N,) each.
        score: Score of val; larger is better.
    """
    fits = [
        fit_logistic_sweep(data["train"].take(chosen), data["val"], num_classes, score)
        for chosen in _distinct(rows)
    ]
    strengths = {"best_strengths": [strength for _, strength in fits]}
    return _predict(data, [probe.scores for probe, _ in fits], strengths)


def fit_logistic_sweep(
    train: Labelled, val: Labelled, num_classes: int, score: Score
) -> tuple[LinearClassifier, float]:
    """Fit one regression per strength by L-BFGS, and keep the best one on val.

    One class per sample: one multinomial regression. Several labels: a binary regression for each
    of them, all of one strength. There is no learning rate and no epoch: the problems are convex.

    Args:
        train: Labelled samples; where they have one class each, every class has a sample.
        val: Samples that choose the strength; of equal scores, the most regularised.
        num_classes: C.
        score: Score of val.

    Returns:
        The probe, and its inverse strength of regularisation.
    """
    mean, std = standardisation(train.features)
    inputs = ((train.features - mean) / std).numpy()
    multi_label = train.targets.ndim == 2
    columns = train.targets.T.numpy() if multi_label else [train.targets.numpy()]
    settings = {"max_iter": _MAX_ITERATIONS, "tol": 1e-3, "warm_start": True}
    models = [LogisticRegression(**settings) for _ in columns]
    best, best_strength, best_score = None, 0.0, -torch.inf
    for strength in progress(STRENGTHS, desc="L-BFGS", unit=" strengths", leave=False):
        fits = zip(models, columns, strict=True)
        weight = torch.cat([_fit(model.set_params(C=strength), inputs, y) for model, y in fits])
        if not multi_label and num_classes == 2:  # scikit-learn keeps the row of the second class
            weight = torch.cat([-weight, weight]) / 2
        probe = LinearClassifier(mean, std, weight)
        found = score(val.targets, probe.scores(val.features))
        if found > best_score:
            best, best_strength, best_score = probe, strength, found
    assert best is not None
    return best, best_strength


def _fit(model: LogisticRegression, inputs: np.ndarray, targets: np.ndarray) -> Tensor:
    """Return weights and bias, float32, shape (rows, D + 1).

    A label that all samples have, or none, has no regression: its score is the log-odds, with half
    a sample added to either side.
    """
    if targets.min() == targets.max():
        row = np.zeros((1, inputs.shape[1] + 1))
        row[0, -1] = np.log((targets.sum() + 0.5) / ((1 - targets).sum() + 0.5))
    else:
        model.fit(inputs, targets)
        row = np.column_stack([model.coef_, model.intercept_])
    return torch.from_numpy(row.astype(np.float32))


def vote_of_neighbours(
    data: Splits, num_classes: int, rows: Sequence[Tensor], *, k: int
) -> Predictions:
    """Let the most similar labelled samples vote; nothing is chosen on val.

    Args:
        data: Features of train, val and perhaps test.
        num_classes: Number C of classes.
        rows: Labelled rows of the train split for each repetition, int64, shape (N,) each.
        k: Number of neighbours.
    """
    trains = [data["train"].take(chosen) for chosen in _distinct(rows)]
    return _predict(data, [partial(knn_scores, train, num_classes, k) for train in trains])


def knn_scores(train: Labelled, num_classes: int, k: int, features: Tensor) -> Tensor:
    """Count the votes of the ``k`` most similar train samples, by cosine similarity.

    Features are centred by the train set, because those of a ResNet all point in one direction.

    Args:
        train: N samples, k <= N.
        num_classes: C.
        k: Neighbours.
        features: Shape (M, D).

    Returns:
        Votes, and in the decimals, which decide between equal votes, the similarity of the voters:
        shape (M, C). Of several labels, the votes beyond half of the neighbours: above 0 for labels
        that more than half have.
    """
    multi_label = train.targets.ndim == 2
    targets = train.targets if multi_label else F.one_hot(train.targets, num_classes)
    center = train.features.mean(0)
    known = F.normalize(train.features - center, dim=1)
    scores = []
    for part in features.split(_SIMILARITIES):
        similarity, nearest = (F.normalize(part - center, dim=1) @ known.T).topk(k)
        voted = targets[nearest].float()  # (M', k, C)
        # Below one vote: (1 + similarity) / 2 is at most 1 for each of the k voters.
        closeness = (1 + similarity).clamp(0, 2) / (2 * (k + 1))
        scores.append(((1 + closeness)[..., None] * voted).sum(1))
    votes = torch.cat(scores)
    return votes.double() - (k // 2 + 1) if multi_label else votes  # float32 would lose decimals


def _predict(
    data: Splits,
    classifiers: Sequence[Callable[[Tensor], Tensor]],
    chosen: dict[str, list[float]] | None = None,
) -> Predictions:
    """Score all held-out sets by the classifier of every repetition."""
    held_out = {split: data[split].features for split in ("val", "test") if split in data}
    scores = {
        split: torch.stack([score(features) for score in classifiers])
        for split, features in held_out.items()
    }
    return Predictions(scores, chosen or {}, list(held_out.values())[-1])


def _distinct(rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """Drop repetitions with the same rows: if nothing is random, they give the same result."""
    return rows[:1] if all(torch.equal(other, rows[0]) for other in rows) else rows
