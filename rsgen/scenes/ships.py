"""Ships and boats from above."""

from __future__ import annotations

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
    symmetric,
)
from rsgen.scenes.style import Style, muted, pick_colour

__all__ = [
    "barge",
    "bulk_carrier",
    "container_ship",
    "ferry",
    "fishing_boat",
    "motor_yacht",
    "sailing_yacht",
    "speedboat",
    "tanker",
    "tug",
]

WHITE: Colour = (228.0, 230.0, 230.0)
GLASS: Colour = (46.0, 54.0, 62.0)


def _hull(length: float, beam: float, bow: float, stern: float = 0.8, tip: float = 0.06) -> Array:
    """Outline with a pointed bow over the front `bow` share and a stern of relative width."""
    half, b = length / 2, beam / 2
    return symmetric(
        [
            (half, b * tip + 0.12),
            (half - bow * length * 0.18, b * 0.36),
            (half - bow * length * 0.45, b * 0.7),
            (half - bow * length * 0.75, b * 0.92),
            (half - bow * length, b),
            (-half * 0.72, b),
            (-half * 0.93, b * (0.5 + stern / 2)),
            (-half, b * stern),
        ]
    )


def _deck(hull: Array, length: float, beam: float, rim: float, colour: Colour) -> Part:
    shrink = np.array([1 - 2 * rim / length, 1 - 2 * rim / beam])
    return Part(hull * shrink, colour)


def _house(x0: float, x1: float, width: float, colour: Colour = WHITE) -> list[Part]:
    """A deckhouse: walls shaded by the sun, a lighter roof, a dark bridge window facing on."""
    b = width / 2
    inset = min(0.22 * (x1 - x0), 0.9)
    return [
        Part(rectangle(x0, -b, x1, b), shade(colour, 0.78)),
        Part(rectangle(x0, 0, x1, b), shade(colour, 0.82), tilt=(0.0, 0.7)),
        Part(rectangle(x0, -b, x1, 0), shade(colour, 0.82), tilt=(0.0, -0.7)),
        Part(rectangle(x0 + inset, -b + inset, x1 - inset * 0.6, b - inset), colour),
        Part(rectangle(x1 - inset * 0.7, -b * 0.8, x1 - inset * 0.1, b * 0.8), GLASS),
    ]


def _drawing(kind: str, parts: list[Part], height_m: float) -> Drawing:
    return Drawing.of("ship", kind, parts, height_m=height_m)


def container_ship(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.15, 0.18)
    hull = _hull(length, beam, rng.uniform(0.14, 0.2), 0.85)
    side = pick_colour(rng, style.hulls)
    parts = [Part(hull, side, solid=True)]
    parts.append(_deck(hull, length, beam, 0.7, shade(pick_colour(rng, style.hulls), 0.9)))
    bay, gap = 6.1 * (2 if length > 80 else 1), 1.0
    row = 2.45
    rows = max(2, int(beam * 0.86 / row))
    bridge = -length * 0.36
    x = -length * 0.44
    box_palette = [muted(shade(c, 0.95), 0.3) for c in style.livery]
    while x + bay < length * 0.36:
        if not (x < bridge + length * 0.05 and x + bay > bridge - length * 0.03):
            fullness = rng.uniform(0.35, 1.0)
            for k in range(rows):
                y = (k - rows / 2) * row
                if rng.random() < fullness:
                    colour = box_palette[int(rng.integers(len(box_palette)))]
                    tone = shade(colour, rng.uniform(0.75, 1.08))
                    parts.append(Part(rectangle(x, y + 0.12, x + bay, y + row - 0.12), tone))
                else:
                    parts.append(Part(rectangle(x, y, x + bay, y + row), (92.0, 74.0, 66.0)))
        x += bay + gap
    parts += _house(bridge - length * 0.02, bridge + length * 0.045, beam * 0.92)
    parts.append(disc(bridge - length * 0.035, 0, beam * 0.09, pick_colour(rng, style.livery)))
    return _drawing("container-ship", parts, 9.0)


