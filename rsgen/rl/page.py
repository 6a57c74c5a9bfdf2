"""What a person sees of a tuning run: curves as a PNG, and one HTML page with all of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsgen.images import replace_bytes
from rsgen.pictures import write_figure

__all__ = ["write_curves", "write_page"]

Rows = Sequence[Mapping[str, Any]]
# Panel -> the columns that it shows where they are in the rows; the others are raw terms.
PANELS: dict[str, tuple[str, ...]] = {
    "reward": ("reward", "held reward"),
    "score on held layouts": ("held score",),
    "KL from the start, nats a step": ("kl", "kl epoch"),
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
        axes.grid(alpha=0.3)
        if len(names) > 1 or title == "raw terms":
            axes.legend(frameon=False, fontsize=7)
    return write_figure(figure, path)


def _points(rows: Rows, name: str) -> list[tuple[int, float]]:
    found = [(int(row["epoch"]), row[name]) for row in rows if row.get(name) is not None]
    return [(epoch, float(value)) for epoch, value in found if value == value]


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
</style></head><body>
<h1>{{ title }}</h1>
{% for line in notes %}<p>{{ line }}</p>{% endfor %}
<div class="cards">{% for name, value in figures.items() %}
<div class="card"><b>{{ value }}</b>{{ name }}</div>{% endfor %}</div>
<h2>Curves</h2>
<p class="quiet">Held layouts are never tuned on. A reward that grows while the held score falls is
being fooled.</p>
<img alt="curves" src="data:image/png;base64,{{ curves }}">
{% for name, data in pictures.items() %}<h2>{{ name }}</h2>
<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">{% endfor %}
<h2>Every epoch</h2>
<div class="scroll"><table><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
</body></html>
"""


def write_page(
    path: Path,
    *,
    title: str,
    rows: Rows,
    figures: Mapping[str, str],
    notes: Sequence[str],
    curves: Path,
    pictures: Mapping[str, Path],
) -> Path:
    """One self-contained HTML page; nothing is fetched from elsewhere."""
    from jinja2 import Environment

    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(PAGE)
        .render(
            title=title,
            notes=notes,
            figures=figures,
            curves=_inline(curves),
            pictures={name: _inline(file) for name, file in pictures.items()},
            columns=[c.removeprefix("term ") for c in columns],
            rows=[[_cell(row.get(c)) for c in columns] for row in rows],
        )
    )
    replace_bytes(path, text.encode("utf-8"))
    return path


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
