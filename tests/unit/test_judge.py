"""The judge's maps and their decoding: what is asked for in maps comes back as objects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgen.detections import Detections
from rsgen.geometry import Box, RotatedBox, rotated_box_to_quad
from rsgen.judge.decoding import ClassHabits, decode, suppress
from rsgen.judge.network import Maps
from rsgen.judge.objective import MOVED, NOTHING, RESIZED, RIGHT, WRONG, ask
from rsgen.judge.targets import Targets, objects_of, targets_of
from rsgen.matching import asked_of, iou_matrix, match_objects
from rsgen.records import ClassTable, Instance, Layout, ObjectClass

CLASSES = ClassTable(
    (
        ObjectClass("plane"),
        ObjectClass("tank", symmetric=True),
        ObjectClass("water", kind="stuff"),
    )
)
HABITS = (ClassHabits("plane", True, True), ClassHabits("tank", True, False))


def turned(label: str, x: float, y: float, length: float, width: float, angle: float) -> Instance:
    quad = rotated_box_to_quad(RotatedBox(x, y, length, width, angle))
    return Instance(label, quad=quad, heading_rad=angle if label == "plane" else None)


def perfect_maps(targets: Targets) -> Maps:
    """Outputs of a network that has nothing left to learn."""
    heat = torch.from_numpy(targets.heat).clamp(1e-6, 1 - 1e-6)[None]
    boxes = torch.from_numpy(targets.boxes)[None]
    return Maps(
        torch.logit(heat), boxes[:, 0:2], boxes[:, 2:4], boxes[:, 4:6], boxes[:, 6:8],
        torch.zeros(1, 2, *heat.shape[-2:]), torch.zeros(1, 1, *heat.shape[-2:]),
    )  # fmt: skip


def seen(layout: Layout) -> Detections:
    return decode(perfect_maps(targets_of(layout, CLASSES, ("water",), 2)), HABITS, 0.5)[0]


@settings(max_examples=60)
@given(
    st.floats(30, 98), st.floats(30, 98), st.floats(12, 50), st.floats(0.3, 0.8),
    st.floats(-math.pi, math.pi, exclude_max=True), st.sampled_from(["plane", "tank"]),
)  # fmt: skip
def test_an_object_survives_its_maps(
    x: float, y: float, length: float, slimness: float, angle: float, label: str
) -> None:
    """Catches x/y or sine/cosine swaps, half-cell shifts, and a heading turned by half a turn."""
    layout = Layout(128, 128, (turned(label, x, y, length, length * slimness, angle),))
    found = seen(layout)
    assert found.labels == (label,)
    overlap = iou_matrix(found.quads, asked_of(layout, CLASSES).quads)[0, 0]
    assert overlap > 0.999
    if label == "plane":
        assert abs(math.remainder(found.headings[0] - angle, 2 * math.pi)) < 1e-4
    else:
        assert np.isnan(found.headings[0])


def test_the_long_side_is_the_length_where_no_front_is_known() -> None:
    """Catches a tank of 10 x 30 that is found as 30 x 10 across its own axis."""
    rows = objects_of(Layout(64, 64, (turned("tank", 32, 32, 10, 30, 0.0),)), CLASSES)
    assert rows.boxes[0, 2:4].tolist() == pytest.approx([30, 10])
    assert abs(math.remainder(float(rows.boxes[0, 4]) - math.pi / 2, math.pi)) < 1e-6
    kept = objects_of(Layout(64, 64, (turned("plane", 32, 32, 10, 30, 0.0),)), CLASSES)
    assert kept.boxes[0, 2:4].tolist() == pytest.approx([10, 30])


@pytest.mark.parametrize(
    ("count", "pitch", "length", "width"),
    [
        pytest.param(23, 27, 20, 7, id="531 moored ships of 20 x 7 px"),
        pytest.param(45, 14, 9, 5, id="2,025 cars of 9 x 5 px"),
    ],
)
def test_dense_tiles_do_not_collapse(count: int, pitch: int, length: int, width: int) -> None:
    """Catches a limit of 100 objects, peaks that swallow neighbours, and greedy suppression."""
    rng = np.random.default_rng(3)
    rows = [
        turned("plane", 12 + pitch * c, 12 + pitch * r * 0.7, length, width, rng.normal(0.3, 0.05))
        for r in range(count)
        for c in range(count)
    ]
    layout = Layout(640, 640, tuple(i for i in rows if i.bounds().y1 < 640))  # type: ignore[union-attr]
    assert len(layout.instances) > 500
    found = seen(layout)
    asked = asked_of(layout, CLASSES)
    assert len(match_objects(found, asked)) >= 0.8 * len(asked)
    assert len(found) <= 1.02 * len(asked)


def test_upright_labels_come_back_upright() -> None:
    """A class that is labelled by boxes alone is not turned by whatever the axis map says."""
    layout = Layout(128, 128, (Instance("tank", Box(20.0, 30.0, 60.0, 50.0)),))
    maps = perfect_maps(targets_of(layout, CLASSES, ("water",), 2))
    maps = replace(maps, axis=torch.randn(maps.axis.shape, generator=torch.manual_seed(0)))
    found = decode(maps, (HABITS[0], ClassHabits("tank", False, False)), 0.5)[0]
    box = found.box(0)
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((20, 30, 60, 50), abs=1e-3)


def test_the_cells_of_an_object_say_its_box_together() -> None:
    """Catches boxes that are read at the peak alone, with all of that one cell's error."""
    layout = Layout(128, 128, (turned("plane", 64.0, 60.0, 48.0, 30.0, 0.7),))
    maps = perfect_maps(targets_of(layout, CLASSES, ("water",), 2))
    rng = torch.manual_seed(0)

    def shaken(values: torch.Tensor) -> torch.Tensor:
        return values + 0.3 * torch.randn(values.shape, generator=rng)

    overlaps = []
    for _ in range(10):
        noisy = replace(
            maps, offset=shaken(maps.offset), size=shaken(maps.size),
            axis=shaken(maps.axis), heading=shaken(maps.heading),
        )  # fmt: skip
        found = decode(noisy, HABITS, 0.5)[0]
        overlaps.append(iou_matrix(found.quads, asked_of(layout, CLASSES).quads)[0, 0])
    assert np.mean(overlaps) > 0.8  # 0.69 by the peak alone


