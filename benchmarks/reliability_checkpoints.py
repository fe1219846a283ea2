"""Kills at random instants, faults of the disk and damaged files: is a checkpoint ever lost?

python -m benchmarks.reliability_checkpoints kills 0 500 --folder DIR
"""

from __future__ import annotations

import json
import random
import shutil
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.training_trials import (
    FINAL,
    HANG_S,
    Sabotage,
    checkpoints_of,
    fingerprint,
    kill_here,
    last_checkpoint,
    moment,
    reference,
    start,
    wait,
)
from benchmarks.trials import Trial
from utils.errors import UserError


def kills(begin: int, end: int, folder: Path) -> Iterator[Trial]:
    """Kill runs by SIGKILL: two of five within a save, the others at any instant; then resume.

    Args:
        begin: Number of the first trial.
        end: Number after the last trial.
        folder: Folder of the trials.
    """
    known = reference(folder)
    for number in range(begin, end):
        rng, log_dir = random.Random(number), folder / f"kill_{number}"
        is_within = number % 5 < 2
        longest, code = known.seconds, 0
        for _ in range(9):  # until a run has not ended before it is killed
            at = rng.randrange(known.calls)
            sabotage = Sabotage("checkpoints", kill_here(rng), at)
            prepare = sabotage.install if is_within else lambda: None
            after = HANG_S if is_within else rng.uniform(0, longest)
            name = f"call {at} of a save" if is_within else f"after {after:.2f} s"
            code = wait(start(folder, log_dir, prepare=prepare), kill_after=after).code
            if code != 0:
                break
            shutil.rmtree(log_dir)
            longest /= 2
        failure = None if code == -9 else f"the run ended with {code} before it was killed"
        failure = failure or _unlike(folder, log_dir) or _not_resumed(folder, log_dir)
        yield Trial(f"kill {number} {name}", failure)
        if failure is None:
            shutil.rmtree(log_dir, ignore_errors=True)


def _unlike(folder: Path, log_dir: Path) -> str | None:
    """Return how checkpoints differ from those of the reference; None if they are equal."""
    from utils.checkpoint import read_checkpoint

    for path in log_dir.rglob("*.ckpt"):
        try:
            found = read_checkpoint(path)
        except UserError as error:
            return f"unreadable: {error}"
        if reference(folder).states.get(moment(found)) != fingerprint(found):
            return f"{path.name} of step {moment(found)} differs from the reference"
    if checkpoints_of(log_dir, "previous.ckpt") and not checkpoints_of(log_dir, "last.ckpt"):
        return "last.ckpt is lost"
    return None


def _not_resumed(folder: Path, log_dir: Path) -> str | None:
    """Run the same command again, and return how its end differs from the reference."""
    had = checkpoints_of(log_dir, "last.ckpt")
    ended = wait(start(folder, log_dir), log_dir)
    if ended.code:
        return f"resumed with exit code {ended.code}: {ended.text[-500:]}"
    if had and f"resuming {had[-1]}" not in ended.text:
        return f"did not resume last.ckpt: {ended.text[-500:]}"
    if fingerprint(last_checkpoint(log_dir)) != reference(folder).states[FINAL]:
        return "the resumed run ended otherwise"
    left = [str(path) for path in log_dir.rglob(".*.partial")]
    return f"left {left}" if left else None


PARTS: dict[str, Callable[[int, int, Path], Iterator[Trial]]] = {"kills": kills}


def main() -> None:
    """Run trials of one part, and append a line for each to a file."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("begin", type=int)
    parser.add_argument("end", type=int)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / f"{args.part}_{args.begin}.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    failures = 0
    for trial in PARTS[args.part](args.begin + done, args.end, args.folder):
        with path.open("a") as file:
            file.write(json.dumps(trial) + "\n")
        failures += trial.failure is not None
        if trial.failure:
            print(trial, flush=True)
    print(f"{args.part}: {args.end - args.begin} trials, {failures} failures in the last part")


if __name__ == "__main__":
    main()
