r"""Images per second of the downloader from an Earth Engine on loopback, and two upper bounds.

  python -m benchmarks.download
  python -m benchmarks.download --json --plot docs/download.png

The real client talks to a server in a process of its own (``datasets.miniature.services``), which
answers after 50 ms and has the same pixels for all scenes; requests are limited to 40 at a time,
and not in rate. The bounds are what the same number of threads decodes and writes when the answers
are in memory, and 40 / 50 ms requests/s; the lower one counts. Then the same with 10 and 30 % of
the requests failing. In rounds of all cases; a ratio is the median of the rounds' ratios. Server
and downloader share the cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import os
import shutil
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from statistics import mean
from typing import IO, TYPE_CHECKING, Any, cast
from unittest.mock import patch

from datasets import seco_downloader
from datasets.collect import args as collect_args
from utils.cli import run
from utils.errors import UserError
from utils.flags import Parser, check_positive
from utils.report import provenance, write_json

# Earth Engine's client and NumPy are imported by the functions that use them, so that --help and
# wrong flags are answered at once.
if TYPE_CHECKING:
    from datasets.collect.earth_engine import EarthEngine
    from datasets.collect.plan import Plan
    from datasets.collect.scenes import Place

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "download_cpu.json"
LATENCY_S, IN_FLIGHT = 0.05, 40
MAX_REQUESTS = IN_FLIGHT / LATENCY_S  # per second
FAULTS = (0.0, 0.1, 0.3)  # shares of the requests
DECODE = "decode and write, no network"
GOAL_SHARE, GOAL_REQUESTS = 0.8, 1.3  # of the lower bound; per image
# Of the original; the bytes are those of the JSON that the real client fetched from a server on
# loopback for one image of 264 px.
ORIGINAL_REQUESTS, ORIGINAL_MB = 4, 3.11


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, and write the files that the flags request."""
    args = parse_args(argv)
    from benchmarks.timing import Rates, plot_bars

    load = os.getloadavg()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder, serving() as urls:
        results = measure(args, Path(folder), urls) | {"load_before": load}
    print_table(results)
    if args.json:
        write_json(RESULTS, results | provenance(args))
    if args.plot is not None:
        found = results["images_per_second"].items()
        rates = {case: Rates(each["values"]) for case, each in found}
        plot_bars(args.plot, rates, DECODE, xlabel=f"images/s of 12 bands, {args.patch_px} px")
    return results


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--num_places", type=int, default=80, help="places per run, of 5 images")
    add("--rounds", type=int, default=3, help="runs of each case")
    add("--patch_px", type=int, default=264, help="side of a patch")
    add("--num_workers", type=int, default=48, help="threads of the downloader")
    add("--retry_wait", type=float, default=1, help="that of the downloader")
    add("--scratch", type=Path, help="folder on the disk to measure, else for temporary files")
    add("--json", action="store_true", help=f"write {RESULTS.name} into {RESULTS.parent.name}/")
    add("--plot", type=Path, help="PNG to draw")
    args = parser.parse_args(argv)
    check_positive(args, "num_places", "rounds", "patch_px", "num_workers", "retry_wait")
    return args