def test_suppression_keeps_the_better_of_two() -> None:
    """The second is dropped for the first, and what only the second covered stays."""
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], dtype=float)
    quads = np.stack([square, square + (2, 0), square + (6, 0), square + (30, 0)])
    assert suppress(quads, 0.45) == [0, 2, 3]


def test_stuff_is_asked_outside_objects_only() -> None:
    from rsgen.mask import Mask

    water = Mask.from_array(np.ones((64, 32), dtype=bool))
    layout = Layout(64, 64, (Instance("water", mask=water), turned("tank", 16, 16, 12, 12, 0.0)))
    stuff = targets_of(layout, CLASSES, ("water",), 2).stuff
    assert stuff[10, 2] == 1 and stuff[10, 12] == 0 and stuff[4, 4] == -1


def test_questions_are_what_they_say() -> None:
    """Catches a 'moved' box that still covers its object, or 'nothing there' on top of one."""
    layout = Layout(
        256, 256, (turned("plane", 60, 60, 40, 30, 0.4), turned("tank", 180, 150, 24, 24, 0.0))
    )
    rows = objects_of(layout, CLASSES)
    asked = asked_of(layout, CLASSES)
    kinds = set()
    for number in range(20):
        made = ask(rows, 256, 256, 2, np.random.default_rng(number))
        for box, thing, answer in zip(made.boxes, made.things, made.answers, strict=True):
            x, y, w, h, angle = map(float, box)
            quad = np.array(rotated_box_to_quad(RotatedBox(x, y, w, h, angle)))[None]
            overlap = iou_matrix(quad, asked.quads)[0]
            kinds.add(int(answer))
            if answer == RIGHT:
                assert overlap[thing] > 0.6
            elif answer == WRONG:
                assert overlap.max() > 0.6 and overlap[thing] < 0.1
            elif answer == MOVED:
                assert overlap[thing] < 0.6
            elif answer == RESIZED:
                assert 0.1 < overlap[thing] < 0.5
            else:
                assert answer == NOTHING and overlap.max() < 0.2
    assert kinds == {RIGHT, WRONG, MOVED, RESIZED, NOTHING}
