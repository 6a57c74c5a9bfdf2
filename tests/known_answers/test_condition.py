"""The control tensor against arithmetic done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rsgen.classes import load_class_table
from rsgen.condition import ConditionEncoding, encode
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, ObjectClass

TABLE = ClassTable((ObjectClass("plane"), ObjectClass("tank"), ObjectClass("water", kind="stuff")))


def block(label: str, x0: int, y0: int, width: int, height: int, **more: object) -> Instance:
    mask = Mask.from_array(np.ones((height, width)), x0, y0)
    return Instance(label, mask=mask, **more)  # type: ignore[arg-type]


# 6 x 5 canvas: water on the left three columns, a 4 x 3 plane at (1, 1), a tank pixel inside it.
LAYOUT = Layout(
    6,
    5,
    (
        block("tank", 2, 2, 1, 1),
        block("plane", 1, 1, 4, 3, heading_rad=-math.pi / 2),
        block("water", 0, 0, 3, 5),
    ),
)
PLANE = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 1, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
)
TANK = np.zeros((5, 6), dtype=int)
TANK[2, 2] = 1
WATER = np.array([[1, 1, 1, 0, 0, 0]] + [[1, 0, 0, 0, 0, 0]] * 3 + [[1, 1, 1, 0, 0, 0]])
# Every plane pixel has a neighbour that is not plane: (2, 3) touches the tank.
EDGE = PLANE + TANK


def test_binary() -> None:
    """Things are 1, stuff is 0, three equal channels."""
    array = encode(LAYOUT, (6, 5), ConditionEncoding("binary"), TABLE)
    assert array.tolist() == [(PLANE + TANK).astype(float).tolist()] * 3


def test_index() -> None:
    """plane 1, tank 2, water 3, over 255."""
    array = encode(LAYOUT, (6, 5), ConditionEncoding("index"), TABLE)
    expected = (PLANE + 2 * TANK + 3 * WATER).astype(np.float32) / np.float32(255)
    assert np.array_equal(array, np.stack([expected] * 3))


def test_earthsynth_storage_tank_is_25() -> None:
    """EarthSynth's demo mask: gray 25 of 255 on the tank, 0 elsewhere."""
    layout = Layout(4, 4, (block("storagetank", 1, 1, 2, 2),))
    array = encode(layout, (4, 4), ConditionEncoding("index"), load_class_table("earthsynth-67"))
    assert array[0, 1, 1] == np.float32(25 / 255) and array[0, 0, 0] == 0


def test_classes() -> None:
    """One-hot slots, edges, and the heading up: sin = -1 -> 0, cos = 0 -> 1/2."""
    array = encode(LAYOUT, (6, 5), ConditionEncoding.for_classes("classes", TABLE), TABLE)
    assert array.shape == (35, 5, 6)
    assert np.array_equal(array[0], PLANE)
    assert np.array_equal(array[1], TANK)
    assert np.array_equal(array[2], WATER)
    assert not array[3:32].any()
    assert np.array_equal(array[32], EDGE)
    assert array[33] == pytest.approx(0 * PLANE, abs=1e-7)
    assert array[34] == pytest.approx(0.5 * PLANE, abs=1e-7)  # the tank has no heading


@pytest.mark.parametrize(
    ("heading", "sine", "cosine"),
    [
        (0.0, 0.5, 1.0),
        (math.pi / 2, 1.0, 0.5),
        (-math.pi / 2, 0.0, 0.5),
        (-math.pi, 0.5, 0.0),
        (math.pi / 6, 0.75, (1 + math.sqrt(3) / 2) / 2),
        (None, 0.0, 0.0),
    ],
    ids=["right", "down", "up", "left", "30 degrees", "unknown"],
)
def test_heading_channels(heading: float | None, sine: float, cosine: float) -> None:
    """Catches a swapped sign or axis: y points down, angles turn from +x to +y."""
    layout = Layout(3, 3, (block("plane", 1, 1, 1, 1, heading_rad=heading),))
    array = encode(layout, (3, 3), ConditionEncoding.for_classes("classes", TABLE), TABLE)
    assert array[33, 1, 1] == pytest.approx(sine, abs=1e-6)
    assert array[34, 1, 1] == pytest.approx(cosine, abs=1e-6)
    assert array[33:].sum() == pytest.approx(sine + cosine, abs=1e-6)


def test_edge_between_touching_objects_and_not_at_the_border() -> None:
    """Two touching objects of one class stay two; the picture's border is no outline."""
    layout = Layout(6, 3, (block("plane", 0, 0, 3, 3), block("plane", 3, 0, 3, 3)))
    array = encode(layout, (6, 3), ConditionEncoding.for_classes("classes", TABLE), TABLE)
    assert array[0].all()
    assert array[32].tolist() == [[0, 0, 1, 1, 0, 0]] * 3


def test_two_hot_code_beyond_32_classes() -> None:
    """Class 33 owns slots 0 and 1, class 34 slots 0 and 2."""
    table = ClassTable.of(*(f"c{k}" for k in range(1, 41)))
    layout = Layout(3, 1, (block("c33", 0, 0, 1, 1), block("c34", 1, 0, 1, 1)))
    array = encode(layout, (3, 1), ConditionEncoding.for_classes("classes", table), table)
    on = [np.flatnonzero(array[:32, 0, x]).tolist() for x in range(3)]
    assert on == [[0, 1], [0, 2], []]
