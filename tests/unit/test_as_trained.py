"""Prompt and guidance follow the checkpoint: what it has not learned is not asked of it unsaid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.errors import UsageError
from rsgen.generation.defaults import guidance_notes, settled
from rsgen.models.base import read_card
from rsgen.models.card import ModelCard
from rsgen.prompts import DEFAULT_TEMPLATE
from rsgen.settings import GenerateConfig
from rsgen.train import train
from tests.build import sample, sample_run
from tests.build_models import card
from tests.build_training import Told, history
from tests.unit.test_train import job

PLAIN = card()
WORDLESS = replace(PLAIN, prompt="")
WORDY = replace(PLAIN, prompt="{counts}[, {scene}]", training={"hint_dropout": 0.1})
NEVER_EMPTY = replace(PLAIN, training={"hint_dropout": 0.0})

SETTLED: dict[str, tuple[ModelCard, dict[str, Any], tuple[str, float, float]]] = {
    "a card that says nothing": (PLAIN, {}, (DEFAULT_TEMPLATE, 1.75, 1.75)),
    "the template it was trained with": (WORDY, {}, ("{counts}[, {scene}]", 1.75, 1.75)),
    "no captions, no text guidance": (WORDLESS, {}, ("", 1.0, 1.75)),
    "unless there is something to move away from": (
        WORDLESS,
        {"negative_prompt": "haze"},
        ("", 1.75, 1.75),
    ),
    "no empty layouts, no layout guidance": (NEVER_EMPTY, {}, (DEFAULT_TEMPLATE, 1.75, 1.0)),
    "what is asked for goes first": (
        WORDLESS,
        {"prompt": "a {scene}", "text_guidance": 3.0, "layout_guidance": 2.0},
        ("a {scene}", 3.0, 2.0),
    ),
}


@pytest.mark.parametrize("name", SETTLED)
def test_settled(name: str) -> None:
    """Catches a prompt other than that of training, and guidance that costs calls for nothing."""
    of, asked, (prompt, text, layout) = SETTLED[name]
    found = settled(GenerateConfig(**asked), of)
    assert (found.prompt, found.text_guidance, found.layout_guidance) == (prompt, text, layout)


NOTES: dict[str, tuple[ModelCard, dict[str, Any], list[str]]] = {
    "nothing to say": (PLAIN, {"text_guidance": 3.0, "layout_guidance": 3.0}, []),
    "defaults say nothing": (replace(WORDLESS, training={"hint_dropout": 0}), {}, []),
    "text guidance without words": (
        WORDLESS,
        {"text_guidance": 9.0},
        ["text_guidance 9 changes nothing"],
    ),
    "equal prompts": (
        PLAIN,
        {"prompt": "haze", "negative_prompt": "haze", "text_guidance": 2.0},
        ["equals the negative prompt (haze)"],
    ),
    "words for a model without words": (
        WORDLESS,
        {"prompt": "a {scene}"},
        ["trained without captions"],
    ),
    "an empty layout it never saw": (
        NEVER_EMPTY,
        {"layout_guidance": 2.0},
        ["has not seen empty layouts"],
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_notes(name: str) -> None:
    """Catches guidance that does nothing, or not what it seems to, without a word."""
    of, asked, parts = NOTES[name]
    notes = guidance_notes(GenerateConfig(**asked), of)
    assert len(notes) == len(parts)
    assert all(part in note for part, note in zip(parts, notes, strict=True))


def test_a_card_keeps_the_prompt(tmp_path: Path) -> None:
    """Catches an empty template read back as an unknown one."""
    for written in (PLAIN, WORDLESS, WORDY):
        written.write(tmp_path)
        assert read_card(tmp_path) == written


def test_training_without_captions(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches samples' own prompts that slip through, and a card that does not say it."""
    keys = {"train.validation_samples": 0}
    heard = Told()
    empty = train(job(tmp_path / "a", run, base, heard, **keys, **{"train.prompt": ""}))
    dropped = train(job(tmp_path / "b", run, base, **keys, **{"train.caption_dropout": 1.0}))
    told = Told()
    named = train(job(tmp_path / "c", run, base, told, **keys))
    assert history(empty) == history(dropped) != history(named)
    assert any("without captions" in text for text in heard.texts)
    # a shell makes train.prompt="" an empty value, which means the default: it has to be seen
    assert any(f"prompts: {DEFAULT_TEMPLATE!r}" in text for text in told.texts)
    cards = [read_card(tmp_path / k / "model") for k in ("a", "b", "c")]
    assert [c and c.prompt for c in cards] == ["", "", DEFAULT_TEMPLATE]
    readme = (tmp_path / "a" / "model" / "README.md").read_text(encoding="utf-8")
    assert "guidance_scale=1,\n" in readme and "    '',\n" in readme


def test_a_template_goes_before_a_samples_own_prompt(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches train.prompt that only serves samples without one of their own."""
    keys = {"train.validation_samples": 2, "train.caption_dropout": 0.0}
    same = {"train.prompt": "a satellite image of plane, ship"}  # every sample's own
    own, given, other = (
        train(job(tmp_path / name, run, base, **keys, **more))
        for name, more in (("a", {}), ("b", same), ("c", {"train.prompt": "{counts}"}))
    )
    assert history(own) == history(given) != history(other)
    wordy = read_card(tmp_path / "c" / "model")
    assert wordy is not None and wordy.prompt == "{counts}"
    assert wordy.training["hint_dropout"] == 0.05 and wordy.knows_empty_layouts
    pictures = [(tmp_path / k / "validation" / "step-000004.png").read_bytes() for k in "bc"]
    assert pictures[0] != pictures[1]


def test_words_of_captions_that_the_base_lacks_are_said(tmp_path: Path, base: Path) -> None:
    """Catches a look at the class names alone, while the prompts are of other words."""
    rows = [
        replace(sample("a.png", split="train"), prompt="a zeppelin over a lagoon"),
        sample("b.png", split="train"),
    ]
    mine, heard = sample_run(tmp_path / "run", rows).path, Told()
    train(job(tmp_path / "a", mine, base, heard, **{"train.validation_samples": 0}))
    (said,) = (text for text in heard.texts if "vocabulary lacks" in text)
    assert "zeppelin, over, lagoon:" in said


def test_a_broken_template_is_told_before_training(tmp_path: Path, run: Path, base: Path) -> None:
    with pytest.raises(UsageError, match="unknown field 'clases'"):
        train(job(tmp_path / "a", run, base, **{"train.prompt": "a {clases}"}))
    assert not list((tmp_path / "a").glob("state/step-*"))