def bulk_carrier(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.15, 0.19)
    hull = _hull(length, beam, rng.uniform(0.12, 0.18), 0.8)
    deck = shade(pick_colour(rng, style.hulls), 1.15)
    parts = [Part(hull, pick_colour(rng, style.hulls), solid=True)]
    parts.append(_deck(hull, length, beam, 0.6, deck))
    holds = int(rng.integers(3, 7))
    pitch = length * 0.6 / holds
    lid = shade(deck, 1.2) if rng.random() < 0.5 else (154.0, 150.0, 142.0)
    cranes = rng.random() < 0.5
    for k in range(holds):
        x = -length * 0.24 + k * pitch
        w = beam * 0.31
        parts.append(
            Part(rectangle(x - 0.4, -w - 0.4, x + pitch * 0.74 + 0.4, w + 0.4), shade(deck, 0.6))
        )
        open_hold = rng.random() < 0.2
        tone = (66.0, 60.0, 56.0) if open_hold else shade(lid, rng.uniform(0.94, 1.05))
        parts.append(Part(rectangle(x, -w, x + pitch * 0.74, w), tone))
        parts.append(Part(bar((x, 0), (x + pitch * 0.74, 0), 0.5), shade(tone, 0.8)))
        if cranes and k < holds - 1:
            base = x + pitch * 0.87
            parts.append(
                Part(bar((base, 0), (base + pitch * 0.5, beam * 0.2), 0.9), (206.0, 178.0, 92.0))
            )
            parts.append(disc(base, 0, beam * 0.08, (214.0, 190.0, 110.0)))
    parts += _house(-length * 0.42, -length * 0.32, beam * 0.84)
    parts.append(
        Part(
            rectangle(-length * 0.45, -beam * 0.1, -length * 0.42, beam * 0.1),
            pick_colour(rng, style.livery),
        )
    )
    return _drawing("bulk-carrier", parts, 7.0)


def tanker(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.155, 0.19)
    hull = _hull(length, beam, rng.uniform(0.12, 0.17), 0.8)
    deck: Colour = ((132.0, 66.0, 56.0), (84.0, 108.0, 92.0), (148.0, 92.0, 76.0))[
        int(rng.integers(3))
    ]
    deck = shade(deck, rng.uniform(0.85, 1.15))
    parts = [Part(hull, pick_colour(rng, style.hulls), solid=True)]
    parts.append(_deck(hull, length, beam, 0.5, deck))
    pipe = shade(deck, 1.45)
    for y in (-0.06, 0.0, 0.06):
        parts.append(Part(bar((-length * 0.28, y * beam), (length * 0.36, y * beam), 0.55), pipe))
    parts.append(Part(bar((0, -beam * 0.4), (0, beam * 0.4), 1.2), shade(pipe, 0.9)))
    for x in np.linspace(-length * 0.22, length * 0.3, 6):
        for y in (-0.27, 0.27):
            parts.append(disc(float(x), y * beam, 0.9, shade(deck, 0.75)))
    parts.append(
        Part(bar((length * 0.33, -beam * 0.3), (length * 0.33, beam * 0.3), 0.6), shade(deck, 0.7))
    )
    parts += _house(-length * 0.42, -length * 0.31, beam * 0.8)
    parts.append(
        Part(
            rounded(-length * 0.465, -beam * 0.12, -length * 0.425, beam * 0.12, 0.6),
            pick_colour(rng, style.livery),
        )
    )
    return _drawing("tanker", parts, 5.0)


def ferry(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.18, 0.23)
    hull = _hull(length, beam, 0.2, 0.9, 0.14)
    parts = [
        Part(hull, pick_colour(rng, style.livery), solid=True),
        _deck(hull, length, beam, 0.5, WHITE),
    ]
    parts += [
        Part(
            rounded(-length * 0.4, -beam * 0.4, length * 0.26, beam * 0.4, 1.0),
            (206.0, 208.0, 208.0),
        ),
        Part(
            rounded(-length * 0.3, -beam * 0.3, length * 0.2, beam * 0.3, 1.0),
            (238.0, 239.0, 238.0),
        ),
        Part(
            rounded(-length * 0.14, -beam * 0.1, -length * 0.06, beam * 0.1, 0.6),
            pick_colour(rng, style.livery),
        ),
        Part(rectangle(length * 0.255, -beam * 0.36, length * 0.275, beam * 0.36), GLASS),
    ]
    for x in np.linspace(-length * 0.26, length * 0.14, 6):
        parts += [
            Part(rectangle(float(x), y, float(x) + 2.4, y + 1.0), (206.0, 106.0, 46.0))
            for y in (-beam * 0.38, beam * 0.38 - 1.0)
        ]
    return _drawing("ferry", parts, 8.0)


