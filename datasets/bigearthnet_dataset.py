r"""BigEarthNet (Sumbul et al. 2019, 2021; v2: Clasen et al. 2024) as pictures with labels.

Write it once as an LMDB, which is read many times faster than its GeoTIFFs:

    python datasets/bigearthnet_dataset.py --data_dir BigEarthNet --save_dir BigEarthNet-LMDB

``--data_dir`` holds BigEarthNet-v1.0/ and the lists of splits, snow and clouds, or BigEarthNet-S2/
and metadata.parquet of v2. An interrupted run goes on with the same command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from datasets.bands import ALL_BANDS, check_bands, check_dn
from datasets.bigearthnet.labels import IMAGE_SIZE
from utils.cli import print_next, run
from utils.cores import available_cores
from utils.files import check_can_write, check_exists
from utils.flags import Parser, check_not_negative
from utils.input_spec import InputTransform

# What takes long to import is imported by the methods that use it: this file is a script, too.
if TYPE_CHECKING:
    from torch import Tensor

    from datasets.bigearthnet.index import BigEarthNet

_NUM_SAMPLES = 32  # patches that show the unit: fewer may all be of dark water


class BigEarthNetPictures:
    """Pictures, labels and numbers of some patches; a map-style data set for a ``DataLoader``.

    Each band is stretched where it was measured and brought from its own grid, 120, 60 or 20 px,
    straight to ``image_size`` by one bicubic interpolation: all bands show the same square, so they
    stay aligned, and those of 10 m come out as in the original, which resizes 120 px to 128.

    Args:
        index: The data set.
        rows: Its patches to show, int64, shape (N,).
        transform: Which bands to read, and how to stretch them.
        image_size: Side of the pictures in pixels.

    Items are a picture, uint8, shape (C, S, S), labels of 0 and 1, float32, shape (classes,), and
    the number of the item.
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
        self.size = (image_size, image_size)
        if len(self) >= _NUM_SAMPLES:
            some = self.names[:: len(self) // _NUM_SAMPLES]
            planes = (plane for name in some for plane in self.source.read(name, transform.bands))
            check_dn(planes, str(self.source.root))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, int]:
        import numpy as np
        import torch
        from PIL import Image

        planes = self.source.read(self.names[item], self.transform.bands)
        picture = [
            np.asarray(Image.fromarray(row[plane]).resize(self.size, Image.Resampling.BICUBIC))
            for row, plane in zip(self.transform.table, planes, strict=True)
        ]
        return torch.from_numpy(np.stack(picture)), self.targets[item], item

    def take(self, rows: Tensor) -> BigEarthNetPictures:
        """Return some of the pictures, numbered anew: int64, shape (M,)."""
        part = copy(self)
        part.names = tuple(self.names[row] for row in rows.tolist())
        part.targets = self.targets[rows]
        return part

    def fingerprint(self) -> str:
        """Identify what the pictures are made of."""
        return f"{self.source.fingerprint(self.names, self.transform.bands)} {self.size[0]}"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the LMDB."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="Folder of BigEarthNet v1 or v2.")
    add("--save_dir", type=Path, required=True, help="Folder of the LMDB to write.")
    add(
        "--bands",
        nargs="+",
        metavar="BAND",
        default=list(ALL_BANDS),
        help="Bands to store; B4 B3 B2 need half of the disk.",
    )
    add("--num_workers", type=int, default=available_cores(), help="Processes that read.")
    args = parser.parse_args(argv)
    check_not_negative(args, "num_workers")
    check_exists("data_dir", args.data_dir)
    check_can_write("save_dir", args.save_dir, is_folder=True)
    bands = check_bands(args.bands)
    from datasets.bigearthnet.index import check_presence, find_folder
    from datasets.bigearthnet.writer import write_lmdb

    source, listing = find_folder(args.data_dir)
    check_presence(listing.names, source)
    write_lmdb(source, listing, args.save_dir, bands, args.num_workers)
    print(f"{args.save_dir}: {len(listing.names):,} patches of {len(bands)} bands")
    flags = ("--lmdb", "--backbone_type", "random", "--freeze_backbone", "--learning_rate", "1e-3")
    print_next("main_bigearthnet.py", "--data_dir", args.save_dir, *flags)


if __name__ == "__main__":
    run(main)
