"""Starting a run: the one run.json, commit and no-op."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsgen.ending import SUMMARY, recorded, save_summary
from rsgen.errors import DataError, UsageError
from rsgen.images import replace_bytes
from rsgen.job import Control, Job
from rsgen.locks import hold_lock
from rsgen.raw_inputs import Mended, changed_text, take_up, write_inputs
from rsgen.records import ClassTable
from rsgen.reporting import EventLog, Reporter, RunSummary, TeeReporter
from rsgen.request import (
    InputRef,
    Plan,
    RunInfo,
    refuse_other_request,
    request_fingerprint,
    request_keys,
)
from rsgen.store import artifact_row, is_committed, read_manifest, run_folder, write_manifest

__all__ = ["Control", "Job", "ProgramRun", "begin", "check_request", "start_program"]

EMPTY_CLASSES = ClassTable(())


def begin(
    job: Job,
    *,
    inputs: Sequence[InputRef],
    classes: ClassTable,
    image_roots: Sequence[Path] = (),
    model_hashes: Mapping[str, str] | None = None,
    plan: Callable[[Plan | None], Plan | None] = lambda old: None,
    may_grow: bool = False,
    remake: Callable[[RunInfo, frozenset[Path]], Plan] | None = None,
) -> RunInfo:
    """Create OUT/run.json, or check that OUT holds this very request. The lock is held.

    Args:
        plan: the frozen plan, given the old one (to extend it) or None.
        may_grow: whether an input that only grew extends the run. Of several inputs of one
            name the last alone may: a longer earlier one would move the items of the others.
        remake: the new plan of an uncommitted run whose raw inputs have changed in some files;
            it removes the parts that must be made again. None: such a change is refused.

    Raises:
        UsageError: OUT holds another request, or an input has changed since.
    """
    hashes = dict(model_hashes or {})
    keys = request_keys(job.command, job.config, inputs, hashes, job.options)
    path = job.out / "run.json"
    if not path.exists():
        info = RunInfo(
            command=job.command,
            config=job.config,
            out=job.out,
            fingerprint=request_fingerprint(keys),
            inputs=tuple(inputs),
            classes=classes,
            image_roots=tuple(str(root.resolve()) for root in image_roots),
            model_hashes=hashes,
            plan=plan(None),
            options=dict(job.options),
        )
        if _create_once(path, run_json_bytes(info)):
            write_inputs(job.out, inputs)
            return RunInfo.load(job.out)
        # Another slice was first: its request and plan must be ours.
    old, mended = _own_request(job, inputs, hashes, may_grow, may_change=remake is not None)
    info = replace(
        old,
        config=job.config,
        inputs=mended.inputs,
        image_roots=tuple(str(root.resolve()) for root in image_roots),
    )
    if remake is not None and mended.files:
        job.reporter.note(f"the data set has changed since the last start: {mended.text()}")
        info = replace(info, classes=classes, plan=remake(old, mended.files))
    else:
        info = replace(info, plan=plan(old.plan))
    if info.to_json() != old.to_json():
        replace_bytes(path, run_json_bytes(info))
    if mended.files:  # last: a stop before this names the same files again
        write_inputs(job.out, inputs)
    return info


def _own_request(
    job: Job,
    inputs: Sequence[InputRef],
    hashes: Mapping[str, str],
    may_grow: bool,
    may_change: bool,
) -> tuple[RunInfo, Mended]:
    """What OUT/run.json tells, when it is of this very request, and what has changed since."""
    old = _load_own(job.out)
    # A slice must not take parts away under the others; a committed run is what it is.
    may_change = may_change and job.slice_of is None and not is_committed(job.out)
    mended = take_up(job.out, old.inputs, inputs, may_change=may_change)
    keys = request_keys(job.command, job.config, mended.inputs, hashes, job.options)
    refuse_other_request(job.out, old, keys, changed_text(job.out, old.inputs, mended.inputs))
    _refuse_other_plan(job, old)
    if not mended.files:
        _refuse_growth(job.out, old.inputs, mended.inputs, may_grow)
    return old, mended


def check_request(
    job: Job,
    *,
    inputs: Sequence[InputRef],
    model_hashes: Mapping[str, str] | None = None,
    may_grow: bool = False,
    may_change: bool = False,
) -> RunInfo | None:
    """For a dry run: refuse what `begin` would refuse, and write nothing.

    Returns what OUT holds of this request, None where it is new or its data set has changed.

    Raises:
        UsageError: OUT is foreign, holds another request, or an input has changed since.
    """
    refuse_foreign(job.out)
    if not (job.out / "run.json").is_file():
        return None
    old, mended = _own_request(job, inputs, dict(model_hashes or {}), may_grow, may_change)
    return None if mended.files else old


def _refuse_growth(
    out: Path, before: Sequence[InputRef], now: Sequence[InputRef], may_grow: bool
) -> None:
    last = {ref.name: k for k, ref in enumerate(now)}
    grown = [
        (k, ref)
        for k, (was, ref) in enumerate(zip(before, now, strict=True))
        if was.manifest_hash != ref.manifest_hash
    ]
    elsewhere = f"give this request a folder of its own: --out {out}-2"
    if grown and not may_grow:
        names = ", ".join(ref.name for _, ref in grown)
        raise UsageError(f"input {names} has changed since {out} was started", hint=elsewhere)
    for k, ref in grown:
        if k != last[ref.name]:
            raise UsageError(
                f"input {ref.name} {ref.path} has grown since {out} was started, and "
                f"{now[last[ref.name]].path} comes after it: its items would move",
                hint=f"{elsewhere} (only the last of several inputs may grow)",
            )


def _load_own(out: Path) -> RunInfo:
    try:
        return RunInfo.load(out)
    except DataError as error:
        raise UsageError(
            f"--out {out} is in use: {error.message}", hint="give --out a new or empty folder"
        ) from error


def refuse_out_inside(out: Path, inputs: Sequence[InputRef]) -> None:
    """Raise UsageError when OUT lies in a raw data set: each run would change its own input."""
    for ref in inputs:
        folder = Path(ref.path)
        if run_folder(folder) is None and out.resolve().is_relative_to(folder):
            raise UsageError(
                f"--out {out} lies inside the input {ref.name} {folder}",
                hint="give --out a folder beside the data set",
            )


def refuse_foreign(out: Path) -> None:
    """Raise UsageError when OUT holds files but no run; called before anything is written."""
    if not out.is_dir() or (out / "run.json").exists():
        return
    found = sorted(
        p.name
        for p in out.iterdir()
        if p.name not in {"run.lock", "events.jsonl"}
        and p.suffix != ".log"  # a --log-file is opened before anything else
        and not p.name.startswith(("slice-", "events-", ".run.json."))
    )
    if found:
        raise UsageError(
            f"{out} is not empty and is no run directory (it holds {found[0]})",
            hint="give --out a new or empty folder",
        )


def _refuse_other_plan(job: Job, old: RunInfo) -> None:
    """Execution keys that were asked for by name must agree with the frozen plan.

    What the first start asked for is right too, whatever became of it: a batch halved for want
    of memory, a device that the command does not use, a shard larger than the first run.
    """
    asked, before, plan = job.config.execution, old.config.execution, old.plan
    if plan is None:
        return
    planned: dict[str, Any] = {
        "batch_size": plan.batch_size,
        "threads": plan.threads,
        "dtype": plan.dtype,
        "device": plan.device,
        "shard_size": plan.shards[0][1] - plan.shards[0][0] if plan.shards else None,
    }
    wrong = []
    for key, value in planned.items():
        new = getattr(asked, key)
        if new not in {None, "auto", value, getattr(before, key)}:
            wrong.append(f"execution.{key}: {value} -> {new}")
    if wrong:
        raise UsageError(
            f"{job.out} was planned otherwise at its first start:\n  " + "\n  ".join(wrong),
            hint=f"leave these out to resume, or start anew: --out {job.out}-2",
        )


def run_json_bytes(info: RunInfo) -> bytes:
    return (json.dumps(info.to_json(), indent=1, sort_keys=True) + "\n").encode("utf-8")


def _create_once(path: Path, data: bytes) -> bool:
    """Create run.json whole; False when another slice was first."""
    temporary = path.with_name(f".run.json.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    temporary.write_bytes(data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with path.open("xb") as handle:
                handle.write(data)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def events_reporter(job: Job) -> Reporter:
    """The job's reporter, with metrics and notes also kept in OUT/events.jsonl."""
    suffix = "" if job.slice_of is None else f"-{job.slice_of[0]}"
    return TeeReporter(job.reporter, EventLog(job.out / f"events{suffix}.jsonl"))


