"""`run_stage`: plan a stage command, compute the missing shards, commit.

Where the shards run is `drivers.py`; what a stage is, `stages.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsgen.devices import device_name, number_type
from rsgen.drivers import run_shards
from rsgen.ending import recorded, save_summary
from rsgen.errors import TooManyFailures, UsageError
from rsgen.images import sha256_file
from rsgen.job import Control, Job
from rsgen.locks import hold_lock
from rsgen.records import ClassTable, Sample
from rsgen.registry import resolve
from rsgen.reporting import Reporter, RunSummary
from rsgen.request import InputRef, Plan, RunInfo
from rsgen.runs import (
    begin,
    check_request,
    commit,
    events_reporter,
    refuse_foreign,
    refuse_out_inside,
    stored_summary,
)
from rsgen.stages import (
    Finish,
    FinishedRun,
    Shard,
    ShardOutput,
    Stage,
    forget_opened_stage,
    run_shard,
    shard_of,
    stage_option,
)
from rsgen.store import (
    PartCounts,
    failure_lines,
    failures_path,
    input_ref,
    is_committed,
    part_counts,
    part_path,
    part_samples,
    read_manifest,
    remove_leftovers,
    remove_part,
)

__all__ = [
    "Control",
    "Finish",
    "FinishedRun",
    "Job",
    "Shard",
    "ShardOutput",
    "Stage",
    "run_shard",
    "run_stage",
]


# ---------------------------------------------------------------- planning


def make_plan(job: Job, stage: Stage, count: int, old: Plan | None) -> Plan:
    """The plan of the first start, or the old one extended to more items.

    Raises:
        UsageError: fewer items than the plan already has.
    """
    asked = job.config.execution
    shard_size = asked.shard_size or int(stage_option(stage, "shard_size", 32))
    if old is not None:
        if count < old.count:
            raise UsageError(
                f"{job.out} already has {old.count} items, {count} asked for",
                hint=f"ask for at least {old.count}, or use another folder: --out {job.out}-2",
            )
        if len(old.shards) > 1:  # a lone first shard may have been cut short by its count
            shard_size = old.shards[0][1] - old.shards[0][0]
        return old if count == old.count else old.extended(count, shard_size)
    uses_torch = bool(stage_option(stage, "uses_torch", False))
    device = device_name(asked.device) if uses_torch else "cpu"
    dtype = number_type(asked.dtype, device)
    batch = asked.batch_size or int(stage_option(stage, "batch_size", 16))
    empty = Plan(0, (), batch, dtype, device, asked.threads or 1)
    return empty.extended(count, shard_size)


def _remake(
    job: Job, stage: Stage, count: int
) -> Callable[[RunInfo, frozenset[Path]], Plan] | None:
    """For a stage that can tell which parts a mended data set leaves as they are.

    The others are removed, and what was frozen but for the shard ranges stays so.
    """
    holds: Callable[[Shard, list[Sample], frozenset[Path]], bool] | None
    holds = stage_option(stage, "still_holds", None)
    if holds is None:
        return None

    def remake(old: RunInfo, changed: frozenset[Path]) -> Plan:
        before = old.plan
        assert before is not None, "a stage always has a plan"
        fresh = make_plan(job, stage, count, None)
        size = fresh.shards[0][1] - fresh.shards[0][0] if fresh.shards else 1
        if len(before.shards) > 1:
            size = before.shards[0][1] - before.shards[0][0]
        plan = replace(before, count=0, shards=()).extended(count, size)
        forget_opened_stage()
        gone = 0
        for index, (start, stop) in enumerate(before.shards):
            if not part_path(job.out, index).is_file():
                continue
            # The first shard tells what the reader found wrong.
            keep = 0 < index < len(plan.shards) and plan.shards[index] == (start, stop)
            keep = keep and not failures_path(job.out, index).is_file()
            if keep:
                shard = shard_of(job.out, index, start, stop)
                keep = holds(shard, part_samples(part_path(job.out, index)), changed)
            if not keep:
                remove_part(job.out, index)
                gone += 1
        job.reporter.note(f"{gone} of {len(before.shards)} shards are made again")
        return plan

    return remake


def _provisional(job: Job, inputs: Sequence[InputRef]) -> RunInfo:
    """A RunInfo for asking a stage its count and classes before run.json exists."""
    return RunInfo(
        command=job.command,
        config=job.config,
        out=job.out,
        fingerprint="",
        inputs=tuple(inputs),
        classes=ClassTable(()),
        image_roots=(),
        model_hashes={},
        plan=None,
        options=dict(job.options),
    )


# ---------------------------------------------------------------- drivers


def run_stage(job: Job) -> RunSummary:
    """Run a stage command: plan, compute the missing shards, commit.

    Raises:
        UsageError, LockedError, Stopped, TooManyFailures, and what the stage raises.
    """
    started = time.monotonic()
    inputs = [
        input_ref(name, path, allow_partial=job.allow_partial)
        for name, paths in sorted(job.inputs.items())
        for path in paths
    ]
    refuse_out_inside(job.out, inputs)
    stage: Stage = resolve("stages", job.command)(_provisional(job, inputs))
    count = stage.count()
    if job.dry_run:
        return _dry_run(job, inputs, stage, count)
    refuse_foreign(job.out)
    with hold_lock(job.out, job):
        info = begin(
            job,
            inputs=inputs,
            classes=stage.classes(),
            image_roots=stage_option(stage, "image_roots", list)(),
            model_hashes=stage_option(stage, "model_hashes", dict)(),
            plan=lambda old: make_plan(job, stage, count, old),
            may_grow=True,
            remake=_remake(job, stage, count),
        )
        assert info.plan is not None
        if is_committed(job.out) and _covers(job.out, info.plan):
            return stored_summary(job.out, "no-op")
        with recorded(
            job.command,
            job.out,
            job.ending,
            slice_of=job.slice_of,
            so_far=lambda summary: replace(summary, counts=_progress(job.out)),
        ):
            return _compute(job, info, started)


def _compute(job: Job, info: RunInfo, started: float) -> RunSummary:
    """Make the missing shards, all or a slice's; the lock is held. All of them: commit."""
    assert info.plan is not None
    reporter = events_reporter(job)
    mine = list(range(len(info.plan.shards)))
    if job.slice_of is not None:
        part, of = job.slice_of
        mine = [k for k in mine if k % of == part]
    indices = _missing(info, mine)
    done = run_shards(info, indices, job, reporter)
    if job.slice_of is None:
        summary = _finish(info, made=done, stage_started=started, reporter=reporter)
    else:
        summary = RunSummary(
            job.command,
            str(job.out),
            "partial",
            counts={"shards": len(indices), "items": done},
            notes=("a plain run of the same line commits when every slice is done",),
            seconds=time.monotonic() - started,
        )
    save_summary(job.out, summary, job.ending, job.slice_of)
    return summary


