"""The end of a run's events: progress, the last metric, the rate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Events", "rate_of", "read_events"]

TAIL_BYTES = 64 * 1024
RATE_SECONDS = 600.0  # a rate is over the last minutes: it follows a machine that got slower


@dataclass(frozen=True)
class Events:
    """The end of a run's events, of every slice."""

    progress: list[list[Mapping[str, Any]]] = field(default_factory=list)  # one list a file
    metric: tuple[str, float, int | None] | None = None


def read_events(out: Path) -> Events:
    """The last rows of every events file of a run."""
    progress: list[list[Mapping[str, Any]]] = []
    metric: tuple[float, tuple[str, float, int | None]] | None = None
    for path in sorted(out.glob("events*.jsonl")):
        rows = [row for row in _tail(path) if isinstance(row.get("at"), int | float)]
        progress.append([r for r in rows if r.get("kind") == "progress" and _is_int(r, "done")])
        for row in rows:
            value = row.get("value")
            is_metric = row.get("kind") == "metric" and isinstance(value, int | float)
            if is_metric and (metric is None or row["at"] >= metric[0]):
                step = int(row["step"]) if _is_int(row, "step") else None
                metric = (row["at"], (str(row.get("name")), float(row["value"]), step))
    return Events(progress, None if metric is None else metric[1])


def _is_int(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int)


def _tail(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file's last lines; a line that is half written is left out."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = handle.read().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def rate_of(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Units a second over the last rows of one phase of one start."""
    last = rows[-1]
    first = last
    for row in reversed(rows):
        same = row.get("name") == last.get("name") and row["done"] <= first["done"]
        if not same or last["at"] - row["at"] > RATE_SECONDS:
            break
        first = row
    seconds = float(last["at"]) - float(first["at"])
    return (int(last["done"]) - int(first["done"])) / seconds if seconds >= 0.5 else None
