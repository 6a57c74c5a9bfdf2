"""Harbours: quays, marinas, open water."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rsgen.scenes import ships
from rsgen.scenes.canvas import Canvas
from rsgen.scenes.marks import line, scatter_trees, wavy_edge
from rsgen.scenes.props import container, crane, flat_hall
from rsgen.scenes.shapes import Colour, Drawing, bar, rectangle
from rsgen.scenes.style import Style
from rsgen.scenes.vehicles import car, large_vehicle

__all__ = ["marina", "open_water", "quay"]

WOOD: Colour = (150.0, 134.0, 112.0)


Maker = Callable[[np.random.Generator, Style, float], Drawing]
_FLEET: tuple[tuple[float, tuple[Maker, ...]], ...] = (  # up to this length in metres
    (13.0, (ships.speedboat, ships.fishing_boat, ships.motor_yacht, ships.sailing_yacht)),
    (26.0, (ships.fishing_boat, ships.motor_yacht, ships.tug, ships.sailing_yacht)),
    (32.0, (ships.tug, ships.barge, ships.ferry, ships.fishing_boat, ships.motor_yacht)),
    (45.0, (ships.bulk_carrier, ships.tanker, ships.barge, ships.ferry, ships.motor_yacht)),
    (
        math.inf,
        (ships.container_ship, ships.bulk_carrier, ships.tanker, ships.ferry, ships.barge),
    ),
)


def big_ship(rng: np.random.Generator, canvas: Canvas, length: float) -> Drawing:
    """A ship kind that suits its length in metres."""
    makers = next(makers for longest, makers in _FLEET if length < longest)
    return makers[int(rng.integers(len(makers)))](rng, canvas.style, length)


def _wake(canvas: Canvas, x: float, y: float, facing: float, length: float, beam: float) -> None:
    """Turbulent trail astern, bow waves, and the two arms of the Kelvin wedge."""
    rng = canvas.rng
    c, s = math.cos(facing), math.sin(facing)

    def at(u: float, v: float) -> tuple[float, float]:
        return x + c * u - s * v, y + s * u + c * v

    reach = length * rng.uniform(1.2, 4.0)
    b = beam * 0.42
    trail = np.array(
        [
            at(-length * 0.46, -b),
            at(-length * 0.46, b),
            at(-length * 0.5 - reach, b * 1.7),
            at(-length * 0.5 - reach, -b * 1.7),
        ]
    )
    near = np.array(
        [
            at(-length * 0.45, -b),
            at(-length * 0.45, b),
            at(-length * 0.5 - reach * 0.35, b * 1.1),
            at(-length * 0.5 - reach * 0.35, -b * 1.1),
        ]
    )
    strength = float(rng.uniform(0.35, 0.8))
    canvas.foam([trail], strength * 0.5, beam * 0.12)
    canvas.foam([near], strength, beam * 0.08)
    arms = []
    for sign in (1.0, -1.0):
        angle = 0.2
        span = length * rng.uniform(0.7, 1.5)
        p = at(length * 0.44, sign * beam * 0.15)
        q = at(length * 0.44 - span, sign * (beam * 0.15 + span * math.tan(angle)))
        arms.append(bar(p, q, max(beam * 0.1, 0.5)))
    canvas.foam(arms, strength * 0.75, beam * 0.08)


def sail(canvas: Canvas, x: float, y: float, facing: float, length: float) -> bool:
    """A ship under way (or at anchor one time in six)."""
    rng = canvas.rng
    drawing = big_ship(rng, canvas, length)
    if not canvas.place(drawing, x, y, facing, margin_m=length * 0.08):
        return False
    if rng.random() < 0.84:
        _wake(canvas, x, y, facing, drawing.length, drawing.width)
    return True


def _ship_lengths(canvas: Canvas) -> tuple[float, float]:
    shortest = 25 * canvas.gsd_m
    view = min(canvas.width, canvas.height)
    return shortest, min(max(88.0, view * 0.34), 150.0) * canvas.gsd_m


def open_water(canvas: Canvas) -> None:
    """Ships under way, sometimes a shore."""
    rng = canvas.rng
    r = canvas.radius_m
    canvas.flood("water", "water")
    shore = r * 2
    if rng.random() < 0.4:
        shore = float(rng.uniform(0.25, 0.6)) * r
        beach = wavy_edge(rng, -r * 1.1, r * 1.1, shore, 3 * r, r * 0.06)
        canvas.foam([beach], 0.5, 2.0)
        canvas.fill([beach], "dry", None)
        inland = beach + np.array([0.0, rng.uniform(3, 10)])
        canvas.fill([inland], "grass", "grass")
        scatter_trees(canvas, int(20 * r / 60), (1.8, 4.2), (-r, shore + 10, r, r * 1.4))
    low, high = _ship_lengths(canvas)
    lane = float(rng.uniform(-math.pi, math.pi))
    wanted = int(rng.integers(1, 4)) + int(max(canvas.width, canvas.height) / 170)
    for _ in range(wanted):
        facing = lane + (math.pi if rng.random() < 0.4 else 0.0) + rng.normal(0, 0.35)
        length = float(math.exp(rng.uniform(math.log(low), math.log(high))))
        for _ in range(6):
            x, y = rng.uniform(-0.75, 0.75, 2) * r
            if y + length * 0.6 < shore and sail(canvas, float(x), float(y), facing, length):
                break


def quay(canvas: Canvas) -> None:
    """Ships alongside a quay with cranes, stacks, sheds; others under way."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    canvas.flood("water", "water")
    edge = float(rng.uniform(-0.3, 0.15)) * r
    canvas.fill(
        [rectangle(-r, -2 * r, r, edge)],
        "concrete" if rng.random() < 0.7 else "asphalt#3",
        "pavement",
    )
    canvas.slabs(8.0, 0.02)
    canvas.paint([rectangle(-r, edge - 0.9, r, edge)], (84.0, 82.0, 78.0))
    canvas.strokes(
        [line(-r, edge - 3.5, r, edge - 3.5), line(-r, edge - 13, r, edge - 13)],
        0.3,
        (90.0, 84.0, 78.0),
        0.7,
    )
    canvas.fill([rectangle(-r, edge - 24, r, edge - 16)], "asphalt", "road")
    canvas.strokes([line(-r, edge - 20, r, edge - 20)], 0.3, (214.0, 212.0, 200.0), 0.6)
    low, high = _ship_lengths(canvas)
    x = -r + float(rng.uniform(-0.2, 0.3)) * r
    while x < r:
        length = float(rng.uniform(max(low, high * 0.35), high))
        drawing = big_ship(rng, canvas, length)
        gap = rng.uniform(0.08, 0.45) * length
        facing = 0.0 if rng.random() < 0.5 else math.pi
        middle = x + drawing.length / 2
        y = edge + drawing.width / 2 + rng.uniform(0.6, 1.8)
        if rng.random() < 0.85:
            canvas.place(drawing, middle, y, facing + rng.normal(0, 0.01))
            ropes = [
                line(middle + k * drawing.length * 0.45, y, middle + k * drawing.length * 0.6, edge)
                for k in (-1, 1)
            ]
            canvas.strokes(ropes, 0.25, (190.0, 186.0, 172.0), 0.7)
        if rng.random() < 0.45 and length > 50:
            gantry = crane(rng, style, drawing.width + 6.0)
            cx, cy = middle + rng.uniform(-0.2, 0.25) * length, edge - 5.0
            canvas.place(gantry, cx, cy, math.pi / 2, margin_m=-40.0, layer="crown")
        x += drawing.length + gap
    _stacks(canvas, edge - 28)
    for _ in range(int(rng.integers(1, 5)) + int(r / 60)):
        facing = 0.0 if rng.random() < 0.5 else math.pi
        canvas.place(
            large_vehicle(rng, style), rng.uniform(-r, r), edge - rng.choice((18.0, 22.0)), facing
        )
    for _ in range(int(rng.integers(0, 3)) + int(r / 120)):
        length = float(rng.uniform(low, max(low * 1.6, high * 0.6)))
        sail(
            canvas,
            float(rng.uniform(-r, r)),
            float(rng.uniform(edge + 30, edge + 30 + r)),
            float(rng.normal(0, 0.4)) + (math.pi if rng.random() < 0.5 else 0.0),
            length,
        )


