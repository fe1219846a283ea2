"""Pictures of results, drawn without a window and without pyplot's global state."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from utils.normalization import InputSpec


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    FigureCanvasAgg(figure).print_png(partial)
    partial.replace(path)


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

    Args:
        path: PNG to write.
        metrics_csv: File of Lightning's ``CSVLogger``.
    """
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    titles = {"loss": "loss", "accuracy": "accuracy", "spread": "spread of the keys (0 = collapse)"}
    for axes, (kind, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for column in sorted(rows[0] if rows else ()):
            if column.startswith(f"train/{kind}_"):
                points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
                axes.plot(*zip(*points, strict=True), label=f"space {column.rsplit('_', 1)[1]}")
        axes.set(title=title, xlabel="step")
        axes.legend()
    save_figure(figure, path)
