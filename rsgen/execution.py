"""Stages, and where they run: inline, in spawned workers, or as a slice of a job array.

The seam is one function, `run_shard(out, index)`: it rebuilds the stage from run.json alone,
so any process on any machine that sees OUT can do a shard.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rsgen.errors import OutOfMemory, SetupError, Stopped, TooManyFailures, UsageError
from rsgen.images import replace_bytes, sha256_file
from rsgen.records import ClassTable, Failure, Sample
from rsgen.registry import resolve
from rsgen.reporting import Reporter, RunSummary
from rsgen.request import InputRef, Plan, RunInfo, refuse_other_request, request_keys
from rsgen.runs import (
    Control,
    Job,
    begin,
    commit,
    events_reporter,
    hold_lock,
    refuse_foreign,
    run_json_bytes,
    save_summary,
    stored_summary,
)
from rsgen.store import (
    SampleRun,
    failures_path,
    input_ref,
    is_committed,
    part_counts,
    part_path,
    read_manifest,
    remove_leftovers,
    write_part,
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


@dataclass(frozen=True)
class Shard:
    """Items start..stop-1 of a stage; images go to `images_dir`."""

    index: int
    start: int
    stop: int
    images_dir: Path
    images_prefix: str

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class ShardOutput:
    """What a shard made; `counts` add up over shards."""

    samples: list[Sample]
    failures: list[Failure] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Finish:
    """What the parent adds when every part exists."""

    artifacts: Mapping[str, Path] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, float | int | str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    exit_code: int = 0


class FinishedRun:
    """All parts of a run that is about to be committed."""

    def __init__(self, info: RunInfo, counts: Mapping[str, int], reporter: Reporter) -> None:
        self.info = info
        self.path = info.out
        self.counts = counts
        self.reporter = reporter
        indices = range(len(info.plan.shards) if info.plan else 0)
        self._run = SampleRun(info.out, info, [part_path(info.out, k) for k in indices], "open")

    def __len__(self) -> int:
        return len(self._run)

    def samples(self) -> Iterator[Sample]:
        return iter(self._run)

    def image_path(self, sample: Sample) -> Path:
        return self._run.image_path(sample)

    def read_image(self, sample: Sample) -> Any:
        """uint8 [H, W, 3] RGB."""
        return self._run.read_image(sample)


class Stage(Protocol):
    """A sample-to-sample command; rebuilt in every worker from run.json alone."""

    def __init__(self, info: RunInfo) -> None: ...

    def count(self) -> int:
        """How many items there are, for this configuration and these inputs."""
        ...

    def classes(self) -> ClassTable: ...

    def open(self) -> None:
        """Load what a worker needs once."""
        ...

    def process(self, shard: Shard, control: Control) -> ShardOutput:
        """Do one shard; call `control.check()` after each batch."""
        ...

    def finish(self, run: FinishedRun) -> Finish: ...


def _default(stage: object, name: str, value: Any) -> Any:
    """An optional class attribute of a stage: batch_size, shard_size, uses_torch, grows..."""
    return getattr(stage, name, value)


# ---------------------------------------------------------------- one shard


_OPENED: dict[tuple[str, str, int], Stage] = {}


def _opened_stage(info: RunInfo) -> Stage:
    key = (str(info.out), info.fingerprint, info.plan.count if info.plan else 0)
    if key not in _OPENED:
        stage: Stage = resolve("stages", info.command)(info)
        if _default(stage, "uses_torch", False) and info.plan is not None:
            import torch

            torch.set_num_threads(info.plan.threads)
        stage.open()
        _OPENED.clear()
        _OPENED[key] = stage
    return _OPENED[key]


def run_shard(out: Path, index: int, control: Control | None = None) -> tuple[int, int]:
    """Compute shard `index` of OUT and write its part; returns (items, failures).

    Raises:
        Stopped: a stop was asked for; nothing of the shard counts as done.
    """
    info = RunInfo.load(out)
    assert info.plan is not None, "a stage always has a plan"
    start, stop = info.plan.shards[index]
    prefix = f"images/{index:05d}"
    shard = Shard(index, start, stop, out / prefix, prefix)
    output = _opened_stage(info).process(shard, control or Control())
    write_part(out, index, output.samples, output.failures, output.counts)
    return len(shard), len(output.failures)


# ---------------------------------------------------------------- planning


def _resolve_device(asked: str, uses_torch: bool) -> str:
    if not uses_torch:
        return "cpu"
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise SetupError(
            "--device cuda: no CUDA device is visible", hint="use --device cpu, or see rsgen doctor"
        )
    return "cuda" if asked != "cpu" and available else "cpu"


def make_plan(job: Job, stage: Stage, count: int, old: Plan | None) -> Plan:
    """The plan of the first start, or the old one extended to more items.

    Raises:
        UsageError: fewer items than the plan already has.
    """
    asked = job.config.execution
    shard_size = asked.shard_size or int(_default(stage, "shard_size", 32))
    if old is not None:
        if count < old.count:
            raise UsageError(
                f"{job.out} already has {old.count} items, {count} asked for",
                hint=f"ask for at least {old.count}, or use another folder: --out {job.out}-2",
            )
        if len(old.shards) > 1:  # a lone first shard may have been cut short by its count
            shard_size = old.shards[0][1] - old.shards[0][0]
        return old if count == old.count else old.extended(count, shard_size)
    uses_torch = bool(_default(stage, "uses_torch", False))
    device = _resolve_device(asked.device, uses_torch)
    dtype = asked.dtype if asked.dtype != "auto" else ("bf16" if device == "cuda" else "fp32")
    batch = asked.batch_size or int(_default(stage, "batch_size", 16))
    empty = Plan(0, (), batch, dtype, device, asked.threads or 1)
    return empty.extended(count, shard_size)


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
            image_roots=_default(stage, "image_roots", list)(),
            model_hashes=_default(stage, "model_hashes", dict)(),
            plan=lambda old: make_plan(job, stage, count, old),
            may_grow=True,
        )
        assert info.plan is not None
        if is_committed(job.out) and _covers(job.out, info.plan):
            return stored_summary(job.out, "no-op")
        reporter = events_reporter(job)
        mine = list(range(len(info.plan.shards)))
        if job.slice_of is not None:
            part, of = job.slice_of
            mine = [k for k in mine if k % of == part]
        indices = _missing(info, mine)
        done = _run_indices(info, indices, job, reporter)
        if job.slice_of is not None:
            return RunSummary(
                job.command,
                str(job.out),
                "partial",
                counts={"shards": len(indices), "items": done},
                notes=("a plain run of the same line commits when every slice is done",),
                seconds=time.monotonic() - started,
            )
        return _finish(info, stage_started=started, reporter=reporter)


def _covers(out: Path, plan: Plan) -> bool:
    return len(read_manifest(out)["parts"]) == len(plan.shards)


def _dry_run(job: Job, inputs: Sequence[InputRef], stage: Stage, count: int) -> RunSummary:
    refuse_foreign(job.out)
    old = None
    if (job.out / "run.json").is_file():
        info = RunInfo.load(job.out)
        hashes = _default(stage, "model_hashes", dict)()
        keys = request_keys(job.command, job.config, inputs, hashes, job.options)
        refuse_other_request(job.out, info, keys)
        old = info.plan
    plan = make_plan(job, stage, count, old)
    done = sum(part_path(job.out, k).is_file() for k in range(len(plan.shards)))
    return RunSummary(
        job.command,
        str(job.out),
        "dry-run",
        counts={"items": count, "shards": len(plan.shards), "shards already done": done},
        tables={
            "plan": {
                "batch size": plan.batch_size,
                "dtype": plan.dtype,
                "device": plan.device,
                "threads a worker": plan.threads,
                "workers": job.config.execution.workers,
            }
        },
        notes=tuple(_default(stage, "describe", tuple)()),
    )


def _missing(info: RunInfo, mine: Sequence[int]) -> list[int]:
    """Which of my shards have no part; also mine with failures when too many items failed.

    A part that a manifest names is never made again.
    """
    assert info.plan is not None
    every = range(len(info.plan.shards))
    if all(part_path(info.out, k).is_file() for k in every):
        tallies = [part_counts(part_path(info.out, k)) for k in every]
        samples, failed = sum(t[0] for t in tallies), sum(t[1] for t in tallies)
        if _too_many(info, samples, failed):
            kept = len(read_manifest(info.out)["parts"]) if is_committed(info.out) else 0
            for k in mine:
                if k >= kept and failures_path(info.out, k).is_file():
                    part_path(info.out, k).unlink(missing_ok=True)
    return [k for k in mine if not part_path(info.out, k).is_file()]


def _too_many(info: RunInfo, samples: int, failed: int) -> bool:
    return failed > info.config.execution.max_failure_rate * _attempted(info, samples, failed)


def _attempted(info: RunInfo, samples: int, failed: int) -> int:
    """Items that were tried: a reader may have refused some before they were planned."""
    return max(info.plan.count if info.plan else 0, samples + failed)


def _run_indices(info: RunInfo, indices: list[int], job: Job, reporter: Reporter) -> int:
    assert info.plan is not None
    total = sum(b - a for a, b in (info.plan.shards[k] for k in indices))
    reporter.stage(info.command, total)
    if not indices:
        return 0
    workers = min(job.config.execution.workers, len(indices))
    if workers == 1:
        return _inline(info, indices, job.control, reporter)
    while True:
        try:
            return _spawned(info, indices, workers, job.control, reporter)
        except OutOfMemory as error:
            _answer_out_of_memory(info, error, reporter)


def _inline(info: RunInfo, indices: list[int], control: Control, reporter: Reporter) -> int:
    done = 0
    for index in indices:
        control.check()
        shown = 0

        def advance(count: int) -> None:
            nonlocal shown
            shown += count
            reporter.advance(count)

        control.on_advance = advance
        control.on_note = reporter.note
        size, _ = _shard_with_memory_guard(info, index, control, reporter)
        reporter.advance(size - shown)
        done += size
    return done


def _shard_with_memory_guard(
    info: RunInfo, index: int, control: Control, reporter: Reporter
) -> tuple[int, int]:
    """Run a shard; while no part exists yet, out of memory halves the whole run's batch."""
    while True:
        try:
            return run_shard(info.out, index, control)
        except OutOfMemory as error:
            _answer_out_of_memory(info, error, reporter)


