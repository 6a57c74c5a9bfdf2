"""Small charts as SVG text, drawn from a report's tables; colours are the page's."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["chart_of"]

ROW, LEFT, WIDTH = 24, 210, 640
SIDE = 220
Rows = Mapping[str, Mapping[str, Any]]


def chart_of(rows: Rows) -> str:
    """An SVG where a table is easier seen than read, else nothing.

    Columns X and "X +-" become means with intervals; score, right and count a reliability
    diagram.
    """
    columns = {column for row in rows.values() for column in row}
    if {"score", "right", "count"} <= columns:
        return _reliability(rows)
    for row in rows.values():
        for column in row:
            if f"{column} +-" in columns:
                return _intervals(rows, column)
    return ""


def _intervals(rows: Rows, column: str) -> str:
    """Means with intervals, one line a row; the first row's mean is the dashed line."""
    known = {
        name: (float(row[column]), float(row.get(f"{column} +-") or 0))
        for name, row in rows.items()
        if row.get(column) is not None
    }
    if len(known) < 2:
        return ""
    low = min(mean - half for mean, half in known.values())
    high = max(mean + half for mean, half in known.values())
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return LEFT + 10 + (value - low) / span * (WIDTH - LEFT - 70)

    height = ROW * (len(known) + 1)
    first = next(iter(known.values()))[0]
    parts = [
        f'<line class="base" stroke-dasharray="4 3" x1="{x(first):.1f}" x2="{x(first):.1f}" '
        f'y1="4" y2="{height - ROW}"/>'
    ]
    for k, (name, (mean, half)) in enumerate(known.items()):
        y = ROW * k + ROW / 2
        parts.append(
            f'<text x="{LEFT}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<line class="mark" stroke-width="2" x1="{x(mean - half):.1f}" '
            f'x2="{x(mean + half):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="mark" cx="{x(mean):.1f}" cy="{y}" r="4"/>'
        )
    for value, anchor in ((low, "start"), (high, "end")):
        parts.append(
            f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="{anchor}">{value:.3g}</text>'
        )
    return _svg(WIDTH, height, f"{column}: mean and interval", parts)


def _reliability(rows: Rows) -> str:
    """Share that is right against score; on the diagonal scores mean what they say."""
    points = sorted((float(r["score"]), float(r["right"]), int(r["count"])) for r in rows.values())
    edge = 30

    def place(score: float, right: float) -> tuple[float, float]:
        return edge + score * (SIDE - 2 * edge), SIDE - edge - right * (SIDE - 2 * edge)

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    most = max(count for _, _, count in points)
    line = " ".join("{:.1f},{:.1f}".format(*place(s, r)) for s, r, _ in points)
    parts = [
        f'<path class="axis" fill="none" d="M{x0} {y1}V{y0}H{x1}M{x0} {y0}L{x1} {y1}"/>',
        f'<polyline class="curve" points="{line}"/>',
        f'<text x="{SIDE / 2}" y="{SIDE - 8}" text-anchor="middle">score, 0 to 1</text>',
        f'<text x="12" y="{SIDE / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {SIDE / 2})">share that is right</text>',
    ]
    for score, right, count in points:
        x, y = place(score, right)
        radius = 2 + 4 * (count / most) ** 0.5
        parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>')
    return _svg(SIDE, SIDE, "reliability diagram", parts)


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
