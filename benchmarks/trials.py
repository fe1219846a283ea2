"""The result of one trial of a reliability test, and trials in children that may die of them."""

import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

MAX_MEMORY = 2**30  # of a trial, besides what its child has at the start
TIMEOUT_S = 120.0  # of a trial that takes milliseconds; the machine may be busy


class Trial(NamedTuple):
    """One attempt to lose or to damage something.

    Args:
        name: What was tried: kind, place and instant.
        failure: What went wrong; None if nothing did.
    """

    name: str
    failure: str | None


# Name of a trial, and the function that runs it and returns what failed.
Attempt = tuple[str, Callable[[], str | None]]


def in_children(attempt: Callable[[int], Attempt], start: int, stop: int) -> Iterator[Trial]:
    """Run trials in a forked child, which is replaced when one kills it.

    A death by a signal, two time-outs and more than ``MAX_MEMORY`` are failures of the trial, and
    so are exceptions.

    Args:
        attempt: Prepares the trial of a number.
        start: Number of the first trial.
        stop: Number after the last trial.
    """
    at, tried = start, -1
    while at < stop:
        reader, writer = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(attempt, range(at, stop), writer)
        os.close(writer)
        name = ""
        with os.fdopen(reader, "rb") as lines:
            for line in _until_stuck(lines):
                name, is_done, failure = json.loads(line)
                if is_done:
                    yield Trial(name, failure)
                    at += 1
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # nothing if it has ended
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL and tried < at < stop:
            tried = at  # once more, alone in its child
        elif code != 0 and at < stop:
            stuck = code == -signal.SIGKILL
            why = f"no end after {TIMEOUT_S:g} s" if stuck else f"the process ended with {code}"
            yield Trial(name, why)
            at += 1


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _until_stuck(lines: IO[bytes]) -> Iterator[bytes]:
    """Yield lines until the end, or until none has come for ``TIMEOUT_S``."""
    descriptor, data = lines.fileno(), b""
    while select.select([descriptor], [], [], TIMEOUT_S)[0]:
        new = os.read(descriptor, 2**16)
        if not new:
            return
        *whole, data = (data + new).split(b"\n")
        yield from whole


def _work(attempt: Callable[[int], Attempt], numbers: range, writer: int) -> NoReturn:
    """Run trials and write a line for each; end after one that took too much memory."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C report each damaged file
        start, size = peak_memory(), int(Path("/proc/self/statm").read_text().split()[0])
        limit = size * resource.getpagesize() + MAX_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in numbers:
            name, run = attempt(number)
            _write(writer, name, False, None)
            try:
                failure = run()
            except BaseException:
                failure = traceback.format_exc(limit=-3)[-800:]
            grown = peak_memory() - start
            if grown > MAX_MEMORY:
                failure = failure or f"{grown / 1e9:.2f} GB of memory"
            _write(writer, name, True, failure)
            if grown > MAX_MEMORY:
                break
        code = 0
    finally:
        os._exit(code)


def _write(writer: int, *fields: object) -> None:
    os.write(writer, json.dumps(fields).encode() + b"\n")
