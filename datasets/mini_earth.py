r"""Write a miniature Earth: procedural places in the layouts of the four data sets, and rasters.

python datasets/mini_earth.py --dataset seco --save_path DIR --num_places 1000 \
    --num_dates 5 --size 96 --bands B4 B3 B2
python datasets/mini_earth.py --dataset eurosat --save_path DIR --num_places 5000

The same seed writes the same bytes with any number of workers.
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from datasets.bands import ALL_BANDS, check_bands
from datasets.oscd.facts import TEST_CITIES, TRAIN_CITIES
from utils.cli import crop_for, print_next, run, sizes_for
from utils.cores import available_cores
from utils.errors import UserError
from utils.flags import LARGEST_SIDE, Parser, check_not_negative, check_positive
from utils.pools import in_processes
from utils.progress import progress

# Each writer imports NumPy and rasterio itself: flags are parsed without them.

Report = TypeVar("Report")
MIN_SIZE = 12
MIN_JOBS_PER_WORKER = 50  # starting a process costs seconds
_NUM_CLASSES = 10  # of EuroSAT
CPU_COUNT = available_cores()


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
        previews: Also write a brightened RGB picture next to each scene, as in the 100K archive.
        num_workers: Processes; they do not change the bytes.
    """
    bands = check_bands(bands)
    _create(root, size, num_places=num_places, num_dates=num_dates)
    from datasets.miniature.files import write_seco_place

    options: dict[str, Any] = {"num_dates": num_dates, "size": size, "seed": seed}
    work = partial(write_seco_place, root, bands=bands, previews=previews, **options)
    _for_each(work, [(number,) for number in range(num_places)], num_workers)


def write_eurosat(
    root: Path,
    *,
    images_per_class: int,
    size: int = 64,
    seed: int = 0,
    all_bands: bool = False,
    num_workers: int = CPU_COUNT,
) -> None:
    """Write ``<Class>/<Class>_<n>.jpg`` as in EuroSAT's RGB archive, n from 1.

    Args:
        root: Folder to create.
        images_per_class: Images in each of the ten classes.
        size: Side in pixels; 64 in the archive.
        seed: Seed of the world.
        all_bands: Write .tif with 13 bands, as in the other archive, of the same places.
        num_workers: Processes; they do not change the bytes.
    """
    _create(root, size, images_per_class=images_per_class)
    from datasets.miniature.covers import COVER_NAMES
    from datasets.miniature.files import write_eurosat_image

    for name in COVER_NAMES:
        (root / name).mkdir()
    jobs = [(name, number + 1) for name in COVER_NAMES for number in range(images_per_class)]
    work = partial(write_eurosat_image, root, seed=seed, size=size, all_bands=all_bands)
    _for_each(work, jobs, num_workers)


def write_bigearthnet(
    root: Path, *, num_patches: int, seed: int = 0, num_workers: int = CPU_COUNT
) -> None:
    """Write ``BigEarthNet-v1.0/<patch>/`` and next to it the lists of splits, snow and clouds.

    Args:
        root: Folder to create.
        num_patches: Patches of 120 pixels.
        seed: Seed of the world.
        num_workers: Processes; they do not change the bytes.
    """
    _create(root, num_patches=num_patches)
    from datasets.miniature.bigearthnet import write_lists, write_patch

    jobs = [(number,) for number in range(num_patches)]
    reports = _for_each(partial(write_patch, root, seed=seed), jobs, num_workers)
    write_lists(root, reports, seed=seed)


def write_oscd(
    root: Path, *, num_cities: int, size: int = 360, seed: int = 0, num_workers: int = CPU_COUNT
) -> None:
    """Write cities on two dates with their changes, and ``train.txt`` and ``test.txt``.

    Args:
        root: Folder to create.
        num_cities: 2 to 24, as many as the real data set has.
        size: Side in pixels of 10 m; real cities have some 300 to 800.
        seed: Seed of the world.
        num_workers: Processes; they do not change the bytes.

    Raises:
        UserError: The number of cities is out of range.
    """
    if not 2 <= num_cities <= len(TRAIN_CITIES) + len(TEST_CITIES):
        raise UserError(f"--num_places must be 2 to 24 for oscd, not {num_cities}: real names")
    _create(root, size)
    from datasets.miniature.oscd import write_city

    # The proportion of the real data set, 14 to 10, with at least one city in each split.
    num_train = min(max(round(num_cities * 14 / 24), 1), num_cities - 1)
    train, test = TRAIN_CITIES[:num_train], TEST_CITIES[: num_cities - num_train]
    numbers = {city: number for number, city in enumerate(TRAIN_CITIES + TEST_CITIES)}
    work = partial(write_city, root, seed=seed, size=size)
    _for_each(work, [(city, numbers[city]) for city in (*train, *test)], num_workers)
    for split, cities in (("train", train), ("test", test)):
        (root / f"{split}.txt").write_text(",".join(cities) + "\n")


