"""HRSC2016 XML: `HRSC_Object` with mbox_cx, mbox_cy, mbox_w, mbox_h, mbox_ang and the bow.

The angle is in radians from +x toward +y (y down) and w runs along it. `header_x, header_y` is
the ship's bow: it tells which side of the box is the front. Every object is a `ship`, unless
the class table (`--classes hrsc2016-types`) or map knows its Class_ID.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rsgen.formats.common import Dataset, Format, Found, Problem, ReadRequest, Source
from rsgen.formats.xml_labels import (
    Dialect,
    Head,
    Label,
    flag,
    read_xml,
    required,
    rotated_corners,
    xml_votes,
)
from rsgen.formats.xml_tree import Node
from rsgen.geometry import wrap_angle

__all__ = ["FORMAT", "read_hrsc2016"]

BOX = ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")


def _objects(root: Node) -> Iterator[Node]:
    for group in root.all("hrsc_objects"):
        yield from group.all("hrsc_object")


def _head(root: Node) -> Head:
    try:
        gsd_m = float(root.value("img_resolution") or "nan")
    except ValueError:
        gsd_m = math.nan
    return Head(
        root.value("img_filename"),
        root.value("img_sizewidth"),
        root.value("img_sizeheight"),
        gsd_m if 0 < gsd_m < 1e6 else None,
    )


def _label(node: Node) -> Label:
    class_id = node.value("class_id")
    if class_id is None:
        raise Problem("MissingField", "<HRSC_Object> has no Class_ID", "write its class")
    cx, cy, w, h, angle = required(node, *BOX)
    bow = None
    if node.value("header_x") is not None and node.value("header_y") is not None:
        bow = required(node, "header_x", "header_y")
    side = None
    if bow is not None and tuple(bow) != (0, 0):  # 0 0 stands where no bow was marked
        side = _facing_side(bow[0] - cx, bow[1] - cy, w, h, angle)
    if side is None:
        corners = rotated_corners((cx, cy, w, h, angle))
    else:
        along, across = (w, h) if side % 2 == 0 else (h, w)
        angle += side * math.pi / 2
        corners = rotated_corners((cx, cy, along, across, math.remainder(angle, 2 * math.pi)))
    return Label(
        "rotated",
        corners,
        (class_id, "ship"),
        None if side is None else wrap_angle(angle),
        flag(node, "truncated"),
        flag(node, "difficult"),
    )


def _facing_side(dx: float, dy: float, w: float, h: float, angle: float) -> int | None:
    """Which side of the box (quarter turns after the angle) lies toward the bow.

    None where the bow is at the centre, or further outside than the box is long.
    """
    if w <= 0 or h <= 0:
        return None  # the box itself is refused
    along = (dx * math.cos(angle) + dy * math.sin(angle)) / (w / 2)
    across = (dy * math.cos(angle) - dx * math.sin(angle)) / (h / 2)
    if max(abs(along), abs(across)) == 0 or math.hypot(dx, dy) > 1.5 * max(w, h):
        return None
    if abs(along) >= abs(across):
        return 0 if along > 0 else 2
    return 1 if across > 0 else 3


DIALECT = Dialect("hrsc2016", "hrsc_image", frozenset({"rotated"}), _objects, _head, _label)


def read_hrsc2016(request: ReadRequest) -> Dataset:
    """Read an HRSC2016 folder: oriented boxes with headings where the bow is marked."""
    return read_xml(request, DIALECT)


def _detect(source: Source) -> Found | None:
    return xml_votes(source, DIALECT, "HRSC objects")


FORMAT = Format(
    "hrsc2016",
    "`Annotations/*.xml` with HRSC_Objects, `AllImages/*.bmp`",
    read_hrsc2016,
    detect=_detect,
)
