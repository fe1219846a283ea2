r"""How fast the input, the step and the whole training are, on the CPU or GPU that is here.

A minute, for a first look:
  python -m benchmarks.throughput --quick

All of it, with a picture:
  python -m benchmarks.throughput --plot throughput.png

Everything is measured beside the original's pipeline and the ceilings of this device, in rounds:
each case once per round, medians and quartiles over the rounds, ratios within a round. Data is a
miniature Earth as JPEG-compressed GeoTIFFs, in the page cache; --data_dir takes real places.
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
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from utils.cli import GPUS_HELP, run
from utils.cores import available_cores
from utils.errors import UserError
from utils.files import check_exists
from utils.flags import Parser, check_positive
from utils.launch import resolve_gpus
from utils.precision import auto_precision
from utils.report import provenance, write_json

# torch is imported by the functions that use it, so that wrong flags are answered at once.
if TYPE_CHECKING:
    from benchmarks.archive import Archive
    from benchmarks.roofline import StepCost
    from benchmarks.timing import Rates
    from benchmarks.train_cases import TrainPlan

RESULTS = Path(__file__).parent / "results"
ENCODERS = ("resnet18", "resnet50")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        repeats: Rounds.
        num_places: Places of the archive.
        num_drawn: How many of them are drawn; the others are the same again.
        num_samples: Samples of one repeat of reading or augmentation on one core.
        train: How steps are measured.
        end_to_end: Encoders that are trained end to end.
    """

    repeats: int
    num_places: int
    num_drawn: int
    num_samples: int
    train: TrainPlan
    end_to_end: tuple[str, ...]


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="measure less of everything")
    add("--data_dir", type=Path, help="SeCo folder whose first places are copied and measured")
    add("--gpus", type=int, choices=[0, 1], help=GPUS_HELP)
    add("--precision", choices=["auto", "32-true", "bf16-mixed"], default="auto", help="of steps")
    add("--batch_size", type=int, help="samples of a step (default: 256, CPU 32, quick 16)")
    add("--crop_size", type=int, help="pixels of a view of a step (default: 224, CPU 64)")
    add("--repeats", type=int, help="rounds (default: 7, GPU 5, quick 3)")
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

    from benchmarks.targets import check_targets
    from benchmarks.throughput_report import plot_rates, print_report

    resolve_gpus(args)
    plan = make_plan(args)
    busy = os.getloadavg()[0]  # processes that wanted to run in the last minute
    if busy > 0.5:
        print(f"other processes keep {busy:.1f} cores busy: the rates will be too low")
    torch.set_num_threads(available_cores())
    torch.backends.cudnn.benchmark = True  # as in main_pretrain.py
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        archive = make_archive(Path(scratch), plan, args.data_dir)
        rates = measure(plan, archive)
    costs = {name: cost(name, plan.train) for name in ENCODERS}
    device_name = torch.cuda.get_device_name() if args.gpus else "CPU"
    targets = check_targets(rates, device_name)
    result = {
        "rates": {name: case.summary() for name, case in rates.items()},
        "step_costs": {name: asdict(cost) for name, cost in costs.items()},
        "targets": targets,
        "plan": asdict(plan),
        "load_before": busy,
        "seconds": round(time.perf_counter() - started, 1),
    } | provenance(args)
    print_report(plan.train, rates, costs, targets)
    path = args.save_path or default_path(args)
    write_json(path, result)
    if args.plot is not None:
        plot_rates(args.plot, rates)
        print(f"picture: {args.plot}")
    print(f"results: {path}")
    return result


def make_plan(args: Namespace) -> Plan:
    """Choose sizes that fit the device; flags win."""
    import torch

    from benchmarks.train_cases import TrainPlan

    on_gpu, cores = args.gpus > 0, available_cores()
    precision = auto_precision(on_gpu) if args.precision == "auto" else args.precision
    batch_size = args.batch_size or (256 if on_gpu else 16 if args.quick else 32)
    train = TrainPlan(
        device=torch.device("cuda" if on_gpu else "cpu"),
        precision=precision,
        batch_size=batch_size,
        crop_size=args.crop_size or (224 if on_gpu else 64),
        warm_up=8 if on_gpu else 1 if args.quick else 3,
        steps=40 if on_gpu else 2 if args.quick else 10,
        num_threads=min(8, cores) if on_gpu else 1,  # one is enough to feed a CPU
        num_processes=cores if on_gpu else max(1, cores // 2),  # the others train
    )
    num_places = args.num_places or (5120 if on_gpu else 128 if args.quick else 512)
    if num_places < batch_size:
        raise UserError(f"--num_places {num_places} is less than a batch of {batch_size}: raise it")
    return Plan(
        repeats=args.repeats or (3 if args.quick else 5 if on_gpu else 7),
        num_places=num_places,
        num_drawn=min(12 if args.quick else 48, num_places),
        num_samples=16 if args.quick else 64,
        train=train,
        end_to_end=ENCODERS[:1] if args.quick else ENCODERS,
    )


def make_archive(scratch: Path, plan: Plan, data_dir: Path | None) -> Archive:
    """Write, or copy, places into an empty folder; zip and pack them."""
    from benchmarks.archive import Archive, copy_folder, write_folder

    folder = scratch / "seco"
    if data_dir is None:
        write_folder(folder, plan.num_places, plan.num_drawn)
    else:
        copy_folder(data_dir, folder, plan.num_places)
    return Archive.beside(folder, scratch)


def measure(plan: Plan, archive: Archive) -> dict[str, Rates]:
    """Measure on the device first: a core is reserved for what follows."""
    from benchmarks.input_cases import input_cases
    from benchmarks.roofline import ceilings
    from benchmarks.timing import interleave
    from benchmarks.train_cases import TrainCases

    trainings = [TrainCases(plan.train, archive, name) for name in ENCODERS]
    cases = ceilings(plan.train.device)
    cases |= trainings[0].augmentation()
    for training in trainings:
        cases |= training.steps()
        if training.base_encoder in plan.end_to_end:
            cases |= training.end_to_end()
    cases |= trainings[0].reference()
    print(f"training on {plan.train.device}, {plan.repeats} rounds")
    rates = interleave(cases, plan.repeats)
    print(f"reading and augmentation on one core, {plan.repeats} rounds")
    with input_cases(archive, plan.num_samples) as cases:
        interleave(cases, 1)  # fills the page cache
        return rates | interleave(cases, plan.repeats)


def cost(base_encoder: str, plan: TrainPlan) -> StepCost:
    """Count the arithmetic and the memory traffic of a step."""
    from benchmarks.roofline import step_cost

    return step_cost(base_encoder, plan.crop_size, plan.batch_size, autocast=plan.autocast)


def default_path(args: Namespace) -> Path:
    """Name the JSON after the device and the length of the run."""
    return RESULTS / f"throughput_{'gpu' if args.gpus else 'cpu'}{'_quick' * args.quick}.json"


if __name__ == "__main__":
    run(main)
