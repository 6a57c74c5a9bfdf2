"""YOLO text labels: boxes, oriented boxes (four corners) and segments; class indices from 0.

A line is `class cx cy w h`, `class x1 y1 .. x4 y4` or `class x1 y1 x2 y2 ...`, all coordinates
divided by the image's width and height. Names come from data.yaml or classes.txt.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from rsgen.errors import DataError
from rsgen.formats.atlas import fill_outlines
from rsgen.formats.checks import (
    check_box,
    check_outlines,
    check_quad,
    no_pixel,
    number,
    quad_inside,
)
from rsgen.formats.common import (
    SPLITS,
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
from rsgen.formats.files import read_lines
from rsgen.formats.names import LabelNames, paint_order
from rsgen.formats.pairs import (
    Pair,
    Pairs,
    empty_labels,
    find_pairs,
    image_root,
    text_votes,
)
from rsgen.formats.yolo_write import YoloWriter, fillable
from rsgen.geometry import Box, bounds, box_quad, heading_of
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = [
    "YOLO",
    "YOLO_OBB",
    "YOLO_SEG",
    "ClassNames",
    "class_names",
    "looks_like_yolo",
    "read_yolo",
]

Kind = Literal["yolo", "yolo-obb", "yolo-seg"]
NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "names.txt")
NUMBERS = {"yolo": 4, "yolo-obb": 8}  # of an object, after its class
MOSTLY = 0.9
REACH = 2.0  # normalised coordinates far outside [0, 1] are pixels or damage


@dataclass(frozen=True)
class ClassNames:
    """Names by index, where they came from, and folders that the file calls splits."""

    names: dict[int, str]
    source: str | None
    splits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Line:
    number: int
    index: int
    values: tuple[float, ...]


@dataclass
class _File:
    lines: list[_Line] = field(default_factory=list)
    problems: list[tuple[int, Problem]] = field(default_factory=list)


def class_names(path: Path) -> ClassNames:
    """Names for a dataset folder (or a data.yaml): data.yaml first, then classes.txt.

    Raises:
        DataError: a names file that cannot be understood, with its place.
    """
    folder = path if path.is_dir() else path.parent
    yamls = [path] if path.is_file() else sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    for file in yamls:
        if file.suffix.lower() in (".yaml", ".yml"):
            found = _from_yaml(file)
            if found is not None:
                return found
    for name in NAME_FILES:
        file = folder / name
        if file.is_file():
            try:
                lines = [line.strip() for line in read_lines(file)]
            except Problem as problem:
                raise DataError(f"{name}: {problem.message}", hint=problem.fix) from problem
            while lines and not lines[-1]:
                lines.pop()
            return ClassNames(dict(enumerate(lines)), name)
    return ClassNames({}, None)


def _from_yaml(file: Path) -> ClassNames | None:
    """The names of a data.yaml; None when it is some other YAML file."""
    try:
        document = yaml.safe_load("\n".join(read_lines(file)))
    except Problem as problem:
        raise DataError(f"{file.name}: {problem.message}", hint=problem.fix) from problem
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise DataError(
            f"{file.name}{line}: not valid YAML",
            hint="correct it, or give the names in extract-masks --classes",
        ) from error
    if not isinstance(document, dict) or "names" not in document:
        return None
    raw = document["names"]
    pairs = dict(enumerate(raw)) if isinstance(raw, list) else raw
    if not isinstance(pairs, dict) or not all(isinstance(k, int) and k >= 0 for k in pairs):
        raise DataError(
            f"{file.name}: names is no list and no index: name mapping", hint="correct it"
        )
    if not all(isinstance(name, str | int | float) for name in pairs.values()):
        raise DataError(f"{file.name}: a name is no text", hint="write one name an index")
    if isinstance(document.get("nc"), int) and document["nc"] != len(pairs):
        raise DataError(
            f"{file.name}: nc is {document['nc']}, but there are {len(pairs)} names",
            hint="make them agree",
        )
    splits: dict[str, str] = {}
    for key, split in SPLITS.items():
        entries = document.get(key)
        for entry in entries if isinstance(entries, list) else [entries]:
            # Only the tail counts: `path:` and leading `../` belong to another machine.
            if isinstance(entry, str):
                parts = [p for p in entry.replace("\\", "/").split("/") if p not in ("", ".", "..")]
                splits["/".join(parts)] = split
    return ClassNames({k: str(v) for k, v in pairs.items()}, file.name, splits)


def _parse_line(text: str) -> tuple[int, tuple[float, ...]]:
    """(class index, normalised values) of a line of 5, 9 or more fields."""
    fields = text.split()
    count = len(fields) - 1
    if count != 4 and (count < 6 or count % 2):
        raise Problem(
            "FieldCount",
            f"{count} numbers after the class in {text.strip()[:60]!r}",
            "write 4 numbers for a box, 8 for an oriented box, x y pairs for an outline",
        )
    index = number(fields[0], "class")
    if index != int(index) or index < 0:
        raise Problem("UnknownClass", f"class index {fields[0]!r}", "write a whole number from 0")
    values = tuple(number(v, f"number {k + 1}") for k, v in enumerate(fields[1:]))
    far = [v for v in values if abs(v) > REACH]
    if far:
        raise Problem(
            "NotNormalised",
            f"{far[0]:g} is no share of the image",
            "divide x by the width and y by the height",
        )
    return int(index), values


def looks_like_yolo(line: str) -> bool:
    """Whether a line is an index and normalised numbers."""
    try:
        _parse_line(line)
    except Problem:
        return False
    return True


def _parse_file(path: Path) -> _File:
    parsed = _File()
    for position, text in enumerate(read_lines(path), start=1):
        if not text.strip():
            continue
        try:
            parsed.lines.append(_Line(position, *_parse_line(text)))
        except Problem as problem:
            parsed.problems.append((position, problem))
    return parsed


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
    parsed: list[tuple[Pair, _File]] = []
    bare = 0
    for pair in pairs.found:
        if pair.labels is None:
            bare += 1
            parsed.append((pair, _File()))
            continue
        try:
            parsed.append((pair, _parse_file(pair.labels)))
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
    lines: list[_Line],
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
    file: _File
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
    line: _Line, task: _Task, size: tuple[int, int], request: ReadRequest, names: LabelNames
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
