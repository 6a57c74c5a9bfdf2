"""Unlabelled things: houses, halls, trees, containers."""

from __future__ import annotations

import math

import numpy as np

from rsgen.scenes.shapes import Drawing, Part, bar, ellipse, rectangle, shade
from rsgen.scenes.style import Style, muted, pick_colour

__all__ = ["container", "crane", "flat_hall", "pitched_house", "tree"]


def tree(rng: np.random.Generator, style: Style, radius: float) -> Drawing:
    """A crown of leaf clumps, brighter toward the sun, with a ragged outline."""
    base = pick_colour(rng, style.trees, 12.0)
    count = 9 + int(min(radius, 4.5) * 2)
    turns = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * (2 * math.pi / count)
    reach = radius * rng.uniform(0.72, 1.12, count)
    outline = np.stack([reach * np.cos(turns), reach * np.sin(turns)], axis=1)
    parts = [Part(outline, shade(base, 0.66), solid=True)]
    clumps = 6 + int(min(radius, 5) * 3)
    angles = rng.uniform(0, 2 * math.pi, clumps)
    distances = radius * np.sqrt(np.linspace(0.75, 0.0, clumps))  # the top is painted last
    sizes = radius * rng.uniform(0.17, 0.32, clumps)
    tones = rng.uniform(0.86, 1.3, clumps)
    for angle, distance, size, tone in zip(angles, distances, sizes, tones, strict=True):
        x, y = distance * math.cos(angle), distance * math.sin(angle)
        lean = 0.95 / radius
        clump = ellipse(x, y, size, steps=6)
        parts.append(Part(clump, shade(base, tone), tilt=(x * lean, y * lean)))
    return Drawing.of(None, "tree", parts, height_m=radius * rng.uniform(1.0, 1.7))


def pitched_house(rng: np.random.Generator, style: Style, length: float, width: float) -> Drawing:
    """A hipped or gabled roof whose faces take the sun, sometimes with a wing."""
    roof = pick_colour(rng, style.roofs)
    half, w = length / 2, width / 2
    hip = rng.choice((0.0, min(0.9 * w, half * 0.8)))
    ridge0, ridge1 = -half + float(hip), half - float(hip)
    faces = [
        ([(-half, w), (half, w), (ridge1, 0), (ridge0, 0)], (0.0, 0.75)),
        ([(-half, -w), (half, -w), (ridge1, 0), (ridge0, 0)], (0.0, -0.75)),
        ([(half, -w), (half, w), (ridge1, 0)], (0.75, 0.0)),
        ([(-half, -w), (-half, w), (ridge0, 0)], (-0.75, 0.0)),
    ]
    parts = [Part(rectangle(-half, -w, half, w), shade(roof, 0.8), solid=True)]
    parts += [Part(np.array(outline), roof, tilt=tilt) for outline, tilt in faces]
    parts.append(Part(bar((ridge0, 0), (ridge1, 0), 0.25), shade(roof, 1.12)))
    if rng.random() < 0.45:
        x, depth = rng.uniform(-0.3, 0.3) * length, rng.uniform(0.25, 0.45) * width
        wing = rectangle(x - 2.4, -w - depth, x + 2.4, -w + 1.0)
        parts.append(Part(wing, roof, solid=True))
        parts.append(
            Part(
                np.array([(x - 2.4, -w - depth), (x, -w - depth), (x, -w * 0.3), (x - 2.4, -w)]),
                roof,
                tilt=(-0.75, 0.0),
            )
        )
        parts.append(
            Part(
                np.array([(x + 2.4, -w - depth), (x, -w - depth), (x, -w * 0.3), (x + 2.4, -w)]),
                roof,
                tilt=(0.75, 0.0),
            )
        )
    if rng.random() < 0.25:
        x0 = rng.uniform(-0.4, 0.0) * length
        parts.append(Part(rectangle(x0, w * 0.25, x0 + 3.4, w * 0.75), (36.0, 42.0, 62.0)))
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(-0.35, 0.35) * length, rng.uniform(-0.3, 0.3) * width
        parts.append(Part(rectangle(x, y, x + 0.8, y + 0.8), (176.0, 168.0, 160.0)))
    return Drawing.of(None, "house", parts, height_m=rng.uniform(4.0, 7.5))


