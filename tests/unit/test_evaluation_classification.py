"""The crop classifier and CAS in both directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rsgen.errors import DataError
from rsgen.evaluation import classification
from rsgen.evaluation.base import CellResult, Images
from rsgen.evaluation.classification import CropSet, classify, recalls, train_classifier
from rsgen.records import Layout
from tests import build
from tests.evaluation_build import evaluation, images_of, shuffled

COLOURS = {"plane": (210, 60, 60), "ship": (60, 60, 210), "storage-tank": (60, 200, 60)}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "STEPS", 25)
    monkeypatch.setattr(classification, "BATCH", 12)


def drawn(seed: int, name: str, *, mixed_up: bool = False, without: str = "") -> Images:
    """Images of coloured objects, one of each class; mixed up: painted as the next class."""
    rng = np.random.default_rng(seed)
    labels = list(COLOURS)
    pairs = []
    for _ in range(12):
        image = rng.integers(60, 90, (64, 64, 3)).astype(np.uint8)
        things = []
        for k, (cx, cy) in enumerate(((18, 18), (46, 20), (30, 46))):
            thing = build.instance(labels[k], cx, cy, 18, 12, float(rng.uniform(-3, 3)))
            assert thing.mask is not None
            shown = labels[(k + 1) % 3] if mixed_up else labels[k]
            thing.mask.paint(image, COLOURS[shown])
            if labels[k] != without:
                things.append(thing)
        pairs.append((image, Layout(64, 64, tuple(things))))
    return images_of(name, pairs)


def compute(generated: Images, real: Images, train: Images, folder: Path) -> CellResult:
    run = evaluation(generated, real, train, folder, classes=build.CLASSES)
    return classification.CELL.compute(run, folder)


TO_REAL = "balanced accuracy, trained on generated, tested on real"
TO_MADE = "balanced accuracy, trained on real, tested on generated"
CEILING = "balanced accuracy, real to real"


def test_objects_that_look_like_their_class_are_told(tmp_path: Path) -> None:
    result = compute(drawn(0, "generated"), drawn(1, "real"), drawn(2, "train"), tmp_path)
    assert result.figures[TO_REAL] == result.figures[TO_MADE] == result.figures[CEILING] == 1.0
    assert result.figures["chance"] == pytest.approx(1 / 3, rel=1e-3)
    assert result.counts["generated crops tested"] == 36
    assert not result.pictures


def test_objects_of_the_wrong_class_fail_both_ways(tmp_path: Path) -> None:
    """A cell that learned from and tested the same set would still give 1."""
    wrong = drawn(0, "generated", mixed_up=True)
    result = compute(wrong, drawn(1, "real"), drawn(2, "train"), tmp_path)
    assert result.figures[TO_REAL] == result.figures[TO_MADE] == 0.0
    assert result.figures[CEILING] == 1.0
    assert (tmp_path / "wrong.png").is_file()


def test_classes_with_few_crops_are_named(tmp_path: Path) -> None:
    made = drawn(0, "generated", without="ship")
    result = compute(made, drawn(1, "real"), drawn(2, "train"), tmp_path)
    assert set(result.tables["accuracy by class"]) == {"plane", "storage-tank"}
    (note,) = result.notes
    assert "ship (0 generated, 12 real test, 12 real train)" in note
    alone = replace(made, samples=made.samples[:4])
    with pytest.raises(DataError, match="fewer than two classes"):
        compute(alone, drawn(1, "real"), drawn(2, "train"), tmp_path)


def test_order_does_not_matter_and_the_callers_random_state_is_kept(tmp_path: Path) -> None:
    """Training in the order of samples would give another network for the same images."""
    made, real, train = (drawn(k, n) for k, n in enumerate(("generated", "real", "train")))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = compute(made, real, train, tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
    assert compute(shuffled(made), shuffled(real), shuffled(train), tmp_path) == one


def test_as_many_crops_are_learned_from_on_both_sides(tmp_path: Path) -> None:
    made = drawn(0, "generated")
    result = compute(
        replace(made, samples=made.samples[:10]), drawn(1, "real"), drawn(2, "train"), tmp_path
    )
    rows = result.tables["accuracy by class"].values()
    assert {row["crops learned"] for row in rows} == {10}


def test_a_classifier_is_its_seeds() -> None:
    rng = np.random.default_rng(0)
    crops = CropSet(rng.integers(0, 255, (20, 64, 64, 3)).astype(np.uint8), ("a", "b") * 10)
    first, second, other = (train_classifier(crops, ["a", "b"], s) for s in (1, 1, 2))
    states = [n.state_dict() for n in (first, second, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    assert np.array_equal(classify(first, crops.pixels)[::-1], classify(first, crops.pixels[::-1]))


def test_recalls_are_shares_of_each_class() -> None:
    found = np.array([0, 0, 1, 1])
    assert recalls(found, ("a", "a", "a", "b"), ["a", "b"]) == {"a": 2 / 3, "b": 1.0}
