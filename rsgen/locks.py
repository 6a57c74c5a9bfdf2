"""Who may write in a run folder: one live run, or the slices of one."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rsgen.errors import LockedError, SetupError, UsageError
from rsgen.job import Job

__all__ = ["hold_lock", "lock_file", "make_folder"]


@contextmanager
def hold_lock(out: Path, job: Job) -> Iterator[None]:
    """Hold OUT/run.lock: exclusive for a plain run, shared plus its own for a slice.

    Raises:
        LockedError: a live run holds it (and `--if-locked` is not wait).
    """
    make_folder(out)
    with (out / "run.lock").open("a") as handle:
        if job.slice_of is None:
            lock_file(handle, fcntl.LOCK_EX, out, job)
            yield
            return
        lock_file(handle, fcntl.LOCK_SH, out, job)
        index, of = job.slice_of
        with (out / f"slice-{index}-{of}.lock").open("a") as own:
            lock_file(own, fcntl.LOCK_EX, out, job)
            yield


def make_folder(out: Path) -> None:
    """Create OUT, or see that it is a folder that we may use; nothing is put into a foreign one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            f"{out}: {error.filename} is a file, not a folder",
            hint="give --out a new or empty folder",
        ) from error
    except OSError as error:
        raise SetupError(
            f"{out}: this folder cannot be made ({error.strerror})",
            hint="give --out a folder that you may write to",
        ) from error


def lock_file(handle: IO[str], kind: int, out: Path, job: Job) -> None:
    """Lock an open file; `out` is what the user is told is held."""
    while True:
        try:
            fcntl.flock(handle.fileno(), kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if job.if_locked != "wait":
                raise LockedError(
                    f"{out} is held by a live run",
                    hint="wait for it, or pass --if-locked wait or --if-locked skip",
                ) from error
        except OSError as error:
            raise SetupError(
                f"{out}: this file system has no file locks ({error.strerror})",
                hint="give --out a folder on another file system",
            ) from error
        job.control.check()
        time.sleep(0.2)
