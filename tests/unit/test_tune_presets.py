"""The presets of `rl-tune`, and its options: they load, are found, and say what they claim."""

from __future__ import annotations

from typing import Any

import pytest

from rsgen.config import load_config, templates_root
from rsgen.generation.defaults import guidance_notes
from rsgen.models.card import ModelCard
from rsgen.pipeline_file import find_config, read_layers
from rsgen.rewards.combine import reward_specs
from rsgen.rewards.distribution import Distribution
from rsgen.rewards.spread import WARM
from rsgen.rl.opened import check_settings
from rsgen.settings import Config, GenerateConfig, RlTuneConfig
from rsgen.shipped import shipped_files, what_it_is
from tests.build import CLASSES
from tests.unit.test_cli import Cli

PRESETS = sorted(p.stem for p in (templates_root() / "tune").glob("*.yaml"))


def loaded(name: str) -> Config:
    return load_config(read_layers([name]), environ={})


@pytest.mark.parametrize("name", PRESETS)
def test_each_loads_and_is_listed(name: str) -> None:
    """Catches a key that settings no longer have, and a preset that nobody finds."""
    settings = loaded(name).rl_tune
    check_settings(settings)
    assert find_config(name) == find_config(f"tune/{name}")
    assert what_it_is(shipped_files()[f"tune/{name}"])
    assert settings.layouts * settings.samples % 16 == 0  # batches of the default size


def test_of_diff_as_published() -> None:
    """Catches a bank too small for k 50, and the paper's reward without a term for layouts."""
    settings = loaded("of-diff-ddpo").rl_tune
    first, second = reward_specs(settings.rewards or ())
    options = Distribution(**first.options)
    assert (options.k, options.omega, options.cap) == (50, 2.0, "none")
    assert options.bank >= 2500 and options.bank > WARM * options.k
    # a point is compared with as many others as the first epoch has
    assert settings.layouts * settings.samples >= 2500
    assert (first.reward, second.reward, settings.algorithm) == ("distribution", "detector", "ddpo")


def test_i_druid_as_published() -> None:
    settings = loaded("i-druid").rl_tune
    table = {
        "algorithm": "ppo", "steps": 50, "window": (0.0, 0.2), "lr": 1e-4, "beta": 1e-4,
        "kl_target": "none", "critic_updates": 5, "paired_weight": 1.0,
    }  # fmt: skip
    assert {key: getattr(settings, key) for key in table} == table
    assert [s.reward for s in reward_specs(settings.rewards or ())] == ["detector"]
    assert settings.layouts * settings.samples // settings.updates == 16


def test_the_line_takes_a_preset_and_rewards_by_name(cli_here: Cli) -> None:
    """Catches an option that a preset overrides, and weights that stay text."""
    words = ("rl-tune", "model", "-c", "i-druid", "--print-config", "--json")
    shown = cli_here(*words, "--reward", "detector", "--reward", "remask:0.5,distribution:-1",
                     "--class-map", "boat=ship")  # fmt: skip
    assert shown.code == 0
    section = shown.json["rl_tune"]
    found = [(row["reward"], row["weight"]) for row in section["rewards"]]
    assert found == [("detector", 1.0), ("remask", 0.5), ("distribution", -1.0)]
    assert (section["algorithm"], section["class_map"]) == ("ppo", {"boat": "ship"})
    wrong = cli_here(*words, "--reward", "detector:much")
    assert wrong.code == 2 and "'much' is no number" in wrong.err
    missing = cli_here("rl-tune", "model", "-c", "i-druit", "--out", "o")
    assert missing.code == 2 and "did you mean i-druid" in missing.err


def test_help_names_rewards_and_what_is_used_without_any(cli_here: Cli) -> None:
    text = " ".join(cli_here("rl-tune", "--help").out.split())
    for part in ("--reward NAME[:WEIGHT]", "detector, distribution, filter, pixels", "remask",
                 "default: detector with a judge, else remask", "--class-map NAME=NAME",
                 "keep the model close to them"):  # fmt: skip
        assert part in text, part


def test_settings_of_older_runs_load() -> None:
    """Catches a key without a default, and null where it was written before."""
    older = RlTuneConfig().model_dump(mode="json")
    del older["class_map"]
    assert RlTuneConfig.model_validate({**older, "step_nats": None}) == RlTuneConfig()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, None),
        ({"steps": 50}, "steps 50: rl-tune taught this checkpoint with steps 20"),
        ({"text_guidance": 3.0, "size": 96}, "text_guidance 3, size 96: rl-tune taught"),
        ({"layout_guidance": 1.0}, "use --layout-guidance 1.75"),
    ],
    ids=["as-tuned", "steps", "guidance-and-size", "layout-guidance"],
)
def test_generate_says_where_it_paints_otherwise_than_was_tuned(
    asked: dict[str, Any], said: str | None
) -> None:
    """Catches a tuned checkpoint that is used with another sampler, without a word."""
    tuned = {
        "tuned steps": 20, "tuned size": 64, "tuned text_guidance": 1.75,
        "tuned layout_guidance": 1.75,
    }  # fmt: skip
    card = ModelCard("classes", CLASSES, image_size=64, training=tuned)
    notes = [n for n in guidance_notes(GenerateConfig(**asked), card) if "rl-tune" in n]
    assert len(notes) == (said is not None) and all(said in n for n in notes if said)
    assert not guidance_notes(GenerateConfig(), ModelCard("classes", CLASSES, image_size=64))
