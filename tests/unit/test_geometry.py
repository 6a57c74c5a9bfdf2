"""Boxes, quads and affines: hand-worked cases of frames, order and direction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rsgen.geometry import (
    Box,
    Quad,
    RotatedBox,
    apply_affine,
    bounds,
    box_iou,
    box_quad,
    clip_polygon,
    clockwise,
    compose,
    fill_polygon,
    heading_of,
    min_area_quad,
    polygon_area,
    quad_from_tuple,
    quad_iou,
    quad_to_rotated_box,
    rotated_box_to_quad,
    similarity,
    square_to_quad,
    wrap_angle,
)

UP: Quad = ((2, 0), (6, 0), (6, 10), (2, 10))


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        pytest.param(0.0, 0.0, id="zero"),
        pytest.param(math.pi, -math.pi, id="pi is -pi: the interval is half-open"),
        pytest.param(-math.pi, -math.pi, id="-pi stays"),
        pytest.param(3 * math.pi, -math.pi, id="three half turns"),
        pytest.param(-2.5 * math.pi, -0.5 * math.pi, id="negative turns"),
        pytest.param(math.nextafter(-math.pi, -4), -math.pi, id="just below: no rounding to +pi"),
    ],
)
def test_wrap_angle(angle: float, expected: float) -> None:
    """Catches a closed interval, where one direction has two names."""
    assert wrap_angle(angle) == pytest.approx(expected, abs=1e-12)
    assert -math.pi <= wrap_angle(angle) < math.pi


@pytest.mark.parametrize(
    ("first", "heading"),
    [
        pytest.param(0, -math.pi / 2, id="up"),
        pytest.param(1, 0.0, id="right"),
        pytest.param(2, math.pi / 2, id="down"),
        pytest.param(3, -math.pi, id="left"),
    ],
)
def test_heading_follows_the_first_edge(first: int, heading: float) -> None:
    """Catches y-up angles and a heading taken along the edge instead of towards it."""
    turned = quad_from_tuple(np.roll(np.array(UP), -first, axis=0))
    assert heading_of(turned) == pytest.approx(heading)


def test_rotated_box_corners_in_order() -> None:
    """Catches corners that start elsewhere or run anticlockwise: facing +x, top right is first."""
    quad = rotated_box_to_quad(RotatedBox(10, 20, 8, 4, 0.0))
    np.testing.assert_allclose(quad, [(14, 18), (14, 22), (6, 22), (6, 18)])
    assert polygon_area(quad) == pytest.approx(32)
    assert quad_to_rotated_box(quad) == RotatedBox(10, 20, 8, 4, 0.0)


def test_degenerate_quad_has_a_heading_and_no_size() -> None:
    """Catches a crash or NaN where all corners coincide."""
    box = quad_to_rotated_box(((3, 3),) * 4)
    assert (box.w, box.h, box.angle_rad) == (0, 0, 0)


@pytest.mark.parametrize(
    ("box", "clipped", "area"),
    [
        pytest.param(Box(-5, -5, 3, 4), Box(0, 0, 3, 4), 12, id="corner"),
        pytest.param(Box(2, 2, 4, 4), Box(2, 2, 4, 4), 4, id="inside"),
        pytest.param(Box(20, 1, 30, 4), Box(10, 1, 10, 4), 0, id="outside: no area, no inversion"),
        pytest.param(Box(-9, -9, -3, -3), Box(0, 0, 0, 0), 0, id="before the origin"),
    ],
)
def test_box_clip(box: Box, clipped: Box, area: float) -> None:
    """Catches negative sizes, whose product would count as area."""
    assert box.clip(10, 8) == clipped
    assert clipped.area == area


def test_box_measures() -> None:
    box = Box(1, 2, 4, 8)
    assert (box.width, box.height, box.area, box.center) == (3, 6, 18, (2.5, 5))
    assert box.shift(1, -1) == Box(2, 1, 5, 7)
    assert Box(4, 8, 1, 2).area == 0, "an inverted box has no area"
    assert box_quad(box) == ((1, 2), (4, 2), (4, 8), (1, 8))
    assert bounds(box_quad(box)) == box


def test_clockwise_keeps_the_first_edge() -> None:
    """Catches a reversal that turns a plane around: p1-p2 must stay the front."""
    mirrored: Quad = ((6, 0), (2, 0), (2, 10), (6, 10))
    assert polygon_area(mirrored) < 0
    assert clockwise(mirrored) == UP
    assert clockwise(UP) == UP


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        pytest.param(Box(0, 0, 4, 4), Box(0, 0, 4, 4), 1.0, id="same"),
        pytest.param(Box(0, 0, 4, 4), Box(2, 0, 6, 4), 1 / 3, id="half shifted"),
        pytest.param(Box(0, 0, 4, 4), Box(4, 0, 8, 4), 0.0, id="touching edges do not overlap"),
        pytest.param(Box(0, 0, 4, 4), Box(1, 1, 1, 1), 0.0, id="empty"),
    ],
)
def test_iou_of_boxes_and_their_quads(a: Box, b: Box, iou: float) -> None:
    """Catches inclusive pixel edges (the +1 of old detection code)."""
    assert box_iou(a, b) == pytest.approx(iou)
    assert quad_iou(box_quad(a), box_quad(b)) == pytest.approx(iou)


def test_quad_iou_of_crossed_and_empty_quads() -> None:
    """Catches shapely errors on self-crossing labels."""
    crossed: Quad = ((0, 0), (4, 4), (4, 0), (0, 4))
    assert quad_iou(crossed, box_quad(Box(0, 0, 4, 4))) == pytest.approx(1.0)
    point: Quad = ((1, 1),) * 4
    assert quad_iou(point, point) == 0.0


@pytest.mark.parametrize(
    ("points", "areas"),
    [
        pytest.param([(2, 2), (8, 2), (8, 8), (2, 8)], [36.0], id="inside"),
        pytest.param([(-4, 2), (4, 2), (4, 6), (-4, 6)], [16.0], id="half outside"),
        pytest.param([(20, 20), (30, 20), (30, 30)], [], id="outside"),
        pytest.param([(-5, 0), (0, 0), (0, 5), (-5, 5)], [], id="only an edge in common"),
        pytest.param(
            [(1, -2), (3, -2), (3, 5), (5, 5), (5, -2), (7, -2), (7, 7), (1, 7)],
            [32.0],
            id="a U stays one part",
        ),
        pytest.param(
            [(1, 5), (3, 5), (3, 12), (5, 12), (5, 5), (7, 5), (7, 15), (1, 15)],
            [10.0, 10.0],
            id="two prongs reach in: two parts",
        ),
        pytest.param([(0, 0), (4, 4), (4, 0), (0, 4)], [4.0, 4.0], id="bow tie: two triangles"),
    ],
)
def test_clip_polygon(points: list[tuple[float, float]], areas: list[float]) -> None:
    """Catches lost parts and zero-area slivers."""
    parts = clip_polygon(np.array(points, float), Box(0, 0, 10, 10))
    assert sorted(abs(polygon_area(p)) for p in parts) == pytest.approx(areas)


@pytest.mark.parametrize(
    "heading", [None, 0.4, 0.4 + math.pi / 2, -2.7], ids=["none", "along", "across", "back"]
)
def test_min_area_quad_finds_the_rectangle(heading: float | None) -> None:
    """Catches a front edge on the wrong side, and float32 loss far from the origin."""
    true = rotated_box_to_quad(RotatedBox(15000, 18000, 40, 12, 0.4))
    found = min_area_quad(np.array(true), heading)
    assert quad_iou(found, true) > 0.999
    assert polygon_area(found) > 0
    if heading is None:
        assert quad_to_rotated_box(found).w > quad_to_rotated_box(found).h
    else:
        assert abs(wrap_angle(heading_of(found) - heading)) <= math.pi / 4 + 1e-6


def test_similarity_turns_about_a_point_clockwise_on_screen() -> None:
    """Catches anticlockwise turns: +90 degrees takes +x to +y (down)."""
    move = similarity(2.0, math.pi / 2, shift=(5, 0), about=(10, 10))
    np.testing.assert_allclose(apply_affine(move, [(11.0, 10.0), (10, 10)]), [(15, 12), (15, 10)])


def test_compose_applies_the_inner_first() -> None:
    """Catches swapped order."""
    turn, move = similarity(angle_rad=math.pi / 2), similarity(shift=(3, 0))
    np.testing.assert_allclose(
        apply_affine(compose(move, turn), [(1.0, 0.0)]), [(3, 1)], atol=1e-12
    )


def test_square_to_quad_maps_the_right_side_to_the_first_edge() -> None:
    """Catches a canonical pose that faces another way than +x."""
    matrix = square_to_quad(10, 4, UP)
    corners = apply_affine(matrix, [(10.0, 0.0), (10, 4), (0, 4), (0, 0)])
    np.testing.assert_allclose(corners, UP, atol=1e-12)


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        pytest.param([(0, 0), (2, 0), (2, 1), (0, 1)], [[1, 1, 0], [0, 0, 0]], id="whole pixels"),
        pytest.param([(0.6, 0), (2.4, 0), (2.4, 2), (0.6, 2)], [[0, 1, 0]] * 2, id="by centres"),
        pytest.param([(-5, -5), (9, -5), (9, 9), (-5, 9)], [[1, 1, 1]] * 2, id="covers all"),
        pytest.param([(0, 0), (3, 0)], [[0, 0, 0]] * 2, id="a line is nothing"),
    ],
)
def test_fill_polygon_sets_pixels_whose_centre_is_inside(
    ring: list[tuple[float, float]], expected: list[list[int]]
) -> None:
    """Catches the outline pixels that OpenCV's fill adds."""
    got = fill_polygon([np.array(ring, float)], 2, 3)
    np.testing.assert_array_equal(got, np.array(expected, bool))


def test_fill_polygon_leaves_holes_open() -> None:
    outer, inner = box_quad(Box(0, 0, 5, 5)), box_quad(Box(1, 1, 4, 4))
    filled = fill_polygon([np.array(outer, float), np.array(inner, float)], 5, 5)
    assert filled.sum() == 25 - 9
    assert fill_polygon([], 3, 0).shape == (3, 0)
