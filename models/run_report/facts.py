"""What a report says about runs in tables: state, flags, versions, machine and data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from html import escape
from typing import Any

from models.run_report.evaluations import score_of
from models.run_report.page import table
from models.run_report.run_files import Run
from utils.config_file import NOT_KEPT

_NOT_RESULTS = NOT_KEPT | {"logger"}  # flags of one start and of what is written
_SHOWN = ("git_commit", "device", "cpu_count", "threads")


def summary(runs: Sequence[Run]) -> str:
    """Return state and most important result of each run, and in what they differ."""
    rows = []
    for run in runs:
        steps = run.metrics.get("steps") or (run.rows[-1].get("step", -1) + 1 if run.rows else None)
        rows.append([run.name, run.state, steps, _duration(run), _result(run)])
    differing = _differing(runs) if len(runs) > 1 else ""
    shown = table(("run", "state", "steps", "duration", "result"), rows)
    return shown + (f"<h3>What differs</h3>{differing}" if differing else "")


def _duration(run: Run) -> str | None:
    seconds = run.facts.get("seconds")
    return None if seconds is None else str(timedelta(seconds=round(seconds)))


def _result(run: Run) -> str:
    """Return the score of an evaluation, or the last loss and probes of a pre-training."""
    if name := score_of(run.metrics):
        return f"{name} {run.metrics[name]:.2f} %"
    probes = sorted({name for row in run.rows for name in row if name.startswith("online/")})
    parts = []
    for name in ("train/loss", *probes):
        rows = [row for row in run.rows if name in row]
        if rows:
            is_untrained = name in probes and rows[0].get("step") == 0
            before = f" (untrained {rows[0][name]:.1f})" if is_untrained else ""
            parts.append(f"{name} {rows[-1][name]:.4g}{before}")
    return ", ".join(parts) or "-"


def facts(run: Run) -> str:
    """Return machine, commit, versions, data and flags of a run."""
    flags = [[f"--{name}", str(value)] for name, value in sorted(run.arguments.items())]
    title = f"<h3>{escape(run.name)}</h3>"
    known = _known(run) | {"duration": _duration(run)}
    return title + table(("fact", "value"), [*known.items()]) + table(("flag", "value"), flags)


def _known(run: Run) -> dict[str, Any]:
    known: dict[str, Any] = {name: run.facts.get(name) for name in _SHOWN}
    for kind, values in {"data": run.metrics.get("data"), "training": run.training}.items():
        known |= {f"{kind}: {name}": value for name, value in (values or {}).items()}
    return known | (run.facts.get("versions") or {})


def _differing(runs: Sequence[Run]) -> str:
    """Return a table of the flags and facts in which runs differ; empty if they do not."""
    each = [
        {f"--{name}": run.arguments[name] for name in sorted(run.arguments.keys() - _NOT_RESULTS)}
        | _known(run)
        for run in runs
    ]
    names = dict.fromkeys(name for known in each for name in known)
    rows = []
    for name in names:
        values = [known.get(name) for known in each]
        if values.count(values[0]) < len(values):
            rows.append([name, *map(str, values)])
    return table(["flag or fact", *(run.name for run in runs)], rows) if rows else ""
