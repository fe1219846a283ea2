r"""Write a miniature Earth: procedural places in the disk layouts of the four data sets.

python datasets/mini_earth.py --dataset seco --save_path DIR --num_places 1000 \
    --num_dates 5 --size 96 --bands B4 B3 B2
python datasets/mini_earth.py --dataset eurosat --save_path DIR --num_places 5000

The same seed writes the same bytes, whatever the number of workers.
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tqdm import tqdm

from datasets.bands import ALL_BANDS, check_bands
from datasets.mini_earth_covers import COVER_NAMES
from datasets.mini_earth_files import write_eurosat_image, write_seco_place
from utils.cli import HelpFormatter, run
from utils.errors import UserError

MIN_SIZE = 12
CPU_COUNT = os.cpu_count() or 1


def write_seco(
    root: Path,
    *,
    num_places: int,
    num_dates: int = 5,
    size: int = 264,
    seed: int = 0,
    bands: Sequence[str] = ALL_BANDS,
    previews: bool = False,
    num_workers: int = CPU_COUNT,
) -> None:
    """Write places as the SeCo archives hold them.

    Args:
        root: Folder to create.
        num_places: Places, named 000000, 000001, ...
        num_dates: Scenes per place, 84 days apart.
        size: Side in pixels of 10 m; 264 in the archives.
        seed: Seed of the world.
        bands: Bands to write.
        previews: Also write the brightened RGB beside each scene, as in the 100K archive.
        num_workers: Processes; they do not change the bytes.
    """
    _check(size=size, num_places=num_places, num_dates=num_dates)
    chosen = check_bands(bands)
    _create(root)
    work = partial(
        write_seco_place,
        root,
        seed=seed,
        num_dates=num_dates,
        size=size,
        bands=chosen,
        previews=previews,
    )
    _for_each(work, [(number,) for number in range(num_places)], num_workers)


def write_eurosat(
    root: Path,
    *,
    images_per_class: int,
    size: int = 64,
    seed: int = 0,
    num_workers: int = CPU_COUNT,
) -> None:
    """Write ``<Class>/<Class>_<n>.jpg`` as in EuroSAT's RGB archive, n from 1.

    Args:
        root: Folder to create.
        images_per_class: Images in each of the ten classes.
        size: Side in pixels; 64 in the archive.
        seed: Seed of the world.
        num_workers: Processes; they do not change the bytes.
    """
    _check(size=size, images_per_class=images_per_class)
    _create(root)
    for name in COVER_NAMES:
        (root / name).mkdir()
    jobs = [(name, number + 1) for name in COVER_NAMES for number in range(images_per_class)]
    _for_each(partial(write_eurosat_image, root, seed=seed, size=size), jobs, num_workers)


def _check(size: int, **counts: int) -> None:
    """Refuse sizes and counts that make no data set."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"--{name} must be at least 1, not {count}")
    if size < MIN_SIZE:
        raise UserError(f"--size must be at least {MIN_SIZE} pixels, not {size}")


def _create(root: Path) -> None:
    """Create the folder; one with content is not ours to fill."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} is not an empty folder: choose another --save_path")
    root.mkdir(parents=True, exist_ok=True)


def _for_each(
    work: Callable[..., None], jobs: Sequence[tuple[object, ...]], num_workers: int
) -> None:
    """Do independent jobs under a progress bar, in processes if there are many."""
    num_workers = min(num_workers, len(jobs) // 50)  # starting a process costs seconds
    bar = partial(tqdm, total=len(jobs), desc="mini Earth", unit="place")
    if num_workers < 2:
        for job in bar(jobs):
            work(*job)
        return
    with ProcessPoolExecutor(num_workers) as pool:
        for _ in bar(pool.map(work, *zip(*jobs, strict=True), chunksize=8)):
            pass


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--dataset", choices=["seco", "eurosat"], required=True, help="layout to write")
    add("--save_path", type=Path, required=True, help="folder to create")
    add("--num_places", type=int, required=True, help="places; images in all for eurosat")
    add("--num_dates", type=int, default=5, help="dates per place, seco only")
    add("--size", type=int, help="side in pixels of 10 m; default: that of the real data set")
    add("--seed", type=int, default=0, help="seed of the world")
    add("--bands", nargs="+", default=list(ALL_BANDS), help="bands, seco only")
    add("--previews", action="store_true", help="also write RGB previews, seco only")
    add("--num_workers", type=int, default=CPU_COUNT, help="processes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the data set that the flags describe."""
    args = parse_args(argv)
    if args.dataset == "seco":
        write_seco(
            args.save_path,
            num_places=args.num_places,
            num_dates=args.num_dates,
            size=264 if args.size is None else args.size,
            seed=args.seed,
            bands=args.bands,
            previews=args.previews,
            num_workers=args.num_workers,
        )
    else:
        write_eurosat(
            args.save_path,
            images_per_class=args.num_places // len(COVER_NAMES),
            size=64 if args.size is None else args.size,
            seed=args.seed,
            num_workers=args.num_workers,
        )


if __name__ == "__main__":
    run(main)
