"""The supersampled canvas: grounds, marks, shadows, objects, and exact masks of them.

World frame: metres, origin in the middle of the picture, turned by `turn_rad` on screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import Affine, Array, apply_affine, compose, similarity
from rsgen.scenes.ground import fractal, ground_texture
from rsgen.scenes.shapes import Colour, Drawing
from rsgen.scenes.style import Style

__all__ = ["STUFF", "Canvas", "Placed"]

Pixels = npt.NDArray[np.uint8]
STUFF = ("water", "road", "grass", "pavement")
SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
TALL_M = 5.0  # shadows of higher objects also fall on lower ones


@dataclass(frozen=True, slots=True)
class Placed:
    """An object on the canvas. `matrix` maps its metres to output pixels (half-open edges)."""

    drawing: Drawing
    matrix: Affine
    angle_rad: float
    area_px: float
    cut: bool


class Canvas:
    """Draws in metres at `oversample` x the output resolution, RGB."""

    def __init__(
        self, width: int, height: int, gsd_m: float, rng: np.random.Generator, style: Style
    ) -> None:
        self.width, self.height, self.gsd_m = width, height, gsd_m
        self.rng, self.style = rng, style
        self.oversample = 3 if max(width, height) <= 320 else 2
        shape = (height * self.oversample, width * self.oversample)
        self.image = np.zeros((*shape, 3), dtype=np.uint8)
        self.stuff = np.zeros(shape, dtype=np.uint8)
        self.owner = np.zeros(shape, dtype=np.int32)
        self.taken = np.zeros((height, width), dtype=np.uint8)
        self.turn_rad = float(rng.uniform(-math.pi, math.pi))
        self.world = similarity(1 / gsd_m, self.turn_rad, (width / 2, height / 2))
        self.radius_m = math.hypot(width, height) / 2 * gsd_m
        azimuth = rng.uniform(-math.pi, math.pi)
        self.sun = np.array([math.cos(azimuth), math.sin(azimuth)])
        self.shadow_per_m = 1 / math.tan(math.radians(rng.uniform(*style.sun_elevation_deg)))
        self.shadow_tone = float(rng.uniform(0.34, 0.52))
        self.placed: list[Placed] = []
        self.props: list[Placed] = []
        self.crowns: list[Placed] = []
        self._textures: dict[str, Pixels] = {}

    # -- ground ---------------------------------------------------------------------------

    def texture(self, name: str) -> Pixels:
        """The scene's texture of a material at canvas resolution; a name can carry '#2'."""
        if name not in self._textures:
            plain = ground_texture(
                name.split("#")[0], self.rng, self.height, self.width, self.gsd_m, self.style
            )
            size = (self.image.shape[1], self.image.shape[0])
            self._textures[name] = np.asarray(
                cv2.resize(plain, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8
            )
        return self._textures[name]

    def flood(self, material: str, stuff: str | None) -> None:
        """Cover everything with one material."""
        self.image[:] = self.texture(material)
        self.stuff[:] = 0 if stuff is None else STUFF.index(stuff) + 1

    def fill(self, outlines: Iterable[Array], material: str, stuff: str | None) -> None:
        """Cover world polygons (metres) with a material."""
        mask = np.zeros(self.stuff.shape, dtype=np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self.fixed(self.world, outline)], 255, shift=SHIFT)
        self.cover(mask, material, stuff)

    def cover(self, mask: Pixels, material: str, stuff: str | None) -> None:
        """Cover a canvas-sized mask (0 or 255) with a material."""
        cv2.copyTo(self.texture(material), mask, self.image)
        self.stuff[mask > 0] = 0 if stuff is None else STUFF.index(stuff) + 1

    def paint(self, outlines: Iterable[Array], colour: Colour, alpha: float = 1.0) -> None:
        """Paint world polygons on the ground without changing what the ground is."""
        polygons = [self.fixed(self.world, outline) for outline in outlines]
        self._blend(polygons, None, colour, alpha)

    def strokes(
        self, lines: Iterable[Array], width_m: float, colour: Colour, alpha: float = 1.0
    ) -> None:
        """Paint world polylines of a width in metres on the ground."""
        fixed = [self.fixed(self.world, line) for line in lines]
        self._blend(fixed, max(1, round(width_m / self.gsd_m * self.oversample)), colour, alpha)

    def _blend(
        self, shapes: list[npt.NDArray[np.int32]], width: int | None, colour: Colour, alpha: float
    ) -> None:
        if not shapes:
            return
        rows, columns = self.stuff.shape
        points = np.concatenate(shapes) >> SHIFT
        pad = 2 + (width or 0)
        x0, y0 = (int(v) for v in np.clip(points.min(axis=0) - pad, 0, (columns, rows)))
        x1, y1 = (int(v) for v in np.clip(points.max(axis=0) + pad, 0, (columns, rows)))
        if x1 <= x0 or y1 <= y0:
            return
        mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        offset = np.array([x0, y0], dtype=np.int32) << SHIFT
        moved = [shape - offset for shape in shapes]
        if width is None:
            for shape in moved:
                cv2.fillPoly(mask, [shape], 255, shift=SHIFT)
        else:
            cv2.polylines(mask, moved, False, 255, width, cv2.LINE_8, SHIFT)
        region = self.image[y0:y1, x0:x1]
        if alpha >= 1.0:
            region[mask > 0] = np.array(colour, dtype=np.uint8)
            return
        selected = region[mask > 0].astype(np.float32)
        mixed = selected * (1 - alpha) + np.array(colour, dtype=np.float32) * alpha
        region[mask > 0] = mixed.astype(np.uint8)

    def foam(self, outlines: Iterable[Array], strength: float, softness_m: float = 1.5) -> None:
        """Blend broken white water into world polygons."""
        fixed = [self.fixed(self.world, outline) // self.oversample for outline in outlines]
        points = np.concatenate(fixed) >> SHIFT
        soft = max(softness_m / self.gsd_m, 0.6)
        pad = int(3 * soft) + 2
        x0, y0 = (int(v) for v in np.clip(points.min(axis=0) - pad, 0, (self.width, self.height)))
        x1, y1 = (int(v) for v in np.clip(points.max(axis=0) + pad, 0, (self.width, self.height)))
        if x1 <= x0 or y1 <= y0:
            return
        mask: npt.NDArray[Any] = np.zeros((y1 - y0, x1 - x0), dtype=np.float32)
        for outline in fixed:
            cv2.fillPoly(mask, [outline - (np.array([x0, y0]) << SHIFT)], 1.0, shift=SHIFT)
        mask = cv2.GaussianBlur(mask, (0, 0), soft)
        broken = fractal(self.rng, y1 - y0, x1 - x0, max(3.0 / self.gsd_m, 2.0), 3)
        alpha = np.clip(mask * (0.55 + 0.4 * broken), 0, 1).astype(np.float32) * np.float32(
            strength
        )
        step = self.oversample
        region = self.image[y0 * step : y1 * step, x0 * step : x1 * step]
        large = cv2.resize(alpha, region.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
        white = np.array([226.0, 234.0, 236.0], dtype=np.float32)
        region[:] = (region * (1 - large) + white * large).astype(np.uint8)

    def tone(self, field: npt.NDArray[np.float32]) -> None:
        """Multiply the ground by a factor field of output resolution, float32 [H, W]."""
        large = cv2.resize(field, self.stuff.shape[::-1], interpolation=cv2.INTER_NEAREST)
        factors = np.clip(large, 0, 2)[..., None] * np.float32(1)
        self.image[:] = np.clip(self.image * factors, 0, 255).astype(np.uint8)

    def slabs(self, side_m: float, spread: float) -> None:
        """Vary the brightness slab by slab, along the world's axes."""
        count = max(2, int(2 * self.radius_m / side_m) + 2)
        grid = (1 + self.rng.standard_normal((count, count)) * spread).astype(np.float32)
        place = similarity(side_m, 0.0, (-self.radius_m, -self.radius_m))
        matrix = compose(self.world, place)
        matrix[:, 2] -= 0.5
        field = cv2.warpAffine(
            grid,
            matrix,
            (self.width, self.height),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_REPLICATE,
        )
        self.tone(np.asarray(field, dtype=np.float32))

    # -- objects --------------------------------------------------------------------------

    def place(
        self,
        drawing: Drawing,
        x: float,
        y: float,
        angle_rad: float,
        *,
        margin_m: float = 0.3,
        inside: float = 0.35,
        layer: str = "thing",
    ) -> bool:
        """Put an object at world (x, y) facing `angle_rad` in the world frame.

        Refused (False) when it would touch another one within `margin_m`, or when less than
        `inside` of it lies in the picture. Layers: thing, prop (under things, unlabelled),
        crown (over things).
        """
        matrix = compose(self.world, similarity(1.0, angle_rad, (x, y)))
        share, area = self._visible(drawing, matrix)
        needed = inside if layer == "thing" else 0.0
        if share <= max(needed, 0.0):
            return False
        if not self._claim(drawing, matrix, margin_m, reserve=layer != "crown"):
            return False
        item = Placed(drawing, matrix, angle_rad + self.turn_rad, area, share < 0.995)
        {"thing": self.placed, "prop": self.props, "crown": self.crowns}[layer].append(item)
        return True

    def sees(self, x: float, y: float, reach_m: float) -> bool:
        """Whether something within `reach_m` of world (x, y) may lie in the picture."""
        column, row = apply_affine(self.world, np.array([(x, y)]))[0].tolist()
        pad = reach_m / self.gsd_m
        return bool(-pad < column < self.width + pad and -pad < row < self.height + pad)

    def wear(self, per_100m2: float = 0.12) -> None:
        """Repaired patches, sealed cracks and oil spots on what lies there so far."""
        rng, r = self.rng, self.radius_m
        for _ in range(int(rng.uniform(0.3, 1.6) * per_100m2 * r * r / 25) + 1):
            x, y = (float(v) for v in rng.uniform(-r, r, 2))
            kind = rng.random()
            if kind < 0.3:
                a, b = rng.uniform(0.6, 5.0), rng.uniform(0.6, 3.0)
                tone = 60.0 if rng.random() < 0.7 else 150.0
                patch = np.array([(x, y), (x + a, y), (x + a, y + b), (x, y + b)])
                self.paint([patch], (tone, tone, tone), float(rng.uniform(0.08, 0.3)))
            elif kind < 0.6:
                steps = rng.normal(0, 1.1, (7, 2)) + rng.normal(0, 1.6, 2)
                crack = np.array([x, y]) + np.cumsum(steps, axis=0)
                self.strokes([crack], 0.14, (46.0, 46.0, 48.0), float(rng.uniform(0.2, 0.6)))
            else:
                spot = np.array([x, y]) + rng.normal(0, 0.7, (8, 2))
                self.paint([spot], (44.0, 42.0, 40.0), float(rng.uniform(0.08, 0.28)))

    def _visible(self, drawing: Drawing, matrix: Affine) -> tuple[float, float]:
        """Share of the silhouette inside the picture, and its whole area in output pixels."""
        outlines = [apply_affine(matrix, p.points) for p in drawing.parts if p.solid]
        points = np.concatenate(outlines)
        low, high = np.floor(points.min(axis=0)) - 1, np.ceil(points.max(axis=0)) + 1
        if (high < 0).any() or (low > (self.width, self.height)).any():
            return 0.0, 0.0
        detail = 2
        columns, rows = ((high - low) * detail).astype(int)
        mask = np.zeros((rows, columns), dtype=np.uint8)
        for outline in outlines:
            fixed = np.round(((outline - low) * detail - 0.5) * (1 << SHIFT)).astype(np.int32)
            cv2.fillPoly(mask, [fixed], 1, shift=SHIFT)
        x0, y0 = (int(max(-v, 0) * detail) for v in low)
        x1, y1 = (
            int((size - v) * detail) for size, v in zip((self.width, self.height), low, strict=True)
        )
        whole = int(mask.sum())
        inside = int(mask[y0 : max(y1, 0), x0 : max(x1, 0)].sum())
        return inside / max(whole, 1), whole / detail**2

    def _claim(self, drawing: Drawing, matrix: Affine, margin_m: float, *, reserve: bool) -> bool:
        x0, y0, x1, y1 = drawing.extent
        m = margin_m
        corners = np.array([(x0 - m, y0 - m), (x1 + m, y0 - m), (x1 + m, y1 + m), (x0 - m, y1 + m)])
        points = np.round((apply_affine(matrix, corners) - 0.5) * (1 << SHIFT)).astype(np.int32)
        left, top = np.clip((points.min(axis=0) >> SHIFT) - 1, 0, None)
        right, bottom = (points.max(axis=0) >> SHIFT) + 2
        window = self.taken[top : max(bottom, 0), left : max(right, 0)]
        if window.size == 0:
            return True
        mask = np.zeros(window.shape, dtype=np.uint8)
        offset = np.array([left, top], dtype=np.int32) << SHIFT
        cv2.fillConvexPoly(mask, points - offset, 1, shift=SHIFT)
        if (mask & window).any():
            return False
        if reserve:
            window |= mask
        return True

    def reserve(self, outline: Array) -> None:
        """Keep objects off a world polygon."""
        points = np.round((apply_affine(self.world, outline) - 0.5) * (1 << SHIFT))
        cv2.fillPoly(self.taken, [points.astype(np.int32)], 1, shift=SHIFT)

    # -- finishing ------------------------------------------------------------------------

    def fixed(self, matrix: Affine, points: Array | Sequence[Any]) -> npt.NDArray[np.int32]:
        """Metres to OpenCV's fixed-point canvas coordinates (pixel centres at integers)."""
        edges = apply_affine(matrix, np.asarray(points, dtype=np.float64)) * self.oversample - 0.5
        return np.round(edges * (1 << SHIFT)).astype(np.int32)

    def finish(self) -> list[Placed]:
        """Paint shadows, props, things from large to small, crowns; return things in order.

        `owner` then holds 1 + the index of the thing seen at each canvas pixel, 0 elsewhere.
        """
        things = sorted(self.placed, key=lambda p: -p.area_px)
        everything = [*self.props, *things, *self.crowns]
        tall = self._shadows([p for p in everything if p.drawing.height_m >= TALL_M])
        ground = tall | self._shadows([p for p in everything if p.drawing.height_m < TALL_M])
        dark = self._darkening()
        cv2.copyTo(cv2.LUT(self.image, dark), ground, self.image)
        for item in self.props:
            self._draw(item, 0)
        for number, item in enumerate(things, start=1):
            if item.drawing.height_m < TALL_M:
                self._draw(item, number)
        on_low = np.where(self.owner > 0, tall, 0).astype(np.uint8)
        if on_low.any():
            cv2.copyTo(cv2.LUT(self.image, dark), on_low, self.image)
        for number, item in enumerate(things, start=1):
            if item.drawing.height_m >= TALL_M:
                self._draw(item, number)
        for item in self.crowns:
            self._draw(item, 0)
        return things

    def _darkening(self) -> Pixels:
        values = np.arange(256, dtype=np.float64)
        tint = np.array([0.92, 0.97, 1.1]) * self.shadow_tone  # skylight is blue
        table = np.clip(values[:, None] * tint[None, :], 0, 255).astype(np.uint8)
        return table[None]

    def _shadows(self, items: Iterable[Placed]) -> Pixels:
        mask = np.zeros(self.stuff.shape, dtype=np.uint8)
        for item in items:
            drawing = item.drawing
            if drawing.height_m <= 0:
                continue
            reach = -self.sun * (drawing.height_m * self.shadow_per_m / self.gsd_m)
            shift = np.round(reach * self.oversample * (1 << SHIFT)).astype(np.int32)
            for part in drawing.parts:
                if not part.solid:
                    continue
                outline = self.fixed(item.matrix, part.points)
                if drawing.lifted:
                    cv2.fillPoly(mask, [outline + shift], 255, shift=SHIFT)
                else:
                    swept = cv2.convexHull(np.concatenate([outline, outline + shift]))
                    cv2.fillConvexPoly(mask, swept, 255, shift=SHIFT)
        return mask

    def _draw(self, item: Placed, number: int) -> None:
        c, s = math.cos(item.angle_rad), math.sin(item.angle_rad)
        ahead = c * self.sun[0] + s * self.sun[1]
        right = -s * self.sun[0] + c * self.sun[1]
        for part in item.drawing.parts:
            outline = self.fixed(item.matrix, part.points)
            light = 1 + 0.34 * (part.tilt[0] * ahead + part.tilt[1] * right)
            colour = [min(max(channel * light, 0), 255) for channel in part.colour]
            cv2.fillPoly(self.image, [outline], colour, shift=SHIFT)
            if part.solid:
                cv2.fillPoly(self.owner, [outline], number, shift=SHIFT)
                cv2.fillPoly(self.stuff, [outline], 0, shift=SHIFT)

    def reduced(self) -> Pixels:
        """The picture by area averaging, uint8 [height, width, 3]."""
        size = (self.width, self.height)
        return np.asarray(cv2.resize(self.image, size, interpolation=cv2.INTER_AREA), np.uint8)
