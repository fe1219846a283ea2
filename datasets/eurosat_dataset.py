"""EuroSAT (Helber et al. 2018, 2019): 64 x 64 px of ten land-cover classes, RGB or 13 bands.

    dataset = EurosatDataset("EuroSAT_RGB", "train")
    image, label = dataset[0]

As a command, the file writes the lists of the split, for a pre-training that sees the train images
only:

    python datasets/eurosat_dataset.py --data_dir EuroSAT_RGB.zip --save_path lists
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":  # before torch is imported, so that --help and errors take no time
    from datasets.eurosat.splits import main
    from utils.cli import run

    run(main)
    sys.exit()

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.bands import EUROSAT_BANDS, RGB_BANDS, check_dn
from datasets.eurosat.files import (
    CLASSES,
    SmallFiles,
    find_pictures,
    is_geotiff,
    label_pictures,
    read_picture,
)
from datasets.eurosat.splits import SPLITS, split_pictures
from datasets.figures import plot_images, to_image
from utils.errors import UserError
from utils.input_spec import DataSpec, InputSpec, InputTransform
from utils.progress import progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Mean and standard deviation per band of the level-1C digital numbers:
# https://github.com/microsoft/torchgeo/blob/545abe8326efc2848feae69d0212a15faba3eb00/torchgeo/datamodules/eurosat.py
STATISTICS = {
    "B1": (1354.40546513, 245.71762908),
    "B2": (1118.24399958, 333.00778264),
    "B3": (1042.92983953, 395.09249139),
    "B4": (947.62620298, 593.75055589),
    "B5": (1199.47283961, 566.4170017),
    "B6": (1999.79090914, 861.18399006),
    "B7": (2369.22292565, 1086.63139075),
    "B8": (2296.82608323, 1117.98170791),
    "B9": (732.08340178, 404.91978886),
    "B10": (12.11327804, 4.77584468),
    "B11": (1819.01027855, 1002.58768311),
    "B12": (1118.92391149, 761.30323499),
    "B8A": (2594.14080798, 1231.58581042),
}
RGB_DATA = DataSpec.of_pictures("EuroSAT in RGB")
BANDS_DATA = DataSpec(
    "EuroSAT in 13 bands",
    EUROSAT_BANDS,
    low=tuple(max(0.0, STATISTICS[band][0] - 2 * STATISTICS[band][1]) for band in EUROSAT_BANDS),
    high=tuple(STATISTICS[band][0] + 2 * STATISTICS[band][1] for band in EUROSAT_BANDS),
)

_NUM_SAMPLES = 100  # pictures that show the unit: enough to include others than lakes
_CHUNK = 250  # pictures per task of a thread


class EurosatDataset(Dataset[tuple[Any, int]]):
    """Pictures of EuroSAT with their labels, as a map-style data set.

    The constructor is that of the original, whose ``root`` is the folder of the class folders with
    ``train.txt`` and ``val.txt``, one file name per line
    (https://github.com/ServiceNow/seasonal-contrast/blob/411e37eb6038bc26828725854b8f1c9832c3f6a7/datasets/eurosat_dataset.py).
    Such a folder gives the same items in the same order here. Beyond the original, ``root`` may be
    a zip or the parent folder of either archive, and a split without lists is drawn.

    Args:
        root: Zip of EuroSAT (RGB or 13 bands), folder of the ten class folders, or its parent.
        split: "train", "val" or "test", see ``split_pictures``; None for all pictures.
        transform: Applied to the image of each item.
        split_seed: Seed of the draw; lists do not depend on it.
        split_kind: "random", or "spatial" for the public lists that separate the splits by
            longitude.

    Attributes:
        classes: EuroSAT's ten classes, also where some have no pictures, or a user's own, sorted:
            label i means ``classes[i]``.
        class_to_idx: Label of each class.
        names: ``<Class>/<file>`` of the pictures in the order of the items, N of them.
        labels: Their labels, int64, shape (N,).
        folder: Prefix of the class folders in ``root``, "" or such as "EuroSAT_RGB/".
        spec: What the files store, ``RGB_DATA`` or ``BANDS_DATA``.

    Raises:
        UserError: ``root`` is not a EuroSAT, ``split`` is unknown, its list is missing, empty or
            names other pictures, or the 13 bands are not digital numbers.
    """

    all_classes = CLASSES
    all_bands = EUROSAT_BANDS  # of the GeoTIFFs, in the order of the file
    all_splits = SPLITS

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        *,
        split_seed: int = 0,
        split_kind: str = "random",
    ) -> None:
        if split is not None and split not in SPLITS:
            raise UserError(f"unknown split {split!r}: the splits are {', '.join(SPLITS)}")
        self.root = Path(root)
        self.split = split
        self.transform = transform
        self._files = SmallFiles(self.root)
        self.folder, self._all_names = find_pictures(self._files)
        self.names = tuple(self._all_names)
        self.classes, self.labels = label_pictures(self.names)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.spec = BANDS_DATA if is_geotiff(self.names[0]) else RGB_DATA
        if split is not None:
            rows = self.splits(split_seed, split_kind, needed=(split,))[split]
            self.names = tuple(self.names[row] for row in rows.tolist())
            self.labels = self.labels[rows]
        if self.spec.unit == "reflectance":
            some = range(0, len(self), max(1, len(self) // _NUM_SAMPLES))
            check_dn((self.stored(index) for index in some), str(self.root))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return the image, transformed if there is a transform, and its label.

        Without one the image is for RGB files a PIL image of mode RGB, for GeoTIFFs digital numbers
        (10,000 times reflectance), float32, shape (13, H, W), in the order of ``all_bands``.
        """
        stored = self.stored(index)
        is_picture = self.spec.unit == "picture"
        image = to_image(stored) if is_picture else torch.from_numpy(stored.astype(np.float32))
        return image if self.transform is None else self.transform(image), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.names)

    def splits(
        self, split_seed: int = 0, kind: str = "random", needed: Sequence[str] = SPLITS
    ) -> dict[str, Tensor]:
        """Return the public split where its lists are found, else a stratified 60/20/20 one.

        Args:
            split_seed: Seed of the stratified split; the public one needs none.
            kind: "random", or "spatial" by longitude, which needs the public lists.
            needed: Splits that must have a list if any has one.

        Returns:
            Positions of their pictures in ``names`` of the data set without a split, int64.
        """
        return split_pictures(self._files, self.folder, self._all_names, split_seed, kind, needed)

    def read_images(self, transform: InputTransform, num_threads: int) -> Tensor:
        """Read every picture as the transform's encoder sees it, in the order of ``names``.

        Args:
            transform: Chooses bands and stretch; made for ``spec``.
            num_threads: Threads that decode.

        Returns:
            uint8, shape (N, C, H, W).

        Raises:
            UserError: The pictures differ in size.
        """
        channels = [self.spec.bands.index(band) for band in transform.bands]
        with (
            ThreadPoolExecutor(max(1, num_threads)) as pool,
            progress(total=len(self), desc="reading EuroSAT", unit=" images", leave=False) as bar,
        ):
            first = transform.to_picture(self.stored(0, channels))
            images = np.empty((len(self), *first.shape), np.uint8)

            def fill(rows: range) -> int:
                for index in rows:
                    image = transform.to_picture(self.stored(index, channels))
                    if image.shape != first.shape:
                        raise UserError(
                            f"pictures of one size are needed: {self.names[index]} in {self.root} "
                            f"has {image.shape[1:]} px, {self.names[0]} {first.shape[1:]}"
                        )
                    images[index] = image
                return len(rows)

            rows = range(len(self))
            for count in pool.map(fill, (rows[at : at + _CHUNK] for at in rows[::_CHUNK])):
                bar.update(count)
        return torch.from_numpy(images)

    def plot(self, sample: tuple[Any, int], title: str | None = None) -> Figure:
        """Draw an item in true colours.

        Args:
            sample: Image and label, as items are, or the image as a tensor of shape (3, H, W),
                uint8 or in 0..1. Of 13 bands B4, B3, B2 are shown, and 2 % of the values saturate.
            title: Text above the image; the name of the class by default.
        """
        image, label = sample
        if isinstance(image, Tensor) and len(image) == len(EUROSAT_BANDS):
            image = image[[EUROSAT_BANDS.index(band) for band in RGB_BANDS]].float()
            image = image / image.quantile(0.98).clamp(min=torch.finfo(torch.float32).tiny)
        title = self.classes[label] if title is None else title
        return plot_images([image], [title], InputSpec.of_pictures())

    def stored(self, index: int, channels: Sequence[int] | None = None) -> np.ndarray:
        """Read a picture as it is stored.

        Args:
            index: Number of the picture.
            channels: Positions of the bands in ``spec.bands``; None for all of them.

        Returns:
            uint8 of RGB or uint16 digital numbers, shape (len(channels), H, W).
        """
        channels = range(len(self.spec.bands)) if channels is None else channels
        is_tiff = self.spec.unit == "reflectance"
        path = self.folder + self.names[index]
        return read_picture(self._files, path, channels, geotiff=is_tiff)

    def file_bytes(self, index: int) -> bytes:
        """Return the content of the file of a picture."""
        return self._files.read(self.folder + self.names[index])