def _progress(out: Path) -> dict[str, int]:
    """How far an unfinished run came; the plan of run.json may have changed on the way."""
    plan = RunInfo.load(out).plan
    count = len(plan.shards) if plan else 0
    done = sum(part_path(out, k).is_file() for k in range(count))
    return {"shards": count, "shards done": done}


def _covers(out: Path, plan: Plan) -> bool:
    return len(read_manifest(out)["parts"]) == len(plan.shards)


def _dry_run(job: Job, inputs: Sequence[InputRef], stage: Stage, count: int) -> RunSummary:
    hashes = stage_option(stage, "model_hashes", dict)()
    info = check_request(
        job,
        inputs=inputs,
        model_hashes=hashes,
        may_grow=True,
        may_change=_remake(job, stage, count) is not None,
    )
    plan = make_plan(job, stage, count, None if info is None else info.plan)
    left = [k for k in range(len(plan.shards)) if not part_path(job.out, k).is_file()]
    done = len(plan.shards) - len(left)
    items_left = sum(plan.shards[k][1] - plan.shards[k][0] for k in left)
    return RunSummary(
        job.command,
        str(job.out),
        "dry-run",
        counts={
            "items": count,
            "items left": items_left,
            "shards": len(plan.shards),
            "shards already done": done,
        },
        tables={
            "plan": {
                "batch size": plan.batch_size,
                "dtype": plan.dtype,
                "device": plan.device,
                "threads a worker": plan.threads,
                "workers": job.config.execution.workers,
            }
        },
        notes=tuple(stage_option(stage, "describe", tuple)()),
    )


