"""Figures of an evaluation: confusion matrix, scores per class and over the share of labels."""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from utils.plots import COLORS, save_figure

_MAX_CLASSES = 40  # in a figure; hundreds take minutes, and nobody can read them


def shown_classes(values: Mapping[str, float | None]) -> tuple[list[str], str]:
    """Return the classes to draw, and a remark if they are not all.

    Args:
        values: Value of each class; None or NaN where it is unknown.

    Returns:
        All classes in their order, or the 40 with the lowest known values; and a text that says so,
        or "".
    """
    if len(values) <= _MAX_CLASSES:
        return list(values), ""
    known = [name for name, value in values.items() if value is not None and not isnan(value)]
    lowest = set(sorted(known, key=lambda name: values[name] or 0)[:_MAX_CLASSES])
    shown = [name for name in values if name in lowest]
    return shown, f"the {len(shown)} lowest of {len(values)} classes"


def confusion_shares(
    counts: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, list[str], str]:
    """Return percentages of each true class, of the classes to draw, see ``shown_classes``.

    Args:
        counts: Number of samples by true class (row) and predicted class (column), shape (C, C).
        classes: Names of the classes.
    """
    totals = counts.sum(1, keepdims=True)
    share = 100 * counts / np.maximum(totals, 1)
    recall = np.where(totals[:, 0] > 0, share.diagonal(), np.nan)
    shown, remark = shown_classes(dict(zip(classes, recall.tolist(), strict=True)))
    kept = set(shown)
    rows = [row for row, name in enumerate(classes) if name in kept]
    return share[np.ix_(rows, rows)], shown, remark


def plot_confusion(path: Path, confusion: Tensor, classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix in percent of each true class, and write it as a PNG.

    Args:
        path: File to write.
        confusion: Number of samples by true class (row) and predicted class (column), shape (C, C).
        classes: Names of the classes.
        title: Text above the figure.
    """
    share, classes, remark = confusion_shares(confusion.numpy(), classes)
    size = 2.5 + 0.6 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right")
    axes.set_yticks(ticks, classes)
    whole = remark or "each row is 100 %"
    axes.set(title=title, xlabel="predicted", ylabel=f"true ({whole})")
    for (row, column), value in np.ndenumerate(share):
        color = "white" if value > 50 else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=8)
    save_figure(figure, path)


def plot_per_class(path: Path, values: Mapping[str, float], title: str) -> None:
    """Draw the classes by ``draw_per_class``, and write the figure as a PNG.

    Args:
        path: File to write.
        values: Percentage of each class; NaN draws no bar.
        title: Text above the figure.
    """
    figure = Figure(layout="constrained")
    remark = draw_per_class(figure, values)
    # Above the whole figure: above the axes alone, the title has half the width.
    figure.suptitle(f"{title}\n{remark}" if remark else title, wrap=True)
    save_figure(figure, path)


def draw_per_class(
    figure: Figure,
    values: Mapping[str, float | None],
    others: Mapping[str, float | None] | None = None,
) -> str:
    """Draw one bar per class, the largest on top, and a diamond for what it is compared with.

    Args:
        figure: Figure, which gets the height that its classes need.
        values: Percentage of each class; None or NaN draws no bar.
        others: Percentages of a random encoder in the same way.

    Returns:
        A remark if not all classes are shown, or "".
    """
    shown, remark = shown_classes(values)
    known = np.array([values[name] for name in shown], np.float64)  # None becomes NaN
    order = np.argsort(-np.nan_to_num(known, nan=-1), kind="stable")
    ranked, lengths = [shown[row] for row in order], known[order]
    figure.set_size_inches(9, 1 + 0.3 * len(ranked))
    axes, rows = figure.add_subplot(), range(len(ranked))
    axes.barh(rows, np.nan_to_num(lengths), color=COLORS[0], label="this encoder")
    for row, value in enumerate(lengths):  # in a column, where no diamond is
        axes.text(111, row, "-" if isnan(value) else f"{value:.1f}", ha="right", va="center")
    axes.set_yticks(rows, [fill(name, 46) for name in ranked])
    others = others or {}
    if points := [(others[name], row) for row, name in enumerate(ranked) if name in others]:
        axes.plot(*zip(*points, strict=True), "D", color=COLORS[1], label="random")
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.set(xlim=(0, 112), xlabel="percent")
    axes.margins(y=0.5 / max(1, len(ranked)))
    axes.invert_yaxis()
    return remark


def plot_label_curve(
    path: Path, curves: Mapping[str, Mapping[float, tuple[float, float | None]]], metric: str
) -> None:
    """Draw a metric over the fraction of the labels, one line per method, and write it as a PNG.

    Args:
        path: PNG to write.
        curves: For each method and fraction of the labels, mean and standard deviation in percent.
        metric: Name of the vertical axis.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    points = {
        name: [(100 * frac, mean, std or 0.0, std or 0.0) for frac, (mean, std) in curve.items()]
        for name, curve in curves.items()
    }
    draw_label_curves(axes, points)
    axes.set(ylabel=metric)
    axes.legend()
    save_figure(figure, path)


def draw_label_curves(
    axes: Axes,
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    styles: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Draw one line per method over the share of the labels, on a logarithmic axis.

    Args:
        axes: Axes to draw on.
        curves: Points of each method: share of the labels in percent, value, and the lengths of
            the bar below and above it.
        styles: Colour and style of its line.
    """
    for name, points in curves.items():
        x, y, *error = np.transpose(sorted(points))
        style: Mapping[str, Any] = (styles or {}).get(name, {})
        axes.errorbar(x, y, error, marker="o", capsize=3, label=name, **style)
    shares = sorted({point[0] for points in curves.values() for point in points})
    axes.set(xscale="log", xlabel="train labels in percent")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
