"""EuroSAT (Helber et al. 2018, 2019): 64 x 64 px of ten land-cover classes, RGB or 13 bands.

Write the lists of the split alone, for a pre-training that must see the train images only:

    python datasets/eurosat_dataset.py --data_dir EuroSAT_RGB.zip --save_path lists
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from datasets.bands import EUROSAT_BANDS, check_dn
from datasets.eurosat_splits import (
    LIST_PREFIXES,
    add_split_args,
    find_split,
    stratified_split,
    write_split,
)
from utils.cli import print_next, run
from utils.errors import UserError
from utils.files import check_exists
from utils.flags import Parser, check_not_negative
from utils.input_transform import DataSpec, InputTransform

# What takes long to import is imported by the methods that use it: this file is a script, too.
if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

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

_NUM_SAMPLES = 100  # pictures that show the unit: not all of them are of lakes
_CHUNK = 250  # pictures per task of a thread


class EurosatDataset:
    """The files of EuroSAT in a zip or a folder; any stray files in it are ignored.

    Attributes:
        data_dir: The zip or folder.
        root: Prefix of the class folders in it, one of ``ROOTS``.
        names: ``<Class>/<file>`` of every picture, sorted.
        classes: Names of the class folders, sorted: label i means ``classes[i]``.
        labels: Label of every picture, int64, shape (N,).
        spec: What the pictures store, ``RGB_DATA`` or ``BANDS_DATA``.
    """

    def __init__(self, data_dir: Path) -> None:
        import torch

        from datasets.eurosat_files import SmallFiles, find_pictures, is_geotiff

        self.data_dir = data_dir
        self._files = SmallFiles(data_dir)
        self.root, names = find_pictures(self._files)
        self.names = tuple(names)
        folders = [name.split("/")[0] for name in names]
        self.classes = tuple(sorted(set(folders)))
        label_of = {name: label for label, name in enumerate(self.classes)}
        self.labels = torch.tensor([label_of[folder] for folder in folders])
        self.spec = BANDS_DATA if is_geotiff(names[0]) else RGB_DATA

    def __len__(self) -> int:
        return len(self.names)

    def read_images(self, transform: InputTransform, num_threads: int) -> Tensor:
        """Read every picture as the transform's encoder sees it, in the order of ``names``.

        Args:
            transform: Chooses bands and stretch; made for ``spec``.
            num_threads: Threads that decode.

        Returns:
            uint8, shape (N, C, H, W).
        """
        import numpy as np
        import torch
        from rasterio.errors import NotGeoreferencedWarning

        from datasets.eurosat_files import read_picture
        from utils.progress import progress

        channels = [self.spec.bands.index(band) for band in transform.bands]

        def read(index: int) -> np.ndarray:
            stored = read_picture(self._files, self.root + self.names[index], channels)
            return transform.to_picture(stored)

        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(max(1, num_threads)) as pool,
            progress(total=len(self), desc="reading EuroSAT", unit=" images", leave=False) as bar,
        ):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self._check_unit()
            first = read(0)
            images = np.empty((len(self), *first.shape), np.uint8)

            def fill(start: int) -> int:
                stop = min(start + _CHUNK, len(self))
                for index in range(start, stop):
                    image = read(index)
                    self._check_size(index, image.shape, first.shape)
                    images[index] = image
                return stop - start

            for count in pool.map(fill, range(0, len(self), _CHUNK)):
                bar.update(count)
        return torch.from_numpy(images)

    def _check_unit(self) -> None:
        """Refuse 13 bands that are not digital numbers, as some pictures show."""
        from datasets.eurosat_files import read_picture

        if self.spec is BANDS_DATA:
            some = range(0, len(self), max(1, len(self) // _NUM_SAMPLES))
            paths = (self.root + self.names[index] for index in some)
            bands = range(len(EUROSAT_BANDS))
            check_dn((read_picture(self._files, path, bands) for path in paths), str(self.data_dir))

    def _check_size(self, index: int, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
        if shape != first:
            raise UserError(
                f"pictures of one size are needed: {self.names[index]} in {self.data_dir} has "
                f"{shape[1:]} px, {self.names[0]} {first[1:]}"
            )

    def splits(self, split_seed: int, kind: str = "random") -> dict[str, Tensor]:
        """Return the public split where its lists are at hand, else a stratified 60/20/20 one.

        Args:
            split_seed: Seed of the stratified split; the public one needs none.
            kind: "random", or "spatial" by longitude, which needs the public lists.

        Returns:
            For each of ``SPLITS`` the positions of its pictures in ``names``, int64.
        """
        from datasets.eurosat_files import SmallFiles

        beside = SmallFiles(self.data_dir.absolute().parent)
        folders = dict.fromkeys([(self._files, self.root), (self._files, ""), (beside, "")])
        found = find_split(list(folders), self.names, kind)
        if found is not None:
            return found
        if kind == "spatial":
            raise UserError(
                f"--split spatial needs {LIST_PREFIXES[kind][0]}train.txt and the lists for val "
                f"and test in {self.data_dir} or beside it: get them with `python "
                "datasets/download.py eurosat_rgb --save_path DIR`, or use --split random"
            )
        return stratified_split(self.labels, self.classes, split_seed)


def fingerprint(names: Sequence[str], images: Tensor) -> str:
    """Identify a data set by the sha256 of its names and pixels."""
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(images.numpy().data)
    return digest.hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    """Write the lists of the split."""
    parser = Parser(__doc__)
    add = parser.group("data").add_argument
    add("--data_dir", type=Path, required=True, help="Zip or folder of EuroSAT.")
    add_split_args(parser)
    add = parser.group("output").add_argument
    add("--save_path", type=Path, required=True, help="Folder for the three lists.")
    args = parser.parse_args(argv)
    check_exists("data_dir", args.data_dir)
    check_not_negative(args, "split_seed")
    dataset = EurosatDataset(args.data_dir)
    splits = dataset.splits(args.split_seed, args.split)
    write_split(args.save_path, dataset.names, splits)
    for split, positions in splits.items():
        print(f"{args.save_path / split}.txt: {len(positions)} images")
    if len(dataset.spec.bands) == 3:  # pictures, which are pre-trained on without the labels
        listed = ("--image_list", args.save_path / "train.txt")
        flags = ("--data_mode", "moco", "--preset", "small_images")
        print_next("main_pretrain.py", "--data_dir", args.data_dir, *listed, *flags)


if __name__ == "__main__":
    run(main)
