"""What is evaluated, and how classifiers are trained for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.backbones import Encoder
from utils.metrics import accuracy, map_micro
from utils.probe_data import ProbeData

# The learning rate is divided by ten after these shares of the epochs, as in the original's
# EuroSAT and BigEarthNet (epochs 60 and 80 of 100).
MILESTONES = (0.6, 0.8)


@dataclass(frozen=True)
class ProbeTask:
    """An encoder on a data set.

    Attributes:
        encoder: Encoder to evaluate; none of its tensors changes.
        data: Pictures and targets, with the transform to the encoder's inputs.
    """

    encoder: Encoder
    data: ProbeData

    def score(self, targets: Tensor, scores: Tensor) -> float:
        """Return the percentage that chooses epochs and strengths: accuracy or micro-AP.

        Args:
            targets: Classes, shape (N,), or labels, shape (N, C).
            scores: Larger means more likely, shape (N, C).
        """
        return (map_micro if self.data.is_multi_label else accuracy)(targets, scores)


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained by Adam.

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
        encoder_in_train_mode: Whether its batch norm uses, and learns, statistics of batches.
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
