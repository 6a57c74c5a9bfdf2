"""roLabelImg XML: VOC files whose objects have `robndbox` with cx, cy, w, h, angle.

Coordinates are pixel edges from 0 (an object cut by the right border reaches the image's width
exactly). w runs along the angle, which is in radians from +x toward +y, clockwise on screen, in
[0, pi): it says how the box lies, not where the object's front is.
"""

from __future__ import annotations

from rsgen.formats.common import Dataset, Format, Found, ReadRequest, Source
from rsgen.formats.voc import objects_of, voc_head, voc_label
from rsgen.formats.xml_labels import Dialect, read_xml, xml_votes

__all__ = ["FORMAT", "read_rolabelimg"]

DIALECT = Dialect(
    "rolabelimg",
    "annotation",
    frozenset({"rotated"}),
    objects_of,
    voc_head,
    lambda node: voc_label(node, oriented=True),
)


def read_rolabelimg(request: ReadRequest) -> Dataset:
    """Read oriented boxes, and upright ones where an object has no other."""
    return read_xml(request, DIALECT)


def _detect(source: Source) -> Found | None:
    return xml_votes(source, DIALECT, "objects with a robndbox of cx, cy, w, h, angle")


FORMAT = Format(
    "rolabelimg",
    "`*.xml` with a `robndbox` of cx, cy, w, h, angle",
    read_rolabelimg,
    detect=_detect,
)
