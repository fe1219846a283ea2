r"""Try to lose or damage something, tens of thousands of times, and count what was lost.

  python -m benchmarks.reliability --quick
  python -m benchmarks.reliability --folder reliability
  python -m benchmarks.reliability --parts images tables

The first takes two minutes of CPU time, the second hours; both resume where they were interrupted.
The last column does the same to a plain Lightning script with its defaults, plain_training.py.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.trials import Trial
from utils.cli import run
from utils.errors import UserError, printable
from utils.flags import Parser
from utils.progress import progress
from utils.report import provenance, write_json

RESULTS = Path(__file__).parent / "results" / "reliability.json"
BLOCK_S = 10.0  # between two writes of a part's state
_SHOWN = 5  # failures that are kept word by word


class Part(NamedTuple):
    """A kind of trial.

    Attributes:
        title: What is tried.
        module: Module in this folder.
        function: Function ``(start, stop, folder) -> Iterator[Trial]`` in it.
        full: Number of trials.
        quick: Number of trials with ``--quick``.
    """

    title: str
    module: str
    function: str
    full: int
    quick: int


PARTS = {
    "resume": Part("Stop at any step, resume bit for bit", "resume", "part", 153, 1),
    "kills": Part("SIGKILL, then the same command", "checkpoints", "kills", 500, 5),
    "mutations": Part("Mutated checkpoints", "checkpoints", "mutations", 10_000, 100),
    "disk": Part("Full, failing, read-only disk in a save", "checkpoints", "disk_faults", 300, 4),
    "bad_steps": Part("Steps that are not finite", "training", "bad_steps", 50, 4),
    "processes": Part("Killed ranks, loaders, children", "training", "kills", 50, 4),
    "reads": Part("Reads that hang", "training", "hanging_reads", 20, 1),
    "stores": Part("Stores cut while mapped", "training", "shrinking_stores", 20, 1),
    "outputs": Part("Outputs that go away", "training", "lost_outputs", 20, 4),
    "verify": Part("Damaged data sets are detected", "verify", "verify_part", 5500, 110),
    "images": Part("Mutated TIFF, JPEG, PNG in ten readers", "files", "images", 50_000, 500),
    "tables": Part("Mutated LMDB, parquet, zip, JSON, lists", "tables", "tables", 10_000, 500),
    "bombs": Part("Files that decode to gigabytes", "bombs", "bombs", 165, 10),
    "endless": Part("Pipes, devices, sockets, 3 GB files", "bombs", "endless", 165, 165),
}
# The same trials of a plain Lightning script.
PLAIN = {
    "resume": Part("SIGTERM, then the same command", "plain", "signals", 30, 0),
    "kills": Part("SIGKILL, then the same command", "plain", "kills", 30, 0),
    "mutations": Part("a flipped bit", "plain", "flips", 200, 0),
    "disk": Part("no space", "plain", "full_disks", 30, 0),
    "bad_steps": Part("NaN in a batch", "plain", "bad_batches", 30, 0),
    "processes": Part("killed loader", "plain", "killed_workers", 30, 0),
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="few trials of each part, none of plain Lightning")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    add("--folder", type=Path, default=Path("reliability"), help="folder of trials and their state")
    add("--save_path", type=Path, help=f"JSON to write (default: {RESULTS.name} in benchmarks)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the parts, write the JSON, print the table, and return the JSON's content."""
    args = parse_args(argv)
    torch.set_num_threads(1)  # trials are forks, which would wait for threads that they lack
    args.folder = args.folder.absolute() / ("quick" if args.quick else "full")
    commit = provenance(args)["git_commit"]
    path = args.save_path or (args.folder / RESULTS.name if args.quick else RESULTS)
    known = json.loads(path.read_text()) if path.exists() else {}
    parts, plain = known.get("parts", {}), known.get("plain", {})
    for name in args.parts:
        for rows, results in ((PARTS, parts), (PLAIN, plain)):
            part = rows.get(name)
            if part is not None and (wanted := part.quick if args.quick else part.full):
                place = args.folder / ("plain" if rows is PLAIN else "ours") / name
                results[name] = _run(part, wanted, place, commit)
                write_json(path, {"parts": parts, "plain": plain} | provenance(args))
    print("\n".join(table(parts, plain)))
    print(f"results: {path}")
    return {"parts": parts, "plain": plain}


def _run(part: Part, wanted: int, folder: Path, commit: str | None) -> dict[str, Any]:
    """Run the trials of a part that its state in the folder lacks, and return the state."""
    path = folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    if not state or state["wanted"] != wanted:
        state = {"title": part.title, "wanted": wanted, "count": 0, "failures": 0, "seconds": 0.0}
        state |= {"examples": [], "commits": []}
    folder.mkdir(parents=True, exist_ok=True)
    function = getattr(import_module(f"benchmarks.reliability_{part.module}"), part.function)
    trials: Iterator[Trial] = function(state["count"], wanted, folder / "trials")
    begun = saved = time.monotonic()
    bar = progress(
        desc=part.title, total=wanted, initial=state["count"], unit=" trials", leave=False
    )
    with bar:
        for trial in trials if state["count"] < wanted else ():
            state["count"] += 1
            bar.update()
            if trial.failure is not None:
                state["failures"] += 1
                text = printable(f"{trial.name}: {trial.failure}")[:500]
                state["examples"] = (state["examples"] + [text])[:_SHOWN]
                bar.write(text)
            now = time.monotonic()
            if now - saved > BLOCK_S:
                state["seconds"], begun, saved = state["seconds"] + now - begun, now, now
                write_json(path, state)
    state["seconds"] = round(state["seconds"] + time.monotonic() - begun, 1)
    state["commits"] = sorted({*state["commits"], str(commit)})
    if not state["count"]:
        raise UserError(f"{part.function} of benchmarks/reliability_{part.module}.py ran no trial")
    write_json(path, state)
    rate = state["seconds"] / state["count"]
    print(
        f"{part.title}: {state['count']:,} of {wanted:,} trials, {state['failures']} failures, "
        f"{state['seconds']:.0f} s, {rate:.3g} s a trial",
        flush=True,
    )
    return state


def table(parts: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        parts: State of each part, by name.
        plain: The same of the plain script.
    """
    rows = [("what is tried", "trials", "failures", "plain Lightning: failures of trials")]
    for name, one in parts.items():
        of_plain = plain.get(name)
        other = "-"
        if of_plain:
            other = f"{of_plain['failures']} of {of_plain['count']} ({of_plain['title']})"
        planned = f" of {one['wanted']:,}" if one["count"] < one["wanted"] else ""
        rows.append((one["title"], f"{one['count']:,}{planned}", str(one["failures"]), other))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|---:|---:|---|", *lines[1:]]


if __name__ == "__main__":
    run(main)
