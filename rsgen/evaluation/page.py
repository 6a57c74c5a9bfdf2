"""The evaluation as one self-contained HTML page: figures, tables, bars, pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsgen.images import replace_bytes

__all__ = ["write_report"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>rsgen evaluate</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8884; --bar: #4a7ab5; --soft: #8882; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
nav a { margin-right: 1rem }
table { border-collapse: collapse; margin: .3rem 0 1rem; display: block; overflow-x: auto }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .7rem }
.figure { background: var(--soft); padding: .6rem .8rem; border-radius: .4rem }
.figure b { display: block; font-size: 1.35rem } .figure small { opacity: .75 }
.bar { height: .35rem; background: var(--soft); margin-top: .3rem; border-radius: .2rem }
.bar i { display: block; height: 100%; background: var(--bar); border-radius: .2rem }
.note { border-left: 3px solid #c80; padding-left: .7rem; margin: .4rem 0 }
img { max-width: 100%; height: auto; image-rendering: auto }
</style></head><body>
<h1>How good is the generated set?</h1>
<p>{% for name, value in counts.items() %}{{ value }} {{ name }}{{ ", " if not loop.last }}
{% endfor %}.{% if other %} Small print: the set it is compared with.{% endif %}</p>
<nav>{% for cell in cells %}<a href="#{{ cell.name }}">{{ cell.name }}</a>{% endfor %}</nav>
{% for cell in cells %}
<h2 id="{{ cell.name }}">{{ cell.title }}</h2>
{% for note in cell.notes %}<p class="note">{{ note }}</p>{% endfor %}
<div class="figures">
{% for f in cell.figures %}<div class="figure"><b>{{ f.value }}</b>{{ f.name }}
{% if other %}<br><small>against: {{ f.other }}</small>{% endif %}
{% if f.share is not none %}<div class="bar"><i style="width: {{ f.share }}%"></i></div>{% endif %}
</div>{% endfor %}
</div>
{% if cell.counts %}<p><small>Measured on {% for name, value in cell.counts.items() %}{{ value }}
{{ name }}{{ ", " if not loop.last }}{% endfor %}.</small></p>{% endif %}
{% for table in cell.tables %}
<h3>{{ table.name }}</h3>
<table><tr><th></th>{% for c in table.columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr><td>{{ row.name }}</td>
{% for v in row.cells %}<td>{{ v }}</td>{% endfor %}</tr>{% endfor %}</table>
{% endfor %}
{% for picture in cell.pictures %}<h3>{{ picture.title }}</h3>
<img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.data }}">{% endfor %}
{% endfor %}
</body></html>
"""


def write_report(
    path: Path, report: Mapping[str, Any], cells: Path, against: Mapping[str, Any] | None
) -> Path:
    """Write the page of a report (as report.json has it); pictures are taken from `cells`."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True)
    shown = [
        _cell(name, report["titles"][name], row, cells / name, against)
        for name, row in report["cells"].items()
    ]
    text = environment.from_string(PAGE).render(
        counts=report["counts"], cells=shown, other=against is not None
    )
    replace_bytes(path, text.encode("utf-8"))
    return path


def _cell(
    name: str, title: str, row: Mapping[str, Any], folder: Path, against: Mapping[str, Any] | None
) -> dict[str, Any]:
    others = {} if against is None else against.get("cells", {}).get(name, {}).get("figures", {})
    return {
        "name": name,
        "title": title[:1].upper() + title[1:],
        "notes": row["notes"],
        "counts": row["counts"],
        "figures": [
            {
                "name": key,
                "value": _text(value),
                "other": _text(others.get(key)),
                "share": _share(value),
            }
            for key, value in row["figures"].items()
        ],
        "tables": [_table(key, rows) for key, rows in row["tables"].items() if rows],
        "pictures": [
            {"title": key, "data": base64.b64encode((folder / file).read_bytes()).decode("ascii")}
            for key, file in row["pictures"].items()
            if (folder / file).is_file()
        ],
    }


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _share(value: Any) -> float | None:
    """Percent of a bar, for figures that are shares."""
    if isinstance(value, float) and 0 <= value <= 1:
        return round(100 * value, 1)
    return None


def _table(name: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    return {
        "name": name,
        "columns": columns,
        "rows": [
            {"name": key, "cells": [_text(row.get(c)) for c in columns]}
            for key, row in rows.items()
        ],
    }
