"""Composed images: who meets whom, which pixels move, and what is left of each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsgen.composition.composing import compose, compose_group
from rsgen.composition.labels import composed_layout, one_class, owners
from rsgen.composition.paste import feather_reach
from rsgen.composition.selection import (
    Candidate,
    SelectionSettings,
    given_classes,
    look_at,
    match,
    named_pairs,
    rate_pair,
    seen_together,
)
from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.raster import rasterize
from rsgen.records import Instance, Layout
from tests.build import CLASSES, layout, water

SIDE = 20
LOOSE = SelectionSettings(overlap=1.0, foreground=(0.0, 1.0), radiometry=1.0, scale=100.0)


def block(label: str, x: int, y: int, width: int, height: int, **more: Any) -> Instance:
    """A filled rectangle that is the object's own shape."""
    mask = Mask.from_array(np.ones((height, width), dtype=bool), x, y)
    values = {"box": Box(x, y, x + width, y + height), "mask": mask, **more}
    return Instance(label, **values)


def scene(*instances: Instance, **more: Any) -> Layout:
    return layout(instances, (SIDE, SIDE), **more)


def candidate(
    of: Layout, name: str = "a", level: int = 100, spread: int = 0, tint: int = 20
) -> Candidate:
    """A chequered image of one mean and deviation; red stands out by `tint` levels."""
    y, x = np.mgrid[0 : of.height, 0 : of.width]
    sign = np.where((x + y) % 2 == 0, 1, -1)[..., None]
    image = np.clip(level + spread * sign + np.array([tint, 0, 0]), 0, 255).astype(np.uint8)
    return look_at(image, of, name, CLASSES)


def noisy(of: Layout, name: str, seed: int) -> Candidate:
    pixels = np.random.default_rng(seed).integers(0, 256, (of.height, of.width, 3), dtype=np.uint8)
    return look_at(pixels, of, name, CLASSES)


def random_layout(seed: int, count: int = 5) -> Layout:
    """Rectangles that overlap, some without a mask, some stuff."""
    rng = np.random.default_rng(seed)
    found = [water((SIDE, SIDE))] if seed % 2 else []
    for _ in range(count):
        x, y = (int(v) for v in rng.integers(0, SIDE - 2, 2))
        width, height = (int(v) for v in rng.integers(1, 9, 2))
        label = ("plane", "ship", "storage-tank")[int(rng.integers(3))]
        item = block(label, x, y, min(width, SIDE - x), min(height, SIDE - y))
        found.append(replace(item, mask=None) if rng.random() < 0.2 else item)
    return scene(*found)


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("seed", range(6))
def test_no_pixel_outside_the_mask_differs(seed: int) -> None:
    """Catches ground that comes along, and an object from another place than its own."""
    base, donor = noisy(random_layout(seed), "a", 1), noisy(random_layout(seed + 50), "b", 2)
    labels = ["plane", "ship", "storage-tank"]
    found = compose(base, donor, labels)
    assert found is not None
    image, _, region = found
    assert region.any() and not region.all()
    assert np.array_equal(image[~region], base.image[~region])
    assert np.array_equal(image[region], donor.image[region])


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.5])
def test_feathering_blurs_pixels_and_no_labels(sigma: float) -> None:
    """Catches soft labels, and a blur that reaches further than its sigma says."""
    base = noisy(scene(block("plane", 1, 1, 3, 3)), "a", 1)
    donor = noisy(scene(block("plane", 8, 8, 5, 5)), "b", 2)
    hard, soft = compose(base, donor, ["plane"]), compose(base, donor, ["plane"], sigma)
    assert hard is not None and soft is not None
    assert hard[1] == soft[1] and np.array_equal(hard[2], soft[2])
    reach = feather_reach(sigma)
    far = np.ones((SIDE, SIDE), dtype=bool)
    far[max(8 - reach, 0) : 13 + reach, max(8 - reach, 0) : 13 + reach] = False
    assert np.array_equal(soft[0][far], base.image[far])
    assert not np.array_equal(soft[0], hard[0])
    around = far ^ ~hard[2]
    assert not np.array_equal(soft[0][around], base.image[around])


