"""Cars, vans, trucks and buses from above."""

from __future__ import annotations

import numpy as np

from rsgen.scenes.shapes import Colour, Drawing, Part, bar, rectangle, rounded, shade, symmetric
from rsgen.scenes.style import Style, pick_colour

__all__ = ["bus", "car", "large_vehicle", "tank_truck", "truck", "van"]

GLASS: Colour = (36.0, 42.0, 50.0)


def _screens(front: float, rear: float, width: float, depth: float) -> list[Part]:
    """Windscreen and rear window as trapezia, `depth` metres deep."""
    w = width / 2
    return [
        Part(symmetric([(front, w * 0.82), (front - depth, w * 0.66)]), GLASS),
        Part(symmetric([(rear + depth * 0.8, w * 0.66), (rear, w * 0.78)]), GLASS),
    ]


def car(rng: np.random.Generator, style: Style) -> Drawing:
    """Saloon, estate, SUV or pick-up, 4.1 to 5.3 m."""
    kind = ("saloon", "estate", "suv", "pickup")[int(rng.choice(4, p=(0.42, 0.22, 0.24, 0.12)))]
    length = {"saloon": 4.6, "estate": 4.4, "suv": 4.8, "pickup": 5.2}[kind] * rng.uniform(
        0.95, 1.06
    )
    width = {"saloon": 1.82, "estate": 1.8, "suv": 1.95, "pickup": 1.95}[kind] * rng.uniform(
        0.97, 1.05
    )
    paint = pick_colour(rng, style.paint)
    half, w = length / 2, width / 2
    side = [
        (half, w * 0.6),
        (half * 0.93, w * 0.88),
        (half * 0.7, w),
        (-half * 0.86, w),
        (-half * 0.97, w * 0.86),
        (-half, w * 0.7),
    ]
    parts = [Part(symmetric(side), shade(paint, 0.92), solid=True)]
    for sign in (1.0, -1.0):
        edge = rectangle(-half * 0.85, w * 0.66, half * 0.75, w * 0.97) * np.array([1.0, sign])
        parts.append(Part(edge, shade(paint, 0.88), tilt=(0.0, sign)))
    if kind == "pickup":
        parts.append(
            Part(rounded(-half * 0.92, -w * 0.78, -half * 0.16, w * 0.78, 0.15), shade(paint, 0.42))
        )
        cabin = (half * 0.42, -half * 0.12)
    else:
        rear = {"saloon": -0.66, "estate": -0.92, "suv": -0.88}[kind]
        cabin = (half * rng.uniform(0.34, 0.44), half * rear)
    parts.append(Part(rounded(cabin[1], -w * 0.82, cabin[0], w * 0.82, 0.25), GLASS))
    roof_front, roof_rear = (
        cabin[0] - length * 0.13,
        cabin[1] + length * (0.1 if kind == "saloon" else 0.06),
    )
    parts.append(Part(rounded(roof_rear, -w * 0.7, roof_front, w * 0.7, 0.2), shade(paint, 1.08)))
    if rng.random() < 0.15:
        parts.append(
            Part(rounded(roof_front - 1.0, -w * 0.45, roof_front - 0.2, w * 0.45, 0.1), GLASS)
        )
    return Drawing.of("small-vehicle", kind, parts, height_m=1.5)


def van(rng: np.random.Generator, style: Style) -> Drawing:
    """Panel van, 5.2 to 6.2 m, mostly white."""
    length, width = rng.uniform(5.2, 6.1), rng.uniform(1.95, 2.1)
    paint: Colour = (232.0, 232.0, 230.0) if rng.random() < 0.7 else pick_colour(rng, style.paint)
    half, w = length / 2, width / 2
    parts = [
        Part(rounded(-half, -w, half, w, 0.3), shade(paint, 0.92), solid=True),
        Part(
            rectangle(-half * 0.97, 0.0, half * 0.45, w * 0.95),
            shade(paint, 0.98),
            tilt=(0.0, 0.25),
        ),
        Part(
            rectangle(-half * 0.97, -w * 0.95, half * 0.45, 0.0),
            shade(paint, 0.98),
            tilt=(0.0, -0.25),
        ),
        Part(symmetric([(half * 0.76, w * 0.85), (half * 0.5, w * 0.74)]), GLASS),
    ]
    return Drawing.of("small-vehicle", "van", parts, height_m=2.3)


def _cab(front: float, width: float, paint: Colour, depth: float = 2.2) -> list[Part]:
    w = width / 2
    return [
        Part(rounded(front - depth, -w, front, w, 0.35), paint, solid=True),
        Part(rectangle(front - depth * 0.42, -w * 0.84, front - depth * 0.14, w * 0.84), GLASS),
        Part(
            rounded(front - depth * 0.95, -w * 0.82, front - depth * 0.48, w * 0.82, 0.2),
            shade(paint, 1.1),
        ),
    ]


def _box(x0: float, x1: float, width: float, colour: Colour) -> list[Part]:
    w = width / 2
    return [
        Part(rectangle(x0, -w, x1, w), shade(colour, 0.9), solid=True),
        Part(rectangle(x0, 0, x1, w), shade(colour, 0.97), tilt=(0.0, 0.16)),
        Part(rectangle(x0, -w, x1, 0), shade(colour, 0.97), tilt=(0.0, -0.16)),
        Part(rectangle(x0 + 0.15, -w * 0.86, x1 - 0.15, w * 0.86), colour),
    ]


