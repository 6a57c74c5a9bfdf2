"""Scorers of what labels look like: they need no pixels, and real images say what is usual.

None says that more is better. Bound them on both sides: `quantile` and `upper` of the real
images' scores (a class with enough objects has bounds of its own), or min and max.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np

from rsgen.errors import UsageError
from rsgen.geometry import as_array, polygon_area
from rsgen.images import Pixels
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import FloatArray, Level, is_thing
from rsgen.scorers.pixels import object_shape

__all__ = ["Aspect", "Foreground", "MaskParts", "ObjectCount", "ObjectSize"]


@dataclass(frozen=True)
class Aspect:
    """Longer over shorter side of an object's quad, else of its box, >= 1, an instance.

    NaN for stuff, crowds, truncated objects (their box shows a part) and boxes without area.
    """

    level: ClassVar[Level] = "instance"

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        return [_of_things(sample.layout, self._one) for sample in samples]

    def _one(self, instance: Instance) -> float:
        sides = _sides(instance)
        return math.nan if sides is None or instance.truncated else max(sides) / min(sides)


@dataclass(frozen=True)
class MaskParts:
    """How many pieces an object's mask is in, an instance; pixels that touch by a corner join.

    Pieces under `least` of the mask's pixels do not count. NaN for stuff, crowds and objects
    without a mask. What lies across an object cuts it: bound it by `upper` of real images.
    """

    level: ClassVar[Level] = "instance"
    least: float = 0.02

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        return [_of_things(sample.layout, self._one) for sample in samples]

    def _one(self, instance: Instance) -> float:
        return math.nan if instance.mask is None else float(self._pieces(instance.mask))

    def _pieces(self, mask: Mask) -> int:
        pixels = mask.crop()
        found = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
        areas = found[2][1:, cv2.CC_STAT_AREA]
        return int((areas >= self.least * pixels.sum()).sum())


@dataclass(frozen=True)
class ObjectSize:
    """The root of an object's area, an instance: in pixels, or with unit "m" in metres.

    The area of the mask, else of the quad, else of the box. NaN for stuff, crowds and truncated
    objects; of metres also where an image's resolution is not known.
    """

    level: ClassVar[Level] = "instance"
    unit: Literal["px", "m"] = "px"

    def check(self) -> None:
        if self.unit not in ("px", "m"):
            raise UsageError(f"scorer object-size: unit is {self.unit!r}", hint="use px or m")

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        return [self._layout(sample.layout) for sample in samples]

    def _layout(self, layout: Layout) -> FloatArray:
        scale = 1.0 if self.unit == "px" else layout.gsd_m or math.nan

        def one(instance: Instance) -> float:
            area = _area(instance)
            return math.nan if area is None or instance.truncated else scale * area**0.5

        return _of_things(layout, one)


@dataclass(frozen=True)
class ObjectCount:
    """How many objects an image has, an image: things, without crowds.

    `of`: only those of one class, by its name in the labels; NaN where there is none of it.
    """

    level: ClassVar[Level] = "image"
    of: str = ""

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        return np.asarray([self._one(sample.layout) for sample in samples], dtype=np.float32)

    def _one(self, layout: Layout) -> float:
        things = [i for i in layout.instances if is_thing(i)]
        if not self.of:
            return float(len(things))
        return float(sum(i.label == self.of for i in things) or math.nan)


@dataclass(frozen=True)
class Foreground:
    """Share of an image that its objects cover, in [0, 1], an image: by masks, else boxes.

    Pixels of two objects count once; stuff and crowds do not count.
    """

    level: ClassVar[Level] = "image"

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        return np.asarray([self._one(sample.layout) for sample in samples], dtype=np.float32)

    def _one(self, layout: Layout) -> float:
        taken = np.zeros((layout.height, layout.width), dtype=bool)
        for instance in layout.instances:
            shape = object_shape(instance, layout.width, layout.height)
            if shape is not None:
                taken[shape.window] |= shape.pixels
        return float(taken.mean())


def _of_things(layout: Layout, one: Callable[[Instance], float]) -> FloatArray:
    """A number a thing, NaN for the other instances, float32 [instances]."""
    found = [one(i) if is_thing(i) else math.nan for i in layout.instances]
    return np.asarray(found, dtype=np.float32)


def _sides(instance: Instance) -> tuple[float, float] | None:
    """Sides of the quad, else of the box; None where one is not over 0 or not finite."""
    if instance.quad is not None:
        corners = as_array(instance.quad)
        ends = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
        sides = float(ends[0] + ends[2]) / 2, float(ends[1] + ends[3]) / 2
    elif instance.box is not None:
        box = instance.box
        sides = box.x1 - box.x0, box.y1 - box.y0
    else:
        return None
    return sides if min(sides) > 0 and math.isfinite(max(sides)) else None


def _area(instance: Instance) -> float | None:
    """Square pixels; None where the label has no area."""
    if instance.mask is not None:
        return float(instance.mask.area)
    if _sides(instance) is None:
        return None
    area = abs(polygon_area(instance.quad)) if instance.quad else instance.box and instance.box.area
    return float(area) if area else None
