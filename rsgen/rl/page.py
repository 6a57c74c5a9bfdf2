"""What a person sees of a tuning run: curves as a PNG, and one HTML page with all of it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rsgen.images import replace_bytes
from rsgen.pictures import write_figure
from rsgen.rl.metrics import is_plain

__all__ = ["show", "write_curves"]

MOST_GRIDS = 12
JPEG_QUALITY = 85

Rows = Sequence[Mapping[str, Any]]
# Panel -> the columns that it shows where they are in the rows; the others are raw terms.
PANELS: dict[str, tuple[str, ...]] = {
    "reward": ("reward", "held reward"),
    "score on held layouts": ("held score",),
    "moved: KL in nats a step": ("kl", "kl epoch"),
    "clipped share": ("clipped high", "clipped low"),
    "difference of a layout's images, grey levels": ("diversity",),
    "gradient norm": ("gradient norm",),
    "paired loss": ("paired loss",),
    "critic: explained variance": ("explained variance",),
}
COLUMNS = 3


def write_curves(path: Path, rows: Rows) -> Path:
    """A PNG of all that was measured, by epoch; same rows, same bytes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = {title: [c for c in names if _points(rows, c)] for title, names in PANELS.items()}
    terms = sorted({key for row in rows for key in row if key.startswith("term ")})
    whole = [c for c in terms if "/" not in c]
    panels = {"raw terms": whole, **panels} if whole else panels
    shown = {title: names for title, names in panels.items() if names}
    height = -(-max(1, len(shown)) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.9 * height), dpi=100)
    for place, (title, names) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(height, COLUMNS, place)
        for name in names:
            points = _points(rows, name)
            label = name.removeprefix("term ")
            axes.plot(*zip(*points, strict=True), marker=".", markersize=3, label=label)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(names) > 1 or title == "raw terms":
            axes.legend(frameon=False, fontsize=7)
    part = write_figure(figure, path.with_name(f".{path.name}.tmp"))
    return part.replace(path)


def _points(rows: Rows, name: str) -> list[tuple[int, float]]:
    found = [(int(row["epoch"]), row[name]) for row in rows if row.get(name) is not None]
    return [(epoch, float(value)) for epoch, value in found if math.isfinite(value)]


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>rsgen rl-tune</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8886; --soft: #8881;
  --quiet: color-mix(in srgb, currentColor 70%, transparent) }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 80rem;
  padding: 1.5rem 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .8rem;
  border-top: 1px solid var(--line) }
.quiet { color: var(--quiet); font-size: .87rem }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .6rem }
.card { background: var(--soft); padding: .55rem .75rem; border-radius: .4rem; font-size: .9rem }
.card b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
img { max-width: 100%; height: auto; background: #fff }
details { margin: .4rem 0 }
summary { cursor: pointer; padding: .2rem 0 }
</style></head><body>
<h1>{{ title }}</h1>
{% for line in notes %}<p>{{ line }}</p>{% endfor %}
<div class="cards">{% for name, value in figures.items() %}
<div class="card"><b>{{ value }}</b>{{ name }}</div>{% endfor %}</div>
<h2>Curves</h2>
<p class="quiet">Held layouts are never tuned on. A reward that grows while the held score falls is
being fooled. KL says how far the model has moved, kl from its start and kl epoch within an epoch;
larger: more changed.</p>
<img alt="curves" src="{{ curves }}">
{% if grids %}<h2>The same layouts and noise, at the start and later</h2>
{% for grid in grids %}<details{% if grid.open %} open{% endif %}>
<summary>{{ grid.title }}</summary>
<img alt="images {{ grid.title }}" src="{{ grid.source }}"></details>
{% endfor %}{% endif %}
<h2>Every epoch</h2>
<div class="scroll"><table><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
</body></html>
"""


def show(
    folder: Path,
    title: str,
    rows: Rows,
    *,
    figures: Mapping[str, str],
    notes: Sequence[str],
    kept: int | None = None,
) -> dict[str, Path]:
    """Write OUT/page.html and OUT/curves.png, each replaced as a whole; artifacts by name.

    Grids of OUT/validation are in the page, of so many epochs at most; `kept` is the epoch whose
    weights are saved, once that is known. Nothing is fetched from elsewhere.
    """
    from jinja2 import Environment

    curves = write_curves(folder / "curves.png", rows)
    grids = sorted((folder / "validation").glob("epoch-*.png"))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(PAGE)
        .render(
            title=title,
            notes=notes,
            figures=figures,
            curves=_inline(curves.read_bytes(), "png"),
            grids=_shown(grids, kept),
            columns=[c.removeprefix("term ") for c in columns],
            rows=[[_cell(row.get(c)) for c in columns] for row in rows],
        )
    )
    page = folder / "page.html"
    replace_bytes(page, text.encode("utf-8"))
    found = {"page": page, "curves": curves}
    return {**found, "validation": grids[-1]} if grids else found


def _shown(grids: Sequence[Path], kept: int | None) -> list[dict[str, Any]]:
    """What the page has of the grids, newest first; the newest and the kept one are open."""
    epochs = {int(path.stem.rpartition("-")[2]): path for path in grids}
    every = sorted(epochs)
    places = np.linspace(0, len(every) - 1, min(len(every), MOST_GRIDS)).round().astype(int)
    chosen = {every[k] for k in places}
    if kept is not None and kept in epochs:
        chosen.add(kept)
    found = []
    for epoch in sorted(chosen, reverse=True):
        is_open = epoch in (every[-1], kept)
        saved = ", whose weights are saved" if epoch == kept else ""
        data = epochs[epoch].read_bytes()
        source = _inline(data, "png") if is_open else _inline(_smaller(data), "jpeg")
        found.append({"title": f"after epoch {epoch}{saved}", "open": is_open, "source": source})
    return found


def _smaller(png: bytes) -> bytes:
    """A picture as JPEG: a tenth of the bytes."""
    pixels = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None, "a grid that this run has written"
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _cell(value: Any) -> str:
    if value is None or not is_plain(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
