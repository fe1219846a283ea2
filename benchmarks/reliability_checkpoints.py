"""Kills at random instants, faults of the disk and damaged files: is a checkpoint ever lost?

python -m benchmarks.reliability_checkpoints kills 0 500 --folder DIR
"""

from __future__ import annotations

import gc
import io
import json
import random
import shutil
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import torch

import main_pretrain
import models.export
from benchmarks import trials
from benchmarks.checkpoint_mutations import damaged_bytes, damaged_zip, wrong_content
from benchmarks.disk_faults import FAULTS, disk, fault
from benchmarks.sabotage import Sabotage, kill_here
from benchmarks.training_trials import (
    FINAL,
    HANG_S,
    NO_REPORT,
    Ended,
    checkpoints_of,
    fingerprint,
    flags_of,
    last_checkpoint,
    moment,
    reference,
    start,
    wait,
    without_pictures,
)
from benchmarks.trials import Attempt, Trial
from models.encoder_file import read_encoder_file
from utils.checkpoint import check_resumable, read_checkpoint
from utils.errors import UserError
from utils.resume import ARGUMENTS
from utils.torch_files import read_torch_file, save_torch_file

_BLOCK = 50  # trials in one child


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
            child = start(folder, log_dir, NO_REPORT, prepare=prepare)
            code = wait(child, kill_after=after).code
            if code != 0:
                break
            shutil.rmtree(log_dir)
            longest /= 2
        failure = None if code == -9 else f"the run ended with {code} before it was killed"
        failure = failure or _unlike(folder, log_dir) or _not_resumed(folder, log_dir)
        yield Trial(f"kill {number} {name}", failure)
        if failure is None:
            shutil.rmtree(log_dir, ignore_errors=True)


def mutations(begin: int, end: int, folder: Path) -> Iterator[Trial]:
    """Damage checkpoints and encoders; both doors must refuse them, or find what was written.

    Args:
        begin: Number of the first trial.
        end: Number after the last trial.
        folder: Folder of the trials.
    """
    reference(folder)
    for block in range(begin, end, _BLOCK):  # trainings do not give all their memory back
        attempt = _Damaged(folder, block).attempt
        with patch.object(trials, "TIMEOUT_S", HANG_S):
            yield from trials.in_children(attempt, block, min(block + _BLOCK, end))


