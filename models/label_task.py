"""Classifiers with any number of labels per picture: on features, and through the encoder.

Shapes: N pictures, S repetitions, D features, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.backbones import Encoder
from models.features import cached, extract_features, feature_key
from models.linear_probe import Validation, fit_linear_probe
from models.probes import HELD_OUT, Labelled, Predictions
from utils.input_spec import InputTransform
from utils.metrics import average_precision


class Pictures(Protocol):
    """A data set of (uint8 picture, targets, position) that can tell what it is made of."""

    names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, int]: ...

    def take(self, rows: Tensor) -> "Pictures":
        """Return some of the pictures, numbered anew."""

    def fingerprint(self) -> str:
        """Identify them."""


@dataclass(frozen=True)
class LabelTask:
    """A data set as an encoder sees it.

    Attributes:
        encoder: The encoder to judge; no tensor of it changes.
        transform: From its pictures to its inputs.
        data: Pictures, targets and positions of each split.
        targets: Multi-hot labels of each split, (N, C).
        classes: Names of the classes.
        milestones: Epochs after which the learning rate is divided by ten.
        dropout: Share of the features that training leaves out.
        encoder_in_train_mode: Whether fine-tuning uses, and learns, statistics of batches.
    """

    encoder: Encoder
    transform: InputTransform
    data: Mapping[str, Pictures]
    targets: Mapping[str, Tensor]
    classes: Sequence[str]
    milestones: Sequence[int]
    dropout: float
    encoder_in_train_mode: bool

    @property
    def held_out(self) -> list[str]:
        """The splits to score, val first."""
        return [split for split in HELD_OUT if split in self.data]

    def pictures(self, split: str, rows: Tensor | None = None) -> Any:
        """Return the pictures of a split, or of some rows of it, as a ``Dataset``."""
        return self.data[split] if rows is None else self.data[split].take(rows)

    def features(
        self,
        pictures: Pictures,
        *,
        encoder: Encoder | None = None,
        cache_dir: Path | None,
        batch_size: int,
        num_workers: int,
        device: torch.device,
        precision: str,
    ) -> tuple[Tensor, bool]:
        """Compute features, or read what an earlier run has computed.

        Args:
            pictures: N of them.
            encoder: Another one than the task's.
            cache_dir: Folder of computed features, or None to keep none.
            batch_size: Pictures per step.
            num_workers: Loader processes.
            device: Where to compute.
            precision: A key of ``PRECISIONS``.

        Returns:
            float32 on the CPU, shape (N, D), and whether they were there already.
        """
        encoder = encoder or self.encoder

        def compute() -> Tensor:
            data = cast(Dataset[tuple[Tensor, Tensor, int]], pictures)
            batches = (batch[0] for batch in DataLoader(data, batch_size, num_workers=num_workers))
            count = len(pictures)
            return extract_features(
                encoder, self.transform, batches, count, device=device, precision=precision
            )

        key = feature_key(encoder, self.transform, pictures.fingerprint(), precision)
        shape = (len(pictures), encoder.num_features)
        return cached(cache_dir, key, shape, compute)

    def recipe(self, max_epochs: int) -> dict[str, Any]:
        """Return those arguments of ``SSLFineTuner`` that the data set decides."""
        return {
            "multi_label": True,
            "milestones": self.milestones,
            "dropout": self.dropout,
            "encoder_in_train_mode": self.encoder_in_train_mode,
        }


def map_micro(targets: Tensor, scores: Tensor) -> float:
    """Return the average precision of all decisions of a set in percent: (N, C), (N, C)."""
    return 100 * average_precision(targets.flatten(), scores.flatten())


def probe_each(
    data: Mapping[str, Labelled],
    rows: Sequence[Tensor],
    *,
    seeds: Sequence[int],
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
    milestones: Sequence[int],
    select_epoch: bool,
    standardise: bool,
    dropout: float,
    drop_last: bool,
) -> Predictions:
    """Train a linear probe per repetition, each on its own rows alone.

    Args:
        data: Features and multi-hot labels of train, val and perhaps test.
        rows: Labelled rows of the train features for each repetition.
        seeds: Of start, order and dropout, one per repetition.
        max_epochs: Passes over the labelled rows.
        batch_size: Samples per step.
        learning_rate: Of Adam.
        milestones: Epochs after which it is divided by ten.
        select_epoch: Whether micro-AP on val chooses the epoch; else the last one is kept.
        standardise: Whether features are scaled by the labelled rows' mean and deviation.
        dropout: Share of the features that a step leaves out.
        drop_last: Whether an epoch leaves out a last batch that is not full.
    """
    held_out = [split for split in HELD_OUT if split in data]
    scores: dict[str, list[Tensor]] = {split: [] for split in held_out}
    epochs: list[float] = []
    for seed, chosen in zip(seeds, rows, strict=True):
        features, targets = (column[chosen] for column in data["train"])
        probes = fit_linear_probe(
            features,
            targets,
            targets.shape[1],
            seeds=[seed],
            rows=[torch.arange(len(chosen))],
            validation=Validation(*data["val"], map_micro) if select_epoch else None,
            max_epochs=max_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            lr_milestones=milestones,
            standardise=standardise,
            dropout=dropout,
            drop_last=drop_last,
        )
        for split in held_out:
            scores[split].append(probes.logits(data[split].features)[0])
        epochs += probes.epochs
    stacked = {split: torch.stack(logits) for split, logits in scores.items()}
    embeddings = data["test"].features if "test" in data else data["val"].features
    return Predictions(stacked, {"best_epochs": epochs}, embeddings)
