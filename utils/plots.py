"""Pictures of results, drawn without a window and without pyplot's global state."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.files import written_whole
from utils.normalization import InputSpec

if TYPE_CHECKING:  # the downloader, which draws a map, does without torch
    from torch import Tensor


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with written_whole(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def plot_confusion(path: Path, confusion: Tensor, classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix as percentages of each true class.

    Args:
        path: PNG to write.
        confusion: Counts, or their mean over runs, rows are true classes, shape (C, C).
        classes: Name of each class.
        title: Text above the picture.
    """
    share = (100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1)).numpy()
    size = 2.5 + 0.6 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right")
    axes.set_yticks(ticks, classes)
    axes.set(title=title, xlabel="predicted", ylabel="true (each row is 100 %)")
    for (row, column), value in np.ndenumerate(share):
        color = "white" if value > 50 else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=8)
    save_figure(figure, path)


def plot_per_class(path: Path, values: Mapping[str, float], title: str) -> None:
    """Draw one bar per class, in percent, the largest on top; a class without a value is empty.

    Args:
        path: PNG to write.
        values: Percentage of each class, perhaps NaN.
        title: Text above the picture.
    """
    ranked = sorted(values, key=lambda name: -np.nan_to_num(values[name], nan=-1))
    figure = Figure(figsize=(9, 1 + 0.3 * len(values)), layout="constrained")
    # Above the whole picture: above the bars, beside their names, it has half the room.
    figure.suptitle(title, wrap=True)
    axes = figure.add_subplot()
    widths = np.nan_to_num([values[name] for name in ranked])
    bars = axes.barh([fill(name, 46) for name in ranked], widths, color="tab:blue")
    labels = ["-" if np.isnan(values[name]) else f"{values[name]:.1f}" for name in ranked]
    axes.bar_label(bars, labels, padding=3)
    axes.set(xlim=(0, 112), xlabel="percent")
    axes.margins(y=0.5 / len(values))
    axes.invert_yaxis()
    save_figure(figure, path)


def plot_label_curve(
    path: Path, curves: Mapping[str, Mapping[float, tuple[float, float | None]]], metric: str
) -> None:
    """Draw a metric over the share of the labels, one line per method.

    Args:
        path: PNG to write.
        curves: For each method and share of the labels, mean and deviation in percent.
        metric: Name of the vertical axis.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        fracs = sorted(points)
        means = [points[frac][0] for frac in fracs]
        stds = [points[frac][1] or 0.0 for frac in fracs]
        axes.errorbar(
            [100 * frac for frac in fracs], means, stds, marker="o", capsize=3, label=name
        )
    axes.set(xscale="log", xlabel="train labels in percent", ylabel=metric)
    shares = sorted({100 * frac for points in curves.values() for frac in points})
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def plot_views(path: Path, views: Sequence[Tensor], spec: InputSpec, count: int = 8) -> None:
    """Draw the views of the first samples of a batch, one row per view, the query on top.

    Args:
        path: PNG to write.
        views: Normalised images, one batch per view, each of shape (B, C, H, W).
        spec: How they were normalised, and their bands.
        count: Samples to show.
    """
    bands = [spec.bands.index(band) for band in ("B4", "B3", "B2") if band in spec.bands]
    shown = bands if len(bands) == 3 else [0, 1, 2]
    mean, std = np.array(spec.mean)[shown], np.array(spec.std)[shown]
    columns = min(count, len(views[0]))
    figure = Figure(figsize=(1.5 * columns, 1.6 * len(views)), layout="constrained")
    grid = figure.subplots(len(views), columns, squeeze=False)
    for row, batch in enumerate(views):
        for column, image in enumerate(batch[:columns, shown].float().cpu()):
            axes = grid[row, column]
            axes.imshow(np.clip(image.permute(1, 2, 0).numpy() * std + mean, 0, 1))
            axes.set(xticks=[], yticks=[])
        grid[row, 0].set_ylabel("query" if row == 0 else f"key {row - 1}")
    save_figure(figure, path)


def plot_training(path: Path, metrics_csv: Path) -> None:
    """Draw loss, accuracy and spread of every embedding space over the steps of a run.

    Probes during the run get a panel of their own.

    Args:
        path: PNG to write.
        metrics_csv: File of Lightning's ``CSVLogger``.
    """
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = sorted(rows[0] if rows else ())
    panels = {
        "loss": ("train/loss_", "space "),
        "accuracy": ("train/accuracy_", "space "),
        "spread of the keys (0 = collapse)": ("train/spread_", "space "),
    }
    if any(column.startswith("online/") for column in columns):
        panels["probes of the encoder, %"] = ("online/", "")
    figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
    for axes, (title, (prefix, word)) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        for column in columns:
            if column.startswith(prefix):
                points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
                label = f"{word}{column.removeprefix(prefix)}"
                axes.plot(*zip(*points, strict=True), label=label, marker="." * (len(points) < 2))
        axes.set(title=title, xlabel="step")
        axes.legend()
    save_figure(figure, path)
