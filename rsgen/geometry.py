"""Boxes, rotated boxes, quads and affine moves.

Frame: pixels with half-open edges, x right, y down. Pixel (row r, column c) covers
[c, c+1) x [r, r+1). Angles are radians from +x toward +y, in [-pi, pi). A quad is
float64 [4, 2], four corners clockwise on screen; its first edge p1 -> p2 is the front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry import box as shapely_box
from shapely.validation import make_valid

__all__ = [
    "Affine",
    "Array",
    "Box",
    "Quad",
    "RotatedBox",
    "Window",
    "apply_affine",
    "as_array",
    "bounds",
    "box_iou",
    "box_quad",
    "clip_polygon",
    "clockwise",
    "compose",
    "fill_polygon",
    "heading_of",
    "min_area_quad",
    "polygon_area",
    "quad_from_tuple",
    "quad_iou",
    "quad_to_rotated_box",
    "rotated_box_to_quad",
    "similarity",
    "square_to_quad",
    "wrap_angle",
]

Array = npt.NDArray[np.float64]
Quad = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
Affine = Array  # float64 [2, 3], maps column (x, y, 1) to (x', y')


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned box, half-open pixel edges."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    @property
    def center(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def clip(self, width: float, height: float) -> Box:
        """The part inside an image of this size (zero area when outside)."""
        x0, x1 = min(max(self.x0, 0.0), width), min(max(self.x1, 0.0), width)
        y0, y1 = min(max(self.y0, 0.0), height), min(max(self.y1, 0.0), height)
        return Box(x0, y0, max(x0, x1), max(y0, y1))

    def shift(self, dx: float, dy: float) -> Box:
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image in whole pixels of it: a tile of a scene."""

    x0: int
    y0: int
    width: int
    height: int

    @property
    def box(self) -> Box:
        return Box(
            float(self.x0),
            float(self.y0),
            float(self.x0 + self.width),
            float(self.y0 + self.height),
        )


@dataclass(frozen=True, slots=True)
class RotatedBox:
    """Rotated box: w runs along `angle_rad`, h across it; the heading edge is the +w side."""

    cx: float
    cy: float
    w: float
    h: float
    angle_rad: float


def wrap_angle(angle_rad: float) -> float:
    """The same direction in [-pi, pi)."""
    wrapped = math.fmod(angle_rad + math.pi, 2 * math.pi)
    if wrapped < 0:
        wrapped += 2 * math.pi
    return -math.pi if wrapped >= 2 * math.pi else wrapped - math.pi


def as_array(points: Quad | Array | list[tuple[float, float]]) -> Array:
    """Points as float64 [N, 2]."""
    return np.asarray(points, dtype=np.float64).reshape(-1, 2)


def quad_from_tuple(points: Array | list[float] | Quad) -> Quad:
    """Four (x, y) pairs as nested tuples, from any 8 numbers."""
    p = np.asarray(points, dtype=np.float64).reshape(4, 2).tolist()
    return ((p[0][0], p[0][1]), (p[1][0], p[1][1]), (p[2][0], p[2][1]), (p[3][0], p[3][1]))


def rotated_box_to_quad(box: RotatedBox) -> Quad:
    """Corners clockwise on screen; the first edge is the side that `angle_rad` points to."""
    c, s = math.cos(box.angle_rad), math.sin(box.angle_rad)
    along = np.array([c, s]) * (box.w / 2)
    across = np.array([-s, c]) * (box.h / 2)
    centre = np.array([box.cx, box.cy])
    corners = [
        centre + along - across,
        centre + along + across,
        centre - along + across,
        centre - along - across,
    ]
    return quad_from_tuple(np.stack(corners))


def quad_to_rotated_box(quad: Quad) -> RotatedBox:
    """Inverse of `rotated_box_to_quad` for rectangles; mean edge lengths otherwise."""
    p = as_array(quad)
    centre = p.mean(axis=0)
    front = (p[0] + p[1]) / 2
    w = (np.linalg.norm(p[1] - p[2]) + np.linalg.norm(p[0] - p[3])) / 2
    h = (np.linalg.norm(p[1] - p[0]) + np.linalg.norm(p[2] - p[3])) / 2
    direction = front - centre
    angle = math.atan2(direction[1], direction[0]) if np.any(direction) else 0.0
    return RotatedBox(float(centre[0]), float(centre[1]), float(w), float(h), wrap_angle(angle))


def heading_of(quad: Quad) -> float:
    """Direction from the centre to the midpoint of the first edge, radians in [-pi, pi)."""
    return quad_to_rotated_box(quad).angle_rad


def box_quad(box: Box) -> Quad:
    """The box's corners clockwise from the top left."""
    return ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1))


def bounds(points: Quad | Array) -> Box:
    """The tight axis-aligned box around points."""
    p = as_array(points)
    (x0, y0), (x1, y1) = p.min(axis=0), p.max(axis=0)
    return Box(float(x0), float(y0), float(x1), float(y1))


