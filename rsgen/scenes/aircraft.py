"""Planes and helicopters from above."""

from __future__ import annotations

import math

import numpy as np

from rsgen.scenes.shapes import (
    Colour,
    Drawing,
    Part,
    bar,
    disc,
    ellipse,
    lit_body,
    mirrored,
    rounded,
    scaled,
    shade,
    symmetric,
)
from rsgen.scenes.style import Style, muted, pick_colour

__all__ = ["airliner", "business_jet", "fighter", "helicopter", "light_aircraft", "turboprop"]

GLASS: Colour = (38.0, 44.0, 52.0)


def _white(rng: np.random.Generator) -> Colour:
    tone = rng.uniform(206, 246)
    return (tone, tone, min(tone + rng.uniform(-4, 6), 255.0))


def _tube(half: float, radius: float, tail: float) -> list[tuple[float, float]]:
    """Right half of a fuselage of length 2 * half, nose first; `tail` is its end radius."""
    return [
        (half, radius * 0.22),
        (half * 0.975, radius * 0.52),
        (half * 0.92, radius * 0.82),
        (half * 0.83, radius),
        (-half * 0.42, radius),
        (-half * 0.75, radius * 0.62),
        (-half, tail),
    ]


def _wing(
    root: tuple[float, float], tip: tuple[float, float], r: float, span: float
) -> list[tuple[float, float]]:
    """Right wing from (leading, trailing) x at the root and at the tip."""
    half = span / 2
    rounding = (tip[0] - tip[1]) * 0.25
    return [
        (root[0], r * 0.5),
        (tip[0], half * 0.985),
        (tip[0] - rounding, half),
        (tip[1], half),
        (root[1], r * 0.5),
    ]


def airliner(rng: np.random.Generator, style: Style, *, length: float | None = None) -> Drawing:
    """Swept low wing, two or four engines under it, 26 to 62 m."""
    size = rng.uniform(27, 46) if length is None else length
    span = size * rng.uniform(0.86, 1.0)
    radius = size * rng.uniform(0.046, 0.056)
    sweep = rng.uniform(0.2, 0.27) * size
    body, tail = _white(rng), pick_colour(rng, style.livery)
    metal = shade(body, rng.uniform(0.8, 0.93))
    root = rng.uniform(0.12, 0.16) * size
    chord = rng.uniform(0.045, 0.06) * size
    wing = [
        (root, radius * 0.5),
        (root - sweep, span * 0.49),
        (root - sweep - chord * 0.4, span * 0.5),
        (root - sweep - chord, span * 0.5),
        (-0.085 * size, span * 0.17),
        (-0.1 * size, radius * 0.5),
    ]
    flap = [(-0.06 * size, radius), (-0.085 * size, span * 0.17), (-0.1 * size, radius)]
    stabiliser = [
        (-0.385 * size, radius * 0.3),
        (-0.46 * size, size * 0.17),
        (-0.495 * size, size * 0.175),
        (-0.465 * size, radius * 0.3),
    ]
    parts: list[Part] = []
    stations = (0.34, 0.6) if size > 40 and rng.random() < 0.5 else (0.33,)
    for station in stations:
        x = root - sweep * station + 0.015 * size
        pod = scaled(ellipse(0, 0, 0.045 * size, 0.017 * size, 12), 1, 1, x)
        cowl = shade(tail if rng.random() < 0.4 else metal, 0.92)
        parts += mirrored(pod + np.array([0.0, station * span / 2]), cowl, solid=True)
    parts += mirrored(wing, metal, solid=True)
    parts += mirrored(flap, shade(metal, 0.86))
    half = span / 2
    leading = bar((root - sweep * 0.1, half * 0.12), (root - sweep, half * 0.97), size * 0.008)
    parts += mirrored(leading, shade(metal, 1.08))
    parts += mirrored(stabiliser, shade(metal, 0.98), solid=True)
    parts += lit_body(_tube(size / 2, radius, radius * 0.22), body)
    if rng.random() < 0.35:
        livery = symmetric(
            [(-size * 0.2, radius), (-size * 0.36, radius * 0.7), (-size * 0.48, radius * 0.25)]
        )
        parts.append(Part(livery, tail))
    parts.append(Part(bar((-0.33 * size, 0), (-0.49 * size, 0), 0.016 * size), tail))
    windscreen = symmetric(
        [(size * 0.468, radius * 0.3), (size * 0.452, radius * 0.66), (size * 0.442, radius * 0.6)]
    )
    parts.append(Part(windscreen, GLASS))
    return Drawing.of("plane", "airliner", parts, height_m=size * 0.1, lifted=True)


