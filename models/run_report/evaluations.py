"""Scores of evaluations, next to those of a random encoder on the same split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from models.run_report.page import (
    COLORS,
    Markup,
    Section,
    new_figure,
    note,
    picture_file,
    svg,
    table,
)
from models.run_report.run_files import Run, read_run

# The score of a result, by what is evaluated: the first that a result has.
_SCORES = (
    *("test/accuracy", "test/map_micro", "test/f1", "test/map_macro"),
    *("val/accuracy_batch_mean", "val/map_micro_batch_mean", "val/f1_batch_mean"),
)
_PER_CLASS = ("test/recall", "test/ap_per_class")
# Flags that say what is scored, not which encoder or machine.
_SAME = (
    *("data_dir", "split", "split_seed", "val_frac", "labels_per_class", "train_frac", "method"),
    *("num_seeds", "seed", "protocol", "num_classes", "image_size", "max_epochs", "bands"),
    *("base_encoder", "freeze_backbone", "patch_size", "finetune_epochs", "finetune_backbone"),
    *("pos_weight", "input_norm", "learning_rate", "finetune_learning_rate", "batch_size"),
)
# Flags of one start, not of what is learned.
_OF_A_START = {"resume", "resume_from_checkpoint", "log_dir", "debug", "no_report"}
_SHOWN_MAPS = 12


def evaluation_sections(run: Run, baseline: Run | None) -> list[Section]:
    """Return the sections about an evaluation.

    Args:
        run: The evaluation.
        baseline: The same of a random encoder, if there is one.
    """
    sections = [Section("Scores", _scores(run, baseline))]
    if curve := _label_curve(run, baseline):
        sections.append(Section("Labels and scores", curve))
    if classes := _per_class(run, baseline):
        sections.append(Section("Classes", classes))
    if confusion := _confusion(run):
        sections.append(Section("Confusion", confusion))
    if maps := sorted((run.folder / "maps").glob("*.png"))[:_SHOWN_MAPS]:
        shown = "".join(picture_file(path, path.stem) for path in maps)
        sections.append(Section("Change maps", shown))
    return sections


def find_baseline(run: Run) -> Run | None:
    """Return the newest finished run of a random encoder with the same flags, if there is one.

    Args:
        run: An evaluation; its folder is ``LOG_DIR/NAME-BACKBONE/version_N``.
    """
    backbone = str(run.arguments.get("backbone_type"))
    if backbone == "random":
        return None
    name = run.folder.resolve().parent.name.removesuffix(f"-{backbone}")
    folders = run.folder.resolve().parents[1].glob(f"{name}-random/version_*")
    for folder in sorted(folders, key=_number, reverse=True):
        if (folder / "results.json").is_file():
            found = read_run(folder)
            if found.facts.get("finished") and _what_is_scored(found) == _what_is_scored(run):
                return found
    return None


def baseline_command(run: Run) -> list[str]:
    """Return the command line that evaluates a random encoder as a run has evaluated its own."""
    script = f"main_{run.folder.resolve().parent.name.split('-')[0]}.py"
    line = [script, "--backbone_type", "random"]
    encoder = run.metrics.get("encoder") or {}
    values = run.arguments | {n: encoder[n] for n in ("base_encoder", "bands") if n in encoder}
    values["log_dir"] = str(run.folder.resolve().parents[1])
    for name in (*_SAME, "log_dir", "num_workers", "precision"):
        value = values.get(name)
        if value is True:
            line.append(f"--{name}")
        elif isinstance(value, list):
            line += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            line += [f"--{name}", str(value)]
    return line


def score_of(result: Mapping[str, Any]) -> str | None:
    """Return the name of the most important metric of a result."""
    return next((name for name in _SCORES if name in result), None)


def _what_is_scored(run: Run) -> dict[str, Any]:
    flags = run.arguments
    found = {name: flags.get(name) for name in _SAME}
    # The encoder of a file names its architecture and bands itself.
    encoder = run.metrics.get("encoder") or {}
    return found | {name: encoder.get(name, found[name]) for name in ("base_encoder", "bands")}


def _scores(run: Run, baseline: Run | None) -> str:
    rows = []
    for method, frac, result in _results(run):
        name = score_of(result)
        if name is None:
            continue
        other = _find(baseline, method, frac)
        row: list[object] = [method, float(frac), result.get("num_labelled"), name]
        row += [_with_interval(result, name), _with_interval(other, name)]
        gain = result[name] - other[name] if name in other else None
        worse = gain is not None and gain < 0
        shown = "-" if gain is None else f"{gain:+.1f}" + " (worse than random)" * worse
        row.append(Markup(f'<span class="{"bad" * worse}">{escape(shown)}</span>'))
        rows.append(row)
    head = (
        "method",
        "share of the labels",
        "labels",
        "metric, %",
        "this encoder",
        "random",
        "gain",
    )
    remark = (
        "In brackets: 95 % intervals of a bootstrap over the test images. A random encoder with "
        "the same architecture, split and seeds shows what the images give away without learning."
        if baseline
        else ""
        if run.arguments.get("backbone_type") == "random"
        else "No evaluation of a random encoder on the same split is in this log folder yet: "
        "main_report.py adds it."
    )
    return table(head, rows) + note(remark)


def _with_interval(result: Mapping[str, Any], name: str) -> str:
    if name not in result:
        return "-"
    interval = result.get(f"{name}_interval")
    spread = result.get(f"{name}_std")
    text = f"{result[name]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
    return text + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def _label_curve(run: Run, baseline: Run | None) -> str:
    figure = new_figure(7, 3.8)
    axes = figure.subplots()
    by_method: dict[str, list[tuple[float, float]]] = {}
    of_random: dict[str, list[tuple[float, float]]] = {}
    for method, frac, result in _results(run):
        name = score_of(result)
        if name is None:
            continue
        by_method.setdefault(method, []).append((100 * float(frac), result[name]))
        other = _find(baseline, method, frac)
        if name in other:
            of_random.setdefault(method, []).append((100 * float(frac), other[name]))
    if max(map(len, by_method.values()), default=0) < 2:
        return ""
    for number, (method, points) in enumerate(by_method.items()):
        color = COLORS[number % len(COLORS)]
        axes.plot(*np.transpose(sorted(points)), marker="o", color=color, label=method)
        if method in of_random:
            dashed = np.transpose(sorted(of_random[method]))
            axes.plot(*dashed, "--", color=color, alpha=0.7, label=f"{method}, random")
    axes.set(xscale="log", xlabel="train labels, %", ylabel="score, %")
    axes.grid(alpha=0.2)
    axes.legend(fontsize="small")
    return svg(figure)


def _per_class(run: Run, baseline: Run | None) -> str:
    name = next((name for name in _PER_CLASS if name in run.metrics), None)
    if name is None:
        return ""
    values: Mapping[str, float | None] = run.metrics[name]
    other = baseline.metrics.get(name, {}) if baseline else {}
    ranked = sorted(values, key=lambda each: -(values[each] or 0))
    figure = new_figure(9, 0.8 + 0.28 * len(ranked))
    axes = figure.subplots()
    axes.barh(ranked, [values[each] or 0 for each in ranked], color=COLORS[0], label="this encoder")
    if other:
        known = [each for each in ranked if other.get(each) is not None]
        axes.plot([other[each] for each in known], known, "D", color=COLORS[1], label="random")
    axes.set(xlim=(0, 100), xlabel=f"{name.removeprefix('test/').replace('_', ' ')}, %")
    axes.invert_yaxis()
    axes.legend(fontsize="small")
    return svg(figure)


def _confusion(run: Run) -> str:
    found, classes = run.metrics.get("test/confusion"), run.metrics.get("classes")
    if not found or not classes:
        return ""
    counts = np.array(found, np.float64)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = []
    for name, line in zip(classes, share, strict=True):
        cells = [_shade(value) for value in line]
        rows.append([name, *cells])
    remark = note("Rows are true classes (100 % each), columns predicted ones.")
    return table(["", *classes], rows) + remark


def _shade(value: float) -> Markup:
    color = f"rgba(0,114,178,{min(1.0, value / 100):.2f})"
    return Markup(f'<span style="background:{color};padding:0 .3rem">{value:.0f}</span>')


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


def _number(folder: Path) -> int:
    text = folder.name.removeprefix("version_")
    return int(text) if text.isdigit() else -1


def differing_flags(runs: Sequence[Run]) -> str:
    """Return a table of the flags in which runs differ; empty if they do not."""
    names = {name for run in runs for name in run.arguments}
    values = {name: [run.arguments.get(name) for run in runs] for name in names - _OF_A_START}
    differing = {n: found for n, found in values.items() if any(v != found[0] for v in found)}
    rows = [[name, *map(str, found)] for name, found in sorted(differing.items())]
    return table(["flag", *(run.name for run in runs)], rows) if rows else ""
