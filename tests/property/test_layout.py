"""Planner laws: placing never bends a label, nothing leaves the canvas, nothing overlaps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity
from shapely.geometry import MultiPolygon, Polygon

from rsgen.geometry import RotatedBox, apply_affine, as_array, heading_of, rotated_box_to_quad
from rsgen.layout import load_templates, place_mask, placement, plan_from_layout, plan_from_pool
from rsgen.mask import Mask
from rsgen.pool import canonical_pose
from rsgen.records import Layout, Sample
from rsgen.scenes import SCENE_CLASSES, SCENE_TYPES, render_scene
from tests import layout_build
from tests.layout_build import SCENE_LIKE, SIZES_M, shape

POOL = layout_build.pool()
TEMPLATES = load_templates((), SCENE_LIKE)


def outline(pixels: np.ndarray) -> MultiPolygon:
    """The canonical mask's outline on pixel edges, holes kept."""
    mask = Mask.from_array(pixels)
    assert mask is not None
    return MultiPolygon([(rings[0], rings[1:]) for rings in mask.rings()])


def covered(polygon: MultiPolygon, width: int, height: int) -> np.ndarray:
    """Pixels whose centre lies in a polygon, by shapely alone."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    inside: np.ndarray = shapely.contains_xy(polygon, x.ravel(), y.ravel()).reshape(height, width)
    return inside


boxes = st.builds(
    RotatedBox,
    cx=st.floats(40, 88),
    cy=st.floats(40, 88),
    w=st.floats(32, 70),
    h=st.floats(6, 60),
    angle_rad=st.floats(-math.pi, math.pi, exclude_max=True),
)


@settings(max_examples=60, deadline=None)
@given(boxes, st.sampled_from(sorted(SIZES_M)), st.integers(12, 60), st.integers(8, 40))
def test_placing_maps_the_canonical_box_to_the_label(
    box: RotatedBox, label: str, width: int, height: int
) -> None:
    """The affine hits the corners to 1e-6 and the raster is the mapped outline (IoU >= 0.98).

    A pixel whose centre lies on the outline may fall on either side.
    """
    pixels = shape(label, width, height)
    quad = rotated_box_to_quad(box)
    matrix = placement(pixels, quad)
    corners = np.array([(width, 0), (width, height), (0, height), (0, 0)], dtype=float)
    assert np.abs(apply_affine(matrix, corners) - as_array(quad)).max() < 1e-6

    mask = place_mask(pixels, quad, 128, 128)
    assert mask is not None
    (a, b, c), (d, e, f) = matrix.tolist()
    mapped = affinity.affine_transform(outline(pixels), [a, b, d, e, c, f])
    sure, possible = (covered(mapped.buffer(step), 128, 128) for step in (-1e-6, 1e-6))
    found = mask.to_array(128, 128)
    expected = sure | (found & possible)
    assert (found & expected).sum() / (found | expected).sum() >= 0.98


@settings(max_examples=40, deadline=None)
@given(boxes)
def test_the_front_lands_on_the_first_edge(box: RotatedBox) -> None:
    """Catches a mirrored or half-turned mask: the plane's nose side must look ahead."""
    pixels = np.zeros((21, 40), dtype=bool)
    pixels[:, 30:] = True  # all in front
    pixels[:7, :30] = True  # and a bar on the left side (lower y in canonical pose)
    quad = rotated_box_to_quad(box)
    mask = place_mask(pixels, quad, 128, 128)
    assert mask is not None
    rows, columns = np.nonzero(mask.to_array(128, 128))
    dx, dy = columns + 0.5 - box.cx, rows + 0.5 - box.cy
    c, s = math.cos(box.angle_rad), math.sin(box.angle_rad)
    assert (dx * c + dy * s).mean() > 0 and (dy * c - dx * s).mean() < 0
    assert math.isclose(
        math.remainder(heading_of(quad) - box.angle_rad, 2 * math.pi), 0.0, abs_tol=1e-9
    )


