"""Pictures for people: drawn labels, contact sheets, and one-file HTML pages."""

from __future__ import annotations

import base64
import colorsys
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rsgen.geometry import Box, box_quad
from rsgen.images import Pixels, encode_png, replace_bytes
from rsgen.records import Instance, Layout

__all__ = [
    "PageRow",
    "contact_sheet",
    "draw_layout",
    "label_color",
    "palette",
    "write_figure",
    "write_page",
]

Color = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_SCALE = 0.32
LINE_PX = 11
TITLE_LINES = 3


def write_figure(figure: Any, path: Path) -> Path:
    """A matplotlib figure as a PNG; same figure, same bytes. No window system is asked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(str(path), metadata={"Software": None})
    return path


def palette(index: int) -> Color:
    """A distinct RGB colour per class index; 0 is black."""
    if index == 0:
        return (0, 0, 0)
    hue = (index * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 + 0.35 * (index % 2), 1.0)
    return (int(red * 255), int(green * 255), int(blue * 255))


def label_color(label: str) -> Color:
    """A colour that depends on the name alone."""
    return palette(1 + sum(ord(c) * (i + 7) for i, c in enumerate(label)) % 97)


def draw_layout(
    image: Pixels,
    layout: Layout,
    *,
    masks: bool = True,
    quads: bool = True,
    labels: bool = True,
    scale: int = 1,
    color_of: Callable[[Instance], Color] | None = None,
    name_of: Callable[[Instance], str] | None = None,
) -> Pixels:
    """The image with outlines of masks, boxes (front edge thicker) and names.

    Stuff (no box, no quad) is left undrawn. `scale` enlarges by a whole factor first, so that
    small objects stay readable. Colours and names are the class's unless told otherwise.
    """
    drawn = np.ascontiguousarray(np.kron(image, np.ones((scale, scale, 1), np.uint8)))
    for instance in layout.instances:
        box = instance.bounds()
        if box is None or (instance.box is None and instance.quad is None):
            continue
        color = label_color(instance.label) if color_of is None else color_of(instance)
        if masks and instance.mask is not None:
            for rings in instance.mask.rings():
                for ring in rings:
                    _polyline(drawn, ring * scale, color)
        if quads:
            quad = np.asarray(instance.quad or box_quad(box)) * scale
            _polyline(drawn, quad, color)
            if instance.heading_rad is not None:
                _segment(drawn, quad[0], quad[1], (255, 255, 255))
        if labels:
            name = instance.label if name_of is None else name_of(instance)
            _name(drawn, name, box, scale, color)
    return drawn


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round((points - 0.5) * 16).astype(np.int32)


def _polyline(canvas: Pixels, points: np.ndarray, color: Color) -> None:
    cv2.polylines(canvas, [_fixed(points)], True, color, 1, cv2.LINE_AA, shift=4)


def _segment(canvas: Pixels, a: np.ndarray, b: np.ndarray, color: Color) -> None:
    first, second = _fixed(np.stack([a, b])).tolist()
    cv2.line(canvas, first, second, color, 1, cv2.LINE_AA, shift=4)


def _name(canvas: Pixels, text: str, box: Box, scale: int, color: Color) -> None:
    place = (int(box.x0 * scale), max(8, int(box.y0 * scale) - 2))
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.32, (0, 0, 0), 2, cv2.LINE_AA)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.32, color, 1, cv2.LINE_AA)


def contact_sheet(
    tiles: Sequence[Pixels],
    path: Path,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    max_side: int = 256,
) -> Path:
    """Write tiles uint8 [H, W, 3] as one PNG grid, each shrunk to `max_side` if larger.

    A title has as many lines over its tile as it needs, at most `TITLE_LINES`.
    """
    small = [_fit(tile, max_side) for tile in tiles] or [np.zeros((32, 32, 3), np.uint8)]
    cell_w = max(t.shape[1] for t in small)
    captions = [_title_lines(title, cell_w) for title in (titles or ())[: len(small)]]
    most = max(map(len, captions), default=1)
    strip = 3 + LINE_PX * most if titles is not None else 0
    cell_h = max(t.shape[0] for t in small) + strip
    columns = max(1, min(columns, len(small)))
    rows = -(-len(small) // columns)
    sheet = np.full((rows * (cell_h + 4) + 4, columns * (cell_w + 4) + 4, 3), 32, np.uint8)
    for k, tile in enumerate(small):
        y = 4 + (k // columns) * (cell_h + 4)
        x = 4 + (k % columns) * (cell_w + 4)
        sheet[y + strip : y + strip + tile.shape[0], x : x + tile.shape[1]] = tile
        lines = captions[k] if k < len(captions) else []
        for number, text in enumerate(lines, start=1 + most - len(lines)):
            place = (x, y + LINE_PX * number - 1)
            cv2.putText(sheet, text, place, FONT, FONT_SCALE, (230, 230, 230), 1)
    replace_bytes(path, encode_png(sheet))
    return path


def _title_lines(text: str, width: int) -> list[str]:
    """A title in lines of at most `width` pixels, broken after spaces, hyphens and underscores."""
    lines = [""]
    for word in re.findall(r"[^\s_-]*[_-]+|[^\s_-]+\s*|\s+", text):
        if _text_width(lines[-1] + word.rstrip()) > width and lines[-1]:
            lines.append("")
        for letter in word:
            if _text_width((lines[-1] + letter).rstrip()) > width and lines[-1]:
                lines.append("")
            lines[-1] += letter
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) > TITLE_LINES:
        last = lines[TITLE_LINES - 1]
        while last and _text_width(f"{last}..") > width:
            last = last[:-1]
        lines = [*lines[: TITLE_LINES - 1], f"{last}.."]
    return lines


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0])


def _fit(tile: Pixels, max_side: int) -> Pixels:
    side = max(tile.shape[:2])
    if side <= max_side:
        return tile
    size = (
        max(1, round(tile.shape[1] * max_side / side)),
        max(1, round(tile.shape[0] * max_side / side)),
    )
    return np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


@dataclass(frozen=True)
class PageRow:
    """One picture with a title and lines of text, for `write_page`."""

    image: Pixels
    title: str
    lines: tuple[str, ...] = ()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; background: #f6f6f4; color: #222 }
h1 { font-size: 1.3rem } .intro { max-width: 60rem }
.grid { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; background: #fff; border: 1px solid #ddd; padding: .6rem; max-width: 360px }
img { display: block; image-rendering: pixelated; max-width: 340px }
figcaption b { display: block; overflow-wrap: anywhere }
figcaption span { display: block; color: #555; font-size: 12px; overflow-wrap: anywhere }
</style>
<h1>{{ title }}</h1>
{% for line in intro %}<p class="intro">{{ line }}</p>{% endfor %}
<div class="grid">{% for row in rows %}
<figure><img alt="{{ row.title }}" src="data:image/png;base64,{{ row.data }}">
<figcaption><b>{{ row.title }}</b>{% for l in row.lines %}<span>{{ l }}</span>{% endfor %}
</figcaption></figure>{% endfor %}
</div></html>
"""


def write_page(path: Path, title: str, rows: Sequence[PageRow], intro: Sequence[str] = ()) -> Path:
    """Write a self-contained HTML page of pictures in the given order."""
    from jinja2 import Environment

    environment = Environment(autoescape=True)
    data = [
        {
            "title": row.title,
            "lines": row.lines,
            "data": base64.b64encode(encode_png(row.image)).decode("ascii"),
        }
        for row in rows
    ]
    html = environment.from_string(_PAGE).render(title=title, rows=data, intro=intro)
    replace_bytes(path, html.encode("utf-8"))
    return path
