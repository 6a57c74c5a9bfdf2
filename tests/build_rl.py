"""Tuning runs of a few images on the small model: the request, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsgen.reporting import NullReporter, Reporter
from rsgen.rl import state as states
from rsgen.runs import Control, Job
from tests.build import config

REWARD = {"reward": "contrast"}


def tune_job(
    out: Path,
    model: Path,
    layouts: Path,
    *,
    reporter: Reporter | None = None,
    control: Control | None = None,
    real: Path | None = None,
    judge: Path | None = None,
    dry_run: bool = False,
    **keys: Any,
) -> Job:
    """Two layouts of four images an epoch, six steps of which three draw noise."""
    values = {
        "seed": 3,
        "rl_tune.epochs": 2,
        "rl_tune.layouts": 2,
        "rl_tune.samples": 4,
        "rl_tune.steps": 6,
        "rl_tune.window": (0.0, 0.5),
        "rl_tune.held_layouts": 2,
        "rl_tune.rewards": [REWARD],
        "rl_tune.lora_rank": 4,
        "rl_tune.grid": 0,
        "execution.batch_size": 4,
        "execution.threads": 1,
        **keys,
    }
    given = {"real": real, "judge": judge}
    return Job(
        "rl-tune",
        config(**values),
        out,
        {
            "checkpoint": [model],
            "layouts": [layouts],
            **{name: [path] for name, path in given.items() if path is not None},
        },
        reporter=reporter or NullReporter(),
        control=control or Control(),
        dry_run=dry_run,
    )


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The metrics of every epoch, the look before the first one included."""
    text = (out / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def state_of(out: Path) -> states.SavedState:
    """The last state of a run."""
    found = states.latest(out / "state")
    assert found is not None
    return states.load(found)
