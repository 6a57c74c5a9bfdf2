"""Cutting large images: tile plans, and layouts clipped to a tile.

A label that a tile cuts is clipped as a polygon and fitted again with a rotated rectangle of
the same direction, so its heading stays true; it is marked truncated.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rsgen.errors import UsageError
from rsgen.geometry import (
    Array,
    Quad,
    Window,
    as_array,
    bounds,
    box_quad,
    clip_polygon,
    polygon_area,
    quad_from_tuple,
)
from rsgen.records import Geo, Instance, Layout, Sample

__all__ = [
    "LARGE",
    "Window",
    "cut_layout",
    "cut_sample",
    "fit_along",
    "needs_tiling",
    "plan_tiles",
    "tile_id",
]

LARGE = 1.5  # only scenes whose long side is over this many tiles are cut
KEEP = 0.3
WHOLE = 1 - 1e-6


def needs_tiling(width: int, height: int, size: int) -> bool:
    """Whether `--tile auto` cuts a scene: its long side is over 1.5 tiles."""
    return max(width, height) > LARGE * size


def _starts(length: int, size: int, gap: int) -> list[int]:
    if length <= size:
        return [0]
    inner = list(range(0, length - size, size - gap))
    return [*inner, length - size]


def plan_tiles(width: int, height: int, size: int, gap: int = 0) -> list[Window]:
    """Tiles in row order that overlap by at least `gap` pixels and cover the scene.

    The last tile of a row or column is shifted back to the edge, so all have the full size;
    a scene shorter than a tile gives a tile of its own length.

    Raises:
        UsageError: size or gap out of range.
    """
    if size < 1 or not 0 <= gap < size:
        raise UsageError(
            f"tiles of {size} pixels with a gap of {gap}",
            hint="the size must be at least 1, the gap at least 0 and smaller than the size",
        )
    return [
        Window(x0, y0, min(size, width), min(size, height))
        for y0 in _starts(height, size, gap)
        for x0 in _starts(width, size, gap)
    ]


def fit_along(points: Array, angle_rad: float) -> Quad:
    """The smallest rectangle around points whose first edge faces `angle_rad`; clockwise."""
    p = as_array(points)
    along = np.array([math.cos(angle_rad), math.sin(angle_rad)])
    across = np.array([-along[1], along[0]])
    u, v = p @ along, p @ across
    front, back, left, right = u.max(), u.min(), v.min(), v.max()
    corners = [(front, left), (front, right), (back, right), (back, left)]
    return quad_from_tuple(np.stack([a * along + b * across for a, b in corners]))


def _front_normal(quad: Quad) -> float:
    """The direction from the back edge's midpoint to the front edge's."""
    p = as_array(quad)
    direction = (p[0] + p[1]) - (p[2] + p[3])
    return math.atan2(direction[1], direction[0])


def _cut_thing(instance: Instance, window: Window, keep: float) -> Instance | None:
    """One thing in the tile's frame; None when less than `keep` of it is left."""
    outline = instance.quad or (None if instance.box is None else box_quad(instance.box))
    if outline is not None and not _overlaps(outline, window):
        return None
    parts = [] if outline is None else clip_polygon(as_array(outline), window.box)
    whole = 0.0 if outline is None else abs(polygon_area(outline))
    share = sum(abs(polygon_area(p)) for p in parts) / whole if whole > 0 else 0.0
    mask = None
    if instance.mask is not None:
        mask = instance.mask.window(window.x0, window.y0, window.width, window.height)
        share = 0.0 if mask is None else mask.area / instance.mask.area
    if share < keep or share <= 0 or (outline is not None and not parts):
        return None
    if share >= WHOLE and _is_inside(outline, window):
        return _shifted(instance, window)
    offset = np.array([window.x0, window.y0], dtype=np.float64)
    points = np.concatenate(parts) - offset if parts else None
    quad = box = None
    if instance.quad is not None and points is not None:
        quad = fit_along(points, _front_normal(instance.quad))
    if instance.box is not None and points is not None:
        box = bounds(points)
    # A quad's empty corner may be cut where the object itself is whole.
    truncated = instance.truncated or share < WHOLE
    return replace(instance, quad=quad, box=box, mask=mask, truncated=truncated)


def _overlaps(outline: Quad, window: Window) -> bool:
    """Most labels of a large scene lie in other tiles: told without clipping."""
    xs, ys = [p[0] for p in outline], [p[1] for p in outline]
    right, bottom = window.x0 + window.width, window.y0 + window.height
    return max(xs) > window.x0 and min(xs) < right and max(ys) > window.y0 and min(ys) < bottom


def _is_inside(outline: Quad | None, window: Window) -> bool:
    """Whether a label needs no clipping, give or take a rounding error."""
    if outline is None:
        return True
    found, clipped = bounds(outline), window.box
    slack = 1e-6
    return (
        found.x0 >= clipped.x0 - slack
        and found.y0 >= clipped.y0 - slack
        and found.x1 <= clipped.x1 + slack
        and found.y1 <= clipped.y1 + slack
    )


def _shifted(instance: Instance, window: Window) -> Instance:
    dx, dy = -window.x0, -window.y0
    quad = instance.quad
    return replace(
        instance,
        box=None if instance.box is None else instance.box.shift(dx, dy),
        quad=None if quad is None else quad_from_tuple(as_array(quad) + (dx, dy)),
        mask=None if instance.mask is None else instance.mask.shift(dx, dy),
    )


def cut_layout(layout: Layout, window: Window, keep: float = KEEP) -> Layout:
    """The layout of a tile: labels clipped, those with less than a share `keep` inside left out.

    The share is that of the mask's pixels where there is a mask, else of the quad or box.
    A label without box and quad (stuff) is windowed and kept however little is left.
    """
    kept: list[Instance] = []
    for instance in layout.instances:
        if instance.box is None and instance.quad is None:
            mask = instance.mask
            if mask is not None:
                mask = mask.window(window.x0, window.y0, window.width, window.height)
            if mask is not None:
                kept.append(replace(instance, mask=mask))
            continue
        cut = _cut_thing(instance, window, keep)
        if cut is not None:
            kept.append(cut)
    return replace(layout, width=window.width, height=window.height, instances=tuple(kept))


def tile_id(sample: Sample, window: Window) -> str:
    """What a tile is called."""
    return f"{sample.id}#{window.x0},{window.y0}"


def cut_sample(sample: Sample, window: Window, keep: float = KEEP) -> Sample:
    """A tile as a sample `id#x0,y0` of the same parent scene; its image is yet to be written."""
    geo = sample.geo
    if geo is not None:
        a, b, c, d, e, f = geo.affine
        x, y = window.x0, window.y0
        geo = Geo(geo.crs, (a, b, c + a * x + b * y, d, e, f + d * x + e * y))
    return replace(
        sample,
        id=tile_id(sample, window),
        layout=cut_layout(sample.layout, window, keep),
        image=None,
        sha256=None,
        geo=geo,
        provenance=replace(sample.provenance, parent=sample.parent),
    )