def turboprop(rng: np.random.Generator, style: Style, *, length: float | None = None) -> Drawing:
    """Straight high wing with propellers, 20 to 32 m."""
    size = rng.uniform(21, 31) if length is None else length
    span = size * rng.uniform(1.05, 1.25)
    radius = size * 0.055
    body = _white(rng) if rng.random() < 0.6 else (122.0, 128.0, 128.0)
    accent = pick_colour(rng, style.livery)
    metal = shade(body, 0.9)
    parts = lit_body(_tube(size / 2, radius, radius * 0.3), body)
    parts += mirrored(
        _wing((0.1 * size, -0.03 * size), (0.06 * size, -0.01 * size), radius, span),
        metal,
        solid=True,
    )
    stations = (0.24, 0.46) if rng.random() < 0.4 else (0.26,)
    for station in stations:
        y = station * span / 2
        nacelle = rounded(-0.05 * size, y - 0.02 * size, 0.15 * size, y + 0.02 * size, 0.02 * size)
        parts += mirrored(nacelle, shade(metal, 0.88), solid=True)
        blades = bar((0.155 * size, y - 0.06 * size), (0.155 * size, y + 0.06 * size), 0.012 * size)
        parts += mirrored(blades, (70.0, 70.0, 72.0))
    tail = [
        (-0.4 * size, 0),
        (-0.43 * size, 0.17 * size),
        (-0.48 * size, 0.17 * size),
        (-0.49 * size, 0),
    ]
    parts += mirrored(tail, metal, solid=True)
    parts.append(Part(bar((-0.32 * size, 0), (-0.5 * size, 0), 0.016 * size), accent))
    glass = symmetric(
        [(size * 0.46, radius * 0.3), (size * 0.44, radius * 0.7), (size * 0.425, radius * 0.6)]
    )
    parts.append(Part(glass, GLASS))
    return Drawing.of("plane", "turboprop", parts, height_m=size * 0.13, lifted=True)


def business_jet(rng: np.random.Generator, style: Style) -> Drawing:
    """Swept wing set back, engines on the rear fuselage, 13 to 24 m."""
    size = rng.uniform(13, 22)
    span = size * rng.uniform(0.88, 1.0)
    radius = size * 0.05
    body, accent = _white(rng), pick_colour(rng, style.livery)
    metal = shade(body, 0.88)
    wing = _wing((0.06 * size, -0.14 * size), (-0.13 * size, -0.18 * size), radius, span)
    parts = mirrored(wing, metal, solid=True)
    parts += lit_body(_tube(size / 2, radius, radius * 0.3), body)
    pod = rounded(-0.34 * size, radius * 0.9, -0.19 * size, radius * 2.0, radius * 0.5)
    parts += mirrored(pod, shade(body, 0.82), solid=True)
    tail = [
        (-0.42 * size, 0),
        (-0.47 * size, 0.17 * size),
        (-0.5 * size, 0.17 * size),
        (-0.49 * size, 0),
    ]
    parts += mirrored(tail, metal, solid=True)
    parts.append(Part(bar((-0.34 * size, 0), (-0.49 * size, 0), 0.02 * size), accent))
    if rng.random() < 0.5:
        stripe = bar((0.3 * size, radius * 0.55), (-0.3 * size, radius * 0.55), radius * 0.25)
        parts += mirrored(stripe, accent)
    glass = symmetric(
        [(size * 0.455, radius * 0.35), (size * 0.42, radius * 0.75), (size * 0.4, radius * 0.65)]
    )
    parts.append(Part(glass, GLASS))
    return Drawing.of("plane", "business-jet", parts, height_m=size * 0.11, lifted=True)


def light_aircraft(rng: np.random.Generator, style: Style) -> Drawing:
    """Straight wing across a short body, one or two propellers, 7.5 to 12 m."""
    size = rng.uniform(7.8, 11.5)
    span = size * rng.uniform(1.2, 1.42)
    radius = size * 0.065
    body, accent = _white(rng), pick_colour(rng, style.livery)
    if rng.random() < 0.15:
        body = muted(shade(accent, 1.1), 0.3)
    metal = shade(body, 0.94)
    side = [
        (size * 0.47, radius * 0.5),
        (size * 0.42, radius * 0.85),
        (size * 0.1, radius * 1.05),
        (-size * 0.12, radius * 0.85),
        (-size * 0.48, radius * 0.3),
    ]
    parts = lit_body(side, body)
    wing = _wing((0.2 * size, 0.03 * size), (0.17 * size, 0.05 * size), radius, span)
    parts += mirrored(wing, metal, solid=True)
    tip = bar((0.11 * size, span * 0.43), (0.11 * size, span * 0.5), 0.12 * size)
    parts += mirrored(tip, accent)
    tail = [
        (-0.38 * size, 0),
        (-0.4 * size, 0.17 * size),
        (-0.47 * size, 0.17 * size),
        (-0.48 * size, 0),
    ]
    parts += mirrored(tail, metal, solid=True)
    parts.append(Part(bar((-0.33 * size, 0), (-0.5 * size, 0), 0.03 * size), accent))
    if rng.random() < 0.3:
        pod = rounded(0.05 * size, 0.16 * size, 0.32 * size, 0.25 * size, 0.03 * size)
        parts += mirrored(pod, shade(body, 0.9), solid=True)
    else:
        parts.append(
            Part(
                bar((0.475 * size, -0.1 * size), (0.475 * size, 0.1 * size), 0.16),
                (60.0, 60.0, 62.0),
            )
        )
    glass = symmetric(
        [(size * 0.27, radius * 0.6), (size * 0.2, radius * 0.85), (size * 0.16, radius * 0.8)]
    )
    parts.append(Part(glass, GLASS))
    return Drawing.of("plane", "light-aircraft", parts, height_m=size * 0.17, lifted=True)


