"""Typical outlines of object classes seen from above, as hypotheses that fill a label's box.

Frame of an outline: its length runs along x from -0.5 to 0.5, front at +x, y to its right;
units are the object's length. A template is such an outline, turned, stretched to touch all
four sides of the label's box and rasterised on a square grid on which the box fills the
middle (`INSET` of the grid on every side is surround).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import Array

__all__ = ["INSET", "Family", "Outline", "Templates", "family_of", "templates"]

INSET = 0.2  # share of the grid's side that lies outside the box, at each end
Grid = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Convex or simple parts whose union is the silhouette; each float64 [N, 2]."""

    parts: tuple[Array, ...]
    turns: int = 360  # degrees after which it looks the same: 360, 180, 90 or 1 (a disc)
    handicap: float = 0.0  # rarer outlines must explain this much more


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Classes that look alike from above."""

    name: str
    outlines: tuple[Outline, ...]
    words: tuple[str, ...] = ()
    softness: float = 0.03  # how far real outlines stray from the template, in box sides
    stiffness: float = 0.8  # what bending the outline to the box's aspect costs
    step: int = 10  # degrees between the directions tried
    bright: float = 0.0  # how much such objects tend to be brighter than their ground


def _turned(parts: tuple[Array, ...], angle: float) -> list[Array]:
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    return [part @ turn for part in parts]


def _ellipse(width: float, power: float = 2.0, steps: int = 28) -> Array:
    """A superellipse of length 1; power 2 is an ellipse, larger is squarer."""
    angle = np.arange(steps) * (2 * math.pi / steps)
    c, s = np.cos(angle), np.sin(angle)
    x = np.sign(c) * np.abs(c) ** (2 / power)
    y = np.sign(s) * np.abs(s) ** (2 / power)
    return np.stack([x * 0.5, y * width / 2], axis=1)


def _both(side: list[tuple[float, float]]) -> Array:
    """A closed outline from its right half, listed front to back."""
    right = np.array(side, dtype=np.float64)
    return np.concatenate([right, right[::-1] * (1.0, -1.0)])


def _hull(width: float, bow: float, stern: float = 0.8) -> Array:
    """A ship: pointed bow of length `bow`, then parallel sides, a stern of its own width."""
    h = width / 2
    return _both(
        [
            (0.5, 0.0),
            (0.5 - bow * 0.35, h * 0.5),
            (0.5 - bow, h * 0.95),
            (0.1 - bow * 0.2, h),
            (-0.3, h),
            (-0.5, h * stern),
        ]
    )


def _plane(
    span: float, sweep: float, chord: float, body: float, wing: float = 0.08, tail: float = 0.36
) -> Outline:
    """An aeroplane: `span`, wing `chord` and `body` width in lengths; `sweep` = tip setback;
    `wing` = where the middle of the chord meets the body; `tail` = tailplane span."""
    h, b = span / 2, body / 2
    fuselage = _both([(0.5, b * 0.15), (0.44, b * 0.8), (0.36, b), (-0.25, b), (-0.5, b * 0.35)])
    right = np.array(
        [
            (wing + chord * 0.55, b * 0.5),
            (wing - sweep, h),
            (wing - sweep - chord * 0.4, h),
            (wing - chord * 0.75, b * 0.5),
        ]
    )
    root = -0.36 if sweep > 0.1 else -0.4
    fin = np.array([(root, b * 0.3), (-0.43, tail / 2), (-0.5, tail / 2), (-0.49, b * 0.3)])
    flip = np.array([1.0, -1.0])
    return Outline((fuselage, right, right * flip, fin, fin * flip))


def _helicopter(width: float, boom: float, blades: int, phase: float) -> Outline:
    """Cabin, tail boom and rotor blades standing at `phase` (share of the gap between two)."""
    cabin = _ellipse(width) * (0.55, 1.0) + (0.5 - 0.275, 0.0)
    tail = _both([(0.2, boom), (-0.42, boom * 0.6), (-0.5, boom * 0.6)])
    fin = _both([(-0.38, 0.09), (-0.5, 0.09)])
    blade = np.array([(0.0, -0.022), (0.5, -0.022), (0.5, 0.022), (0.0, 0.022)])
    turned = [
        _turned((blade,), 2 * math.pi * (k + phase) / blades)[0] + (0.2, 0.0) for k in range(blades)
    ]
    return Outline((cabin, tail, fin, *turned))


_DISC = Outline((_ellipse(1.0),), turns=1)
_RECTANGLES = {a: Outline((_ellipse(1 / a, 40.0),), turns=180) for a in (1.0, 1.4, 1.9, 2.6, 4.0)}
_ROUNDED = {
    a: Outline((_ellipse(1 / a, 5.0, 40),), turns=180) for a in (1.3, 1.8, 2.2, 2.8, 3.8, 5.5)
}

FAMILIES = (
    Family("disc", (_DISC,), ("tank", "roundabout", "silo", "chimney", "windmill"), 0.02),
    Family(
        "plane",
        (
            _plane(0.95, 0.26, 0.20, 0.11),
            _plane(1.10, 0.16, 0.17, 0.10),
            _plane(1.30, 0.03, 0.17, 0.13),
            _plane(1.45, 0.02, 0.20, 0.12, wing=0.17, tail=0.46),
            _plane(1.15, 0.03, 0.22, 0.14, wing=0.15, tail=0.42),
            _plane(0.95, 0.22, 0.22, 0.10, wing=-0.05),
            _plane(0.80, 0.36, 0.24, 0.13),
            Outline(
                (
                    _both(
                        [
                            (0.5, 0.03),
                            (0.1, 0.1),
                            (-0.32, 0.34),
                            (-0.42, 0.34),
                            (-0.42, 0.16),
                            (-0.5, 0.14),
                        ]
                    ),
                ),
                handicap=0.06,
            ),
        ),
        ("plane", "airplane", "aeroplane", "aircraft", "jet", "airliner", "fighter"),
        0.025,
        stiffness=0.3,
        bright=0.08,
    ),
    Family(
        "helicopter",
        (
            Outline(_helicopter(0.24, 0.04, 2, 0.0).parts[:3]),
            *(
                _helicopter(0.22, 0.045, blades, phase)
                for blades, phases in ((2, 6), (3, 4), (4, 4), (5, 4))
                for phase in np.arange(phases) / phases
            ),
        ),
        ("helicopter",),
        0.02,
        step=20,
    ),
    Family(
        "ship",
        tuple(
            Outline((_hull(1 / a, bow, stern),))
            for a, bow, stern in (
                (2.0, 0.45, 0.8),
                (2.6, 0.45, 0.8),
                (3.3, 0.4, 0.75),
                (4.2, 0.3, 0.8),
                (5.5, 0.22, 0.85),
                (7.5, 0.16, 0.85),
            )
        )
        + (Outline((_ellipse(1 / 3.0, 2.4),), turns=180),),
        ("ship", "boat", "vessel", "yacht", "warship", "ferry", "barge", "submarine"),
        0.025,
    ),
    Family(
        "small vehicle",
        (_ROUNDED[1.8], _ROUNDED[2.2], _ROUNDED[2.8]),
        ("small-vehicle", "car", "van", "vehicle"),
        0.025,
    ),
    Family(
        "large vehicle",
        (_ROUNDED[2.2], _ROUNDED[2.8], _ROUNDED[3.8], _ROUNDED[5.5]),
        ("large-vehicle", "truck", "bus", "lorry", "train", "trailer", "locomotive"),
        0.025,
    ),
    Family(
        "court",
        (_RECTANGLES[1.4], _RECTANGLES[1.9], _RECTANGLES[2.6], _RECTANGLES[1.0]),
        (
            "court",
            "soccer-ball-field",
            "football-field",
            "ground",
            "parking",
            "building",
            "house",
            "container",
            "solar-panel",
        ),
        0.015,
    ),
    Family(
        "strip",
        (*(_RECTANGLES[a] for a in (1.9, 2.6, 4.0)), Outline((_ellipse(0.13, 40.0),), 180)),
        ("bridge", "harbor", "harbour", "pier", "dock", "overpass", "runway", "dam"),
        0.03,
    ),
    Family(
        "pool",
        (_ROUNDED[1.3], _ROUNDED[1.8], _ROUNDED[2.8], Outline((_ellipse(0.6),), 180), _DISC),
        ("swimming-pool", "pool", "pond", "track-field", "stadium"),
        0.04,
    ),
)
BLOB = Family(
    "blob",
    (_DISC, *(Outline((_ellipse(w, 2.6),), 180) for w in (0.6, 0.35)), _ROUNDED[1.3]),
    (),
    0.05,
)


@lru_cache(maxsize=512)
def family_of(label: str) -> Family:
    """The family whose longest word is part of a class name (plural allowed); else a blob."""
    name = "-" + "-".join(label.lower().replace("_", " ").replace("-", " ").split()) + "-"
    hits = [
        (len(word), family)
        for family in FAMILIES
        for word in family.words
        if any(f"-{word}{end}-" in name for end in ("", "s", "es"))
    ]
    return max(hits, key=lambda hit: hit[0])[1] if hits else BLOB


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """K hypotheses on one grid.

    fill: float32 [K, S, S] in [0, 1], share of each cell inside; edge: float32 [K, S, S],
    boundary weight, each summing to 1; cost: float32 [K], what the template's rarity and its
    bending to the box's aspect count against it; angle: float32 [K], radians of the front
    from the box's +x, NaN where the outline has no front.
    """

    fill: Grid
    edge: Grid
    cost: Grid
    angle: Grid


def _raster(parts: list[Array], size: int) -> Grid:
    """Parts in unit-box coordinates -> coverage [size, size], 4 x 4 samples a cell."""
    fine = np.zeros((size * 4, size * 4), dtype=np.uint8)
    start, side = INSET * size * 4, (1 - 2 * INSET) * size * 4
    for part in parts:
        points = np.round((part * side + start - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(fine, [points], 255, cv2.LINE_8, shift=4)
    small = cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
    return (np.asarray(small, dtype=np.float32) / 255).astype(np.float32)


@lru_cache(maxsize=96)
def templates(family: Family, log_aspect: float, pose: str, size: int) -> Templates:
    """Hypotheses for a box whose width / height is exp(log_aspect).

    `pose`: "any" (axis-aligned label, unknown direction), "axes" (oriented label without a
    front: multiples of 90 degrees), "front" (the front is at +x).
    """
    step = {"any": family.step, "axes": 90, "front": 360}[pose]
    fills, mismatches, angles = list[Grid](), list[float](), list[float]()
    handicaps = list[float]()
    for outline in family.outlines:
        for degrees in range(0, max(1, outline.turns), step):
            angle = math.radians(degrees)
            parts = _turned(outline.parts, angle)
            points = np.concatenate(parts)
            low, high = points.min(axis=0), points.max(axis=0)
            mismatch = math.log((high[0] - low[0]) / (high[1] - low[1])) - log_aspect
            fills.append(_raster([(p - low) / (high - low) for p in parts], size))
            mismatches.append(abs(mismatch))
            handicaps.append(outline.handicap)
            fronted = outline.turns == 360
            angles.append(math.remainder(angle, 2 * math.pi) if fronted else math.nan)
    bent = np.array(mismatches, dtype=np.float32)
    keep = np.argsort(bent, kind="stable")
    limit = max(0.24 / family.stiffness, float(bent[keep[min(15, len(keep) - 1)]]))
    keep = np.sort(keep[bent[keep] <= limit])
    fill = np.stack([fills[k] for k in keep])
    cost = family.stiffness * (bent**2 + bent / 8) + np.array(handicaps, dtype=np.float32)
    return Templates(
        fill,
        np.stack([_boundary(f) for f in fill]),
        np.asarray(cost[keep], dtype=np.float32),
        np.array(angles, dtype=np.float32)[keep],
    )


def _boundary(fill: Grid) -> Grid:
    dx = cv2.Sobel(fill, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(fill, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    weight = np.hypot(dx, dy)
    return np.asarray(weight / max(float(weight.sum()), 1e-6), dtype=np.float32)
