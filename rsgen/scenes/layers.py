"""Masks and labels of a finished canvas."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import Array, Quad, apply_affine, quad_from_tuple, wrap_angle
from rsgen.mask import Mask
from rsgen.records import Instance
from rsgen.scenes.canvas import STUFF, Canvas, Placed

__all__ = ["instances_of"]

BoolImage = npt.NDArray[np.bool_]
SMALLEST_PX = 6  # fewer visible pixels cannot be seen, let alone labelled


def instances_of(canvas: Canvas, things: list[Placed]) -> tuple[Instance, ...]:
    """Stuff first, then things in paint order; masks are disjoint and lie in the picture.

    A pixel belongs to a thing that covers at least half of it, the later-painted one where
    two do.
    """
    free = np.ones((canvas.height, canvas.width), dtype=bool)
    found: list[Instance] = []
    for index in range(len(things) - 1, -1, -1):
        instance = _thing(canvas, things[index], index + 1, free)
        if instance is not None:
            found.append(instance)
    step = canvas.oversample
    centres = canvas.stuff[step // 2 :: step, step // 2 :: step]
    stuff = [
        Instance(label=name, mask=mask)
        for number, name in enumerate(STUFF, start=1)
        if (mask := Mask.from_array((centres == number) & free)) is not None
    ]
    return (*stuff, *reversed(found))


def _thing(canvas: Canvas, item: Placed, number: int, free: BoolImage) -> Instance | None:
    x0, y0, x1, y1 = _window(canvas, item)
    if x1 <= x0 or y1 <= y0:
        return None
    step = canvas.oversample
    owned = canvas.owner[y0 * step : y1 * step, x0 * step : x1 * step] == number
    room = free[y0:y1, x0:x1]
    pixels = _halves(owned.astype(np.uint8), step) & room
    if int(pixels.sum()) < SMALLEST_PX:
        return None
    room &= ~pixels
    mask = Mask.from_array(pixels, x0, y0)
    if mask is None:
        return None
    whole, origin = _silhouette(canvas, item)
    drawing = item.drawing
    attributes = {"kind": drawing.kind}
    hidden = 1 - mask.area / max(int(whole.sum()), 1)
    if not item.cut and hidden > 0.08:
        attributes["occluded"] = f"{hidden:.2f}"
    return Instance(
        label=drawing.label or "",
        box=mask.box,
        quad=_quad(canvas, item, whole, origin),
        mask=mask,
        heading_rad=None if drawing.symmetric else wrap_angle(item.angle_rad),
        attributes=attributes,
        truncated=item.cut,
        origin="annotation",
    )


def _halves(covered: npt.NDArray[np.uint8], step: int) -> BoolImage:
    """Blocks of step x step of which at least half is set."""
    rows, columns = covered.shape[0] // step, covered.shape[1] // step
    blocks = covered.reshape(rows, step, columns, step).sum(axis=(1, 3))
    return np.asarray(blocks * 2 >= step * step, dtype=bool)


def _window(canvas: Canvas, item: Placed) -> tuple[int, int, int, int]:
    low, high = _reach(item)
    x0, y0 = (int(max(v, 0)) for v in low)
    x1, y1 = (
        int(min(v, size)) for v, size in zip(high, (canvas.width, canvas.height), strict=True)
    )
    return x0, y0, x1, y1


def _reach(item: Placed) -> tuple[Array, Array]:
    points = np.concatenate(
        [apply_affine(item.matrix, p.points) for p in item.drawing.parts if p.solid]
    )
    return np.floor(points.min(axis=0)) - 1, np.ceil(points.max(axis=0)) + 1


def _silhouette(canvas: Canvas, item: Placed) -> tuple[BoolImage, Array]:
    """The whole object's mask as if nothing covered it, and its top left pixel."""
    low, high = _reach(item)
    step = canvas.oversample
    columns, rows = ((high - low) * step).astype(int)
    covered = np.zeros((rows, columns), dtype=np.uint8)
    offset = np.round(low * step).astype(np.int32) << 4
    for part in item.drawing.parts:
        if part.solid:
            outline = canvas.fixed(item.matrix, part.points) - offset
            cv2.fillPoly(covered, [outline], 1, shift=4)
    return _halves(covered, step), low


def _quad(canvas: Canvas, item: Placed, whole: BoolImage, origin: Array) -> Quad:
    """The outline's rectangle along the heading, held to within a pixel of its mask.

    Points thinner than half a pixel (a bow, a blade) are in no mask; a label that reaches
    out for them would not fit what can be seen.
    """
    x0, y0, x1, y1 = item.drawing.extent
    rows, columns = np.nonzero(whole)
    if rows.size:
        inverse = np.linalg.inv(item.matrix[:, :2])
        centres = np.stack([columns, rows], axis=1) + 0.5 + origin - item.matrix[:, 2]
        local = centres @ inverse.T
        slack = canvas.gsd_m * 1.2
        (u0, v0), (u1, v1) = local.min(axis=0).tolist(), local.max(axis=0).tolist()
        x0, y0 = max(x0, u0 - slack), max(y0, v0 - slack)
        x1, y1 = min(x1, u1 + slack), min(y1, v1 + slack)
    corners = np.array([(x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    return quad_from_tuple(apply_affine(item.matrix, corners))