@contextmanager
def serving() -> Iterator[dict[float, str]]:
    """Start one server per share of failing requests, and yield their addresses."""
    command = [sys.executable, "-m", "datasets.miniature.services", "--cheap_pixels"]
    command += ["--latency", str(LATENCY_S), "--fault_share"]
    processes = {
        share: subprocess.Popen([*command, str(share)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for share in FAULTS
    }
    try:
        yield {
            share: cast(IO[str], process.stdout).readline().strip()
            for share, process in processes.items()
        }
    finally:
        for process in processes.values():
            process.terminate()
            process.communicate()


def measure(args: Namespace, folder: Path, urls: Mapping[float, str]) -> dict[str, Any]:
    """Measure all cases in rounds, after one that lets the servers draw what is requested.

    Args:
        args: Flags of the benchmark.
        folder: Folder to write collections into.
        urls: Address of the server per share of failing requests.
    """
    from benchmarks.timing import Rates, interleave
    from datasets.collect.plan import make_plan

    flags = {share: downloader_flags(args, folder, url) for share, url in urls.items()}
    plan = make_plan(collect_args.settings_of(flags[0.0]))
    runs: list[dict[str, Any]] = []

    def collect(share: float) -> float:
        runs.append({"share": share} | collect_once(plan, flags[share]))
        return float(runs[-1]["images_per_s"])

    cases = {DECODE: decoding(plan, flags[0.0])}
    cases |= {case_name(share): partial(collect, share) for share in urls}
    interleave(cases, 1)
    runs.clear()
    rates = interleave(cases, args.rounds)
    undisturbed = [run for run in runs if run["share"] == 0]
    requests = mean(run["requests_per_image"] for run in undisturbed)
    bound = Rates(tuple(min(x, MAX_REQUESTS / requests) for x in rates[DECODE].values))
    return {
        "images_per_second": {case: found.summary() for case, found in rates.items()},
        "share_of_bound": rates[case_name(0)].over(bound),
        "max_requests": MAX_REQUESTS,
        "bound": bound.summary(),
        "requests_per_image": requests,
        "mb_per_image": mean(run["bytes_per_image"] for run in undisturbed) / 1e6,
        "is_complete": all(run["places"] == run["wanted"] for run in runs),
        "runs": runs,
    }


def case_name(share: float) -> str:
    """Name the case with a share of failing requests."""
    return f"{share:.0%} of requests failing"


def downloader_flags(args: Namespace, folder: Path, url: str) -> Namespace:
    """Return the downloader's flags, as its command line gives them.

    Args:
        args: Flags of the benchmark.
        folder: Folder to write collections into.
        url: Address of the server.
    """
    return collect_args.parse_args(
        None,
        [
            *("--save_path", str(folder / "collection"), "--ee_url", url),
            *("--num_locations", str(args.num_places), "--patch_px", str(args.patch_px)),
            *("--reference_date", "2022-03-01", "--num_workers", str(args.num_workers)),
            *("--max_in_flight", str(IN_FLIGHT), "--max_rate", "1e9", "--min_free_gb", "0"),
            *("--retry_wait", str(args.retry_wait), "--no_land_mask"),
        ],
    )


def decoding(plan: Plan, flags: Namespace) -> Callable[[], float]:
    """Return a measurement of decoding and writing, with as many threads as a run: images/s.

    Every scene gets the pixels of one real answer, without a network.

    Args:
        plan: Plan of the collection.
        flags: Flags of the downloader.

    Raises:
        UserError: No place has clear scenes.
    """
    import ee

    from datasets.collect.scenes import Lack, choose
    from datasets.collect.writer import Draft, PlaceWriter

    source = seco_downloader.open_source(plan, flags)
    places = [plan.place(number) for number in range(plan.num_places)]
    for first in places:
        candidates = choose(first, source.search([first])[0], plan.settings)
        if not isinstance(candidates, Lack):
            break
    else:
        raise UserError("no place has clear scenes: raise --num_places")
    scenes = [scenes[0] for scenes in candidates]
    with patch.object(ee.data, "getPixels", side_effect=ee.data.getPixels) as spy:
        source.read(scenes[0], first.grid)
    answer = ee.data.getPixels(spy.call_args.args[0])
    save_path = flags.save_path.with_name("decoded")
    writer = PlaceWriter(save_path, plan.settings, source.describe(), (0, 1))

    def work(place: Place) -> None:
        draft = Draft(writer, place)
        for scene in scenes:
            draft.add(scene, source.read(scene, place.grid))
        draft.finish()

    def measure() -> float:
        started = time.perf_counter()
        from_memory = patch.object(ee.data, "getPixels", return_value=answer)
        with from_memory, ThreadPoolExecutor(flags.num_workers) as pool:
            list(pool.map(work, places))
        elapsed = time.perf_counter() - started
        shutil.rmtree(save_path)
        return len(places) * len(scenes) / elapsed

    return measure


def collect_once(plan: Plan, flags: Namespace) -> dict[str, float]:
    """Collect all places into an empty folder, verify it, and remove it.

    Places that --verify finds damaged do not count. The time is from the first request to the last
    line of the journal; requests include repeats, bytes no headers. Arguments as in ``decoding``.

    Raises:
        UserError: Nothing could be collected.
    """
    from datasets.collect.plan import write_plan
    from datasets.collect.run import collect
    from datasets.collect.verify import REPORT_NAME, verify

    save_path = flags.save_path
    save_path.mkdir()
    write_plan(save_path, plan)
    with redirect_stdout(StringIO()) as shown, redirect_stderr(shown):
        source = cast("EarthEngine", seco_downloader.open_source(plan, flags))
        received, started = source.transport.web.bytes_received, time.perf_counter()
        collect(plan, source, seco_downloader.new_requester(flags), flags)
        elapsed = time.perf_counter() - started
        verify(save_path, plan, flags.num_workers)
    checked = json.loads((save_path / REPORT_NAME).read_text())
    damaged = {found["place"] for found in checked["findings"] if found["is_damage"]}
    status = json.loads((save_path / "status.json").read_text())
    shutil.rmtree(save_path)
    images = status["images"]
    if not images:
        raise UserError(f"nothing could be collected: {shown.getvalue()}")
    return {
        "places": checked["places_done"] - len(damaged),
        "wanted": plan.num_places,
        "images_per_s": images / elapsed,
        "requests_per_image": status["requests"] / images,
        "bytes_per_image": (source.transport.web.bytes_received - received) / images,
    }


def print_table(results: dict[str, Any]) -> None:
    """Print the table in Markdown, and whether the goals are met."""
    print("| case | images/s (quartiles) | requests per image | complete |\n|---|---|---|---|")
    for case, found in results["images_per_second"].items():
        own = [run for run in results["runs"] if case == case_name(run["share"])]
        cells = "- | -"
        if own:
            places, wanted = (sum(run[name] for run in own) for name in ("places", "wanted"))
            requests = mean(run["requests_per_image"] for run in own)
            cells = f"{requests:.2f} | {places} of {wanted} places"
        speed = f"{found['median']:.0f} ({found['low']:.0f} .. {found['high']:.0f})"
        print(f"| {case} | {speed} | {cells} |")
    share, requests = results["share_of_bound"], results["requests_per_image"]
    print(
        f"{share:.0%} of the lower bound ({results['bound']['median']:.0f} images/s), goal "
        f"{GOAL_SHARE:.0%}: {_verdict(share >= GOAL_SHARE)}\n"
        f"{requests:.2f} requests per image, goal {GOAL_REQUESTS}: "
        f"{_verdict(requests <= GOAL_REQUESTS)}; the original {ORIGINAL_REQUESTS}\n"
        f"{results['mb_per_image']:.2f} MB per image; the original {ORIGINAL_MB} MB\n"
        f"all places complete and verified: {_verdict(results['is_complete'])}"
    )


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    run(main)
