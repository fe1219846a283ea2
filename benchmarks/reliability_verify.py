r"""Damage data sets in known ways, and count what ``python -m datasets.verify`` finds.

python -m benchmarks.reliability_verify --sites 50 --folder DIR --json verify.json

Twelve kinds of damage at random sites of small data sets in their true layouts. "alone" is what the
check finds by itself, "list" what it finds with a list of ``--write_checksums`` made before. A
changed bit after which all values read as before is harmless, and counts as found.
"""

import argparse
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import cache, partial
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil

from benchmarks import damage, damage_sets
from benchmarks.trials import Trial
from datasets.bands import ALL_BANDS
from datasets.bigearthnet.index import find_folder
from datasets.bigearthnet.writer import write_lmdb
from datasets.checking.checksums import compare_checksums, write_checksums
from datasets.checking.problems import Tally
from datasets.mini_earth import write_bigearthnet, write_eurosat, write_oscd, write_seco
from datasets.seco.patches import SecoPatches
from datasets.store.litdata_writer import write_litdata
from datasets.store.writer import pack
from datasets.verify import verify_data
from utils.errors import UserError
from utils.progress import progress

Make = Callable[[Path], None]
Damage = Callable[[Path, np.random.Generator], None]
ONLY_LISTED = "found with a list only"


def make_seco(root: Path) -> None:
    """Write 4 places of 2 dates, 12 bands, 96 px, with Deflate as our collector does."""
    write_seco(root, num_places=4, num_dates=2, size=96, num_workers=1)


def make_lossy(root: Path) -> None:
    """Write the same places as JPEG, as in the published archives."""
    make_seco(root)
    for path in sorted(root.glob("*/*/*.tif")):
        lossy = path.with_suffix(".jpeg")
        rasterio.shutil.copy(path, lossy, driver="GTiff", compress="JPEG")
        lossy.replace(path)


def make_bigearthnet(root: Path) -> None:
    """Write 20 patches, not compressed, as in the published archive."""
    write_bigearthnet(root, num_patches=20, num_workers=1)
    for path in sorted(root.glob("*/*/*.tif")):
        plain = path.with_suffix(".plain")
        rasterio.shutil.copy(path, plain, driver="GTiff")
        plain.replace(path)


def make_lmdb(root: Path) -> None:
    """Write the patches of ``make_bigearthnet`` as an LMDB."""
    folder = root.with_name("for_lmdb")
    write_bigearthnet(folder, num_patches=20, num_workers=1)
    source, listing = find_folder(folder)
    write_lmdb(source, listing, root, ALL_BANDS, 0)


def make_eurosat(root: Path, *, all_bands: bool) -> None:
    """Write 10 classes of 4 pictures with lists of a split.

    Args:
        root: Folder to create.
        all_bands: Whether they have 13 bands, or are RGB.
    """
    write_eurosat(root, images_per_class=4, all_bands=all_bands, num_workers=1)
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*"))
    for number, split in enumerate(("train", "val", "test")):
        (root / f"{split}.txt").write_text("\n".join(names[number::3]))


def make_oscd(root: Path) -> None:
    """Write 3 cities of 48 px."""
    write_oscd(root, num_cities=3, size=48, num_workers=1)


def make_store(root: Path) -> None:
    """Pack the places of ``make_seco``."""
    folder = root.with_name("for_store")
    make_seco(folder)
    pack(SecoPatches(folder, ALL_BANDS), root, 0)


def make_litdata(root: Path) -> None:
    """Write the places of ``make_seco`` as chunks, in RGB."""
    folder = root.with_name("for_litdata")
    make_seco(folder)
    write_litdata(SecoPatches(folder), root)


_SECO = "*/*/*.tif"
SETS: dict[str, tuple[Make, dict[str, Damage]]] = {
    "seco": (make_seco, damage.of_rasters(_SECO) | damage_sets.of_seco()),
    "seco, JPEG": (make_lossy, damage.of_rasters(_SECO) | damage_sets.of_seco()),
    "seco zip, JPEG": (make_lossy, damage.zipped(damage.of_rasters(_SECO) | damage_sets.of_seco())),
    "bigearthnet": (make_bigearthnet, damage.of_rasters(_SECO) | damage_sets.of_bigearthnet()),
    "bigearthnet lmdb": (make_lmdb, damage_sets.of_lmdb()),
    "eurosat rgb": (partial(make_eurosat, all_bands=False), damage_sets.of_pictures()),
    "eurosat rgb zip": (
        partial(make_eurosat, all_bands=False),
        damage.zipped(damage_sets.of_pictures()),
    ),
    "eurosat 13": (
        partial(make_eurosat, all_bands=True),
        damage.without_place(damage.of_rasters("*/*.tif") | damage_sets.of_eurosat(".tif")),
    ),
    "oscd": (make_oscd, damage.of_rasters("*/imgs_*_rect/*.tif") | damage_sets.of_oscd()),
    "store": (make_store, damage_sets.of_store()),
    "litdata": (make_litdata, damage_sets.of_litdata()),
}


