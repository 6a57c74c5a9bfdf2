"""Layouts -> what the judge's maps should say: objects on cells of `STRIDE` pixels, stuff on
cells of `GROUND_STRIDE`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rsgen.geometry import quad_to_rotated_box, wrap_angle
from rsgen.judge.network import GROUND_STRIDE, STRIDE
from rsgen.raster import rasterize
from rsgen.records import ClassTable, Instance, Layout

__all__ = ["Objects", "Targets", "objects_of", "row_of", "targets_of"]

FloatArray = npt.NDArray[np.float32]
NEAR = 0.5  # cells whose Gaussian is above this learn the box too
LEAST_SIDE_PX = 2.0
LEAST_SPREAD_PX = 1.3


@dataclass(frozen=True, eq=False)
class Objects:
    """The things of a layout as rows.

    boxes: float32 [n, 5], centre x and y, length, width in pixels, angle of the length in
        radians. The length runs along the heading, or without one along the longer side.
    things: int64 [n], position among the thing classes. turned: bool [n], whether the label
        says how the object lies. headed: bool [n], whether it says where the front is.
    """

    boxes: FloatArray
    things: npt.NDArray[np.int64]
    turned: npt.NDArray[np.bool_]
    headed: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.things)


@dataclass(frozen=True, eq=False)
class Targets:
    """Maps of one image, [C, h, w] on cells.

    heat: float32 [K], 1 at a centre and a Gaussian around it. boxes: float32 [8], offset,
    size, axis and heading as `Maps` has them. near: float32 [3], weights of box, axis and
    heading. stuff: int64 [h, w], 0 background, -1 unknown. objects: the rows behind them.
    """

    heat: FloatArray
    boxes: FloatArray
    near: FloatArray
    stuff: npt.NDArray[np.int64]
    objects: Objects


def objects_of(layout: Layout, classes: ClassTable) -> Objects:
    """The things whose centre lies on the canvas; crowds are left out."""
    position = {c.name: k for k, c in enumerate(c for c in classes.classes if c.kind == "thing")}
    rows, things, turned, headed = [], [], [], []
    for instance in layout.instances:
        entry = classes.resolve(instance.label)
        if entry.kind == "stuff" or instance.iscrowd:
            continue
        row = row_of(instance)
        if row is None or not (0 <= row[0] < layout.width and 0 <= row[1] < layout.height):
            continue
        rows.append(row)
        things.append(position[entry.name])
        turned.append(instance.quad is not None)
        headed.append(instance.quad is not None and instance.heading_rad is not None)
    return Objects(
        np.array(rows, dtype=np.float32).reshape(-1, 5),
        np.array(things, dtype=np.int64),
        np.array(turned, dtype=bool),
        np.array(headed, dtype=bool),
    )


def row_of(instance: Instance) -> tuple[float, float, float, float, float] | None:
    """A row of `Objects.boxes`; None for what has no outline or no area."""
    if instance.quad is None:
        box = instance.bounds()
        if box is None or box.area <= 0:
            return None
        return (*box.center, box.width, box.height, 0.0)
    turned = quad_to_rotated_box(instance.quad)
    if turned.w <= 0 or turned.h <= 0:
        return None
    if instance.heading_rad is None and turned.h > turned.w:
        return (
            turned.cx,
            turned.cy,
            turned.h,
            turned.w,
            wrap_angle(turned.angle_rad + math.pi / 2),
        )
    return (turned.cx, turned.cy, turned.w, turned.h, turned.angle_rad)


def targets_of(
    layout: Layout, classes: ClassTable, stuff_names: Sequence[str], things: int
) -> Targets:
    """The maps of a layout whose sides are multiples of `GROUND_STRIDE`."""
    height, width = layout.height // STRIDE, layout.width // STRIDE
    found = objects_of(layout, classes)
    heat = np.zeros((things, height, width), dtype=np.float32)
    boxes = np.zeros((8, height, width), dtype=np.float32)
    near = np.zeros((3, height, width), dtype=np.float32)
    # Large objects first: where two meet, the smaller one's cells are its own.
    for k in np.argsort(-(found.boxes[:, 2] * found.boxes[:, 3]), kind="stable"):
        _paint(heat[found.things[k]], boxes, near, found, int(k))
    stuff = _stuff(layout, classes, stuff_names)
    if stuff_names:
        every = GROUND_STRIDE // STRIDE
        stuff[near[0, ::every, ::every] > 0] = -1  # what lies under an object is not asked
    return Targets(heat, boxes, near, stuff, found)


def _paint(heat: FloatArray, boxes: FloatArray, near: FloatArray, found: Objects, k: int) -> None:
    height, width = heat.shape
    x, y, length, across, angle = (float(v) for v in found.boxes[k])
    along, side = max(length, LEAST_SIDE_PX), max(across, LEAST_SIDE_PX)
    # A sixth of the side, and at least a pixel or so: neighbours of dense scenes stay apart.
    sigma_u, sigma_v = max(along / 6, LEAST_SPREAD_PX), max(side / 6, LEAST_SPREAD_PX)
    reach = 3 * max(sigma_u, sigma_v)
    columns = np.arange(max(0, int((x - reach) / STRIDE)),
                        min(width, int((x + reach) / STRIDE) + 1))  # fmt: skip
    rows = np.arange(max(0, int((y - reach) / STRIDE)),
                     min(height, int((y + reach) / STRIDE) + 1))  # fmt: skip
    centre_column = min(int(x / STRIDE), width - 1)
    centre_row = min(int(y / STRIDE), height - 1)
    # Distances from the cell that holds the centre, so that its own value is exactly 1.
    dx = (columns - centre_column)[None, :] * STRIDE
    dy = (rows - centre_row)[:, None] * STRIDE
    u = dx * math.cos(angle) + dy * math.sin(angle)
    v = dy * math.cos(angle) - dx * math.sin(angle)
    bell = np.exp(-0.5 * ((u / sigma_u) ** 2 + (v / sigma_v) ** 2)).astype(np.float32)
    part = np.ix_(rows, columns)
    heat[part] = np.maximum(heat[part], bell)
    claimed = (bell >= NEAR) & (bell >= near[0][part])
    own_rows, own_columns = rows[claimed.nonzero()[0]], columns[claimed.nonzero()[1]]
    boxes[0, own_rows, own_columns] = x / STRIDE - (own_columns + 0.5)
    boxes[1, own_rows, own_columns] = y / STRIDE - (own_rows + 0.5)
    heading = found.headed[k]
    # Where no end is the front, an axis of nearly equal sides means little.
    unequal = abs(length - across) / max(length, across)
    slender = 1.0 if heading else min(1.0, max(0.1, 4 * unequal))
    constant = (
        math.log(along / 16), math.log(side / 16),
        math.cos(2 * angle), math.sin(2 * angle), math.cos(angle), math.sin(angle),
    )  # fmt: skip
    for channel, value in enumerate(constant, start=2):
        boxes[channel, own_rows, own_columns] = value
    weight = bell[claimed]
    near[0, own_rows, own_columns] = weight
    near[1, own_rows, own_columns] = weight * slender if found.turned[k] else 0
    near[2, own_rows, own_columns] = weight if heading else 0


def _stuff(layout: Layout, classes: ClassTable, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The stuff class of each cell's middle pixel: 1.. in the order of `names`, 0 none."""
    height, width = layout.height // GROUND_STRIDE, layout.width // GROUND_STRIDE
    if not names:
        return np.zeros((height, width), dtype=np.int64)
    alone = tuple(i for i in layout.instances if classes.is_stuff(i.label))
    index = rasterize(replace(layout, instances=alone), classes).index
    table = np.zeros(len(classes.classes) + 1, dtype=np.int64)
    for position, name in enumerate(names, start=1):
        table[classes.index(name)] = position
    middle = slice(GROUND_STRIDE // 2, None, GROUND_STRIDE)
    return table[index[middle, middle][:height, :width]]
