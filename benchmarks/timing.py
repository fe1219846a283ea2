"""Honest timings: warm-up, interleaved repeats, medians with quartiles, waits for the device."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

Measure = Callable[[], float]  # one repeat of a case, in units per second


@dataclass(frozen=True)
class Rates:
    """Units per second of one case, one number per repeat, in their order."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle repeat."""
        return median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which half of the repeats lie; NumPy's linear interpolation."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    def summary(self) -> dict[str, float | tuple[float, ...]]:
        """Return all of it for a JSON file."""
        low, high = self.quartiles
        return {"median": self.median, "low": low, "high": high, "values": self.values}

    def over(self, other: "Rates") -> float:
        """Return how many times faster this case is: the median of the ratios of each round.

        A slow moment of the machine hits both sides of a round, and cancels.
        """
        return median(a / b for a, b in zip(self.values, other.values, strict=True))


def interleave(cases: Mapping[str, Measure], repeats: int) -> dict[str, Rates]:
    """Measure every case once per round, in as many rounds as there are repeats."""
    rounds = [{name: measure() for name, measure in cases.items()} for _ in range(repeats)]
    return {name: Rates(tuple(values[name] for values in rounds)) for name in cases}


def rate(work: Callable[[], object], units: int, device: torch.device) -> Measure:
    """Make a measurement of a call that handles so many units."""
    return lambda: units / seconds(work, device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time a call; on a GPU by its own clock, from the first kernel to the end of the last."""
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        first.record()
        work()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1000  # it counts milliseconds
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def clock(device: torch.device) -> float:
    """Return the time in seconds once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def one_core() -> Iterator[None]:
    """Compute with one thread and, where the system can, keep all new threads on one core."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    if cores is not None:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores is not None:
            os.sched_setaffinity(0, cores)
