"""What `status` tells of a run, and of a folder of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RunStatus", "Status"]


@dataclass(frozen=True)
class RunStatus:
    """One run folder.

    state: committed, running (its lock is held on this machine), stopped (resume with the same
    line), failed (`detail` says why), waiting (a stage that has not begun), outdated (a stage
    whose inputs were made anew: it will be, too). `rate` is units a
    second of the phase at work; `age_s` seconds since anything in the folder changed.
    """

    name: str
    path: str
    command: str
    state: str
    detail: str = ""
    unit: str = "item"
    done: int = 0
    total: int | None = None
    shards_done: int = 0
    shards: int = 0
    failed: int = 0
    phase: str = ""
    rate: float | None = None
    eta_s: float | None = None
    metric: tuple[str, float, int | None] | None = None
    age_s: float | None = None
    bytes: int = 0
    exit_code: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # of a committed run

    @property
    def left(self) -> int | None:
        return None if self.total is None else max(0, self.total - self.done)

    def to_json(self) -> dict[str, object]:
        metric = None
        if self.metric is not None:
            metric = dict(zip(("name", "value", "step"), self.metric, strict=True))
        return {
            "name": self.name,
            "path": self.path,
            "command": self.command,
            "state": self.state,
            "detail": self.detail,
            "unit": self.unit,
            "done": self.done,
            "left": self.left,
            "total": self.total,
            "shards": {"done": self.shards_done, "left": self.shards - self.shards_done},
            "failed": self.failed,
            "phase": self.phase,
            "rate": self.rate,
            "eta_s": self.eta_s,
            "metric": metric,
            "age_s": self.age_s,
            "bytes": self.bytes,
            "exit_code": self.exit_code,
            "counts": dict(self.counts),
        }


@dataclass(frozen=True)
class Status:
    """A run, a pipeline's work folder, or a folder of runs.

    `older`: stage folders that later ones replaced. `is_going`: a live process is at work.
    `turns`: complete turns by series; the stages of the latest turn are among the runs, and
    `unfinished` are the series where that one is not complete.
    """

    path: str
    kind: str  # "run" | "pipeline" | "folder"
    runs: tuple[RunStatus, ...]
    is_going: bool
    older: int = 0
    older_bytes: int = 0
    turns: Mapping[str, int] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "path": self.path,
            "kind": self.kind,
            "is_going": self.is_going,
            "runs": [run.to_json() for run in self.runs],
            "older_folders": self.older,
            "older_bytes": self.older_bytes,
            "turns": dict(self.turns),
            "unfinished_turns": list(self.unfinished),
        }
