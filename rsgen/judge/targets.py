"""Layouts -> what the judge's maps should say: objects on cells of `STRIDE` pixels, stuff on
cells of `GROUND_STRIDE`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.geometry import Affine, quad_to_rotated_box, wrap_angle
from rsgen.judge.network import GROUND_STRIDE, STRIDE
from rsgen.raster import rasterize
from rsgen.records import ClassTable, Instance, Layout

__all__ = [
    "LEAST_SEEN",
    "LEAST_SPREAD_PX",
    "NEAR",
    "SPREADS_A_SIDE",
    "Canvas",
    "Objects",
    "Targets",
    "box_points",
    "ground_of",
    "move_objects",
    "objects_of",
    "painted",
    "row_of",
    "rows_of",
    "shares_inside",
    "targets_of",
]

FloatArray = npt.NDArray[np.float32]
NEAR = 0.5  # cells whose Gaussian is above this learn the box too
MOST_SAID = 2.0  # the weight of an object's cells together
LEAST_SIDE_PX = 2.0
LEAST_SPREAD_PX = 1.3
SPREADS_A_SIDE = 6.0
SQUARE = 0.9  # sides of this ratio and above count as equal
LEAST_SEEN = 0.1  # of an object that reaches out of the image: less is not asked for


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
    """The things of which at least `LEAST_SEEN` lies on the canvas; crowds are left out.

    A turned box may reach outside, and so may its centre; an upright one is cut.
    """
    position = {c.name: k for k, c in enumerate(c for c in classes.classes if c.kind == "thing")}
    rows, things, turned, headed = [], [], [], []
    for instance in layout.instances:
        entry = classes.resolve(instance.label)
        if entry.kind == "stuff" or instance.iscrowd:
            continue
        row = row_of(instance)
        if row is None:
            continue
        rows.append(row)
        things.append(position[entry.name])
        turned.append(instance.quad is not None)
        headed.append(instance.quad is not None and instance.heading_rad is not None)
    found = Objects(
        np.array(rows, dtype=np.float32).reshape(-1, 5),
        np.array(things, dtype=np.int64),
        np.array(turned, dtype=bool),
        np.array(headed, dtype=bool),
    )
    return _cut(_laid(found), _share(_inside(box_points(found.boxes), layout)), layout)


@dataclass(frozen=True)
class Canvas:
    """A size in pixels."""

    width: int
    height: int


def move_objects(found: Objects, matrix: Affine, source: Canvas, canvas: Canvas) -> Objects:
    """Objects of an image through a similarity, mirrored or not, onto another canvas.

    Those of which less than `LEAST_SEEN` lies on both canvases are left out. Upright boxes
    stay upright: exact for quarter turns, the box around the turned one otherwise.
    """
    linear = matrix[:, :2]
    points = box_points(found.boxes)
    moved = points @ linear.T + matrix[:, 2]
    share = _share(_inside(points, source) & _inside(moved, canvas))
    x, y, length, across, angle = found.boxes.astype(np.float64).T
    centre = np.stack([x, y], axis=1) @ linear.T + matrix[:, 2]
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ linear.T
    scale = math.sqrt(abs(float(np.linalg.det(linear))))
    around = np.stack([length, across], axis=1) @ np.abs(linear).T
    turned = found.turned
    boxes = np.stack(
        [
            centre[:, 0],
            centre[:, 1],
            np.where(turned, length * scale, around[:, 0]),
            np.where(turned, across * scale, around[:, 1]),
            np.where(turned, np.arctan2(direction[:, 1], direction[:, 0]), 0.0),
        ],
        axis=1,
    )
    return _cut(_laid(replace(found, boxes=boxes.astype(np.float32))), share, canvas)


def _laid(found: Objects) -> Objects:
    """The same objects; of turned ones without a front, the length is the longer side.

    Sides that are nearly equal have no longer one: which it is would be chance, and the axis
    could not be learned. There the length is the side within 45 degrees of the image's rows.
    """
    boxes = found.boxes.copy()
    _, _, length, across, angle = found.boxes.T
    angle = np.remainder(angle + math.pi / 4, math.pi) - math.pi / 4  # an axis, -45 to 135
    square = np.minimum(length, across) > SQUARE * np.maximum(length, across)
    swapped = np.where(square, angle >= math.pi / 4, across > length)
    free = found.turned & ~found.headed
    boxes[:, 2] = np.where(free & swapped, across, length)
    boxes[:, 3] = np.where(free & swapped, length, across)
    turned = np.where(swapped, np.where(square, angle - math.pi / 2, angle + math.pi / 2), angle)
    turned = np.remainder(turned + math.pi / 2, math.pi) - math.pi / 2
    boxes[:, 4] = np.where(free, turned, found.boxes[:, 4])
    return replace(found, boxes=boxes)


def rows_of(quads: npt.NDArray[np.float64]) -> FloatArray:
    """Rows of `Objects.boxes` for rectangles, float64 [n, 4, 2] -> float32 [n, 5]."""
    centre = quads.mean(axis=1)
    front = (quads[:, 0] + quads[:, 1]) / 2 - centre
    across = np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1)
    angle = np.arctan2(front[:, 1], front[:, 0])
    rows = [centre[:, 0], centre[:, 1], 2 * np.linalg.norm(front, axis=1), across, angle]
    return np.stack(rows, axis=1).astype(np.float32)


def shares_inside(boxes: FloatArray, canvas: Canvas | Layout) -> npt.NDArray[np.float64]:
    """How much of each box, float [n, 5], lies on a canvas, float64 [n], within a few percent."""
    return _share(_inside(box_points(boxes), canvas))


def box_points(boxes: FloatArray) -> npt.NDArray[np.float64]:
    """A grid of points in each box, float64 [n, 64, 2]."""
    steps = (np.arange(8) + 0.5) / 8 - 0.5
    u, v = (g.ravel() for g in np.meshgrid(steps, steps))
    x, y, length, across, angle = boxes.astype(np.float64).T[:, :, None]
    along, aside = u * length, v * across
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + along * cos - aside * sin, y + along * sin + aside * cos], axis=2)


def _inside(points: npt.NDArray[np.float64], canvas: Canvas | Layout) -> npt.NDArray[np.bool_]:
    within = (points >= 0) & (points < (canvas.width, canvas.height))
    return np.asarray(within.all(axis=2), dtype=bool)


def _share(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.asarray(inside.mean(axis=1), dtype=np.float64)


def _cut(found: Objects, share: npt.NDArray[np.float64], canvas: Canvas | Layout) -> Objects:
    """Those of which enough is seen; of upright boxes the part on the canvas."""
    boxes = found.boxes.astype(np.float64)
    edges = np.array([canvas.width, canvas.height], dtype=np.float64)
    low = np.clip(boxes[:, :2] - boxes[:, 2:4] / 2, 0, edges)
    high = np.clip(boxes[:, :2] + boxes[:, 2:4] / 2, 0, edges)
    cut = np.concatenate([(low + high) / 2, high - low, boxes[:, 4:]], axis=1)
    boxes = np.where(found.turned[:, None], boxes, cut)
    kept = (share >= LEAST_SEEN) & (boxes[:, 2:4] > 0).all(axis=1)
    return Objects(
        boxes[kept].astype(np.float32), found.things[kept], found.turned[kept], found.headed[kept]
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
    ground = ground_of(layout, classes, stuff_names).astype(np.int64)
    middle = slice(GROUND_STRIDE // 2, None, GROUND_STRIDE)
    cells = ground[middle, middle][
        : layout.height // GROUND_STRIDE, : layout.width // GROUND_STRIDE
    ]
    return painted(objects_of(layout, classes), cells, things, bool(stuff_names))


def painted(
    found: Objects,
    ground: npt.NDArray[np.int64],
    things: int,
    has_stuff: bool = True,
    class_weights: FloatArray | None = None,
) -> Targets:
    """The maps of objects; ground: int64 [h, w] on cells of `GROUND_STRIDE`, as `Targets.stuff`.

    class_weights: float32 [things], how much the boxes of a class count; without, all alike.
    """
    every = GROUND_STRIDE // STRIDE
    height, width = ground.shape[0] * every, ground.shape[1] * every
    heat = np.zeros((things, height, width), dtype=np.float32)
    boxes = np.zeros((8, height * width), dtype=np.float32)
    near = np.zeros((3, height * width), dtype=np.float32)
    spots = _spots(found, height, width)
    np.maximum.at(
        heat.reshape(-1), found.things[spots.owner] * height * width + spots.cell, spots.bell
    )
    # Each cell is the object's that is nearest; where two are equal, the smaller one's.
    own = spots.chosen(spots.bell >= NEAR)
    area = found.boxes[:, 2] * found.boxes[:, 3]
    # A large object has hundreds of cells, a car three: none may outvote the others.
    total = np.bincount(own.owner, weights=own.bell, minlength=len(found))
    share = np.minimum(1, MOST_SAID / np.maximum(total, 1e-6)).astype(np.float32)
    if class_weights is not None:
        share = share * class_weights[found.things]
    own = own.chosen(np.lexsort((-area[own.owner], own.bell)))
    weight = own.bell * share[own.owner]
    values, slender = _said(found)
    column, row = own.cell % width, own.cell // width
    boxes[0, own.cell] = found.boxes[own.owner, 0] / STRIDE - (column + 0.5)
    boxes[1, own.cell] = found.boxes[own.owner, 1] / STRIDE - (row + 0.5)
    boxes[2:, own.cell] = values[:, own.owner]
    near[0, own.cell] = weight
    near[1, own.cell] = weight * slender[own.owner] * found.turned[own.owner]
    near[2, own.cell] = weight * found.headed[own.owner]
    near, boxes = near.reshape(3, height, width), boxes.reshape(8, height, width)
    stuff = ground.copy()
    if has_stuff:
        stuff[near[0, ::every, ::every] > 0] = -1  # what lies under an object is not asked
    return Targets(heat, boxes, near, stuff, found)


@dataclass(frozen=True, eq=False)
class _Spots:
    """Cells around objects, flat: whose, int64; where, int64; how near its centre, float32."""

    owner: npt.NDArray[np.int64]
    cell: npt.NDArray[np.int64]
    bell: FloatArray

    def chosen(self, which: npt.NDArray[Any]) -> _Spots:
        return _Spots(self.owner[which], self.cell[which], self.bell[which])


def _spots(found: Objects, height: int, width: int) -> _Spots:
    """Every cell within three spreads of a centre; 1 where the centre lies.

    A centre outside is at the nearest cell of the border.
    """
    x, y, length, across, angle = found.boxes.astype(np.float64).T
    sides = np.maximum(np.stack([length, across]), LEAST_SIDE_PX)
    # A sixth of the side, and at least a pixel or so: neighbours of dense scenes stay apart.
    sigma_u, sigma_v = np.maximum(sides / SPREADS_A_SIDE, LEAST_SPREAD_PX)
    reach = np.ceil(3 * np.maximum(sigma_u, sigma_v) / STRIDE).astype(np.int64)
    centre_column = np.clip((x / STRIDE).astype(np.int64), 0, width - 1)
    centre_row = np.clip((y / STRIDE).astype(np.int64), 0, height - 1)
    parts = []
    for size in np.unique(reach).tolist():
        of = np.flatnonzero(reach == size)
        steps = np.arange(-size, size + 1)
        dx, dy = (g.ravel()[None] for g in np.meshgrid(steps, steps))
        column, row = centre_column[of, None] + dx, centre_row[of, None] + dy
        cos, sin = np.cos(angle[of, None]) * STRIDE, np.sin(angle[of, None]) * STRIDE
        # Distances from the cell that holds the centre, so that its own value is exactly 1.
        u, v = (dx * cos + dy * sin) / sigma_u[of, None], (dy * cos - dx * sin) / sigma_v[of, None]
        bell = np.exp(-0.5 * (u * u + v * v)).astype(np.float32)
        there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        owner = np.broadcast_to(of[:, None], there.shape)
        parts.append(_Spots(owner[there], (row * width + column)[there], bell[there]))
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return _Spots(nothing, nothing, np.zeros(0, dtype=np.float32))
    return _Spots(
        np.concatenate([p.owner for p in parts]),
        np.concatenate([p.cell for p in parts]),
        np.concatenate([p.bell for p in parts]),
    )


def _said(found: Objects) -> tuple[FloatArray, FloatArray]:
    """Size, axis and heading of each object, float32 [6, n], and how much its axis counts, [n]."""
    _, _, length, across, angle = found.boxes.astype(np.float64).T
    along, side = np.maximum(length, LEAST_SIDE_PX), np.maximum(across, LEAST_SIDE_PX)
    # Where no end is the front, an axis of nearly equal sides means little.
    unequal = np.abs(length - across) / np.maximum(length, across)
    slender = np.where(found.headed, 1.0, np.clip(4 * unequal, 0.1, 1.0))
    values = [
        np.log(along / 16), np.log(side / 16),
        np.cos(2 * angle), np.sin(2 * angle), np.cos(angle), np.sin(angle),
    ]  # fmt: skip
    return np.stack(values).astype(np.float32), slender.astype(np.float32)


def ground_of(layout: Layout, classes: ClassTable, names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The stuff class of each pixel, uint8 [H, W]: 1.. in the order of `names`, 0 none."""
    if not names:
        return np.zeros((layout.height, layout.width), dtype=np.uint8)
    alone = tuple(i for i in layout.instances if classes.is_stuff(i.label))
    index = rasterize(replace(layout, instances=alone), classes).index
    table = np.zeros(len(classes.classes) + 1, dtype=np.uint8)
    for position, name in enumerate(names, start=1):
        table[classes.index(name)] = position
    return np.asarray(table[index], dtype=np.uint8)
