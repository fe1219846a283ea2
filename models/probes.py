"""Ways to judge a frozen encoder by its features, for one class per sample.

Each takes the labelled rows of every repetition and scores the held-out sets. Shapes: S
repetitions, N samples, D features, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.knn import knn_scores
from models.linear_probe import Validation, fit_linear_probe
from models.logistic import fit_logistic_sweep
from utils.errors import UserError
from utils.metrics import accuracy_percent
from utils.subset import check_every_class, draw_per_class, stratified_subset

HELD_OUT = ("val", "test")


class Labelled(NamedTuple):
    """A split: features, float32, (N, D); classes, int64, (N,), or multi-hot labels, (N, C)."""

    features: Tensor
    labels: Tensor


Splits = Mapping[str, Labelled]


@dataclass(frozen=True)
class Predictions:
    """What a method says about the held-out sets.

    Attributes:
        scores: Of each held-out set, larger is likelier, shape (S, N, C).
        chosen: What validation chose for each repetition, S values under the name of the choice.
        embeddings: Features of the last held-out set in the first repetition, shape (N, D).
        checkpoint: Encoder that the first repetition wrote.
    """

    scores: dict[str, Tensor]
    chosen: dict[str, list[float]] = field(default_factory=dict)
    embeddings: Tensor | None = None
    checkpoint: Path | None = None


Method = Callable[..., Predictions]  # takes the labelled rows of every repetition


def accuracy(labels: Tensor, scores: Tensor) -> float:
    """Return the accuracy of the most likely classes in percent: (N,), (N, C)."""
    return accuracy_percent(labels, scores.argmax(-1))


def draw_rows(
    labels: Tensor,
    classes: Sequence[str],
    seeds: Sequence[int],
    *,
    frac: float,
    labels_per_class: int | None,
    present: Sequence[int] | None = None,
) -> list[Tensor]:
    """Draw the labelled rows of every repetition; a class without any is a ``UserError``.

    Args:
        labels: Of the train split, int64, shape (N,).
        classes: Names.
        seeds: One per repetition.
        frac: Share of every class.
        labels_per_class: Number of every class instead.
        present: Labels that the data set has at all; None for all classes.
    """
    counts = labels.bincount(minlength=len(classes))
    for label in range(len(classes)) if present is None else present:
        if counts[label] == 0:
            name = classes[label]
            raise UserError(f"the train split has no sample of {name}: correct its list")
    draws = []
    for seed in seeds:
        if labels_per_class is not None:
            rows = draw_per_class(labels, labels_per_class, seed)
        else:
            rows = stratified_subset(labels, frac, seed)
            drawn = labels[rows].bincount(minlength=len(classes))
            check_every_class(counts, drawn, classes, frac)
        draws.append(rows)
    return draws


def probe_by_adam(
    data: Splits,
    num_classes: int,
    rows: Sequence[Tensor],
    *,
    seeds: Sequence[int],
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
) -> Predictions:
    """Train a linear probe per repetition; the accuracy on val chooses its epoch.

    Args:
        data: Train, val and test.
        num_classes: C.
        rows: Labelled rows of the train split for each repetition, all of one shape.
        seeds: Of start and order, one per repetition.
        max_epochs: Passes over the labelled rows.
        batch_size: Samples per step.
        learning_rate: Of Adam, see ``fit_linear_probe``.
    """
    probes = fit_linear_probe(
        *data["train"],
        num_classes,
        seeds=seeds,
        rows=rows,
        validation=Validation(*data["val"], accuracy),
        max_epochs=max_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    scores = {split: probes.logits(data[split].features) for split in HELD_OUT}
    return Predictions(scores, {"best_epochs": [*probes.epochs]}, data["test"].features)


def probe_by_lbfgs(data: Splits, num_classes: int, rows: Sequence[Tensor]) -> Predictions:
    """Fit logistic regressions per repetition; the accuracy on val chooses the strength."""
    fits = [
        fit_logistic_sweep(*_take(data["train"], chosen), data["val"], num_classes)
        for chosen in _distinct(rows)
    ]
    scores = {
        split: torch.stack([fit.logits(data[split].features) for fit in fits]) for split in HELD_OUT
    }
    chosen = {"best_strengths": [fit.strength for fit in fits]}
    return Predictions(scores, chosen, data["test"].features)


def vote_of_neighbours(
    data: Splits, num_classes: int, rows: Sequence[Tensor], *, k: int
) -> Predictions:
    """Let the ``k`` most similar labelled samples vote; nothing is chosen on val."""

    def score(train: Labelled, features: Tensor) -> Tensor:
        return knn_scores(train.features, F.one_hot(train.labels, num_classes), features, k)

    trains = [_take(data["train"], chosen) for chosen in _distinct(rows)]
    scores = {
        split: torch.stack([score(train, data[split].features) for train in trains])
        for split in HELD_OUT
    }
    return Predictions(scores, embeddings=data["test"].features)


def _take(split: Labelled, rows: Tensor) -> Labelled:
    return Labelled(split.features[rows], split.labels[rows])


def _distinct(rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """Drop repetitions with the same rows: where nothing is random they are the same."""
    return rows[:1] if all(torch.equal(other, rows[0]) for other in rows) else rows
