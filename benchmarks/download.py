r"""Images per second of the downloader from an Earth Engine on loopback, and two upper bounds.

  python -m benchmarks.download
  python -m benchmarks.download --json --plot docs/download.png

The real client talks to a server in a process of its own (``datasets.miniature.services``), which
answers after 50 ms and has the same pixels for all scenes; requests are limited to 40 at a time,
and not in rate. The bounds are what the same number of threads decodes and writes when the answers
are in memory, and 40 / 50 ms requests/s; the lower one counts. Then the same with 10 and 30 % of
the requests failing. In rounds of all cases; a ratio is the median of the rounds' ratios. Server
and downloader share the cores, so that the share of the server is reported, too.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from io import StringIO
from statistics import mean
from typing import IO, TYPE_CHECKING, Any, cast

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
    from datasets.collect.scenes import Candidates, Lack, PatchGrid, Place, Scene

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "download_cpu.json"
LATENCY_S, IN_FLIGHT = 0.05, 40
MAX_REQUESTS = IN_FLIGHT / LATENCY_S  # per second
FAULTS = (0.0, 0.1, 0.3)  # shares of the requests


@dataclass(frozen=True)
class Collected:
    """One run of the downloader.

    Attributes:
        share: Share of the requests that the server let fail.
        places: Complete places, without those that --verify finds damaged.
        wanted: Requested places.
        images_per_s: From the first request to the last line of the journal.
        requests_per_image: Repeats included.
        bytes_per_image: Bytes of all answers, without headers.
        client_ms: Milliseconds of a core per image in the downloader.
        server_ms: Milliseconds of a core per image in the server; NaN if it is not known.
    """

    share: float
    places: int
    wanted: int
    images_per_s: float
    requests_per_image: float
    bytes_per_image: float
    client_ms: float
    server_ms: float


@dataclass(frozen=True)
class Server:
    """A process that answers: its address, its number, and the share of failing requests."""

    url: str
    pid: int
    share: float


def remembering(source: EarthEngine, plan: Plan) -> EarthEngine:
    """Return a source that sends one request; later reads decode its answer in memory again."""
    from datasets.collect.earth_engine import EarthEngine

    class Remembering(EarthEngine):
        content: Any = None

        def _ask(self, request: Callable[[], Any]) -> Any:
            if self.content is None:
                self.content = super()._ask(request)
            return self.content

    return Remembering(plan.settings, source.transport)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, and write files if asked."""
    args = parse_args(argv)
    from benchmarks.download_report import plot, print_table

    load = os.getloadavg()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder, serving(FAULTS) as servers:
        results = measure(args, Path(folder), servers)
    results["load_before"] = load
    print_table(results)
    if args.json:
        write_json(RESULTS, results | provenance(args))
    if args.plot is not None:
        plot(args.plot, results)
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
def serving(shares: Sequence[float]) -> Iterator[list[Server]]:
    """Start a process per share of failing requests, which answers as Earth Engine does."""
    command = [sys.executable, "-m", "datasets.miniature.services", "--cheap_pixels"]
    command += ["--latency", str(LATENCY_S), "--fault_share"]
    processes = [
        subprocess.Popen([*command, str(share)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for share in shares
    ]
    try:
        urls = [cast(IO[str], process.stdout).readline().strip() for process in processes]
        yield [
            Server(url, process.pid, share)
            for url, process, share in zip(urls, processes, shares, strict=True)
        ]
    finally:
        for process in processes:
            process.terminate()
            process.communicate()


def measure(args: Namespace, folder: Path, servers: Sequence[Server]) -> dict[str, Any]:
    """Measure all cases in rounds."""
    from benchmarks.download_report import DECODE, case_name
    from benchmarks.timing import Rates, interleave
    from datasets.collect.plan import make_plan

    flags = downloader_flags(args, folder, servers[0])
    plan = make_plan(collect_args.settings_of(flags))
    for server in reversed(servers):  # the first, which nothing disturbs, last
        source, grid, scenes = warm_up(plan, downloader_flags(args, folder, server))
    memory = remembering(source, plan)
    memory.read(scenes[0], grid)
    runs: list[Collected] = []
    decode_ms: list[float] = []

    def decode() -> float:
        worked = time.process_time()
        rate = decode_once(plan, memory, scenes, folder, args.num_workers)
        worked = time.process_time() - worked
        decode_ms.append(1000 * worked / plan.num_places / len(scenes))
        return rate

    def collect(server: Server) -> float:
        runs.append(collect_once(plan, downloader_flags(args, folder, server), server))
        return runs[-1].images_per_s

    rates = interleave(
        {DECODE: decode}
        | {case_name(server.share): partial(collect, server) for server in servers},
        args.rounds,
    )
    good = [run for run in runs if run.share == 0]
    requests = mean(run.requests_per_image for run in good)
    at_most = Rates(tuple(min(x, MAX_REQUESTS / requests) for x in rates[DECODE].values))
    return {
        "images_per_second": {case: found.summary() for case, found in rates.items()},
        "share_of_bound": rates[case_name(0)].over(at_most),
        "max_requests": MAX_REQUESTS,
        "bound": at_most.summary() | {"is_requests": rates[DECODE].median > at_most.median},
        "requests_per_image": requests,
        "mb_per_image": mean(run.bytes_per_image for run in good) / 1e6,
        "share_of_undisturbed": {
            case: found.over(rates[case_name(0)])
            for case, found in rates.items()
            if case not in (DECODE, case_name(0))
        },
        "decode_ms": decode_ms,
        "is_complete": all(run.places == run.wanted for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def downloader_flags(args: Namespace, folder: Path, server: Server) -> Namespace:
    """Return the downloader's flags, as its command line gives them."""
    return collect_args.parse_args(
        None,
        [
            *("--save_path", str(folder / "collection"), "--ee_url", server.url),
            *("--num_locations", str(args.num_places), "--patch_px", str(args.patch_px)),
            *("--reference_date", "2022-03-01", "--num_workers", str(args.num_workers)),
            *("--max_in_flight", str(IN_FLIGHT), "--max_rate", "1e9", "--min_free_gb", "0"),
            *("--retry_wait", str(args.retry_wait), "--no_land_mask"),
        ],
    )


def warm_up(plan: Plan, flags: Namespace) -> tuple[EarthEngine, PatchGrid, list[Scene]]:
    """Let the server find and draw all that will be requested.

    Returns:
        The source, and the patch of a place with a scene for each date.
    """
    from datasets.collect.rate_limit import RateLimit, Requester
    from datasets.collect.scenes import Lack, choose

    source = cast("EarthEngine", seco_downloader.open_source(plan, flags))
    requester = Requester(RateLimit(IN_FLIGHT, 1e9), base_wait_s=0.01)

    def look(number: int) -> tuple[Place, Candidates | Lack]:
        place = plan.place(number)
        [scenes] = requester.call(partial(source.search, [place]))
        return place, choose(place, scenes, plan.settings)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        found = list(pool.map(look, range(len(plan.places))))
    for place, candidates in found:
        if not isinstance(candidates, Lack):
            scenes = [scenes[0] for scenes in candidates]
            requester.call(partial(source.read, scenes[0], place.grid))
            return source, place.grid, scenes
    raise UserError("no place has clear scenes: raise --num_places")


def decode_once(
    plan: Plan, source: EarthEngine, scenes: Sequence[Scene], folder: Path, num_workers: int
) -> float:
    """Decode and write as many images as a run collects, with as many threads: images/s."""
    from datasets.collect.writer import PlaceWriter

    save_path = folder / "decoded"
    writer = PlaceWriter(save_path, plan.settings, source.describe(), (0, 1))

    def work(number: int) -> None:
        place = plan.place(number)
        draft = writer.draft(place)
        for scene in scenes:
            draft.add(scene, source.read(scene, place.grid))
        draft.finish()

    started = time.perf_counter()
    with ThreadPoolExecutor(num_workers) as pool:
        list(pool.map(work, range(plan.num_places)))
    elapsed = time.perf_counter() - started
    shutil.rmtree(save_path)
    return plan.num_places * len(scenes) / elapsed


def collect_once(plan: Plan, flags: Namespace, server: Server) -> Collected:
    """Collect all places into an empty folder, verify it, and remove it."""
    from datasets.collect.plan import write_plan
    from datasets.collect.run import collect
    from datasets.collect.verify import REPORT_NAME, verify

    save_path = flags.save_path
    save_path.mkdir()
    write_plan(save_path, plan)
    with redirect_stdout(StringIO()) as shown, redirect_stderr(shown):
        source = cast("EarthEngine", seco_downloader.open_source(plan, flags))
        received, served = source.transport.web.bytes_received, cpu_seconds(server.pid)
        worked, started = time.process_time(), time.perf_counter()
        collect(plan, source, seco_downloader.new_requester(flags), flags)
        elapsed, worked = time.perf_counter() - started, time.process_time() - worked
        served = cpu_seconds(server.pid) - served
        verify(save_path, plan, flags.num_workers)
    checked = json.loads((save_path / REPORT_NAME).read_text())
    damaged = {found["place"] for found in checked["findings"] if found["is_damage"]}
    status = json.loads((save_path / "status.json").read_text())
    shutil.rmtree(save_path)
    images = status["images"]
    if not images:
        raise UserError(f"nothing could be collected: {shown.getvalue()}")
    return Collected(
        share=server.share,
        places=checked["places_done"] - len(damaged),
        wanted=plan.num_places,
        images_per_s=images / elapsed,
        requests_per_image=status["requests"] / images,
        bytes_per_image=(source.transport.web.bytes_received - received) / images,
        client_ms=1000 * worked / images,
        server_ms=1000 * served / images,
    )


def cpu_seconds(pid: int) -> float:
    """Return the core time of a process in seconds; NaN on systems other than Linux."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float("nan")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(main)
