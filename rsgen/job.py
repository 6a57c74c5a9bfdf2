"""One command line, parsed, and whether it shall stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsgen.config import Config
from rsgen.ending import Ending
from rsgen.errors import Stopped
from rsgen.reporting import NullReporter, Reporter

__all__ = ["Control", "Job"]


class Control:
    """Whether to stop, and how far the current shard is; checked after every batch."""

    def __init__(
        self, deadline: float | None = None, requested: Callable[[], bool] | None = None
    ) -> None:
        self._deadline = deadline
        self._requested = requested or (lambda: False)
        self._reason: str | None = None
        self.on_advance: Callable[[int], None] = lambda count: None
        self.on_note: Callable[[str, str], None] = lambda text, level: None

    def request_stop(self, reason: str) -> None:
        """Ask the run to stop after its current batch (signal-safe)."""
        self._reason = reason

    def stop_reason(self) -> str | None:
        if self._reason is not None:
            return self._reason
        if self._requested():
            return "stop requested"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "--max-time reached"
        return None

    def check(self) -> None:
        """Raise Stopped when a stop was asked for."""
        reason = self.stop_reason()
        if reason is not None:
            raise Stopped(f"{reason}: stopped", hint="run the same line again to go on")

    def advance(self, count: int = 1) -> None:
        """Report finished items of the current shard."""
        self.on_advance(count)

    def note(self, text: str, level: str = "info") -> None:
        """A remark while a shard runs; workers of their own have no listener."""
        self.on_note(text, level)


@dataclass(frozen=True)
class Job:
    """One command line, parsed: what to run, on what, where to, and who listens."""

    command: str
    config: Config
    out: Path
    inputs: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    reporter: Reporter = field(default_factory=NullReporter)
    control: Control = field(default_factory=Control)
    options: Mapping[str, Any] = field(default_factory=dict)  # enter the fingerprint
    series: str | None = None  # OUT is then the folder of the series' runs
    ending: Ending = field(default_factory=Ending)
    slice_of: tuple[int, int] | None = None
    if_locked: str = "fail"
    dry_run: bool = False
    allow_partial: bool = False

    def paths(self, name: str) -> list[Path]:
        return list(self.inputs.get(name, ()))
