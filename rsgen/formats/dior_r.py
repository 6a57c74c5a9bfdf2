"""DIOR-R XML: VOC files whose objects have `robndbox` with eight corner coordinates.

The corners run clockwise from left_top. Which end is the front is not said, so there are no
headings; `heading=True` takes the first edge, left_top -> right_top, as the front. Objects with
cx, cy, w, h, angle are read as in roLabelImg, the folder of horizontal boxes is left alone.
"""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from rsgen.formats.common import Dataset, Format, Found, Holds, ReadRequest, Source
from rsgen.formats.voc import (
    CORNERS,
    VocWriter,
    add_numbers,
    kept_fields,
    objects_of,
    voc_head,
    voc_label,
)
from rsgen.formats.xml_labels import Dialect, Label, read_xml, xml_votes
from rsgen.formats.xml_tree import Node
from rsgen.geometry import bounds, box_quad, heading_of, quad_from_tuple
from rsgen.records import ClassTable, Instance, Layout

__all__ = ["FORMAT", "read_dior_r"]


def _label(node: Node) -> Label:
    return voc_label(node, oriented=True)


def _facing(node: Node) -> Label:
    label = _label(node)
    if label.form != "corners":
        return label
    return replace(label, heading_rad=heading_of(quad_from_tuple(list(label.values))))


DIALECT = Dialect("dior-r", "annotation", frozenset({"corners"}), objects_of, voc_head, _label)


def read_dior_r(request: ReadRequest) -> Dataset:
    """Read oriented boxes, and upright ones where an object has no other."""
    return read_xml(
        request, replace(DIALECT, label=_facing) if request.heading is True else DIALECT
    )


def _detect(source: Source) -> Found | None:
    return xml_votes(source, DIALECT, "objects with a robndbox of four corners")


def _add_corners(node: ElementTree.Element, instance: Instance, layout: Layout) -> bool:
    box = instance.bounds()
    quad = instance.quad or (None if box is None else box_quad(box))
    if quad is not None:
        target = ElementTree.SubElement(node, "robndbox")
        add_numbers(target, CORNERS, [value for point in quad for value in point])
    return False


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    kept = kept_fields(instance, layout, classes)
    if kept is None or instance.quad is None:
        return kept
    return replace(kept, quad=instance.quad, box=bounds(instance.quad))


FORMAT = Format(
    "dior-r",
    "`Annotations/*.xml` with a `robndbox` of four corners, `JPEGImages/`, "
    "`ImageSets/Main/SPLIT.txt`",
    read_dior_r,
    lambda _: VocWriter("dior-r", _add_corners),
    _detect,
    Holds(_held, frozenset({"gsd_m"})),
)
