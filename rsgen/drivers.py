"""Where shards run: in this process, or in spawned workers on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsgen.errors import OutOfMemory, SetupError, Stopped
from rsgen.images import replace_bytes
from rsgen.job import Control, Job
from rsgen.reporting import Reporter
from rsgen.request import RunInfo
from rsgen.runs import run_json_bytes
from rsgen.stages import forget_opened_stage, run_shard
from rsgen.store import part_path

__all__ = ["run_shards"]


def run_shards(info: RunInfo, indices: list[int], job: Job, reporter: Reporter) -> int:
    """Compute shards with `execution.workers` processes; returns the items done.

    Raises:
        Stopped: after the current batches.
        SetupError: a worker died, or memory does not suffice for one item.
    """
    assert info.plan is not None
    total = sum(b - a for a, b in (info.plan.shards[k] for k in indices))
    reporter.stage(info.command, total)
    if not indices:
        return 0
    workers = min(job.config.execution.workers, len(indices))
    try:
        if workers == 1:
            return _inline(info, indices, job.control, reporter)
        while True:
            try:
                return _spawned(info, indices, workers, job.control, reporter)
            except OutOfMemory as error:
                _answer_out_of_memory(info, error, reporter)
    except Stopped as error:
        if not any(part_path(info.out, k).is_file() for k in indices):
            error.message += ", before the first part was finished"
            error.hint = "run the same line again with more time: it begins where this one did"
        raise


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
    forget_opened_stage()
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
                    f"{control.stop_reason()}: stopped", hint="run the same line again to go on"
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
