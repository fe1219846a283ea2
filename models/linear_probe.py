"""A linear classifier on fixed features, and its training by Adam.

Shapes: N samples, B samples per step, D features, C classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from models.best_epoch import BestEpoch
from models.probe_task import Recipe
from utils.progress import progress

Score = Callable[[Tensor, Tensor], float]  # of targets and scores, larger is better


class Labelled(NamedTuple):
    """Samples with targets.

    Attributes:
        features: float32, shape (N, D).
        targets: Classes, int64, shape (N,), or multi-hot labels, shape (N, C).
    """

    features: Tensor
    targets: Tensor

    def take(self, rows: Tensor) -> "Labelled":
        """Return some samples, int64, shape (M,)."""
        return Labelled(self.features[rows], self.targets[rows])


@dataclass(frozen=True)
class LinearClassifier:
    """A linear layer on standardised features.

    Attributes:
        mean: Subtracted from every feature, shape (D,).
        std: Divisor that follows, 1 for a constant feature, shape (D,).
        weight: Weights of standardised features and, in the last column, of the constant 1, shape
            (C, D + 1).
    """

    mean: Tensor
    std: Tensor
    weight: Tensor

    def inputs(self, features: Tensor) -> Tensor:
        """Standardise features, (N, D), and append the constant 1: (N, D + 1)."""
        return F.pad((features - self.mean) / self.std, (0, 1), value=1.0)

    def scores(self, features: Tensor) -> Tensor:
        """Score features: (N, D) -> (N, C)."""
        return self.inputs(features) @ self.weight.T


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of features, (N, D) -> (D,); 1 is the deviation of a constant."""
    std, mean = torch.std_mean(features, dim=0)
    return mean, torch.where(std > 0, std, 1.0)


def fit_linear_probe(
    train: Labelled,
    num_classes: int,
    rows: Tensor,
    *,
    seed: int,
    recipe: Recipe,
    val: Labelled | None = None,
    score: Score | None = None,
) -> tuple[LinearClassifier, int]:
    """Fit a linear layer by Adam.

    The loss is the cross-entropy or, of several labels, the mean over the classes of binary
    cross-entropies.

    Args:
        train: Samples to learn from, float32 on the CPU.
        num_classes: C.
        rows: Labelled samples among them, int64, shape (M,).
        seed: Seed of start, order and dropout.
        recipe: How it is trained.
        val: Samples that choose the epoch; None keeps the last one.
        score: Score of val.

    Returns:
        The probe, and how many epochs it was trained for.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(num_classes, train.features.shape[1] + 1)
    bound = train.features.shape[1] ** -0.5  # as nn.Linear: uniform within 1 / sqrt(D)
    weight.uniform_(-bound, bound, generator=generator)
    features, labels = train.take(rows)
    multi_label = labels.ndim == 2
    targets = (labels if multi_label else F.one_hot(labels, num_classes)).float()
    if recipe.standardise == "none":
        mean, std = torch.zeros(features.shape[1]), torch.ones(features.shape[1])
    else:
        mean, std = standardisation(train.features if recipe.standardise == "train" else features)
    probe = LinearClassifier(mean, std, weight)
    inputs = probe.inputs(features)
    held_out = None if val is None else probe.inputs(val.features)

    optimizer = Adam([weight], lr=recipe.learning_rate, fused=True)
    scheduler = MultiStepLR(optimizer, recipe.falls)
    best = BestEpoch()
    epochs = progress(range(recipe.max_epochs), desc="probe", unit=" epochs", leave=False)
    with _one_thread():
        for epoch in epochs:
            order = torch.randperm(len(inputs), generator=generator)
            if recipe.drop_last:
                order = order[: len(order) // recipe.batch_size * recipe.batch_size]
            for step in order.split(recipe.batch_size):
                batch = inputs[step]
                if recipe.dropout:
                    drop_inputs(batch, recipe.dropout, generator)
                weight.grad = loss_gradient(weight, batch, targets[step], multi_label)
                optimizer.step()
            scheduler.step()
            if val is not None and held_out is not None and score is not None:
                best.update(score(val.targets, held_out @ weight.T), epoch + 1, {"weight": weight})
    if val is None:
        return probe, recipe.max_epochs
    return replace(probe, weight=best.state["weight"]), best.epoch


def drop_inputs(batch: Tensor, dropout: float, generator: torch.Generator) -> None:
    """Set random features to 0 and scale up the others, in place; the constant stays.

    Args:
        batch: Inputs, shape (B, D + 1).
        dropout: Share to set to 0.
        generator: Source of the random numbers.
    """
    inputs = batch[:, :-1]
    keep = torch.rand(inputs.shape, generator=generator) >= dropout
    inputs.mul_(keep).div_(1 - dropout)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: in products as small as a step's, threads only wait.

    On 2 cores that other programs used too, two threads took twenty times the CPU time of one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def loss_gradient(weight: Tensor, inputs: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    """Differentiate the loss by hand: autograd takes longer than the step.

    d loss / d logits is softmax(logits) - targets for the mean cross-entropy over B, and
    (sigmoid(logits) - targets) / C for the mean over B of ``nn.MultiLabelSoftMarginLoss``; d loss /
    d weight is its product with the inputs.

    Args:
        weight: Shape (C, D + 1).
        inputs: Shape (B, D + 1).
        targets: One-hot classes or multi-hot labels, float32, shape (B, C).
        multi_label: Which of the two losses.

    Returns:
        The gradient, shape (C, D + 1).
    """
    logits = inputs @ weight.T  # (B, C)
    if multi_label:
        error = (logits.sigmoid() - targets) / targets.shape[1]
    else:
        error = logits.softmax(-1) - targets
    return (error.T @ inputs).div_(len(targets))