def test_nothing_to_copy_is_no_composite() -> None:
    """Catches composites that are the real image once more."""
    base = candidate(scene(block("plane", 1, 1, 3, 3)), "a")
    shape = replace(block("plane", 8, 8, 5, 5), origin="box")
    assert compose(base, candidate(scene(shape), "b"), ["plane"]) is None
    assert compose(base, candidate(scene(block("ship", 8, 8, 5, 5)), "b"), ["plane"]) is None


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("seed", range(40))
def test_the_label_map_is_that_of_the_two_images(seed: int) -> None:
    """Catches labels that survive under a pasted object, and a paint order that turns round
    because clipped objects have become smaller than those they covered."""
    base, donor = random_layout(seed), random_layout(seed + 100)
    seen = (owners(base, CLASSES), owners(donor, CLASSES))
    chosen = [k for k, i in enumerate(donor.instances) if i.mask is not None and i.box is not None]
    found = composed_layout(base, donor, chosen[: 1 + seed % 4], seen)
    if found is None:
        return
    made, region = found
    one, other = (rasterize(of, CLASSES) for of in (base, donor))
    wanted = np.where(region, other.index, one.index)
    assert np.array_equal(rasterize(made, CLASSES).index, wanted)
    for instance in made.instances:
        if instance.truncated:
            assert instance.mask is not None
            assert instance.box is None or instance.box == instance.mask.box


def parts(found: tuple[Layout, npt.NDArray[np.bool_]] | None) -> list[Instance]:
    assert found is not None
    return list(found[0].instances)


def together(base: Layout, donor: Layout, *chosen: int) -> list[Instance]:
    seen = (owners(base, CLASSES), owners(donor, CLASSES))
    return parts(composed_layout(base, donor, chosen, seen))


def test_what_is_left_of_a_label_by_hand() -> None:
    """Catches wrong areas, boxes and flags: half hidden, whole, and hidden wholly."""
    half = block("ship", 0, 0, 10, 4, box=Box(-0.5, 0.25, 10.5, 3.75))
    whole = block("plane", 0, 12, 3, 3)
    gone = block("ship", 7, 0, 2, 2)
    over = block("plane", 6, 0, 8, 8)
    left = together(scene(half, whole, gone), scene(over), 0)
    assert [i.label for i in left] == ["ship", "plane", "plane"]
    cut, kept, pasted = left
    assert cut.truncated and cut.mask is not None and cut.mask.area == 6 * 4
    # the right side follows the mask, the others stay as they were annotated
    assert cut.box == Box(-0.5, 0.25, 6, 3.75)
    assert kept == whole and pasted == over


def test_a_covered_object_brings_what_is_seen_of_it() -> None:
    """Catches pixels of a vehicle that come along under the label of the ship it stands on."""
    ship, plane = block("ship", 2, 2, 8, 6), block("plane", 4, 2, 3, 3)
    (pasted,) = together(scene(), scene(ship, plane), 0)
    assert pasted.truncated and pasted.mask is not None
    assert pasted.mask.area == 8 * 6 - 9 and pasted.box == ship.box
    both = together(scene(), scene(ship, plane), 0, 1)
    assert both == [ship, plane]


def test_labels_without_a_mask_get_out_of_the_way() -> None:
    """Catches a filled box that is painted over the object that hides a part of it."""
    base = scene(Instance("ship", box=Box(0, 0, 4, 4)))
    cut, _ = together(base, scene(block("plane", 2, 0, 10, 10)), 0)
    assert cut.mask is not None and cut.mask.area == 8 and cut.origin == "box"
    assert cut.box == Box(0, 0, 2, 4) and cut.truncated


def test_one_class_is_what_is_seen_of_it() -> None:
    """Catches a single-category mask that fills the place of what lies on its object."""
    bridge, car = block("storage-tank", 2, 2, 10, 4), block("ship", 4, 3, 3, 2)
    whole = scene(bridge, car, water((SIDE, SIDE)))
    for name in ("storage-tank", "ship", "water"):
        index = CLASSES.index(name)
        full = rasterize(whole, CLASSES).index
        single = one_class(whole, CLASSES, name)
        assert {i.label for i in single.instances} == {name}
        assert np.array_equal(rasterize(single, CLASSES).index, np.where(full == index, index, 0))


# ---------------------------------------------------------------- selection


