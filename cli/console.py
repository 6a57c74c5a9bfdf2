"""What a person or a scheduler sees: progress on stderr, the result on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rsgen.doctor import Report
    from rsgen.errors import RsgenError
    from rsgen.reporting import RunSummary

__all__ = ["ConsoleReporter", "print_error", "print_report", "print_summary"]

PLAIN_INTERVAL_S = 10.0


class ConsoleReporter:
    """Bars on a terminal, otherwise a plain line at most every ten seconds."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._log: TextIO | None = None
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        self._name, self._unit = "", "item"
        self._total: int | None = None
        self._done, self._since, self._shown = 0, 0.0, 0.0

    def log_to(self, path: Path) -> None:
        """Keep every line in a file too.

        Raises:
            UsageError: the file cannot be written.
        """
        self._log = _open_log(path)

    def stage(self, name: str, total: int | None, unit: str = "item") -> None:
        self.close()
        self._name, self._total, self._unit, self._done = name, total, unit, 0
        self._since = self._shown = time.monotonic()
        if self._terminal:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=name, unit=unit, file=sys.stderr, dynamic_ncols=True)
            self.log(f"{name}: {total} {unit}s to do" if total is not None else name)
        elif total is not None:
            self._line(f"{name}: {total} {unit}s to do", always=self._verbose)

    def advance(self, count: int = 1) -> None:
        if count <= 0:
            return
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        now = time.monotonic()
        if now - self._shown >= PLAIN_INTERVAL_S:
            self._shown = now
            text = self._progress(now)
            if self._bar is None:
                self._line(text)
            else:
                self.log(text)

    def _progress(self, now: float) -> str:
        rate = self._done / max(now - self._since, 1e-9)
        text = f"{self._name}: {self._done}"
        if self._total is not None:
            left = max(0, self._total - self._done) / rate if rate > 0 else 0.0
            text += f"/{self._total} {self._unit}s, {rate:.2f}/s, {left:.0f} s left"
        return text

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        at = "" if step is None else f" @ {step}"
        text = f"{name} = {value:.6g}{at}"
        if self._verbose:
            self._line(text)
            return
        self.log(text)
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4g}"}, refresh=False)

    def note(self, text: str, level: str = "info") -> None:
        mark = "" if level == "info" else f"{level}: "
        self._line(f"{mark}{text}", always=level != "info")

    def _line(self, text: str, *, always: bool = False) -> None:
        self.log(text)
        if self._quiet and not always:
            return
        # A listener that went away (`2>&1 | head`) must not end hours of work.
        with suppress(OSError):
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                sys.stderr.write(text + "\n")

    def log(self, text: str) -> None:
        """Keep a text in the log file alone, each line with the local time and its offset."""
        if self._log is not None:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z ")
            with suppress(OSError):
                self._log.writelines(f"{now}{line}\n" for line in text.splitlines() or [""])
                self._log.flush()

    def close(self) -> None:
        """End the bar of the current stage."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
            self._bar = None

    def end(self) -> None:
        """End the bar and the log file; nothing is said after this."""
        self.close()
        if self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = None


def _open_log(path: Path) -> TextIO:
    from rsgen.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--log-file {path}: cannot be written ({error.strerror})", hint="name another file"
        ) from error


def _plain(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_summary(summary: RunSummary, *, as_json: bool) -> None:
    """The result on stdout: one JSON object, or tables a person can read."""
    if as_json:
        sys.stdout.write(json.dumps(summary.to_json()) + "\n")
        return
    took = f", {summary.seconds:.1f} s" if summary.seconds else ""
    rows: dict[str, float | int | str] = {
        f"rsgen {summary.command}": f"{summary.status}{took}",
        "out": summary.out,
        **summary.counts,
        **summary.rates,
    }
    _print_pairs(rows)
    for names, tables in _alike(summary.tables):
        if len(tables) == 1:
            sys.stdout.write(f"\n{names[0]}\n")
            _print_pairs(tables[0], indent="  ")
        else:
            sys.stdout.write("\n")
            _print_grid(names, tables)
    if summary.artifacts:
        sys.stdout.write("\n")
        _print_pairs(dict(summary.artifacts))
    for note in summary.notes:
        sys.stdout.write(f"note: {note}\n")


Row = Mapping[str, "float | int | str"]


def _alike(tables: Mapping[str, Row]) -> list[tuple[list[str], list[Row]]]:
    """Neighbouring tables with the same keys together: they read best as one grid."""
    groups: list[tuple[list[str], list[Row]]] = []
    for name, table in tables.items():
        if groups and list(groups[-1][1][0]) == list(table) and len(table) > 1:
            groups[-1][0].append(name)
            groups[-1][1].append(table)
        else:
            groups.append(([name], [table]))
    return groups


def _print_pairs(rows: Row, indent: str = "") -> None:
    width = max((len(name) for name in rows), default=0)
    for name, value in rows.items():
        sys.stdout.write(f"{indent}{name:<{width}}  {_plain(value)}\n")


def _print_grid(names: Sequence[str], tables: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", no_wrap=True)
    for key in tables[0]:
        grid.add_column(key, justify="right", max_width=10)
    for name, table in zip(names, tables, strict=True):
        grid.add_row(name, *(_plain(value) for value in table.values()))
    # A grid that is cut to fit a pipe cannot be read; a long line can.
    Console(highlight=False, width=max(80, 28 + 12 * len(tables[0]))).print(grid)


def print_error(error: RsgenError, *, as_json: bool) -> None:
    """The error on stderr; with --json also as an object on stdout."""
    sys.stderr.write(f"error: {error}\n")
    if as_json:
        row = {
            "schema": 1,
            "error": type(error).__name__,
            "message": error.message,
            "fix": error.hint,
            "exit_code": error.exit_code,
        }
        sys.stdout.write(json.dumps(row) + "\n")


def print_report(report: Report, *, as_json: bool) -> None:
    """Doctor's findings on stdout: one line a check, with what to type where it fails."""
    if as_json:
        sys.stdout.write(json.dumps(report.to_json()) + "\n")
        return
    for check in report.checks:
        sys.stdout.write(f"{'ok  ' if check.ok else 'MISS'} {check.name}: {check.found}\n")
        if check.fix and not check.ok:
            sys.stdout.write(f"       {check.fix}\n")
