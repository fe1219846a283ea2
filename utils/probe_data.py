"""Labelled pictures of a data set, as evaluation takes them.

Shapes: N pictures of a split, C classes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from utils.input_spec import InputTransform
from utils.metrics import accuracy, map_micro
from utils.report import digest_of


class NumberedPictures(Dataset[tuple[Tensor, Tensor, int]]):
    """Some pictures of a data set: (picture, target, position among them).

    Args:
        pictures: Data set whose items begin with a picture, uint8, shape (bands, H, W).
        targets: Class or labels of every picture, shape (N,) or (N, C).
        rows: Pictures to give, int64, shape (M,).
    """

    def __init__(self, pictures: Dataset[Any], targets: Tensor, rows: Tensor) -> None:
        self.pictures = pictures
        self.targets = targets[rows]
        self.rows = rows.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.pictures[self.rows[index]][0], self.targets[index], index


@dataclass(frozen=True)
class LabelledSplit:
    """Pictures of one split with their targets."""

    pictures: Dataset[Any]  # its items begin with a picture, uint8, shape (bands, H, W)
    targets: Tensor  # classes, int64, shape (N,), or labels of 0 and 1, shape (N, C)
    names: Sequence[str]  # of each picture
    identify: Callable[[Tensor], str]  # a text that is equal only for equal pictures, of some rows

    @classmethod
    def of(cls, data: Any) -> "LabelledSplit":
        """Describe a data set that has targets, names and ``fingerprint(rows)``."""
        return cls(data, data.targets, data.names, data.fingerprint)

    def take(self, rows: Tensor | None = None) -> NumberedPictures:
        """Return all pictures, or those in some rows, int64, shape (M,)."""
        chosen = torch.arange(len(self.targets)) if rows is None else rows
        return NumberedPictures(self.pictures, self.targets, chosen)


@dataclass(frozen=True)
class ProbeData:
    """A data set that an encoder is evaluated on."""

    transform: InputTransform  # of pictures to inputs of the encoder that they were read for
    splits: Mapping[str, LabelledSplit]  # "train", "val" and perhaps "test"
    classes: Sequence[str]  # names of the C classes
    num_workers: int = 0  # loader processes; 0 for pictures in memory

    @property
    def is_multi_label(self) -> bool:
        """Whether a picture may have several labels."""
        return self.splits["train"].targets.ndim == 2

    @property
    def targets(self) -> dict[str, Tensor]:
        """Targets of every split."""
        return {name: split.targets for name, split in self.splits.items()}

    def describe(self) -> dict[str, Any]:
        """Return the number of pictures per split, and a digest of their names and targets."""
        counts = {name: len(split.targets) for name, split in self.splits.items()}
        lines = (
            f"{name} {target} {text}"
            for name, split in self.splits.items()
            for target, text in zip(split.targets.tolist(), split.names, strict=True)
        )
        return {**counts, "classes": len(self.classes), "digest": digest_of(lines)}

    @property
    def held_out(self) -> list[str]:
        """The splits to score, val first."""
        return [name for name in ("val", "test") if name in self.splits]

    def score(self, targets: Tensor, scores: Tensor) -> float:
        """Return the percentage that chooses epochs and strengths: accuracy or micro-AP.

        Args:
            targets: Classes, shape (N,), or labels, shape (N, C).
            scores: Larger means more likely, shape (N, C).
        """
        return (map_micro if self.is_multi_label else accuracy)(targets, scores)


def splits_in_memory(
    images: Tensor, targets: Tensor, names: Sequence[str], rows: Mapping[str, Tensor]
) -> dict[str, LabelledSplit]:
    """Divide pictures in memory into splits.

    Args:
        images: All pictures, uint8, shape (N, bands, H, W).
        targets: Their targets, shape (N,) or (N, C).
        names: Their names.
        rows: Rows of each split, int64.
    """

    def split(own: Tensor) -> LabelledSplit:
        own_names = [names[row] for row in own.tolist()]

        def identify(chosen: Tensor) -> str:
            digest = hashlib.sha256("\n".join(own_names[row] for row in chosen.tolist()).encode())
            digest.update(images[own[chosen]].numpy().data)
            return digest.hexdigest()

        pictures = Subset(TensorDataset(images), own.tolist())
        return LabelledSplit(pictures, targets[own], own_names, identify)

    return {name: split(own) for name, own in rows.items()}