def cases(num_sites: int) -> list[tuple[str, str, int]]:
    """Return data set, kind and site of every trial.

    Args:
        num_sites: Sites of each kind.
    """
    return [
        (name, kind, site)
        for site in range(num_sites)
        for name, (_, damages) in SETS.items()
        for kind in damage.KINDS
        if kind in damages
    ]


@cache
def _clean(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a data set and its list once; the check has to find nothing in it."""
    place = folder / name.replace(" ", "_").replace(",", "")
    root, checksums = place / "clean" / "data", place / "clean.sha256"
    if not checksums.exists():
        shutil.rmtree(place, ignore_errors=True)
        root.parent.mkdir(parents=True)
        SETS[name][0](root)
        target = damage.zip_of(root) if "zip" in name else root
        write_checksums(target, checksums, 0)
    target = damage.zip_of(root, again=False) if "zip" in name else root
    tally = verify_data(target, 0)
    if tally.counts:
        raise AssertionError(f"false alarm in {name}: {tally.to_json()}")
    return root, checksums


def verify_part(start: int, stop: int, folder: Path, num_sites: int = 50) -> Iterator[Trial]:
    """Damage one site per trial, and check the data set, alone and with a list made before.

    Args:
        start: First trial.
        stop: End of the trials.
        folder: Folder of the data sets.
        num_sites: Sites of each kind.
    """
    for name, kind, site in cases(num_sites)[start:stop]:
        with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            root, checksums = _clean(name, folder)
            damaged = root.parents[1] / "damaged" / "data"
            shutil.rmtree(damaged.parent, ignore_errors=True)
            copy = os.link if "lmdb" not in name and name != "store" else shutil.copy2
            shutil.copytree(root, damaged, copy_function=copy)
            rng = np.random.default_rng([site, damage.KINDS.index(kind), list(SETS).index(name)])
            SETS[name][1][kind](damaged, rng)
            target = damage.zip_of(damaged, again=False) if "zip" in name else damaged
            is_found = _finds(verify_data, target, 0)
            if not is_found and kind == damage.FLIP:
                is_found = damage.is_harmless(target, root)
            is_listed = _finds(compare_checksums, target, checksums, 0)
        failures = {(True, True): None, (False, True): ONLY_LISTED, (True, False): "not in a list"}
        yield Trial(f"{name}: {kind} {site}", failures.get((is_found, is_listed), "not found"))


def _finds(check: Callable[..., Tally], *arguments: object) -> bool:
    try:
        return bool(check(*arguments).counts)
    except UserError:
        return True  # refused as a whole


def main(argv: Sequence[str] | None = None) -> None:
    """Run all trials, print the matrix, and write it; a second call resumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=50, help="Sites of each kind.")
    parser.add_argument("--folder", type=Path, required=True, help="Folder of data and trials.")
    parser.add_argument("--json", type=Path, help="File of the result.")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    journal = args.folder / "trials.jsonl"
    done = journal.read_text().splitlines() if journal.exists() else []
    trials = cases(args.sites)
    results = verify_part(len(done), len(trials), args.folder, args.sites)
    bar = progress(results, initial=len(done), total=len(trials), desc="trials")
    with journal.open("a") as file:
        for trial in bar:
            done.append(json.dumps(trial))
            file.write(f"{done[-1]}\n")
            file.flush()
    rows = matrix(done[: len(trials)], trials)
    print(f"{'kind':26}" + "".join(f"{name:>17}" for name in rows[damage.MISSING]))
    for kind, row in rows.items():
        print(f"{kind:26}" + "".join(f"{value:>17}" for value in row.values()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def matrix(
    done: Sequence[str], trials: Sequence[tuple[str, str, int]]
) -> dict[str, dict[str, str]]:
    """Count what was found, by kind and data set: alone / trials, and in brackets with a list.

    Args:
        done: Result of each trial, as JSON.
        trials: Data set, kind and site of each trial.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for line, (name, kind, _) in zip(done, trials, strict=False):
        _, failure = json.loads(line)
        counts[name, kind, "all"] += 1
        counts[name, kind, "alone"] += failure in (None, "not in a list")
        counts[name, kind, "list"] += failure in (None, ONLY_LISTED)
    rows = {kind: dict.fromkeys([*SETS, "all sets"], "-") for kind in (*damage.KINDS, "all kinds")}
    for kind, row in rows.items():
        for name in row:
            alone, listed, total = (
                sum(
                    count
                    for (of, what, how), count in counts.items()
                    if how == wanted and name in (of, "all sets") and kind in (what, "all kinds")
                )
                for wanted in ("alone", "list", "all")
            )
            if total:
                row[name] = f"{alone}/{total} ({listed})"
    return rows


if __name__ == "__main__":
    main()