def flat_hall(
    rng: np.random.Generator, style: Style, length: float, width: float, height: float
) -> Drawing:
    """A large flat or low-ribbed roof with parapet, plant and skylights."""
    tone = rng.uniform(120, 226)
    roof = (tone, tone * rng.uniform(0.97, 1.0), tone * rng.uniform(0.93, 1.02))
    if rng.random() < 0.3:
        roof = pick_colour(rng, style.roofs)
    half, w = length / 2, width / 2
    parts = [
        Part(rectangle(-half, -w, half, w), shade(roof, 1.08), solid=True),
        Part(rectangle(-half + 0.5, -w + 0.5, half - 0.5, w - 0.5), shade(roof, 0.94)),
    ]
    if rng.random() < 0.5:
        pitch = rng.uniform(3.0, 7.0)
        for x in np.arange(-half + pitch, half - 0.5, pitch):
            parts.append(
                Part(bar((float(x), -w + 0.5), (float(x), w - 0.5), 0.35), shade(roof, 0.84))
            )
    else:
        parts.append(
            Part(rectangle(-half + 0.5, 0, half - 0.5, w - 0.5), shade(roof, 0.96), tilt=(0.0, 0.2))
        )
        parts.append(
            Part(
                rectangle(-half + 0.5, -w + 0.5, half - 0.5, 0), shade(roof, 0.96), tilt=(0.0, -0.2)
            )
        )
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(-0.42, 0.38) * length, rng.uniform(-0.35, 0.25) * width
        a, b = rng.uniform(1.0, 3.2), rng.uniform(0.8, 2.2)
        parts.append(Part(rectangle(x + 0.4, y + 0.4, x + a + 0.6, y + b + 0.6), shade(roof, 0.6)))
        parts.append(Part(rectangle(x, y, x + a, y + b), shade(roof, rng.uniform(0.8, 1.15))))
    return Drawing.of(None, "hall", parts, height_m=height)


def container(rng: np.random.Generator, style: Style) -> Drawing:
    """A freight container, 6.1 or 12.2 m."""
    half = (3.05, 6.1)[int(rng.integers(2))]
    colour = muted(shade(pick_colour(rng, style.livery), rng.uniform(0.75, 1.05)), 0.35)
    parts = [Part(rectangle(-half, -1.22, half, 1.22), colour, solid=True)]
    for x in np.arange(-half + 1.0, half, 1.0):
        parts.append(Part(bar((float(x), -1.2), (float(x), 1.2), 0.16), shade(colour, 0.86)))
    return Drawing.of(None, "container", parts, height_m=2.6 * int(rng.integers(1, 3)))


def crane(rng: np.random.Generator, style: Style, reach: float) -> Drawing:
    """A quay gantry: portal and a boom ahead."""
    paint = muted(pick_colour(rng, style.livery), 0.3)
    parts = [
        Part(rectangle(-10.0, -7.0, -8.2, 7.0), shade(paint, 0.9), solid=True),
        Part(rectangle(1.0, -7.0, 2.8, 7.0), shade(paint, 0.9), solid=True),
        Part(rectangle(-16.0, -2.6, reach, 2.6), shade(paint, 1.1), solid=True),
        Part(rectangle(-8.0, -3.0, -3.0, 3.0), (206.0, 206.0, 204.0), solid=True),
    ]
    for x in np.arange(-14.0, reach - 2.0, 4.0):
        parts.append(Part(rectangle(float(x), -1.4, float(x) + 2.4, 1.4), shade(paint, 0.55)))
    return Drawing.of(None, "crane", parts, height_m=9.0, lifted=True)
