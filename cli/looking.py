"""Commands that only look, and answer on stdout: no --out, no config, nothing of a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .outcome import answered

__all__ = ["LOOKING", "LookSpec"]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]


@dataclass(frozen=True)
class LookSpec:
    """A command whose function's signature is its options."""

    name: str
    help: str
    call: Callable[..., None]
    examples: Sequence[str] = ()

    @property
    def epilog(self) -> str:
        return "\b\n" + "\n".join(["Examples:", *(f"  rsgen {e}" for e in self.examples)])


def _ended(call: Callable[[], int], *, as_json: bool) -> None:
    raise typer.Exit(answered(call, as_json=as_json))


# ---------------------------------------------------------------- status


def status(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A run's OUT, a --work folder, or a folder of runs"),
    ],
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="SECONDS", min=0.2, help="Again and again, till it ends"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look once, or again and again."""

    def call() -> int:
        from rsgen.status import look

        from .tables import status_text

        while True:
            found = look(folder)
            if as_json:
                sys.stdout.write(json.dumps(found.to_json()) + "\n")
            else:
                sys.stdout.write(status_text(found))
            sys.stdout.flush()
            if watch is None or not found.is_going:
                return 0
            time.sleep(watch)

    _ended(call, as_json=as_json)


# ---------------------------------------------------------------- doctor


def doctor(
    as_json: AsJson = False,
) -> None:
    """Check the machine."""

    def call() -> int:
        from rsgen.doctor import diagnose

        from .console import print_report

        report = diagnose(Path.cwd())
        print_report(report, as_json=as_json)
        return report.exit_code

    _ended(call, as_json=as_json)


LOOKING: tuple[LookSpec, ...] = (
    LookSpec(
        "status",
        "How far runs are: done, left, failed, time left; nothing is written or locked.",
        status,
        (
            "status work                 (the --work folder of rsgen run: every stage)",
            "status images               (one run)",
            "status work --watch 10      (till it ends)",
            "status . --json             (every run below this folder)",
        ),
    ),
    LookSpec(
        "doctor",
        "What is installed, which device and models, what to type.",
        doctor,
        ("doctor", "doctor --json"),
    ),
)