def _stacks(canvas: Canvas, top: float) -> None:
    """Container blocks or sheds inland of `top`."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    if rng.random() < 0.5:
        x = -r
        while x < r:
            length = float(rng.uniform(30, 60))
            hall = flat_hall(rng, style, length, 24.0, float(rng.uniform(7, 11)))
            canvas.place(hall, x + length / 2, top - 14, 0.0, layer="prop")
            x += length + rng.uniform(4, 14)
        return
    for row in range(int(min(8, r / 4))):
        y = top - row * 2.7 - (row // 4) * 6.0
        x = -r + float(rng.uniform(0, 8))
        while x < r:
            if rng.random() < 0.86:
                canvas.place(container(rng, style), x, y, 0.0, margin_m=-0.1, layer="prop")
            x += 12.5 if rng.random() < 0.92 else 19.0


def marina(canvas: Canvas) -> None:
    """Piers with yachts on both sides, a promenade with cars and trees."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    canvas.flood("water", "water")
    edge = -float(rng.uniform(0.2, 0.65)) * r
    canvas.fill([rectangle(-r, -2 * r, r, edge)], "grass", "grass")
    canvas.fill([rectangle(-r, edge - 4, r, edge)], "concrete", "pavement")
    canvas.fill([rectangle(-r, edge - 11, r, edge - 4.5)], "asphalt", "road")
    canvas.paint([rectangle(-r, edge - 0.5, r, edge + 0.4)], (92.0, 88.0, 82.0))
    for k in np.arange(-r, r, 7.0):
        if rng.random() < 0.5:
            canvas.place(
                car(rng, style), float(k), edge - 7.8, 0.0 if rng.random() < 0.5 else math.pi
            )
    length = float(rng.uniform(26, 50)) * canvas.gsd_m
    length = float(np.clip(length, 7.0, 28.0))
    pier_gap = length * 2 + rng.uniform(8, 16)
    start = float(rng.uniform(-0.5, 0.5)) * pier_gap
    for k in range(-math.ceil(r / pier_gap), math.ceil(r / pier_gap) + 1):
        _pier(canvas, start + k * pier_gap, edge, r * float(rng.uniform(1.0, 1.8)), length)
    for _ in range(int(rng.integers(0, 3))):
        sail(
            canvas,
            float(rng.uniform(-r, r)),
            float(rng.uniform(edge + 8, r)),
            float(rng.uniform(-3.1, 3.1)),
            length * 0.8,
        )
    scatter_trees(canvas, int(14 * r / 30), (1.4, 3.2), (-r, -r * 1.2, r, edge - 12))


