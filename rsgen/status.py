"""`status`: how far runs are, told from their folders alone. Nothing is written, no lock taken."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rsgen.errors import DataError
from rsgen.hints import check_path
from rsgen.store import is_committed, part_counts, part_path, run_folder

__all__ = ["RunStatus", "Status", "look"]

TAIL_BYTES = 64 * 1024
RATE_SECONDS = 600.0  # a rate is over the last minutes: it follows a machine that got slower
STOPPED = "Stopped"


@dataclass(frozen=True)
class RunStatus:
    """One run folder.

    state: committed, running (its lock is held on this machine), stopped (resume with the same
    line), failed (`detail` says why), waiting (a stage that has not begun). `rate` is units a
    second of the phase at work; `age_s` seconds since anything in the folder changed.
    """

    name: str
    path: str
    command: str
    state: str
    detail: str = ""
    unit: str = "item"
    done: int = 0
    total: int | None = None
    shards_done: int = 0
    shards: int = 0
    failed: int = 0
    phase: str = ""
    rate: float | None = None
    eta_s: float | None = None
    metric: tuple[str, float, int | None] | None = None
    age_s: float | None = None
    bytes: int = 0
    exit_code: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # of a committed run

    @property
    def left(self) -> int | None:
        return None if self.total is None else max(0, self.total - self.done)

    def to_json(self) -> dict[str, object]:
        metric = None
        if self.metric is not None:
            metric = dict(zip(("name", "value", "step"), self.metric, strict=True))
        return {
            "name": self.name,
            "path": self.path,
            "command": self.command,
            "state": self.state,
            "detail": self.detail,
            "unit": self.unit,
            "done": self.done,
            "left": self.left,
            "total": self.total,
            "shards": {"done": self.shards_done, "left": self.shards - self.shards_done},
            "failed": self.failed,
            "phase": self.phase,
            "rate": self.rate,
            "eta_s": self.eta_s,
            "metric": metric,
            "age_s": self.age_s,
            "bytes": self.bytes,
            "exit_code": self.exit_code,
            "counts": dict(self.counts),
        }


@dataclass(frozen=True)
class Status:
    """A run, a pipeline's work folder, or a folder of runs.

    `older`: stage folders that later ones replaced. `is_going`: a live process is at work.
    """

    path: str
    kind: str  # "run" | "pipeline" | "folder"
    runs: tuple[RunStatus, ...]
    is_going: bool
    older: int = 0
    older_bytes: int = 0

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "path": self.path,
            "kind": self.kind,
            "is_going": self.is_going,
            "runs": [run.to_json() for run in self.runs],
            "older_folders": self.older,
            "older_bytes": self.older_bytes,
        }


def look(path: Path) -> Status:
    """The state of OUT, of the work folder of `rsgen run`, or of every run in a folder.

    Raises:
        DataError: there is no run.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder", hint=check_path(path))
    record = _json(path / "run.json")
    if "stages" in record:
        return _pipeline(path, record)
    if "fingerprint" in record:
        return _one(path)
    children = sorted(p.parent for p in path.glob("*/run.json"))
    if children:
        found = tuple(_children(children))
        return Status(str(path), "folder", found, any(r.state == "running" for r in found))
    out = run_folder(path)
    if out is None:
        raise DataError(
            f"{path}: no run here (no run.json)",
            hint="give the OUT of a command, the --work folder of rsgen run, or their parent",
        )
    return _one(out)


def _one(out: Path) -> Status:
    run = _run(out)
    return Status(str(out), "run", (run,), run.state == "running")


def _children(folders: Sequence[Path]) -> Iterator[RunStatus]:
    for folder in folders:
        record = _json(folder / "run.json")
        if "stages" not in record:
            yield _run(folder)
            continue
        for run in _pipeline(folder, record).runs:
            yield replace(run, name=f"{folder.name}/{run.name}")


def _pipeline(work: Path, record: Mapping[str, Any]) -> Status:
    """Stages in their order; a folder that the record does not name yet is the one at work."""
    current = {str(k): str(v) for k, v in dict(record["stages"]).items()}
    order = [str(name) for name in record.get("order", current)]
    order += [name for name in current if name not in order]
    named = set(current.values())
    loose: dict[str, list[Path]] = {}
    for file in work.glob("*/run.json"):
        if file.parent.name not in named:
            loose.setdefault(file.parent.name.rpartition("-")[0], []).append(file.parent)
    runs, older = [], list[Path]()
    for stage in [*order, *sorted(set(loose) - set(order))]:
        folders = sorted(loose.get(stage, []), key=lambda p: (p / "run.json").stat().st_mtime)
        unfinished = [p for p in folders if not is_committed(p)]
        # Begun after the recorded one, or held by a live run: that is where the stage is now.
        known = work / current[stage] if stage in current else None
        newest = unfinished[-1] if unfinished else None
        if newest is not None and not (_is_held(newest) or _is_newer(newest, known)):
            newest = None
        shown = newest or known
        folders += [known] if known is not None and known.is_dir() else []
        older += [p for p in folders if p != shown]
        if shown is None:
            state = RunStatus(stage, "", "", "waiting")
            runs.append(state if not folders else replace(_run(folders[-1]), name=stage))
            older = [p for p in older if not folders or p != folders[-1]]
        elif not shown.is_dir():
            runs.append(RunStatus(stage, str(shown), "", "failed", "its folder is gone"))
        else:
            runs.append(replace(_run(shown), name=stage))
    size = sum(_disk(folder)[0] for folder in older)
    return Status(str(work), "pipeline", tuple(runs), _is_held(work), len(older), size)


