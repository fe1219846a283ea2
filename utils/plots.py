"""Pictures of results, drawn without a window and without pyplot's global state."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


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
