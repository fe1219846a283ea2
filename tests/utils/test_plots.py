"""Figures of results and of a pre-training: what is written into them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from models.score_plots import plot_confusion, plot_per_class
from utils.plots import (
    Views,
    draw_curves,
    draw_views,
    read_curves,
    running_mean,
)

# As Lightning's CSVLogger writes it: an empty cell where another metric was logged.
METRICS_CSV = """\
epoch,online/knn,step,train/accuracy_0,train/accuracy_1,train/loss,train/loss_0,train/loss_1
0,,4,0.5,0.25,5.0,3.0,2.0
0,40.5,5,,,,,
1,,9,0.75,0.5,4.0,2.5,1.5
"""


@pytest.mark.parametrize("count", [1, 2, 9, 10, 47])
def test_running_mean_is_that_of_a_slow_loop(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    reach = max(1, count // 10 | 1) // 2
    slow = [values[max(0, i - reach) : i + reach + 1].mean() for i in range(count)]
    assert np.allclose(running_mean(values), slow)


def test_curves_are_those_of_the_file_under_the_names_of_the_spaces(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS_CSV)
    curves = read_curves(tmp_path / "metrics.csv", ["all", "season"])
    spaces = ["space 0: all", "space 1: season"]
    assert [list(panel) for panel in curves.values()] == [spaces, spaces, [], ["knn"]]
    assert curves["loss"]["space 1: season"].tolist() == [[4, 2.0], [9, 1.5]]
    figure = Figure()
    draw_curves(figure, curves)
    raw, smooth = figure.axes[0].lines[:2]
    drawn = [list(np.asarray(line.get_ydata())) for line in (raw, smooth)]
    assert drawn == [[3.0, 2.5]] * 2  # too few to mix
    legends = [legend.get_texts() for axes in figure.axes if (legend := axes.get_legend())]
    assert [[text.get_text() for text in texts] for texts in legends] == [spaces, ["knn"]]


def test_every_view_has_its_label_and_every_image_its_date() -> None:
    pictures = [np.zeros((3, 8, 8, 3), np.float32)] * 2
    dates = [["2020-01-05", "2020-02-01", ""], ["2020-06-30", "", ""]]
    figure = Figure()
    draw_views(figure, Views(pictures, ["query", "key"], dates))
    assert [axes.get_title() for axes in figure.axes] == [*dates[0], *dates[1]]
    assert [axes.get_ylabel() for axes in figure.axes] == ["query", "", "", "key", "", ""]


def test_confusion_picture_is_dark_where_the_shares_are(tmp_path: Path) -> None:
    growth = []
    for name, matrix in (("a.png", torch.eye(3) * 5), ("b.png", torch.eye(3).flip(0) * 70)):
        plot_confusion(tmp_path / name, matrix, ["a", "b", "c"], "perfect")
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        rows, columns = np.nonzero(picture < 60)
        growth.append(np.mean((rows - rows.mean()) * (columns - columns.mean())) / rows.var())
    assert growth[0] > 0.3  # the dark column moves right as the row moves down
    assert growth[1] < -0.3


@pytest.mark.usefixtures("laid_out")
def test_neither_title_nor_names_of_a_picture_are_cut_off(tmp_path: Path) -> None:
    values = {"Land with " * 6 + "trees": 100.0, "$\\frac{$": 0.0, "Beach": float("nan")}
    plot_per_class(tmp_path / "classes.png", values, "A title of many words, " * 6)
    picture = np.asarray(Image.open(tmp_path / "classes.png").convert("L"))
    assert picture.std() > 5
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert edge.min() == 255
