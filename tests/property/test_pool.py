"""Canonical pose and back: the shape that was taken is the shape that is placed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgen.geometry import (
    Quad,
    apply_affine,
    fill_polygon,
    heading_of,
    quad_from_tuple,
    similarity,
    square_to_quad,
)
from rsgen.mask import Mask
from rsgen.pool import canonical_pose
from rsgen.records import Instance

SIZE = 160
Points = npt.NDArray[np.float64]

OUTLINES: dict[str, list[Points]] = {
    "plane": [
        np.array([(0.5, -0.05), (0.5, 0.05), (-0.5, 0.04), (-0.5, -0.04)]),
        np.array([(0.15, 0.0), (-0.15, 0.5), (-0.28, 0.5), (-0.08, 0.0)]),
        np.array([(0.15, 0.0), (-0.15, -0.5), (-0.28, -0.5), (-0.08, 0.0)]),
        np.array([(-0.36, 0.0), (-0.46, 0.2), (-0.5, 0.2), (-0.5, -0.2), (-0.46, -0.2)]),
    ],
    "hull": [np.array([(0.5, 0.0), (0.2, 0.16), (-0.5, 0.14), (-0.5, -0.14), (0.2, -0.16)])],
    "bar": [np.array([(0.5, 0.2), (-0.5, 0.2), (-0.5, -0.2), (0.5, -0.2)])],
    "ell": [
        np.array([(0.5, 0.3), (-0.5, 0.3), (-0.5, 0.0), (0.5, 0.0)]),
        np.array([(0.5, 0.3), (0.2, 0.3), (0.2, -0.3), (0.5, -0.3)]),
    ],
}


def drawn(name: str, length: float, angle: float, x: float, y: float) -> tuple[Mask, Quad]:
    """An outline as a mask, and the tight rectangle of its polygon facing `angle`."""
    matrix = similarity(length, angle, (x, y))
    canvas = np.zeros((SIZE, SIZE), bool)
    for part in OUTLINES[name]:
        canvas |= fill_polygon([apply_affine(matrix, part)], SIZE, SIZE)
    points = np.concatenate(OUTLINES[name])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    corners = apply_affine(matrix, np.array([(x1, y0), (x1, y1), (x0, y1), (x0, y0)]))
    mask = Mask.from_array(canvas)
    assert mask is not None
    return mask, quad_from_tuple(corners)


def placed(pixels: npt.NDArray[np.bool_], quad: Quad) -> Mask:
    mask = Mask.from_array(pixels)
    assert mask is not None and (mask.height, mask.width) == pixels.shape
    matrix = square_to_quad(mask.width, mask.height, quad)
    canvas = np.zeros((SIZE, SIZE), bool)
    for rings in mask.rings():
        canvas ^= fill_polygon([apply_affine(matrix, ring) for ring in rings], SIZE, SIZE)
    back = Mask.from_array(canvas)
    assert back is not None
    return back


POSES = {
    "name": st.sampled_from(sorted(OUTLINES)),
    "length": st.floats(32, 90),
    "angle": st.floats(-math.pi, math.pi),
    "x": st.floats(78, 82),
    "y": st.floats(78, 82),
}


@settings(max_examples=120, deadline=None)
@given(**POSES)
def test_canonical_pose_and_back_is_the_same_mask(
    name: str, length: float, angle: float, x: float, y: float
) -> None:
    """A pose off by a pixel or a flipped axis would show here, thin wings first."""
    mask, quad = drawn(name, length, angle, x, y)
    found = canonical_pose(Instance("x", quad=quad, mask=mask, heading_rad=heading_of(quad)))
    assert found is not None
    assert placed(found.pixels, found.quad).iou(mask) >= 0.9


@settings(max_examples=120, deadline=None)
@given(**POSES)
def test_placed_on_the_label_itself_it_is_the_same_mask(
    name: str, length: float, angle: float, x: float, y: float
) -> None:
    """Placing maps the canonical box on the label's own corners, whatever the raster lost."""
    mask, quad = drawn(name, length, angle, x, y)
    found = canonical_pose(Instance("x", quad=quad, mask=mask, heading_rad=heading_of(quad)))
    assert found is not None
    # Raster tips fall short of a polygon's by up to a pixel; that much of a side is stretch.
    stretch = sum(
        abs(a - b) / b
        for a, b in zip(
            (found.width_px, found.height_px),
            (math.dist(quad[1], quad[2]), math.dist(quad[0], quad[1])),
            strict=True,
        )
    )
    assert placed(found.pixels, quad).iou(mask) >= 0.9 - 2.5 * stretch


@settings(max_examples=80, deadline=None)
@given(**POSES)
def test_the_canonical_mask_touches_its_four_sides(
    name: str, length: float, angle: float, x: float, y: float
) -> None:
    """The placing side relies on it: the label's box is the mask's box."""
    mask, quad = drawn(name, length, angle, x, y)
    for heading in (heading_of(quad), None):
        label = quad if heading is not None else None
        found = canonical_pose(Instance("x", quad=label, mask=mask, heading_rad=heading))
        assert found is not None
        pixels = found.pixels
        assert all(s.any() for s in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
        assert pixels.shape[1] == math.ceil(found.width_px - 1e-6)
        assert pixels.shape[0] == math.ceil(found.height_px - 1e-6)


@settings(max_examples=60, deadline=None)
@given(pixels=st.integers(0, 2**32 - 1), height=st.integers(1, 9), width=st.integers(1, 9))
def test_any_small_mask_has_a_canonical_pose(pixels: int, height: int, width: int) -> None:
    rng = np.random.default_rng(pixels)
    mask = Mask.from_array(rng.random((height, width)) < 0.5, 3, 4)
    if mask is None:
        return
    for heading in (None, float(rng.uniform(-3, 3))):
        found = canonical_pose(Instance("x", mask=mask, heading_rad=heading))
        assert found is not None and found.pixels.any()
