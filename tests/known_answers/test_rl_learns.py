"""The reward of `tiny` goes where it is told to, on layouts that it was not tuned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsgen.execution import run_stage
from rsgen.job import Job
from rsgen.rl_tune import rl_tune
from tests.build import config
from tests.build_rl import rows_of, tune_job

SIZE = 32


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty procedural scenes of two patches."""
    out = tmp_path_factory.mktemp("learns") / "scenes"
    values: dict[str, Any] = {"seed": 5, "scenes.count": 40, "scenes.size": 64}
    run_stage(Job("scenes", config(**values), out))
    return out


@pytest.mark.parametrize("control", ["none", "negated"])
def test_the_reward_of_tiny_rises_and_negated_falls(
    scenes: Path, tmp_path: Path, control: str
) -> None:
    """Catches updates that do not add up: a sign, an optimiser that never moves, stale rewards.

    Dossier tests 13 and 14: the reward is how plainly objects stand out; held layouts are painted
    without noise in the steps, as generate does.
    """
    keys: dict[str, Any] = {
        "rl_tune.control": control,
        "rl_tune.epochs": 5,
        "rl_tune.layouts": 8,
        "rl_tune.samples": 8,
        "rl_tune.held_layouts": 8,
        "rl_tune.lora_rank": 16,
        "rl_tune.size": SIZE,
        "rl_tune.text_guidance": 1.0,
        "rl_tune.layout_guidance": 1.0,
        "rl_tune.lr": 8e-3,
        "rl_tune.evaluate_every": 5,
        "rl_tune.gate": "none",
        "execution.batch_size": 32,
    }
    out = tmp_path / "out"
    rl_tune(tune_job(out, Path("tiny"), scenes, **keys))
    rows = rows_of(out)
    before, after = rows[0]["held score"], rows[-1]["held score"]
    if control == "none":
        assert after > 1.2 * before
    else:
        assert after < 0.9 * before
