r"""How fast views, steps and whole trainings are, on the CPU or GPU that is here.

A minute, for a first look:
  python -m benchmarks.throughput --quick

All of it, with a picture:
  python -m benchmarks.throughput --plot throughput.png

Everything is measured next to the ceilings of this device, in rounds: each case once per round,
medians and quartiles over the rounds, ratios within a round. Data is a miniature Earth as
JPEG-compressed GeoTIFFs, in the page cache; --data_dir takes real places. ``benchmarks.rivals``
compares with the original and with other packages.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.cli import GPUS_HELP, run
from utils.cores import available_cores
from utils.errors import UserError
from utils.files import check_exists
from utils.flags import Parser, check_positive
from utils.launch import resolve_gpus
from utils.precision import auto_precision, autocast_type
from utils.report import provenance, write_json

if TYPE_CHECKING:  # torch is imported later, so that wrong flags are answered at once
    from benchmarks.timing import Rates

RESULTS = Path(__file__).parent / "results"
ENCODERS = ("resnet18", "resnet50")


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="measure less of everything, for a CPU")
    add("--data_dir", type=Path, help="SeCo folder whose first places are copied and measured")
    add("--gpus", type=int, choices=[0, 1], help=GPUS_HELP)
    add("--precision", choices=["auto", "32-true", "bf16-mixed"], default="auto", help="of steps")
    add("--batch_size", type=int, help="samples of a step (default: 256, CPU 32, quick 16)")
    add("--crop_size", type=int, help="pixels of a view of a step (default: 224, CPU 64)")
    add("--repeats", type=int, help="rounds (default: 5, CPU 7, quick 3)")
    add("--num_places", type=int, help="places (default: 5120, CPU 512, quick 128)")
    add("--save_path", type=Path, help="JSON to write (default: in benchmarks/results)")
    add("--plot", type=Path, help="PNG to draw the rates into")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure everything; return what the JSON holds."""
    started = time.perf_counter()
    args = parse_args(argv)
    check_positive(args, "batch_size", "crop_size", "repeats", "num_places")
    check_exists("data_dir", args.data_dir)
    import torch

    from benchmarks.roofline import step_cost
    from benchmarks.throughput_report import check_goals, print_report
    from benchmarks.timing import plot_bars

    resolve_gpus(args)
    choose_sizes(args)
    busy = os.getloadavg()[0]  # processes that wanted to run in the last minute
    if busy > 0.5:
        print(f"other processes keep {busy:.1f} cores busy: the rates will be too low")
    torch.set_num_threads(available_cores())
    torch.backends.cudnn.benchmark = True  # as in main_pretrain.py
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        rates = measure(args, Path(scratch))
    sizes = (args.crop_size, args.batch_size, autocast_type(args.precision))
    costs = {name: step_cost(name, *sizes) for name in ENCODERS}
    targets = check_goals(rates, torch.cuda.get_device_name() if args.gpus else "CPU")
    result = {
        "rates": {name: case.summary() for name, case in rates.items()},
        "step_costs": costs,
        "targets": targets,
        "load_before": busy,
        "seconds": round(time.perf_counter() - started, 1),
    } | provenance(args)
    print_report(args, rates, costs, targets)
    write_json(args.save_path, result)
    if args.plot is not None:
        shown = {name: case for name, case in rates.items() if not name.startswith("ceiling/")}
        label = "samples per second; grey: without loader and augmentation"
        plot_bars(args.plot, shown, "step, views", xscale="log", xlabel=label)
        print(f"picture: {args.plot}")
    print(f"results: {args.save_path}")
    return result


# Per column: on a GPU, on a CPU, with --quick on a CPU.
SIZES = {
    "batch_size": (256, 32, 16),
    "crop_size": (224, 64, 64),
    "repeats": (5, 7, 3),
    "num_places": (5120, 512, 128),
    "num_drawn": (48, 48, 12),  # places; the others are the same again
    "warm_up": (8, 3, 1),  # steps
    "steps": (40, 10, 2),
}


def choose_sizes(args: Namespace) -> None:
    """Add what the flags leave open, to fit the device.

    Raises:
        UserError: A batch is larger than the number of places.
    """
    on_gpu = args.gpus > 0
    for name, sizes in SIZES.items():
        if getattr(args, name, None) is None:
            setattr(args, name, sizes[0 if on_gpu else 2 if args.quick else 1])
    if args.precision == "auto":
        args.precision = auto_precision(on_gpu)
    name = f"throughput_{'gpu' if on_gpu else 'cpu'}{'_quick' * args.quick}.json"
    args.save_path = args.save_path or RESULTS / name
    if args.num_places < args.batch_size:
        raise UserError(
            f"--num_places {args.num_places} is less than a batch of {args.batch_size}: raise it"
        )
    args.num_drawn = min(args.num_drawn, args.num_places)
    # Threads that read: one is enough to feed a CPU.
    args.num_threads = min(8, available_cores()) if on_gpu else 1


def measure(args: Namespace, scratch: Path) -> dict[str, Rates]:
    """Measure all cases on one archive.

    Args:
        args: Flags of the benchmark.
        scratch: Folder for archive and stores.
    """
    from benchmarks.input_cases import make_archive
    from benchmarks.roofline import ceilings
    from benchmarks.timing import interleave
    from benchmarks.train_cases import TrainCases

    make_archive(scratch, args.num_places, args.num_drawn, args.data_dir)
    trainings = [TrainCases(args, scratch, name) for name in ENCODERS]
    cases = ceilings(trainings[0].device) | trainings[0].augmentation()
    for number, training in enumerate(trainings):
        cases |= training.steps()
        if number == 0 or not args.quick:
            cases |= training.end_to_end()
    print(f"training on {trainings[0].device}, {args.repeats} rounds")
    return interleave(cases, args.repeats)


if __name__ == "__main__":
    run(main)
