"""The copy audit: copies are found in every pose, and new images are not called copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsgen.errors import DataError
from rsgen.evaluation.base import Images
from rsgen.evaluation.copies import CELL, posed
from rsgen.images import Pixels
from rsgen.records import Provenance
from rsgen.scorers.novelty import POSES
from tests.evaluation_build import changed, evaluation, scenes, shuffled

COPIES = "copies (correlation over 0.95)"


@pytest.fixture(scope="module")
def sets() -> tuple[Images, Images, Images]:
    return (
        scenes("generated", range(8), 64),
        scenes("real", range(30, 42), 64),
        scenes("train", range(60, 76), 64),
    )


def with_copy(made: Images, copy: Pixels) -> Images:
    """The first generated image is replaced."""
    first, read = made.samples[0], made.read
    return replace(made, read=lambda s: copy if s.id == first.id else read(s))


def test_poses_are_the_eight_of_a_square() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({posed(image, k).tobytes() for k in range(POSES)}) == 8
    wide = np.zeros((4, 6, 3), np.uint8)
    assert {posed(wide, k).shape for k in range(POSES)} == {(4, 6, 3), (6, 4, 3)}
    assert np.array_equal(posed(image, 3), image[::-1, ::-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i,
        lambda i: i[:, ::-1],
        lambda i: i[::-1],
        lambda i: np.rot90(i),
        lambda i: np.rot90(i, 3)[::-1],
        lambda i: np.clip(i * 0.7 + 30, 0, 255).astype(np.uint8),
        lambda i: cv2.GaussianBlur(i, (0, 0), 1),
    ],
    ids=["as it is", "mirrored", "upside down", "turned", "transposed", "brighter", "blurred"],
)
def test_a_copied_image_is_found(
    change: Callable[[Pixels], Pixels], sets: tuple[Images, Images, Images], tmp_path: Path
) -> None:
    made, real, train = sets
    source = train.samples[7]
    copy = np.ascontiguousarray(change(train.read(source)))
    result = CELL.compute(evaluation(with_copy(made, copy), real, train, tmp_path), tmp_path)
    assert result.figures[COPIES] == 1
    (name, row), *_ = result.tables["closest pairs, pixels"].items()
    assert (name, row["training image"]) == (made.samples[0].id, source.id)
    assert row["its layout"] == "no"
    assert "1 of 8" in result.notes[0]


def test_new_images_are_no_copies(sets: tuple[Images, Images, Images], tmp_path: Path) -> None:
    made, real, train = sets
    result = CELL.compute(evaluation(made, real, train, tmp_path), tmp_path)
    assert result.figures[COPIES] == 0
    assert result.tables["distance to the nearest, pixels"]["generated to training"]["least"] > 0.05
    for way in ("pixels", "judge"):
        assert (tmp_path / f"{way}.png").is_file()
    copied = Images("generated", made.samples, lambda s: train.read(train.samples[0]))
    every = CELL.compute(evaluation(copied, real, train, tmp_path), tmp_path)
    for way in ("pixels", "judge"):
        assert every.figures[f"nearer than 95 % of held real images, {way}"] == 1.0
        assert every.figures[f"nearer than 95 % of training images, {way}"] == 1.0


def test_the_judges_features_find_a_mirrored_copy(
    sets: tuple[Images, Images, Images], tmp_path: Path
) -> None:
    made, real, train = sets
    mirrored = np.ascontiguousarray(np.rot90(train.read(train.samples[3])))
    run = evaluation(with_copy(made, mirrored), real, train, tmp_path)
    table = CELL.compute(run, tmp_path).tables["distance to the nearest, judge"]
    assert table["generated to training"]["least"] == pytest.approx(0, abs=1e-3)
    assert table["held real to training"]["least"] > 1e-3  # type: ignore[operator]


def test_tiles_of_one_training_scene_do_not_set_what_is_near(tmp_path: Path) -> None:
    """Overlapping tiles are near one another: taken for the rule, no copy would stand out."""
    train = scenes("train", range(6), 64)
    parent = Provenance("real", parent="scene.tif")
    tiles = tuple(replace(train.samples[0], id=f"scene.tif#{k},0", provenance=parent)
                  for k in range(3))  # fmt: skip
    both = replace(train, samples=(*train.samples[1:], *tiles))
    made, real = scenes("generated", range(20, 24), 64), scenes("real", range(30, 36), 64)
    result = CELL.compute(evaluation(made, real, both, tmp_path), tmp_path)
    row = result.tables["distance to the nearest, pixels"]["training to other training scenes"]
    assert row["images"] == 8
    assert row["least"] > 0.05  # type: ignore[operator]


def test_a_layout_of_the_training_image_is_named(
    sets: tuple[Images, Images, Images], tmp_path: Path
) -> None:
    made, real, train = sets
    known = Provenance("synthetic", parent="x", sources=(train.samples[2].id,))
    copied = with_copy(made, train.read(train.samples[2]))
    samples = tuple(replace(s, provenance=known) for s in copied.samples)
    run = evaluation(replace(copied, samples=samples), real, train, tmp_path)
    rows = CELL.compute(run, tmp_path).tables["closest pairs, pixels"]
    assert rows[made.samples[0].id]["its layout"] == "yes"


def test_order_does_not_matter(sets: tuple[Images, Images, Images], tmp_path: Path) -> None:
    made, real, train = sets
    one = CELL.compute(evaluation(made, real, train, tmp_path), tmp_path)
    mixed = evaluation(shuffled(made), shuffled(real), shuffled(train), tmp_path)
    other = CELL.compute(mixed, tmp_path)
    assert (one.figures, one.tables) == (other.figures, other.tables)


def test_without_training_images_there_is_nothing_to_copy(
    sets: tuple[Images, Images, Images], tmp_path: Path
) -> None:
    made, real, train = sets
    with pytest.raises(DataError, match="train split"):
        CELL.compute(evaluation(made, real, train.some([]), tmp_path), tmp_path)


def test_larger_images_are_compared_too(tmp_path: Path) -> None:
    """Sizes of both sides may differ, and not be square."""
    train = changed(scenes("train", range(4), 96), lambda i: i[:, :80])
    source = train.read(train.samples[1])
    twice = np.ascontiguousarray(source.repeat(2, 0).repeat(2, 1))
    made = with_copy(scenes("generated", range(10, 12), 64), twice)
    real = scenes("real", range(20, 24), 64)
    result = CELL.compute(evaluation(made, real, train, tmp_path), tmp_path)
    assert result.figures[COPIES] == 1
