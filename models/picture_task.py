"""Classifiers on pictures in memory, one class each, trained through a copy of an encoder.

Shapes: N pictures, S repetitions, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.backbones import Encoder
from models.finetuning import MakeTrainer, make_classifier
from models.linear_probe import milestones
from models.probes import Predictions, accuracy
from utils.input_spec import InputTransform
from utils.metrics import batch_mean


class LabelledPictures(Dataset[tuple[Tensor, Tensor, int]]):
    """Some of the pictures in memory, for a loader: (picture, label, position among them).

    Args:
        images: All pictures, uint8, shape (N, C, H, W).
        labels: Label of all pictures, int64, shape (N,).
        rows: The pictures to give, int64, shape (M,).
    """

    def __init__(self, images: Tensor, labels: Tensor, rows: Tensor) -> None:
        self.images = images
        self.labels = labels
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        row = self.rows[index]
        return self.images[row], self.labels[row], index


@dataclass(frozen=True)
class PictureTask:
    """A data set as an encoder sees it.

    Attributes:
        encoder: The encoder to judge; no tensor of it changes.
        transform: From its pictures to its inputs.
        images: All pictures, uint8, shape (N, C, H, W).
        names: Of the pictures, N of them.
        labels: Their classes, int64, shape (N,).
        classes: Names of the classes.
        splits: Rows of train, val and test.
    """

    encoder: Encoder
    transform: InputTransform
    images: Tensor
    names: Sequence[str]
    labels: Tensor
    classes: Sequence[str]
    splits: Mapping[str, Tensor]

    def labels_of(self, split: str) -> Tensor:
        """Return the classes of a split."""
        return self.labels[self.splits[split]]

    def pictures(self, split: str, rows: Tensor | None = None) -> LabelledPictures:
        """Return the pictures of a split, or of some rows of it."""
        chosen = self.splits[split] if rows is None else self.splits[split][rows]
        return LabelledPictures(self.images, self.labels, chosen)

    def recipe(self, max_epochs: int) -> dict[str, Any]:
        """Return those arguments of ``SSLFineTuner`` that the data set decides."""
        return {"multi_label": False, "milestones": milestones(max_epochs)}


def train_layer_each(
    task: PictureTask,
    rows: Sequence[Tensor],
    *,
    seeds: Sequence[int],
    make_trainer: MakeTrainer,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
) -> Predictions:
    """Train a layer per repetition as the original does, on an encoder that is never in eval mode.

    No gradient reaches the encoder, but its batch norm uses the statistics of batches in training,
    and learns them. A last batch that is not full is dropped, the last epoch is kept, and val alone
    is scored. Arguments are those of ``FineTuning``.
    """
    scores = []
    score = partial(batch_mean, accuracy, batch_size=batch_size)
    val = DataLoader(task.pictures("val"), batch_size)
    for seed, chosen in zip(seeds, rows, strict=True):
        module = make_classifier(
            task,
            seed,
            score=score,
            max_epochs=max_epochs,
            learning_rate=learning_rate,
            freeze_backbone=True,
        )
        labelled = task.pictures("train", chosen)
        trainer = make_trainer(max_epochs, None, seed=seed, train_frac=1.0)
        trainer.fit(module, DataLoader(labelled, batch_size, shuffle=True, drop_last=True), val)
        trainer.test(module, val, verbose=False)
        scores.append(module.test_logits)
    return Predictions({"val": torch.stack(scores)})