def _is_newer(folder: Path, other: Path | None) -> bool:
    if other is None or not (other / "run.json").is_file():
        return True
    return (folder / "run.json").stat().st_mtime >= (other / "run.json").stat().st_mtime


# ---------------------------------------------------------------- one run


@dataclass(frozen=True)
class _Events:
    """The end of a run's events, of every slice."""

    progress: list[list[Mapping[str, Any]]] = field(default_factory=list)  # one list a file
    metric: tuple[str, float, int | None] | None = None
    end: Mapping[str, Any] | None = None


def _run(out: Path) -> RunStatus:
    record = _json(out / "run.json")
    command = str(record.get("command", "?"))
    size, changed = _disk(out)
    events = _events(out)
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
    held = _is_held(out)
    found = _with_progress(found, events, plan, shards, going=held)
    if held:
        return replace(found, state="running")
    return _ended(out, found, events, record, shards)


def _committed(out: Path, found: RunStatus, plan: Mapping[str, Any]) -> RunStatus:
    manifest = _json(out / "manifest.json")
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
    events: _Events,
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
    rates = [rate for rows in events.progress if (rate := _rate(rows)) is not None]
    rate = sum(rates) if rates else None
    left = found.left
    return replace(
        found,
        phase="" if last.get("name") == found.command else str(last.get("name", "")),
        rate=None if rate is None else round(rate, 4),
        eta_s=round(left / rate, 1) if rate and left is not None else None,
    )


def _rate(rows: Sequence[Mapping[str, Any]]) -> float | None:
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


def _ended(
    out: Path,
    found: RunStatus,
    events: _Events,
    record: Mapping[str, Any],
    shards: Sequence[Any],
) -> RunStatus:
    """Neither committed nor held: stopped on request or killed, or failed and why."""
    if events.end is not None:
        name, message = str(events.end.get("error")), str(events.end.get("message"))
        state = "stopped" if name == STOPPED else "failed"
        return replace(found, state=state, detail=message.splitlines()[0] if message else name)
    return replace(found, detail="ended without a word (killed, or on another machine)")


# ---------------------------------------------------------------- files


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _events(out: Path) -> _Events:
    progress: list[list[Mapping[str, Any]]] = []
    metric: tuple[float, tuple[str, float, int | None]] | None = None
    last: Mapping[str, Any] | None = None
    for path in sorted(out.glob("events*.jsonl")):
        rows = [row for row in _tail(path) if isinstance(row.get("at"), int | float)]
        progress.append([r for r in rows if r.get("kind") == "progress" and _is_int(r, "done")])
        for row in rows:
            value = row.get("value")
            is_metric = row.get("kind") == "metric" and isinstance(value, int | float)
            if is_metric and (metric is None or row["at"] >= metric[0]):
                step = int(row["step"]) if _is_int(row, "step") else None
                metric = (row["at"], (str(row.get("name")), float(row["value"]), step))
            if last is None or row["at"] >= last["at"]:
                last = row
    ended = last is not None and last.get("kind") == "end"
    return _Events(progress, None if metric is None else metric[1], last if ended else None)


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


def _disk(folder: Path) -> tuple[int, float | None]:
    """(bytes of all files, when the newest was changed); files may vanish while we look."""
    size, newest = 0, None
    todo = [str(folder)]
    while todo:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(found.st_mode):
                todo.append(entry.path)
                continue
            size += found.st_size
            newest = found.st_mtime if newest is None else max(newest, found.st_mtime)
    return size, newest


def _is_held(out: Path) -> bool:
    """Whether a process of this machine holds the run's lock, asked without touching the lock.

    Linux lists held locks by inode; elsewhere the lock is asked for and let go at once. A file
    system of several devices (overlay, btrfs) shows another device number there than `stat`
    does, one with the major number 0.
    """
    held = _held_inodes()
    locks = [out / "run.lock", *out.glob("slice-*.lock")]
    if held is None:
        return any(_refuses(path) for path in locks)
    for path in locks:
        try:
            found = path.stat()
        except OSError:
            continue
        device = (os.major(found.st_dev), os.minor(found.st_dev))
        for major, minor, inode in held:
            alike = (major, minor) == device or 0 in (major, device[0])
            if inode == found.st_ino and alike:
                return True
    return False


def _refuses(path: Path) -> bool:
    try:
        with path.open("r") as handle:
            fcntl.flock(handle.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _held_inodes() -> list[tuple[int, int, int]] | None:
    """(major, minor, inode) of every lock that is held, not of those waited for.

    None where the system has no such list.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        fields = line.split()
        if "->" in fields:
            continue
        for text in fields:
            major, _, rest = text.partition(":")
            minor, sign, inode = rest.partition(":")
            if sign:
                found.append((int(major, 16), int(minor, 16), int(inode)))
    return found
