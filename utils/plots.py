"""Figures of results, drawn without a window and without pyplot's global state."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.text import Text
from numpy.typing import NDArray

from utils.files import written_whole
from utils.input_spec import PICTURE_BANDS, InputSpec, letters

if TYPE_CHECKING:  # the collector, which draws a map, does not import torch
    from torch import Tensor

# Colours for the colour-blind: Okabe and Ito (2008), jfly.uni-koeln.de/color.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG completely or not at all.

    Args:
        figure: Figure to draw.
        path: File to write.
    """
    with written_whole(path) as partial, plain_texts(figure):
        FigureCanvasAgg(figure).print_png(partial)


@contextmanager
def plain_texts(figure: Figure) -> Iterator[None]:
    """Draw every text as it is: names come from data, and "$" would begin a formula.

    Args:
        figure: Figure that is drawn within the context.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with mpl.rc_context({"text.parse_math": False}):  # for ticks, which drawing creates
        yield


def plot_grid(path: Path, pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> None:
    """Draw pictures with their titles, and write the figure as a PNG.

    Args:
        path: File to write.
        pictures: RGB, shape (H, W, 3) each.
        titles: Text above each picture.
    """
    columns = 6
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.8 * columns, 0.2 + 2.05 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, title in zip(grid.flat, pictures, titles, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize="small")
    save_figure(figure, path)


def to_rgb(picture: NDArray[np.uint8], bands: Sequence[str]) -> NDArray[np.uint8]:
    """Return red, green and blue, or else the first three bands: uint8, shape (H, W, 3).

    Args:
        picture: uint8, shape (C, H, W).
        bands: Names of its bands.
    """
    names = letters(bands)
    is_rgb = set(PICTURE_BANDS) <= set(names)
    shown = [names.index(band) for band in PICTURE_BANDS] if is_rgb else _first_three(names)
    return np.ascontiguousarray(picture[shown].transpose(1, 2, 0))


class Views(NamedTuple):
    """Views of a few samples.

    Attributes:
        pictures: RGB in 0..1, one array per view, each of shape (samples, H, W, 3).
        labels: Name of each view.
        dates: For each view, the day of each sample's image, "" if unknown.
    """

    pictures: Sequence[NDArray[np.float32]]
    labels: Sequence[str]
    dates: Sequence[Sequence[str]]


def to_pictures(images: Tensor, spec: InputSpec) -> NDArray[np.float32]:
    """Undo the normalisation; keep RGB, or else the first three bands: 0..1, (B, H, W, 3).

    Args:
        images: Normalised images, shape (B, C, H, W).
        spec: Input contract by which they were normalised.
    """
    bands = [spec.bands.index(band) for band in ("B4", "B3", "B2") if band in spec.bands]
    shown = bands if len(bands) == 3 else _first_three(spec.bands)
    mean, std = np.array(spec.mean)[shown], np.array(spec.std)[shown]
    stack = images[:, shown].float().cpu().permute(0, 2, 3, 1).numpy()
    return np.asarray(np.clip(stack * std + mean, 0, 1), np.float32)


def _first_three(bands: Sequence[str]) -> list[int]:
    """Return the channels to show as red, green and blue; fewer than three are repeated."""
    return [channel % len(bands) for channel in range(3)]


def plot_views(path: Path, views: Views) -> None:
    """Draw views by ``draw_views``, and write the figure as a PNG.

    Args:
        path: File to write.
        views: Pictures with their labels and dates.
    """
    columns, rows = len(views.pictures[0]), len(views.pictures)
    figure = Figure(figsize=(2.4 + 1.3 * columns, 0.6 + 1.55 * rows), layout="constrained")
    draw_views(figure, views)
    save_figure(figure, path)


def draw_views(figure: FigureBase, views: Views) -> None:
    """Draw a row per view and a column per sample.

    Args:
        figure: Figure, or a part of one.
        views: Pictures with their labels and dates.
    """
    figure.suptitle("a query, and the key that it has to find in each space among other places")
    grid = figure.subplots(len(views.pictures), len(views.pictures[0]), squeeze=False)
    for row, pictures, label, dates in zip(grid, *views, strict=True):
        for axes, picture, date in zip(row, pictures, dates, strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.set_title(date, fontsize="small", pad=3)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)


def plot_training(path: Path, metrics_csv: Path, spaces: Sequence[str]) -> None:
    """Draw the curves of a run by ``draw_curves``, and write the figure as a PNG.

    Args:
        path: File to write.
        metrics_csv: Logged values of the run.
        spaces: Names of the embedding spaces.
    """
    curves = read_curves(metrics_csv, spaces)
    figure = Figure(figsize=(4 * len(curves), 3.5), layout="constrained")
    draw_curves(figure, curves)
    save_figure(figure, path)


# For each panel, by name, the steps and values of its curves: shape (points, 2).
Curves = dict[str, dict[str, NDArray[np.float64]]]


def read_curves(metrics_csv: Path, spaces: Sequence[str]) -> Curves:
    """Read loss, accuracy and spread of every embedding space, and the probes, over the steps.

    Args:
        metrics_csv: File of Lightning's ``CSVLogger``.
        spaces: Name of each embedding space.
    """
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = sorted(rows[0] if rows else ())
    names = {str(number): f"space {number}: {name}" for number, name in enumerate(spaces)}
    panels = {
        "loss": "train/loss_",
        "queries nearest to their own key": "train/accuracy_",
        "spread of the keys (0 = collapse)": "train/spread_",
    }
    if any(column.startswith("online/") for column in columns):
        panels["probes of the encoder, %"] = "online/"
    return {
        title: {
            names.get(rest := column.removeprefix(prefix), rest): np.array(
                [(int(row["step"]), float(row[column])) for row in rows if row[column]]
            )
            for column in columns
            if column.startswith(prefix)
        }
        for title, prefix in panels.items()
    }


def draw_curves(figure: FigureBase, curves: Curves) -> None:
    """Draw one panel per title, with logged values as thin lines and their running mean on top.

    Args:
        figure: Figure, or a part of one.
        curves: Curves as ``read_curves`` returns them.
    """
    explained: list[str] = []
    grid = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (title, panel) in zip(grid, curves.items(), strict=True):
        for number, (name, points) in enumerate(panel.items()):
            steps, values = points.T
            axes.plot(steps, values, color=f"C{number}", alpha=0.3, linewidth=0.7)
            marker = "." * (len(steps) < 2)
            axes.plot(steps, running_mean(values), f"C{number}", label=name, marker=marker)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if panel and list(panel) != explained:
            axes.legend(fontsize="small")
        explained = list(panel)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each value with its neighbours in a window of a tenth of all values."""
    window = np.ones(max(1, len(values) // 10 | 1))
    total = np.convolve(values, window, mode="same")
    return np.asarray(total / np.convolve(np.ones_like(values), window, mode="same"))
