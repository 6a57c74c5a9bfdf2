"""Storage tanks, courts and pools from above; all without a front."""

from __future__ import annotations

import math

import numpy as np

from rsgen.geometry import Array
from rsgen.scenes.shapes import (
    Colour,
    Drawing,
    Part,
    bar,
    disc,
    ellipse,
    rectangle,
    rounded,
    shade,
)
from rsgen.scenes.style import Style, pick_colour

__all__ = ["basketball_court", "storage_tank", "swimming_pool", "tennis_court"]

LINE: Colour = (226.0, 228.0, 226.0)


def storage_tank(rng: np.random.Generator, style: Style, radius: float, kind: str) -> Drawing:
    """A round tank: `cone`, `dome`, `floating` or `flat` roof; metres."""
    tone = rng.uniform(188, 240)
    white: Colour = (tone, tone, tone * rng.uniform(0.96, 1.01))
    if rng.random() < 0.22:
        white = pick_colour(
            rng, ((150, 150, 146), (172, 160, 138), (146, 118, 100), (134, 148, 138))
        )
    wall = shade(white, 0.8)
    height = min(max(radius * rng.uniform(0.7, 1.1), 5.0), 15.0)
    parts = [Part(ellipse(0, 0, radius, steps=40), wall, solid=True)]
    if kind == "floating":
        parts += _floating_roof(rng, radius, white)
    elif kind == "flat":
        parts.append(disc(0, 0, radius * 0.965, white))
        parts.append(disc(0, 0, radius * 0.5, shade(white, 0.97)))
    else:
        parts += _cone(radius * 0.97, white, 0.42 if kind == "cone" else 0.75)
        if kind == "dome":
            parts.append(disc(0, 0, radius * 0.55, shade(white, 1.03)))
        for a in np.arange(8) * math.pi / 4 if rng.random() < 0.4 else []:
            end = (radius * 0.94 * math.cos(a), radius * 0.94 * math.sin(a))
            parts.append(Part(bar((0, 0), end, 0.2), shade(white, 0.9)))
    a = rng.uniform(0, 2 * math.pi)  # stairs round the wall
    turns = np.linspace(a, a + rng.uniform(0.5, 1.1), 8)
    outer = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    stair = np.concatenate([outer * radius, outer[::-1] * (radius - max(0.7, radius * 0.06))])
    parts.append(Part(stair, shade(wall, 0.62)))
    parts.append(
        disc(radius * 0.55 * math.cos(a), radius * 0.55 * math.sin(a), 0.7, shade(white, 0.7))
    )
    parts.append(disc(0, 0, max(0.5, radius * 0.05), shade(white, 0.75)))
    return Drawing.of("storage-tank", f"{kind}-roof", parts, height_m=height, symmetric=True)


def _cone(radius: float, white: Colour, slope: float) -> list[Part]:
    """Sectors that take the sun each in its way."""
    count = 20
    parts = []
    for k in range(count):
        a, b = 2 * math.pi * k / count, 2 * math.pi * (k + 1) / count + 0.02
        tip = [
            (0.0, 0.0),
            (radius * math.cos(a), radius * math.sin(a)),
            (radius * math.cos(b), radius * math.sin(b)),
        ]
        middle = (a + b) / 2
        tilt = (slope * math.cos(middle), slope * math.sin(middle))
        parts.append(Part(np.array(tip), shade(white, 0.97), tilt=tilt))
    return parts


def _floating_roof(rng: np.random.Generator, radius: float, white: Colour) -> list[Part]:
    """A roof sunk below the rim: the far wall lights up, the near one throws a crescent."""
    roof = shade(white, rng.uniform(0.6, 0.9))
    inner = radius * 0.93
    count = 24
    parts = [disc(0, 0, radius * 0.985, shade(white, 1.0)), disc(0, 0, inner, roof)]
    depth = inner * (1 - rng.uniform(0.06, 0.2))
    for k in range(count):  # inside wall: tilted toward the middle
        a, b = 2 * math.pi * k / count, 2 * math.pi * (k + 1) / count + 0.02
        ring = [
            (inner * math.cos(a), inner * math.sin(a)),
            (inner * math.cos(b), inner * math.sin(b)),
            (depth * math.cos(b), depth * math.sin(b)),
            (depth * math.cos(a), depth * math.sin(a)),
        ]
        middle = (a + b) / 2
        tilt = (-1.7 * math.cos(middle), -1.7 * math.sin(middle))
        parts.append(Part(np.array(ring), shade(roof, 0.85), tilt=tilt))
    a = rng.uniform(0, 2 * math.pi)
    ladder = bar((0, 0), (inner * math.cos(a), inner * math.sin(a)), max(0.5, radius * 0.05))
    parts.append(Part(ladder, shade(roof, 1.25)))
    for _ in range(int(rng.integers(3, 7))):
        r, turn = inner * rng.uniform(0.2, 0.75), rng.uniform(0, 2 * math.pi)
        parts.append(disc(r * math.cos(turn), r * math.sin(turn), 0.45, shade(roof, 0.7)))
    return parts


def _frame(x0: float, y0: float, x1: float, y1: float, width: float) -> list[Array]:
    return [
        bar((x0, y0), (x1, y0), width),
        bar((x1, y0), (x1, y1), width),
        bar((x1, y1), (x0, y1), width),
        bar((x0, y1), (x0, y0), width),
    ]


