"""One run: what is on disk for good, what its live process says, how it ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsgen.status.events import Events, rate_of, read_events
from rsgen.status.files import disk_use, is_held, read_json
from rsgen.status.records import RunStatus
from rsgen.store import is_committed, part_counts, part_path

__all__ = ["run_status"]

SILENT = (
    "ended without a word (killed, or at work on another machine); if killed, run the same line "
    "again: it goes on"
)


def run_status(out: Path) -> RunStatus:
    """The state of a run folder; a record that cannot be read is a state too."""
    record = read_json(out / "run.json")
    command = str(record.get("command", "?"))
    size, changed = disk_use(out)
    if is_committed(out):  # whoever asks for it again touches its lock
        changed = (out / "manifest.json").stat().st_mtime
    events = read_events(out)
    found = RunStatus(
        name=out.name or str(out),
        path=str(out),
        command=command,
        state="stopped",
        metric=events.metric,
        age_s=None if changed is None else max(0.0, round(time.time() - changed, 1)),
        bytes=size,
    )
    if not record:
        return replace(found, state="failed", detail="its run.json cannot be read")
    plan = record.get("plan") or {}
    shards = list(plan.get("shards", ()))
    if is_committed(out):
        return _committed(out, found, plan)
    found = _counted(out, found, plan, shards)
    held = is_held(out)
    found = _with_progress(found, events, plan, shards, going=held)
    if held:
        return replace(found, state="running")
    return _ended(out, found)


def _committed(out: Path, found: RunStatus, plan: Mapping[str, Any]) -> RunStatus:
    manifest = read_json(out / "manifest.json")
    parts = manifest.get("parts", [])
    code = int(manifest.get("exit_code", 0))
    total = int(plan["count"]) if "count" in plan else None
    return replace(
        found,
        state="committed",
        detail="" if code == 0 else f"exit {code}: a quality gate was not met",
        unit="item" if parts else "step",
        done=total or 0,
        total=total,
        shards_done=len(parts),
        shards=len(parts),
        failed=sum(int(part.get("failures", 0)) for part in parts),
        exit_code=code,
        counts={str(k): int(v) for k, v in manifest.get("counts", {}).items()},
    )


def _counted(
    out: Path, found: RunStatus, plan: Mapping[str, Any], shards: Sequence[Any]
) -> RunStatus:
    """Shards and items that are on disk for good."""
    there = [k for k in range(len(shards)) if part_path(out, k).is_file()]
    failed = sum(part_counts(part_path(out, k)).failures for k in there)
    return replace(
        found,
        unit="item" if shards else "step",
        done=sum(int(shards[k][1]) - int(shards[k][0]) for k in there),
        total=int(plan["count"]) if "count" in plan else None,
        shards_done=len(there),
        shards=len(shards),
        failed=failed,
    )


def _with_progress(
    found: RunStatus,
    events: Events,
    plan: Mapping[str, Any],
    shards: Sequence[Any],
    *,
    going: bool,
) -> RunStatus:
    """What the live process said: its phase, how far it is within a shard, its rate."""
    latest = [rows[-1] for rows in events.progress if rows]
    if not latest:
        return found
    last = max(latest, key=lambda row: float(row["at"]))
    done = int(last["done"])
    if shards and going and len(latest) == 1 and last.get("total") is not None:
        # A start counts from nought what was missing then; shards in work have no part yet.
        done = int(plan["count"]) - int(last["total"]) + done
        found = replace(found, done=max(found.done, min(done, int(plan["count"]))))
    elif not shards:
        total = last.get("total")
        found = replace(
            found,
            done=done,
            total=None if total is None else int(total),
            unit=str(last.get("unit", "item")),
        )
    if not going:
        return found
    rates = [rate for rows in events.progress if (rate := rate_of(rows)) is not None]
    rate = sum(rates) if rates else None
    left = found.left
    return replace(
        found,
        phase="" if last.get("name") == found.command else str(last.get("name", "")),
        rate=None if rate is None else round(rate, 4),
        eta_s=round(left / rate, 1) if rate and left is not None else None,
    )


def _ended(out: Path, found: RunStatus) -> RunStatus:
    """Neither committed nor held: stopped on request or killed, or failed and why."""
    for path in (out / "summary.json", *sorted(out.glob("slice-*.json"))):
        said = read_json(path)
        if said.get("error"):
            detail = str(said.get("message") or said["error"]).splitlines()[0]
            state = "stopped" if said.get("status") == "stopped" else "failed"
            return replace(found, state=state, detail=detail, exit_code=said.get("exit_code"))
    return replace(found, detail=SILENT)
