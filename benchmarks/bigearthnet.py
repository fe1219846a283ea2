r"""BigEarthNet: reading from LMDB against GeoTIFFs, and how long a probe on cached features takes.

  python -m benchmarks.bigearthnet
  python -m benchmarks.bigearthnet --data_dir BigEarthNet --json

Without --data_dir, patches of the miniature Earth are drawn. All reading is from the page cache, in
rounds of both cases on one core; the ratio is the median of the rounds' ratios. Features of a
ResNet-18 are computed from the LMDB by one loader process, and from pictures in memory. The probe
fits as many random features as BigEarthNet-10 % has patches (27,000 of a ResNet-18), on all cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.bigearthnet.facts import BIGEARTHNET_SPEC
from utils.cli import run
from utils.files import check_exists
from utils.flags import Parser, check_positive
from utils.input_spec import InputSpec, input_transform
from utils.precision import auto_precision
from utils.report import provenance, write_json

# torch is imported by the functions that use it, so that wrong flags are answered at once.
if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.timing import Measure, Rates
    from datasets.bigearthnet.index import PatchSource
    from datasets.bigearthnet.lmdb_store import PatchLmdb

RESULTS = Path(__file__).parent / "results" / "bigearthnet.json"
TARGET_RATIO = 10  # of RGB from LMDB to RGB from GeoTIFFs
TARGET_PROBE_S = 60  # on 2 cores
NUM_TRAIN, NUM_FEATURES, NUM_CLASSES = 27_000, 512, 19  # BigEarthNet-10 %, ResNet-18
_BATCH_SIZE = 128
NUM_VAL = (12_372, 123_723)  # 10 % and all of TU Berlin's validation list


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, and write a JSON file if asked."""
    args = parse_args(argv)
    check_exists("data_dir", args.data_dir)
    import torch

    from datasets.bigearthnet.lmdb_store import PatchLmdb

    with tempfile.TemporaryDirectory() as name:
        rates = measure_reading(args, Path(name))
        extraction = measure_extraction(args, PatchLmdb(Path(name) / "lmdb"))
    ratios = {
        what: rates[f"LMDB, {what}"].over(rates[f"GeoTIFF, {what}"])
        for what in ("RGB", "12 bands", "RGB pictures")
    }
    of_encoder = extraction["features, LMDB"].over(extraction["features, memory"])
    for case, found in (rates | extraction).items():
        low, high = found.quartiles
        print(f"{case:24s}{found.median:10,.0f} patches/s  ({low:,.0f} .. {high:,.0f})")
    for what, ratio in ratios.items():
        print(f"LMDB over GeoTIFF, {what}: {ratio:.1f} x")
    print(f"features from the LMDB at {100 * of_encoder:.0f} % of the encoder's speed")
    print(f"target for RGB, {TARGET_RATIO} x: {_verdict(ratios['RGB'] >= TARGET_RATIO)}")
    seconds = {}
    for num_val in (0, *args.num_val):
        seconds[num_val] = measure_probe(num_val, args.probe_epochs)
        print(
            f"probe of {NUM_TRAIN:,} x {NUM_FEATURES}, {args.probe_epochs} epochs, each scored on "
            f"{num_val:,} patches: {seconds[num_val]:.1f} s on {torch.get_num_threads()} threads, "
            f"target {TARGET_PROBE_S} s: {_verdict(seconds[num_val] < TARGET_PROBE_S)}"
        )
    results = {
        "patches_per_second": {case: found.summary() for case, found in rates.items()},
        "features_per_second": {case: found.summary() for case, found in extraction.items()},
        "lmdb_over_geotiff": ratios,
        "extraction_over_encoder": of_encoder,
        "probe_seconds_by_num_val": seconds,
    }
    if args.json:
        write_json(RESULTS, results | provenance(args))
    return results


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, help="folder of BigEarthNet v1 or v2")
    add("--num_patches", type=int, default=300, help="patches per round")
    add("--repeats", type=int, default=7, help="rounds")
    add("--probe_epochs", type=int, default=100, help="epochs of the probe")
    add("--num_val", type=int, nargs="*", default=NUM_VAL, help="patches that score each epoch")
    add("--json", action="store_true", help=f"write {RESULTS.name} into {RESULTS.parent.name}/")
    args = parser.parse_args(argv)
    check_positive(args, "num_patches", "repeats", "probe_epochs")
    return args


