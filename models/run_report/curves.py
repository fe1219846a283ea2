"""Curves of pre-trainings, alone or on top of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.run_report.page import COLORS, Section, new_figure, note, svg, table
from models.run_report.run_files import Run
from utils.plots import running_mean

_STYLES = ("-", "--", ":")  # of the spaces, when several runs are shown
EXPLAINED = {
    "all": "Z0, invariant to season and synthetic change",
    "season": "Z1, invariant to the season",
    "synthetic": "Z2, invariant to synthetic change",
}
_PANELS = {"loss": "train/loss_", "accuracy": "train/accuracy_", "spread": "train/spread_"}


def curve_sections(runs: Sequence[Run], spaces: Sequence[str]) -> list[Section]:
    """Return the sections about the training of one or several runs.

    Args:
        runs: Pre-trainings with the same spaces.
        spaces: Name of each space: "all", "season" or "synthetic".
    """
    runs = [run for run in runs if run.rows]
    if not runs:
        return [Section("Is it training?", note("No step has been logged yet."))]
    sections = [Section("Is it training?", _training(runs, spaces))]
    if any(name.startswith("online/") for run in runs for row in run.rows for name in row):
        sections.append(Section("Probes during the training", _probes(runs)))
    return sections


def _training(runs: Sequence[Run], spaces: Sequence[str]) -> str:
    figure = new_figure(12, 3.6)
    grid = figure.subplots(1, len(_PANELS))
    for axes, (title, prefix) in zip(grid, _PANELS.items(), strict=True):
        for number, run in enumerate(runs):
            for space, name in enumerate(spaces):
                color = COLORS[(space if len(runs) == 1 else number) % len(COLORS)]
                style = "-" if len(runs) == 1 else _STYLES[space % len(_STYLES)]
                label = name if len(runs) == 1 else f"{run.name}, {name}"
                _draw(axes, run, f"{prefix}{space}", label, color, style)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.2)
    chance, filled = _chance(runs[0], len(spaces)), _steps_to_fill(runs[0])
    for space, classes in enumerate(chance):
        color = COLORS[space % len(COLORS)]
        grid[0].axhline(math.log(classes), color=color, linewidth=0.8, alpha=0.6, dashes=(1, 2))
        grid[1].axhline(1 / classes, color=color, linewidth=0.8, alpha=0.6, dashes=(1, 2))
    for axes in grid[:2]:
        axes.axvspan(0, filled, color="#999999", alpha=0.18, linewidth=0)
    grid[0].legend(fontsize="small")
    meanings = ", ".join(f"{name}: {EXPLAINED.get(name, name)}" for name in spaces)
    return svg(
        figure,
        f"{meanings}. Thin lines are logged values, thick ones their running means. Dotted lines "
        "are chance: a query that picks one of all keys. Grey: the queue still fills with keys of "
        "this run, and queries meet random vectors, which are easy to tell apart; accuracy falls "
        "there, and loss rises, in a healthy run. A spread near 0 is a collapse.",
    ) + "".join(_verdict(run, spaces, is_named=len(runs) > 1) for run in runs)


def _verdict(run: Run, spaces: Sequence[str], *, is_named: bool) -> str:
    """Return a table of where each space stands at the end, next to chance."""
    rows = []
    for space, (name, classes) in enumerate(zip(spaces, _chance(run, len(spaces)), strict=True)):
        last = [_last(run, f"{prefix}{space}") for prefix in _PANELS.values()]
        rows.append((name, last[0], math.log(classes), last[1], 1 / classes, last[2]))
    head = ("space", "loss", "by chance", "accuracy", "by chance", "spread")
    return (note(run.name) if is_named else "") + table(head, rows)


def _probes(runs: Sequence[Run]) -> str:
    names = sorted({n for run in runs for row in run.rows for n in row if n.startswith("online/")})
    figure = new_figure(5 * len(names), 3.4)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, run in enumerate(runs):
            points = _points(run.rows, name)
            axes.plot(*points.T, marker="o", color=COLORS[number % len(COLORS)], label=run.name)
        axes.set(title=name.removeprefix("online/").replace("_", ", "), xlabel="step", ylabel="%")
        axes.grid(alpha=0.2)
        axes.legend(fontsize="small")
    return svg(figure, "Accuracy, or average precision, of probes on the encoder so far.")


def _draw(axes: Any, run: Run, name: str, label: str, color: str, style: str) -> None:
    points = _points(run.rows, name)
    if len(points):
        steps, values = points.T
        axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.7)
        marker = "." * (len(steps) < 2)
        axes.plot(steps, running_mean(values), style, color=color, label=label, marker=marker)


def _points(rows: Sequence[dict[str, float]], name: str) -> np.ndarray:
    """Return steps and values of a column, shape (N, 2)."""
    found = [(row["step"], row[name]) for row in rows if name in row and "step" in row]
    return np.array(found, np.float64).reshape(-1, 2)


def _last(run: Run, name: str) -> float | None:
    points = _points(run.rows, name)
    return float(running_mean(points[:, 1])[-1]) if len(points) else None


def _samples_per_step(run: Run) -> int:
    flags = run.arguments
    processes = max(1, flags.get("gpus") or flags.get("num_processes") or 1)
    split = 1 if flags.get("accelerator") == "dp" else processes * (flags.get("num_nodes") or 1)
    return int(flags.get("batch_size") or 1) * split


def _chance(run: Run, num_spaces: int) -> list[int]:
    """Return the number of keys among which a query finds its own, per space."""
    keys = 1 + int(run.arguments.get("num_negatives") or 1)
    more = (num_spaces - 1) * _samples_per_step(run)  # of the other views, but in space 0
    return [keys + more * (space > 0) for space in range(num_spaces)]


def _steps_to_fill(run: Run) -> int:
    return -(-int(run.arguments.get("num_negatives") or 1) // _samples_per_step(run))