def write_rasters(
    root: Path, *, num_cities: int, size: int = 1024, seed: int = 0, num_workers: int = CPU_COUNT
) -> None:
    """Write cities on two dates as GeoTIFFs of four bands: before.tif, after.tif, changes.tif.

    Args:
        root: Folder to create.
        num_cities: Cities, in folders 000000, 000001, ...
        size: Side in pixels of 10 m.
        seed: Seed of the world.
        num_workers: Processes; they do not change the bytes.
    """
    _create(root, size, num_cities=num_cities)
    from datasets.miniature.rasters import write_dates

    work = partial(write_dates, root, seed=seed, size=size)
    _for_each(work, [(number,) for number in range(num_cities)], num_workers)


def _create(root: Path, size: int = MIN_SIZE, **counts: int) -> None:
    """Create the folder; refuse one that has content, and sizes and counts below their minimum."""
    for name, value, least in (
        *((name, count, 1) for name, count in counts.items()),
        ("size", size, MIN_SIZE),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, not {value}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} is not an empty folder: choose another --save_path")
    root.mkdir(parents=True, exist_ok=True)


def _for_each(
    work: Callable[..., Report], jobs: Sequence[tuple[object, ...]], num_workers: int
) -> list[Report]:
    """Do independent jobs under a progress bar, in processes if there are many."""
    num_workers = min(num_workers, len(jobs) // MIN_JOBS_PER_WORKER)
    done = in_processes(partial(_do, work), jobs, num_workers if num_workers > 1 else 0)
    return list(progress(done, total=len(jobs), desc="mini Earth", unit=" places"))


def _do(work: Callable[..., Report], job: tuple[object, ...]) -> Report:
    return work(*job)


# Per data set: its writer, the writer's name for --num_places, and the optional flags it takes.
WRITERS: dict[str, tuple[Callable[..., None], str, set[str]]] = {
    "seco": (write_seco, "num_places", {"num_dates", "size", "bands", "previews"}),
    "eurosat": (write_eurosat, "images_per_class", {"size", "all_bands"}),
    "bigearthnet": (write_bigearthnet, "num_patches", set()),
    "oscd": (write_oscd, "num_cities", {"size"}),
    "raster": (write_rasters, "num_cities", {"size"}),
}
# Per data set: the script that reads it, with flags that suit its size.
NEXT = {
    name: tuple(command.split())
    for name, command in {
        "seco": "main_pretrain.py --max_epochs 5",
        "eurosat": "main_eurosat.py --backbone_type random",
        "bigearthnet": "main_bigearthnet.py --backbone_type random --freeze_backbone "
        "--learning_rate 1e-3",
        "oscd": "main_oscd.py --backbone_type random --max_epochs 10",
        "raster": "main_embed.py --backbone_type random --bands B4 B3 B2 --save_path e.parquet",
    }.items()
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--dataset", choices=WRITERS, required=True, help="Data set whose layout is written.")
    add("--save_path", type=Path, required=True, help="Folder to create.")
    places = "Places, patches, cities, or images of EuroSAT."
    add("--num_places", type=int, required=True, help=places)
    add("--seed", type=int, default=0, help="Seed of the world.")
    add("--num_workers", type=int, default=CPU_COUNT, help="Processes to use.")
    add = partial(add, default=argparse.SUPPRESS)  # the defaults are the writers'
    add("--num_dates", type=int, help="Dates of each place, for seco (default: 5).")
    sizes = "Side in pixels (default: 264, for eurosat 64, for oscd 360, for raster 1024)."
    add("--size", type=int, help=sizes)
    add("--bands", nargs="+", help="Bands to write, for seco (default: all 12).")
    add("--previews", action="store_true", help="Also write RGB previews, for seco.")
    add("--all_bands", action="store_true", help="Write 13 bands instead of RGB, for eurosat.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the data set that the flags describe."""
    given = parse_args(argv)
    check_positive(given, "num_places", "num_dates", "num_workers")
    check_positive(given, "size", below=LARGEST_SIDE)
    check_not_negative(given, "seed")
    args = vars(given)
    dataset, root, count = args.pop("dataset"), args.pop("save_path"), args.pop("num_places")
    write, count_name, optional = WRITERS[dataset]
    unused = sorted(args.keys() - optional - {"seed", "num_workers"})
    if unused:
        raise UserError(f"--{unused[0]} has no effect with --dataset {dataset}: leave it out")
    if dataset == "eurosat":
        if count % _NUM_CLASSES:
            raise UserError(f"--num_places {count} is not a multiple of the ten classes")
        count //= _NUM_CLASSES
    write(root, **{count_name: count}, **args)
    script, *flags = NEXT[dataset]
    if dataset == "raster":
        root = root / "000000" / "before.tif"
    if dataset == "seco":
        flags += map(str, [*crop_for(min(48, args.get("size", 48))), *sizes_for(count)])
    print_next(script, "--data_dir", root, *flags)


if __name__ == "__main__":
    run(main)
