"""What long-running code tells whoever watches it; the CLI and tests supply the listeners."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["EventLog", "NullReporter", "Reporter", "RunSummary", "TeeReporter"]


class Reporter(Protocol):
    """Progress, numbers and remarks; no method may raise or block for long."""

    def stage(self, name: str, total: int | None, unit: str = "item") -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def metric(self, name: str, value: float, step: int | None = None) -> None: ...

    def note(self, text: str, level: str = "info") -> None: ...


class NullReporter:
    """Says nothing."""

    def stage(self, name: str, total: int | None, unit: str = "item") -> None:
        return

    def advance(self, count: int = 1) -> None:
        return

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        return

    def note(self, text: str, level: str = "info") -> None:
        return


class EventLog(NullReporter):
    """Appends metrics and notes to a JSON-lines file (OUT/events.jsonl)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, row: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row, sort_keys=True) + "\n")

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._write({"kind": "metric", "name": name, "value": value, "step": step})

    def note(self, text: str, level: str = "info") -> None:
        self._write({"kind": "note", "level": level, "text": text})


class TeeReporter:
    """Passes every call to several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def stage(self, name: str, total: int | None, unit: str = "item") -> None:
        for reporter in self._reporters:
            reporter.stage(name, total, unit)

    def advance(self, count: int = 1) -> None:
        for reporter in self._reporters:
            reporter.advance(count)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        for reporter in self._reporters:
            reporter.metric(name, value, step)

    def note(self, text: str, level: str = "info") -> None:
        for reporter in self._reporters:
            reporter.note(text, level)


@dataclass(frozen=True)
class RunSummary:
    """What a command prints: counts add up, artifacts are paths a person can open."""

    command: str
    out: str
    status: str  # "done" | "no-op" | "partial" | "gate-missed"
    counts: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    tables: dict[str, dict[str, float | int | str]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exit_code: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """A plain object with a schema version, for `--json`."""
        return {
            "schema": 1,
            "command": self.command,
            "out": self.out,
            "status": self.status,
            "exit_code": self.exit_code,
            "counts": dict(self.counts),
            "rates": dict(self.rates),
            "tables": {name: dict(rows) for name, rows in self.tables.items()},
            "artifacts": dict(self.artifacts),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }
