"""`--series NAME`: a line that a scheduler repeats makes something new each time.

    PARENT/NAME-0001, PARENT/NAME-0002 ...   one folder a turn, complete with its manifest.json

A turn's number is the highest committed one plus 1, found under a lock, so a turn that was
killed is taken up again by the same line. Its seed is a hash of (seed, name, number): new
layouts, new noise, new sample ids. What is drawn once for the data set (splits, thresholds)
keeps the seed of the line.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rsgen.errors import UsageError
from rsgen.job import Job
from rsgen.locks import lock_file, make_folder
from rsgen.request import SPLIT_SEED, item_seed
from rsgen.store import is_committed, read_manifest, run_folder

__all__ = [
    "Turn",
    "check_series",
    "committed_turns",
    "hold_series",
    "next_turn",
    "turn_job",
    "unfinished_hint",
]


@dataclass(frozen=True)
class Turn:
    """One run of a series."""

    name: str
    number: int
    path: Path
    seed: int

    @property
    def exit_code(self) -> int:
        """0, or 7 of a turn that missed a quality gate; it is committed."""
        return int(read_manifest(self.path)["exit_code"])

    def to_json(self) -> dict[str, int | str]:
        return {"name": self.name, "number": self.number, "seed": self.seed}


def check_series(name: str, parent: Path) -> None:
    """Raise UsageError for a name that could not be a folder's, or a parent that is a run."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise UsageError(f"--series {name!r}: a name is letters, digits, '-', '_' and '.'")
    if parent.exists() and run_folder(parent) == parent.absolute():
        raise UsageError(
            f"{parent} is a run; with --series it is the folder that holds the runs",
            hint="give another folder",
        )


def _numbered(parent: Path, name: str) -> dict[int, Path]:
    pattern = re.compile(rf"{re.escape(name)}-(\d{{4,}})")
    found = {}
    for path in parent.iterdir() if parent.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match is not None and path.is_dir():
            found[int(match[1])] = path
    return found


def _turn(parent: Path, name: str, number: int, seed: int) -> Turn:
    # blake2b of "SEED/series/NAME/NUMBER", as every seed of an item.
    own = item_seed(seed, f"series/{name}", str(number))
    return Turn(name, number, parent / f"{name}-{number:04d}", own)


def committed_turns(parent: Path, name: str, seed: int) -> list[Turn]:
    """The complete turns, oldest first."""
    numbers = (n for n, path in sorted(_numbered(parent, name).items()) if is_committed(path))
    return [_turn(parent, name, number, seed) for number in numbers]


def next_turn(parent: Path, name: str, seed: int) -> Turn:
    """The turn after the highest committed one: new, or one that was interrupted."""
    done = committed_turns(parent, name, seed)
    return _turn(parent, name, 1 + (done[-1].number if done else 0), seed)


@contextmanager
def hold_series(parent: Path, name: str, job: Job) -> Iterator[None]:
    """Hold PARENT/NAME.lock: exclusive, or shared among the slices of one turn.

    Raises:
        LockedError: a turn of this series is running (and `--if-locked` is not wait).
    """
    make_folder(parent)
    with (parent / f"{name}.lock").open("a") as handle:
        kind = fcntl.LOCK_EX if job.slice_of is None else fcntl.LOCK_SH
        lock_file(handle, kind, parent / name, job)
        yield


def turn_job(job: Job, turn: Turn) -> Job:
    """The job of a turn: its folder and its seed; what is drawn once keeps the line's seed."""
    return replace(
        job,
        out=turn.path,
        config=job.config.model_copy(update={"seed": turn.seed}),
        options={**job.options, SPLIT_SEED: job.config.seed},
        series=None,
    )


def unfinished_hint(turn: Turn) -> str:
    """What to do about an interrupted turn that was begun by another request."""
    return (
        f"{turn.path} was begun by another line and is not complete: finish it with that line, "
        "move it away, or begin another series"
    )
