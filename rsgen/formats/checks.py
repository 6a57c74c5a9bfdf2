"""Numbers from label files -> boxes, quads and masks, or a named problem. Frame: geometry.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from shapely.geometry import LineString, Polygon
from shapely.ops import polygonize, unary_union

from rsgen.formats.common import Problem
from rsgen.formats.rle import decode_counts, mask_from_runs
from rsgen.geometry import (
    Array,
    Box,
    Quad,
    as_array,
    bounds,
    clip_polygon,
    clockwise,
    min_area_quad,
    polygon_area,
    quad_from_tuple,
)
from rsgen.mask import Mask

__all__ = [
    "axis_aligned",
    "check_box",
    "check_crop",
    "check_outlines",
    "check_quad",
    "check_rle",
    "check_size",
    "cross_themselves",
    "finite_numbers",
    "no_pixel",
    "number",
    "quad_inside",
    "raster_session",
    "whole_pixels",
]

LARGEST = 1e12  # beyond any image; areas of larger coordinates overflow
MOST_PIXELS = 100_000_000  # that a mask may span: rasters may declare any size
SHOWN = 80  # characters of a value in a message
SLACK_PX = 1.0  # annotators overshoot the border by a pixel; that is no truncation
LEAST_CROP = 64  # a mask may reach out of a tiny image by more than its size
LOOP_SHARE = 0.1  # a polygon whose loops hold more than this share of it is unusable


@contextmanager
def raster_session() -> Iterator[None]:
    """Sets GDAL up once for many polygons; done for each one, it takes most of the time."""
    import rasterio

    with rasterio.Env():
        yield


def _short(value: Any) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deep nest
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def number(value: Any, what: str) -> float:
    """A finite float from JSON or text, at most 1e12 away from 0.

    Raises:
        Problem: NotANumber, NotFinite or TooLarge.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        result = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Problem("NotANumber", f"{what} is {_short(value)}", "write a number there") from error
    if not math.isfinite(result):
        raise Problem("NotFinite", f"{what} is {_short(value)}", "write a finite number there")
    if abs(result) > LARGEST:
        raise Problem("TooLarge", f"{what} is {_short(value)}", "write a number of pixels there")
    return result


def finite_numbers(values: Any, count: int | None, what: str) -> list[float]:
    """`count` finite floats (any even count of at least 6 when None).

    Raises:
        Problem: FieldCount, NotANumber or NotFinite.
    """
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise Problem("NotANumber", f"{what} is {_short(values)}", "write a list of numbers there")
    if count is not None and len(values) != count:
        raise Problem(
            "FieldCount", f"{what} has {len(values)} numbers, expected {count}", "complete the line"
        )
    if count is None and (len(values) < 6 or len(values) % 2):
        raise Problem(
            "FieldCount",
            f"{what} has {len(values)} numbers, expected x y pairs of at least 3 points",
            "complete the polygon",
        )
    return [number(v, what) for v in values]


def check_size(width: Any, height: Any, max_pixels: int) -> tuple[int, int]:
    """A declared image size as whole pixels.

    Raises:
        Problem: BadSize or TooManyPixels.
    """
    w, h = number(width, "image width"), number(height, "image height")
    if w != int(w) or h != int(h) or w < 1 or h < 1:
        raise Problem("BadSize", f"image size {width} x {height}", "write the size in whole pixels")
    if w * h > max_pixels:
        raise Problem(
            "TooManyPixels",
            f"declared size {int(w)} x {int(h)} is over the limit of {max_pixels} pixels",
            "correct the size, or cut the image into tiles",
        )
    return int(w), int(h)


def _outside(what: str, found: Box, width: int, height: int) -> Problem:
    edges = f"({found.x0:g}, {found.y0:g})-({found.x1:g}, {found.y1:g})"
    return Problem(
        "OutsideImage",
        f"{what} {edges} lies outside the {width} x {height} image",
        "correct the coordinates, or remove the label",
        unseen=True,
    )


