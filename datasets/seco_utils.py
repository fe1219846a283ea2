"""Measure the quantiles of all bands of a SeCo data set, for a pre-training beyond RGB.

python datasets/seco_utils.py --data_dir datasets/seco_100k

Writes quantiles.json into the data set, where the reader finds it. Red, green and blue keep the
published quantiles whatever is measured here.
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
from utils.flags import Parser
from utils.report import write_json

# What takes long to import is imported by the functions that use it, after the flags are checked.
if TYPE_CHECKING:
    import numpy as np

QUANTILES = (0.02, 0.98)  # as the original


def measure_histograms(root: Path, num_images: int, seed: int) -> dict[str, np.ndarray]:
    """Count the stored values of randomly drawn images, all pixels of each.

    Args:
        root: Folder of the places.
        num_images: Dates of places to read; all of them if there are fewer.
        seed: Seed of the draw.

    Returns:
        Pixels per stored value, shape (256,), for each band that the first place has.
    """
    import numpy as np

    from datasets.store.reader import is_packed
    from utils.progress import progress

    if root.is_file():
        raise UserError(
            f"{root} is a file: pack it with datasets/seco_packed.py, and measure the store"
        )
    bands, dates, read = _open_store(root) if is_packed(root) else _open_folder(root)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(dates), min(num_images, len(dates)), replace=False)
    histograms = {band: np.zeros(256, np.int64) for band in bands}
    for number in progress(sorted(drawn), desc="quantiles", unit=" images", leave=False):
        for band, histogram in histograms.items():
            histogram += np.bincount(read(dates[number], band).ravel(), minlength=256)
    values = (np.flatnonzero(histogram) for histogram in histograms.values())
    check_stored((found for found in values if found.size), str(root))
    return histograms


def _open_folder(root: Path) -> tuple[list[str], Sequence[Any], Callable[[Any, str], np.ndarray]]:
    """Return bands, dates, and what reads a band of one, in the pixels that are stored."""
    from datasets.geotiff import read_band
    from datasets.seco.folder import band_path, find_bands, index_places, split_dates

    places = index_places(root, ALL_BANDS[0])
    dates = split_dates(places)
    return (
        find_bands(root, places[0]),
        dates,
        lambda date, band: read_band(band_path(root / date, band)),
    )


def _open_store(root: Path) -> tuple[list[str], Sequence[Any], Callable[[Any, str], np.ndarray]]:
    """Return the same of a packed store, whose bands all have pixels of 10 m."""
    from datasets.store.reader import PackedStore

    store = PackedStore(root)
    bands = list(store.bands)
    return (
        bands,
        range(int(store.starts[-1])),
        lambda date, band: store.read(date)[bands.index(band)],
    )


def histogram_quantile(histogram: np.ndarray, quantile: float) -> int:
    """Return the smallest value that at least this share of the pixels do not exceed."""
    import numpy as np

    cumulated = np.cumsum(histogram)
    return int(np.searchsorted(cumulated, quantile * cumulated[-1]))


def stretch_limits(histogram: np.ndarray) -> tuple[int, int]:
    """Return the values that become 0 and 255, at least one step apart."""
    low, high = (histogram_quantile(histogram, quantile) for quantile in QUANTILES)
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
    if args.num_images < 1:
        raise UserError(f"--num_images must be at least 1, not {args.num_images}")
    check_exists("data_dir", args.data_dir)
    histograms = measure_histograms(args.data_dir, args.num_images, args.seed)
    limits = {band: stretch_limits(histogram) for band, histogram in histograms.items()}
    path = args.data_dir / QUANTILES_NAME
    write_json(path, {"quantiles": limits, "num_images": args.num_images, "seed": args.seed})
    for band, (low, high) in limits.items():
        print(f"{band:>3} {low:3d} {high:3d}")
    print(f"quantiles: {path}")


if __name__ == "__main__":
    run(main)