def stored_summary(out: Path, status: str) -> RunSummary:
    """The summary of a committed run, for a no-op."""
    manifest = read_manifest(out)
    row: dict[str, Any] = {}
    if (out / SUMMARY).is_file():
        row = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    if row.get("status") not in {"done", "gate-missed"}:
        row = {}
    return RunSummary(
        command=manifest["command"],
        out=str(out),
        status=status,
        counts=row.get("counts", manifest["counts"]),
        rates={k: v for k, v in row.get("rates", {}).items() if not k.endswith(" a second")},
        tables=row.get("tables", {}),
        artifacts={
            name: str(out / Path(path)) for name, path in manifest["artifact_names"].items()
        },
        notes=tuple(row.get("notes", ())),
        exit_code=int(manifest["exit_code"]),
        seconds=0.0,
    )


def commit(
    info: RunInfo,
    *,
    parts: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    artifacts: Mapping[str, Path],
    exit_code: int,
) -> None:
    """Write manifest.json: the run is complete from here on."""
    write_manifest(
        info.out,
        {
            "schema": 1,
            "command": info.command,
            "fingerprint": info.fingerprint,
            "parts": list(parts),
            "counts": dict(counts),
            "artifacts": [artifact_row(info.out, path) for _, path in sorted(artifacts.items())],
            "artifact_names": {
                name: path.relative_to(info.out).as_posix() for name, path in artifacts.items()
            },
            "exit_code": exit_code,
        },
    )


