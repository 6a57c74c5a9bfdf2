"""Lines on the ground and scattered trees, shared by the themes."""

from __future__ import annotations

import numpy as np

from rsgen.geometry import Array
from rsgen.scenes.canvas import Canvas
from rsgen.scenes.props import tree

__all__ = ["dashes", "line", "path", "scatter_trees", "wavy_edge"]


def line(x0: float, y0: float, x1: float, y1: float) -> Array:
    return np.array([(x0, y0), (x1, y1)], dtype=np.float64)


def path(*points: tuple[float, float]) -> Array:
    return np.array(points, dtype=np.float64)


def dashes(x0: float, y0: float, x1: float, y1: float, length: float, gap: float) -> list[Array]:
    """A dashed line from (x0, y0) to (x1, y1)."""
    start, end = np.array([x0, y0]), np.array([x1, y1])
    total = float(np.linalg.norm(end - start))
    along = (end - start) / max(total, 1e-9)
    starts = np.arange(0.0, total, length + gap)
    return [np.stack([start + along * s, start + along * min(s + length, total)]) for s in starts]


def wavy_edge(
    rng: np.random.Generator, x0: float, x1: float, y: float, far: float, swing: float
) -> Array:
    """The area between a wandering line near `y` and the straight line at `far`."""
    count = 40
    xs = np.linspace(x0, x1, count)
    wave = np.zeros(count)
    for k in (1, 2, 4, 8):
        wave += np.sin(xs / (x1 - x0) * 6.28 * k * rng.uniform(0.6, 1.4) + rng.uniform(0, 6.28)) / k
    shore = np.stack([xs, y + swing * wave], axis=1)
    return np.concatenate([shore, [(x1, far), (x0, far)]])


def scatter_trees(
    canvas: Canvas,
    count: int,
    radius: tuple[float, float],
    area: tuple[float, float, float, float] | None = None,
) -> None:
    """Trees and bushes, singly and in clumps, clear of everything already placed."""
    rng = canvas.rng
    r = canvas.radius_m
    x0, y0, x1, y1 = area if area is not None else (-r, -r, r, r)
    if x1 < x0 or y1 < y0:  # a small picture has no such strip of ground
        return
    x, y = 0.0, 0.0
    for k in range(count):
        if k == 0 or rng.random() < 0.55:
            x, y = rng.uniform(x0, x1), rng.uniform(y0, y1)
        else:
            x = float(np.clip(x + rng.normal(0, radius[1]), x0, x1))
            y = float(np.clip(y + rng.normal(0, radius[1]), y0, y1))
        if not canvas.sees(float(x), float(y), radius[1] * 3):
            continue
        crown = tree(rng, canvas.style, float(rng.uniform(*radius)))
        canvas.place(
            crown, x, y, float(rng.uniform(-3.1, 3.1)), margin_m=-0.25 * radius[0], layer="crown"
        )
