"""Filling and tracing many small shapes in one call of GDAL each.

A call costs more than a small polygon does, so the shapes of an image are laid side by side in
one strip. The result is that of one call a shape (`Mask.from_polygons`, `Mask.rings`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rsgen.geometry import Array, Box, bounds
from rsgen.mask import Mask

__all__ = ["fill_outlines", "trace_masks"]

STRIP_PIXELS = 4_000_000  # a strip is cut off here, so that large shapes do not add up


def _strips(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[list[int], int, int]]:
    """(indices, height, width) of strips for shapes of (height, width)."""
    chosen: list[int] = []
    tall = wide = 0
    for index, (height, width) in enumerate(sizes):
        if chosen and max(tall, height) * (wide + width) > STRIP_PIXELS:
            yield chosen, tall, wide
            chosen, tall, wide = [], 0, 0
        chosen.append(index)
        tall, wide = max(tall, height), wide + width
    if chosen:
        yield chosen, tall, wide


def fill_outlines(items: Sequence[list[Array]], width: int, height: int) -> list[Mask | None]:
    """For each item the union of its outlines (float64 [N, 2]) inside the image, None if empty.

    A pixel is set when its centre is inside; an outline that crosses itself is even-odd.
    """
    image = Box(0.0, 0.0, float(width), float(height))
    found: list[Mask | None] = [None] * len(items)
    inside: list[tuple[int, list[Array], int, int, int, int]] = []
    for index, parts in enumerate(items):
        box = bounds(np.concatenate(parts))
        if box.clip(width, height) == box:
            x0, y0 = math.floor(box.x0), math.floor(box.y0)
            inside.append((index, parts, x0, y0, math.ceil(box.x1) - x0, math.ceil(box.y1) - y0))
        else:  # it would reach into its neighbour on the strip
            found[index] = _fill_alone(parts, image)
    for chosen, tall, wide in _strips([(max(i[5], 1), max(i[4], 1)) for i in inside]):
        _fill_strip([inside[k] for k in chosen], tall, wide, found)
    return found


def _fill_alone(parts: list[Array], image: Box) -> Mask | None:
    width, height = int(image.x1), int(image.y1)
    canvas = np.zeros((height, width), dtype=bool)
    for part in parts:
        mask = Mask.from_polygons([part], width, height)
        if mask is not None:
            mask.paint(canvas, True)
    return Mask.from_array(canvas)


def _fill_strip(
    items: list[tuple[int, list[Array], int, int, int, int]],
    tall: int,
    wide: int,
    found: list[Mask | None],
) -> None:
    from rasterio.features import rasterize

    shapes, places, left = [], [], 0
    for index, parts, x0, y0, width, height in items:
        for part in parts:
            ring = part + (left - x0, -y0)
            closed = [*ring.tolist(), ring[0].tolist()]
            shapes.append(({"type": "Polygon", "coordinates": [closed]}, 1))
        places.append((index, left, x0, y0, width, height))
        left += max(width, 1)
    strip = rasterize(shapes, out_shape=(tall, wide), dtype="uint8")
    for index, left, x0, y0, width, height in places:
        found[index] = Mask.from_array(strip[:height, left : left + width], x0, y0)


def trace_masks(masks: Sequence[Mask]) -> list[list[list[Array]]]:
    """For each mask its rings: one entry a 4-connected part, outer ring first, then holes.

    Rings are float64 [N, 2] on pixel edges of the image, not closed.
    """
    from rasterio.features import shapes

    found: list[list[list[Array]]] = [[] for _ in masks]
    for chosen, tall, wide in _strips([(m.height, m.width) for m in masks]):
        strip = np.zeros((tall, wide), dtype=np.int32)
        offsets, left = [], 0
        for number, index in enumerate(chosen, start=1):
            mask = masks[index]
            strip[: mask.height, left : left + mask.width] = mask.crop() * number
            offsets.append((mask.x0 - left, mask.y0))
            left += mask.width
        for shape, value in shapes(strip, mask=strip > 0, connectivity=4):
            number = int(value) - 1
            found[chosen[number]].append(
                [
                    np.asarray(ring[:-1], dtype=np.float64) + offsets[number]
                    for ring in shape["coordinates"]
                ]
            )
    return found
