"""Aspect, pieces, size, count and foreground of labels, each counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import make_scorer
from tests.build import instance, sample, water

NO_PIXELS = np.zeros((1, 64, 64, 3), np.uint8)


def scored(name: str, *things: Instance, gsd_m: float | None = 0.5, **options: Any) -> list[float]:
    """Scores of the instances, or the one of the image."""
    item = sample(of=Layout(64, 64, things, gsd_m=gsd_m))
    (found,) = make_scorer(name, options).score(NO_PIXELS, [item])
    return np.atleast_1d(np.asarray(found, dtype=float)).tolist()


def boxed(
    x0: float, y0: float, x1: float, y1: float, label: str = "plane", **more: Any
) -> Instance:
    return Instance(label, box=Box(x0, y0, x1, y1), **more)


def drawn(*rows: str, **more: Any) -> Instance:
    """A plane at (8, 8) whose mask is drawn with '#'."""
    pixels = np.array([[letter == "#" for letter in row] for row in rows])
    height, width = pixels.shape
    return boxed(8, 8, 8 + width, 8 + height, mask=Mask.from_array(pixels, 8, 8), **more)


# ---------------------------------------------------------------- one object


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        pytest.param(boxed(4, 4, 24, 9), 4.0, id="wide box"),
        pytest.param(boxed(4, 4, 9, 24), 4.0, id="tall box: the longer over the shorter"),
        # its upright box is nearly square
        pytest.param(instance("ship", 32, 32, 30, 6, math.pi / 4), 5.0, id="turned quad"),
        pytest.param(boxed(0, 4, 3, 24, truncated=True), math.nan, id="a part of it"),
        pytest.param(boxed(4, 4, 4, 24), math.nan, id="no width"),
        pytest.param(boxed(4, 4, math.inf, 24), math.nan, id="no number"),
        pytest.param(boxed(4, 4, 24, 9, iscrowd=True), math.nan, id="crowd"),
        pytest.param(water(), math.nan, id="stuff"),
    ],
)
def test_aspect(thing: Instance, expected: float) -> None:
    """Catches sides of the upright box, and a division by zero."""
    assert scored("aspect", thing) == pytest.approx([expected], rel=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        pytest.param(drawn("##..", "##.."), 1, id="whole"),
        pytest.param(drawn("##..##", "##..##"), 2, id="cut by what lies across it"),
        pytest.param(drawn("##..", "##..", "..##", "..##"), 1, id="a corner joins"),
        pytest.param(drawn("#.#.#"), 3, id="three"),
        # 1 of 101 pixels is under 2 %
        pytest.param(drawn(*["##########"] * 10, "..........", "#........."), 1, id="a speck"),
        pytest.param(boxed(4, 4, 9, 24), math.nan, id="no mask"),
        pytest.param(water(), math.nan, id="stuff is in as many as it likes"),
        pytest.param(drawn("#.#", iscrowd=True), math.nan, id="crowd"),
    ],
)
def test_mask_parts(thing: Instance, expected: float) -> None:
    assert scored("mask-parts", thing) == pytest.approx([expected], nan_ok=True)


def test_every_speck_counts_if_asked() -> None:
    speck = drawn(*["##########"] * 10, "..........", "#.........")
    assert scored("mask-parts", speck, least=0.0) == [2.0]


@pytest.mark.parametrize(
    ("unit", "gsd_m", "thing", "expected"),
    [
        pytest.param("px", None, boxed(4, 4, 8, 20), 8.0, id="4 x 16"),
        pytest.param("m", 0.5, boxed(4, 4, 8, 20), 4.0, id="half a metre a pixel"),
        pytest.param("m", None, boxed(4, 4, 8, 20), math.nan, id="nobody knows the metres"),
        pytest.param("px", 0.5, drawn("##", "##"), 2.0, id="mask"),
        pytest.param("px", 0.5, drawn("##.", "##.", "..."), 2.0, id="mask, not its box"),
        pytest.param("px", 0.5, boxed(4, 4, 4, 20), math.nan, id="no area"),
        pytest.param("px", 0.5, boxed(4, 4, 8, 20, truncated=True), math.nan, id="a part of it"),
    ],
)
def test_object_size(unit: str, gsd_m: float | None, thing: Instance, expected: float) -> None:
    found = scored("object-size", thing, gsd_m=gsd_m, unit=unit)
    assert found == pytest.approx([expected], nan_ok=True)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(UsageError, match="use px or m"):
        make_scorer("object-size", {"unit": "feet"}).check()


# ---------------------------------------------------------------- the image


def test_object_count_leaves_out_stuff_and_crowds() -> None:
    """Catches a mask of water, or a marked field of cars, that counts as one object."""
    things = (
        water(),
        boxed(1, 1, 4, 4),
        boxed(9, 9, 14, 14, "ship"),
        boxed(1, 1, 5, 5, iscrowd=True),
    )
    assert scored("object-count", *things) == [2.0]
    assert scored("object-count") == [0.0]
    assert scored("object-count", *things, of="ship") == [1.0]
    assert math.isnan(scored("object-count", *things, of="car")[0])


@pytest.mark.parametrize(
    ("things", "pixels"),
    [
        pytest.param((), 0, id="empty"),
        pytest.param((boxed(0, 0, 32, 64),), 32 * 64, id="half by a box"),
        pytest.param(
            (boxed(0, 0, 32, 64), boxed(16, 0, 48, 64)), 48 * 64, id="overlap counts once"
        ),
        pytest.param((boxed(-32, 0, 32, 64),), 32 * 64, id="what lies outside does not count"),
        pytest.param((drawn("##", "#."),), 3, id="mask, not box"),
        pytest.param((water(),), 0, id="stuff is ground"),
    ],
)
def test_foreground(things: tuple[Instance, ...], pixels: int) -> None:
    assert scored("foreground", *things) == pytest.approx([pixels / 64**2])


# ---------------------------------------------------------------- every one of them


NAMES = ("aspect", "mask-parts", "object-size", "object-count", "foreground")


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_the_same_whoever_else_is_in_the_batch(name: str) -> None:
    rng = np.random.default_rng(3)
    samples: list[Sample] = []
    for k in range(6):
        x, y = rng.integers(0, 30, (2, 4))
        things = [boxed(a, b, a + 3 + k, b + 5, mask=None) for a, b in zip(x, y, strict=True)]
        samples.append(sample(f"{k}", Layout(64, 64, (*things[: k + 1], drawn("##.", ".##")))))
    scorer = make_scorer(name, {})
    pixels = NO_PIXELS.repeat(6, axis=0)
    whole = scorer.score(pixels, samples)
    alone = [scorer.score(NO_PIXELS, [item])[0] for item in samples]
    turned = scorer.score(pixels, samples[::-1])[::-1]
    for a, b, c in zip(whole, alone, turned, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("name", NAMES)
def test_labels_without_objects_are_no_error(name: str) -> None:
    empty = sample(of=replace(sample().layout, instances=()))
    (found,) = make_scorer(name, {}).score(NO_PIXELS, [empty])
    assert np.size(found) in (0, 1)