def check(layout: Layout, *, cut: bool = False) -> None:
    """What every planned layout keeps to."""
    taken = np.zeros((layout.height, layout.width), dtype=int)
    sizes = []
    for instance in layout.instances:
        assert instance.mask is not None
        taken += instance.mask.to_array(layout.width, layout.height)
        if SCENE_LIKE.is_stuff(instance.label):
            assert instance.box is None and instance.quad is None
            assert not sizes, "stuff comes first"
            continue
        sizes.append(instance.mask.area)
        assert instance.box == instance.mask.box and instance.quad is not None
        quad = Polygon(instance.quad)
        assert quad.exterior.is_ccw  # y down: clockwise on screen
        centres = [
            (x + 0.5, y + 0.5)
            for y, x in np.argwhere(instance.mask.to_array(layout.width, layout.height))
        ]
        assert shapely.distance(quad, shapely.points(centres)).max() < 1e-6
        corners = as_array(instance.quad)
        within = (corners >= -1e-6).all() and (
            corners <= np.array([layout.width, layout.height]) + 1e-6
        ).all()
        assert within != instance.truncated and (cut or within)
        if instance.heading_rad is not None:
            assert math.isclose(heading_of(instance.quad), instance.heading_rad, abs_tol=1e-9)
    assert taken.max(initial=0) <= 1, "masks are disjoint"
    assert sizes == sorted(sizes, reverse=True), "large to small"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([(128, 128), (96, 160), (64, 64), (300, 300)]),
    st.sampled_from([None, 0.4, 0.8]),
)
def test_plans_from_a_pool(seed: int, size: tuple[int, int], gsd_m: float | None) -> None:
    plan = plan_from_pool(POOL, SCENE_LIKE, TEMPLATES, np.random.default_rng(seed), size, gsd_m)
    again = plan_from_pool(POOL, SCENE_LIKE, TEMPLATES, np.random.default_rng(seed), size, gsd_m)
    assert plan == again
    check(plan.layout)
    assert (plan.layout.width, plan.layout.height) == size
    assert plan.counts["placed"] >= 1 or any("no room" in note for note in plan.notes)
    things = [i for i in plan.layout.instances if not SCENE_LIKE.is_stuff(i.label)]
    assert len(things) == plan.counts["placed"]
    assert all(i.origin.startswith("pool:") for i in things)
    assert set(plan.sources) <= {"a.png", "b.png", "c.png"} and bool(plan.sources) == bool(things)
    if not plan.counts["shrunk"]:
        gsd = plan.layout.gsd_m
        assert gsd is not None
        for thing in things:
            assert thing.quad is not None
            box = as_array(thing.quad)
            along = np.linalg.norm(box[1] - box[2]) * gsd
            lowest = SIZES_M[thing.label][0] * 0.93
            assert lowest <= along <= (SIZES_M[thing.label][0] + 1.5) * 1.07


SCENES = [render_scene(seed, 128, scene=SCENE_TYPES[seed % 6])[1] for seed in range(6)]


@pytest.mark.parametrize("mode", ["resample", "perturb"])
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 5))
def test_plans_from_layouts(mode: str, seed: int, scene: int) -> None:
    """Placed objects carry masks of other images only, and labels follow them."""
    sample = Sample("a.png", SCENES[scene])
    plan = plan_from_layout(
        sample,
        POOL,
        np.random.default_rng(seed),
        mode=mode,  # type: ignore[arg-type]
        classes=SCENE_CLASSES,
    )
    banned = {
        f"pool:{POOL.get(row).id}"
        for row in range(len(POOL))
        if POOL.get(row).sources == ("a.png",)
    }
    taken = np.zeros((128, 128), dtype=int)
    for instance in plan.layout.instances:
        assert instance.mask is not None
        taken += instance.mask.to_array(128, 128)
        if instance.quad is None:
            continue
        assert instance.origin.startswith("pool:") and instance.origin not in banned
        again = canonical_pose(instance)
        assert again is not None
        if instance.heading_rad is not None:
            assert math.isclose(heading_of(instance.quad), instance.heading_rad, abs_tol=1e-9)
    assert taken.max() <= 1
    assert plan.counts.get("same_source", 0) == 0
