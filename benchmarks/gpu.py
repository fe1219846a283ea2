"""Check and measure everything on a GPU, in six minutes: ``python -m benchmarks.gpu``.

Correct views, no waiting for the GPU, and uploads come first, then the speed of augmentation, steps
and trainings, eager and compiled. The results are written after each part: a run that is killed
keeps them, and a part that fails is recorded with its error.
"""

from __future__ import annotations

import signal
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from utils.cli import run
from utils.cores import available_cores
from utils.errors import UserError
from utils.flags import Parser, check_positive
from utils.precision import auto_precision
from utils.report import provenance, write_json

Part = Callable[[], Mapping[str, Any]]  # returns what goes into the JSON
SIZES = {"batch_size": 256, "crop_size": 224, "num_places": 5120, "num_drawn": 48}
SIZES |= {"repeats": 3, "warm_up": 8, "steps": 20}  # rounds; steps of a measurement


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run all parts; return what the JSON holds."""
    args = parse_args(argv)
    check_positive(args, "minutes")
    import torch

    if not torch.cuda.is_available():
        raise UserError("no GPU is found: python -m benchmarks.throughput measures a CPU")
    from benchmarks.throughput_report import check_goals, print_goals

    torch.backends.cudnn.benchmark = True  # as in main_pretrain.py
    args.gpus, args.precision = 1, auto_precision(on_gpu=True)
    args.num_threads = min(8, available_cores())
    device, result = torch.cuda.get_device_name(), provenance(args)

    def save(parts: Mapping[str, Mapping[str, Any]]) -> None:
        rates = {name: rate for part in parts.values() for name, rate in part.items()}
        result["targets"] = check_goals(rates, device)
        result["parts"] = {name: _summaries(part) for name, part in parts.items()}
        write_json(args.save_path, result)

    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        parts = run_parts(all_parts(args, Path(scratch)), save, 60 * args.minutes)
    print_goals(result["targets"])
    print(f"results: {args.save_path}")
    if failed := [name for name, found in parts.items() if "error" in found]:
        raise UserError(f"{len(failed)} of {len(parts)} parts failed: {', '.join(failed)}")
    return result


def parse_args(argv: list[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests; add the sizes of the measurements."""
    parser = Parser(__doc__)
    path = Path(__file__).parent / "results" / "gpu.json"
    parser.add_argument("--save_path", type=Path, default=path, help="JSON to write")
    parser.add_argument("--minutes", type=float, default=6.0, help="time for all parts")
    return Namespace(**SIZES, **vars(parser.parse_args(argv)))


def all_parts(args: Namespace, scratch: Path) -> dict[str, Part]:
    """Return the parts in their order: checks, then speed, what takes longest last.

    Args:
        args: Sizes, ``gpus``, ``precision`` and ``num_threads``.
        scratch: Folder for a store of places of the miniature Earth.
    """
    import torch

    from benchmarks import gpu_checks as checks
    from benchmarks.input_cases import STORE, make_places
    from benchmarks.timing import interleave
    from benchmarks.train_cases import TrainCases
    from datasets.seco.patches import SecoPatches
    from datasets.store.writer import pack

    device = torch.device("cuda" if args.gpus else "cpu")

    def make_store() -> dict[str, Any]:
        folder = make_places(scratch, args.num_places, args.num_drawn)
        pack(SecoPatches(folder), scratch / STORE, num_workers=available_cores())
        return {"places": args.num_places}

    @cache  # for the checks; the speed of each encoder is measured with its model alone
    def first() -> TrainCases:
        return TrainCases(args, scratch, "resnet18")

    def speed(encoder: str, which: str, compiled: bool = False) -> dict[str, Any]:
        training = TrainCases(args, scratch, encoder, compiled)
        return interleave(getattr(training, which)(), args.repeats)

    return {
        "views": partial(checks.views, device),
        "store": make_store,
        "augmentation": lambda: checks.augmentation(first(), args.repeats),
        "upload": lambda: checks.upload(first()),
        "cache gpu": lambda: checks.device_cache(first()),
        "no waiting": lambda: checks.no_waiting(first()),
        "resnet18": partial(speed, "resnet18", "steps"),
        "resnet18 end to end": partial(speed, "resnet18", "end_to_end"),
        "resnet50": partial(speed, "resnet50", "steps"),
        "resnet18 compiled": partial(speed, "resnet18", "steps", True),
        "resnet50 end to end": partial(speed, "resnet50", "end_to_end"),
        "resnet50 compiled": partial(speed, "resnet50", "steps", True),
    }


def run_parts(
    parts: Mapping[str, Part],
    save: Callable[[Mapping[str, Mapping[str, Any]]], None],
    seconds: float,
) -> dict[str, Mapping[str, Any]]:
    """Run the parts one after the other, and save all results after each.

    Args:
        parts: Name and work of each.
        save: Called with the results so far; a part that failed, or ran out of time, has "error".
        seconds: Time for all parts.
    """
    end, done = time.monotonic() + seconds, dict[str, Mapping[str, Any]]()
    for name, part in parts.items():
        started = time.monotonic()
        found: dict[str, Any] = {}
        try:
            with _time_limit(end - started):
                found |= part()
        except Exception as problem:  # the next part may work
            traceback.print_exc()
            found["error"] = f"{type(problem).__name__}: {problem}"
        found["seconds"] = round(time.monotonic() - started, 1)
        done[name] = found
        save(done)
        print(f"{name}, {found['seconds']} s: {found.get('error', 'done')}", flush=True)
    return done


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in the main thread after so many seconds."""

    def stop(number: int = 0, frame: FrameType | None = None) -> NoReturn:
        raise TimeoutError("the time for all parts is over")

    if seconds <= 0:
        stop()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _summaries(part: Mapping[str, Any]) -> dict[str, Any]:
    """Replace rates by what a JSON file holds."""
    from benchmarks.timing import Rates

    return {n: v.summary() if isinstance(v, Rates) else v for n, v in part.items()}


if __name__ == "__main__":
    run(main)
