"""The geometry of one COCO annotation: bbox, obb, polygons, run-length codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsgen.formats.checks import check_outlines, check_quad, check_rle, finite_numbers
from rsgen.formats.coco_images import ImageRecord
from rsgen.formats.common import Problem, Tally
from rsgen.geometry import Array, Box, Quad, RotatedBox, bounds, polygon_area, rotated_box_to_quad
from rsgen.mask import Mask

__all__ = ["Shape", "bbox_of", "shape_of"]


def bbox_of(value: Any) -> Box | None:
    if value is None or value == []:
        return None
    x, y, w, h = finite_numbers(value, 4, "bbox")
    return Box(x, y, x + w, y + h)


@dataclass(frozen=True)
class Shape:
    """What an annotation says of its object's outline.

    `parts` are polygons that are yet to be filled (all of an image at once); `box` is the
    shape's own inside the image, `cut` whether more than a pixel of it was outside.
    """

    quad: Quad | None = None
    mask: Mask | None = None
    parts: list[Array] = field(default_factory=list)
    box: Box | None = None
    cut: bool = False


def shape_of(record: dict[str, Any], box: Box | None, image: ImageRecord, tally: Tally) -> Shape:
    """The shape of an annotation, checked.

    With `obb`, four points in `segmentation` are the label's corners, no mask; without it,
    four points that only repeat the bbox are no mask either.
    """
    width, height = image.width, image.height
    segmentation, obb = record.get("segmentation"), record.get("obb")
    quad = None
    if obb is not None:
        cx, cy, w, h, angle = finite_numbers(obb, 5, "obb")
        quad = rotated_box_to_quad(RotatedBox(cx, cy, w, h, angle))
    if isinstance(segmentation, dict):
        mask = check_rle(segmentation, width, height)
        return Shape(quad, mask, box=mask.box)
    parts = _parts(segmentation, tally)
    if obb is not None and len(parts) == 1 and len(parts[0]) == 4:
        quad, found, cut = check_quad(parts[0].ravel().tolist(), width, height)
        return Shape(quad, box=found, cut=cut)
    if quad is not None:
        quad, found, cut = check_quad([c for p in quad for c in p], width, height)
        if not parts:
            return Shape(quad, box=found, cut=cut)
    if not parts or (box is not None and len(parts) == 1 and _is_the_box(parts[0], box)):
        if parts:
            tally.remark("a segmentation that only repeats its bbox was read as no mask")
        return Shape(quad)
    found, cut, loops = check_outlines(parts, width, height)
    if loops:
        tally.remark("an outline with small loops was filled even-odd")
    return Shape(quad, None, parts, found, cut)


def _parts(segmentation: Any, tally: Tally) -> list[Array]:
    """Polygons as float64 [N, 2] arrays."""
    if not segmentation:
        return []
    if not isinstance(segmentation, list):
        raise Problem("BadPolygon", "segmentation is no list", "write polygons or an RLE")
    parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
    usable = [p for p in parts if not isinstance(p, list) or len(p) >= 6]
    if len(usable) < len(parts) and usable:
        tally.remark("a polygon part of under 3 points was left out")
        parts = usable
    return [np.array(finite_numbers(p, None, "segmentation")).reshape(-1, 2) for p in parts]


def _is_the_box(part: Array, box: Box) -> bool:
    if len(part) not in (4, 5):
        return False
    found = bounds(part)
    corners = {(x, y) for x in (found.x0, found.x1) for y in (found.y0, found.y1)}
    same = np.allclose(
        [found.x0, found.y0, found.x1, found.y1], [box.x0, box.y0, box.x1, box.y1], atol=1e-3
    )
    in_order = abs(polygon_area(part)) >= found.area * 0.999  # corners of a bow tie are not
    return same and in_order and {(float(x), float(y)) for x, y in part} == corners