def polygon_area(points: Quad | Array) -> float:
    """Signed shoelace area; positive when the corners run clockwise on screen (y down)."""
    p = as_array(points)
    x, y = p[:, 0], p[:, 1]
    return float(0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def clockwise(quad: Quad) -> Quad:
    """The same first edge with corners clockwise on screen (p1 and p2 swap when mirrored)."""
    if polygon_area(quad) >= 0:
        return quad
    p1, p2, p3, p4 = quad
    return (p2, p1, p4, p3)


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two axis-aligned boxes, in [0, 1]."""
    w = min(a.x1, b.x1) - max(a.x0, b.x0)
    h = min(a.y1, b.y1) - max(a.y0, b.y0)
    if w <= 0 or h <= 0:
        return 0.0
    inter = w * h
    return inter / (a.area + b.area - inter)


def quad_iou(a: Quad, b: Quad) -> float:
    """Intersection over union of two convex quads, in [0, 1]; 0 where either is degenerate."""
    pa, pb = Polygon(a), Polygon(b)
    if not pa.is_valid or not pb.is_valid:
        pa, pb = pa.convex_hull, pb.convex_hull
    union = pa.union(pb).area
    return float(pa.intersection(pb).area / union) if union > 0 else 0.0


def clip_polygon(points: Array, window: Box) -> list[Array]:
    """Parts of a polygon inside a window, each float64 [N, 2] without a closing point."""
    polygon = Polygon(as_array(points))
    if not polygon.is_valid:
        polygon = make_valid(polygon)
    cut = polygon.intersection(shapely_box(window.x0, window.y0, window.x1, window.y1))
    parts = list(cut.geoms) if hasattr(cut, "geoms") else [cut]
    flat: list[Polygon] = []
    for part in parts:
        if isinstance(part, MultiPolygon):
            flat.extend(part.geoms)
        elif isinstance(part, Polygon):
            flat.append(part)
    return [np.asarray(p.exterior.coords[:-1], dtype=np.float64) for p in flat if p.area > 0]


def min_area_quad(points: Array, heading_rad: float | None = None) -> Quad:
    """The smallest rotated rectangle around points, clockwise.

    With a heading, the first edge is the side that faces it best; else the box's long side
    runs along p2 -> p3, so that the first edge is a short one.
    """
    p = as_array(points)
    corners = cv2.boxPoints(cv2.minAreaRect(p.astype(np.float32))).astype(np.float64)
    if polygon_area(corners) < 0:
        corners = corners[::-1]
    turns = [quad_from_tuple(np.roll(corners, -k, axis=0)) for k in range(4)]
    if heading_rad is not None:
        return max(turns, key=lambda q: math.cos(heading_of(q) - heading_rad))
    return min(turns, key=lambda q: math.hypot(q[1][0] - q[0][0], q[1][1] - q[0][1]))


def apply_affine(matrix: Affine, points: Quad | Array) -> Array:
    """Points [N, 2] through a [2, 3] matrix."""
    return as_array(points) @ matrix[:, :2].T + matrix[:, 2]


def compose(outer: Affine, inner: Affine) -> Affine:
    """The matrix that applies `inner`, then `outer`."""
    linear = outer[:, :2] @ inner[:, :2]
    offset = outer[:, :2] @ inner[:, 2] + outer[:, 2]
    return np.concatenate([linear, offset[:, None]], axis=1)


def similarity(
    scale: float = 1.0,
    angle_rad: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    about: tuple[float, float] = (0.0, 0.0),
) -> Affine:
    """Scale and turn about a point, then shift."""
    c, s = math.cos(angle_rad) * scale, math.sin(angle_rad) * scale
    linear = np.array([[c, -s], [s, c]])
    centre = np.array(about)
    offset = centre - linear @ centre + np.array(shift)
    return np.concatenate([linear, offset[:, None]], axis=1)


def square_to_quad(width: float, height: float, quad: Quad) -> Affine:
    """The affine that maps the canonical box [0, width] x [0, height] onto a rectangle quad.

    Canonical pose: the heading points to +x, so the right side x = width is the first edge
    p1 -> p2 = (width, 0) -> (width, height); exact for parallelograms.
    """
    p1, p2, _, p4 = (np.array(p, dtype=np.float64) for p in quad)
    along = (p1 - p4) / width
    across = (p2 - p1) / height
    return np.stack([along, across, p4], axis=1)


def fill_polygon(rings: list[Array], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Rasterise rings (even-odd, holes included) to bool [height, width].

    A pixel is set when its centre is inside; OpenCV's fill also sets the outline's pixels,
    which makes thin objects a pixel too wide.
    """
    from rasterio.features import rasterize

    closed = [np.vstack([r, r[:1]]).tolist() for r in map(as_array, rings) if len(r) >= 3]
    if not closed or height <= 0 or width <= 0:
        return np.zeros((height, width), dtype=bool)
    shape = {"type": "Polygon", "coordinates": closed}
    filled = rasterize([(shape, 1)], out_shape=(height, width), dtype="uint8")
    return np.asarray(filled, dtype=bool)
