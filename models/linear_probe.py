"""A linear classifier on fixed features, and its training by Adam.

Shapes: N samples, B samples per step, D features, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from utils.progress import progress

Score = Callable[[Tensor, Tensor], float]  # of targets and scores, larger is better
# The learning rate is divided by ten after these shares of the epochs, as in the original's
# EuroSAT and BigEarthNet (epochs 60 and 80 of 100).
MILESTONES = (0.6, 0.8)
_ROWS = 256  # features that are standardised at a time: they stay in the cache of a core


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained by Adam, on features or through an encoder.

    Attributes:
        max_epochs: Passes over the labelled samples.
        batch_size: Samples per step and process; the last batch of an epoch may be smaller.
        learning_rate: Learning rate at the start.
        milestones: Epochs after which it is divided by ten; None for 60 % and 80 % of all.
        select_epoch: Whether the best epoch on val is kept; else the last one is.
        drop_last: Whether an epoch leaves out a last batch that is not full.
        dropout: Share of the features that a step leaves out (0.2 in the original's BigEarthNet).
        standardise: Features that give mean and deviation for a linear layer: those of the whole
            "train" split, which needs no labels, of the "labelled" samples, or "none".
        freeze_backbone: Whether no gradient reaches an encoder that pictures pass through.
        encoder_in_train_mode: Whether its batch norm uses, and learns, the statistics of batches;
            in the original yes on EuroSAT, no on BigEarthNet.
        val_every_n_epochs: Epochs between validations of such a training.
        seeded_order: Whether its order is a function of (seed, epoch); else the global generator
            draws it, as in the original's EuroSAT.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    milestones: Sequence[int] | None = None
    select_epoch: bool = True
    drop_last: bool = False
    dropout: float = 0.0
    standardise: str = "labelled"
    freeze_backbone: bool = False
    encoder_in_train_mode: bool = True
    val_every_n_epochs: int = 1
    seeded_order: bool = True

    @property
    def falls(self) -> list[int]:
        """Epochs after which the learning rate falls, rounded down as in the original."""
        if self.milestones is not None:
            return list(self.milestones)
        return [int(share * self.max_epochs) for share in MILESTONES]


class Labelled(NamedTuple):
    """Samples with targets."""

    features: Tensor  # float32, shape (N, D)
    targets: Tensor  # classes, int64, shape (N,), or multi-hot labels, shape (N, C)

    def take(self, rows: Tensor) -> "Labelled":
        """Return some samples, int64, shape (M,)."""
        return Labelled(self.features.index_select(0, rows), self.targets.index_select(0, rows))


@dataclass(frozen=True)
class LinearClassifier:
    """A linear layer on standardised features."""

    mean: Tensor  # subtracted from every feature, shape (D,)
    std: Tensor  # divisor that follows, 1 for a constant feature, shape (D,)
    weight: Tensor  # of standardised features, and of the constant 1 last: shape (C, D + 1)

    def inputs(self, features: Tensor) -> Tensor:
        """Standardise features, (N, D), and append the constant 1: (N, D + 1)."""
        count, dim = features.shape
        inputs = features.new_empty(count, dim + 1)
        for part, given in zip(inputs.split(_ROWS), features.split(_ROWS), strict=True):
            torch.sub(given, self.mean, out=part[:, :dim]).div_(self.std)
            part[:, dim] = 1
        return inputs

    def scores(self, features: Tensor) -> Tensor:
        """Score features: (N, D) -> (N, C)."""
        return self.inputs(features) @ self.weight.T


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of features, (N, D) -> (D,); 1 is the deviation of a constant.

    ``torch.std_mean`` of columns takes ten times as long.
    """
    parts, zeros = features.split(_ROWS), features.new_zeros(features.shape[1]).double()
    mean = sum((part.double().sum(0) for part in parts), zeros) / len(features)
    squares = sum(((part.double() - mean).square_().sum(0) for part in parts), zeros)
    std = (squares / (len(features) - 1)).sqrt().float()
    return mean.float(), torch.where(std > 0, std, 1.0)


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

    The loss is ``nn.CrossEntropyLoss`` or, of several labels, ``nn.MultiLabelSoftMarginLoss``.

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
    labelled, validate = train.take(rows), None
    used = {"train": train.features, "labelled": labelled.features, "none": None}
    probe = _start(train.features.shape[1], num_classes, used[recipe.standardise], generator)
    samples = Labelled(probe.inputs(labelled.features), labelled.targets)
    if val is not None and score is not None:
        held_out = probe.inputs(val.features)
        validate = lambda: score(val.targets, held_out @ probe.weight.T)  # noqa: E731
    with _one_thread():
        weight, epoch = _train(probe.weight, samples, recipe, generator, validate)
    return replace(probe, weight=weight), epoch


def _train(
    weight: Tensor,
    samples: Labelled,
    recipe: Recipe,
    generator: torch.Generator,
    validate: Callable[[], float] | None,
) -> tuple[Tensor, int]:
    """Change the weight, and return that of the best or the last epoch with its number."""
    inputs, labels = samples
    multi_label = labels.ndim == 2
    targets = (labels if multi_label else F.one_hot(labels, len(weight))).float()
    optimizer = Adam([weight], lr=recipe.learning_rate, fused=True)
    scheduler = MultiStepLR(optimizer, recipe.falls)
    best_score, best_epoch, best_weight = -torch.inf, recipe.max_epochs, weight
    epochs = progress(range(1, recipe.max_epochs + 1), desc="probe", unit=" epochs", leave=False)
    memory = inputs.new_empty(min(recipe.batch_size, len(inputs)), inputs.shape[1])
    for epoch in epochs:
        for step in _batches(len(inputs), recipe, generator):
            batch = torch.index_select(inputs, 0, step, out=memory[: len(step)])
            if recipe.dropout:
                drop_inputs(batch, recipe.dropout, generator)
            weight.grad = loss_gradient(weight, batch, targets.index_select(0, step), multi_label)
            optimizer.step()
        scheduler.step()
        if validate is not None and (found := validate()) > best_score:
            best_score, best_epoch, best_weight = found, epoch, weight.clone()
    return best_weight, best_epoch


def _start(
    dim: int, num_classes: int, used: Tensor | None, generator: torch.Generator
) -> LinearClassifier:
    """Draw weights as nn.Linear does, uniform within 1 / sqrt(D), and standardise by features."""
    weight = torch.empty(num_classes, dim + 1)
    weight.uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
    if used is None:
        return LinearClassifier(torch.zeros(dim), torch.ones(dim), weight)
    return LinearClassifier(*standardisation(used), weight)


def _batches(count: int, recipe: Recipe, generator: torch.Generator) -> Sequence[Tensor]:
    """Draw the rows of each step of an epoch."""
    order = torch.randperm(count, generator=generator)
    if recipe.drop_last:
        order = order[: count // recipe.batch_size * recipe.batch_size]
    return order.split(recipe.batch_size)


def drop_inputs(batch: Tensor, dropout: float, generator: torch.Generator) -> None:
    """Set a random share of the features to 0 and scale up the others; the constant stays.

    Args:
        batch: Inputs, changed in place, shape (B, D + 1).
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
