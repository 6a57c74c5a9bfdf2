"""Tank farms: grids of round tanks in bunds, pipe racks, service roads."""

from __future__ import annotations

import math

import numpy as np

from rsgen.scenes.canvas import Canvas
from rsgen.scenes.facilities import storage_tank
from rsgen.scenes.marks import line, path, scatter_trees
from rsgen.scenes.props import flat_hall
from rsgen.scenes.shapes import Colour, rectangle
from rsgen.scenes.vehicles import large_vehicle, van

__all__ = ["tank_farm"]

PIPE: Colour = (188.0, 186.0, 178.0)


def tank_farm(canvas: Canvas) -> None:
    """Blocks of equal tanks between roads; a block has its own roof kind and ground."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    grounds = (("gravel", None), ("concrete", "pavement"), ("grass", "grass"), ("soil", None))
    canvas.flood(*grounds[int(rng.choice(4, p=(0.3, 0.3, 0.25, 0.15)))])
    block = float(rng.uniform(62, 96)) * canvas.gsd_m / 0.7
    road = float(rng.uniform(6.5, 9.0))
    x0 = -r - float(rng.uniform(0, block))
    roads = []
    centres = []
    while x0 < r:
        y0 = -r - float(rng.uniform(0, 0.25)) * block
        while y0 < r:
            centres.append((x0 + block / 2 + road / 2, y0 + block / 2 + road / 2))
            y0 += block + road
            roads.append(rectangle(x0, y0 - road / 2, x0 + block + road * 1.5, y0 + road / 2))
        roads.append(rectangle(x0 - road / 2, -r, x0 + road / 2, r))
        x0 += block + road
    blocks = [
        rectangle(x - block / 2, y - block / 2, x + block / 2, y + block / 2) for x, y in centres
    ]
    for outline in blocks:
        material, stuff = grounds[int(rng.integers(4))]
        if rng.random() < 0.35:
            canvas.fill([outline], material, stuff)
    canvas.fill(roads, "asphalt", "road")
    for x, y in centres:
        if math.hypot(x, y) < r + block:
            _block(canvas, x, y, block)
    for _ in range(int(rng.integers(1, 4)) + int(r / 50)):
        x, y = centres[int(rng.integers(len(centres)))]
        vehicle = large_vehicle(rng, style) if rng.random() < 0.6 else van(rng, style)
        lane = block / 2 + road / 2 + rng.choice((-1.6, 1.6))
        if rng.random() < 0.5:
            canvas.place(
                vehicle, x + rng.uniform(-0.5, 0.5) * block, y + lane, rng.choice((0.0, math.pi))
            )
        else:
            canvas.place(
                vehicle,
                x - lane,
                y + rng.uniform(-0.5, 0.5) * block,
                rng.choice((-1.0, 1.0)) * math.pi / 2,
            )
    scatter_trees(canvas, int(rng.integers(0, 10)), (1.2, 2.8))


def _block(canvas: Canvas, x: float, y: float, side: float) -> None:
    rng, style = canvas.rng, canvas.style
    inner = side / 2 - 2.5
    wall = path(
        (x - inner, y - inner),
        (x + inner, y - inner),
        (x + inner, y + inner),
        (x - inner, y + inner),
        (x - inner, y - inner),
    )
    earth = rng.random() < 0.5
    canvas.strokes(
        [wall],
        2.2 if earth else 0.7,
        (138.0, 124.0, 98.0) if earth else (186.0, 182.0, 174.0),
        0.85,
    )
    lee = wall - canvas_shift(canvas, 0.9)
    canvas.strokes([lee], 0.6, (60.0, 56.0, 52.0), 0.5)
    per_row = int(rng.choice((1, 2, 2, 3, 3, 4)))
    pitch = (2 * inner - 4) / per_row
    radius = float(np.clip(pitch * rng.uniform(0.33, 0.43), 6.5 * canvas.gsd_m, 27 * canvas.gsd_m))
    per_row = max(1, min(per_row, int((2 * inner - 2) / (2 * radius + 2))))
    pitch = (2 * inner - 2) / per_row
    kind = ("cone", "dome", "floating", "floating", "flat")[int(rng.integers(5))]
    rack = y + (0 if per_row % 2 == 0 else pitch / 2)
    pipes = [
        line(x - inner, rack + k * 0.8, x + inner, rack + k * 0.8)
        for k in range(int(rng.integers(1, 5)))
    ]
    canvas.strokes([p + canvas_shift(canvas, -0.7) for p in pipes], 0.4, (50.0, 48.0, 46.0), 0.5)
    canvas.strokes(pipes, 0.42, PIPE, 0.95)
    if rng.random() < 0.1:
        hall = flat_hall(rng, style, side * 0.6, side * 0.35, 6.0)
        canvas.place(hall, x, y, 0.0, layer="prop")
    for i in range(per_row):
        for j in range(per_row):
            if rng.random() < 0.1:
                continue
            tx = x - inner + 1 + (i + 0.5) * pitch
            ty = y - inner + 1 + (j + 0.5) * pitch
            size = radius * (rng.uniform(0.9, 1.0) if rng.random() < 0.8 else rng.uniform(0.6, 0.9))
            canvas.strokes([line(tx, ty, tx, rack)], 0.5, PIPE, 0.9)
            chosen = kind if rng.random() < 0.85 else "cone"
            canvas.place(storage_tank(rng, style, size, chosen), tx, ty, -canvas.turn_rad)


def canvas_shift(canvas: Canvas, metres: float) -> np.ndarray:
    """A world vector that points toward the sun on screen."""
    c, s = math.cos(-canvas.turn_rad), math.sin(-canvas.turn_rad)
    x, y = canvas.sun
    return np.array([c * x - s * y, s * x + c * y]) * metres
