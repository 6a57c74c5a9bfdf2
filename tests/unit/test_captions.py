"""Captions of objects: candidate phrases, pictures of objects, and the choice by a tiny CLIP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.extraction.captions import Captioner, best_phrase, caption_hashes, object_picture
from rsgen.extraction.phrases import PhraseBook, load_phrases
from rsgen.geometry import Box
from rsgen.models.clip import Clip
from rsgen.prompts import unknown_words
from rsgen.records import ClassTable, Instance, ObjectClass
from rsgen.scenes import SCENE_CLASSES
from rsgen.settings import ExtractMasksConfig
from tests import build_clip

CLASSES = ClassTable(
    (
        ObjectClass("plane", ("airplane",)),
        ObjectClass("storage-tank"),
        ObjectClass("water", kind="stuff"),
    )
)


def book(tmp_path: Path, text: str) -> PhraseBook:
    (tmp_path / "phrases.yaml").write_text(text)
    return load_phrases(str(tmp_path / "phrases.yaml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip.clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("{}", "plane", ("plane",)),
        ("phrases: ['a {class}', '{class}']", "storage-tank", ("a storage tank", "storage tank")),
        ("words: {colour: [red, blue], size: [big]}\nphrases: ['{size} {colour} {class}']",
         "plane", ("big red plane", "big blue plane")),
        ("words: {colour: [red, '']}\nphrases: ['{colour} {class}', '{class}']", "plane",
         ("red plane", "plane")),
        ("classes: {plane: [jet, glider]}", "plane", ("jet", "glider")),
        ("classes: {airplane: [jet]}", "plane", ("jet",)),
        ("classes: {airplane: [jet]}", "storage-tank", ("storage tank",)),
    ],
    ids=["nothing said", "in order", "products", "each once", "own phrases", "by alias", "others"],
)  # fmt: skip
def test_candidates(tmp_path: Path, text: str, label: str, expected: tuple[str, ...]) -> None:
    assert book(tmp_path, text).candidates(label, CLASSES) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("phrases: ['{color} {class}']", r"phrases: .*\{color\}; known: \{class\}"),
        ("templates: ['a photo']", r"templates: 'a photo' has no \{phrase\}"),
        ("templates: ['{class} {phrase}']", r"has \{class\}; known: \{phrase\}"),
        ("templates: []", "templates"),
        ("phrases: []", "phrases: no phrase"),
        ("phrases: [' ']", "empty phrase"),
        ("phrases: ['{class']", "phrases: '{class'"),
        ("classes: {ship: ['{x}']}", r"classes.ship: '\{x\}'"),
        ("words: {colour: []}", "words.colour"),
        ("phrase: [a]", "phrase"),
        ("phrases: 7", "phrases"),
    ],
)
def test_files_that_make_no_phrases(tmp_path: Path, text: str, says: str) -> None:
    """The place in the file is named."""
    with pytest.raises(UsageError, match=says) as caught:
        book(tmp_path, text)
    assert "phrases.yaml" in caught.value.message


def test_too_many_and_none(tmp_path: Path) -> None:
    words = ", ".join(f"w{k}" for k in range(30))
    many = book(tmp_path, f"words: {{a: [{words}], b: [{words}]}}\nphrases: ['{{a}} {{b}}']")
    with pytest.raises(UsageError, match="900 phrases of class 'plane'"):
        many.candidates("plane", CLASSES)
    with pytest.raises(UsageError, match="no phrases 'colour'") as caught:
        load_phrases("colour")
    assert caught.value.hint == "did you mean colours?"
    with pytest.raises(UsageError, match="no such file"):
        load_phrases(str(tmp_path / "nothing.yaml"))


def test_what_ships_is_known_to_the_embedded_model() -> None:
    """Its closed vocabulary would drop other words of a prompt."""
    shipped = load_phrases("colours")
    for name in SCENE_CLASSES.names:
        phrases = shipped.candidates(name, SCENE_CLASSES)
        assert len(phrases) == 8 and not unknown_words(" ".join(phrases))


@pytest.mark.parametrize(
    ("box", "side", "corner"),
    [
        (Box(40, 30, 60, 40), 30, (35, 20)),
        (Box(0, 0, 20, 10), 30, (0, 0)),
        (Box(90, 70, 100, 80), 15, (85, 65)),
        (Box(-10, 5, 10, 15), 15, (0, 2)),
    ],
    ids=["inside", "at the corner", "at the far corner", "across the border"],
)
def test_pictures_of_objects(box: Box, side: int, corner: tuple[int, int]) -> None:
    """A quarter of surround at each side, moved to lie inside the image: no invented pixels."""
    ys, xs = np.mgrid[:80, :100]
    image = np.stack([xs, ys, 0 * xs], axis=-1).astype(np.uint8)
    found = object_picture(image, Instance("plane", box))
    assert found is not None and found.shape == (side, side, 3)
    assert tuple(found[0, 0, :2]) == corner


def test_an_image_too_small_for_the_surround_is_filled_up() -> None:
    image = np.full((20, 60, 3), 80, dtype=np.uint8)
    image[:, 30:] = 160
    found = object_picture(image, Instance("plane", Box(0, 0, 60, 20)))
    assert found is not None and found.shape == (90, 90, 3)
    assert (found[0] == 120).all() and (found[45, 16] == 80).all() and (found[45, 70] == 160).all()


@pytest.mark.parametrize(
    "instance",
    [
        Instance("plane"),
        Instance("plane", Box(200, 0, 220, 20)),
        Instance("plane", Box(10, 10, 15, 14)),
    ],
    ids=["no place", "outside", "tiny"],
)
def test_objects_without_a_picture(instance: Instance) -> None:
    assert object_picture(np.zeros((80, 100, 3), np.uint8), instance) is None


def test_the_lead_is_a_difference_of_probabilities() -> None:
    logits = np.log(np.array([0.2, 0.5, 0.3], dtype=np.float32))
    phrase, lead = best_phrase(logits, ("a", "b", "c"))
    assert (phrase, round(lead, 6)) == ("b", 0.2)
    assert best_phrase(np.array([3.0], np.float32), ("a",)) == ("a", 0.0)
    assert best_phrase(np.zeros(3, np.float32), ("a", "b", "c")) == ("a", 0.0)
    assert best_phrase(np.array([5e4, 0.0], np.float32), ("a", "b")) == ("a", 1.0)


def scene() -> tuple[np.ndarray, list[Instance]]:
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    known = [
        Instance("plane", Box(10, 10, 40, 30), scores={"mask": 0.5}),
        Instance("airplane", Box(60, 20, 100, 60)),
        Instance("storage-tank", Box(20, 50, 50, 80)),
        Instance("plane", Box(5, 60, 30, 80), caption="drawn by hand"),
        Instance("water", Box(0, 0, 120, 90)),
        Instance("plane", Box(1, 1, 4, 4)),
    ]
    return image, known


def test_every_object_gets_the_phrase_nearest_to_it(model: Path, tmp_path: Path) -> None:
    """Against the ranking written out here: templates averaged, given captions kept, other
    scores kept, stuff and specks without one; an object's caption is not its neighbour's."""
    image, known = scene()
    words = "words: {colour: [red, blue, s, of]}\nphrases: ['{colour} {class}']\n"
    phrases = book(tmp_path, words + "templates: ['a {phrase}', '{phrase} p']")
    clip = Clip.load(model)
    found = Captioner(clip, phrases, batch_size=2).captioned(image, known, CLASSES)
    assert [i.caption is None for i in found] == [False, False, False, False, True, True]
    assert found[3:] == known[3:] and found[0].scores["mask"] == 0.5
    for old, new in zip(known[:3], found[:3], strict=True):
        candidates = phrases.candidates(old.label, CLASSES)
        picture = object_picture(image, old)
        assert picture is not None
        both = sum(
            (clip.embed_texts([t.format(phrase=c) for c in candidates]) for t in phrases.templates),
            np.float32(0),
        )
        logits = clip.scale * (both / np.linalg.norm(both, axis=1)[:, None]) @ clip.embed_images(
            [picture]
        )[0]  # fmt: skip
        odds = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = np.sort(odds)[::-1]
        assert new.caption == candidates[int(odds.argmax())]
        assert new.scores["caption"] == pytest.approx(best[0] - best[1], abs=2e-4)
    again = Captioner(clip, phrases, batch_size=2).captioned(image, known, CLASSES)
    assert again == found
    alone = Captioner(clip, phrases).captioned(image, [known[2]], CLASSES)[0]
    assert alone.caption == found[2].caption


def test_the_request_depends_on_the_phrases_and_not_on_their_file(
    model: Path, tmp_path: Path
) -> None:
    for name, text in (("a", "phrases: [x]"), ("b", "phrases: ['x' ]"), ("c", "phrases: [y]")):
        (tmp_path / f"{name}.yaml").write_text(text)
    settings = ExtractMasksConfig(captions=str(model))
    hashes = [
        caption_hashes(replace_phrases(settings, tmp_path / f"{name}.yaml"))["captions"]
        for name in "abc"
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_phrase_that_is_too_long_is_refused_at_the_start(model: Path, tmp_path: Path) -> None:
    """Found at the first object of its class it would fail one image after the other."""
    path = tmp_path / "long.yaml"
    path.write_text(f"classes: {{storage-tank: ['{'x ' * 60}', x]}}")
    settings = replace_phrases(ExtractMasksConfig(captions=str(model)), path)
    with pytest.raises(UsageError, match="the model reads 48"):
        Captioner.open(settings, CLASSES)
    assert Captioner.open(settings, ClassTable.of("plane"))


def replace_phrases(settings: ExtractMasksConfig, path: Path) -> ExtractMasksConfig:
    return settings.model_copy(update={"phrases": str(path)})


def test_an_answer_does_not_hang_on_other_labels(model: Path) -> None:
    """A renamed alias reads the same phrases: `airplane` is described as a plane."""
    image, known = scene()
    captioner = Captioner(Clip.load(model), load_phrases("colours"))
    one = captioner.captioned(image, known[1:2], CLASSES)[0]
    two = captioner.captioned(image, [replace(known[1], label="plane")], CLASSES)[0]
    assert one.caption == two.caption and (one.caption or "").endswith(" plane")
