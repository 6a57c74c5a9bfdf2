"""The canvas of a planner: stuff, what is taken, and objects put down one by one.

Patterns speak in the frame of the arrangement: pixels, origin at the canvas' centre, turned
by `turn_rad`. Facing is an angle in that frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import (
    Array,
    Quad,
    RotatedBox,
    apply_affine,
    heading_of,
    rotated_box_to_quad,
    similarity,
)
from rsgen.layout.place import inside, place_mask
from rsgen.layout.template import Pad
from rsgen.mask import Mask
from rsgen.pool import PoolMask
from rsgen.raster import fill_quad
from rsgen.records import ClassTable, Instance

__all__ = ["ASSUMED_GSD_M", "SMALLEST_PX", "Ground", "Piece", "visible_part"]

Field = npt.NDArray[np.float32]
ASSUMED_GSD_M = 0.5  # only for widths of stuff and gaps, where the layout has no gsd
SMALLEST_PX = 6  # fewer visible pixels are no object


@dataclass(frozen=True, slots=True)
class Piece:
    """A mask that was drawn for a class, with its size on this canvas in pixels."""

    label: str
    mask: PoolMask
    length: float
    width: float
    symmetric: bool = False
    shrunk: bool = False


@dataclass
class Ground:
    """One layout in the making."""

    width: int
    height: int
    classes: ClassTable
    rng: np.random.Generator
    gsd_m: float | None = None
    turn_rad: float = 0.0
    spacing_px: int = 1
    max_overlap: float = 0.0
    truncate: float | None = None
    pad: Pad | None = None
    capacity: int = 1_000_000
    things: list[Instance] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = similarity(1.0, self.turn_rad, (self.width / 2, self.height / 2))
        c, s = math.cos(self.turn_rad), math.sin(self.turn_rad)
        x = (np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2)[None, :]
        y = (np.arange(self.height, dtype=np.float32) + 0.5 - self.height / 2)[:, None]
        self.u: Field = c * x + s * y
        self.v: Field = c * y - s * x
        self.taken = np.zeros((self.height, self.width), dtype=np.uint8)
        self.stuff = np.zeros((self.height, self.width), dtype=np.uint8)
        self._names: list[str] = [""]
        self.has_stuff = any(entry.kind == "stuff" for entry in self.classes.classes)

    @property
    def radius(self) -> float:
        """Half the canvas' diagonal in pixels: the frame's canvas lies within."""
        return math.hypot(self.width, self.height) / 2

    @property
    def half(self) -> float:
        """Half the shorter side in pixels."""
        return min(self.width, self.height) / 2

    def px(self, metres: float) -> float:
        return metres / (self.gsd_m or ASSUMED_GSD_M)

    def span(self, low_high: tuple[float, float]) -> float:
        """An even draw from a pair."""
        return float(self.rng.uniform(*low_high))

    def span_px(self, metres: tuple[float, float]) -> float:
        return self.px(self.span(metres))

    # --- stuff -------------------------------------------------------------------------

    def code(self, stuff: str | None) -> int:
        """The value of a stuff name on this canvas; 0 is nothing."""
        if stuff is None:
            return 0
        if stuff not in self._names:
            self._names.append(stuff)
        return self._names.index(stuff)

    def flood(self, stuff: str | None) -> None:
        self.stuff[:] = self.code(stuff)

    def band(self, v0: float, v1: float, stuff: str | None) -> None:
        """Paint a stripe along the frame's x, from v0 to v1."""
        if self.has_stuff:
            self.stuff[(self.v >= v0) & (self.v < v1)] = self.code(stuff)

    def column(self, u0: float, u1: float, stuff: str | None) -> None:
        """Paint a stripe along the frame's y."""
        if self.has_stuff:
            self.stuff[(self.u >= u0) & (self.u < u1)] = self.code(stuff)

    def rectangle(self, u0: float, v0: float, u1: float, v1: float, stuff: str | None) -> None:
        corners: Array = np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])
        self._paint(apply_affine(self.world, corners), stuff)

    def beyond(self, edge: Field | float, stuff: str | None) -> None:
        """Paint everything with v above an edge (a number, or one a pixel)."""
        if self.has_stuff:
            self.stuff[self.v >= edge] = self.code(stuff)

    def disc(self, x: float, y: float, radius: float, stuff: str | None) -> None:
        """Paint a disc around a canvas point."""
        centre = (round((x - 0.5) * 16), round((y - 0.5) * 16))
        cv2.circle(self.stuff, centre, round(radius * 16), self.code(stuff), -1, shift=4)

    def _paint(self, corners: Array, stuff: str | None) -> None:
        if not self.has_stuff:
            return
        p1, p2, p3, p4 = (tuple(p) for p in corners.tolist())
        mask = fill_quad((p1, p2, p3, p4), self.width, self.height)
        if mask is not None:
            mask.paint(self.stuff, self.code(stuff))

    # --- things ------------------------------------------------------------------------

    def label_quad(self, piece: Piece, x: float, y: float, facing: float) -> Quad:
        """The label of a piece at a place of the frame, on the canvas."""
        (cx, cy) = apply_affine(self.world, np.array([(x, y)]))[0].tolist()
        angle = self.turn_rad + facing
        return rotated_box_to_quad(RotatedBox(cx, cy, piece.length, piece.width, angle))

    def put(self, piece: Piece, x: float, y: float, facing: float, on: str | None = None) -> bool:
        """Put a piece down, if it fits; says whether it did."""
        if len(self.things) >= self.capacity:
            return False
        quad = self.label_quad(piece, x, y, facing)
        mask = self.fits(piece, quad, on)
        if mask is None:
            return False
        if self.pad is not None:
            margin = 2 * self.span_px(self.pad.margin_m)
            wide = replace(piece, length=piece.length + margin, width=piece.width + margin)
            self._paint(np.asarray(self.label_quad(wide, x, y, facing)), self.pad.stuff)
        self.add(piece, quad, mask)
        return True

    def fits(self, piece: Piece, quad: Quad, on: str | None = None) -> Mask | None:
        """The piece's mask in a label, or None where it would break a rule."""
        whole = inside(quad, self.width, self.height)
        if not whole and self.truncate is None:
            return None
        mask = place_mask(piece.mask.pixels, quad, self.width, self.height)
        if mask is None or mask.area < SMALLEST_PX:
            return None
        if not whole:
            full = piece.mask.pixels.mean() * piece.length * piece.width
            if mask.area < (self.truncate or 1.0) * full:
                return None
        crop = mask.crop()
        window = np.s_[mask.y0 : mask.y0 + mask.height, mask.x0 : mask.x0 + mask.width]
        if int(self.taken[window][crop].sum()) > self.max_overlap * mask.area:
            return None
        if on is not None and self.has_stuff:
            wanted = self.stuff[window][crop] == self.code(on)
            if wanted.mean() < 0.95:
                return None
        return mask

    def add(self, piece: Piece, quad: Quad, mask: Mask) -> None:
        """Record a placed piece; its label is exactly the quad its mask was mapped to."""
        known = piece.mask.pose == "heading" and not piece.symmetric
        self.things.append(
            Instance(
                label=piece.label,
                box=mask.box,
                quad=quad,
                mask=mask,
                heading_rad=heading_of(quad) if known else None,
                truncated=not inside(quad, self.width, self.height),
                origin=f"pool:{piece.mask.id}",
            )
        )
        self.pieces.append(piece)
        self.occupy(mask)

    def occupy(self, mask: Mask) -> None:
        """Mark a mask and its margin as taken."""
        gap = self.spacing_px
        x0, y0 = max(mask.x0 - gap, 0), max(mask.y0 - gap, 0)
        x1 = min(mask.x0 + mask.width + gap, self.width)
        y1 = min(mask.y0 + mask.height + gap, self.height)
        local = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        mask.shift(-x0, -y0).paint(local, 1)
        if gap:
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * gap + 1, 2 * gap + 1))
            local = np.asarray(cv2.dilate(local, kernel), dtype=np.uint8)
        self.taken[y0:y1, x0:x1] |= local

    # --- result ------------------------------------------------------------------------

    def instances(self) -> tuple[Instance, ...]:
        """Stuff first, then things from large to small; visible masks are disjoint."""
        ordered = sorted(self.things, key=lambda i: -(i.mask.area if i.mask else 0))
        free = np.ones((self.height, self.width), dtype=bool)
        shown: list[Instance] = []
        for instance in reversed(ordered):
            visible = visible_part(instance, free)
            if visible is not None:
                shown.append(visible)
        stuff = []
        for entry in self.classes.classes:
            if entry.kind == "stuff":
                mask = Mask.from_array(self._cover(entry.name) & free)
                if mask is not None:
                    stuff.append(Instance(label=entry.name, mask=mask, origin="template"))
        return (*stuff, *reversed(shown))

    def _cover(self, name: str) -> npt.NDArray[np.bool_]:
        entry = self.classes.resolve(name)
        codes = [
            k for k, stuff in enumerate(self._names) if k and self.classes.find(stuff) is entry
        ]
        return np.isin(self.stuff, codes) if codes else np.zeros(self.stuff.shape, dtype=bool)


def visible_part(instance: Instance, free: npt.NDArray[np.bool_]) -> Instance | None:
    """What can be seen of an instance where `free`; takes it from `free`, in place."""
    mask = instance.mask
    if mask is None:
        return instance
    window = np.s_[mask.y0 : mask.y0 + mask.height, mask.x0 : mask.x0 + mask.width]
    crop = mask.crop()
    seen = crop & free[window]
    free[window] &= ~crop
    if seen.sum() == crop.sum():
        return instance
    visible = Mask.from_array(seen, mask.x0, mask.y0)
    if visible is None or visible.area < SMALLEST_PX:
        return None
    hidden = {"occluded": f"{1 - visible.area / mask.area:.2f}"}
    return replace(
        instance, mask=visible, box=visible.box, attributes={**instance.attributes, **hidden}
    )
