"""Plain tables on stdout for commands that look: aligned, never cut, readable in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsgen.status import RunStatus, Status

__all__ = ["aligned", "duration", "size_of", "status_text"]


HEAD = (
    *("", "command", "state", "done", "shards", "failed"),
    *("rate", "left", "last", "changed", "on disk"),
)
COUNTED = ("masks", "images", "samples")  # what a command without items has made


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows of texts as columns two spaces apart; columns without any text are left out."""
    used = [k for k in range(max(map(len, rows), default=0)) if any(row[k] for row in rows[1:])]
    widths = {k: max(len(row[k]) for row in rows) for k in used}
    lines = ["  ".join(row[k].ljust(widths[k]) for k in used).rstrip() for row in rows]
    return "".join(f"{indent}{line}\n" for line in lines)


def duration(seconds: float) -> str:
    """Seconds in the two largest fitting units: 45s, 3m 20s, 2h 05m, 4d 3h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def size_of(count: int) -> str:
    """Bytes in the unit that a person reads: 812 B, 3.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def status_text(status: Status) -> str:
    """Where every run is, one line each, and what to do next where something ended early."""
    rows = [HEAD, *(_row(run) for run in status.runs)]
    text = f"{status.path}\n" + aligned(rows, "  ")
    for run in status.runs:
        if run.detail:
            text += f"  {run.name}: {run.detail}\n"
    if status.older:
        size = size_of(status.older_bytes)
        text += f"  and {status.older} older stage folders of earlier requests, {size}\n"
    return text


def _row(run: RunStatus) -> tuple[str, ...]:
    done = next((f"{run.counts[name]} {name}" for name in COUNTED if name in run.counts), "")
    if run.total is not None:
        done = f"{run.done}/{run.total} {run.unit}s"
    rate = "" if run.rate is None else f"{run.rate:.3g}/s"
    metric = ""
    if run.metric is not None and run.state != "committed":
        name, value, step = run.metric
        metric = f"{name} {value:.4g}" + ("" if step is None else f" @ {step}")
    state = f"{run.state} ({run.phase})" if run.phase else run.state
    return (
        run.name,
        run.command if run.command != run.name else "",
        state,
        done,
        f"{run.shards_done}/{run.shards}" if run.shards else "",
        str(run.failed) if run.failed else "",
        rate,
        "" if run.eta_s is None else duration(run.eta_s),
        metric,
        "" if run.age_s is None else f"{duration(run.age_s)} ago",
        size_of(run.bytes) if run.bytes else "",
    )
