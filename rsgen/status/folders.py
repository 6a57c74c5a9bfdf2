"""Which runs a folder has: one, the stages of a pipeline with its series, or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsgen.errors import DataError
from rsgen.hints import check_path
from rsgen.status.files import disk_use, is_held, read_json
from rsgen.status.records import RunStatus, Status
from rsgen.status.run import run_status
from rsgen.store import is_committed, run_folder

__all__ = ["look"]


def look(path: Path) -> Status:
    """The state of OUT, of the work folder of `rsgen run`, or of every run in a folder.

    Raises:
        DataError: there is no run.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder", hint=check_path(path))
    record = read_json(path / "run.json")
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
    run = run_status(out)
    return Status(str(out), "run", (run,), run.state == "running")


def _children(folders: Sequence[Path]) -> Iterator[RunStatus]:
    for folder in folders:
        record = read_json(folder / "run.json")
        if "stages" not in record:
            yield run_status(folder)
            continue
        for run in _pipeline(folder, record).runs:
            yield replace(run, name=f"{folder.name}/{run.name}")


def _pipeline(work: Path, record: Mapping[str, Any]) -> Status:
    """The stages of a work folder, then those of the latest turn of each series in it."""
    runs, older = _stages(work, record)
    latest: dict[str, tuple[int, Path, dict[str, Any]]] = {}
    turns: Counter[str] = Counter()
    for file in work.glob("*/run.json"):
        turn = read_json(file)
        series = turn.get("series")
        if not isinstance(series, dict) or "stages" not in turn:
            continue
        name, number = str(series.get("name")), int(series.get("number", 0))
        turns[name] += is_committed(file.parent)
        if name not in latest or number > latest[name][0]:
            latest[name] = (number, file.parent, turn)
    for _, (_, folder, turn) in sorted(latest.items()):
        found, more = _stages(folder, turn)
        runs += [replace(run, name=f"{folder.name}/{run.name}") for run in found]
        older += more
    size = sum(disk_use(folder)[0] for folder in older)
    shown = tuple(_outdated(work, runs))
    unfinished = tuple(n for n, (_, path, _) in sorted(latest.items()) if not is_committed(path))
    return Status(
        str(work), "pipeline", shown, is_held(work), len(older), size, dict(turns), unfinished
    )


def _stages(work: Path, record: Mapping[str, Any]) -> tuple[list[RunStatus], list[Path]]:
    """(stages in their order, folders of earlier requests).

    A folder that the record does not name yet is where its stage is at work.
    """
    current = {str(k): str(v) for k, v in dict(record["stages"]).items() if str(v)[:3] != "../"}
    order = [str(name) for name in record.get("order", current)]
    order += [name for name in current if name not in order]
    loose: dict[str, list[Path]] = {}
    for file in work.glob("*/run.json"):
        if file.parent.name not in current.values() and "fingerprint" in read_json(file):
            loose.setdefault(file.parent.name.rpartition("-")[0], []).append(file.parent)
    runs, older = list[RunStatus](), list[Path]()
    for stage in [*order, *sorted(set(loose) - set(order))]:
        folders = sorted(loose.get(stage, []), key=lambda p: (p / "run.json").stat().st_mtime)
        known = work / current[stage] if stage in current else None
        shown = known
        # Begun after the recorded one, or held by a live run: that is where the stage is now.
        newest = next((p for p in reversed(folders) if not is_committed(p)), None)
        if newest is not None and (is_held(newest) or _is_newer(newest, known)):
            shown = newest
        folders += [known] if known is not None and known.is_dir() else []
        older += [p for p in folders if p != shown]
        if shown is None:
            runs.append(RunStatus(stage, "", "", "waiting"))
        elif not shown.is_dir():
            runs.append(RunStatus(stage, str(shown), "", "failed", "its folder is gone"))
        else:
            runs.append(replace(run_status(shown), name=stage))
    return runs, older


def _outdated(work: Path, runs: Sequence[RunStatus]) -> Iterator[RunStatus]:
    """The stages, with those marked whose inputs have been made anew, or are about to be."""
    current = {run.path for run in runs if run.path}
    stale: set[str] = set()
    for run in runs:
        inputs = read_json(Path(run.path) / "run.json").get("inputs", []) if run.path else []
        paths = [Path(str(row.get("path"))) for row in inputs]
        inside = [work / p.relative_to(work.resolve()) for p in paths if _is_in(p, work)]
        old = [p.name for p in inside if str(p) in stale or str(p) not in current | set(_of(p))]
        if run.state == "committed" and old:
            stale.add(run.path)
            run = replace(run, state="outdated", detail=f"made from {old[0]}, not the current one")
        yield run


def _is_in(path: Path, work: Path) -> bool:
    return path.is_relative_to(work.resolve())


def _of(path: Path) -> list[str]:
    """Folders of earlier turns are inputs of a series' export for good."""
    return [str(path)] if is_committed(path.parent) else []


def _is_newer(folder: Path, other: Path | None) -> bool:
    if other is None or not (other / "run.json").is_file():
        return True
    return (folder / "run.json").stat().st_mtime >= (other / "run.json").stat().st_mtime
