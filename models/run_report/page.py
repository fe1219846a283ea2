"""The page of a report: sections, tables, figures and thumbnails as HTML.

Every text from a file is escaped, and the page allows no request: a name in a data set can neither
run code nor reach the network.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from utils.errors import UserError
from utils.plots import plain_texts

_STYLE: dict[Any, Any] = {"svg.fonttype": "none"}  # texts stay texts
_TURNED_LENGTH = 30  # characters
_MAX_PNG_BYTES, _MAX_JPEG_SIZE = 400_000, (1600, 1600)
_CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; }
}
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { border: 1px solid var(--line); padding: .2rem .6rem; text-align: left;
  vertical-align: top; overflow-wrap: break-word; max-width: 40rem; }
th { white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg text { fill: currentColor; } svg { max-width: 100%; height: auto; } figure { margin: .8rem 0; }
figcaption, .note { opacity: .75; font-size: .9em; } .bad { color: #d55e00; font-weight: 600; }
.warning { border-left: 4px solid #d55e00; padding-left: .8rem; max-width: 60rem; }
.strip { display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-start; }
.strip figure { margin: 0; width: 96px; } .strip img { width: 96px; image-rendering: pixelated; }
.strip figcaption { font-size: .72em; overflow-wrap: anywhere; } .wide img { max-width: 100%; }
.scroll { overflow-x: auto; }
th.turned { vertical-align: bottom; }
.turned span { writing-mode: vertical-rl; transform: rotate(180deg); }
.share { display: block; padding: 0 .3rem; text-align: right; }
.query { display: flex; gap: 1.2rem; border-top: 1px solid var(--line); padding: .8rem 0; }
.row { display: flex; gap: .8rem; margin-bottom: .5rem; } .row > .note { flex: none; width: 9rem;
  margin: 0; } .framed { outline: 3px solid #009e73; }
.map { display: flex; gap: 1rem; } .hovered { width: 140px; } use { cursor: crosshair; }
nav a { margin-right: 1rem; } a { color: inherit; }
"""
# What the page may load: nothing but itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class Section(NamedTuple):
    """A titled part of a page.

    Attributes:
        title: Its heading.
        html: Its content, escaped.
    """

    title: str
    html: str


def page(title: str, sections: Sequence[Section], scripts: str = "", refresh_s: int = 0) -> str:
    """Return a whole page.

    Args:
        title: Heading of the page.
        sections: Its parts in order.
        scripts: JavaScript that the sections use; empty for none.
        refresh_s: Seconds after which the browser reads the file again; 0 for never.
    """
    links = "".join(f'<a href="#s{n}">{escape(each.title)}</a>' for n, each in enumerate(sections))
    parts = "".join(
        f'<section id="s{n}"><h2>{escape(each.title)}</h2>{each.html}</section>'
        for n, each in enumerate(sections)
    )
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += f'<meta name="viewport" content="width=device-width">{again}'
    script = f"<script>{scripts}</script>" if scripts else ""
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{escape(title)}</title>'
        f"<style>{_CSS}</style>{script}</head><body><h1>{escape(title)}</h1><nav>{links}</nav>"
        f"{parts}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, is_turned: bool = False) -> str:
    """Return a table; numbers are aligned on the right.

    Args:
        head: Names of the columns.
        rows: Cells; ``Markup`` is HTML, other texts are escaped.
        is_turned: Whether to write the names upwards, for narrow columns; long ones are shortened.
    """
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    if is_turned:
        shown = [escape(_shortened(name)) for name in head]
        cells = "".join(
            f'<th class="turned" title="{escape(name)}"><span>{text}</span></th>'
            for name, text in zip(head, shown, strict=True)
        )
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    parts = f"<thead><tr>{cells}</tr></thead><tbody>{lines}</tbody>"
    return f'<div class="scroll"><table>{parts}</table></div>'


class Markup(str):
    """A cell that is HTML already."""


def _shortened(name: str) -> str:
    """Cut a long name, which may be one word, such as that of a folder."""
    return name if len(name) <= _TURNED_LENGTH else f"{name[: _TURNED_LENGTH - 1].rstrip()}…"


def _cell(value: object) -> str:
    if isinstance(value, Markup):
        return f"<td>{value}</td>"
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = ' class="number"' if is_number else ""
    return f"<td{kind}>{escape(text[:500])}</td>"


def note(text: str) -> str:
    """Return a remark in small print."""
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """Return a remark that is not to be overlooked."""
    return f'<p class="warning">{escape(text)}</p>'


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure in the style of the page.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, caption: str = "") -> str:
    """Draw a figure as SVG in the colours of the reader.

    Args:
        figure: Figure to draw.
        caption: Text below it.
    """
    buffer = StringIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    for legend in figure.findobj(Legend):
        legend.set_frame_on(False)
    with mpl.rc_context(_STYLE | {"svg.hashsalt": caption}), plain_texts(figure):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), count=1, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace("#000000", "currentColor")  # black texts have no colour, see _CSS
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{text}{below}</figure>"


def data_uri(picture: np.ndarray) -> str:
    """Return a picture, uint8, shape (H, W, 3), as text."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=80)
    return _uri("jpeg", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(picture: np.ndarray, caption: str, *, is_framed: bool = False) -> str:
    """Return a small picture with its caption.

    Args:
        picture: uint8, shape (H, W, 3).
        caption: Text below it.
        is_framed: Whether to draw a frame around it.
    """
    text = escape(caption)
    frame = ' class="framed"' if is_framed else ""
    image = f'<img{frame} alt="{text}" src="{data_uri(picture)}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def picture_file(path: Path, caption: str) -> str:
    """Return a PNG of the run's folder with its caption.

    Args:
        path: The file.
        caption: Text below it.
    """
    text = escape(caption)
    image = f'<img alt="{text}" src="{_file_uri(path)}">'
    return f'<figure class="wide">{image}<figcaption>{text}</figcaption></figure>'


def _file_uri(path: Path) -> str:
    """Return a PNG as text; a large one, such as the map of a city, as a smaller JPEG."""
    content = path.read_bytes()
    if len(content) <= _MAX_PNG_BYTES:
        return _uri("png", content)
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            shown = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture of a run: delete it, or restore it") from error
    shown.thumbnail(_MAX_JPEG_SIZE)
    return data_uri(np.asarray(shown))
