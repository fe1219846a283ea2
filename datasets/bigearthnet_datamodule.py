"""BigEarthNet for a classifier: pictures of each split, and the labelled patches of each run."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from datasets.bigearthnet.index import BigEarthNet
from datasets.bigearthnet_dataset import BigEarthNetPictures
from utils.errors import UserError
from utils.input_spec import InputTransform
from utils.subset import (
    draw_labels,
    draw_with_replacement,
    rarest_labels,
    stratified_subset,
)


@dataclass(frozen=True)
class BigEarthNetDataModule:
    """What a run trains on and what it scores.

    Attributes:
        index: The data set.
        pictures: Of train, of the share of val and, unless ``with_replacement``, of test.
        targets: Their labels, uint8, shape (N, C).
        draws: For each share of the labels, in rising order, the labelled rows of train, once per
            seed; int64, shape (M,).
    """

    index: BigEarthNet
    pictures: dict[str, BigEarthNetPictures]
    targets: dict[str, Tensor]
    draws: dict[float, list[Tensor]]


def draw_splits(
    index: BigEarthNet,
    transform: InputTransform,
    *,
    image_size: int,
    train_fracs: Sequence[float],
    val_frac: float,
    seeds: Sequence[int],
    with_replacement: bool,
) -> BigEarthNetDataModule:
    """Draw the labelled patches of every run, and a share of val.

    Args:
        index: The data set.
        transform: Which bands to read, and how to stretch them.
        image_size: Side of the pictures in pixels.
        train_fracs: Shares of the train labels.
        val_frac: Share of val, drawn by the first seed.
        seeds: One per repetition.
        with_replacement: Draw and use the splits as the original: duplicates, and no test.
    """
    rows = dict(index.splits)
    train, val = index.targets[rows["train"]], index.targets[rows["val"]]
    if with_replacement:
        rows.pop("test", None)
        kept = draw_with_replacement(len(val), val_frac, seeds[0])
    elif "test" not in rows:
        raise UserError("BigEarthNet's lists have none for the test split: add it")
    else:
        kept = stratified_subset(rarest_labels(val), val_frac, seeds[0])
    rows["val"] = rows["val"][kept]

    def draw(frac: float, seed: int) -> Tensor:
        if with_replacement:
            return draw_with_replacement(len(train), frac, seed)
        return draw_labels(train, index.classes, frac, seed)

    return BigEarthNetDataModule(
        index=index,
        pictures={
            split: BigEarthNetPictures(index, part, transform, image_size)
            for split, part in rows.items()
        },
        targets={split: index.targets[part] for split, part in rows.items()},
        draws={frac: [draw(frac, seed) for seed in seeds] for frac in sorted(train_fracs)},
    )