def test_a_candidate_by_hand() -> None:
    """Catches stuff that counts as an object, and objects that are hidden wholly."""
    of = scene(water((SIDE, SIDE)), block("plane", 2, 2, 5, 5), block("ship", 3, 3, 2, 2))
    hidden = replace(of, instances=(*of.instances, block("storage-tank", 2, 2, 6, 6)))
    found = candidate(of, level=100, spread=10, tint=20)
    assert found.classes == {"plane", "ship"} and found.givers == {"plane": (1,), "ship": (2,)}
    assert int(found.foreground.sum()) == 25
    np.testing.assert_allclose(found.levels, [[120, 100, 100], [10, 10, 10]])
    assert not found.grey and candidate(of, tint=2).grey
    assert look_at(found.image, of, "a", CLASSES, stuff=True).givers["water"] == (0,)
    # painted from large to small: the tank is seen around the plane
    assert candidate(hidden).classes == {"plane", "ship", "storage-tank"}


PLANE = block("plane", 2, 2, 4, 5)  # 20 of 400 pixels
APART = block("plane", 10, 10, 4, 5)
BESIDE = block("plane", 6, 2, 4, 5)
SHIP = block("ship", 10, 2, 4, 5)
MEETING = block("plane", 4, 2, 4, 5)  # shares 10 of 30 pixels with PLANE
WIDE = block("plane", 0, 8, 20, 12)


@pytest.mark.parametrize(
    ("one", "other", "settings", "expected"),
    [
        (candidate(scene(PLANE)), candidate(scene(APART)), {}, "source"),
        (candidate(scene(PLANE)), candidate(scene(SHIP), "b"), {}, "semantic"),
        (candidate(scene()), candidate(scene(), "b"), {}, "semantic"),
        (
            candidate(scene(PLANE)),
            candidate(scene(SHIP), "b"),
            {"pairs": frozenset({frozenset({"plane", "ship"})})},
            (0 + 1 + 1) / 3,
        ),
        (candidate(scene(PLANE)), candidate(scene(APART), "b"), {}, 1.0),
        (candidate(scene(PLANE)), candidate(scene(MEETING), "b"), {"overlap": 0.3}, "layout"),
        (
            candidate(scene(PLANE)),
            candidate(scene(MEETING), "b"),
            {"overlap": 0.5},
            (1 + (1 - (1 / 3) / 0.5) + 1) / 3,
        ),
        (
            candidate(scene(PLANE)),
            candidate(scene(WIDE), "b"),
            {"foreground": (0.0, 0.6)},
            "layout",
        ),
        (
            candidate(scene(PLANE)),
            candidate(scene(APART), "b"),
            {"foreground": (0.2, 1.0)},
            "layout",
        ),
        # means differ by 51, deviations by none: 51 / 2 / 255 = 0.1
        (
            candidate(scene(PLANE)),
            candidate(scene(APART), "b", 151),
            {"radiometry": 0.09},
            "pixel",
        ),
        (
            candidate(scene(PLANE)),
            candidate(scene(APART), "b", 151),
            {"radiometry": 0.2},
            (1 + 1 + 0.5) / 3,
        ),
        (
            candidate(scene(PLANE)),
            candidate(scene(APART), "b", 151),
            {"radiometry": 0.2, "weights": (0.0, 0.0, 2.0)},
            0.5,
        ),
        (candidate(scene(PLANE)), candidate(scene(APART), "b", tint=0), {}, "pixel"),
        (
            candidate(scene(PLANE, gsd_m=0.5)),
            candidate(scene(APART, gsd_m=0.6), "b"),
            {"scale": 1.1},
            "pixel",
        ),
        (
            candidate(scene(PLANE, gsd_m=None)),
            candidate(scene(APART, gsd_m=9.0), "b"),
            {"scale": 1.1},
            1.0,
        ),
        (
            candidate(scene(PLANE, SHIP)),
            candidate(scene(APART), "b"),
            {"weights": (1.0, 0.0, 0.0)},
            0.5,
        ),
        (
            candidate(scene(PLANE)),
            candidate(scene(APART), "b"),
            {"weights": (0.0, 0.0, 0.0)},
            1.0,
        ),
    ],
    ids=[
        "two views of one image",
        "no class in common",
        "background only",
        "an allowed pair of classes",
        "apart",
        "too much overlap",
        "some overlap",
        "too full",
        "too empty",
        "too bright",
        "brighter",
        "pixels alone",
        "grey and colour",
        "another scale",
        "unknown scale",
        "one class of two",
        "no weights",
    ],
)
def test_a_pair_by_hand(
    one: Candidate, other: Candidate, settings: dict[str, Any], expected: float | str
) -> None:
    """Catches a dimension that is not looked at, and terms of another size than written."""
    loose = replace(LOOSE, **settings)
    assert rate_pair(one, other, loose) == (
        expected if isinstance(expected, str) else pytest.approx(expected)
    )
    assert rate_pair(other, one, loose) == rate_pair(one, other, loose)


