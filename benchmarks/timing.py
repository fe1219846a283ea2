"""Honest timings: interleaved rounds, medians with quartiles, waits for the device, a bar chart."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from utils.plots import save_figure

Measure = Callable[[], float]  # one repeat of a case, in units per second


@dataclass(frozen=True)
class Rates:
    """Units per second of one case, one number per round, in their order.

    Attributes:
        values: Units per second of each round.
        busy: CPU seconds of this process per second of each round, all threads together.
    """

    values: tuple[float, ...]
    busy: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The middle round."""
        return median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Limits of the middle half of the rounds; NumPy's linear interpolation."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    def summary(self) -> dict[str, Any]:
        """Return median, quartiles and values, for a JSON file."""
        low, high = self.quartiles
        found = {"median": self.median, "low": low, "high": high, "values": self.values}
        return found | ({"busy": self.busy} if self.busy else {})

    def per_cpu_second(self) -> "Rates":
        """Return units per second of CPU time, which other processes take nothing from."""
        return Rates(tuple(a / b for a, b in zip(self.values, self.busy, strict=True)))

    def over(self, other: "Rates") -> float:
        """Return how many times faster this case is: the median of the ratios of each round.

        A slow moment of the machine hits both sides of a round, and cancels.
        """
        return median(a / b for a, b in zip(self.values, other.values, strict=True))


def interleave(cases: Mapping[str, Measure], repeats: int) -> dict[str, Rates]:
    """Measure every case once per round.

    Args:
        cases: Measurement of each case.
        repeats: Number of rounds.
    """
    rounds = [{name: _timed(case) for name, case in cases.items()} for _ in range(repeats)]
    found = {name: zip(*(each[name] for each in rounds), strict=True) for name in cases}
    return {name: Rates(*columns) for name, columns in found.items()}


def _timed(measure: Measure) -> tuple[float, float]:
    """Return the rate, and the CPU seconds per second of its measurement."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = measure()
    return found, (time.process_time() - cpu) / (time.perf_counter() - wall)


def rate(work: Callable[[], object], units: int, device: torch.device) -> Measure:
    """Make a measurement of a call: a function that returns units per second.

    Args:
        work: The call.
        units: Number of units that it handles.
        device: Device to wait for.
    """

    def measure() -> float:
        started = clock(device)
        work()
        return units / (clock(device) - started)

    return measure


def clock(device: torch.device) -> float:
    """Return the time in seconds once the device has finished its work."""
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


def plot_bars(path: Path, rates: Mapping[str, Rates], grey: str, **axis: Any) -> None:
    """Draw the rates as bars with their quartiles.

    Args:
        path: PNG to write.
        rates: Rates of each case.
        grey: Part of the name of the cases that are drawn in grey, for comparison.
        **axis: Properties of the axes, such as its label.
    """
    medians = [case.median for case in rates.values()]
    quartiles = np.array([case.quartiles for case in rates.values()]).T  # (2, cases)
    figure = Figure(figsize=(9, 0.32 * len(rates) + 1), layout="constrained")
    axes = figure.add_subplot()
    colors = ["tab:grey" if grey in name else "tab:green" for name in rates]
    bars = axes.barh(list(rates), medians, xerr=np.abs(quartiles - medians), color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=5)
    axes.margins(x=0.15)
    axes.set(**axis)
    axes.xaxis.set_major_formatter("{x:,g}")  # not as formulas, which figures do not draw
    axes.xaxis.set_minor_formatter("")
    axes.invert_yaxis()
    save_figure(figure, path)