def _answer_out_of_memory(info: RunInfo, error: OutOfMemory, reporter: Reporter) -> None:
    """Halve the frozen batch size of the whole run while no part exists.

    Raises:
        SetupError: a part exists already, or a single item is too much.
    """
    current = RunInfo.load(info.out)
    assert current.plan is not None
    batch = current.plan.batch_size
    if batch == 1:
        raise SetupError(
            f"{error.message} (batch size 1)", hint="use a smaller size or a larger device"
        ) from error
    if any((info.out / "parts").glob("*.parquet")):
        raise SetupError(
            f"{error.message} (batch size {batch}); parts made with it exist already",
            hint=f"start anew with half of it: --out {info.out}-2 --batch-size {batch // 2}",
        ) from error
    smaller = replace(current, plan=replace(current.plan, batch_size=batch // 2))
    replace_bytes(info.out / "run.json", run_json_bytes(smaller))
    _OPENED.clear()
    reporter.note(f"out of memory: batch size {batch // 2} from here on", "warning")


# ---------------------------------------------------------------- spawned workers

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_STOP_FLAG: Any = None


def _start_worker(flag: Any, threads: int) -> None:
    """In the child: the parent alone handles signals, and its death ends the child."""
    global _STOP_FLAG
    _STOP_FLAG = flag
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _worker_shard(out: str, index: int) -> tuple[int, int]:
    flag = _STOP_FLAG
    control = Control(requested=None if flag is None else lambda: bool(flag.value))
    return run_shard(Path(out), index, control)


def _spawned(
    info: RunInfo, indices: list[int], workers: int, control: Control, reporter: Reporter
) -> int:
    assert info.plan is not None
    context = multiprocessing.get_context("spawn")
    # Shared memory without a lock: a worker killed inside a lock would hold it for ever.
    flag = context.RawValue("b", 0)
    others = set(multiprocessing.active_children())
    done = 0
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(flag, info.plan.threads)
    ) as pool:
        waiting = list(reversed(indices))
        running: set[Future[tuple[int, int]]] = set()
        failure: BaseException | None = None
        while (waiting or running) and failure is None:
            try:
                while waiting and len(running) < workers + 1:
                    running.add(_submit(pool, info.out, waiting.pop()))
            except BrokenProcessPool as broken:
                failure = broken
                break
            finished, running = wait(running, timeout=0.25, return_when=FIRST_COMPLETED)
            for future in finished:
                error = future.exception()
                if error is not None:
                    failure = failure or error
                    continue
                size, _ = future.result()
                done += size
                reporter.advance(size)
            if control.stop_reason() is not None:
                failure = failure or Stopped(
                    f"{control.stop_reason()}; stopped after the current batches",
                    hint="run the same line",
                )
        if failure is not None:
            flag.value = 1
            if isinstance(failure, BrokenProcessPool):
                # The pool ends the others by SIGTERM, which they do not hear.
                for child in set(multiprocessing.active_children()) - others:
                    child.kill()
            for future in running:
                future.cancel()
            wait(running)
    if isinstance(failure, BrokenProcessPool):
        raise SetupError(
            "a worker process died (out of memory, or killed)",
            hint="run the same line again, with fewer --workers",
        ) from failure
    if failure is not None:
        raise failure
    return done


def _submit(pool: ProcessPoolExecutor, out: Path, index: int) -> Future[tuple[int, int]]:
    """Hand a shard to the pool; the processes that this starts never hear stop signals.

    Ctrl-C and schedulers signal the whole group, also a child that is still importing.
    """
    if threading.current_thread() is not threading.main_thread():
        return pool.submit(_worker_shard, str(out), index)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        return pool.submit(_worker_shard, str(out), index)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- commit


def _finish(info: RunInfo, *, stage_started: float, reporter: Reporter) -> RunSummary:
    assert info.plan is not None
    parts, totals, failed = [], dict[str, int](), 0
    for index in range(len(info.plan.shards)):
        path = part_path(info.out, index)
        rows, failures, counts = part_counts(path)
        failed += failures
        parts.append(
            {"name": path.name, "rows": rows, "failures": failures, "sha256": sha256_file(path)}
        )
        for key, value in counts.items():
            totals[key] = totals.get(key, 0) + value
    rows = sum(int(str(part["rows"])) for part in parts)
    items = _attempted(info, rows, failed)
    totals = {"items": items, "samples": rows, "failures": failed, **totals}
    if _too_many(info, rows, failed):
        raise TooManyFailures(
            f"{failed} failures in {items} items, above max_failure_rate "
            f"{info.config.execution.max_failure_rate:g} (see {info.out / 'failures'})",
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
    summary = RunSummary(
        command=info.command,
        out=str(info.out),
        status="done" if finish.exit_code == 0 else "gate-missed",
        counts=totals,
        rates={"samples a second": round(rows / seconds, 2)} if seconds > 0 else {},
        tables={name: dict(table) for name, table in finish.tables.items()},
        artifacts={name: str(path) for name, path in finish.artifacts.items()},
        notes=tuple(finish.notes),
        exit_code=finish.exit_code,
        seconds=seconds,
    )
    save_summary(info.out, summary)
    return summary
