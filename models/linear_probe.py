"""Linear probes on fixed features: logistic regression by Adam, several seeds side by side.

One class per sample (cross-entropy) or any number of labels (the mean over the classes of binary
cross-entropies). Shapes: S probes, N samples, B samples per step, D features, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from utils.progress import progress

# The learning rate is divided by ten after these shares of the epochs (the original's schedule).
MILESTONES = (0.6, 0.8)


@dataclass(frozen=True)
class FittedProbes:
    """Probes that share one standardisation of their features.

    Attributes:
        mean: Of every feature over the train set, shape (D,).
        std: Of every feature over the train set, 1 where it is constant, shape (D,).
        weight: Of standardised features and, in the last column, of the constant 1, shape
            (S, C, D + 1).
        epochs: How many epochs each probe was trained for, S of them.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    epochs: list[int] = field(default_factory=list)

    def inputs(self, features: Tensor) -> Tensor:
        """Standardise features, (N, D), and append the constant 1: (N, D + 1)."""
        standardised = (features - self.mean) / self.std
        return torch.cat([standardised, torch.ones(len(features), 1)], dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Score features by each probe: (N, D) -> (S, N, C)."""
        return self.inputs(features) @ self.weight.mT


@dataclass(frozen=True)
class Validation:
    """What chooses the epoch of a probe: the best score, at equal scores the earliest.

    Attributes:
        features: Shape (M, D).
        targets: Their classes, (M,), or labels, (M, C).
        score: Takes targets and logits (M, C), larger is better.
    """

    features: Tensor
    targets: Tensor
    score: Callable[[Tensor, Tensor], float]


def milestones(max_epochs: int) -> list[int]:
    """Return the epochs after which the learning rate falls, rounded down as in the original."""
    return [int(share * max_epochs) for share in MILESTONES]


def fit_linear_probe(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    *,
    seeds: Sequence[int],
    rows: Sequence[Tensor],
    validation: Validation | None,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
    lr_milestones: Sequence[int] | None = None,
    standardise: bool = True,
    dropout: float = 0.0,
    drop_last: bool = False,
) -> FittedProbes:
    """Fit one probe per seed by Adam, all in the same matrix products.

    A probe's start, order and dropout depend on its own seed alone, so it does not matter which
    others it is fitted with. Standardisation uses all train features: it needs no labels.

    Args:
        features: Of the train set, float32 on the CPU, shape (N, D).
        targets: Classes, int64, shape (N,), or multi-hot labels, shape (N, C).
        num_classes: C.
        seeds: One per probe.
        rows: The labelled samples of each probe, int64, all of the same shape (M,).
        validation: Chooses the epoch of each probe; None keeps the last.
        max_epochs: Passes over the labelled samples (100 in the original).
        batch_size: Samples per step; the last batch of an epoch may be smaller.
        learning_rate: Of Adam, divided by ten at each milestone.
        lr_milestones: Epochs; by default 60 % and 80 % of all.
        standardise: Whether features are scaled by the train set's mean and deviation.
        dropout: Share of the features that a step leaves out (0.2 in the original's BigEarthNet).
        drop_last: Whether an epoch leaves out a last batch that is not full, as the original's.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    weight = torch.empty(len(seeds), num_classes, features.shape[1] + 1)
    bound = features.shape[1] ** -0.5  # as nn.Linear: uniform within 1 / sqrt(D)
    for start, generator in zip(weight, generators, strict=True):
        start.uniform_(-bound, bound, generator=generator)
    probes = FittedProbes(*_scale(features, standardise), weight)
    inputs = probes.inputs(features)
    chooser = _Chooser(probes, validation)

    optimizer = Adam([weight], lr=learning_rate, fused=True)
    falls = milestones(max_epochs) if lr_milestones is None else list(lr_milestones)
    scheduler = MultiStepLR(optimizer, falls)
    with _one_thread():
        for epoch in progress(range(max_epochs), desc="probes", unit=" epochs", leave=False):
            order = _shuffle(rows, generators)
            if drop_last:
                order = order[:, : order.shape[1] // batch_size * batch_size]
            for step in order.split(batch_size, dim=1):
                batch = inputs.index_select(0, step.flatten()).view(*step.shape, -1)
                if dropout:
                    drop_inputs(batch, dropout, generators)
                weight.grad = loss_gradient(weight, batch, targets[step])
                optimizer.step()
            scheduler.step()
            chooser.see(epoch + 1)
    return chooser.chosen(max_epochs)


class _Chooser:
    """Remembers the weights of each probe's best epoch."""

    def __init__(self, probes: FittedProbes, validation: Validation | None) -> None:
        self.probes = probes
        self.validation = validation
        self.best = probes.weight.clone()
        self.scores = [-torch.inf] * len(probes.weight)
        self.epochs = [0] * len(probes.weight)
        if validation is not None:
            self.inputs = probes.inputs(validation.features)

    def see(self, epoch: int) -> None:
        """Look at the weights after an epoch."""
        if self.validation is None:
            return
        for probe, weight in enumerate(self.probes.weight):
            score = self.validation.score(self.validation.targets, self.inputs @ weight.T)
            if score > self.scores[probe]:
                self.scores[probe], self.epochs[probe] = score, epoch
                self.best[probe] = weight

    def chosen(self, last_epoch: int) -> FittedProbes:
        """Return the probes as they were at their best epoch, or at the last one."""
        probes = self.probes
        if self.validation is None:
            return replace(probes, epochs=[last_epoch] * len(probes.weight))
        return replace(probes, weight=self.best, epochs=self.epochs)


def _scale(features: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation by which features are standardised, (D,) each."""
    if not standardise:
        return torch.zeros(features.shape[1]), torch.ones(features.shape[1])
    std, mean = torch.std_mean(features, dim=0)
    return mean, torch.where(std > 0, std, 1.0)


def drop_inputs(batch: Tensor, dropout: float, generators: Sequence[torch.Generator]) -> None:
    """Leave features out at random and scale up the others, in place; the constant stays.

    Args:
        batch: Shape (S, B, D + 1).
        dropout: Share to leave out.
        generators: One per probe.
    """
    for inputs, generator in zip(batch[..., :-1], generators, strict=True):
        keep = torch.rand(inputs.shape, generator=generator) >= dropout
        inputs.mul_(keep).div_(1 - dropout)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: for products as small as a step's, threads only wait.

    On 2 cores that other programs used too, two threads took twenty times the CPU time of one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _shuffle(labelled: Sequence[Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw every probe's order of its samples: positions, shape (S, M)."""
    return torch.stack(
        [
            rows[torch.randperm(len(rows), generator=generator)]
            for rows, generator in zip(labelled, generators, strict=True)
        ]
    )


def loss_gradient(weight: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Differentiate the loss by hand, for autograd takes longer than the step.

    d loss / d logits is softmax(logits) - one_hot(class) for the mean cross-entropy over B, and
    (sigmoid(logits) - labels) / C for the mean over B of ``nn.MultiLabelSoftMarginLoss``; d loss /
    d weight is its product with the inputs.

    Args:
        weight: Shape (S, C, D + 1).
        inputs: Shape (S, B, D + 1).
        targets: Classes, int64, shape (S, B), or labels, shape (S, B, C).

    Returns:
        The gradient for each probe, shape (S, C, D + 1).
    """
    logits = torch.bmm(inputs, weight.mT)  # (S, B, C)
    if targets.ndim == 3:
        error = (logits.sigmoid() - targets) / targets.shape[2]
    else:
        error = logits.softmax(-1)
        error.scatter_add_(-1, targets[..., None], torch.full((*targets.shape, 1), -1.0))
    return torch.bmm(error.mT, inputs).div_(targets.shape[1])
