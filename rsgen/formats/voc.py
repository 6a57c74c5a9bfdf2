"""Pascal VOC XML: `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/{train,val,test}.txt`.

Pixels are counted from 1 and both ends are inside: xmin = 1, xmax = 10 covers the edges [0, 10).
So it is written, in whole pixels (each edge moved to the nearest one). Labels of tools that
count edges from 0 are read as they are meant, see `xml_labels.zero_based`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from rsgen.formats.checks import whole_pixels
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    WriteReport,
    things_only,
)
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
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = [
    "CORNERS",
    "FORMAT",
    "VocWriter",
    "add_numbers",
    "objects_of",
    "read_voc",
    "voc_head",
    "voc_label",
]

EDGES = ("xmin", "ymin", "xmax", "ymax")
CORNERS = tuple(
    f"{axis}_{corner}"
    for corner in ("left_top", "right_top", "right_bottom", "left_bottom")
    for axis in "xy"
)
ROTATED = ("cx", "cy", "w", "h", "angle")


def voc_head(root: Node) -> Head:
    """The image that the file names, its declared size, and the gsd that we write."""
    size = root.find("size") or Node("size", root.line)
    return Head(root.value("filename"), size.value("width"), size.value("height"), _gsd(root))


def _gsd(root: Node) -> float | None:
    try:
        value = float(root.value("gsd_m") or "")
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None


def objects_of(root: Node) -> Iterator[Node]:
    return root.all("object")


def voc_label(node: Node, *, oriented: bool) -> Label:
    """An `object` element; where it has boxes of both kinds, `oriented` chooses.

    Raises:
        Problem: MissingField, NotANumber, NotFinite, ZeroArea, NotRadians.
    """
    name = node.value("name")
    if name is None:
        raise Problem("MissingField", "<object> has no name", "write its class into <name>")
    marks = {tag: flag(node, tag) for tag in ("truncated", "difficult", "occluded")}
    upright, turned = node.find("bndbox"), node.find("robndbox")
    if turned is not None and (oriented or upright is None):
        if turned.find("cx") is not None:
            return Label("rotated", rotated_corners(required(turned, *ROTATED)), (name,), **marks)
        return Label("corners", required(turned, *CORNERS), (name,), **marks)
    if upright is None:
        raise Problem(
            "MissingField", f"the object {name!r} has no bndbox", "write its box, or remove it"
        )
    return Label("box", required(upright, *EDGES), (name,), **marks)


DIALECT = Dialect(
    "voc",
    "annotation",
    frozenset({"box"}),
    objects_of,
    voc_head,
    lambda node: voc_label(node, oriented=False),
)


def read_voc(request: ReadRequest) -> Dataset:
    """Read a VOC folder: upright boxes, and oriented ones where an object has no other."""
    return read_xml(request, DIALECT)


def _detect(source: Source) -> Found | None:
    return xml_votes(source, DIALECT, "objects with a bndbox")


def add_numbers(parent: ElementTree.Element, tags: Sequence[str], values: Sequence[float]) -> None:
    """Child elements with numbers of at most 4 decimals."""
    for tag, value in zip(tags, values, strict=True):
        text = f"{value:.4f}".rstrip("0").rstrip(".")
        ElementTree.SubElement(parent, tag).text = "0" if text == "-0" else text


Shape = Callable[[ElementTree.Element, Instance, Layout], bool]


def _add_box(node: ElementTree.Element, instance: Instance, layout: Layout) -> bool:
    """Adds <bndbox>; returns whether the box had to be moved onto whole pixels."""
    box = instance.bounds()
    if box is None:
        return False
    inside = box.clip(layout.width, layout.height)
    whole = whole_pixels(inside, layout.width, layout.height)
    target = ElementTree.SubElement(node, "bndbox")
    add_numbers(target, EDGES, (whole.x0 + 1, whole.y0 + 1, whole.x1, whole.y1))
    return whole != inside


class VocWriter:
    """`Annotations/`, `JPEGImages/` and `ImageSets/Main/SPLIT.txt`; shapes are added by `shape`.

    Stuff classes and what lies outside the image are left out and counted.
    """

    places_images = True

    def __init__(self, name: str = "voc", shape: Shape = _add_box) -> None:
        self.name = name
        self._shape = shape
        self._lists: dict[str, IO[str]] = {}
        self._images = self._labels = self._moved = 0
        self._skipped: dict[str, int] = {}

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._classes = out_dir, classes
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (out_dir / folder).mkdir(parents=True, exist_ok=True)
        for split in splits:
            path = out_dir / "ImageSets" / "Main" / f"{split}.txt"
            self._lists[split] = path.open("w", encoding="utf-8")

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"JPEGImages/{image_name}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        stem = Path(image_name).stem
        root = self._head(sample, image_name)
        for instance in sample.layout.instances:
            reason = self._left_out(instance, sample.layout)
            if reason is not None:
                self._skipped[reason] = self._skipped.get(reason, 0) + 1
                continue
            node = ElementTree.SubElement(root, "object")
            if self.name != "voc":
                ElementTree.SubElement(node, "type").text = "robndbox"
            label = self._classes.resolve(instance.label).name
            ElementTree.SubElement(node, "name").text = label
            ElementTree.SubElement(node, "pose").text = "Unspecified"
            add_numbers(node, ("truncated", "difficult"), (instance.truncated, instance.difficult))
            if instance.attributes.get("occluded") == "1":
                ElementTree.SubElement(node, "occluded").text = "1"
            self._moved += self._shape(node, instance, sample.layout)
            self._labels += 1
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        (self._out / "Annotations" / f"{stem}.xml").write_text(f"{text}\n", encoding="utf-8")
        self._lists[split].write(f"{stem}\n")
        self._images += 1

    def _left_out(self, instance: Instance, layout: Layout) -> str | None:
        if self._classes.is_stuff(instance.label):
            return "stuff class"
        return None if things_only(instance, layout, self._classes) else "outside the image"

    def _head(self, sample: Sample, image_name: str) -> ElementTree.Element:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "folder").text = "JPEGImages"
        ElementTree.SubElement(root, "filename").text = image_name
        synthetic = sample.provenance.kind == "synthetic"
        source = ElementTree.SubElement(root, "source")
        ElementTree.SubElement(source, "database").text = "rsgen" if synthetic else "Unknown"
        size = ElementTree.SubElement(root, "size")
        add_numbers(
            size, ("width", "height", "depth"), (sample.layout.width, sample.layout.height, 3)
        )
        if sample.layout.gsd_m is not None:
            ElementTree.SubElement(root, "gsd_m").text = repr(sample.layout.gsd_m)
        ElementTree.SubElement(root, "segmented").text = "0"
        return root

    def close(self) -> WriteReport:
        self.abort()
        moved = f"{self._moved} boxes were moved onto whole pixels"
        return WriteReport(
            ("Annotations", "ImageSets/Main"),
            self._images,
            self._labels,
            dict(self._skipped),
            (moved,) if self._moved else (),
        )

    def abort(self) -> None:
        """The split lists are closed."""
        for handle in self._lists.values():
            handle.close()


def kept_fields(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """What any of these files hold of an object beside its shape; its box is what is inside."""
    kept = things_only(instance, layout, classes)
    box = None if kept is None else kept.bounds()
    if kept is None or box is None:
        return None
    return Instance(
        kept.label,
        box.clip(layout.width, layout.height),
        attributes={k: v for k, v in kept.attributes.items() if (k, v) == ("occluded", "1")},
        truncated=kept.truncated,
        difficult=kept.difficult,
    )


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    kept = kept_fields(instance, layout, classes)
    if kept is None or kept.box is None:
        return None
    return replace(kept, box=whole_pixels(kept.box, layout.width, layout.height))


FORMAT = Format(
    "voc",
    "`Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt`; upright boxes in whole "
    "pixels, counted from 1",
    read_voc,
    lambda _: VocWriter(),
    _detect,
    Holds(_held, frozenset({"gsd_m"})),
)