def barge(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.17, 0.24)
    b, half = beam / 2, length / 2
    hull = symmetric(
        [
            (half, b * 0.62),
            (half * 0.94, b * 0.95),
            (half * 0.9, b),
            (-half * 0.97, b),
            (-half, b * 0.9),
        ]
    )
    steel = pick_colour(rng, style.hulls)
    cargo: Colour = (
        (52.0, 50.0, 48.0),
        (172.0, 148.0, 112.0),
        (126.0, 82.0, 62.0),
        (150.0, 150.0, 146.0),
    )[int(rng.integers(4))]
    parts = [Part(hull, steel, solid=True), Part(hull * np.array([0.97, 0.9]), shade(steel, 1.35))]
    x0, x1 = -half * 0.62, half * 0.84
    bays = int(rng.integers(1, 5))
    for k in range(bays):
        a = x0 + (x1 - x0) * k / bays + 0.4
        e = x0 + (x1 - x0) * (k + 1) / bays - 0.4
        tone = shade(cargo, rng.uniform(0.85, 1.1))
        parts += [
            Part(rectangle(a, -b * 0.72, e, b * 0.72), shade(tone, 0.7)),
            Part(rectangle(a + 0.4, 0, e - 0.4, b * 0.66), tone, tilt=(0.0, 0.5)),
            Part(rectangle(a + 0.4, -b * 0.66, e - 0.4, 0), tone, tilt=(0.0, -0.5)),
        ]
    parts += _house(-half * 0.9, -half * 0.7, beam * 0.7)
    return _drawing("barge", parts, 3.0)


def fishing_boat(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.26, 0.33)
    hull = _hull(length, beam, 0.42, 0.8, 0.1)
    side = pick_colour(rng, style.hulls) if rng.random() < 0.6 else WHITE
    parts = [Part(hull, side, solid=True)]
    parts.append(
        _deck(
            hull,
            length,
            beam,
            0.35,
            pick_colour(rng, ((150, 132, 104), (128, 122, 114), (108, 126, 120))),
        )
    )
    ahead = rng.random() < 0.6
    x = length * 0.08 if ahead else -length * 0.36
    parts += _house(x, x + length * 0.2, beam * 0.58)
    parts.append(Part(bar((x, 0), (x - length * 0.3, beam * 0.1), 0.22), (196.0, 190.0, 176.0)))
    gear = x - length * 0.25 if ahead else length * 0.05
    for _ in range(int(rng.integers(2, 5))):
        cx, cy = gear + rng.uniform(-0.1, 0.1) * length, rng.uniform(-0.25, 0.25) * beam
        parts.append(disc(cx, cy, beam * 0.09, pick_colour(rng, style.livery)))
    return _drawing("fishing-boat", parts, 2.6)


def tug(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.32, 0.38)
    hull = _hull(length, beam, 0.34, 0.75, 0.3)
    parts = [Part(hull, (42.0, 42.0, 44.0), solid=True)]
    parts.append(
        _deck(
            hull,
            length,
            beam,
            0.55,
            pick_colour(rng, ((158, 70, 48), (70, 104, 86), (112, 96, 84))),
        )
    )
    parts += _house(-length * 0.08, length * 0.22, beam * 0.6)
    for y in (-0.14, 0.14):
        parts.append(disc(-length * 0.12, y * beam, beam * 0.08, (52.0, 50.0, 50.0)))
    parts.append(disc(-length * 0.27, 0, beam * 0.1, (78.0, 72.0, 66.0)))
    return _drawing("tug", parts, 4.5)


