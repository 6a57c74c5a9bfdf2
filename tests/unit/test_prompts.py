"""Prompts: wording that checkpoints were trained with, and the closed vocabulary."""

from __future__ import annotations

import re

import pytest

from rsgen.classes import class_template_names, load_class_table
from rsgen.config import read_yaml, templates_root
from rsgen.errors import DataError, UsageError
from rsgen.prompts import VOCABULARY, make_prompt, prompt_names, spaced, unknown_words
from rsgen.records import ClassTable, Instance, Layout, ObjectClass
from rsgen.scenes import SCENE_CLASSES, SCENE_TYPES

CLASSES = ClassTable(
    (
        ObjectClass("plane", ("airplane",)),
        ObjectClass("storage-tank"),
        ObjectClass("water", kind="stuff"),
        ObjectClass("A220"),
    )
)


@pytest.mark.parametrize(
    ("labels", "more", "expected"),
    [
        (["storage-tank", "plane", "plane"], {}, "A satellite image of plane, storage tank"),
        (["airplane"], {}, "A satellite image of plane"),
        ([], {}, "A satellite image of empty land"),
        (["A220"], {}, "A satellite image of A220"),
        (["A220"], {"lower": True}, "a satellite image of a220"),
        (["water", "plane"], {"template": "{counts}"}, "one plane, water"),
        (["plane"] * 11, {"template": "{counts}"}, "many plane"),
        (["plane"], {"template": "{classes}[, {scene}]"}, "plane"),
        (["plane"], {"template": "{classes}[, {scene}]", "scene": "car-park"}, "plane, car park"),
    ],
    ids=[
        "ascending index, each once",  # label order would change the prompt of a checkpoint
        "alias reads as the class",
        "empty layout still reads",  # "of " with nothing behind it
        "case is kept",
        "lower for the closed vocabulary",
        "stuff is not counted",
        "large counts",
        "bracket without value is left out",
        "bracket with value",
    ],
)
def test_prompt(labels: list[str], more: dict[str, object], expected: str) -> None:
    assert make_prompt(labels, CLASSES, **more) == expected  # type: ignore[arg-type]


def test_layout_gives_scene_and_names() -> None:
    """Catches a prompt that ignores the layout's own scene."""
    layout = Layout(8, 8, (Instance("storage-tank"), Instance("plane")), scene="tank-farm")
    assert make_prompt(layout, CLASSES, template="{scene}: {classes}") == (
        "tank farm: plane, storage tank"
    )
    assert prompt_names(layout, CLASSES) == ("plane", "storage-tank")


def described(*captions: tuple[str | None, float | None]) -> Layout:
    made = [
        Instance("plane", caption=text, scores={} if sure is None else {"caption": sure})
        for text, sure in captions
    ]
    return Layout(8, 8, tuple(made))


@pytest.mark.parametrize(
    ("captions", "template", "expected"),
    [
        ([("red plane", 0.1), ("white plane", 0.7)], "{captions}", "white plane, red plane"),
        ([("red plane", 0.1), ("old one", None), ("grey plane", 0.9)], "{captions}",
         "old one, grey plane, red plane"),
        ([("red plane", 0.1), ("grey plane", 0.5), ("red plane", 0.6)], "{captions}",
         "red plane, grey plane"),
        ([("red plane", 0.5), ("grey plane", 0.5)], "{captions}", "red plane, grey plane"),
        ([(None, None)], "{classes}[: {captions}]", "plane"),
        ([("red  plane ", 0.1)], "{classes}[: {captions}]", "plane: red plane"),
        ([(f"plane {k}", 0.5) for k in range(9)], "{captions}",
         ", ".join(f"plane {k}" for k in range(8))),
        ([("x " * 20, 0.9), ("y " * 20, 0.8), ("z", 0.7)], "{captions}", " ".join("x" * 20)),
    ],
    ids=["the surest first", "a person's is sure", "each once", "ties in order", "none", "brackets",
         "at most eight", "at most 32 words"],
)  # fmt: skip
def test_captions(
    captions: list[tuple[str | None, float | None]], template: str, expected: str
) -> None:
    """A long prompt is cut at 77 tokens in silence: what is least certain goes first."""
    assert make_prompt(described(*captions), CLASSES, template=template) == expected


def test_background_class_has_no_name() -> None:
    """Catches LoveDA's background class in a prompt."""
    table = load_class_table("loveda")
    assert make_prompt(["background", "water"], table) == "A satellite image of water"


@pytest.mark.parametrize("template", ["{clases}", "{classes", "{0}"])
def test_broken_templates_are_named(template: str) -> None:
    with pytest.raises(UsageError, match=re.escape(template)):
        make_prompt(["plane"], CLASSES, template=template)


def test_unknown_label() -> None:
    with pytest.raises(DataError, match="submarine"):
        make_prompt(["submarine"], CLASSES)


def test_vocabulary_is_closed_sorted_and_covers_what_rsgen_says() -> None:
    """Catches a class or scene word that the embedded tokenizer would not know."""
    assert list(VOCABULARY) == sorted(set(VOCABULARY))
    assert all(word == word.lower() and word.isalpha() for word in VOCABULARY)
    said = [spaced(name) for name in (*SCENE_CLASSES.names, *SCENE_TYPES)]
    for name in ("dota-v1.0", "hrsc2016", "loveda"):
        said += [spaced(label) for label in load_class_table(name).names]
    said += [make_prompt([], CLASSES), make_prompt(["plane"] * 20, CLASSES, template="{counts}")]
    for path in (templates_root() / "prompts").glob("*.yaml"):
        said.append(make_prompt(["plane"], CLASSES, **read_yaml(path)))
    assert {text: unknown_words(text) for text in said if unknown_words(text)} == {}


def test_unknown_words_in_order_once() -> None:
    assert unknown_words("A zeppelin, a plane, a Zeppelin over gotham") == (
        "zeppelin",
        "over",
        "gotham",
    )


@pytest.mark.parametrize(
    ("name", "number", "probe", "index"),
    [
        ("dior-r", 20, "ship", 14),
        ("dota-v1.0", 15, "helicopter", 12),
        ("hrsc2016", 1, "boat", 1),
        ("loveda", 7, "agriculture", 7),
        ("earthsynth-67", 66, "storage tank", 25),
        ("earthsynth-67", 66, "warship", 66),
        ("earthsynth-67", 66, "airplane", 16),
    ],
)
def test_class_templates(name: str, number: int, probe: str, index: int) -> None:
    """Catches a shifted index: EarthSynth reads index / 255 as the class."""
    table = load_class_table(name)
    assert (len(table.names), table.index(probe)) == (number, index)


def test_class_template_names_and_files(tmp_path: object) -> None:
    assert "earthsynth-67" in class_template_names()
    with pytest.raises(UsageError, match=r"did you mean dota-v1\.0"):
        load_class_table("dota-v1")


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("c.yaml", "classes: [plane, {name: water, kind: stuf}]", "class 2: kind"),
        ("c.yaml", "names: [plane]", "one key"),
        ("c.txt", "# nothing\n\n", "empty"),
        ("c.txt", "plane\nPlane\n", "belongs to both"),
    ],
)
def test_class_files_with_mistakes(tmp_path, file: str, text: str, problem: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match=problem):
        load_class_table(tmp_path / file)


def test_class_list_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "c.names").write_text("plane  # first\n\nstorage tank\n")
    assert load_class_table(tmp_path / "c.names").names == ("plane", "storage tank")
