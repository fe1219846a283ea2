"""Pictures of BigEarthNet's patches, and the labelled patches that a run trains on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.bands import check_dn
from datasets.bigearthnet.facts import IMAGE_SIZE
from datasets.bigearthnet.index import BigEarthNet, PatchSource
from utils.errors import UserError
from utils.input_spec import InputTransform
from utils.subset import draw_labels, draw_with_replacement, rarest_labels, stratified_subset

_NUM_SAMPLES = 32  # patches that show the unit: fewer may all be dark water


def patch_picture(
    source: PatchSource, name: str, transform: InputTransform, side: int
) -> np.ndarray:
    """Read a patch and stretch it to a picture, uint8, shape (C, side, side).

    Each band is stretched at its native size of 120, 60 or 20 px and brought to ``side`` by one
    bicubic interpolation. All bands show the same square, so that they stay aligned, and those of
    10 m come out as in the original, which resizes 120 px to 128.

    Args:
        source: Where to read.
        name: Name of the patch.
        transform: Bands to read, and how to stretch them to C channels.
        side: Side of the picture in pixels.
    """
    planes = transform.planes(source.read(name, transform.bands))
    size, bicubic = (side, side), Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(p).resize(size, bicubic)) for p in planes])


def check_unit(source: PatchSource, names: Sequence[str], bands: Sequence[str]) -> None:
    """Refuse patches that are not digital numbers, if there are enough of them to judge.

    Args:
        source: The patches.
        names: Names of all patches of a split.
        bands: Names of the bands.
    """
    if len(names) >= _NUM_SAMPLES:
        some = names[:: len(names) // _NUM_SAMPLES]
        check_dn((plane for name in some for plane in source.read(name, bands)), str(source.root))


class BigEarthNetPictures(Dataset[tuple[Tensor, Tensor, int]]):
    """Some patches in the bands and stretch of an encoder.

    Items are a picture, uint8, shape (C, S, S), its labels of 0 and 1, float32, shape (classes,),
    and the number of the item. ``names`` and ``targets``, (N, classes), are those of all items.

    Args:
        index: The data set.
        rows: Its patches to show, int64, shape (N,).
        transform: Bands to read, C of them, and how to stretch them.
        image_size: Side S of the pictures in pixels.
    """

    def __init__(
        self,
        index: BigEarthNet,
        rows: Tensor,
        transform: InputTransform,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        self.source = index.source
        self.names = tuple(index.names[row] for row in rows.tolist())
        self.targets = index.targets[rows].float()
        self.transform = transform
        self.image_size = image_size
        check_unit(self.source, self.names, transform.bands)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, int]:
        picture = patch_picture(self.source, self.names[item], self.transform, self.image_size)
        return torch.from_numpy(picture), self.targets[item], item

    def fingerprint(self, rows: Tensor) -> str:
        """Identify the files of some pictures, int64, shape (M,), and their size."""
        names = [self.names[row] for row in rows.tolist()]
        return f"{self.source.fingerprint(names, self.transform.bands)} {self.image_size}"


def draw_splits(
    index: BigEarthNet,
    transform: InputTransform,
    *,
    image_size: int,
    train_fracs: Sequence[float],
    val_frac: float,
    seeds: Sequence[int],
    with_replacement: bool = False,
) -> tuple[dict[str, BigEarthNetPictures], dict[float, list[Tensor]]]:
    """Draw the labelled patches of every run, and a share of val.

    Args:
        index: The data set.
        transform: Bands to read, and how to stretch them.
        image_size: Side of the pictures in pixels.
        train_fracs: Shares of the train labels, in 0..1.
        val_frac: Share of val, in 0..1, drawn by the first seed.
        seeds: One per repetition.
        with_replacement: Draw and use the splits as the original: duplicates, and no test.

    Returns:
        Pictures of each split, and labelled rows of train, int64, (M,), by share in rising order,
        once per seed.

    Raises:
        UserError: The lists have no test split.
    """
    rows = dict(index.splits)
    train, val = index.targets[rows["train"]], index.targets[rows["val"]]
    if with_replacement:
        rows.pop("test", None)
        kept = draw_with_replacement(len(val), val_frac, seeds[0])
    elif "test" not in rows:
        raise UserError("BigEarthNet's lists do not include the test split: add its list")
    else:
        kept = stratified_subset(rarest_labels(val), val_frac, seeds[0])
    rows["val"] = rows["val"][kept]

    def draw(frac: float, seed: int) -> Tensor:
        if with_replacement:
            return draw_with_replacement(len(train), frac, seed)
        return draw_labels(train, index.classes, frac, seed)

    pictures = {
        split: BigEarthNetPictures(index, own, transform, image_size) for split, own in rows.items()
    }
    draws = {frac: [draw(frac, seed) for seed in seeds] for frac in sorted(train_fracs)}
    return pictures, draws
