"""Figures that answer to the mouse: maps of the embedding and of the world, by Plotly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from models.run_report.page import COLORS, data_uri

# Draws each figure in the colours of the page, and shows the thumbnail of the point below the
# mouse. Texts are put into the page as text, never as HTML.
_SCRIPT = """
addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll("[data-plot]")) {
    const spec = JSON.parse(document.getElementById(box.dataset.plot).textContent);
    const ink = getComputedStyle(document.body).color, clear = "rgba(0,0,0,0)";
    const axis = {color: ink, gridcolor: "rgba(128,128,128,.25)", zeroline: false};
    const layout = {paper_bgcolor: clear, plot_bgcolor: clear, font: {color: ink}, height: 560,
      margin: {l: 40, r: 10, t: 10, b: 40}, hovermode: "closest", legend: {itemsizing: "constant"},
      xaxis: {...axis, ...spec.xaxis}, yaxis: {...axis, ...spec.yaxis}};
    if (spec.image) layout.images = [{source: spec.image, xref: "x", yref: "y", x: -180, y: 90,
      sizex: 360, sizey: 180, sizing: "stretch", layer: "below", opacity: .35}];
    const plot = box.querySelector(".plot"), image = box.querySelector("img");
    const text = box.querySelector("figcaption"), choice = box.querySelector("select");
    const draw = () => Plotly.react(plot, spec.views[choice ? choice.selectedIndex : 0].traces,
      layout, {responsive: true, displaylogo: false});
    draw();
    if (choice) choice.addEventListener("change", draw);
    plot.on("plotly_hover", event => {
      const point = event.points[0], index = point.customdata;
      if (index === undefined) return;
      image.src = spec.thumbnails[index]; text.textContent = spec.texts[index];
    });
  }
});
"""


def scripts() -> str:
    """Return the JavaScript of all figures: Plotly, whole, and ours."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script") + _SCRIPT


def scatter(
    identifier: str,
    views: Mapping[str, tuple[np.ndarray, Sequence[str]]],
    texts: Sequence[str],
    thumbnails: Sequence[np.ndarray],
    *,
    world: np.ndarray | None = None,
) -> str:
    """Return a scatter plot with thumbnails, as HTML.

    Args:
        identifier: Name of the figure, unique in the page.
        views: For each title of a choice, the points, (N, 2), and the group of each point.
        texts: Description of each point.
        thumbnails: Picture of each point, uint8, shape (H, W, 3).
        world: Picture of the Earth in degrees, behind the points; uint8, (H, W, 3).
    """
    plots = [{"traces": _traces(points, groups)} for points, groups in views.values()]
    spec: dict[str, Any] = {"views": plots, "texts": list(texts)}
    spec["thumbnails"] = [data_uri(picture) for picture in thumbnails]
    if world is None:
        spec |= {"xaxis": {"showticklabels": False}, "yaxis": {"showticklabels": False}}
    else:
        spec |= {"image": data_uri(world), "xaxis": {"range": [-180, 180]}}
        spec["yaxis"] = {"range": [-75, 85], "scaleanchor": "x"}
    # Inside a script element only this ends it.
    content = json.dumps(spec).replace("<", "\\u003c")
    options = "".join(f"<option>{escape(title)}</option>" for title in views)
    choice = f"<label>Show <select>{options}</select></label>" if len(views) > 1 else ""
    aside = '<figure style="width:140px"><img alt="" width="128"><figcaption>point at a patch'
    return (
        f'<script type="application/json" id="{identifier}">{content}</script>'
        f'<div data-plot="{identifier}">{choice}<div style="display:flex;gap:1rem">'
        f'<div class="plot" style="flex:1;min-width:0"></div>{aside}</figcaption></figure></div>'
        "<noscript>This figure needs JavaScript; all others do not.</noscript></div>"
    )


def _traces(points: np.ndarray, groups: Sequence[str]) -> list[dict[str, Any]]:
    """Return one trace per group, the largest first."""
    names = sorted(set(groups), key=lambda name: (-list(groups).count(name), name))
    traces = []
    for number, name in enumerate(names):
        rows = [row for row, group in enumerate(groups) if group == name]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(name[:40]),  # Plotly reads some HTML in names
                "x": points[rows, 0].round(4).tolist(),
                "y": points[rows, 1].round(4).tolist(),
                "customdata": rows,
                "hoverinfo": "none",
                "marker": {"size": 7, "opacity": 0.8, "color": COLORS[number % len(COLORS)]},
            }
        )
    return traces
