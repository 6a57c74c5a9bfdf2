"""Shape augmentation: single objects turned in place, pixels and labels together.

OF-Diff cuts a mask out by its box, turns it and pastes it back while the box stays, which breaks
the label's angle. Here pixels, mask, quad, heading and box go through one matrix, so the label
stays exact; an object is turned only where it covers no other and stays on the same ground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.augment import BoolImage, move_instance, warp_mask
from rsgen.composition.labels import STAND_IN
from rsgen.geometry import (
    Affine,
    apply_affine,
    as_array,
    bounds,
    box_quad,
    compose,
    similarity,
)
from rsgen.images import Pixels
from rsgen.mask import Mask
from rsgen.raster import instance_mask
from rsgen.records import ClassTable, Instance, Layout

__all__ = ["turn_shapes"]

LEAST_AREA = 16
MARGIN = 2  # pixels around a mask that still show the object: anti-aliased edges
SHADOW = 0.3  # ground renewed around an object, as a share of the root of its area: its shadow
MOST_SHADOW = 16  # pixels
RING = 3  # width of the ground that is compared around it
GRID = 11  # places a side that ground is looked for to fill a hole with
GROUND = 0.02  # a ring of stuff may differ by this share and still be one ground


def turn_shapes(
    image: Pixels, layout: Layout, classes: ClassTable, rate: float, rng: np.random.Generator
) -> tuple[Pixels, Layout]:
    """Turn about `rate` of the objects by any angle about their centres; [H, W, 3] uint8 RGB.

    Objects of symmetric classes are mirrored half of the time. Left as they are: stuff, objects
    without a mask of their own, cut ones, crowds, and those that would touch another object,
    the border, or other ground (a ship on its quay).
    """
    canvas = _Canvas(image.copy(), list(layout.instances), classes)
    for position, instance in enumerate(layout.instances):
        chosen = rng.random() < rate
        angle, mirrored = float(rng.uniform(-math.pi, math.pi)), bool(rng.random() < 0.5)
        if chosen and _can_turn(instance, classes):
            canvas.turn(position, angle, mirrored and classes.resolve(instance.label).symmetric)
    return canvas.image, replace(layout, instances=tuple(canvas.instances))


def _can_turn(instance: Instance, classes: ClassTable) -> bool:
    return (
        instance.mask is not None
        and instance.mask.area >= LEAST_AREA
        and not classes.is_stuff(instance.label)
        and not instance.truncated
        and not instance.iscrowd
        and instance.origin != STAND_IN
    )


class _Canvas:
    """A picture with its instances, and how many things lie on each pixel."""

    def __init__(self, image: Pixels, instances: list[Instance], classes: ClassTable) -> None:
        self.image, self.instances = image, instances
        self.height, self.width = image.shape[:2]
        stuff = [classes.is_stuff(i.label) for i in instances]
        self.stuff = [k for k, found in enumerate(stuff) if found]
        self.things = np.zeros((self.height, self.width), dtype=np.int32)
        for instance, found in zip(instances, stuff, strict=True):
            mask = None if found else instance_mask(instance, self.width, self.height)
            if mask is not None:
                self.things += mask.to_array(self.width, self.height)

    def turn(self, position: int, angle_rad: float, mirrored: bool) -> None:
        """Turn one thing, unless it would touch another, the border or other ground."""
        instance = self.instances[position]
        assert instance.mask is not None
        matrix = _about_centre(instance, angle_rad, mirrored)
        if self._leaves(instance.mask, matrix):
            return
        array = warp_mask(instance.mask, matrix, self.width, self.height)
        moved = move_instance(instance, matrix, array, self.width, self.height)
        if moved is None or moved.mask is None or moved.truncated:
            return
        shadow = int(np.clip(SHADOW * math.sqrt(instance.mask.area), MARGIN, MOST_SHADOW))
        y, x = self._window((instance.mask, moved.mask), shadow + RING + 1)
        old = instance.mask.to_array(self.width, self.height)[y, x]
        new = array[y, x]
        others = (self.things[y, x] - old) > 0
        touched = _grown(old | new, MARGIN)
        hole = _grown(old, shadow) & ~_grown(others, MARGIN)
        ring = _grown(touched | hole, RING) & ~touched & ~hole & ~others
        ground = self._ground(ring, x, y)
        if bool((touched & others).any()) or ground is None:
            return
        free = ~_grown(self.things > 0, MARGIN)
        picture = _filled(self.image, (x, y), hole, ring, free)
        self.image[y, x] = _pasted(picture, self.image[y, x], instance.mask, matrix, (x, y))
        for k in self.stuff:
            self._lay(k, old | new, k in ground, x, y)
        self.things[y, x] += new.astype(np.int32) - old
        self.instances[position] = moved

    def _leaves(self, mask: Mask, matrix: Affine) -> bool:
        box = bounds(apply_affine(matrix, box_quad(mask.box)))
        return box.x0 < 0 or box.y0 < 0 or box.x1 > self.width or box.y1 > self.height

    def _window(self, masks: Sequence[Mask], pad: int) -> tuple[slice, slice]:
        """Rows and columns around masks, and `pad` pixels more where the picture has them."""
        x0 = max(min(m.x0 for m in masks) - pad, 0)
        y0 = max(min(m.y0 for m in masks) - pad, 0)
        x1 = min(max(m.x0 + m.width for m in masks) + pad, self.width)
        y1 = min(max(m.y0 + m.height for m in masks) + pad, self.height)
        return slice(y0, y1), slice(x0, x1)

    def _ground(self, ring: BoolImage, x: slice, y: slice) -> set[int] | None:
        """Positions of the stuff that all of a ring lies on; None where that changes along it."""
        if not ring.any():
            return None
        found = set()
        for k in self.stuff:
            mask = self.instances[k].mask
            if mask is None:
                continue
            share = float(mask.to_array(self.width, self.height)[y, x][ring].mean())
            if GROUND < share < 1 - GROUND:
                return None
            if share >= 1 - GROUND:
                found.add(k)
        return found

    def _lay(self, position: int, area: BoolImage, on: bool, x: slice, y: slice) -> None:
        """Make a stuff's mask hold an area, or not; the ground under an object that moved."""
        mask = self.instances[position].mask
        if mask is None:
            return
        whole = mask.to_array(self.width, self.height)
        if bool((whole[y, x][area] != on).any()):
            whole[y, x][area] = on
            self.instances[position] = replace(
                self.instances[position], mask=Mask.from_array(whole)
            )