def fighter(rng: np.random.Generator, style: Style) -> Drawing:
    """Delta or cropped-delta wing, pointed nose, grey, 14 to 21 m."""
    size = rng.uniform(14.5, 20.5)
    span = size * rng.uniform(0.6, 0.72)
    tone = rng.uniform(88, 158)
    body: Colour = (tone, tone * 1.02, tone * rng.uniform(1.0, 1.07))
    if style.name == "alt" and rng.random() < 0.6:
        body = (tone * 1.15, tone * 1.02, tone * 0.78)
    radius = size * 0.052
    half = span / 2
    if rng.random() < 0.45:
        wing = [
            (0.16 * size, radius),
            (-0.3 * size, half),
            (-0.36 * size, half),
            (-0.38 * size, radius),
        ]
        tail: list[tuple[float, float]] | None = None
    else:
        wing = [
            (0.1 * size, radius),
            (-0.14 * size, half),
            (-0.21 * size, half),
            (-0.22 * size, radius),
        ]
        tail = [
            (-0.3 * size, radius),
            (-0.4 * size, half * 0.68),
            (-0.49 * size, half * 0.68),
            (-0.46 * size, radius),
        ]
    side = [
        (0.5 * size, radius * 0.2),
        (0.42 * size, radius * 0.5),
        (0.22 * size, radius * 0.9),
        (0.05 * size, radius * 1.5),
        (-0.4 * size, radius * 1.35),
        (-0.5 * size, radius * 0.9),
    ]
    parts = mirrored(wing, shade(body, 0.95), solid=True)
    if tail is not None:
        parts += mirrored(tail, shade(body, 0.93), solid=True)
    parts += lit_body(side, body, 0.6)
    fin = bar((-0.3 * size, radius), (-0.46 * size, radius * 1.25), size * 0.014)
    parts += mirrored(fin, shade(body, 0.72))
    parts.append(Part(ellipse(0.27 * size, 0, 0.07 * size, radius * 0.45, 12), GLASS))
    nozzle = rounded(-0.5 * size, radius * 0.1, -0.46 * size, radius * 0.8, 0.1)
    parts += mirrored(nozzle, (58.0, 56.0, 56.0))
    kind = "fighter" if tail is not None else "delta"
    return Drawing.of("plane", kind, parts, height_m=size * 0.1, lifted=True)


def helicopter(rng: np.random.Generator, style: Style, gsd_m: float) -> Drawing:
    """Cabin, tail boom, rotor blades; the blades belong to the object, 10 to 19 m."""
    size = rng.uniform(10.5, 17.0)
    body = pick_colour(rng, style.livery) if rng.random() < 0.65 else _white(rng)
    if rng.random() < 0.25:
        body = (86.0, 92.0, 74.0)
    width = size * rng.uniform(0.09, 0.115)
    side = [
        (0.36 * size, width * 0.3),
        (0.33 * size, width * 0.72),
        (0.22 * size, width),
        (-0.06 * size, width * 0.95),
        (-0.2 * size, width * 0.35),
        (-0.55 * size, width * 0.22),
    ]
    parts = lit_body(side, body)
    nose = symmetric(
        [(0.345 * size, width * 0.3), (0.3 * size, width * 0.7), (0.24 * size, width * 0.6)]
    )
    parts.append(Part(nose, GLASS))
    beam = bar((-0.46 * size, -0.12 * size), (-0.46 * size, 0.12 * size), 0.05 * size)
    parts.append(Part(beam, shade(body, 0.85), solid=True))
    parts.append(
        Part(
            bar((-0.57 * size, 0.02 * size), (-0.46 * size, 0.02 * size), 0.03 * size),
            shade(body, 0.7),
            solid=True,
        )
    )
    blades = int(rng.integers(2, 5))
    first = rng.uniform(0, math.pi)
    blade_width = max(0.4, 1.25 * gsd_m)
    reach = 0.5 * size
    tone = rng.uniform(52, 96)
    for k in range(blades):
        angle = first + 2 * math.pi * k / blades
        end = (0.08 * size + reach * math.cos(angle), reach * math.sin(angle))
        blade = bar((0.08 * size, 0.0), end, blade_width)
        parts.append(Part(blade, (tone, tone, tone * 1.03), solid=True))
    parts.append(disc(0.08 * size, 0, size * 0.035, (64.0, 64.0, 66.0)))
    return Drawing.of("helicopter", "helicopter", parts, height_m=3.4, lifted=True)
