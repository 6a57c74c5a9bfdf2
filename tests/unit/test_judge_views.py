"""The judge's training views: pixels, boxes and stuff move together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rsgen.augment import move_layout
from rsgen.data import TrainingImages
from rsgen.geometry import Affine, RotatedBox, box_quad, compose, rotated_box_to_quad, similarity
from rsgen.geometry import Box as GeometryBox
from rsgen.judge.decoding import ClassHabits, decode
from rsgen.judge.network import Maps
from rsgen.judge.targets import (
    Canvas,
    Objects,
    move_objects,
    objects_of,
    painted,
    rows_of,
    shares_inside,
    targets_of,
)
from rsgen.mask import Mask
from rsgen.matching import iou_matrix
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from rsgen.training.views import Views, degrade, relight

CLASSES = ClassTable(
    (
        ObjectClass("plane"),
        ObjectClass("tank", symmetric=True),
        ObjectClass("water", kind="stuff"),
    )
)
SIZE = 96
QUARTER: Affine = np.array([[0.0, -1.0, 64.0], [1.0, 0.0, 0.0]])
MIRROR: Affine = np.array([[-1.0, 0.0, 64.0], [0.0, 1.0, 0.0]])


def turned(label: str, x: float, y: float, length: float, width: float, angle: float) -> Instance:
    quad = rotated_box_to_quad(RotatedBox(x, y, length, width, angle))
    return Instance(label, quad=quad, heading_rad=angle if label == "plane" else None)


def quads_of(found: Objects) -> np.ndarray:
    rows = found.boxes.astype(np.float64).tolist()
    return np.array([rotated_box_to_quad(RotatedBox(*row)) for row in rows]).reshape(-1, 4, 2)


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(QUARTER, id="a quarter turn"),
        pytest.param(MIRROR, id="mirrored"),
        pytest.param(compose(MIRROR, QUARTER), id="transposed"),
        pytest.param(similarity(1.2, 0.7, (3.0, -5.0), (32.0, 32.0)), id="turned and scaled"),
        pytest.param(
            compose(MIRROR, similarity(0.8, -2.0, (1.0, 2.0), (30.0, 30.0))), id="all of it"
        ),
    ],
)
def test_rows_move_as_layouts_do(matrix: Affine) -> None:
    """Catches a heading that is mirrored the wrong way, or sides that swap when turned."""
    layout = Layout(
        64,
        64,
        (
            turned("plane", 30, 24, 20, 9, 0.4),
            turned("plane", 40, 40, 8, 17, -2.5),
            turned("tank", 22, 36, 12, 7, 1.1),
        ),
    )
    ours = move_objects(objects_of(layout, CLASSES), matrix, Canvas(64, 64), Canvas(64, 64))
    theirs = objects_of(move_layout(layout, matrix, 64, 64), CLASSES)
    assert len(ours) == 3
    assert ours.boxes[:, :4] == pytest.approx(theirs.boxes[:, :4], abs=1e-3)
    away = np.abs(ours.boxes[:, 4] - theirs.boxes[:, 4])
    whole = 2 * math.pi * np.where(ours.headed, 1.0, 0.5)  # an axis has no front
    assert np.minimum(away % whole, whole - away % whole) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        pytest.param(QUARTER, (64 - 20, 10, 64 - 10, 40), id="a quarter turn"),
        pytest.param(MIRROR, (24, 10, 54, 20), id="mirrored"),
        pytest.param(similarity(shift=(-25.0, 0.0)), (0, 10, 15, 20), id="cut by the border"),
    ],
)
def test_upright_boxes_stay_upright(matrix: Affine, wanted: tuple[float, ...]) -> None:
    layout = Layout(64, 64, (Instance("tank", GeometryBox(10, 10, 40, 20)),))
    moved = move_objects(objects_of(layout, CLASSES), matrix, Canvas(64, 64), Canvas(64, 64))
    quad = quads_of(moved)[0]
    found = (*quad.min(axis=0), *quad.max(axis=0))
    assert found == pytest.approx(wanted, abs=1e-4) and moved.boxes[0, 4] == 0


@pytest.mark.parametrize(
    ("x", "kept"),
    [(5.0, True), (-5.0, True), (-7.0, True), (-9.5, False), (-12.0, False)],
    ids=["cut", "centre outside", "a seventh left", "a fortieth left", "outside"],
)
def test_a_cut_object_is_asked_for_while_it_is_seen(x: float, kept: bool) -> None:
    """Catches objects that are in the labels but can never be found: their centre is outside."""
    layout = Layout(64, 64, (turned("plane", x, 32.0, 20.0, 8.0, 0.0),))
    targets = targets_of(layout, CLASSES, ("water",), 2)
    assert len(targets.objects) == kept
    heat = torch.from_numpy(targets.heat).clamp(1e-6, 1 - 1e-6)[None]
    boxes = torch.from_numpy(targets.boxes)[None]
    maps = Maps(
        torch.logit(heat), boxes[:, 0:2], boxes[:, 2:4], boxes[:, 4:6], boxes[:, 6:8],
        torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 16, 16),
    )  # fmt: skip
    habits = (ClassHabits("plane", True, True), ClassHabits("tank", True, False))
    found = decode(maps, habits, 0.5)[0]
    assert len(found) == kept
    if kept:
        true = np.array(layout.instances[0].quad)[None]
        assert iou_matrix(found.quads, true)[0, 0] > 0.999


def test_shares_are_of_the_turned_box() -> None:
    boxes = np.array([[0, 32, 20, 8, 0], [32, 0, 20, 8, 0.5], [70, 32, 4, 4, 0]], np.float32)
    assert shares_inside(boxes, Canvas(64, 64)) == pytest.approx([0.5, 0.5, 0], abs=0.02)
    quads = np.array([box_quad(GeometryBox(2, 3, 12, 9))], dtype=np.float64)
    x, y, length, width, _ = rows_of(quads)[0].tolist()
    assert (x, y, sorted((length, width))) == (7, 6, [6, 10])


def test_the_smaller_of_two_keeps_its_cells() -> None:
    """A car on a ferry: the cells at its centre are its own, whichever comes first."""
    rows = Objects(
        np.array([[32, 32, 8, 4, 0.0], [32, 32, 50, 20, 0.0]], np.float32),
        np.array([0, 1]), np.array([True, True]), np.array([False, False]),
    )  # fmt: skip
    for order in ([0, 1], [1, 0]):
        given = Objects(
            rows.boxes[order], rows.things[order], rows.turned[order], rows.headed[order]
        )
        made = painted(given, np.zeros((16, 16), np.int64), 2)
        assert made.boxes[2, 16, 16] == pytest.approx(math.log(8 / 16))
        assert made.heat[:, 16, 16].tolist() == [1, 1]


def test_the_boxes_of_rare_classes_count_more() -> None:
    """Catches ten thousand cars that teach what a box is, and a helicopter that does not."""
    rows = Objects(
        np.array([[16, 32, 12, 6, 0.3], [48, 32, 12, 6, 0.3]], np.float32),
        np.array([0, 1]), np.array([True, True]), np.array([True, False]),
    )  # fmt: skip
    ground = np.zeros((16, 16), np.int64)
    alike = painted(rows, ground, 2)
    weighed = painted(rows, ground, 2, class_weights=np.array([0.5, 3.0], np.float32))
    factors = np.where(np.arange(32) < 16, 0.5, 3.0)[None, None]
    assert weighed.near == pytest.approx(alike.near * factors)
    assert alike.near[:, :, :16].any() and alike.near[:2, :, 16:].any()
    assert (weighed.heat == alike.heat).all() and (weighed.stuff == alike.stuff).all()


# ---------------------------------------------------------------- pixels

GROUND, THING, WATER = 70, 230, 20


def scene(number: int) -> tuple[np.ndarray, Layout]:
    """Bright objects on dark ground with a blacker half of water, 128 x 112 pixels."""
    rng = np.random.default_rng(number)
    image = np.full((112, 128, 3), GROUND, np.uint8)
    image[:, :40] = WATER
    things = []
    for label, x, y in (("plane", 84, 30), ("tank", 100, 84)):
        length, width, angle = rng.uniform(24, 34), rng.uniform(12, 18), rng.uniform(-3, 3)
        item = turned(label, x, y, length, width, angle)
        mask = Mask.from_polygons([np.array(item.quad)], 128, 112)
        assert mask is not None
        image[mask.to_array(128, 112)] = THING
        things.append(replace(item, mask=mask))
    water = np.zeros((112, 128), dtype=bool)
    water[:, :40] = True
    everything = (Instance("water", mask=Mask.from_array(water)), *things)
    return image, Layout(128, 112, everything)


def training_images(count: int = 4, only: str | None = None) -> TrainingImages:
    made = [scene(k) for k in range(count)]
    rows = []
    for k, (_, layout) in enumerate(made):
        kept = tuple(i for i in layout.instances if only is None or i.label in (only, "water"))
        rows.append(Sample(f"s{k}", replace(layout, instances=kept)))
    pixels = {s.id: m[0] for s, m in zip(rows, made, strict=True)}
    return TrainingImages(rows, lambda s: pixels[s.id], CLASSES)


@pytest.mark.parametrize("strength", [0.0, 1.0], ids=["quarters", "everything"])
def test_pixels_boxes_and_stuff_move_together(strength: float) -> None:
    """Catches half-pixel shifts, a swapped axis, stuff that stays where it was."""
    views = Views(training_images(), ("water",), SIZE, turns=True, strength=strength)
    seen = outside = 0
    for number in range(40):
        view = views.view(number % 4, np.random.default_rng(number))
        assert view.image.shape == (SIZE, SIZE, 3) and view.image.dtype == np.uint8
        grey = view.image.mean(axis=2)
        low, high = np.percentile(grey, 2), grey.max()
        inside = Mask.from_polygons(list(quads_of(view.objects)), SIZE, SIZE)
        if inside is None:
            continue
        area = inside.to_array(SIZE, SIZE)
        bright = grey > (low + high) / 2
        if (area.sum() > 150) and high - low > 60:
            assert (bright & area).sum() > 0.85 * area.sum()
            seen += 1
        cells = np.kron(view.ground, np.ones((4, 4), np.int64))
        outside += int((cells == -1).sum())
        if (cells == 1).sum() > 300 and (cells == 0).sum() > 300:
            assert grey[(cells == 1) & ~area].mean() < grey[(cells == 0) & ~area].mean()
    assert seen > 20
    assert (outside > 0) == (strength > 0)


def test_a_view_follows_from_its_generator() -> None:
    views = Views(training_images(), ("water",), SIZE, turns=True, strength=1.0)
    first = views.view(1, np.random.default_rng(5))
    for k in range(4):
        views.view(k, np.random.default_rng(k))
    again = views.view(1, np.random.default_rng(5))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.objects.boxes, again.objects.boxes)
    assert np.array_equal(first.ground, again.ground)


def test_upright_sets_are_not_turned_freely() -> None:
    """Turning an upright box makes it too large for its object."""
    images = training_images()
    things = [
        replace(s, layout=replace(s.layout, instances=tuple(
            Instance(i.label, box=i.bounds(), mask=i.mask) for i in s.layout.instances
        ))) for s in images.samples
    ]  # fmt: skip
    upright = TrainingImages(things, lambda s: scene(int(s.id[1:]))[0], CLASSES)
    views = Views(upright, (), SIZE, turns=False, strength=1.0)
    for number in range(20):
        found = views.view(number % 4, np.random.default_rng(number)).objects
        assert (found.boxes[:, 4] == 0).all()
        low = found.boxes[:, :2] - found.boxes[:, 2:4] / 2
        high = found.boxes[:, :2] + found.boxes[:, 2:4] / 2
        assert (low >= -1e-3).all() and (high <= SIZE + 1e-3).all()


def test_light_and_wear_change_little_and_nothing_at_zero() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 190, (64, 64, 3), dtype=np.uint8)
    noise = rng.normal(0, 32, (128, 128, 3)).astype(np.int16)
    changed = 0
    for number in range(30):
        generator = np.random.default_rng(number)
        out = degrade(relight(image, generator, 1.0), generator, 1.0, noise)
        assert out.shape == image.shape and out.dtype == np.uint8
        assert abs(float(out.mean()) - float(image.mean())) < 60
        changed += not np.array_equal(out, image)
    assert changed > 20
    untouched = degrade(relight(image, rng, 0.0), rng, 0.0, noise)
    assert np.array_equal(untouched, image)


# ---------------------------------------------------------------- objects without a front


@pytest.mark.parametrize("degrees", [-170, -100, -46, -44, -10, 0, 30, 44, 46, 80, 135, 179])
def test_a_round_tank_is_told_one_way(degrees: int) -> None:
    """Catches axes of squares that are 90 degrees apart by chance: nothing can learn those."""
    angle = math.radians(degrees)
    rows = [
        objects_of(Layout(64, 64, (turned("tank", 32, 32, length, width, angle),)), CLASSES)
        for length, width in ((20.0, 20.1), (20.1, 20.0))
    ]
    first, second = (row.boxes[0].tolist() for row in rows)
    assert abs(first[4]) <= math.pi / 4 + 1e-6
    assert first[4] == pytest.approx(second[4], abs=1e-5)
    for row, (length, width) in zip(rows, ((20.0, 20.1), (20.1, 20.0)), strict=True):
        true = np.array(rotated_box_to_quad(RotatedBox(32, 32, length, width, angle)))[None]
        assert iou_matrix(quads_of(row), true)[0, 0] > 0.999


def test_a_long_tank_keeps_its_long_side_through_any_move() -> None:
    layout = Layout(64, 64, (turned("tank", 32, 32, 10, 24, 0.5),))
    for matrix in (QUARTER, MIRROR, similarity(1.0, 1.3, (0.0, 0.0), (32.0, 32.0))):
        row = move_objects(objects_of(layout, CLASSES), matrix, Canvas(64, 64), Canvas(64, 64))
        assert row.boxes[0, 2:4] == pytest.approx([24, 10], abs=1e-3)


def test_a_large_object_does_not_outvote_a_small_one() -> None:
    """Catches a ship of 200 px whose hundreds of cells drown the boats around it."""
    layout = Layout(
        256, 256, (turned("plane", 150, 128, 190, 60, 0.3), turned("tank", 20, 20, 10, 6, 0.0))
    )
    near = targets_of(layout, CLASSES, (), 2).near[0]
    boat = near[:20, :20].sum()
    assert 1 <= boat <= 2 and near.sum() - boat == pytest.approx(2, rel=0.02)
