"""Objects turned in place: pixels, mask, corners, heading and box follow one matrix."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rsgen.augment import AugmentSettings
from rsgen.data import TrainingImages, make_view
from rsgen.geometry import apply_affine, as_array, heading_of, wrap_angle
from rsgen.mask import Mask
from rsgen.records import Instance, Layout
from rsgen.shape_augment import MOST_SHADOW, turn_shapes
from tests.build import CLASSES, instance, layout, sample

FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
SIZE = (120, 104)
Image = npt.NDArray[np.uint8]


def drawn(of: Layout) -> Image:
    """Objects hold their own coordinates, (2 column, 2 row, 255), on grey noise without blue."""
    y, x = np.mgrid[0 : of.height, 0 : of.width]
    own = np.stack([2 * x, 2 * y, np.full_like(x, 255)], axis=-1).astype(np.uint8)
    picture = np.random.default_rng(0).integers(60, 90, own.shape, dtype=np.uint8)
    picture[..., 2] = 0
    for item in of.instances:
        if item.mask is not None and not CLASSES.is_stuff(item.label):
            item.mask.paint(picture, own[:1, :1])
            pixels = item.mask.to_array(of.width, of.height)
            picture[pixels] = own[pixels]
    return picture


def pixel_affine(picture: Image, mask: Mask) -> npt.NDArray[np.float64]:
    """Source to moved coordinates of the pixels inside a mask, by least squares."""
    inner = cv2.erode(mask.to_array(*SIZE).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert int(inner.sum()) > 25
    y, x = np.nonzero(inner)
    moved = np.stack([x, y], axis=1) + 0.5
    source = picture[inner][:, :2] / 2.0 + 0.5
    design = np.concatenate([source, np.ones((len(source), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, moved, rcond=None)
    return np.asarray(solution.T, dtype=np.float64)


@st.composite
def one_object(draw: st.DrawFn, label: str = "plane") -> Layout:
    angle = draw(st.floats(-math.pi, math.pi - 1e-6))
    sides = draw(st.floats(20, 40)), draw(st.floats(12, 20))
    place = draw(st.floats(40, 80)), draw(st.floats(40, 64))
    return layout([instance(label, *place, *sides, angle, size=SIZE)], SIZE)


def turned(of: Layout, seed: int, rate: float = 1.0) -> tuple[Image, Layout]:
    return turn_shapes(drawn(of), of, CLASSES, rate, np.random.default_rng(seed))


@FAST
@given(of=one_object(), seed=st.integers(0, 10_000))
def test_the_label_follows_the_pixels(of: Layout, seed: int) -> None:
    """Catches a shape turned in a box that stays (trap T5), and a turn the wrong way round."""
    picture, after = turned(of, seed)
    before, item = of.instances[0], after.instances[0]
    assume(item != before)
    assert item.mask is not None and item.quad is not None and before.quad is not None
    assert item.heading_rad is not None and before.heading_rad is not None
    matrix = pixel_affine(picture, item.mask)
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(1, abs=0.1)  # planes are not mirrored
    assert np.abs(apply_affine(matrix, before.quad) - as_array(item.quad)).max() < 0.75
    turn = math.atan2(matrix[1, 0], matrix[0, 0])
    assert abs(wrap_angle(item.heading_rad - before.heading_rad - turn)) < 0.05
    assert abs(wrap_angle(item.heading_rad - heading_of(item.quad))) < 1e-6
    assert item.box is not None
    edges = (item.box.x0, item.box.y0, item.box.x1, item.box.y1)
    corners = as_array(item.quad)
    assert edges == pytest.approx((*corners.min(axis=0), *corners.max(axis=0)))


@FAST
@given(of=one_object(), seed=st.integers(0, 10_000))
def test_what_is_seen_is_what_the_mask_says(of: Layout, seed: int) -> None:
    """Catches a mask that lies beside its pixels, and remains of the object in its old place."""
    picture, after = turned(of, seed)
    assume(after != of)
    assert after.instances[0].mask is not None
    mask = after.instances[0].mask.to_array(*SIZE)
    # a pixel that is half covered may fall on either side
    assert not (picture[..., 2] > 140)[~mask].any()
    assert (picture[..., 2] > 115)[mask].all()


@FAST
@given(of=one_object(), seed=st.integers(0, 10_000))
def test_the_rest_of_the_picture_stays(of: Layout, seed: int) -> None:
    """Catches a fill that bleeds, and a generator that is not the one given."""
    picture, after = turned(of, seed)
    again, same = turned(of, seed)
    assert np.array_equal(picture, again) and after == same
    old, new = (i.mask for i in (of.instances[0], after.instances[0]))
    assert old is not None and new is not None
    near = (old.to_array(*SIZE) | new.to_array(*SIZE)).astype(np.uint8)
    side = 2 * MOST_SHADOW + 1
    far = cv2.dilate(near, np.ones((side, side), np.uint8)) == 0
    assert np.array_equal(picture[far], drawn(of)[far])


@FAST
@given(seed=st.integers(0, 10_000))
def test_objects_never_cover_each_other(seed: int) -> None:
    """Catches a turn onto a neighbour, whose label would then be wrong."""
    rng = np.random.default_rng(seed)
    row = [
        instance("ship", 20 + 27 * k, 50, rng.uniform(20, 50), 9, 1.5, size=SIZE) for k in range(4)
    ]
    of = layout(row, SIZE)
    picture, after = turned(of, seed)
    masks = [i.mask.to_array(*SIZE) for i in after.instances if i.mask is not None]
    assert len(masks) == 4 and np.sum(masks, axis=0).max() == 1
    every = np.any(masks, axis=0)
    assert not (picture[..., 2] > 140)[~every].any() and (picture[..., 2] > 115)[every].all()


def test_only_symmetric_objects_are_mirrored() -> None:
    """Catches mirrored planes, and symmetric objects that never are."""
    signs = {"plane": set[float](), "storage-tank": set[float]()}
    for label, found in signs.items():
        of = layout([instance(label, 60, 52, 36, 18, 0.4, size=SIZE)], SIZE)
        for seed in range(12):
            picture, after = turned(of, seed)
            mask = after.instances[0].mask
            assert mask is not None
            found.add(np.sign(np.linalg.det(pixel_affine(picture, mask)[:, :2])))
            assert after.instances[0].heading_rad is None or label == "plane"
    assert signs == {"plane": {1.0}, "storage-tank": {-1.0, 1.0}}


PLANE = instance("plane", 60, 52, 40, 16, 0.0, size=SIZE)
LEFT_ALONE = {
    "no mask of its own": replace(PLANE, mask=None),
    "a stand-in for a mask": replace(PLANE, origin="box"),
    "cut by the border": replace(PLANE, truncated=True),
    "a crowd": replace(PLANE, iscrowd=True),
    "no room to turn": instance("plane", 12, 52, 80, 16, math.pi / 2, size=SIZE),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    """Catches objects turned whose pixels or place are not known well enough."""
    of = layout([LEFT_ALONE[name]], SIZE)
    for seed in range(4):
        picture, after = turned(of, seed)
        assert after == of and np.array_equal(picture, drawn(of))


def test_rate() -> None:
    """Catches a rate that is ignored: none, some, all."""
    places = [(30, 30), (90, 30), (30, 75), (90, 75)]
    of = layout([instance("plane", x, y, 22, 12, 0.2, size=SIZE) for x, y in places], SIZE)
    moved = {
        rate: sum(
            a != b
            for seed in range(20)
            for a, b in zip(of.instances, turned(of, seed, rate)[1].instances, strict=True)
        )
        for rate in (0.0, 0.25, 1.0)
    }
    assert moved[0.0] == 0 and 8 <= moved[0.25] <= 34 and moved[1.0] == 80


def stuff(left: int, right: int, without: Mask | None = None) -> Instance:
    pixels = np.zeros((SIZE[1], SIZE[0]), bool)
    pixels[:, left:right] = True
    if without is not None:
        without.paint(pixels, False)
    return Instance("water", mask=Mask.from_array(pixels))


def test_a_ship_stays_on_its_water_and_leaves_water_behind() -> None:
    """Catches a hole in the stuff's label where water was painted, and a ship on its quay."""
    ship = instance("ship", 60, 52, 40, 14, 0.0, size=SIZE)
    around = layout([stuff(0, 120, ship.mask), ship], SIZE)
    _, after = turned(around, 3)
    water, moved = (i.mask for i in after.instances)
    assert moved is not None and moved != ship.mask and water is not None
    assert (water.to_array(*SIZE) | moved.to_array(*SIZE)).all()
    quay = layout([stuff(0, 70), ship], SIZE)
    assert turned(quay, 3)[1] == quay


def test_an_upright_box_is_the_tight_one() -> None:
    """Catches the bounds of a turned box, which are larger than the object."""
    plain = replace(PLANE, quad=None, heading_rad=None)
    _, after = turned(layout([plain], SIZE), 1)
    item = after.instances[0]
    assert item != plain and item.mask is not None
    assert item.box == item.mask.box and item.quad is None and item.heading_rad is None


def test_views() -> None:
    """Catches a setting that does not arrive, and a first view that is not the image itself."""
    of = layout([instance("plane", 32, 32, 24, 14, 0.3)])
    images = TrainingImages([sample("a.png", of)], lambda _: picture_64(of), CLASSES)
    still, moving = AugmentSettings(flips=False), AugmentSettings(flips=False, turned_shapes=1.0)
    first = make_view(images, 0, 0, 64, 7, moving)
    assert np.array_equal(first.image, picture_64(of)) and first.layout == of
    assert make_view(images, 0, 1, 64, 7, still).layout == of
    assert make_view(images, 0, 1, 64, 7, moving).layout != of


def picture_64(of: Layout) -> Image:
    return drawn(of)[: of.height, : of.width]
