"""Opening a training run: the lock is the first rank's, the others follow its run.json."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rsgen.errors import LockedError, Stopped
from rsgen.records import ClassTable
from rsgen.reporting import NullReporter
from rsgen.request import InputRef, Plan, RunInfo
from rsgen.runs import Job, ProgramRun, start_program

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["default_threads", "leave_ranks", "open_training", "rank", "stop_together"]

WAIT_SECONDS = 600.0  # torchrun ends the others at once when the first rank fails


def rank() -> int:
    """This process's number under torchrun, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def default_threads() -> int:
    """Torch threads of this process: OMP_NUM_THREADS (torchrun sets it), else every core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked)) if asked.isdecimal() else len(os.sched_getaffinity(0))


def stop_together(check_stop: Callable[[], None], accelerator: Accelerator) -> None:
    """`check_stop` of any rank ends all of them here; a rank that goes on alone would hang.

    Every rank must call it equally often. Raises Stopped.
    """
    own: Stopped | None = None
    try:
        check_stop()
    except Stopped as error:
        own = error
    asked = own is not None
    if accelerator.num_processes > 1:
        import torch

        flag = torch.tensor(float(asked), device=accelerator.device)
        asked = float(accelerator.reduce(flag, "sum")) > 0
    if asked:
        raise own or Stopped("another rank was asked to stop", hint="run the same line")


@contextmanager
def open_training(
    job: Job,
    *,
    inputs: Sequence[InputRef],
    classes: ClassTable,
    model_hashes: dict[str, str],
    plan: Plan,
) -> Iterator[ProgramRun]:
    """`start_program` for the first rank; the others wait for run.json and hold no lock."""
    try:
        if rank() == 0:
            with start_program(
                job, inputs=inputs, classes=classes, model_hashes=model_hashes, plan=plan
            ) as run:
                yield run
            return
        deadline = time.monotonic() + WAIT_SECONDS
        while not (job.out / "run.json").is_file():
            if time.monotonic() > deadline:
                raise LockedError(f"{job.out}: rank 0 did not start within {WAIT_SECONDS:.0f} s")
            time.sleep(0.1)
        run = ProgramRun(job, RunInfo.load(job.out))
        run.reporter = NullReporter()
        yield run
    finally:
        leave_ranks()


def leave_ranks() -> None:
    """End the talk of the ranks; its threads else abort a process that ends, now and then."""
    if "RANK" not in os.environ:
        return
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
