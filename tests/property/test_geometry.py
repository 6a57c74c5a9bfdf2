"""Geometry laws that hold for every input."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rsgen.geometry import (
    Box,
    Quad,
    RotatedBox,
    apply_affine,
    as_array,
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
    quad_iou,
    quad_to_rotated_box,
    rotated_box_to_quad,
    similarity,
    square_to_quad,
    wrap_angle,
)

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
place = st.floats(-500, 500).map(lambda v: round(v, 3))
side = st.floats(0.5, 200).map(lambda v: round(v, 3))
angle = st.floats(-20, 20)
rotated = st.builds(RotatedBox, place, place, side, side, angle)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y = draw(place), draw(place)
    return Box(x, y, x + draw(side), y + draw(side))


@QUICK
@given(st.floats(-1e6, 1e6))
def test_wrapping_stays_in_range_and_keeps_the_direction(value: float) -> None:
    wrapped = wrap_angle(value)
    assert -math.pi <= wrapped < math.pi
    assert wrap_angle(wrapped) == wrapped
    assert math.isclose(math.cos(wrapped), math.cos(value), abs_tol=1e-8)
    assert math.isclose(math.sin(wrapped), math.sin(value), abs_tol=1e-8)


@QUICK
@given(rotated)
def test_rotated_box_and_quad_are_two_names_of_one_thing(box: RotatedBox) -> None:
    quad = rotated_box_to_quad(box)
    again = quad_to_rotated_box(quad)
    np.testing.assert_allclose(
        [again.cx, again.cy, again.w, again.h], [box.cx, box.cy, box.w, box.h], atol=1e-9
    )
    assert abs(wrap_angle(again.angle_rad - box.angle_rad)) < 1e-9
    assert math.isclose(polygon_area(quad), box.w * box.h, rel_tol=1e-9)
    assert clockwise(quad) == quad


@QUICK
@given(rotated, st.floats(0.2, 5), angle, place, place)
def test_a_similarity_moves_heading_and_size_with_the_object(
    box: RotatedBox, scale: float, turn: float, dx: float, dy: float
) -> None:
    """Catches a heading that is not carried along by an affine."""
    move = similarity(scale, turn, (dx, dy), (box.cx, box.cy))
    quad = apply_affine(move, rotated_box_to_quad(box))
    moved = quad_to_rotated_box(tuple(map(tuple, quad)))  # type: ignore[arg-type]
    assert abs(wrap_angle(moved.angle_rad - box.angle_rad - turn)) < 1e-7
    np.testing.assert_allclose([moved.w, moved.h], [box.w * scale, box.h * scale], rtol=1e-7)
    np.testing.assert_allclose([moved.cx, moved.cy], [box.cx + dx, box.cy + dy], atol=1e-6)


@QUICK
@given(rotated, st.floats(0.2, 5), angle, place)
def test_composing_is_applying_twice(
    box: RotatedBox, scale: float, turn: float, shift: float
) -> None:
    first, second = similarity(scale, turn), similarity(1 / scale, -0.3, (shift, 1.0))
    points = as_array(rotated_box_to_quad(box))
    np.testing.assert_allclose(
        apply_affine(compose(second, first), points),
        apply_affine(second, apply_affine(first, points)),
        atol=1e-7,
    )


@QUICK
@given(rotated, side, side)
def test_canonical_box_lands_on_the_labels_corners(
    box: RotatedBox, width: float, height: float
) -> None:
    """The affine that places a mask maps the canonical box to the corners to 1e-6."""
    quad = rotated_box_to_quad(box)
    matrix = square_to_quad(width, height, quad)
    corners = [(width, 0.0), (width, height), (0.0, height), (0.0, 0.0)]
    np.testing.assert_allclose(apply_affine(matrix, corners), quad, atol=1e-6)


@QUICK
@given(boxes(), boxes())
def test_iou_is_symmetric_bounded_and_the_same_for_quads(a: Box, b: Box) -> None:
    value = box_iou(a, b)
    assert 0 <= value <= 1
    assert value == box_iou(b, a)
    assert math.isclose(value, quad_iou(box_quad(a), box_quad(b)), abs_tol=1e-6)
    assert math.isclose(box_iou(a, a), 1.0)


@QUICK
@given(boxes(), st.floats(1, 400), st.floats(1, 400))
def test_clipping_never_grows_and_stays_inside(box: Box, width: float, height: float) -> None:
    cut = box.clip(width, height)
    assert 0 <= cut.x0 <= cut.x1 <= width
    assert 0 <= cut.y0 <= cut.y1 <= height
    assert cut.area <= box.area + 1e-9
    parts = clip_polygon(np.array(box_quad(box)), Box(0, 0, width, height))
    area = sum(abs(polygon_area(p)) for p in parts)
    assert math.isclose(area, cut.area, rel_tol=1e-6, abs_tol=1e-6)


@QUICK
@given(st.lists(st.tuples(place, place), min_size=3, max_size=12))
def test_smallest_rectangle_holds_every_point(points: list[tuple[float, float]]) -> None:
    cloud = np.array(points)
    quad = min_area_quad(cloud)
    box = quad_to_rotated_box(quad)
    assert polygon_area(quad) >= 0
    assert box.w >= box.h - 1e-3, "without a heading the first edge is a short one"
    across = np.array([-math.sin(box.angle_rad), math.cos(box.angle_rad)])
    along = np.array([math.cos(box.angle_rad), math.sin(box.angle_rad)])
    offset = cloud - (box.cx, box.cy)
    assert np.all(np.abs(offset @ along) <= box.w / 2 + 0.01)
    assert np.all(np.abs(offset @ across) <= box.h / 2 + 0.01)


@QUICK
@given(rotated, angle)
def test_a_known_heading_chooses_the_nearest_side(box: RotatedBox, heading: float) -> None:
    found = min_area_quad(np.array(rotated_box_to_quad(box)), heading)
    assert abs(wrap_angle(heading_of(found) - heading)) <= math.pi / 4 + 1e-3


@QUICK
@given(rotated)
def test_filling_covers_the_area_and_nothing_beyond_the_bounds(box: RotatedBox) -> None:
    """Each side is off by less than a pixel in all: the area's error is below w + h + 1."""
    assume(min(box.w, box.h) >= 2)
    quad = as_array(rotated_box_to_quad(box))
    frame = bounds(quad)
    left, top = math.floor(frame.x0) - 2, math.floor(frame.y0) - 2
    width, height = math.ceil(frame.x1) - left + 2, math.ceil(frame.y1) - top + 2
    filled = fill_polygon([quad - (left, top)], height, width)
    assert abs(filled.sum() - box.w * box.h) <= box.w + box.h + 1
    rows, columns = np.nonzero(filled)
    if rows.size:
        inside = Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        inside = inside.shift(left, top)
        assert inside.x0 >= frame.x0 - 0.5 and inside.x1 <= frame.x1 + 0.5
        assert inside.y0 >= frame.y0 - 0.5 and inside.y1 <= frame.y1 + 0.5


@QUICK
@given(st.lists(st.tuples(place, place), min_size=4, max_size=4))
def test_any_four_points_can_be_made_clockwise(points: list[tuple[float, float]]) -> None:
    quad: Quad = tuple(points)  # type: ignore[assignment]
    turned = clockwise(quad)
    assert polygon_area(turned) >= 0
    assert {turned[0], turned[1]} == {quad[0], quad[1]}, "the front edge stays the front edge"
