"""Reading an export back through the readers, and comparing it with what was to be written."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.formats import Dataset, read_dataset
from rsgen.formats.checks import quad_inside
from rsgen.geometry import (
    Box,
    as_array,
    bounds,
    clockwise,
    quad_to_rotated_box,
    rotated_box_to_quad,
)
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["Expected", "check_coco", "check_format", "written_instances"]

# Labels are written with 4 decimals (DOTA) or better; readers clip at the border.
TOLERANCE_PX = 1e-3
CLASSES_KEPT = frozenset({"jsonl"})  # formats that write stuff classes too

Numbers = npt.NDArray[np.float64]
Expected = tuple[str, str, Sample]  # file name of the image, split, the sample as written


def written_instances(layout: Layout, classes: ClassTable, name: str) -> list[Instance]:
    """The instances of a layout that a format holds: detection formats skip stuff."""
    if name in CLASSES_KEPT:
        return list(layout.instances)
    return [i for i in layout.instances if not classes.is_stuff(i.label)]


def check_format(
    folder: Path, name: str, classes: ClassTable, expected: Iterable[Expected], splits: set[str]
) -> Counter[str]:
    """Read one written format back and compare every image; returns objects by class.

    Raises:
        DataError: an unreadable item, a missing image, or labels that differ.
    """
    # COCO and YOLO images lie in images/SPLIT, so the file name and split are the key.
    dataset = read_dataset(folder, format=name, classes=classes)
    if dataset.failures:
        raise _failed(name, f"{len(dataset.failures)} items cannot be read back, the first: "
                            f"{dataset.failures[0].message}")  # fmt: skip
    found = _by_file(dataset, splits)
    objects: Counter[str] = Counter()
    for file_name, split, sample in expected:
        read = found.pop((split, file_name), None)
        if read is None:
            raise _failed(name, f"image {file_name} of split {split} is not read back")
        wanted = written_instances(sample.layout, classes, name)
        _compare(f"{name}: {split}/{file_name}", name, sample.layout, wanted, read, classes)
        objects.update(classes.resolve(i.label).name for i in wanted)
    if found:
        raise _failed(name, f"{len(found)} more images than written, such as {next(iter(found))}")
    return objects


def _failed(name: str, text: str) -> DataError:
    return DataError(
        f"export check of {name} failed: {text}",
        hint="nothing was published; look at OUT/.dataset.tmp, and mend the labels named here",
    )


def _by_file(dataset: Dataset, splits: set[str]) -> dict[tuple[str, str], Sample]:
    """Samples by (split, file name); with a single split a format may leave it unsaid."""
    only = next(iter(splits)) if len(splits) == 1 else None
    found = {}
    for sample in dataset:
        key = (sample.split or only or "", PurePosixPath(sample.image or sample.id).name)
        if key in found:
            raise _failed(dataset.format, f"two images {key}")
        found[key] = sample
    return found


def _compare(
    place: str,
    name: str,
    layout: Layout,
    wanted: list[Instance],
    read: Sample,
    classes: ClassTable,
) -> None:
    if (read.layout.width, read.layout.height) != (layout.width, layout.height):
        raise _failed(
            place,
            f"size {read.layout.width} x {read.layout.height}, expected "
            f"{layout.width} x {layout.height}",
        )
    ours = _shapes(wanted, layout, name, classes)
    theirs = _shapes(read.layout.instances, layout, name, classes)
    for label in sorted({*ours, *theirs}):
        a, b = ours.get(label, []), theirs.get(label, [])
        if len(a) != len(b):
            raise _failed(place, f"{len(b)} objects of {label}, expected {len(a)}")
        worst = _worst_match(a, b)
        if worst > TOLERANCE_PX:
            raise _failed(place, f"an object of {label} is off by {worst:.4g} pixels")


@dataclass(frozen=True)
class _Shape:
    """What must agree: box corners [4], and quads [A, 8] of which one must be met."""

    box: Numbers
    quads: Numbers


def _shapes(
    instances: Iterable[Instance], layout: Layout, name: str, classes: ClassTable
) -> dict[str, list[_Shape]]:
    """Boxes inside the image and quads, by class; stuff, which has a mask alone, is left out."""
    found: dict[str, list[_Shape]] = {}
    for instance in instances:
        box = _box(instance, name, layout)
        if box is None:
            continue
        inside = box.clip(layout.width, layout.height)
        corners = np.array([inside.x0, inside.y0, inside.x1, inside.y1])
        label = classes.resolve(instance.label).name
        found.setdefault(label, []).append(_Shape(corners, _quads(instance, name, layout)))
    return found


def _quads(instance: Instance, name: str, layout: Layout) -> Numbers:
    """The quads that may be read back, float64 [A, 8]; none where the format has no corners.

    With a heading the first edge must be the same, else any corner may come first. COCO holds
    a rotated rectangle beside a mask, so other quads come back as their rectangle.
    """
    quad = instance.quad
    if quad is None or name not in ("dota", "jsonl", "coco", "yolo-obb"):
        return np.zeros((0, 8))
    if name == "yolo-obb":
        quad = quad_inside(quad, instance.heading_rad, layout.width, layout.height) or quad
    allowed = [clockwise(quad)]
    if name == "coco":
        allowed.append(rotated_box_to_quad(quad_to_rotated_box(quad)))
    turns = (0,) if instance.heading_rad is not None else (0, 1, 2, 3)
    return np.array([np.roll(as_array(q), -k, axis=0).ravel() for q in allowed for k in turns])


def _box(instance: Instance, name: str, layout: Layout) -> Box | None:
    """The box that a format can give back: oriented ones know the quad alone, segments the mask.

    YOLO corners must lie inside the image: a quad over the border is cut and fitted again.
    """
    if name == "yolo-seg" and instance.mask is not None:
        return instance.mask.box
    if name in ("yolo-obb", "yolo-seg") and instance.quad is not None:
        size = layout.width, layout.height
        inside = quad_inside(instance.quad, instance.heading_rad, *size)
        return None if inside is None else bounds(inside)
    if name == "dota" and instance.quad is not None:
        return bounds(instance.quad)
    return instance.bounds()


def _worst_match(wanted: list[_Shape], read: list[_Shape]) -> float:
    """Largest coordinate difference when each shape takes its nearest free one."""
    boxes = np.array([shape.box for shape in read]).reshape(-1, 4)
    corners = np.full((len(read), 8), np.nan)
    for row, shape in enumerate(read):
        if len(shape.quads):
            corners[row] = shape.quads[0]
    free = np.ones(len(read), dtype=bool)
    worst = 0.0
    for shape in wanted:
        off = np.abs(boxes - shape.box).max(axis=1)
        if len(shape.quads):
            turned = np.abs(corners[:, None] - shape.quads).max(axis=2).min(axis=1)
            off = np.maximum(off, np.nan_to_num(turned, nan=0.0))  # a box alone has no corners
        off[~free] = np.inf
        nearest = int(off.argmin())
        free[nearest] = False
        worst = max(worst, float(off[nearest]))
    return worst


def check_coco(folder: Path, images: Mapping[str, int], objects: int) -> None:
    """Load every instances_SPLIT.json with pycocotools and count; decode some masks.

    Raises:
        DataError: pycocotools cannot load it, or counts differ.
    """
    from pycocotools.coco import COCO

    total = 0
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        split = path.stem.removeprefix("instances_")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                coco = COCO(str(path))
            for annotation in coco.loadAnns(coco.getAnnIds()[:20]):
                if annotation["segmentation"]:
                    coco.annToMask(annotation)
        except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
            raise _failed("coco", f"pycocotools cannot load {path.name} ({error!r})") from error
        if len(coco.getImgIds()) != images.get(split, 0):
            raise _failed(
                "coco", f"{path.name}: {len(coco.getImgIds())} images, expected {images.get(split)}"
            )
        total += len(coco.getAnnIds())
    if total != objects:
        raise _failed("coco", f"pycocotools finds {total} objects, expected {objects}")
