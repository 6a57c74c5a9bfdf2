"""What long-running code tells whoever watches it; the CLI and tests supply the listeners."""

from __future__ import annotations

import json
import time
from contextlib import suppress
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
    """Appends metrics, notes and, every few seconds, progress to OUT/events.jsonl.

    Rows carry the time in seconds since 1970: rates and what is left follow from them.
    """

    PROGRESS_SECONDS = 5.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stage: dict[str, object] = {}
        self._done = 0
        self._total: int | None = None
        self._shown = 0.0

    def _write(self, row: dict[str, object]) -> None:
        line = json.dumps({**row, "at": round(time.time(), 3)}, sort_keys=True)
        with suppress(OSError), self._path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def stage(self, name: str, total: int | None, unit: str = "item") -> None:
        self._stage = {"name": name, "total": total, "unit": unit}
        self._done, self._total = 0, total
        self._progress()

    def advance(self, count: int = 1) -> None:
        self._done += count
        due = time.monotonic() - self._shown >= self.PROGRESS_SECONDS
        if count > 0 and (due or self._done == self._total):
            self._progress()

    def _progress(self) -> None:
        self._shown = time.monotonic()
        self._write({"kind": "progress", **self._stage, "done": self._done})

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
    # done | no-op | partial (a slice) | gate-missed | stopped | failed | skipped | dry-run
    status: str
    counts: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    tables: dict[str, dict[str, float | int | str]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exit_code: int = 0
    seconds: float = 0.0
    series: dict[str, int | str] | None = None  # name, number and seed of a turn
    error: dict[str, str | None] | None = None  # error, message and fix of a failed run

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
            **({} if self.series is None else {"series": dict(self.series)}),
            **(self.error or {}),
        }
