"""Trials of a pre-training that meets bad numbers, killed processes, hanging and shrinking files.

Each trial looks at exit code, output and files of a run, and at the processes that it leaves.
"""

import math
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.forked_training import STEPS, data_of, train
from benchmarks.training_faults import (
    at_step,
    check_bad_step,
    die,
    die_reading,
    hang,
    lose_folder,
    lose_output,
    spoil,
)
from benchmarks.trials import Trial
from utils.errors import LOST_PROCESS

_PARTS = ("query", "key", "loss", "gradient")


def bad_steps(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Spoil an input, a key, the loss or a gradient of one step, with one and two processes.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Folder of the trials.
    """
    for number in range(start, stop):
        part, processes = _PARTS[number % 4], 1 + number // 4 % 2
        spoiled = number // 8 % processes
        value = (math.nan, math.inf, -math.inf)[number // 16 % 3]
        step = number // 3 % (STEPS // processes - 1)  # not the last one, which ends the run
        fault = partial(spoil, part, value, step, spoiled)
        ended = train(folder, fault, processes=processes)
        is_right = (
            ended.code == 0
            and "warning: 1 steps were skipped" in ended.text
            and not ended.sentences()
        )
        failure = check_bad_step(ended.log_dir) if is_right else ended.described()
        yield Trial(f"{part} {value} at step {step} in process {spoiled} of {processes}", failure)


def kills(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Kill a loader worker, the first process or another one, between two steps or within one.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Folder of the trials.
    """
    for number in range(start, stop):
        kind = ("worker", "worker of two", "process 0 of two", "process 1 of two")[number % 4]
        step = number // 4 % 3
        processes = 1 + ("two" in kind)
        if kind.startswith("worker"):
            fault = partial(die_reading, 1 + step)
            ended = train(folder, fault, workers=1, processes=processes)
            failure = ended.expect(2, "a loader process was killed")
        else:
            victim = int(kind.split()[1])
            ended = train(folder, partial(at_step, step, die, victim), processes=2)
            code = LOST_PROCESS if victim else -signal.SIGKILL
            failure = ended.expect(code, "killed")
        yield Trial(f"{kind} at step {step}", failure)


def hanging_reads(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Let a file hang for three seconds, of which one is the limit; the run must go on.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Folder of the trials.
    """
    for number in range(start, stop):
        workers, at = number % 2, 5 + number
        ended = train(folder, partial(hang, at, 1.0), workers=workers)
        is_named = ".tif has not been read for" in ended.text
        is_right = (ended.code, is_named, ended.sentences()) == (0, True, [])
        yield Trial(f"file {at}, {workers} workers", None if is_right else ended.described())


def shrinking_stores(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Cut a packed store while a training reads it.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Folder of the trials.
    """
    for number in range(start, stop):
        step, kept = number % 3, number * 997 % 20_000
        store = folder / f"cut{number}"
        shutil.copytree(data_of(folder).with_name("store"), store, dirs_exist_ok=True)
        file = next(store.glob("rgb*"))
        cut = partial(os.truncate, file, kept)
        ended = train(folder, partial(at_step, step, cut), data=store)
        shutil.rmtree(store)
        failure = ended.expect(2, f"{file} became shorter")
        yield Trial(f"{kept} bytes kept at step {step}", failure)


def lost_outputs(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Fill or close the standard output, remove or rename the folder of the run.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Folder of the trials.
    """
    for number in range(start, stop):
        kind = ("full output", "closed output", "removed folder", "renamed folder")[number % 4]
        step = number // 4 % (STEPS - 1)
        if "output" in kind:
            ended = train(folder, partial(lose_output, kind))
            is_right = ended.code == 0 and not ended.sentences()
            is_right &= "the results are written, but" in ended.text
            failure = None if is_right else ended.described()
        else:
            lose = partial(lose_folder, kind, folder / "logs")
            ended = train(folder, partial(at_step, step, lose))
            failure = ended.expect(2, "")
        yield Trial(f"{kind} at step {step}", failure)
