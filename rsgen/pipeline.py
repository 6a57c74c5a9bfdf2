"""`run`: the stages of a pipeline, each in its own folder, only the changed ones run again.

DIR/run.json              which folder of each stage is current; old ones stay
DIR/STAGE-1234abcd        one a stage; the digits change with its request and its inputs
DIR/NAME-0001/            with `--series NAME`: what is made anew each time (`generate` and all
                          that reads it), with a run.json, summary and manifest of its own
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from rsgen.config import Config
from rsgen.ending import recorded, save_summary, with_on_finish
from rsgen.errors import LockedError, RsgenError, UsageError
from rsgen.job import Job
from rsgen.locks import hold_lock, make_folder
from rsgen.pipeline_file import (
    Pipeline,
    PipelineJob,
    StageEntry,
    find_config,
    input_items,
    print_pipeline,
    read_layers,
    read_pipeline,
    stage_config,
    whole_config,
)
from rsgen.pipeline_folders import Folders, anew, read_record, stage_folder
from rsgen.registry import BUILT_IN, names, resolve
from rsgen.reporting import RunSummary
from rsgen.request import SPLIT_SEED
from rsgen.series import (
    Turn,
    check_series,
    committed_turns,
    hold_series,
    next_turn,
    turn_job,
    unfinished_hint,
)
from rsgen.store import run_folder, write_manifest

__all__ = [
    "PipelineJob",
    "find_config",
    "print_pipeline",
    "read_layers",
    "read_pipeline",
    "run_command",
    "run_pipeline",
]


def run_command(job: Job) -> RunSummary:
    """Run one command, in the next folder of a series if it is one, and call `on_finish`."""
    # What is to be called is no part of the run: it may hold a secret, run.json must not.
    bare = replace(job, config=job.config.model_copy(update={"on_finish": None}))
    if job.dry_run:
        return _next_in_series(bare)
    return with_on_finish(
        lambda: _next_in_series(bare),
        command=job.command,
        out=job.out,
        config=job.config,
        ending=job.ending,
        reporter=job.reporter,
        quiet=lambda error: isinstance(error, LockedError) and job.if_locked == "skip",
    )


def _next_in_series(job: Job) -> RunSummary:
    if job.series is None:
        return _dispatch(job)
    if job.command != "generate":
        raise UsageError(f"--series is for generate and run, not {job.command}")
    parent = job.out
    check_series(job.series, parent)
    with nullcontext() if job.dry_run else hold_series(parent, job.series, job):
        turn = next_turn(parent, job.series, job.config.seed)
        try:
            summary = _dispatch(turn_job(job, turn))
        except RsgenError as error:
            if error.hint and f"--out {turn.path}-2" in error.hint:
                error.hint = unfinished_hint(turn)
            raise
        return replace(summary, series=turn.to_json())


def _dispatch(job: Job) -> RunSummary:
    """Run one command: a stage through its driver, a program directly."""
    if job.command in BUILT_IN["stages"]:
        from rsgen.execution import run_stage

        return run_stage(job)
    if job.slice_of is not None:
        raise UsageError(
            f"--slice is for sample stages ({', '.join(names('stages'))}), not {job.command}"
        )
    program = resolve("programs", job.command)
    summary: RunSummary = program(job)
    return summary


# ---------------------------------------------------------------- the run


def run_pipeline(job: PipelineJob) -> RunSummary:
    """Run the stages in order; the first that does not exit 0 ends the run with its code.

    Raises:
        UsageError: before anything runs, for anything wrong in the file.
    """
    work = job.work
    if work is None:
        raise UsageError("rsgen run needs --work", hint="add --work FOLDER")
    pipeline = read_pipeline(job)
    configs = {name: stage_config(job, pipeline, name) for name in pipeline.stages}
    whole = whole_config(job, pipeline)
    if job.series is not None:
        _check_series_of(pipeline, job.series, work)
    if job.dry_run:
        return _dry_run(job, pipeline, whole.seed)
    return with_on_finish(
        lambda: _run_locked(job, work, pipeline, configs, whole.seed),
        command="run",
        out=work,
        config=whole,
        ending=job.ending,
        reporter=job.reporter,
        quiet=lambda error: isinstance(error, LockedError) and job.if_locked == "skip",
    )


def _check_series_of(pipeline: Pipeline, name: str, work: Path) -> None:
    check_series(name, work)
    if name in pipeline.stages:
        raise UsageError(f"--series {name}: a stage has that name", hint="choose another one")
    if not anew(pipeline):
        raise UsageError(
            f"--series {name}: the pipeline has no generate stage, so nothing in it would be new"
        )


def _turn(job: PipelineJob, work: Path, pipeline: Pipeline, seed: int) -> Turn | None:
    """The turn to work on: the next one, or with `--from` one that missed a quality gate."""
    if job.series is None:
        return None
    done = committed_turns(work, job.series, seed)
    if job.first is not None and done and done[-1].exit_code != 0:
        record = read_record(done[-1].path)
        order = [name for name in pipeline.stages if name in anew(pipeline)]
        before = order[: order.index(job.first)] if job.first in order else []
        if before and job.first not in record and all(name in record for name in before):
            return done[-1]
    return next_turn(work, job.series, seed)


def _dry_run(job: PipelineJob, pipeline: Pipeline, seed: int) -> RunSummary:
    rows: dict[str, float | int | str] = {
        name: f"{entry.command} {' '.join(v for _, v in input_items(entry))}".strip()
        for name, entry in pipeline.stages.items()
    }
    summary = RunSummary("run", str(job.work), "dry-run", tables={"stages": rows})
    turn = None if job.work is None else _turn(job, job.work, pipeline, seed)
    if turn is None:
        return summary
    new = ", ".join(name for name in pipeline.stages if name in anew(pipeline))
    notes = (f"{turn.path.name} makes anew: {new}; the other stages are shared",)
    return replace(summary, out=str(turn.path), notes=notes, series=turn.to_json())


def _run_locked(
    job: PipelineJob, work: Path, pipeline: Pipeline, configs: Mapping[str, Config], seed: int
) -> RunSummary:
    if run_folder(work / "run.json") == work.absolute():
        raise UsageError(
            f"--work {work} is the OUT of another command", hint="give --work another folder"
        )
    started = time.monotonic()
    lock_job = Job("run", Config(), work, control=job.control, if_locked=job.if_locked)
    with hold_lock(work, lock_job):
        turn = _turn(job, work, pipeline, seed)
        home = work if turn is None else turn.path
        make_folder(home)
        done = _Done(home, turn)
        with recorded("run", home, job.ending, so_far=done.so_far):
            if turn is not None:
                job.reporter.note(f"series {turn.name}: number {turn.number} in {turn.path}")
            _run_stages(job, pipeline, configs, Folders(work, pipeline, turn), done)
            summary = done.summary(time.monotonic() - started)
            save_summary(home, summary, job.ending)
            return summary


@dataclass
class _Done:
    """What the stages have told so far."""

    home: Path
    turn: Turn | None
    last: RunSummary | None = None
    rows: dict[str, float | int | str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, summary: RunSummary) -> None:
        self.last = summary
        self.rows[name] = f"{summary.status}, {summary.seconds:.1f} s"
        self.artifacts |= {f"{name}: {key}": path for key, path in summary.artifacts.items()}
        self.notes += [f"{name}: {note}" for note in summary.notes]

    def so_far(self, failed: RunSummary) -> RunSummary:
        """The summary of a run that ended early, with what was made before."""
        series = None if self.turn is None else self.turn.to_json()
        return replace(failed, tables={"stages": self.rows}, notes=tuple(self.notes), series=series)

    def summary(self, seconds: float) -> RunSummary:
        last = self.last or RunSummary("run", str(self.home), "done")
        return RunSummary(
            "run",
            str(self.home),
            "done" if last.exit_code == 0 else "gate-missed",
            counts=last.counts,
            tables={"stages": self.rows, **last.tables},
            artifacts=self.artifacts,
            notes=tuple(self.notes),
            exit_code=last.exit_code,
            seconds=seconds,
            series=None if self.turn is None else self.turn.to_json(),
        )


def _run_stages(
    job: PipelineJob,
    pipeline: Pipeline,
    configs: Mapping[str, Config],
    folders: Folders,
    done: _Done,
) -> None:
    order = list(pipeline.stages)
    first = 0 if job.first is None else order.index(job.first)
    for name in order[:first]:
        if not folders.known(name):
            where = folders.home(name)
            raise UsageError(f"--from {job.first}: stage {name!r} has not run yet in {where}")
    folders.begin()
    for name in order[first:]:
        stage_job = _stage_job(job, pipeline.stages[name], configs[name], folders, name, done.turn)
        job.reporter.note(f"[{name}] rsgen {stage_job.command} -> {stage_job.out}")
        try:
            summary = run_command(stage_job)
        except RsgenError as error:
            error.message = f"stage {name}: {error.message}"
            if error.hint and f"--out {stage_job.out}-2" in error.hint:
                error.hint = "undo that change, or start afresh in another --work folder"
            raise
        folders.set(name, stage_job.out)
        done.add(name, summary)
        if summary.exit_code != 0 or name == job.last:
            break
    code = 0 if done.last is None else done.last.exit_code
    if done.turn is not None and (code != 0 or name == order[-1]):
        _commit_turn(done.turn, folders, code)


def _stage_job(
    job: PipelineJob,
    entry: StageEntry,
    config: Config,
    folders: Folders,
    name: str,
    turn: Turn | None,
) -> Job:
    inputs = folders.inputs(entry, name)
    options: dict[str, object] = {}
    if turn is not None and entry.command == "generate":
        # Thresholds and splits are drawn with the seed of the file: they hold for all turns.
        options = {SPLIT_SEED: config.seed}
        config = config.model_copy(update={"seed": turn.seed})
    stage_job = Job(
        entry.command,
        config.model_copy(update={"on_finish": None}),
        folders.home(name),
        inputs=inputs,
        reporter=job.reporter,
        control=job.control,
        options=options,
        if_locked=job.if_locked,
    )
    return replace(stage_job, out=stage_folder(folders.home(name), name, stage_job))


def _commit_turn(turn: Turn, folders: Folders, exit_code: int) -> None:
    """The turn is complete: the next line begins another one."""
    write_manifest(
        turn.path,
        {
            "schema": 1,
            "command": "run",
            "series": turn.to_json(),
            "stages": folders.stages(turn.path),
            "exit_code": exit_code,
        },
    )
