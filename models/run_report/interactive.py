"""Scatter plots whose points show a thumbnail: maps of the embedding and of the world."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from models.run_report.page import data_uri, new_figure, svg
from utils.plots import COLORS

_MARKERS = "os^"  # of groups beyond the number of colours
_LAND = (-180, 180, -90, 90)  # degrees at the sides of a picture of the Earth
# Shows the thumbnail of the point below the mouse, and the chosen figure. Texts from files are put
# into the page as text, never as HTML.
SCRIPT = """
addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll("[data-points]")) {
    const spec = JSON.parse(document.getElementById(box.dataset.points).textContent);
    const image = box.querySelector(".hovered img");
    const text = box.querySelector(".hovered figcaption");
    const views = box.querySelectorAll(".view"), choice = box.querySelector("select");
    const show = number => views.forEach((view, n) => { view.hidden = n !== number; });
    if (choice) { show(0); choice.addEventListener("change", () => show(choice.selectedIndex)); }
    box.addEventListener("mouseover", event => {
      const point = event.target.closest("use"), group = point && point.closest("g[id^='points-']");
      if (!group) return;
      const index = spec.rows[group.id][[...group.querySelectorAll("use")].indexOf(point)];
      image.src = spec.thumbnails[index]; text.textContent = spec.texts[index];
    });
  }
});
"""


def scatter(
    identifier: str,
    views: Mapping[str, tuple[np.ndarray, Sequence[str]]],
    texts: Sequence[str],
    thumbnails: Sequence[np.ndarray],
    *,
    world: np.ndarray | None = None,
) -> str:
    """Return scatter plots of the same patches, of which one is shown at a time, as HTML.

    Args:
        identifier: Name of the plots, unique in the page.
        views: For each title of a choice, the points, (N, 2), and the group of each point.
        texts: Description of each point.
        thumbnails: Picture of each point, uint8, shape (H, W, 3).
        world: Picture of the Earth in degrees, behind the points; uint8, (H, W, 3).
    """
    rows: dict[str, list[int]] = {}
    figures = []
    for number, (title, (points, groups)) in enumerate(views.items()):
        figures.append(_figure(f"points-{identifier}-{number}", title, points, groups, world, rows))
    spec = {"rows": rows, "texts": list(texts), "thumbnails": list(map(data_uri, thumbnails))}
    # Inside a script element only this ends it.
    content = json.dumps(spec).replace("<", "\\u003c")
    options = "".join(f"<option>{escape(title)}</option>" for title in views)
    choice = f"<label>Show <select>{options}</select></label>" if len(views) > 1 else ""
    shown = "".join(f'<div class="view">{figure}</div>' for figure in figures)
    aside = '<figure class="hovered"><img alt="" width="128"><figcaption>point at a patch'
    return (
        f'<script type="application/json" id="{identifier}">{content}</script>'
        f'<div class="map" data-points="{identifier}"><div>{choice}{shown}</div>'
        f"{aside}</figcaption></figure></div>"
    )


def _shown(name: str) -> str:
    """Return a name as a label: matplotlib leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def _figure(
    prefix: str,
    title: str,
    points: np.ndarray,
    groups: Sequence[str],
    world: np.ndarray | None,
    rows: dict[str, list[int]],
) -> str:
    """Draw a plot, and enter the points of each of its groups by the id of the group."""
    names = sorted(set(groups), key=lambda name: (-list(groups).count(name), name))
    figure = new_figure(9, 5.5 if world is None else 4.6)
    axes = figure.subplots()
    if world is not None:
        axes.imshow(world, extent=_LAND, alpha=0.4, aspect="auto")
        axes.set(xlabel="longitude", ylabel="latitude", xlim=(-180, 180), ylim=(-75, 85))
    else:
        axes.set(xticks=[], yticks=[])
    for number, name in enumerate(names):
        own = [row for row, group in enumerate(groups) if group == name]
        x, y = points[own].T
        color, marker = COLORS[number % len(COLORS)], _MARKERS[number // len(COLORS) % 3]
        found = axes.scatter(x, y, s=22, color=color, marker=marker, label=_shown(name))
        found.set_gid(f"{prefix}-{number}")
        rows[f"{prefix}-{number}"] = own
    if len(names) > 1:
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return svg(figure, title)
