"""The shapes of a labelme file -> one object each, and back."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from shapely.geometry import Polygon

from rsgen.formats.atlas import fill_outlines
from rsgen.formats.checks import check_box, check_outlines, check_quad, finite_numbers, number
from rsgen.formats.common import Problem, Tally
from rsgen.formats.names import LabelNames
from rsgen.geometry import (
    Array,
    Box,
    Quad,
    as_array,
    bounds,
    heading_of,
    quad_from_tuple,
    wrap_angle,
)
from rsgen.images import encode_png
from rsgen.mask import Mask
from rsgen.records import Instance, Layout

__all__ = ["drawn", "shape_records", "shapes_as_instance"]

CIRCLE_POINTS = 64
# A stair of pixels along a straight edge strays by less than a pixel from it.
SIMPLIFY_PX = (1.0, 0.75)
LEAST_IOU = 0.85  # small shapes that few points cannot hold keep them all
FLAGS = ("difficult", "truncated", "iscrowd")
OUTLINES = {
    "polygon": "a closed outline",
    "circle": "a centre and a point of the circle",
    "mask": "a picture",
    "rectangle": "two corners",
    "oriented_rectangle": "four corners",
    "rotation": "four corners",
}


# ---------------------------------------------------------------- reading


@dataclass
class _Drawn:
    """What the shapes of one object add up to."""

    outlines: list[Array] = field(default_factory=list)
    mask: Mask | None = None
    quad: Quad | None = None
    box: Box | None = None
    cut: bool = False


def shapes_as_instance(
    shapes: Sequence[Any], width: int, height: int, names: LabelNames, tally: Tally
) -> tuple[Instance, list[Array]]:
    """(the object, polygons that are yet to be filled to its mask) of shapes of one group.

    Raises:
        Problem: an unknown class or shape type, or coordinates that are none.
    """
    object_ = _Drawn()
    for shape in shapes:
        if not isinstance(shape, dict):
            raise Problem("MissingField", "a shape is no object", "save it again in labelme")
        _add(object_, shape, width, height, tally)
    first: Mapping[str, Any] = shapes[0]
    label = names.resolve(str(first.get("label") or ""))
    box = object_.box
    if object_.outlines and object_.mask is not None:
        raise Problem(
            "MixedShapes",
            "a group of polygons and a mask",
            "draw the object with shapes of one kind, or give them groups of their own",
        )
    if box is not None:
        box, cut = check_box(box, width, height)
        object_.cut = object_.cut or cut
    quad, heading = _facing(object_.quad, first.get("heading"))
    description = first.get("description")
    instance = Instance(
        label=label,
        box=box,
        quad=quad,
        mask=object_.mask,
        heading_rad=heading,
        caption=description if isinstance(description, str) and description else None,
        attributes=_attributes(first.get("attributes")),
        truncated=_flag(first, "truncated") or object_.cut,
        difficult=_flag(first, "difficult"),
        iscrowd=_flag(first, "iscrowd"),
        origin="polygon" if object_.outlines or object_.mask is not None else "annotation",
    )
    return instance, object_.outlines


def _add(object_: _Drawn, shape: Mapping[str, Any], width: int, height: int, tally: Tally) -> None:
    kind = shape.get("shape_type") or "polygon"
    if kind not in OUTLINES:
        known = ", ".join(f"{name} ({what})" for name, what in OUTLINES.items())
        raise Problem(
            "UnknownShape", f"the shape type {kind!r} has no area; known: {known}", "draw it anew"
        )
    points = _points(shape.get("points"), kind)
    if kind == "rectangle":
        box = bounds(points)
        old = object_.box
        if old is not None:
            both = np.array([(old.x0, old.y0), (old.x1, old.y1), (box.x0, box.y0)])
            box = bounds(np.vstack([both, [(box.x1, box.y1)]]))
        object_.box = box
    elif kind in ("oriented_rectangle", "rotation"):
        if object_.quad is not None:
            raise Problem("MixedShapes", "two oriented boxes in one group", "ungroup them")
        object_.quad, inside, cut = check_quad(points.ravel().tolist(), width, height)
        object_.box, object_.cut = object_.box or inside, object_.cut or cut
    elif kind == "mask":
        if object_.mask is not None:
            raise Problem("MixedShapes", "two masks in one group", "ungroup them")
        object_.mask = _picture(shape.get("mask"), points, width, height)
    else:
        outline = _circle(points) if kind == "circle" else points
        _, cut, loops = check_outlines([outline], width, height)
        if loops:
            tally.remark("an outline with small loops was filled even-odd")
        object_.outlines.append(outline)
        object_.cut = object_.cut or cut


def _points(value: Any, kind: str) -> Array:
    """The corners, float64 [N, 2], as many as the shape type has."""
    counts = {"polygon": (), "rectangle": (2, 4), "circle": (2,), "mask": (2,)}.get(kind, (4,))
    if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
        raise Problem("NotANumber", f"points is {str(value)[:60]!r}", "write [x, y] pairs")
    wrong = len(value) not in counts if counts else len(value) < 3
    if wrong:
        wanted = " or ".join(map(str, counts)) or "at least 3"
        raise Problem(
            "FieldCount",
            f"a {kind} of {len(value)} points, expected {wanted}",
            "draw it anew, or remove it",
        )
    flat = [c for point in value for c in point]
    return np.array(finite_numbers(flat, len(flat), "points"), dtype=np.float64).reshape(-1, 2)


def _circle(points: Array) -> Array:
    (cx, cy), (x, y) = points
    radius = math.hypot(x - cx, y - cy)
    turn = np.arange(CIRCLE_POINTS) * (2 * math.pi / CIRCLE_POINTS)
    return np.stack([cx + radius * np.cos(turn), cy + radius * np.sin(turn)], axis=1)


def _picture(text: Any, points: Array, width: int, height: int) -> Mask:
    """A mask shape: a PNG, base64, whose top left pixel is the first point.

    Raises:
        Problem: BadMask, TooManyPixels, OutsideImage or ZeroArea.
    """
    redo = "draw it anew"
    if not isinstance(text, str):
        raise Problem("BadMask", "the mask has no picture", redo)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as png:
            if png.width > 2 * width or png.height > 2 * height:
                size = f"{png.width} x {png.height}"
                raise Problem("TooManyPixels", f"a mask of {size} pixels", redo)
            pixels = np.asarray(png.convert("L")) > 0
    except (ValueError, OSError, SyntaxError) as error:
        raise Problem("BadMask", f"the mask's picture cannot be read ({error})", redo) from error
    x0, y0 = (int(v) for v in np.round(points.min(axis=0)))
    mask = Mask.from_array(pixels, x0, y0)
    if mask is None:
        raise Problem("ZeroArea", "the mask has no pixel", "remove it or redraw it")
    inside = mask.window(0, 0, width, height)
    if inside is None:
        raise Problem("OutsideImage", f"the mask at ({x0}, {y0}) lies outside the image", redo)
    return inside


def _facing(quad: Quad | None, stored: Any) -> tuple[Quad | None, float | None]:
    """The quad with its front first, and the heading.

    The stored heading says which edge is the front; when the box has been turned since, its
    edge says where that is.
    """
    if stored is None:
        return quad, None
    heading = wrap_angle(number(stored, "heading"))
    if quad is None:
        return None, heading
    turns = [quad_from_tuple(np.roll(as_array(quad), -k, axis=0)) for k in range(4)]
    off = [abs(math.remainder(heading_of(q) - heading, 2 * math.pi)) for q in turns]
    best = int(np.argmin(off))
    return turns[best], heading if off[best] < 1e-2 else heading_of(turns[best])


def _flag(shape: Mapping[str, Any], name: str) -> bool:
    """A flag of the shape, or the key of that name that other tools write."""
    flags = shape.get("flags")
    return (isinstance(flags, dict) and flags.get(name) is True) or shape.get(name) is True


def _attributes(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


# ---------------------------------------------------------------- writing


@lru_cache(maxsize=4096)
def drawn(mask: Mask) -> tuple[Mask, tuple[Array, ...]]:
    """(the mask as it is drawn, its outlines: few points on pixel corners).

    A mask with holes, which no polygon has, is drawn as it is; it has no outlines then.
    """
    parts = mask.rings()
    if any(len(rings) > 1 for rings in parts):
        return mask, ()
    exact = [rings[0] for rings in parts]
    box = mask.box
    right, bottom = math.ceil(box.x1) + 1, math.ceil(box.y1) + 1
    for tolerance in SIMPLIFY_PX:
        simple = [_simplified(ring, tolerance) for ring in exact]
        filled = fill_outlines([simple], right, bottom)[0]
        if filled is not None and filled.iou(mask) >= LEAST_IOU:
            return filled, tuple(simple)
    return mask, tuple(exact)


def _simplified(ring: Array, tolerance_px: float) -> Array:
    simple = Polygon(ring).simplify(tolerance_px, preserve_topology=True)
    return np.asarray(simple.exterior.coords[:-1], dtype=np.float64)


def shape_records(
    held: Instance, original: Instance, layout: Layout, group: int
) -> list[dict[str, Any]]:
    """labelme's shapes of an object as it is held; several parts share the group."""
    common: dict[str, Any] = {
        "label": held.label,
        "group_id": None,
        "description": held.caption or "",
        "flags": {name: True for name in FLAGS if getattr(held, name)},
        "mask": None,
    }
    if held.heading_rad is not None:
        common["heading"] = held.heading_rad
    if held.attributes:
        common["attributes"] = dict(held.attributes)
    if held.mask is None and held.quad is not None:
        corners = [list(point) for point in held.quad]
        return [{**common, "shape_type": "oriented_rectangle", "points": corners}]
    if held.mask is None:
        box = held.box
        assert box is not None, "an object without mask and quad has a box"
        corners = [[box.x0, box.y0], [box.x1, box.y1]]
        return [{**common, "shape_type": "rectangle", "points": corners}]
    inside = original.mask and original.mask.window(0, 0, layout.width, layout.height)
    outlines = drawn(inside)[1] if inside is not None else ()
    if not outlines:
        return [{**common, "shape_type": "mask", **_picture_of(held.mask)}]
    group_id = group if len(outlines) > 1 else None
    return [
        {**common, "group_id": group_id, "shape_type": "polygon", "points": ring.tolist()}
        for ring in outlines
    ]


def _picture_of(mask: Mask) -> dict[str, Any]:
    """labelme's points of a mask are its first and last pixel."""
    corners = [[mask.x0, mask.y0], [mask.x0 + mask.width - 1, mask.y0 + mask.height - 1]]
    png = encode_png(mask.crop().astype(np.uint8) * 255)
    return {
        "points": [[float(v) for v in corner] for corner in corners],
        "mask": base64.b64encode(png).decode("ascii"),
    }