def _about_centre(instance: Instance, angle_rad: float, mirrored: bool) -> Affine:
    """Mirror across the object's own axis, then turn, both about its centre."""
    assert instance.mask is not None
    centre = instance.mask.box.center
    if instance.quad is not None:
        x, y = as_array(instance.quad).mean(axis=0).tolist()
        centre = (x, y)
    turn = similarity(angle_rad=angle_rad, about=centre)
    if not mirrored:
        return turn
    return compose(turn, np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 2 * centre[1]]]))


def _grown(mask: BoolImage, radius: int) -> BoolImage:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0, dtype=bool)


def _pasted(
    ground: Pixels, source: Pixels, mask: Mask, matrix: Affine, window: tuple[slice, slice]
) -> Pixels:
    """The object's pixels of `source` through a matrix onto `ground`, edges blended.

    Both are the same window of the picture; the matrix is of the whole picture's frame.
    """
    x, y = window
    # OpenCV draws at pixel centres, half a pixel from half-open edges
    to_window = similarity(shift=(-x.start - 0.5, -y.start - 0.5))
    back = similarity(shift=(x.start + 0.5, y.start + 0.5))
    local = compose(to_window, compose(matrix, back))
    size = (ground.shape[1], ground.shape[0])
    own = mask.shift(-x.start, -y.start).to_array(*size)
    # the object alone, so that its edge blends with the new ground and not with the old
    cut = np.where(own[..., None], source, 0).astype(np.float32)
    cover = cv2.warpAffine(own.astype(np.float32), local, size, flags=cv2.INTER_LINEAR)[..., None]
    mixed = cv2.warpAffine(cut, local, size, flags=cv2.INTER_LINEAR) + (1 - cover) * ground
    return np.asarray(np.rint(np.clip(mixed, 0, 255)), dtype=np.uint8)


def _filled(
    image: Pixels,
    window: tuple[slice, slice],
    hole: BoolImage,
    ring: BoolImage,
    free: BoolImage,
) -> Pixels:
    """The window with its hole filled by ground from elsewhere in the picture, or smoothly.

    Of the places where the hole's pixels are `free` of things, the one whose ring looks most
    alike; what still differs along the edge is spread over the hole.
    """
    x, y = window
    here = image[y, x]
    offset = _best_place(image, window, hole, ring, free)
    spot = hole.astype(np.uint8)
    if offset is None:
        return np.asarray(cv2.inpaint(here, spot, 3, cv2.INPAINT_TELEA), dtype=np.uint8)
    left, top = offset
    there = image[top : top + here.shape[0], left : left + here.shape[1]].astype(np.int16)
    difference = np.clip((here - there) // 2 + 128, 0, 255).astype(np.uint8)
    spread = cv2.inpaint(difference, spot, 3, cv2.INPAINT_TELEA).astype(np.int16)
    texture = np.clip(there + (spread - 128) * 2, 0, 255).astype(np.uint8)
    filled = here.copy()
    filled[hole] = texture[hole]
    return filled


def _best_place(
    image: Pixels,
    window: tuple[slice, slice],
    hole: BoolImage,
    ring: BoolImage,
    free: BoolImage,
) -> tuple[int, int] | None:
    """Left and top of the window that may lend its pixels; None where things are everywhere."""
    height, width = hole.shape
    hole_y, hole_x = np.nonzero(hole)
    ring_y, ring_x = np.nonzero(ring)
    wanted = image[window[1], window[0]][ring].astype(np.float32)
    best: tuple[float, int, int] | None = None
    for top in _places(image.shape[0] - height):
        for left in _places(image.shape[1] - width):
            if not free[hole_y + top, hole_x + left].all():
                continue
            found = image[ring_y + top, ring_x + left].astype(np.float32)
            error = float(np.square(found - wanted).mean())
            if best is None or error < best[0]:
                best = (error, left, top)
    return None if best is None else best[1:]


def _places(room: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, room, GRID).astype(np.int64))
