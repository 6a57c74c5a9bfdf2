"""YOLO text labels: boxes, oriented boxes (four corners) and segments; class indices from 0.

A line is `class cx cy w h`, `class x1 y1 .. x4 y4` or `class x1 y1 x2 y2 ...`, all coordinates
divided by the image's width and height. Names come from data.yaml or classes.txt.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rsgen.formats.atlas import fill_outlines
from rsgen.formats.checks import (
    check_box,
    check_outlines,
    check_quad,
    no_pixel,
    quad_inside,
)
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
    things_only,
)
from rsgen.formats.names import LabelNames, paint_order
from rsgen.formats.pairs import (
    Pair,
    Pairs,
    empty_labels,
    find_pairs,
    image_root,
    text_votes,
)
from rsgen.formats.yolo_files import (
    ClassNames,
    LabelFile,
    Line,
    class_names,
    looks_like_yolo,
    parse_file,
)
from rsgen.formats.yolo_write import YoloWriter, fillable
from rsgen.geometry import Box, bounds, box_quad, heading_of
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["YOLO", "YOLO_OBB", "YOLO_SEG", "read_yolo"]

Kind = Literal["yolo", "yolo-obb", "yolo-seg"]
NUMBERS = {"yolo": 4, "yolo-obb": 8}  # of an object, after its class
MOSTLY = 0.9


def _kind_of(lengths: Counter[int]) -> Kind:
    """What the label lines hold, by their numbers a line; the odd lines are damage.

    More boxes than anything else are boxes. Outlines may well have four points, so that eight
    numbers are oriented boxes only where nearly every line has them.
    """
    lines = lengths.total()
    if lengths[4] * 2 > lines or not lines:
        return "yolo"
    return "yolo-obb" if lengths[8] >= MOSTLY * lines else "yolo-seg"


def read_yolo(request: ReadRequest, kind: Kind | None = None) -> Dataset:
    """Read a YOLO folder; without `kind` the numbers a line decide what the labels are.

    Oriented boxes get a heading only with `heading=True`: the layout does not promise that
    the first edge is the front.
    """
    tally = Tally(image_root(request))
    known = class_names(request.path)
    if known.source is None and request.labels is not None:
        known = class_names(request.labels)
    names = LabelNames(request.classes, request.class_map)
    pairs = find_pairs(request, tally)
    parsed: list[tuple[Pair, LabelFile]] = []
    bare = 0
    for pair in pairs.found:
        if pair.labels is None:
            bare += 1
            parsed.append((pair, LabelFile()))
            continue
        try:
            parsed.append((pair, parse_file(pair.labels)))
        except Problem as problem:
            tally.image_failed(pairs.item(pair), problem)
    lines = [line for _, file in parsed for line in file.lines]
    found = kind or _kind_of(Counter(len(line.values) for line in lines))
    names_of = _declare(known, lines, request, names, tally)
    if bare:
        tally.notes.append(f"yolo: {bare} images without a label file were read as empty")
    for pair, file in parsed:
        _keep(_Task(pair, file, found, names_of, known.splits), pairs, names, tally)
    return tally.dataset(found, names.table(in_order=True))


def _declare(
    known: ClassNames,
    lines: list[Line],
    request: ReadRequest,
    names: LabelNames,
    tally: Tally,
) -> dict[int, str]:
    """Names by index: from the names file, else the given table's order, else made up."""
    if known.source is not None:
        for name in known.names.values():
            names.declare(name)
        tally.notes.append(f"yolo: {len(known.names)} class names from {known.source}")
        return known.names
    if request.classes is not None:
        tally.notes.append("yolo: no data.yaml or classes.txt, indices count in --classes")
        return dict(enumerate(request.classes.names))
    indices = range(max((line.index for line in lines), default=-1) + 1)
    made_up = {k: request.class_map.get(str(k), f"class-{k}") for k in indices}
    for index, name in made_up.items():
        names.declare(name)
        request.class_map.saw(str(index), 0)
    if made_up:
        tally.notes.append(
            "yolo: no data.yaml or classes.txt, classes are called "
            f"{', '.join(made_up.values())}; name them with extract-masks --classes"
        )
    return made_up


@dataclass(frozen=True)
class _Task:
    pair: Pair
    file: LabelFile
    kind: Kind
    names_of: dict[int, str]
    splits: dict[str, str]


def _keep(task: _Task, pairs: Pairs, names: LabelNames, tally: Tally) -> None:
    pair, file = task.pair, task.file
    try:
        width, height = pairs.size(pair)
    except Problem as problem:
        tally.image_failed(pairs.item(pair), problem, len(file.lines) + len(file.problems))
        return
    for position, found in file.problems:
        tally.label_failed(pairs.item(pair, position), found)
    instances = []
    for line in file.lines:
        try:
            instances.append(_instance(line, task, (width, height), pairs.request, names))
        except Problem as problem:
            tally.label_failed(pairs.item(pair, line.number), problem)
    sample_id = pairs.sample_id(pair)
    layout = Layout(width, height, paint_order(instances, names), pairs.request.gsd_m)
    sample = Sample(
        sample_id,
        layout,
        None if pair.image is None else sample_id,
        split=pairs.split(pair) or _listed_split(sample_id, task.splits),
    )
    tally.keep(sample, labels=len(instances))


