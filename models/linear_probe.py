"""Linear probes on fixed features: multinomial logistic regression, several seeds side by side.

Shapes: S probes, N samples, B samples per step, D features, C classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR
from tqdm import trange

from utils.errors import UserError

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
    """

    mean: Tensor
    std: Tensor
    weight: Tensor

    def inputs(self, features: Tensor) -> Tensor:
        """Standardise features, (N, D), and append the constant 1: (N, D + 1)."""
        standardised = (features - self.mean) / self.std
        return torch.cat([standardised, torch.ones(len(features), 1)], dim=1)

    def predict(self, features: Tensor) -> Tensor:
        """Return the most likely class by each probe: int64, shape (S, N)."""
        return (self.inputs(features) @ self.weight.mT).argmax(-1)


def milestones(max_epochs: int) -> list[int]:
    """Return the epochs after which the learning rate falls, rounded down as in the original."""
    return [int(share * max_epochs) for share in MILESTONES]


def draw_labelled(
    labels: Tensor, labels_per_class: int | None, generator: torch.Generator
) -> Tensor:
    """Draw the samples whose labels a probe may see.

    Args:
        labels: int64, shape (N,).
        labels_per_class: Samples of each class, or None for all samples.
        generator: Source of the draw.

    Returns:
        Positions in ``labels``, int64, shape (M,).
    """
    if labels_per_class is None:
        return torch.arange(len(labels))
    smallest = int(labels.unique(return_counts=True)[1].min())
    if labels_per_class > smallest:
        raise UserError(
            f"--labels_per_class {labels_per_class} is more than the {smallest} train images of "
            "the smallest class"
        )
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:labels_per_class]])
    return torch.cat(chosen)


def fit_linear_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    seeds: Sequence[int],
    labels_per_class: int | None,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
) -> FittedProbes:
    """Fit one probe per seed by Adam on the cross-entropy, all in the same matrix products.

    A probe's start, labelled samples and order depend on its own seed alone, so it does not matter
    which others it is fitted with. Standardisation uses all train features: it needs no labels.

    Args:
        features: Of the train set, float32 on the CPU, shape (N, D).
        labels: int64, shape (N,).
        num_classes: C.
        seeds: One per probe.
        labels_per_class: Labelled samples of each class, or None for all.
        max_epochs: Passes over the labelled samples (100 in the original).
        batch_size: Samples per step; the last batch of an epoch may be smaller (32).
        learning_rate: Of Adam (1e-3), divided by ten at 60 % and at 80 % of the epochs.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    labelled = [draw_labelled(labels, labels_per_class, g) for g in generators]
    weight = torch.empty(len(seeds), num_classes, features.shape[1] + 1)
    bound = features.shape[1] ** -0.5  # as nn.Linear: uniform within 1 / sqrt(D)
    for start, generator in zip(weight, generators, strict=True):
        start.uniform_(-bound, bound, generator=generator)
    std = features.std(dim=0)
    probes = FittedProbes(features.mean(dim=0), torch.where(std > 0, std, 1.0), weight)
    inputs = probes.inputs(features)

    optimizer = Adam([weight], lr=learning_rate, fused=True)
    scheduler = MultiStepLR(optimizer, milestones(max_epochs))
    with _one_thread():
        for _ in trange(max_epochs, desc="probes", unit=" epochs", leave=False):
            order = _shuffle(labelled, generators)
            for rows in order.split(batch_size, dim=1):
                batch = inputs.index_select(0, rows.flatten()).view(*rows.shape, -1)
                weight.grad = _gradient(weight, batch, labels[rows])
                optimizer.step()
            scheduler.step()
    return probes


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


def _gradient(weight: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Differentiate the mean cross-entropy by hand, for autograd takes longer than the step.

    d loss / d logits = softmax(logits) - one_hot(labels), so d loss / d weight is its product with
    the inputs.

    Args:
        weight: Shape (S, C, D + 1).
        inputs: Shape (S, B, D + 1).
        labels: int64, shape (S, B).

    Returns:
        The gradient for each probe, shape (S, C, D + 1).
    """
    error = torch.bmm(inputs, weight.mT).softmax(-1)  # (S, B, C)
    error.scatter_add_(-1, labels[..., None], torch.full((*labels.shape, 1), -1.0))
    return torch.bmm(error.mT, inputs).div_(labels.shape[1])