def measure_reading(args: Namespace, folder: Path) -> dict[str, Rates]:
    """Read the same patches both ways; the LMDB is written into ``folder``."""
    import torch

    from benchmarks.timing import interleave, rate
    from datasets.bigearthnet.index import find_folder
    from datasets.bigearthnet.lists import Listing
    from datasets.bigearthnet.lmdb_store import PatchLmdb
    from datasets.bigearthnet.writer import write_lmdb
    from datasets.mini_earth import write_bigearthnet

    data_dir = args.data_dir
    if data_dir is None:
        data_dir = folder / "bigearthnet"
        write_bigearthnet(data_dir, num_patches=args.num_patches)
    source, listing = find_folder(data_dir)
    names = listing.splits["train"][: args.num_patches]
    part = Listing({"train": names}, labels={name: [] for name in names})
    write_lmdb(source, part, folder / "lmdb", ALL_BANDS, num_workers=0)
    cases: dict[str, Measure] = {}
    for case, patches in (("GeoTIFF", source), ("LMDB", PatchLmdb(folder / "lmdb"))):
        for what, work in reading_cases(patches, names).items():
            work()  # fills the page cache
            cases[f"{case}, {what}"] = rate(work, len(names), torch.device("cpu"))
    return interleave(cases, args.repeats)


def reading_cases(patches: PatchSource, names: Sequence[str]) -> dict[str, Callable[[], None]]:
    """Return what is done with each patch: bands alone, or the picture that training sees."""
    import torch

    from datasets.bigearthnet.index import BigEarthNet
    from datasets.bigearthnet.pictures import BigEarthNetPictures

    transform = input_transform(InputSpec.of_pictures(), BIGEARTHNET_SPEC, "paper")
    rows, targets = torch.arange(len(names)), torch.ones(len(names), 19)
    index = BigEarthNet(patches, tuple(names), targets, {}, (), {})
    pictures = BigEarthNetPictures(index, rows, transform)

    def read(bands: Sequence[str]) -> None:
        for name in names:
            patches.read(name, bands)

    def make_pictures() -> None:
        for item in range(len(pictures)):
            pictures[item]

    return {
        "RGB": partial(read, RGB_BANDS),
        "12 bands": partial(read, ALL_BANDS),
        "RGB pictures": make_pictures,
    }


def measure_extraction(args: Namespace, patches: PatchLmdb) -> dict[str, Rates]:
    """Compute features of all patches of an LMDB, and of the same pictures in memory."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    from benchmarks.timing import interleave, rate
    from datasets.bigearthnet.index import BigEarthNet
    from datasets.bigearthnet.pictures import BigEarthNetPictures
    from models.backbones import load_encoder
    from models.features import extract_features

    encoder, spec = load_encoder("random")
    transform = input_transform(spec, BIGEARTHNET_SPEC, "auto")
    names = tuple(sorted(patches.names()))
    rows, targets = torch.arange(len(names)), torch.ones(len(names), 19)
    index = BigEarthNet(patches, names, targets, {}, (), {})
    pictures = BigEarthNetPictures(index, rows, transform)
    data = cast(Dataset[Any], pictures)
    loader = DataLoader(data, _BATCH_SIZE, num_workers=1, persistent_workers=True)
    in_memory = [batch[0] for batch in loader]
    device, precision = torch.device("cpu"), auto_precision(on_gpu=False)

    def extract(batches: Iterable[Tensor]) -> None:
        extract_features(
            encoder, transform, batches, len(names), device=device, precision=precision
        )

    cases: dict[str, Measure] = {
        "features, LMDB": rate(lambda: extract(b[0] for b in loader), len(names), device),
        "features, memory": rate(lambda: extract(in_memory), len(names), device),
    }
    return interleave(cases, args.repeats)


def measure_probe(num_val: int, epochs: int) -> float:
    """Fit a probe as main_bigearthnet.py does, on random features: seconds.

    ``num_val`` of the same features choose its epoch.
    """
    import torch

    from models.linear_probe import Labelled, Recipe, fit_linear_probe
    from utils.metrics import map_micro

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(max(NUM_TRAIN, num_val), NUM_FEATURES, generator=generator)
    targets = (torch.rand(len(features), NUM_CLASSES, generator=generator) < 0.15).float()
    samples, rows = Labelled(features, targets), torch.arange(NUM_TRAIN)
    val = samples.take(torch.arange(num_val)) if num_val else None
    recipe = Recipe(epochs, batch_size=1024, learning_rate=1e-3)
    started = time.perf_counter()
    fit_linear_probe(samples, NUM_CLASSES, rows, seed=0, recipe=recipe, val=val, score=map_micro)
    return time.perf_counter() - started


if __name__ == "__main__":
    run(main)