def _listed_split(sample_id: str, splits: dict[str, str]) -> str | None:
    """The split whose folder in data.yaml holds the sample."""
    return next((s for folder, s in splits.items() if sample_id.startswith(f"{folder}/")), None)


def _instance(
    line: Line, task: _Task, size: tuple[int, int], request: ReadRequest, names: LabelNames
) -> Instance:
    width, height = size
    if line.index not in task.names_of:
        known = ", ".join(f"{k}: {name}" for k, name in task.names_of.items())
        raise Problem(
            "UnknownClass", f"class index {line.index}; known: {known}", "add it to the names file"
        )
    label = names.resolve(task.names_of[line.index])
    wanted = NUMBERS.get(task.kind)
    if wanted is not None and len(line.values) != wanted:
        raise Problem(
            "FieldCount",
            f"{len(line.values)} numbers after the class, {wanted} are an object of {task.kind}",
            "write one object a line; of boxes and outlines mixed, give --format yolo-seg",
        )
    if len(line.values) == 4:
        cx, cy, w, h = line.values
        x, y = (cx - w / 2) * width, (cy - h / 2) * height
        box, cut = check_box(Box(x, y, x + w * width, y + h * height), width, height)
        return Instance(label, box, truncated=cut)
    points = np.array(line.values).reshape(-1, 2) * (width, height)
    if task.kind == "yolo-seg":
        box, cut, _ = check_outlines([points], width, height)
        mask = fill_outlines([[points]], width, height)[0]
        if mask is None:
            raise no_pixel()
        return Instance(label, box, mask=mask, truncated=cut, origin="polygon")
    quad, box, cut = check_quad(points.ravel().tolist(), width, height)
    faces = request.heading is True and not names.is_symmetric(label)
    return Instance(
        label, box, quad, heading_rad=heading_of(quad) if faces else None, truncated=cut
    )


def _read_boxes(request: ReadRequest) -> Dataset:
    return read_yolo(request)


def _read_obb(request: ReadRequest) -> Dataset:
    return read_yolo(request, "yolo-obb")


def _read_segments(request: ReadRequest) -> Dataset:
    return read_yolo(request, "yolo-seg")


def _detect(source: Source) -> Found | None:
    found = text_votes(source, "class indices and shares of the image", looks_like_yolo)
    if found is not None:
        return found
    if source.root.is_dir() or source.root.suffix.lower() in (".yaml", ".yml"):
        names = class_names(source.root)
        if names.source is not None:
            return Found(f"{names.source} lists class names", "text", -1)
    folder = empty_labels(source)
    if folder is not None and folder.startswith("label") and folder != "labelTxt":
        return Found(f"empty label files in {folder}", "text")
    return None


def _held_box(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    kept = things_only(instance, layout, classes)
    return None if kept is None else Instance(kept.label, kept.bounds())


def _held_corners(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """Corners must lie inside the image: a quad over the border is cut and fitted again."""
    kept = things_only(instance, layout, classes)
    if kept is None:
        return None
    box, quad, heading = kept.bounds(), kept.quad, None
    if quad is not None:
        quad = quad_inside(quad, kept.heading_rad, layout.width, layout.height)
    if quad is not None and kept.heading_rad is not None:
        # Cut and fitted again, it faces a little elsewhere.
        heading = kept.heading_rad if quad == kept.quad else heading_of(quad)
    if quad is None and box is not None:
        quad = box_quad(box.clip(layout.width, layout.height))
    if quad is None:
        return None
    return Instance(kept.label, bounds(quad), quad, heading_rad=heading)


def _held_outline(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    kept = things_only(instance, layout, classes)
    if kept is None:
        return None
    if kept.mask is not None:
        inside = kept.mask.window(0, 0, layout.width, layout.height)
        return None if inside is None else Instance(kept.label, inside.box, mask=inside)
    corners = _held_corners(kept, layout, classes)
    if corners is None or corners.quad is None:
        return None
    return Instance(kept.label, bounds(fillable(corners.quad, layout.width, layout.height)))


YOLO = Format(
    "yolo",
    "`data.yaml`, boxes in `labels/SPLIT/`, images in `images/SPLIT/`",
    _read_boxes,
    lambda _: YoloWriter("yolo"),
    _detect,
    Holds(_held_box),
    bare_is_empty=True,
)
YOLO_OBB = Format(
    "yolo-obb",
    "`data.yaml`, four corners in `labels/SPLIT/`, images in `images/SPLIT/`",
    _read_obb,
    lambda _: YoloWriter("yolo-obb"),
    holds=Holds(_held_corners),
    bare_is_empty=True,
)
YOLO_SEG = Format(
    "yolo-seg",
    "`data.yaml`, outlines in `labels/SPLIT/`, images in `images/SPLIT/`",
    _read_segments,
    lambda _: YoloWriter("yolo-seg"),
    holds=Holds(_held_outline),
    bare_is_empty=True,
)
