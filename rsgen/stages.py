"""What a stage is, and `run_shard`: the seam at which work is distributed.

`run_shard(out, index)` rebuilds the stage from run.json alone, so any process on any machine
that sees OUT can do a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rsgen.job import Control
from rsgen.records import ClassTable, Failure, Sample
from rsgen.registry import resolve
from rsgen.reporting import Reporter
from rsgen.request import RunInfo
from rsgen.store import SampleRun, part_path, write_part

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Finish",
    "FinishedRun",
    "Shard",
    "ShardOutput",
    "Stage",
    "forget_opened_stage",
    "run_shard",
    "shard_of",
    "stage_option",
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
    """What a shard made, as samples or as their table; `counts` add up over shards."""

    samples: list[Sample] | pa.Table
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

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of every part, in order."""
        return self._run.tables(columns)

    def at(self, positions: Sequence[int]) -> Iterator[Sample]:
        """The samples at ascending positions; only their parts are read."""
        return self._run.at(positions)

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


def stage_option(stage: object, name: str, value: Any) -> Any:
    """An optional class attribute of a stage: batch_size, shard_size, uses_torch, grows..."""
    return getattr(stage, name, value)


_OPENED: dict[tuple[str, str, int], Stage] = {}


def _opened_stage(info: RunInfo) -> Stage:
    key = (str(info.out), info.fingerprint, info.plan.count if info.plan else 0)
    if key not in _OPENED:
        stage: Stage = resolve("stages", info.command)(info)
        if stage_option(stage, "uses_torch", False) and info.plan is not None:
            import torch

            torch.set_num_threads(info.plan.threads)
        stage.open()
        _OPENED.clear()
        _OPENED[key] = stage
    return _OPENED[key]


def shard_of(out: Path, index: int, start: int, stop: int) -> Shard:
    """Shard `index` of OUT with its place for images."""
    prefix = f"images/{index:05d}"
    return Shard(index, start, stop, out / prefix, prefix)


def run_shard(out: Path, index: int, control: Control | None = None) -> tuple[int, int]:
    """Compute shard `index` of OUT and write its part; returns (items, failures).

    Raises:
        Stopped: a stop was asked for; nothing of the shard counts as done.
    """
    info = RunInfo.load(out)
    assert info.plan is not None, "a stage always has a plan"
    shard = shard_of(out, index, *info.plan.shards[index])
    output = _opened_stage(info).process(shard, control or Control())
    write_part(out, index, output.samples, output.failures, output.counts)
    return len(shard), len(output.failures)


def forget_opened_stage() -> None:
    """Open the stage anew at the next shard (its plan has changed)."""
    _OPENED.clear()
