"""Polygons in pixels -> instances: outlines as masks, rectangles as boxes; and back to features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import shapely

from rsgen.formats.checks import check_box, check_outlines, check_quad, finite_numbers, no_pixel
from rsgen.formats.common import Problem
from rsgen.geometry import (
    Array,
    Box,
    Quad,
    apply_affine,
    as_array,
    bounds,
    box_quad,
    clockwise,
    heading_of,
    quad_from_tuple,
    quad_to_rotated_box,
    rotated_box_to_quad,
)
from rsgen.mask import Mask
from rsgen.records import Instance

__all__ = ["affine_matrix", "feature_of", "instance_of", "is_rectangle"]

Affine = tuple[float, float, float, float, float, float]
SLACK_PX = 0.3  # corners drawn by hand or rounded to whole pixels
SLACK_SHARE = 0.03  # of the short side
MAX_OUTLINE_PX = 100_000_000  # a lake over a whole scene would be decoded for every tile of it
MARKS = ("difficult", "iscrowd", "truncated")


def affine_matrix(affine: Affine) -> Array:
    """float64 [2, 3] from the terms (a, b, c, d, e, f)."""
    a, b, c, d, e, f = affine
    return np.array([[a, b, c], [d, e, f]])


def _four_corners(geometry: Any) -> Quad | None:
    """The corners of a polygon that has four, in their order."""
    if geometry.geom_type == "MultiPolygon" and len(geometry.geoms) == 1:
        geometry = geometry.geoms[0]
    if geometry.geom_type != "Polygon" or len(geometry.interiors):
        return None
    points = shapely.get_coordinates(geometry.exterior)
    return quad_from_tuple(points[:4]) if len(points) == 5 else None


def is_rectangle(geometry: Any) -> bool:
    """Whether a polygon in pixels has four corners at right angles, as far as one can draw."""
    quad = _four_corners(geometry)
    if quad is None:
        return False
    turned = clockwise(quad)
    fitted = quad_to_rotated_box(turned)
    off = np.abs(as_array(rotated_box_to_quad(fitted)) - as_array(turned)).max()
    return bool(off <= max(SLACK_PX, SLACK_SHARE * min(fitted.w, fitted.h)))


def _upright(quad: Quad) -> Box | None:
    """The box of corners that are those of an upright one, give or take the slack."""
    box, p = bounds(quad), as_array(quad)
    slack = max(SLACK_PX, SLACK_SHARE * min(box.width, box.height))
    on_x = np.minimum(np.abs(p[:, 0] - box.x0), np.abs(p[:, 0] - box.x1)) <= slack
    on_y = np.minimum(np.abs(p[:, 1] - box.y0), np.abs(p[:, 1] - box.y1)) <= slack
    return box if on_x.all() and on_y.all() and len({*map(tuple, p.round(6))}) == 4 else None


def instance_of(
    label: str,
    geometry: Any,
    kind: str,
    row: Mapping[str, Any],
    affine: Affine,
    size: tuple[int, int],
    *,
    faces: bool,
) -> Instance:
    """A feature, given in the pixels of an image of `size` = (width, height), as an instance.

    kind: stuff, outline, oriented (box), upright (box); box = upright or oriented, by its
    corners; anything else is an outline. `row` are its properties; `affine` brings a quad
    among them, which is in map coordinates, into pixels. faces: the first edge of every
    rectangle is the front.

    Raises:
        Problem: what `check_outlines`, `check_quad` and `check_box` find.
    """
    corners = _four_corners(geometry)
    if kind in ("box", "upright", "oriented") and corners is not None:
        made, cut = _boxed(label, corners, kind, size, faces or row.get("front") is True)
        return _marked(made, row, cut)
    parts = _rings(geometry)
    box, cut, _ = check_outlines(parts, *size)
    if box.area > MAX_OUTLINE_PX:
        raise Problem(
            "TooLarge",
            f"an outline over {box.width:.0f} x {box.height:.0f} pixels",
            f"split it: a mask may span {MAX_OUTLINE_PX:,} pixels",
        )
    mask = Mask.from_polygons(parts, *size)
    if mask is None:
        raise no_pixel()
    if kind == "stuff":
        return Instance(label, mask=mask, origin="polygon")
    quad = _given_quad(row, affine, size)
    front = quad is not None and (faces or row.get("front") is True)
    if quad is None and not kind and corners is not None and is_rectangle(geometry):
        quad = None if _upright(corners) is not None else clockwise(corners)
    heading = heading_of(quad) if quad is not None and front else None
    made = Instance(label, box, quad, mask, heading_rad=heading, origin="polygon")
    return _marked(made, row, cut)


def _boxed(
    label: str, corners: Quad, kind: str, size: tuple[int, int], faces: bool
) -> tuple[Instance, bool]:
    """(a box or oriented box, whether it reaches out of the image)."""
    upright = None if kind == "oriented" else _upright(corners)
    if upright is not None:
        box, cut = check_box(upright, *size)
        return Instance(label, box), cut
    quad, box, cut = check_quad([c for point in corners for c in point], *size)
    heading = heading_of(quad) if faces else None
    return Instance(label, box, quad, heading_rad=heading), cut


def _marked(instance: Instance, row: Mapping[str, Any], cut: bool) -> Instance:
    difficult, crowd, truncated = (row.get(mark) is True for mark in MARKS)
    return replace(instance, difficult=difficult, iscrowd=crowd, truncated=truncated or cut)


def _given_quad(row: Mapping[str, Any], affine: Affine, size: tuple[int, int]) -> Quad | None:
    """The oriented box that rsgen writes beside an outline, in pixels."""
    if not isinstance(row.get("quad"), list):
        return None
    corners = as_array(quad_from_tuple(finite_numbers(row["quad"], 8, "quad")))
    matrix = affine_matrix(affine)
    pixels = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return check_quad(pixels.ravel().tolist(), *size)[0]


def _rings(geometry: Any) -> list[Array]:
    """Every ring of a polygon or multipolygon, float64 [N, 2], not closed."""
    parts = list(getattr(geometry, "geoms", [geometry]))
    if len(parts) > 1 and not geometry.is_valid:
        # Filled even-odd, a part that covers another would be its hole.
        joined = shapely.union_all([shapely.make_valid(part) for part in parts])
        parts = [p for p in getattr(joined, "geoms", [joined]) if p.geom_type == "Polygon"]
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    found = [shapely.get_coordinates(ring)[:-1] for ring in rings]
    if not found or any(len(ring) < 3 for ring in found):
        raise Problem("ZeroArea", "an outline of fewer than three points", "draw it anew")
    return found


# ---------------------------------------------------------------- writing


def feature_of(instance: Instance, affine: Affine, *, stuff: bool) -> dict[str, Any] | None:
    """A GeoJSON feature in map coordinates; None for an instance without any shape.

    `shape` says what the geometry is: outline (the mask's exact pixels), oriented or upright
    (a box). `quad` is the oriented box beside an outline; `front`: its first edge, or the
    rectangle's, is the object's front.
    """
    matrix = affine_matrix(affine)
    properties: dict[str, Any] = {"label": instance.label}
    if stuff:
        properties["kind"] = "stuff"
    if instance.mask is not None:
        properties["shape"] = "outline"
        polygons = [[_ring(ring, matrix) for ring in rings] for rings in instance.mask.rings()]
        geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": polygons}
        if len(polygons) == 1:
            geometry = {"type": "Polygon", "coordinates": polygons[0]}
        if instance.quad is not None:
            properties["quad"] = apply_affine(matrix, instance.quad).ravel().tolist()
    elif instance.quad is not None:
        properties["shape"] = "oriented"
        geometry = _polygon(instance.quad, matrix)
    elif instance.box is not None:
        properties["shape"] = "upright"
        geometry = _polygon(box_quad(instance.box), matrix)
    else:
        return None
    if instance.quad is not None and instance.heading_rad is not None:
        properties["front"] = True
    for mark in MARKS:
        if getattr(instance, mark):
            properties[mark] = True
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def _polygon(quad: Quad, matrix: Array) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [_ring(as_array(quad), matrix)]}


def _ring(points: Array, matrix: Array) -> list[list[float]]:
    """A closed ring in map coordinates."""
    found: list[list[float]] = apply_affine(matrix, points).tolist()
    return [*found, found[0]]
