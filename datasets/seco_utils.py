"""Measure the quantiles of all bands of a SeCo data set, for a pre-training beyond RGB.

python datasets/seco_utils.py --data_dir data/seco_100k_packed

Writes quantiles.json into the folder or store, where the reader finds it; pack a zip first, with
--bands. Red, green and blue keep the published quantiles; the measured ones are not used for them.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from datasets.bands import ALL_BANDS, QUANTILES_NAME, check_stored
from utils.cli import run
from utils.errors import UserError
from utils.files import check_exists
from utils.flags import Parser, check_not_negative, check_positive
from utils.report import write_json

# NumPy and the readers are imported by the functions that use them, after the flags are checked.
if TYPE_CHECKING:
    import numpy as np

QUANTILES = (0.02, 0.98)  # shares of the pixels, as in the original


def compute_quantiles(
    root: Path | str,
    bands: Sequence[str] | None = None,
    num_samples: int = 3000,
    seed: int = 42,
) -> dict[str, dict[str, int]]:
    """Measure the 2 % and 98 % quantiles of stored values, with the original's name and result.

    Args:
        root: Folder of the places, or packed store.
        bands: Bands to measure; None for all that the first place has.
        num_samples: Dates of places to read; all of them if there are fewer.
        seed: Seed of the draw.

    Returns:
        "min_q" and "max_q" per band, in stored uint8 steps, at least one step apart.

    Raises:
        UserError: The data set lacks a band, or a drawn file is damaged.
    """
    histograms = measure_histograms(Path(root), num_samples, seed, bands)
    limits = {band: stretch_limits(histogram) for band, histogram in histograms.items()}
    low, high = ({band: pair[end] for band, pair in limits.items()} for end in (0, 1))
    return {"min_q": low, "max_q": high}


def measure_histograms(
    root: Path, num_images: int, seed: int, bands: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Count all pixels of drawn images, see ``compute_quantiles``: int64, (256,), per band.

    Args:
        root: Folder of the places, or packed store.
        num_images: Dates of places to read.
        seed: Seed of the draw.
        bands: Bands to measure; None for all.

    Raises:
        UserError: A band is missing, or the values are not those of SeCo.
    """
    import numpy as np

    from utils.progress import progress

    stored, dates, read = _open(root)
    missing = [band for band in bands or () if band not in stored]
    if missing:
        raise UserError(f"{root} has no band {missing[0]}: its bands are {' '.join(stored)}")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(dates), min(num_images, len(dates)), replace=False)
    histograms = {band: np.zeros(256, np.int64) for band in bands or stored}
    for number in progress(sorted(drawn), desc="quantiles", unit=" images", leave=False):
        for band, histogram in histograms.items():
            histogram += np.bincount(read(dates[number], band).ravel(), minlength=256)
    values = (np.flatnonzero(histogram) for histogram in histograms.values())
    check_stored((found for found in values if found.size), str(root))
    return histograms


def _open(root: Path) -> tuple[Sequence[str], Sequence[Any], Callable[[Any, str], np.ndarray]]:
    """Return bands, dates, and a function that reads a band of a date with its stored pixels."""
    from datasets.seco.folder import SecoFolder, decode_band
    from datasets.store.reader import PackedStore, is_packed

    if root.is_file():
        raise UserError(
            f"{root} is a file: pack it with datasets/seco_packed.py, and measure the store"
        )
    if is_packed(root):  # all its bands have pixels of 10 m
        store = PackedStore(root)
        bands, rows = store.bands, range(int(store.starts[-1]))
        return bands, rows, lambda row, band: store.read(row)[bands.index(band)]
    folder = SecoFolder(root, ALL_BANDS)
    split = (place.split("/") for place in folder.places)
    dates = [f"{place}/{scene}" for place, *scenes in split for scene in scenes]

    def read_band(date: str, band: str) -> np.ndarray:
        return decode_band(*folder.read_bytes(date, band, 0))

    return folder.band_names(), dates, read_band


def stretch_limits(histogram: np.ndarray) -> tuple[int, int]:
    """Return the values that become 0 and 255, at least one step apart.

    A quantile is the smallest value that at least this share of the pixels do not exceed.
    """
    import numpy as np

    cumulated = np.cumsum(histogram)
    low, high = (int(np.searchsorted(cumulated, q * cumulated[-1])) for q in QUANTILES)
    return low, max(high, low + 1)


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="Folder of the places, or packed store.")
    add("--num_images", type=int, default=3000, help="Images to read.")
    add("--seed", type=int, default=42, help="Seed of their draw.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(argv)
    check_positive(args, "num_images")
    check_not_negative(args, "seed")
    check_exists("data_dir", args.data_dir)
    quantiles = compute_quantiles(args.data_dir, None, args.num_images, args.seed)
    limits = {band: (low, quantiles["max_q"][band]) for band, low in quantiles["min_q"].items()}
    path = args.data_dir / QUANTILES_NAME
    write_json(path, {"quantiles": limits, "num_images": args.num_images, "seed": args.seed})
    print("band  2 %  98 %")
    for band, (low, high) in limits.items():
        print(f"{band:>4} {low:4d} {high:5d}")
    print(f"quantiles: {path}")


if __name__ == "__main__":
    run(main)
