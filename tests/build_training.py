"""Trainings of a few steps on the small model: the request, who listens, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from rsgen.records import Sample
from rsgen.reporting import NullReporter, Reporter, RunSummary
from rsgen.runs import Control, Job
from tests.build import config, sample
from tests.build_models import SIZE

STEPS = 4


class Told(NullReporter):
    """Keeps what was said and measured."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.metrics: dict[str, list[float]] = {}

    def note(self, text: str, level: str = "info") -> None:
        self.texts.append(f"{level}: {text}")

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.metrics.setdefault(name, []).append(value)


def splits(count: int, *others: str) -> list[Sample]:
    """Training samples, then one of each other split."""
    names = ["train"] * count + list(others)
    return [sample(f"scene-{k}.png", split=name) for k, name in enumerate(names)]


def train_job(
    out: Path,
    run: Path,
    base: Path,
    reporter: Reporter | None = None,
    control: Control | None = None,
    **keys: Any,
) -> Job:
    values = {
        "seed": 5,
        "train.max_steps": STEPS,
        "train.size": SIZE,
        "train.warmup_steps": 1,
        "train.validation_samples": 0,
        "train.checkpoint_every": 2,
        "execution.batch_size": 2,
        **keys,
    }
    return Job(
        "train",
        config(**values),
        out,
        inputs={"run": [run], "base": [base]},
        reporter=reporter or NullReporter(),
        control=control or Control(),
    )


def stop_later(out: Path, checks: int = 2) -> Control:
    """A stop at the second (or later) look after the state of step 2 was saved."""
    calls = 0

    def requested() -> bool:
        nonlocal calls
        calls += (out / "state" / "step-00000002").is_dir()
        return calls == checks

    return Control(requested=requested)


def history(summary: RunSummary) -> list[float]:
    """The loss of every step, from the newest saved state."""
    newest = sorted((Path(summary.out) / "state").glob("step-*"))[-1]
    return list(load_file(newest / "history.safetensors")["loss"].tolist())
