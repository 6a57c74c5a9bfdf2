"""Opening a training run: the lock is the first rank's, the others follow its run.json."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rsgen.errors import LockedError
from rsgen.records import ClassTable
from rsgen.reporting import NullReporter
from rsgen.request import InputRef, Plan, RunInfo
from rsgen.runs import Job, ProgramRun, start_program

__all__ = ["open_training", "rank"]

WAIT_SECONDS = 120.0


def rank() -> int:
    """This process's number under torchrun, 0 without it."""
    return int(os.environ.get("RANK", "0"))


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
