"""The evaluation as one self-contained HTML page: figures, tables, bars, charts, pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsgen.evaluation.charts import chart_of
from rsgen.evaluation.page_template import PAGE
from rsgen.images import replace_bytes

__all__ = ["Other", "write_report"]

# Figures, columns and tables of these names are no shares of a whole: a bar would say nothing.
NO_BAR = ("distance", "error", "px", "spread", "+-", ", low", ", high", ", to ", "FD-", "KD-",
          "MMD-", "FID", "KID", "CMMD", "mismatch", "closest", "ratio", "extra")  # fmt: skip


@dataclass(frozen=True)
class Other:
    """An earlier evaluation that this one is compared with: its report.json and OUT/cells."""

    report: Mapping[str, Any]
    cells: Path

    def cell(self, name: str) -> Mapping[str, Any]:
        """A cell's answer; empty where that run did not measure it."""
        found: Mapping[str, Any] = self.report.get("cells", {}).get(name, {})
        return found


def write_report(path: Path, report: Mapping[str, Any], cells: Path, other: Other | None) -> Path:
    """Write the page of a report (as report.json has it); pictures are taken from `cells`."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True)
    shown = [
        _cell(name, report["titles"][name], row, cells, other)
        for name, row in report["cells"].items()
    ]
    text = environment.from_string(PAGE).render(
        counts=report["counts"],
        cells=shown,
        other=other is not None,
        other_counts={} if other is None else other.report.get("counts", {}),
    )
    replace_bytes(path, text.encode("utf-8"))
    return path


def _cell(
    name: str, title: str, row: Mapping[str, Any], cells: Path, other: Other | None
) -> dict[str, Any]:
    theirs = {} if other is None else other.cell(name)
    figures, tables = theirs.get("figures", {}), theirs.get("tables", {})
    return {
        "name": name,
        "title": title[:1].upper() + title[1:],
        "notes": row["notes"],
        "counts": row["counts"],
        "figures": [_figure(key, value, figures.get(key)) for key, value in row["figures"].items()],
        "tables": [
            _table(key, rows, tables.get(key)) for key, rows in row["tables"].items() if rows
        ],
        "pictures": _pictures(name, row["pictures"], cells, theirs.get("pictures", {}), other),
    }


def _figure(name: str, value: Any, other: Any) -> dict[str, Any]:
    both = isinstance(value, float | int) and isinstance(other, float | int)
    return {
        "name": name,
        "value": _text(value),
        "share": _share(value) if _barred(name) else None,
        "other": _text(other),
        "other_share": _share(other) if _barred(name) else None,
        "change": f"{value - other:+.3g}" if both else "",
    }


def _pictures(
    name: str,
    pictures: Mapping[str, str],
    cells: Path,
    theirs: Mapping[str, str],
    other: Other | None,
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for title, file in pictures.items():
        data = _encoded(cells / name / file)
        if data is None:
            continue
        twin = None
        if other is not None and title in theirs:
            twin = _encoded(other.cells / name / theirs[title])
        found.append({"title": title, "data": data, "other": twin, "open": not found})
    return found


def _encoded(path: Path) -> str | None:
    return base64.b64encode(path.read_bytes()).decode("ascii") if path.is_file() else None


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _share(value: Any) -> float | None:
    """Percent of a bar, for figures that can be shares."""
    if isinstance(value, float) and 0 <= value <= 1:
        return round(100 * value, 1)
    return None


def _table(
    name: str, rows: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Any]:
    theirs = _rows(name, other) if other else None
    return {**_rows(name, rows), "name": name, "other": theirs}


def _rows(name: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    values = {c: [row[c] for row in rows.values() if row.get(c) is not None] for c in columns}
    barred = {c for c in columns if _barred(name) and _barred(c) and _are_shares(values[c])}
    words = {c for c in columns if any(isinstance(v, str) for v in values[c])}
    return {
        "columns": columns,
        "rows": [
            {
                "name": key,
                "cells": [
                    {
                        "text": _text(row.get(c)),
                        "share": _share(row.get(c)) if c in barred else None,
                        "words": c in words,
                    }
                    for c in columns
                ],
            }
            for key, row in rows.items()
        ],
        "chart": chart_of(rows),
    }


def _barred(name: str) -> bool:
    return not any(word in name for word in NO_BAR)


def _are_shares(values: list[Any]) -> bool:
    """Whether all are numbers in 0..1, and some are worth a bar."""
    inside = all(isinstance(v, float) and 0 <= v <= 1 for v in values)
    return inside and max(values, default=0.0) > 0.05
