"""Geometry against shapely and against arithmetic done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from shapely import Polygon
from shapely.affinity import affine_transform

from rsgen.geometry import (
    Box,
    Quad,
    RotatedBox,
    apply_affine,
    as_array,
    box_quad,
    clip_polygon,
    clockwise,
    fill_polygon,
    heading_of,
    min_area_quad,
    polygon_area,
    quad_iou,
    quad_to_rotated_box,
    rotated_box_to_quad,
    similarity,
)


def test_the_worked_case_of_the_contract() -> None:
    """Quad (2,0)(6,0)(6,10)(2,10): front edge on top, so it faces up, heading -pi/2."""
    quad: Quad = ((2, 0), (6, 0), (6, 10), (2, 10))
    assert heading_of(quad) == pytest.approx(-math.pi / 2)
    box = quad_to_rotated_box(quad)
    assert (box.cx, box.cy, box.w, box.h) == (4, 5, 10, 4), "10 along the heading, 4 across"
    assert polygon_area(quad) == 40


def test_a_plane_turned_thirty_degrees_by_hand() -> None:
    """Nose at centre + 10 (cos 30, sin 30) = (8.660, 5): right and down on screen."""
    quad = rotated_box_to_quad(RotatedBox(0, 0, 20, 8, math.radians(30)))
    nose = (as_array(quad)[0] + as_array(quad)[1]) / 2
    np.testing.assert_allclose(nose, (8.6602540378, 5.0))
    # p1 = nose + 4 (sin 30, -cos 30), the left wing side seen from above
    np.testing.assert_allclose(quad[0], (8.6602540378 + 2.0, 5.0 - 3.4641016151))


def random_quads(count: int) -> list[tuple[Quad, Quad]]:
    rng = np.random.default_rng(5)
    boxes = [
        RotatedBox(*rng.uniform(20, 80, 2), *rng.uniform(4, 40, 2), rng.uniform(-4, 4))
        for _ in range(2 * count)
    ]
    quads = [rotated_box_to_quad(b) for b in boxes]
    return list(zip(quads[::2], quads[1::2], strict=True))


@pytest.mark.parametrize("pair", random_quads(12), ids=range(12))
def test_iou_and_area_agree_with_shapely(pair: tuple[Quad, Quad]) -> None:
    a, b = (Polygon(q) for q in pair)
    assert polygon_area(pair[0]) == pytest.approx(a.area)
    assert quad_iou(*pair) == pytest.approx(a.intersection(b).area / a.union(b).area)


@pytest.mark.parametrize("pair", random_quads(12), ids=range(12))
def test_clipping_agrees_with_shapely(pair: tuple[Quad, Quad]) -> None:
    window = Box(30, 25, 60, 70)
    expected = Polygon(pair[0]).intersection(Polygon(box_quad(window))).area
    got = sum(abs(polygon_area(p)) for p in clip_polygon(np.array(pair[0]), window))
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("pair", random_quads(8), ids=range(8))
def test_smallest_rectangle_agrees_with_shapely(pair: tuple[Quad, Quad]) -> None:
    points = np.concatenate([pair[0], pair[1]])
    expected = Polygon(points).convex_hull.minimum_rotated_rectangle.area
    assert polygon_area(min_area_quad(points)) == pytest.approx(expected, rel=1e-4)


def test_affine_agrees_with_shapely() -> None:
    move = similarity(1.7, 0.8, shift=(3, -4), about=(12, 9))
    quad = random_quads(1)[0][0]
    (a, b, x), (c, d, y) = move.tolist()
    expected = affine_transform(Polygon(quad), [a, b, c, d, x, y])
    np.testing.assert_allclose(apply_affine(move, quad), expected.exterior.coords[:-1])
    mirrored = clockwise(((4, 0), (0, 0), (0, 9), (4, 9)))
    assert Polygon(mirrored).exterior.is_ccw, "shapely's y points up: ccw there is clockwise here"


@pytest.mark.parametrize("pair", random_quads(6), ids=range(6))
def test_rasterised_area_agrees_with_counting_centres(pair: tuple[Quad, Quad]) -> None:
    """Every pixel centre is asked of shapely one by one."""
    from shapely import contains_xy

    y, x = np.mgrid[0:100, 0:100] + 0.5
    expected = contains_xy(Polygon(pair[0]), x, y)
    got = fill_polygon([np.array(pair[0])], 100, 100)
    np.testing.assert_array_equal(got, expected)