def _pier(canvas: Canvas, x: float, edge: float, reach: float, length: float) -> None:
    rng, style = canvas.rng, canvas.style
    canvas.fill([rectangle(x - 1.2, edge, x + 1.2, edge + reach)], "gravel", "pavement")
    canvas.paint([rectangle(x - 1.2, edge, x + 1.2, edge + reach)], WOOD, 0.5)
    pitch = length * 0.36 + 0.9
    makers = (ships.motor_yacht, ships.sailing_yacht, ships.sailing_yacht, ships.speedboat)
    if length > 14:
        makers = (ships.motor_yacht, ships.sailing_yacht, ships.motor_yacht, ships.fishing_boat)
    y = edge + pitch
    fingers = []
    while y < edge + reach:
        for sign in (1.0, -1.0):
            fingers.append(line(x, y - pitch / 2, x + sign * length * 0.8, y - pitch / 2))
            if rng.random() < 0.75:
                size = length * float(rng.uniform(0.72, 1.0))
                boat = makers[int(rng.integers(len(makers)))](rng, style, size)
                inward = rng.random() < 0.5
                facing = (
                    (math.pi if sign > 0 else 0.0) if inward else (0.0 if sign > 0 else math.pi)
                )
                canvas.place(
                    boat,
                    x + sign * (1.7 + size / 2),
                    y + rng.normal(0, 0.1),
                    facing + rng.normal(0, 0.03),
                    margin_m=0.1,
                )
        y += pitch
    canvas.strokes(fingers[::2], 0.6, WOOD, 0.8)
    canvas.strokes(fingers[1::2], 0.6, WOOD, 0.8)