def truck(rng: np.random.Generator, style: Style) -> Drawing:
    """Box truck or articulated lorry with a box, curtain or flat trailer, 8 to 16.5 m."""
    articulated = rng.random() < 0.6
    length = rng.uniform(13.0, 16.5) if articulated else rng.uniform(7.5, 10.5)
    width = rng.uniform(2.45, 2.6)
    half = length / 2
    paint = pick_colour(rng, style.livery) if rng.random() < 0.6 else (226.0, 226.0, 224.0)
    load = (228.0, 228.0, 226.0) if rng.random() < 0.55 else pick_colour(rng, style.livery)
    gap = 0.9 if articulated else 0.25
    rear = half - 2.2 - gap
    chassis = rectangle(rear - 0.5, -width * 0.3, half - 1.8, width * 0.3)
    parts = [Part(chassis, (56.0, 54.0, 52.0), solid=True)]
    flat = rng.random() < 0.22
    if flat:
        bed = pick_colour(rng, ((118, 102, 84), (96, 94, 92), (140, 128, 110)))
        parts.append(Part(rectangle(-half, -width / 2, rear, width / 2), bed, solid=True))
        x = -half + 0.8
        while x + 2.6 < rear and rng.random() < 0.8:
            block = rectangle(x, -width * 0.36, x + 2.2, width * 0.36)
            parts.append(Part(block, pick_colour(rng, style.roofs)))
            x += 2.9
    else:
        parts += _box(-half, rear, width, shade(load, rng.uniform(0.9, 1.03)))
        if rng.random() < 0.3:
            for x in np.arange(-half + 1.2, rear - 0.4, 1.2):
                parts.append(
                    Part(bar((float(x), -width / 2), (float(x), width / 2), 0.14), shade(load, 0.8))
                )
    parts += _cab(half, width * 0.97, paint)
    kind = ("flatbed" if flat else "lorry") if articulated else "box-truck"
    return Drawing.of("large-vehicle", kind, parts, height_m=2.4 if flat else 3.6)


def tank_truck(rng: np.random.Generator, style: Style) -> Drawing:
    """Cab with a polished tank, 9 to 15 m."""
    length, width = rng.uniform(9.0, 14.5), 2.45
    half, w = length / 2, width / 2
    tone = rng.uniform(170, 226)
    metal: Colour = (tone, tone, tone * 1.01)
    tank = rounded(-half, -w, half - 2.7, w, 0.8)
    parts = [
        Part(rectangle(-half * 0.9, -w * 0.5, half - 1.8, w * 0.5), (54.0, 54.0, 54.0), solid=True),
        Part(tank, shade(metal, 0.86), solid=True),
        Part(
            rounded(-half + 0.2, w * 0.3, half - 2.9, w, 0.5), shade(metal, 0.86), tilt=(0.0, 1.0)
        ),
        Part(
            rounded(-half + 0.2, -w, half - 2.9, -w * 0.3, 0.5),
            shade(metal, 0.86),
            tilt=(0.0, -1.0),
        ),
        Part(rectangle(-half + 0.4, -w * 0.32, half - 3.1, w * 0.32), shade(metal, 1.08)),
        Part(bar((-half + 0.8, 0), (half - 3.5, 0), 0.3), shade(metal, 0.7)),
    ]
    parts += _cab(half, width * 0.97, pick_colour(rng, style.livery))
    return Drawing.of("large-vehicle", "tank-truck", parts, height_m=3.2)


def bus(rng: np.random.Generator, style: Style) -> Drawing:
    """Coach or city bus, 10 to 13 m."""
    length, width = rng.uniform(10.2, 12.8), 2.55
    half, w = length / 2, width / 2
    paint = pick_colour(rng, style.livery) if rng.random() < 0.55 else (232.0, 232.0, 230.0)
    roof = shade(paint, 1.12) if rng.random() < 0.5 else (226.0, 227.0, 226.0)
    parts = [
        Part(rounded(-half, -w, half, w, 0.35), shade(paint, 0.9), solid=True),
        Part(rounded(-half * 0.97, -w * 0.84, half * 0.93, w * 0.84, 0.3), roof),
        Part(rectangle(half * 0.93, -w * 0.86, half * 0.99, w * 0.86), GLASS),
    ]
    for x in (-0.55, 0.05, 0.55)[: int(rng.integers(1, 4))]:
        unit = rounded(half * x - 0.9, -w * 0.45, half * x + 0.9, w * 0.45, 0.2)
        parts += [
            Part(unit + np.array([0.12, 0.12]), shade(roof, 0.62)),
            Part(unit, shade(roof, 0.88)),
        ]
    return Drawing.of("large-vehicle", "bus", parts, height_m=3.1)


def large_vehicle(rng: np.random.Generator, style: Style) -> Drawing:
    """Any of the large ones."""
    return (truck, truck, bus, tank_truck)[int(rng.integers(4))](rng, style)
