"""Outlines in metres, and the drawing they make up.

Local frame of an object: x toward its front, y to its right (y down on screen when the
object faces +x), origin near its middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from rsgen.geometry import Array

__all__ = [
    "Colour",
    "Drawing",
    "Part",
    "bar",
    "disc",
    "ellipse",
    "lit_body",
    "mirrored",
    "rectangle",
    "rounded",
    "scaled",
    "shade",
    "symmetric",
]

Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Part:
    """One filled polygon, float64 [N, 2] in metres; `solid` parts make up the silhouette.

    `tilt` is the horizontal part of the surface normal (local frame): it is brightened or
    darkened by the sun when drawn.
    """

    points: Array
    colour: Colour
    solid: bool = False
    tilt: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Drawing:
    """An object as parts painted in order. `lifted`: its shadow is its outline moved, as
    for wings; otherwise the shadow of an upright block of `height_m`."""

    label: str | None
    kind: str
    parts: tuple[Part, ...]
    height_m: float = 0.0
    symmetric: bool = False
    lifted: bool = False
    extent: tuple[float, float, float, float] = field(default=(0.0, 0.0, 0.0, 0.0))

    @classmethod
    def of(
        cls,
        label: str | None,
        kind: str,
        parts: Iterable[Part],
        *,
        height_m: float = 0.0,
        symmetric: bool = False,
        lifted: bool = False,
    ) -> Drawing:
        """A drawing with `extent` = (x0, y0, x1, y1) of its solid parts in metres."""
        listed = tuple(parts)
        points = np.concatenate([p.points for p in listed if p.solid])
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return cls(label, kind, listed, height_m, symmetric, lifted, (x0, y0, x1, y1))

    @property
    def length(self) -> float:
        return self.extent[2] - self.extent[0]

    @property
    def width(self) -> float:
        return self.extent[3] - self.extent[1]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour times a brightness factor, kept in 0..255."""
    r, g, b = (min(max(c * factor, 0.0), 255.0) for c in colour)
    return (r, g, b)


def scaled(points: Array, sx: float, sy: float, dx: float = 0.0) -> Array:
    """Points stretched about the origin, then moved along x."""
    return np.asarray(points * np.array([sx, sy]) + np.array([dx, 0.0]), dtype=np.float64)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Array:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


def rounded(x0: float, y0: float, x1: float, y1: float, radius: float, steps: int = 3) -> Array:
    """A rectangle with round corners."""
    radius = min(radius, (x1 - x0) / 2, (y1 - y0) / 2)
    signs, units = _corners(steps)
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    inner = np.array([(x1 - x0) / 2 - radius, (y1 - y0) / 2 - radius])
    return np.asarray(middle + signs * inner + units * radius, dtype=np.float64)


@lru_cache(maxsize=8)
def _corners(steps: int) -> tuple[Array, Array]:
    """Signs of the corner and unit vectors of its arc, each [4 * (steps + 1), 2]."""
    quarter = np.linspace(0, math.pi / 2, steps + 1)
    angles = np.concatenate([quarter + k * math.pi / 2 for k in range(4)])
    signs = np.repeat([(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)], steps + 1, axis=0)
    return signs, np.stack([np.cos(angles), np.sin(angles)], axis=1)


@lru_cache(maxsize=32)
def _circle(steps: int) -> Array:
    angles = np.arange(steps) * (2 * math.pi / steps)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def ellipse(
    cx: float, cy: float, rx: float, ry: float | None = None, steps: int = 20, turn: float = 0.0
) -> Array:
    points = _circle(steps) * np.array([rx, rx if ry is None else ry])
    if turn:
        c, t = math.cos(turn), math.sin(turn)
        points = points @ np.array([[c, t], [-t, c]])
    return np.asarray(points + np.array([cx, cy]), dtype=np.float64)


def disc(cx: float, cy: float, radius: float, colour: Colour, *, solid: bool = False) -> Part:
    return Part(ellipse(cx, cy, radius, steps=24), colour, solid=solid)


def bar(p: tuple[float, float], q: tuple[float, float], width: float) -> Array:
    """A straight band from p to q."""
    a, b = np.array(p, dtype=np.float64), np.array(q, dtype=np.float64)
    along = b - a
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9) * (width / 2)
    return np.stack([a - across, b - across, b + across, a + across])


def symmetric(side: Points) -> Array:
    """A closed outline from its right half, listed front to back."""
    right = np.array(side, dtype=np.float64)
    left = right[::-1] * np.array([1.0, -1.0])
    return np.concatenate([right, left])


def mirrored(points: Points | Array, colour: Colour, *, solid: bool = False) -> list[Part]:
    """A part and its mirror image across the long axis."""
    right = np.asarray(points, dtype=np.float64)
    return [Part(right, colour, solid=solid), Part(right * np.array([1.0, -1.0]), colour, solid)]


def lit_body(side: Points, colour: Colour, roundness: float = 0.8) -> list[Part]:
    """A tube seen from above: outline, two flanks that take the sun, a bright ridge."""
    right = np.array(side, dtype=np.float64)
    axis = right[::-1] * np.array([1.0, 0.0])
    flank = np.concatenate([right, axis])
    ridge = symmetric([(x, y * 0.4) for x, y in side])
    return [
        Part(symmetric(side), colour, solid=True),
        Part(flank, colour, tilt=(0.0, roundness)),
        Part(flank * np.array([1.0, -1.0]), colour, tilt=(0.0, -roundness)),
        Part(ridge, shade(colour, 1.05)),
    ]