def tennis_court(rng: np.random.Generator, style: Style, colour: Colour, line_m: float) -> Drawing:
    """The playing rectangle, 23.77 x 10.97 m, with lines of `line_m` and the net."""
    half, w, inner, box = 11.885, 5.485, 4.115, 6.4
    margin = line_m / 2
    parts = [Part(rectangle(-half, -w, half, w), colour, solid=True)]
    lines = _frame(-half + margin, -w + margin, half - margin, w - margin, line_m)
    lines += [bar((-half, y), (half, y), line_m) for y in (-inner, inner)]
    lines += [bar((x, -inner), (x, inner), line_m) for x in (-box, box)]
    lines.append(bar((-box, 0), (box, 0), line_m))
    parts += [Part(outline, shade(LINE, rng.uniform(0.9, 1.0))) for outline in lines]
    parts.append(Part(bar((0, -w), (0, w), max(0.35, line_m)), (58.0, 62.0, 62.0)))
    parts.append(Part(bar((0.25, -w), (0.25, w), 0.2), (196.0, 198.0, 196.0)))
    return Drawing.of("tennis-court", "tennis-court", parts, symmetric=True)


def _arc(cx: float, radius: float, start: float, stop: float, width: float) -> Array:
    turns = np.linspace(start, stop, 18)
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    outline = np.concatenate([ring * (radius + width / 2), ring[::-1] * (radius - width / 2)])
    return np.asarray(outline + np.array([cx, 0.0]), dtype=np.float64)


def basketball_court(
    rng: np.random.Generator, style: Style, colour: Colour, line_m: float
) -> Drawing:
    """The playing rectangle, 28 x 15 m (or a small 26 x 14 one), with its lines."""
    scale = rng.uniform(0.92, 1.0)
    half, w = 14.0 * scale, 7.5 * scale
    key = pick_colour(rng, style.courts)
    margin = line_m / 2
    parts = [Part(rectangle(-half, -w, half, w), colour, solid=True)]
    outlines = _frame(-half + margin, -w + margin, half - margin, w - margin, line_m)
    outlines += [bar((0, -w), (0, w), line_m), _arc(0, 1.8, 0, 2 * math.pi, line_m)]
    for sign in (1.0, -1.0):
        flip = np.array([sign, 1.0])
        parts.append(Part(rectangle(half - 5.8, -2.45, half - 0.1, 2.45) * flip, key))
        outlines += [o * flip for o in _frame(half - 5.8, -2.45, half, 2.45, line_m)]
        outlines.append(_arc(-half + 1.6, 6.4, -1.35, 1.35, line_m) * np.array([-sign, 1.0]))
        outlines.append(_arc(half - 5.8, 1.8, math.pi / 2, 3 * math.pi / 2, line_m) * flip)
    parts += [Part(outline, LINE) for outline in outlines]
    return Drawing.of("basketball-court", "basketball-court", parts, symmetric=True)


def _pool_outline(kind: str, length: float, width: float) -> Array:
    half, w = length / 2, width / 2
    if kind == "oval":
        return ellipse(0, 0, half, w, 28)
    if kind == "kidney":
        turns = np.arange(32) * (2 * math.pi / 32)
        dent = 0.36 * np.exp(-(((turns - math.pi * 1.5) / 0.6) ** 2))
        radius = 1 - dent
        return np.stack([half * radius * np.cos(turns), w * radius * np.sin(turns)], axis=1)
    if kind == "ell":
        return np.array(
            [(half, -w), (half, 0.1 * w), (0, 0.1 * w), (0, w), (-half, w), (-half, -w)]
        )
    return rounded(-half, -w, half, w, 0.4 if kind == "rectangular" else w * 0.6)


def swimming_pool(
    rng: np.random.Generator, style: Style, length: float, width: float, kind: str
) -> Drawing:
    """The water surface: rectangular, rounded, oval, kidney, ell, or lanes (25 m and up)."""
    outline = _pool_outline("rectangular" if kind == "lanes" else kind, length, width)
    centre = (outline.max(axis=0) + outline.min(axis=0)) / 2
    water = pick_colour(rng, style.pools)
    half, w = length / 2, width / 2
    shrink = min(0.6 / width, 0.12)
    inner = (outline - centre) * (1 - 2 * shrink) + centre
    parts = [Part(outline, shade(water, 1.12), solid=True), Part(inner, water)]
    if kind == "lanes":
        lanes = max(3, int(width / 2.4))
        for k in range(1, lanes):
            y = -w + width * k / lanes
            parts.append(Part(bar((-half * 0.95, y), (half * 0.95, y), 0.25), shade(water, 0.72)))
    elif kind in ("rectangular", "rounded"):
        parts.append(Part(rectangle(0.0, -w * 0.8, half * 0.86, w * 0.8), shade(water, 0.88)))
        parts.append(
            Part(rectangle(-half * 0.95, -w * 0.5, -half * 0.78, w * 0.5), shade(water, 1.2))
        )
    else:
        deep = (outline - centre) * 0.5 + centre
        parts.append(Part(deep, shade(water, 0.9)))
    return Drawing.of("swimming-pool", f"{kind}-pool", parts, symmetric=True)
