"""Curves of pre-trainings, alone or on top of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.run_report.page import Section, new_figure, note, svg, table, warning
from models.run_report.queue import keys_of_a_query, own_keys_remark, steps_to_fill
from models.run_report.run_files import Run
from utils.plots import COLORS, running_mean

_STYLES = ("-", "--", ":")  # of the spaces, when several runs are shown
_MAX_POINTS = 1500  # of a curve; more are averaged, for a page of a few MB
_INVARIANCES = {"all": "season and synthetic change", "season": "the season"}
_PANELS = {"loss": "train/loss_", "accuracy": "train/accuracy_", "spread": "train/spread_"}
_TIMING_PANELS = {
    "learning rate": ("learning_rate",),
    "samples per second": ("samples_per_s",),
    "waiting for data, % of the time": ("waiting_percent",),
    "peak memory, GB": ("peak_memory_gb", "peak_gpu_memory_gb"),
}


def explained(spaces: Sequence[str]) -> dict[str, str]:
    """Return the meaning of each space by name; the only one of a mode has no number.

    Args:
        spaces: Name of each space: "all", "season" or "synthetic".
    """
    invariances = [f"invariant to {_INVARIANCES.get(name, f'{name} change')}" for name in spaces]
    if len(spaces) == 1:
        return {spaces[0]: f"the only space, {invariances[0]}"}
    return {name: f"Z{n}, {invariances[n]}" for n, name in enumerate(spaces)}


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
    if any(run.timing for run in runs):
        sections.append(Section("Speed and memory", _speed(runs)))
    return sections


def _training(runs: Sequence[Run], spaces: Sequence[str]) -> str:
    is_single = len(runs) == 1
    figure = new_figure(12, 4.0)
    grid = figure.subplots(1, len(_PANELS))
    for axes, (title, prefix) in zip(grid, _PANELS.items(), strict=True):
        for number, run in enumerate(runs):
            for space, name in enumerate(spaces):
                color = COLORS[(space if is_single else number) % len(COLORS)]
                style = "-" if is_single else _STYLES[space % len(_STYLES)]
                label = name if is_single else f"{run.name}, {name}"
                _draw(axes, _points(run.rows, f"{prefix}{space}"), label, color, style)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.2)
    for space, classes in enumerate(keys_of_a_query(runs[0], len(spaces))):
        color = COLORS[space % len(COLORS)] if is_single else COLORS[-1]
        for axes, value in zip(grid, (math.log(classes), 1 / classes), strict=False):
            axes.axhline(value, color=color, linewidth=0.8, alpha=0.8, dashes=(1, 2))
    filled = steps_to_fill(runs[0])
    for axes in grid[:2]:
        axes.axvspan(0, filled, color="#999999", alpha=0.18, linewidth=0)
    _legend_below(figure, grid[0])
    meanings = ", ".join(f"{name}: {meaning}" for name, meaning in explained(spaces).items())
    return svg(
        figure,
        f"{meanings}. Thin lines are logged values, thick ones their running means. Dotted lines "
        "are chance: a query that picks one of all keys. Grey: the queue still fills with keys of "
        "this run, and queries meet random vectors, which are easy to tell apart; accuracy falls "
        "there, and loss rises, in a healthy run. A spread near 0 is a collapse.",
    ) + "".join(_verdict(run, spaces, is_named=not is_single) for run in runs)


def _speed(runs: Sequence[Run]) -> str:
    """Draw what ``timing.csv`` holds; of the memory, that of the GPU is dashed."""
    figure = new_figure(12, 3.4)
    grid = figure.subplots(1, len(_TIMING_PANELS))
    for axes, (title, names) in zip(grid, _TIMING_PANELS.items(), strict=True):
        for number, run in enumerate(runs):
            for name, style in zip(names, _STYLES, strict=False):
                points, color = _points(run.timing, name), COLORS[number % len(COLORS)]
                if len(points):
                    axes.plot(*points.T, style, color=color, label=run.name)
        axes.set(title=title, xlabel="step")
        axes.set_ylim(0, 100 if "%" in title else 1.1 * axes.get_ylim()[1])
        axes.grid(alpha=0.2)
    if len(runs) > 1:
        _legend_below(figure, grid[0])
    return svg(
        figure,
        "Samples of all processes per second, with probes and checkpoints in between. A training "
        "that waits for data needs more --num_workers, or a packed store. Memory is that of the "
        "first process, its loaders not included; dashed: of the GPU.",
    )


def _legend_below(figure: Any, axes: Any) -> None:
    """Explain the lines of all axes below the figure, where no curve is covered."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")


def _verdict(run: Run, spaces: Sequence[str], *, is_named: bool) -> str:
    """Return a table of where each space stands at the end, next to chance, and why."""
    rows = []
    for space, (name, classes) in enumerate(
        zip(spaces, keys_of_a_query(run, len(spaces)), strict=True)
    ):
        last = [_last(run, f"{prefix}{space}") for prefix in _PANELS.values()]
        rows.append((name, last[0], math.log(classes), last[1], 1 / classes, last[2]))
    head = ("space", "loss", "by chance", "accuracy", "by chance", "spread")
    remark = own_keys_remark(run)
    title = note(run.name) if is_named else ""
    return title + (warning(remark) if remark else "") + table(head, rows)


def _probes(runs: Sequence[Run]) -> str:
    names = sorted({n for run in runs for row in run.rows for n in row if n.startswith("online/")})
    figure = new_figure(6 * len(names), 3.8)
    grid = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(grid, names, strict=True):
        for number, run in enumerate(runs):
            points, color = _points(run.rows, name), COLORS[number % len(COLORS)]
            axes.plot(*points.T, marker="o", color=color, label=run.name)
            if len(points) and points[0, 0] == 0:
                axes.axhline(points[0, 1], color=color, linewidth=0.8, alpha=0.8, dashes=(1, 2))
        axes.set(title=name.removeprefix("online/").replace("_", ", "), xlabel="step", ylabel="%")
        axes.grid(alpha=0.2)
    if len(runs) > 1:
        _legend_below(figure, grid[0])
    return svg(
        figure,
        "Accuracy, or average precision, of probes on the encoder so far. The first point, and the "
        "dotted line, is the encoder before its first step: below it, pre-training has done harm.",
    )


def _draw(axes: Any, points: np.ndarray, label: str, color: str, style: str) -> None:
    """Draw logged values, shape (N, 2), as a thin line, and their running mean as a thick one."""
    if len(points):
        steps, values = points.T
        axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.7)
        marker = "." * (len(steps) < 2)
        axes.plot(steps, running_mean(values), style, color=color, label=label, marker=marker)


def _points(rows: Sequence[dict[str, float]], name: str) -> np.ndarray:
    """Return steps and values of a column, shape (N, 2); of long runs, means of neighbours."""
    found = [(row["step"], row[name]) for row in rows if name in row and "step" in row]
    points = np.array(found, np.float64).reshape(-1, 2)
    per_point = -(-len(points) // _MAX_POINTS)
    if per_point > 1:
        points = np.add.reduceat(points, np.arange(0, len(points), per_point))
        points /= np.minimum(per_point, len(found) - per_point * np.arange(len(points)))[:, None]
    return points


def _last(run: Run, name: str) -> float | None:
    points = _points(run.rows, name)
    return float(running_mean(points[:, 1])[-1]) if len(points) else None
