"""BigEarthNet (Sumbul et al. 2019, 2021; v2: Clasen et al. 2024): Sentinel-2 patches with labels.

    dataset = Bigearthnet("BigEarthNet", "train")
    image, target = dataset[0]

The file is also the command that writes the LMDB:

    python datasets/bigearthnet_dataset.py --data_dir BigEarthNet --save_dir BigEarthNet-LMDB
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from datasets.bigearthnet.command import main
from utils.cli import run

if __name__ == "__main__":  # before torch is imported, so that --help and errors take no time
    run(main, resumes=True)
    sys.exit()

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from datasets import bands as sentinel2
from datasets.bands import check_bands, short_name
from datasets.bigearthnet.facts import (
    BIGEARTHNET_SPEC,
    CLASS_NAMES,
    FILE_NAMES,
    GROUP_LABELS,
    LABELS,
    MEAN_AND_STD,
    NEW_LABELS,
    SIDE_PX,
    multi_hot,
)
from datasets.bigearthnet.index import check_presence, find_patches, label_reader
from datasets.bigearthnet.pictures import check_unit, patch_picture
from datasets.figures import plot_images, to_image
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ALL_BANDS", "BAND_STATS", "GROUP_LABELS", "LABELS", "NEW_LABELS", "RGB_BANDS"]
__all__ += ["Bigearthnet", "main"]

# With the names and spellings of the original.
ALL_BANDS = tuple(FILE_NAMES.values())
RGB_BANDS = tuple(FILE_NAMES[band] for band in sentinel2.RGB_BANDS)
BAND_STATS = {
    "mean": {FILE_NAMES[band]: mean for band, (mean, _) in MEAN_AND_STD.items()},
    "std": {FILE_NAMES[band]: std for band, (_, std) in MEAN_AND_STD.items()},
}


class Bigearthnet(Dataset[tuple[Any, Any]]):
    """Patches of one split with their labels, as a map-style data set.

    The constructor is that of the original, whose ``root`` holds ``BigEarthNet-v1.0/`` and the
    lists ``train.txt``, ``patches_with_seasonal_snow.csv`` and so on
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/bigearthnet_dataset.py).
    Such a folder gives the same items in the same order here. Beyond the original, ``root`` may be
    v2, or hold other lists of v1.

    Args:
        root: Folder of v1 or v2, or of an LMDB.
        split: "train", "val" or "test".
        bands: Bands in channel order, such as "B04" or "B4"; None for red, green and blue.
        transform: Applied to the image of each item.
        target_transform: Applied to the target of each item.
        download: Refused: the original's address is gone, ``datasets/download.py`` has others.
        use_new_labels: Whether targets are of the 19 classes; else of the 43, for v1 only.
        lmdb: Whether ``root`` holds an LMDB written by this file's command.

    Attributes:
        bands: Bands of the images, spelled as "B4".
        classes: Names of the classes in the order of the targets.
        names: Names of the patches in the order of the items.

    Raises:
        UserError: A list is missing or does not match the patches, a split or band is unknown, or
            the patches are not digital numbers.
    """

    all_bands = ALL_BANDS
    all_splits = ("train", "val", "test")

    def __init__(
        self,
        root: str | Path,
        split: str,
        bands: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
        use_new_labels: bool = True,
        *,
        lmdb: bool = False,
    ) -> None:
        if download:
            raise UserError(
                "download=True is not supported: run `python datasets/download.py --list` and "
                "download BigEarthNet with the command that it shows"
            )
        self.root = Path(root)
        self.split = split
        self.bands = check_bands([short_name(band) for band in bands or RGB_BANDS])
        self.transform = transform
        self.target_transform = target_transform
        self.classes = CLASS_NAMES[19 if use_new_labels else 43]
        self.source, listing = find_patches(self.root, lmdb=lmdb)
        if split not in listing.splits:
            raise UserError(
                f"the lists of {root} do not include the {split} split, but "
                f"{', '.join(listing.splits)}: choose one of them, or add its list"
            )
        self.names = tuple(listing.splits[split])
        self._read_labels = label_reader(self.source, listing)
        spec = InputSpec.of_pictures(self.bands)
        self._stretch = input_transform(spec, BIGEARTHNET_SPEC, "paper")
        check_presence(self.names, self.source)
        check_unit(self.source, self.names, self.bands)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return image and target, or the results of the transforms on them.

        The image is a uint8 picture, stretched from mean - 2 to mean + 2 standard deviations per
        band, at the size of the finest band, 120 px for RGB: a PIL image of one or three bands,
        else an array of shape (H, W, C). The target is 1 for each class of the patch and 0 for the
        others, float32, shape (19,) or (43,).
        """
        name = self.names[index]
        side = max(SIDE_PX[band] for band in self.bands)
        image = to_image(patch_picture(self.source, name, self._stretch, side))
        labels = [self._read_labels(name)]
        target: Any = multi_hot([name], labels, len(self.classes))[0].astype(np.float32)
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def __len__(self) -> int:
        return len(self.names)

    def plot(self, sample: tuple[Any, Any]) -> Figure:
        """Draw an item, or one whose image is a tensor, (C, H, W) in 0..1, with its classes."""
        image, target = sample
        names = [name for name, value in zip(self.classes, target, strict=True) if value]
        return plot_images([image], ["\n".join(names)], self._stretch.spec)