def check_box(box: Box, width: int, height: int) -> tuple[Box, bool]:
    """(the part inside the image, whether more than a pixel was cut off).

    Raises:
        Problem: ZeroArea or OutsideImage.
    """
    if box.width <= 0 or box.height <= 0:
        raise Problem(
            "ZeroArea", f"box of {box.width:g} x {box.height:g} pixels", "remove it or redraw it"
        )
    inside = box.clip(width, height)
    if inside.area <= 0:
        raise _outside("box", box, width, height)
    cut = max(inside.x0 - box.x0, inside.y0 - box.y0, box.x1 - inside.x1, box.y1 - inside.y1)
    return inside, cut > SLACK_PX


def _side(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _edges_cross(
    p: Sequence[float], q: Sequence[float], r: Sequence[float], s: Sequence[float]
) -> bool:
    return _side(p, q, r) * _side(p, q, s) < 0 and _side(r, s, p) * _side(r, s, q) < 0


def cross_themselves(quad: Quad) -> bool:
    """Whether the corners are out of order (a bow tie)."""
    p1, p2, p3, p4 = quad
    return _edges_cross(p1, p2, p3, p4) or _edges_cross(p2, p3, p4, p1)


def check_quad(values: Sequence[float], width: int, height: int) -> tuple[Quad, Box, bool]:
    """(clockwise quad with the same first edge, its box inside the image, cut off or not).

    The quad itself is kept as annotated, even where it reaches over the border.

    Raises:
        Problem: SelfCrossing, ZeroArea or OutsideImage.
    """
    quad = quad_from_tuple(list(values))
    if cross_themselves(quad):
        raise Problem(
            "SelfCrossing",
            f"the edges of {[round(v, 2) for v in values]} cross",
            "list the corners in order around the object",
        )
    if abs(polygon_area(quad)) < 1e-6:
        raise Problem("ZeroArea", "box of zero area", "remove it or redraw it")
    inside, cut = check_box(bounds(quad), width, height)
    return clockwise(quad), inside, cut


def axis_aligned(quad: Quad) -> bool:
    """Whether the corners are those of an upright box, to a thousandth of a pixel."""
    p, box = as_array(quad), bounds(quad)
    on_x = np.minimum(np.abs(p[:, 0] - box.x0), np.abs(p[:, 0] - box.x1)) < 1e-3
    on_y = np.minimum(np.abs(p[:, 1] - box.y0), np.abs(p[:, 1] - box.y1)) < 1e-3
    return bool(on_x.all() and on_y.all())


def check_outlines(parts: list[Array], width: int, height: int) -> tuple[Box, bool, bool]:
    """(the parts' bounds inside the image, cut off, loops) of a polygon that can be filled.

    Small loops where an outline crosses itself are reported by the last value; an outline
    that is mostly loops is refused.

    Raises:
        Problem: SelfCrossing, ZeroArea, OutsideImage, TooLarge.
    """
    loops = False
    for part in parts:
        if Polygon(part).is_valid:
            continue
        filled, net = _even_odd_area(part), abs(polygon_area(part))
        if filled > 0 and filled - net > LOOP_SHARE * filled:
            raise Problem("SelfCrossing", "the outline crosses itself", "redraw the outline")
        loops = loops or filled - net > 1e-6 * filled
    inside, cut = check_box(bounds(np.concatenate(parts)), width, height)
    if inside.area > MOST_PIXELS:
        raise Problem(
            "TooLarge",
            f"an outline over {inside.width:.0f} x {inside.height:.0f} pixels",
            f"split it: a mask may span {MOST_PIXELS:,} pixels",
        )
    return inside, cut, loops


def no_pixel() -> Problem:
    """What an outline too thin to hold a pixel's centre is."""
    return Problem("ZeroArea", "the outline covers no pixel centre", "remove it or redraw it")


def _even_odd_area(part: Array) -> float:
    """Area of the points that an outline goes around an odd number of times."""
    ring = np.vstack([part, part[:1]])
    area = 0.0
    for face in polygonize(unary_union(LineString(ring))):
        inner = face.representative_point()
        (x, y), (nx, ny) = ring[:-1].T, ring[1:].T
        spans = (y > inner.y) != (ny > inner.y)
        at = x[spans] + (inner.y - y[spans]) / (ny[spans] - y[spans]) * (nx[spans] - x[spans])
        area += face.area if int((at > inner.x).sum()) % 2 else 0.0
    return area


def check_rle(rle: Mapping[str, Any], width: int, height: int) -> Mask:
    """A COCO RLE of either kind as a mask.

    Raises:
        Problem: WrongSize, BadRle or ZeroArea.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise Problem(
            "WrongSize",
            f"run-length mask of size {size}, the image is [{height}, {width}]",
            "encode the mask at the image's size",
        )
    if not isinstance(counts, (str, bytes, list)):
        raise Problem("BadRle", "the mask has no counts", "encode the mask again")
    return _from_runs(counts, width, height)


def _from_runs(counts: str | bytes | list[Any], width: int, height: int) -> Mask:
    try:
        mask = mask_from_runs(decode_counts(counts, width * height), height)
    except (ValueError, OverflowError) as error:
        raise Problem("BadRle", f"bad run-length code: {error}", "encode the mask again") from error
    if mask is None:
        raise Problem("ZeroArea", "the mask has no pixel", "remove it or redraw it")
    return mask


def check_crop(
    x0: int, y0: int, crop_width: int, crop_height: int, counts: str, width: int, height: int
) -> Mask:
    """The run-length code of a crop at (x0, y0).

    Raises:
        Problem: BadRle, OutsideImage or ZeroArea.
    """
    most = max(2 * height, LEAST_CROP), max(2 * width, LEAST_CROP)
    if not (0 < crop_height <= most[0] and 0 < crop_width <= most[1]):
        raise Problem("BadRle", f"mask of {crop_width} x {crop_height}", "encode the mask again")
    mask = _from_runs(counts, crop_width, crop_height).shift(x0, y0)
    if mask.box.clip(width, height).area <= 0:
        raise _outside("mask", mask.box, width, height)
    return mask


def quad_inside(quad: Quad, heading_rad: float | None, width: float, height: float) -> Quad | None:
    """A quad wholly inside the image: clipped and fitted again; None when nothing is left.

    The first edge stays the one that faces `heading_rad` (or the quad's own direction). Where
    the fitted rectangle still reaches over the border, its corners are moved onto it.
    """
    p = as_array(quad)
    if (p >= 0).all() and (p[:, 0] <= width).all() and (p[:, 1] <= height).all():
        return quad
    parts = clip_polygon(p, Box(0.0, 0.0, float(width), float(height)))
    if not parts:
        return None
    points = np.concatenate(parts)
    direction = (p[0] + p[1]) / 2 - p.mean(axis=0)
    facing = math.atan2(direction[1], direction[0]) if heading_rad is None else heading_rad
    fitted = as_array(min_area_quad(points, facing))
    clamped = quad_from_tuple(np.clip(fitted, (0.0, 0.0), (float(width), float(height))))
    return clamped if polygon_area(clamped) > 1e-6 and not cross_themselves(clamped) else None


def whole_pixels(box: Box, width: int, height: int) -> Box:
    """The box with its edges on the nearest pixel edges inside the image, at least one pixel."""
    x0, x1 = _whole(box.x0, box.x1, width)
    y0, y1 = _whole(box.y0, box.y1, height)
    return Box(x0, y0, x1, y1)


def _whole(low: float, high: float, limit: int) -> tuple[float, float]:
    a, b = (min(max(math.floor(v + 0.5), 0), limit) for v in (low, high))
    if a < b:
        return float(a), float(b)
    a = min(max(math.floor((low + high) / 2), 0), limit - 1)
    return float(a), float(a + 1)
