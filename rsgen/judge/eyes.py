"""Whose eyes look: the judge's, another detector's, or those of a program of the user's.

A detector is named by one line: `judge`, a model (a folder or hub:ORG/NAME, as everywhere),
or `command: PROGRAM ARGUMENTS` for a worker process. This module loads no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsgen.detections import Detector
from rsgen.errors import UsageError
from rsgen.records import ClassTable

__all__ = ["JUDGE", "EyesRef"]

JUDGE = "judge"
COMMAND = "command:"


@dataclass(frozen=True)
class EyesRef:
    """A detector by name. `location`: the judge's folder, the model, or the command line."""

    kind: Literal["judge", "model", "command"]
    location: str

    @classmethod
    def parse(cls, text: str, judge: str = "") -> EyesRef:
        """Read `judge` (whose folder is `judge`), a model, or `command: LINE`; opens nothing.

        Raises:
            UsageError: empty, or the judge is meant and no folder is given.
        """
        if text == JUDGE:
            if not judge:
                raise UsageError(
                    "a detector is needed, and no judge was given",
                    hint="add --judge JUDGES (rsgen train-judge RUN --out JUDGES), or give the "
                    "option detector (of the reward: detectors): a model's folder, hub:ORG/NAME, "
                    "or 'command: PROGRAM'",
                )
            return cls("judge", judge)
        if text.startswith(COMMAND):
            line = text.removeprefix(COMMAND).strip()
            if not line:
                raise UsageError(
                    f"detector {text!r} names no program",
                    hint="write detector: 'command: python worker.py'",
                )
            return cls("command", line)
        if not text.strip():
            raise UsageError(
                "empty detector name", hint="give judge, a model, or 'command: PROGRAM'"
            )
        return cls("model", text)

    def identity(self, role: Literal["reward", "evaluation"]) -> str:
        """What enters a request: the hash of the weights; of a command its line and scripts."""
        from rsgen.request import digest
        from rsgen.workers.script import script_hashes

        if self.kind == "judge":
            from rsgen.judge.model import judge_hash

            return judge_hash(Path(self.location), role)
        if self.kind == "model":
            from rsgen.models.base import ModelRef, model_folder, model_hash

            return model_hash(model_folder(ModelRef.parse(self.location)))
        return digest(["command", self.location, *script_hashes(self.location)])

    def open(
        self,
        classes: ClassTable | None,
        role: Literal["reward", "evaluation"],
        device: str = "cpu",
        time_limit_s: float = 60.0,
    ) -> Detector:
        """The detector, ready to look.

        Args:
            classes: what to look for; a judge brings its own table.

        Raises:
            DataError, UsageError, SetupError: there is no such detector, it does not fit its
            purpose, or it knows none of the classes.
        """
        if self.kind == "judge":
            from rsgen.judge.model import load_judge

            return load_judge(Path(self.location), role, device=device)
        if classes is None:
            raise UsageError(
                f"detector {self.location!r} needs to be told what to look for",
                hint="use it in a run with a class table",
            )
        if self.kind == "model":
            from rsgen.judge.pretrained import PretrainedDetector

            return PretrainedDetector.load(self.location, classes, device)
        from rsgen.judge.outside import OutsideDetector

        return OutsideDetector(self.location, classes, time_limit_s)
