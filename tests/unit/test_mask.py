"""Mask: tight crops, frames, and nothing lost at the borders."""

from __future__ import annotations

import numpy as np
import pytest

from rsgen.geometry import Box, box_quad
from rsgen.mask import Mask


def grid(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


L_SHAPE = grid(".....", ".#...", ".##..", ".....")


def test_from_array_is_tight_and_placed() -> None:
    """Catches an off-by-one at the far edge of the crop."""
    mask = Mask.from_array(L_SHAPE, 10, 20)
    assert mask is not None
    assert (mask.x0, mask.y0, mask.width, mask.height, mask.area) == (11, 21, 2, 2, 3)
    assert mask.box == Box(11, 21, 13, 23)
    np.testing.assert_array_equal(mask.crop(), grid("#.", "##"))


def test_one_pixel_has_width_one() -> None:
    """Catches inclusive boxes."""
    mask = Mask.from_array(grid("..", ".#"))
    assert mask is not None and mask.box == Box(1, 1, 2, 2) and mask.area == 1


@pytest.mark.parametrize("array", [np.zeros((3, 3)), np.zeros((0, 4))], ids=["blank", "no rows"])
def test_empty_is_none(array: np.ndarray) -> None:
    assert Mask.from_array(array) is None


def test_equality_is_by_pixels() -> None:
    """Catches padding that makes equal masks differ."""
    padded = np.pad(L_SHAPE, ((3, 0), (2, 5)))
    assert Mask.from_array(L_SHAPE, 2, 3) == Mask.from_array(padded, 0, 0)


@pytest.mark.parametrize(
    ("dx", "dy", "left"),
    [(0, 0, 3), (-2, 0, 1), (0, -2, 2), (3, 2, 1), (-9, 0, 0), (3, 0, 2)],
    ids=["inside", "left edge", "top edge", "right and bottom", "gone", "right edge"],
)
def test_painting_cuts_at_every_border(dx: int, dy: int, left: int) -> None:
    """Catches wrap-around from negative indices."""
    mask = Mask.from_array(L_SHAPE)
    assert mask is not None
    moved = mask.shift(dx, dy).to_array(5, 4)
    assert moved.shape == (4, 5)
    assert moved.sum() == left


def test_painting_colours() -> None:
    mask = Mask.from_array(L_SHAPE)
    assert mask is not None
    canvas = np.zeros((4, 5, 3), np.uint8)
    mask.paint(canvas, (1, 2, 3))
    assert canvas.sum() == 3 * 6


def test_window_moves_into_the_windows_frame() -> None:
    """Catches a tile's masks staying in the scene's frame."""
    mask = Mask.from_array(L_SHAPE, 100, 50)
    assert mask is not None
    part = mask.window(102, 52, 8, 8)
    assert part is not None and (part.x0, part.y0, part.area) == (0, 0, 1)
    assert mask.window(0, 0, 10, 10) is None


@pytest.mark.parametrize(
    ("parts", "area"),
    [
        pytest.param([[(1, 1), (4, 1), (4, 3), (1, 3)]], 6, id="one part"),
        pytest.param(
            [[(0, 0), (2, 0), (2, 2), (0, 2)], [(5, 5), (8, 5), (8, 8), (5, 8)]], 13, id="two"
        ),
        pytest.param([[(-4, -4), (2, -4), (2, 2), (-4, 2)]], 4, id="clipped to the image"),
        pytest.param([[(20, 20), (25, 20), (25, 25)]], None, id="outside"),
        pytest.param([[(3, 3), (3.2, 3), (3.2, 3.2)]], None, id="misses every pixel centre"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_from_polygons(parts: list[list[tuple[float, float]]], area: int | None) -> None:
    mask = Mask.from_polygons([np.array(p, float) for p in parts], 10, 10)
    assert (None if mask is None else mask.area) == area


def test_rings_keep_holes_and_diagonal_parts() -> None:
    """Catches filled holes, and corner-touching pixels joined into one bow-tie ring."""
    ring = grid("###.", "#.#.", "###.", "...#")
    mask = Mask.from_array(ring, 7, 9)
    assert mask is not None
    parts = mask.rings()
    assert sorted(len(p) for p in parts) == [1, 2]
    flat = [r for p in parts for r in p]
    assert Mask.from_polygons(flat, 40, 40) == mask
    assert len(mask.polygons()) == 2


def test_iou() -> None:
    a = Mask.from_polygons([np.array(box_quad(Box(0, 0, 4, 4)), float)], 20, 20)
    b = Mask.from_polygons([np.array(box_quad(Box(2, 0, 6, 4)), float)], 20, 20)
    assert a is not None and b is not None
    assert a.iou(b) == pytest.approx(1 / 3)
    assert a.iou(b.shift(10, 10)) == 0.0
    assert a.shift(-3, -3).iou(a.shift(-3, -3)) == 1.0, "masks may hang over the border"