class _Damaged:
    """Damages the last checkpoint but one of the reference, and opens it; lives in the child."""

    def __init__(self, folder: Path, block: int) -> None:
        self.folder, self.run_dir = folder, folder / f"mutated_{block}" / "version_0"
        self.path = self.run_dir / "checkpoints" / "last.ckpt"

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Return whole files: of this code, of older code without a digest, and an export."""
        (source,) = checkpoints_of(self.folder / "reference" / "logs", "previous.ckpt")
        names = ("new.ckpt", "old.ckpt", "exported.ckpt")
        small, older, exported = (self.run_dir / name for name in names)
        shutil.rmtree(self.run_dir, ignore_errors=True)  # of a child that died
        self.path.parent.mkdir(parents=True)
        (self.path.parent / ARGUMENTS).write_bytes((source.parent / ARGUMENTS).read_bytes())
        self.content = read_torch_file(source)
        self.encoder = read_encoder_file(source)
        # Damaged bytes need no training to be found: a file of a third of the size will do.
        encoder = {k: v for k, v in self.content["state_dict"].items() if "encoder_q" in k}
        content = self.content | {"state_dict": encoder, "optimizer_states": []}
        save_torch_file(content, small)
        torch.save(content, older)
        self.small = fingerprint(content)
        export = ("--ckpt_path", str(source), "--save_path", str(exported))
        with redirect_stdout(io.StringIO()):
            models.export.main([*export, "--format", "safetensors"])
        return {path.name: path.read_bytes() for path in (small, older, exported)}

    def attempt(self, number: int) -> Attempt:
        """Damage a file; return what was done, and the function that reads it."""
        rng, files = random.Random(number), self.files
        if number % 8 == 0:
            what = wrong_content(self.content, rng, self.path)
        else:
            # Without a digest, a whole zip with other records would be another checkpoint.
            is_zip = rng.random() < 0.2
            name = "new.ckpt" if is_zip else rng.choice(tuple(files))
            what, data = (damaged_zip if is_zip else damaged_bytes)(files[name], rng)
            self.path.write_bytes(data)
            what = f"{name} {what}"
        return f"mutation {number} {what}", lambda: self.read(what)

    def read(self, what: str) -> str | None:
        """Return what a door accepts although it is not what was written."""
        with suppress(UserError):
            encoder = read_encoder_file(self.path)
            same = encoder.architecture == self.encoder.architecture
            same &= fingerprint(encoder.tensors) == fingerprint(self.encoder.tensors)
            # A valid contract of another kind looks like the right one.
            if not same or (encoder.spec != self.encoder.spec and "hyper_param" not in what):
                return "another encoder was read"
        hparams = self.content["hyper_parameters"]
        with suppress(UserError, SystemExit), redirect_stdout(io.StringIO()):
            check_resumable(self.path, hparams, samples_per_step=2, max_epochs=2)
            if ".ckpt " in what:
                is_same = fingerprint(read_torch_file(self.path)) == self.small
                return None if is_same else "another checkpoint was read"
            flags = [*flags_of(self.folder, self.folder), NO_REPORT, "--resume_from_checkpoint"]
            with without_pictures():
                main_pretrain.main([*flags, str(self.path)])
            gc.collect()
            if fingerprint(read_torch_file(self.path)) != reference(self.folder).states[FINAL]:
                return "the resumed run ended otherwise"
        return None


def disk_faults(begin: int, end: int, folder: Path) -> Iterator[Trial]:
    """Let the disk fail while a run writes; then heal it and resume.

    The first kinds are real: a full or read-only file system, a limit of file sizes, and a folder
    of another user. They need the rights of root, without which they are errors put in the place
    of system calls, as the other kinds are.

    Args:
        begin: Number of the first trial.
        end: Number after the last trial.
        folder: Folder of the trials.
    """
    known = reference(folder)
    for number in range(begin, end):
        rng, log_dir = random.Random(number), folder / f"disk_{number}" / "logs"
        policy, at = rng.choice(("stop", "continue")), rng.randrange(known.log_calls)
        kind = FAULTS[number % len(FAULTS)]
        log_dir.parent.mkdir()
        with disk(log_dir.parent, kind, rng) as heal:
            sabotage = Sabotage("logs", fault(kind, log_dir.parent, rng), at)
            child = start(folder, log_dir, "--on_save_error", policy, prepare=sabotage.install)
            ended = wait(child, log_dir)
            heal()
            failure = _untold(ended, policy) or _unlike(folder, log_dir)
            failure = failure or _not_resumed(folder, log_dir)
        yield Trial(f"{kind} from call {at} on, {policy}", failure)
        if failure is None:
            shutil.rmtree(log_dir.parent)


def _untold(ended: Ended, policy: str) -> str | None:
    """Return what is wrong with the end of a run on a failing disk: one sentence and exit code 2.

    A run may also end well, if it survived, or if the disk was large enough.
    """
    errors = sum(line.startswith("error: ") for line in ended.text.splitlines())
    continued = "the training continues" in ended.text
    if ended.code not in (0, 2) or errors != (ended.code == 2) or "Traceback" in ended.text:
        return f"exit code {ended.code}: {ended.text[-800:]}"
    if continued and policy == "stop":
        return f"continued with --on_save_error stop: {ended.text}"
    return None


def _unlike(folder: Path, log_dir: Path) -> str | None:
    """Return how checkpoints differ from those of the reference; None if they are equal."""
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
    states = reference(folder).states
    if had and fingerprint(read_checkpoint(had[-1])) == states[FINAL]:
        return None  # it was finished
    ended = wait(start(folder, log_dir, NO_REPORT), log_dir)
    if ended.code:
        return f"resumed with exit code {ended.code}: {ended.text[-500:]}"
    if had and f"resuming {had[-1]}" not in ended.text:
        return f"did not resume last.ckpt: {ended.text[-500:]}"
    if fingerprint(last_checkpoint(log_dir)) != states[FINAL]:
        return "the resumed run ended otherwise"
    left = [str(path) for path in log_dir.rglob(".*.partial")]
    return f"left {left}" if left else None


PARTS: dict[str, Callable[[int, int, Path], Iterator[Trial]]] = {
    "kills": kills,
    "mutations": mutations,
    "disk_faults": disk_faults,
}


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