def _missing(info: RunInfo, mine: Sequence[int]) -> list[int]:
    """Which of my shards have no part; also mine with failures when too many items failed.

    A part that a manifest names is never made again.
    """
    assert info.plan is not None
    every = range(len(info.plan.shards))
    if all(part_path(info.out, k).is_file() for k in every):
        tallies = [part_counts(part_path(info.out, k)) for k in every]
        if _too_many(info, tallies):
            kept = len(read_manifest(info.out)["parts"]) if is_committed(info.out) else 0
            for k in mine:
                if k >= kept and failures_path(info.out, k).is_file():
                    part_path(info.out, k).unlink(missing_ok=True)
    return [k for k in mine if not part_path(info.out, k).is_file()]


def _too_many(info: RunInfo, tallies: Sequence[PartCounts]) -> bool:
    failed = sum(tally.failures for tally in tallies)
    return failed > info.config.execution.max_failure_rate * _attempted(info, tallies)


def _attempted(info: RunInfo, tallies: Sequence[PartCounts]) -> int:
    """Items that were tried: a reader may have refused some before they were planned."""
    tried = sum(tally.rows + tally.lost for tally in tallies)
    return max(info.plan.count if info.plan else 0, tried)


# ---------------------------------------------------------------- commit


def _finish(info: RunInfo, *, made: int, stage_started: float, reporter: Reporter) -> RunSummary:
    assert info.plan is not None
    parts: list[dict[str, Any]] = []
    tallies: list[PartCounts] = []
    totals: dict[str, int] = {}
    for index in range(len(info.plan.shards)):
        path = part_path(info.out, index)
        tally = part_counts(path)
        tallies.append(tally)
        parts.append(
            {
                "name": path.name,
                "rows": tally.rows,
                "failures": tally.failures,
                "sha256": sha256_file(path),
            }
        )
        for key, value in tally.counts.items():
            totals[key] = totals.get(key, 0) + value
    rows, failed = sum(t.rows for t in tallies), sum(t.failures for t in tallies)
    items = _attempted(info, tallies)
    totals = {"items": items, "samples": rows, "failures": failed, **totals}
    if _too_many(info, tallies):
        raise TooManyFailures(
            f"{failed} failures in {items} items, above max_failure_rate "
            f"{info.config.execution.max_failure_rate:g} (see {info.out / 'failures'}):\n  "
            + "\n  ".join(failure_lines(info.out)),
            hint="run the same line again to redo only the failed shards, or let more fail: "
            f"-s execution.max_failure_rate={min(1.0, failed / items + 0.005):.2f}",
        )
    remove_leftovers(info.out)
    stage: Stage = resolve("stages", info.command)(info)
    finish = stage.finish(FinishedRun(info, totals, reporter))
    commit(
        info,
        parts=parts,
        counts=totals,
        artifacts=finish.artifacts,
        exit_code=finish.exit_code,
    )
    seconds = time.monotonic() - stage_started
    return RunSummary(
        command=info.command,
        out=str(info.out),
        status="done" if finish.exit_code == 0 else "gate-missed",
        counts=totals,
        rates={"items a second": round(made / seconds, 2)} if seconds > 0 and made else {},
        tables={name: dict(table) for name, table in finish.tables.items()},
        artifacts={name: str(path) for name, path in finish.artifacts.items()},
        notes=tuple(finish.notes),
        exit_code=finish.exit_code,
        seconds=seconds,
    )
