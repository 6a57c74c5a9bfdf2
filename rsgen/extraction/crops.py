"""Which parts of an image a network of fixed input size looks at, so that objects are large.

A network that sees 1024 x 1024 pixels sees a 20 pixel ship of a 4000 pixel scene as 5 pixels.
So objects are looked at in square windows of the image, each enlarged to the whole input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rsgen.geometry import Array, Box

__all__ = ["CONTEXT", "MAX_ZOOM", "Crop", "plan_crops"]

CONTEXT = 0.25  # least surround at each side of a box, in its longest sides
MAX_ZOOM = 8  # most input pixels an image pixel: more enlarges blur, not detail
STEPS = 2  # zooms a doubling: more fit objects better, fewer let them share windows


@dataclass(frozen=True, slots=True)
class Crop:
    """A window of whole pixels inside the image, and which boxes are looked at in it."""

    x0: int
    y0: int
    width: int
    height: int
    members: tuple[int, ...]


def plan_crops(
    boxes: Sequence[Box], width: int, height: int, side: int, object_px: int
) -> list[Crop]:
    """Windows in which every box is seen once, with its surround, and large enough.

    `boxes` lie inside the image; `side` is the input's side. The longest side of each box
    spans at least `object_px` input pixels (at most a quarter of `side` is asked for), unless
    that takes more than `MAX_ZOOM`. Zooms are the whole image's and a few steps, so that
    neighbours share windows; a window is moved to hold as many boxes as it can, and larger
    objects that happen to lie in a window of smaller ones are looked at there.
    """
    object_px = min(object_px, side // 4)
    whole = side / max(width, height)
    levels: dict[float, list[int]] = {}
    for k, box in enumerate(boxes):
        levels.setdefault(_zoom(box, whole, side, object_px), []).append(k)
    crops = list[Crop]()
    for zoom in sorted(levels, reverse=True):
        crops, members = _joined(crops, boxes, levels[zoom], (width, height))
        if zoom <= whole and members:
            crops.append(Crop(0, 0, width, height, tuple(members)))
        elif members:
            across, down = min(width, int(side / zoom)), min(height, int(side / zoom))
            crops += _cover(boxes, members, (width, height), (across, down))
    return crops


def _joined(
    crops: Sequence[Crop], boxes: Sequence[Box], members: Sequence[int], image: tuple[int, int]
) -> tuple[list[Crop], list[int]]:
    """Windows of larger zooms with the members that fit into them, and the members that do not."""
    taken: list[list[int]] = [[] for _ in crops]
    left = []
    for k in members:
        x0, y0, x1, y1 = _with_surround(boxes[k], image)
        for crop, more in zip(crops, taken, strict=True):
            across = crop.x0 <= x0 and x1 <= crop.x0 + crop.width
            if across and crop.y0 <= y0 and y1 <= crop.y0 + crop.height:
                more.append(k)
                break
        else:
            left.append(k)
    grown = [replace(c, members=(*c.members, *more)) for c, more in zip(crops, taken, strict=True)]
    return grown, left


def _zoom(box: Box, whole: float, side: int, object_px: int) -> float:
    """Input pixels an image pixel for one box: the whole image's, or one of the ladder."""
    longest = max(box.width, box.height)
    wanted = min(object_px / longest, MAX_ZOOM)
    if wanted <= whole:
        return whole
    room = math.floor(STEPS * math.log2(side / (longest * (1 + 2 * CONTEXT) + 1)))
    zoom = 2.0 ** (min(math.ceil(STEPS * math.log2(wanted)), room) / STEPS)
    return zoom if zoom > whole else whole


def _cover(
    boxes: Sequence[Box], members: Sequence[int], image: tuple[int, int], window: tuple[int, int]
) -> list[Crop]:
    """Windows of one size that hold all members with their surround, greedily from the left."""
    around = np.array([_with_surround(boxes[k], image) for k in members])  # [N, 4] xyxy
    left = np.lexsort((around[:, 1], around[:, 0]))
    crops = []
    while left.size:
        seed = around[left[0]]
        near = left[around[left, 2] <= seed[0] + window[0] + 1e-9]
        tops = around[near, 1]
        tops = tops[(tops <= seed[1]) & (tops + window[1] >= seed[3] - 1e-9)]
        inside = (around[near, 1] >= tops[:, None]) & (
            around[near, 3] <= tops[:, None] + window[1] + 1e-9
        )
        best = np.lexsort((tops, -inside.sum(axis=1)))[0]
        taken = near[inside[best]]
        held = around[taken]
        x0 = _start(held[:, 0].min(), held[:, 2].max(), window[0], image[0])
        y0 = _start(held[:, 1].min(), held[:, 3].max(), window[1], image[1])
        numbers = tuple(members[k] for k in sorted(taken.tolist()))
        crops.append(Crop(x0, y0, window[0], window[1], numbers))
        left = left[~np.isin(left, taken)]
    return crops


def _with_surround(box: Box, image: tuple[int, int]) -> Array:
    margin = CONTEXT * max(box.width, box.height)
    grown = Box(box.x0 - margin, box.y0 - margin, box.x1 + margin, box.y1 + margin)
    inside = grown.clip(*image)
    return np.array([inside.x0, inside.y0, inside.x1, inside.y1])


def _start(low: float, high: float, length: int, limit: int) -> int:
    """Where a window of `length` begins that has [low, high] in its middle, in the image."""
    return min(max(round((low + high - length) / 2), 0), limit - length)