class ProgramRun:
    """A run of a command that is no stage: a loop that reads top to bottom."""

    def __init__(self, job: Job, info: RunInfo) -> None:
        self.info = info
        self.path = info.out
        self.config = info.config
        self.control = job.control
        self.ending = job.ending
        self.committed = is_committed(info.out)
        self.reporter: Reporter = job.reporter if self.committed else events_reporter(job)
        self._started = time.monotonic()

    def check_stop(self) -> None:
        """Raise Stopped when a stop was asked for."""
        self.control.check()

    def summary(self) -> RunSummary:
        """What an earlier, committed run of this request printed."""
        return stored_summary(self.path, "no-op")

    def commit(
        self,
        *,
        counts: Mapping[str, int],
        artifacts: Mapping[str, Path],
        tables: Mapping[str, Mapping[str, float | int | str]] | None = None,
        rates: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
        exit_code: int = 0,
    ) -> RunSummary:
        """Write the manifest and the summary; `artifacts` are paths inside OUT."""
        commit(self.info, parts=(), counts=counts, artifacts=artifacts, exit_code=exit_code)
        summary = RunSummary(
            command=self.info.command,
            out=str(self.path),
            status="done" if exit_code == 0 else "gate-missed",
            counts=dict(counts),
            rates=dict(rates or {}),
            tables={name: dict(rows) for name, rows in (tables or {}).items()},
            artifacts={name: str(path) for name, path in artifacts.items()},
            notes=tuple(notes),
            exit_code=exit_code,
            seconds=time.monotonic() - self._started,
        )
        save_summary(self.path, summary, self.ending)
        return summary


@contextmanager
def start_program(
    job: Job,
    *,
    inputs: Sequence[InputRef],
    classes: ClassTable = EMPTY_CLASSES,
    model_hashes: Mapping[str, str] | None = None,
    plan: Plan | None = None,
) -> Iterator[ProgramRun]:
    """Lock OUT, write or check run.json, and hand out the run."""
    refuse_foreign(job.out)
    with hold_lock(job.out, job):
        info = begin(
            job,
            inputs=inputs,
            classes=classes,
            model_hashes=model_hashes,
            plan=lambda old: old or plan,
        )
        run = ProgramRun(job, info)
        if run.committed:
            yield run
            return
        with recorded(job.command, job.out, job.ending):
            yield run
