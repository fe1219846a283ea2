"""Scores of evaluations, next to those of a random encoder on the same split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.run_report.baseline import find_baseline
from models.run_report.page import Markup, Section, new_figure, note, picture_file, svg, table
from models.run_report.run_files import Run
from models.score_plots import confusion_shares, draw_label_curves, draw_per_class
from utils.plots import COLORS

# The score of a result, by what is evaluated: the first that a result has.
_SCORES = (
    *("test/accuracy", "test/map_micro", "test/f1", "test/map_macro"),
    *("val/accuracy_batch_mean", "val/map_micro_batch_mean", "val/f1_batch_mean"),
)
_PER_CLASS = ("test/recall", "test/ap_per_class")
_SHOWN_MAPS = 12


def evaluation_sections(runs: Sequence[Run]) -> list[Section]:
    """Return the sections about one or several evaluations, next to those of a random encoder.

    Args:
        runs: The evaluations.
    """
    pairs = [(run, find_baseline(run)) for run in runs]
    sections = [Section("Scores", _scores(pairs))]
    if curve := _label_curve(pairs):
        sections.append(Section("Labels and scores", curve))
    for run, baseline in pairs:
        maps = sorted((run.folder / "maps").glob("*.png"))
        parts = {
            "Classes": _per_class(run, baseline),
            "Confusion": _confusion(run),
            "Most confident errors": _errors(run.folder / "errors.png"),
            "Change maps": _pictures(maps[:_SHOWN_MAPS])
            + (note(f"The first {_SHOWN_MAPS} of {len(maps)}.") if maps[_SHOWN_MAPS:] else ""),
        }
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        sections += [Section(prefix + title, html) for title, html in parts.items() if html]
    return sections


def score_of(result: Mapping[str, Any]) -> str | None:
    """Return the name of the most important metric of a result."""
    return next((name for name in _SCORES if name in result), None)


def _scores(pairs: Sequence[tuple[Run, Run | None]]) -> str:
    rows, several = [], len(pairs) > 1
    for run, baseline in pairs:
        for method, frac, result in _results(run):
            name = score_of(result)
            if name is None:
                continue
            other = _find(baseline, method, frac)
            row: list[object] = [run.name] * several + [method, float(frac)]
            row += [result.get("num_labelled"), name]
            row += [_with_interval(result, name), _with_interval(other, name)]
            rows.append([*row, _gain(name, result, other)])
    head = [
        *["run"] * several,
        *("method", "share of the labels", "labels", "metric, %", "this encoder", "random", "gain"),
    ]
    remark = "In brackets: 95 % intervals of a bootstrap over the test images."
    if any(baseline for _, baseline in pairs):
        remark += (
            " A random encoder with the same architecture, split and seeds shows what the images "
            "give away without learning. Two scores count as different if their intervals do not "
            "overlap; without intervals, nothing is said."
        )
    elif any(run.arguments.get("backbone_type") != "random" for run, _ in pairs):
        remark += (
            " No evaluation of a random encoder on the same split is in this log folder yet: "
            "main_report.py adds it."
        )
    return table(head, rows) + note(remark)


def _gain(name: str, result: Mapping[str, Any], other: Mapping[str, Any]) -> Markup:
    """Return the difference to a random encoder, and whether it is within the intervals."""
    if name not in other:
        return Markup("-")
    text, kind = f"{result[name] - other[name]:+.1f}", ""
    own, random = result.get(f"{name}_interval"), other.get(f"{name}_interval")
    if own and random:
        if own[1] < random[0]:
            text, kind = f"{text} (worse than random)", "bad"
        elif own[0] <= random[1]:
            text += " (not different from random)"
    return Markup(f'<span class="{kind}">{text}</span>')


def _with_interval(result: Mapping[str, Any], name: str) -> str:
    if name not in result:
        return "-"
    interval = result.get(f"{name}_interval")
    spread = result.get(f"{name}_std")
    text = f"{result[name]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
    return text + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def _label_curve(pairs: Sequence[tuple[Run, Run | None]]) -> str:
    """Draw scores over the share of the labels, if there are several; random encoders dashed."""
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for run, baseline in pairs:
        for method, frac, result in _results(run):
            title = f"{run.name}, {method}" if len(pairs) > 1 else method
            for label, found in ((title, result), (_random(title), _find(baseline, method, frac))):
                if name := score_of(found):
                    value = found[name]
                    low, high = found.get(f"{name}_interval") or (value, value)
                    point = (100 * float(frac), value, max(0, value - low), max(0, high - value))
                    curves.setdefault(label, []).append(point)
    if max(map(len, curves.values()), default=0) < 2:
        return ""
    titles = list(dict.fromkeys(label.removesuffix(_random("")) for label in curves))
    styles = {
        label: {
            "color": COLORS[titles.index(label.removesuffix(_random(""))) % len(COLORS)],
            "linestyle": "--" if label.endswith(_random("")) else "-",
        }
        for label in curves
    }
    figure = new_figure(8, 4.2)
    axes = figure.subplots()
    draw_label_curves(axes, curves, styles)
    axes.set(ylabel="score, %")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return svg(figure, "Bars are 95 % intervals; dashed: random encoders.")


def _random(title: str) -> str:
    return f"{title}, random"


def _per_class(run: Run, baseline: Run | None) -> str:
    # A change detector has one class, and one number of that name.
    named = (name for name in _PER_CLASS if isinstance(run.metrics.get(name), Mapping))
    if (name := next(named, None)) is None:
        return ""
    figure = new_figure(9, 1)
    others = baseline.metrics.get(name) if baseline else None
    remark = draw_per_class(figure, run.metrics[name], others)
    kind = f"{name.removeprefix('test/').replace('_', ' ')} in percent"
    return svg(figure, f"{kind}; shown are {remark}." if remark else f"{kind}.")


def _confusion(run: Run) -> str:
    found, classes = run.metrics.get("test/confusion"), run.metrics.get("classes")
    if not found or not classes:
        return ""
    share, shown, remark = confusion_shares(np.array(found, np.float64), classes)
    rows = [[name, *map(_shade, line)] for name, line in zip(shown, share.tolist(), strict=True)]
    text = f"Rows are true classes ({remark or '100 % each'}), columns predicted ones."
    return table(["", *shown], rows, is_turned=True) + note(text)


def _shade(percent: float) -> Markup:
    color = f"rgba(0,114,178,{min(1.0, percent / 100):.2f})"
    return Markup(f'<span class="share" style="background:{color}">{percent:.0f}</span>')


def _errors(path: Path) -> str:
    caption = (
        "Pictures of the first repetition, largest margin first: the true class, and the predicted "
        "one after the arrow; of several labels, one that was missed or is not there."
    )
    return picture_file(path, caption) if path.is_file() else ""


def _pictures(paths: Sequence[Path]) -> str:
    return "".join(picture_file(path, path.stem.replace("_", " ")) for path in paths)


def _results(run: Run) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return method, share of the labels and metrics of every result."""
    by_method = run.metrics.get("by_method")
    if not by_method:
        by_frac = run.metrics.get("by_train_frac") or {"1": run.metrics}
        by_method = {"change detection": by_frac} if score_of(run.metrics) else {}
    return [(m, frac, each) for m, shares in by_method.items() for frac, each in shares.items()]


def _find(baseline: Run | None, method: str, frac: str) -> Mapping[str, Any]:
    found = _results(baseline) if baseline else []
    return next((each for m, share, each in found if (m, share) == (method, frac)), {})
