"""The presets of `train`: they load, are found by name, and say what they claim to say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rsgen.config import load_config, templates_root
from rsgen.pipeline_file import find_config, read_layers
from rsgen.settings import Config
from rsgen.shipped import shipped_files, what_it_is
from rsgen.train import train
from tests.unit.test_cli import Cli
from tests.unit.test_train import job

PRESETS = sorted(p.stem for p in (templates_root() / "train").glob("*.yaml"))

# OF-Diff, arXiv 2508.10801, section "implementation details"; * where the paper says nothing
# and the value is that of the code that it builds on.
PAPER = {
    "method": "of-diff",
    "distil_weight": 1.0,  # lambda
    "distil_ramp": "linear",  # n / N
    "recon_augment": False,  # not in the paper's loss
    "epochs": 100,
    "lr": 1e-5,
    "lr_schedule": "constant",
    "warmup_steps": 0,  # *
    "weight_decay": 0.01,  # * AdamW's own
    "beta2": 0.999,  # * AdamW's own
    "clip_norm": 0,  # *
    "ema_decay": 0.0,  # *
    "condition": "binary",
    "prompt": "",
    "caption_dropout": 0.0,
    "hint_dropout": 0.0,
    "unet": "decoder",
    "object_weight": 1.0,
    "timesteps": "uniform",
    "snr_gamma": None,
    "augment": False,
    "shape_augment": 0.0,
}
OURS = {
    "method": "of-diff",
    "condition": "classes",
    "distil_ramp": "linear",
    "distil_weight": 1.0,
    "recon_augment": False,
    "unet": "decoder",
    "hint_dropout": 0.1,
    "caption_dropout": 0.1,
    "prompt": "A satellite image of {classes}",
    "lr": "auto",
}


def loaded(name: str, **keys: Any) -> Config:
    return load_config(read_layers([name]), settings=list(keys.items()), environ={})


def test_there_are_presets() -> None:
    assert {"of-diff", "of-diff-paper"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_each_loads_and_is_listed(name: str) -> None:
    """Catches a key that settings no longer have, and a preset that nobody finds."""
    assert loaded(name) and find_config(name) == find_config(f"train/{name}")
    assert what_it_is(shipped_files()[f"train/{name}"])


@pytest.mark.parametrize(("name", "table"), [("of-diff-paper", PAPER), ("of-diff", OURS)])
def test_values(name: str, table: dict[str, Any]) -> None:
    """Catches a preset that drifts from what it is named after."""
    found = loaded(name).train
    assert {key: getattr(found, key) for key in table} == table


def test_the_papers_batch_and_length() -> None:
    """Catches 64 images a step that are not: batch and accumulation are separate keys."""
    config = loaded("of-diff-paper")
    assert config.execution.batch_size is not None
    assert config.execution.batch_size * config.train.accumulate == 64


def test_an_option_goes_before_a_preset(cli_here: Cli) -> None:
    shown = cli_here(
        "train", "masks", "-c", "of-diff-paper", "--steps", "12", "--print-config", "--json"
    )
    assert shown.code == 0
    assert shown.json["train"]["max_steps"] == 12 and shown.json["train"]["epochs"] == 100


def test_a_misspelt_preset_is_told_the_near_one(cli_here: Cli) -> None:
    result = cli_here("train", "masks", "-c", "of-dif", "--out", "o")
    assert result.code == 2 and "did you mean of-diff" in result.err


@pytest.mark.parametrize("name", ["of-diff", "of-diff-paper"])
def test_a_preset_trains(tmp_path: Path, run: Path, base: Path, name: str) -> None:
    """Catches values that load and then exclude each other; 6 images, one or two a step."""
    keys = dict(loaded(name).train.model_dump(exclude_unset=True)) | {"accumulate": 3, "epochs": 2}
    options = {f"train.{key}": value for key, value in keys.items()}
    summary = train(job(tmp_path / "out", run, base, **{"train.max_steps": "auto", **options}))
    assert summary.exit_code == 0 and summary.counts["steps"] == math.ceil(2 * 6 / (2 * 3))
