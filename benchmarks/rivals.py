r"""How fast others read, augment and train, next to the original and ours, on one core.

  python -m benchmarks.rivals --quick
  python -m benchmarks.rivals

Rivals are installed by: pip install -r requirements-bench.txt. Those that are missing are left out.
All make the four views of SeCo, 224 px, of the same pictures of 264 px, as normalised float32
batches. Rates are samples per second of CPU time, which other processes do not take from it; ratios
are medians within a round, in which each case is measured once.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import run
from utils.flags import Parser, check_positive
from utils.report import provenance, write_json

if TYPE_CHECKING:  # torch is imported later, so that wrong flags are answered at once
    from benchmarks.timing import Rates

RESULTS = Path(__file__).parent / "results"
COLUMNS = {"read": "reading", "augment": "augmentation", "input": "both", "step": "step"}
# Rows, and the packages that they need.
ROWS = {
    "reference": ("original: rasterio, Pillow, torchvision v1", ()),
    "torchgeo": ("torchgeo, kornia", ("torchgeo", "kornia")),
    "torchvision": ("RGB JPEG, torchvision v2", ()),
    "lightly": ("RGB JPEG, lightly (crops first)", ("lightly",)),
    "albumentations": ("RGB JPEG, albumentations", ("albumentations",)),
    "folder": ("ours: folder", ()),
    "zip": ("ours: zip", ()),
    "store": ("ours: store", ()),
    "ours_bf16": ("ours: step in bf16, the default here", ()),
}
OURS = ("folder", "zip", "store")  # rows that share augmentation and step
# Columns: in full, with --quick.
SIZES = {
    "repeats": (9, 3),
    "num_places": (128, 64),
    "num_drawn": (24, 8),  # places; the others are the same again
    "num_samples": (48, 16),  # per round, of reading and augmentation
    "steps": (2, 1),
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="measure less of everything")
    add("--batch_size", type=int, default=16, help="samples of a batch")
    add("--crop_size", type=int, default=64, help="pixels of a view of a step")
    add("--repeats", type=int, help="rounds (default: 9, quick 3)")
    add("--save_path", type=Path, help="JSON to write (default: in benchmarks/results)")
    args = parser.parse_args(argv)
    check_positive(args, "batch_size", "crop_size", "repeats")
    for name, sizes in SIZES.items():
        if getattr(args, name, None) is None:
            setattr(args, name, sizes[args.quick])
    args.num_places = max(args.num_places, args.batch_size)  # a store drops incomplete batches
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write the JSON, and return what it holds."""
    args, started = parse_args(argv), time.perf_counter()
    missing = {name for _, needed in ROWS.values() for name in needed if not find_spec(name)}
    with tempfile.TemporaryDirectory(prefix="rivals-") as scratch:
        wall = measure(args, Path(scratch), missing)
    rates = {name: case.per_cpu_second() for name, case in wall.items()}
    table = ratios(rates)
    print_table(table, rates, missing)
    packages = {name for _, needed in ROWS.values() for name in needed} - missing
    result = {
        "ratios": table,
        "samples_per_cpu_second": {name: case.summary() for name, case in rates.items()},
        "samples_per_second": {name: case.summary() for name, case in wall.items()},
        "rivals": {name: version(name) for name in sorted(packages)},
        "seconds": round(time.perf_counter() - started, 1),
    }
    path = args.save_path or RESULTS / f"rivals_cpu{'_quick' * args.quick}.json"
    write_json(path, result | provenance(args))
    print(f"results: {path}")
    if missing:
        print(f"not installed: {', '.join(sorted(missing))}; pip install -r requirements-bench.txt")
    beside = "not measured"
    if "augment/albumentations" in rates:
        beside = f"{rates['augment/ours'].over(rates['augment/albumentations']):.2f}"
    print(f"augmentation beside albumentations: {beside}")
    return result


def measure(args: Namespace, archive: Path, missing: set[str]) -> dict[str, Rates]:
    """Measure all cases in the same rounds, in samples per second.

    Args:
        args: Sizes.
        archive: Empty folder for the pictures.
        missing: Packages that are not installed; what needs them is left out.
    """
    import torch

    from benchmarks import rival_pipelines
    from benchmarks.input_cases import draw_batches, input_cases, make_archive
    from benchmarks.rival_steps import step_cases
    from benchmarks.timing import interleave

    make_archive(archive, args.num_places, args.num_drawn)
    rival_pipelines.write_pictures(archive)
    torch.manual_seed(0)
    views = torch.randn(4, args.batch_size, 3, args.crop_size, args.crop_size)
    sizes = (args.num_samples, args.batch_size)
    with input_cases(archive, *sizes) as cases:
        for name, make in rival_pipelines.PIPELINES.items():
            if missing.isdisjoint(ROWS[name][1]):
                cases |= draw_batches(make(archive, args.batch_size), *sizes)
        cases |= step_cases((views[0], list(views[1:])), args.steps, "lightly" not in missing)
        interleave(cases, 1)  # fills the page cache
        return interleave(cases, args.repeats)


def ratios(rates: Mapping[str, Rates]) -> dict[str, dict[str, float]]:
    """Return how many times faster than the original each row is, by column."""
    table: dict[str, dict[str, float]] = {row: {} for row in ROWS}
    for row, cells in table.items():
        for column in COLUMNS:
            case = f"{column}/{row}"
            if case not in rates and row in OURS:
                case = f"{column}/ours"
            if case in rates:
                cells[column] = rates[case].over(rates[f"{column}/reference"])
    return table


def print_table(
    table: Mapping[str, Mapping[str, float]], rates: Mapping[str, Rates], missing: set[str]
) -> None:
    """Print the table in Markdown, as in README.md.

    Args:
        table: Ratio to the original by row and column.
        rates: Measured rates of all cases.
        missing: Names of the packages that are not installed.
    """
    print("samples per second of one core; in the other rows, times the original")
    print(f"| | {' | '.join(COLUMNS.values())} |\n|{'---|' * (1 + len(COLUMNS))}")
    for row, (label, needed) in ROWS.items():
        values = {column: f"{ratio:.3g}" for column, ratio in table[row].items()}
        if row == "reference":
            values = {column: f"{rates[f'{column}/{row}'].median:.3g}" for column in COLUMNS}
        empty = "-" if missing.isdisjoint(needed) else "not installed"
        print(f"| {label} | {' | '.join(values.get(column, empty) for column in COLUMNS)} |")


if __name__ == "__main__":
    run(main)