def motor_yacht(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.24, 0.29)
    hull = _hull(length, beam, 0.5, 0.88, 0.08)
    white = shade(WHITE, rng.uniform(0.94, 1.06))
    parts = [Part(hull, shade(white, 0.93), solid=True), _deck(hull, length, beam, 0.3, white)]
    half = length / 2
    teak = pick_colour(rng, ((166, 132, 92), (178, 148, 112), (196, 190, 178)))
    parts.append(Part(rounded(-half * 0.96, -beam * 0.38, -half * 0.45, beam * 0.38, 0.4), teak))
    cabin = symmetric(
        [
            (half * 0.42, beam * 0.1),
            (half * 0.3, beam * 0.26),
            (half * 0.0, beam * 0.34),
            (-half * 0.5, beam * 0.32),
        ]
    )
    parts.append(Part(cabin, shade(white, 0.82)))
    parts.append(Part(cabin * np.array([0.84, 0.86]), shade(white, 1.06)))
    screen = symmetric(
        [
            (half * 0.36, beam * 0.08),
            (half * 0.25, beam * 0.24),
            (half * 0.14, beam * 0.27),
            (half * 0.22, beam * 0.1),
        ]
    )
    parts.append(Part(screen, GLASS))
    if rng.random() < 0.5:
        parts.append(
            Part(
                rounded(-half * 0.4, -beam * 0.2, -half * 0.1, beam * 0.2, 0.3),
                pick_colour(rng, style.livery),
            )
        )
    return _drawing("motor-yacht", parts, 2.4)


def sailing_yacht(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.25, 0.3)
    hull = _hull(length, beam, 0.62, 0.62, 0.08)
    white = shade(WHITE, rng.uniform(0.92, 1.06))
    trim = pick_colour(rng, style.livery) if rng.random() < 0.5 else shade(white, 0.9)
    half = length / 2
    parts = [Part(hull, trim, solid=True), _deck(hull, length, beam, 0.25, white)]
    parts.append(Part(ellipse(half * 0.1, 0, half * 0.34, beam * 0.24, 14), shade(white, 0.86)))
    parts.append(
        Part(rounded(-half * 0.8, -beam * 0.2, -half * 0.36, beam * 0.2, 0.3), (150.0, 122.0, 90.0))
    )
    cover = pick_colour(rng, ((44, 66, 116), (206, 204, 196), (52, 60, 66), (120, 40, 44)))
    parts.append(Part(bar((half * 0.16, 0), (-half * 0.56, 0), 0.42), cover))
    parts.append(disc(half * 0.16, 0, 0.3, (236.0, 236.0, 234.0)))
    parts.append(
        Part(
            bar((half * 0.16, -beam * 0.42), (half * 0.16, beam * 0.42), 0.16),
            (196.0, 196.0, 196.0),
        )
    )
    return _drawing("sailing-yacht", parts, 1.8)


def speedboat(rng: np.random.Generator, style: Style, length: float) -> Drawing:
    beam = length * rng.uniform(0.3, 0.36)
    hull = _hull(length, beam, 0.55, 0.9, 0.08)
    white = shade(WHITE, rng.uniform(0.9, 1.05))
    half = length / 2
    seat = pick_colour(rng, style.livery)
    parts = [Part(hull, white, solid=True)]
    parts.append(
        Part(rounded(-half * 0.85, -beam * 0.34, half * 0.05, beam * 0.34, 0.4), shade(seat, 0.8))
    )
    parts.append(
        Part(rounded(-half * 0.5, -beam * 0.26, -half * 0.2, beam * 0.26, 0.2), shade(white, 0.9))
    )
    screen = symmetric(
        [
            (half * 0.2, beam * 0.12),
            (half * 0.06, beam * 0.36),
            (half * -0.02, beam * 0.36),
            (half * 0.1, beam * 0.1),
        ]
    )
    parts.append(Part(screen, GLASS))
    parts.append(
        Part(
            rectangle(-half, -beam * 0.12, -half * 0.9, beam * 0.12), (48.0, 48.0, 50.0), solid=True
        )
    )
    return _drawing("speedboat", parts, 1.3)