def test_six_samples_by_hand() -> None:
    """Catches matching that is not greedy, that uses an image twice, or that counts wrongly.

    Four planes, a ship and background; how alike two planes' images are decides. The distance
    is half the difference of their levels over 255.
    """
    places = [(1, 1), (12, 1), (1, 12), (12, 12)]
    levels = [110, 120, 111, 137]
    six = [
        candidate(scene(block("plane", x, y, 4, 5)), f"{k}.png", level)
        for k, ((x, y), level) in enumerate(zip(places, levels, strict=True))
    ]
    six.insert(1, candidate(scene(block("ship", 6, 6, 4, 5)), "ship.png", 110))
    six.append(candidate(scene(), "empty.png", 110))
    pairs, refused = match(six, replace(LOOSE, radiometry=0.05, weights=(0, 0, 1)))
    # planes at 0, 2, 3, 4; within 25.5 levels: 0-2 (10), 0-3 (1), 2-3 (9), 2-4 (17); too far
    # apart: 0-4 (27) and 3-4 (26)
    assert [(p.first, p.second) for p in pairs] == [(0, 3), (2, 4)]
    assert pairs[0].score == pytest.approx(1 - (1 / 2 / 255) / 0.05)
    assert pairs[1].score == pytest.approx(1 - (17 / 2 / 255) / 0.05)
    # no ship for the ship (4 planes, background), nothing on the background (4 planes)
    assert refused == {"semantic": 9, "pixel": 2, "left": 2}


def test_equal_pairs_keep_their_order() -> None:
    """Catches matches that depend on the order of a set."""
    same = [candidate(scene(PLANE), str(k)) for k in range(5)]
    pairs, refused = match(same, LOOSE)
    assert [(p.first, p.second) for p in pairs] == [(0, 1), (2, 3)] and refused == {"left": 8}


def test_classes_that_stand_together() -> None:
    """Catches stuff in the table, and an alias that is a class of its own."""
    rows = [scene(PLANE, SHIP, water((SIDE, SIDE))), scene(replace(SHIP, label="boat"))]
    assert seen_together(rows, CLASSES) == {frozenset({"plane", "ship"})}
    assert len(seen_together(rows, CLASSES, stuff=True)) == 3
    assert named_pairs(["boat + airplane"], CLASSES) == {frozenset({"plane", "ship"})}
    with pytest.raises(ValueError, match="no pair"):
        named_pairs(["ship"], CLASSES)


def test_allowed_pairs_bring_the_others_objects() -> None:
    one, other = candidate(scene(PLANE)), candidate(scene(SHIP), "b")
    pairs = frozenset({frozenset({"plane", "ship"})})
    assert given_classes(other, one, pairs) == {"ship"} and given_classes(one, other, pairs) == {
        "plane"
    }
    assert not given_classes(other, one, frozenset())


# ---------------------------------------------------------------- groups


def group_of(count: int) -> Sequence[Candidate]:
    places = [(x, y) for y in (0, 5, 10, 15) for x in (0, 5, 10, 15)]
    return [
        noisy(scene(block("plane", *places[k], 4, 4)), f"{k}.png", seed=k) for k in range(count)
    ]


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.0, 0), (0.125, 1), (0.5, 4), (0.75, 6), (1.0, 8)]
)
def test_no_more_composites_than_asked_for(rate: float, expected: int) -> None:
    """Catches a rate that counts pairs, or that only ever pastes in one direction."""
    made = compose_group(group_of(8), LOOSE, rate, 0.0, np.random.default_rng(1)).composites
    assert len(made) == expected
    for position, one in made.items():
        assert one.base == position and len(one.layout.instances) == 2
        if expected > 1:
            assert made[one.donor].donor == position  # both directions


def test_the_direction_of_a_lone_composite_is_drawn() -> None:
    """Catches the first image of each pair being the base for ever."""
    bases: set[int] = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        bases |= compose_group(group_of(2), LOOSE, 0.5, 0.0, rng).composites.keys()
    assert bases == {0, 1}
