"""Layout -> label maps: which class and which object covers each pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.geometry import Box, Quad, box_quad, clockwise
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout

__all__ = [
    "Raster",
    "fill_quad",
    "instance_mask",
    "paint_positions",
    "rasterize",
    "resize_index",
    "thing_edges",
]


@dataclass(frozen=True)
class Raster:
    """A layout painted in its order, at the target size.

    index: uint16 [H, W], class 1..K, 0 background; stuff included.
    things: int32 [H, W], 1 + position in `layout.instances` of the visible thing, else 0.
    heading: float32 [n + 1], heading by `things` value, NaN where unknown; entry 0 is NaN.
    """

    index: npt.NDArray[np.uint16]
    things: npt.NDArray[np.int32]
    heading: npt.NDArray[np.float32]


def instance_mask(instance: Instance, width: int, height: int) -> Mask | None:
    """Its mask, else its quad or box filled; None when nothing lies on the canvas."""
    if instance.mask is not None:
        return instance.mask
    quad = instance.quad if instance.quad is not None else _box_quad(instance.box)
    return None if quad is None else fill_quad(quad, width, height)


def _box_quad(box: Box | None) -> Quad | None:
    return None if box is None else box_quad(box)


def fill_quad(quad: Quad, width: int, height: int) -> Mask | None:
    """Pixels whose centre lies in a convex quad; the one under its centre where it is thinner."""
    points = np.asarray(clockwise(quad), dtype=np.float64)
    canvas = (width, height)
    x0, y0 = np.clip(np.floor(points.min(axis=0)), 0, canvas).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(points.max(axis=0)), 0, canvas).astype(int).tolist()
    if x1 <= x0 or y1 <= y0:
        return None
    x = np.arange(x0, x1)[None, :] + 0.5
    y = np.arange(y0, y1)[:, None] + 0.5
    inside = np.ones((y1 - y0, x1 - x0), dtype=bool)
    for (px, py), (ex, ey) in zip(points, np.roll(points, -1, axis=0) - points, strict=True):
        inside &= ex * (y - py) - ey * (x - px) >= 0
    if not inside.any():
        column, row = points.mean(axis=0).astype(int)
        inside[min(max(row - y0, 0), y1 - y0 - 1), min(max(column - x0, 0), x1 - x0 - 1)] = True
    return Mask.from_array(inside, x0, y0)


def paint_positions(instances: Sequence[Instance], is_stuff: Callable[[str], bool]) -> list[int]:
    """Positions of instances as they are painted: stuff first, then things large to small.

    Ties keep the given order. A thing's size is its mask's area, else its quad's or box's.
    """

    def key(position: int) -> tuple[int, float]:
        instance = instances[position]
        return (0, 0.0) if is_stuff(instance.label) else (1, -_area(instance))

    return sorted(range(len(instances)), key=key)


def _area(instance: Instance) -> float:
    if instance.mask is not None:
        return float(instance.mask.area)
    if instance.quad is not None:
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = instance.quad
        return abs((cx - ax) * (dy - by) - (dx - bx) * (cy - ay)) / 2
    return 0.0 if instance.box is None else instance.box.area


def rasterize(layout: Layout, classes: ClassTable, size: tuple[int, int] | None = None) -> Raster:
    """Paint a layout on a canvas of `size` = (width, height); later covers earlier.

    A size other than the layout's resizes by nearest neighbour: class indices never mix.

    Raises:
        DataError: a label outside the class table, or a mask-free instance without a box.
    """
    width, height = layout.width, layout.height
    index = np.zeros((height, width), dtype=np.uint16)
    things = np.zeros((height, width), dtype=np.int32)
    heading = np.full(len(layout.instances) + 1, np.nan, dtype=np.float32)
    number = {name: k + 1 for k, name in enumerate(classes.names)}
    for position in paint_positions(layout.instances, cache(classes.is_stuff)):
        instance = layout.instances[position]
        value = number.get(instance.label) or classes.index(instance.label)
        is_stuff = classes.classes[value - 1].kind == "stuff"
        if instance.mask is None and instance.quad is None and instance.box is None:
            raise DataError(f"an instance of {instance.label!r} has no mask, quad or box")
        mask = instance_mask(instance, width, height)
        if mask is None:
            continue
        _paint(mask, index, value, things, 0 if is_stuff else position + 1)
        if instance.heading_rad is not None and not is_stuff:
            heading[position + 1] = instance.heading_rad
    if size is not None and tuple(size) != (width, height):
        index, things = resize_index(index, size), resize_index(things, size)
    return Raster(index, things, heading)


def _paint(
    mask: Mask,
    index: npt.NDArray[np.uint16],
    value: int,
    things: npt.NDArray[np.int32],
    thing: int,
) -> None:
    height, width = index.shape
    x0, y0 = max(mask.x0, 0), max(mask.y0, 0)
    x1, y1 = min(mask.x0 + mask.width, width), min(mask.y0 + mask.height, height)
    if x1 <= x0 or y1 <= y0:
        return
    part = mask.crop()[y0 - mask.y0 : y1 - mask.y0, x0 - mask.x0 : x1 - mask.x0]
    index[y0:y1, x0:x1][part] = value
    things[y0:y1, x0:x1][part] = thing


def resize_index(array: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """An integer map [H, W] at (width, height) by nearest neighbour, sampled at pixel centres."""
    width, height = size
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(np.int64)
    return np.ascontiguousarray(array[rows[:, None], columns[None, :]])


def thing_edges(things: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Pixels of a thing with a 4-neighbour of another value; the canvas border is no edge."""
    edge = np.zeros(things.shape, dtype=bool)
    across = things[:, 1:] != things[:, :-1]
    down = things[1:] != things[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & (things > 0)
