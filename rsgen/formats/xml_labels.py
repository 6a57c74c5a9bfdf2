"""What the XML formats share: one file an image, `object` elements, lists of splits.

A format says with `Dialect` how an object element is read. Where a dataset holds the same
labels twice (upright boxes in one folder, oriented ones in another), a format reads the folders
of its own kind. VOC counts pixels from 1 and its xmax is still inside, so a box covers the edges
[xmin - 1, xmax); tools that write edges from 0 are told by their zeros (see `zero_based`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from rsgen.formats.checks import check_box, check_quad, check_size, number
from rsgen.formats.common import SPLITS, Dataset, Found, Problem, ReadRequest, Source, Tally
from rsgen.formats.files import list_files, relative
from rsgen.formats.names import LabelNames, paint_order
from rsgen.formats.pairs import Pair, Pairs, find_pairs, image_root, label_base
from rsgen.formats.xml_tree import Node, parse_xml
from rsgen.geometry import Box, RotatedBox, rotated_box_to_quad
from rsgen.images import IMAGE_SUFFIXES
from rsgen.records import Instance, Layout, Sample

__all__ = [
    "Dialect",
    "Form",
    "Head",
    "Label",
    "flag",
    "read_xml",
    "required",
    "rotated_corners",
    "xml_votes",
    "zero_based",
]

Form = Literal["box", "corners", "rotated"]

LOOKED_AT_FOLDERS, LOOKED_AT_FILES = 20, 10
LISTS_OF_OTHER_TASKS = {"layout", "segmentation", "action"}
FALSE = {"", "0", "0.0", "false", "no", "none", "unspecified"}


@dataclass(frozen=True, slots=True)
class Label:
    """One object as it stands in the file.

    values: xmin ymin xmax ymax as written for a box, else eight corner coordinates in pixels.
    names: what may name its class; the first that the class table or map knows is meant, else
        the last.
    """

    form: Form
    values: tuple[float, ...]
    names: tuple[str, ...]
    heading_rad: float | None = None
    truncated: bool = False
    difficult: bool = False
    occluded: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says of its image; None where it says nothing."""

    image: str | None = None
    width: str | None = None
    height: str | None = None
    gsd_m: float | None = None


@dataclass(frozen=True)
class Dialect:
    """How one XML format is read.

    root: the root element's tag. own: the forms of object that are its own; files of others
    are left alone where they lie apart. objects, head, label: what the tree says; `label`
    raises Problem.
    """

    name: str
    root: str
    own: frozenset[Form]
    objects: Callable[[Node], Iterable[Node]]
    head: Callable[[Node], Head]
    label: Callable[[Node], Label]


@dataclass
class _File:
    """A parsed label file: objects by (number from 1, line), good or not."""

    path: Path
    head: Head = field(default_factory=Head)
    labels: list[tuple[int, int, Label]] = field(default_factory=list)
    problems: list[tuple[int, int, Problem]] = field(default_factory=list)
    unreadable: Problem | None = None

    @property
    def forms(self) -> set[Form]:
        return {label.form for _, _, label in self.labels}


def flag(node: Node, tag: str) -> bool:
    """Whether a mark such as `difficult` is set: 1, true, yes."""
    return (node.value(tag) or "").lower() not in FALSE


def required(node: Node, *tags: str) -> tuple[float, ...]:
    """Numbers of child elements.

    Raises:
        Problem: MissingField, NotANumber or NotFinite.
    """
    missing = [tag for tag in tags if node.value(tag) is None]
    if missing:
        raise Problem(
            "MissingField", f"<{node.tag}> has no {', '.join(missing)}", "write all of its numbers"
        )
    return tuple(number(node.value(tag), tag) for tag in tags)


def rotated_corners(numbers: Sequence[float]) -> tuple[float, ...]:
    """Corners of cx, cy, w, h, angle (radians, turning from +x toward +y: clockwise on screen).

    Raises:
        Problem: ZeroArea, or NotRadians for an angle beyond a full turn.
    """
    cx, cy, w, h, angle = numbers
    if w <= 0 or h <= 0:
        raise Problem("ZeroArea", f"box of {w:g} x {h:g} pixels", "remove it or redraw it")
    if abs(angle) > 2 * math.pi + 0.01:
        raise Problem("NotRadians", f"angle {angle:g}", "write the angle in radians")
    quad = rotated_box_to_quad(RotatedBox(cx, cy, w, h, angle))
    return tuple(value for point in quad for value in point)


def _parse(path: Path, dialect: Dialect) -> _File | None:
    """The file's labels; None when it is XML of another kind."""
    found = _File(path)
    try:
        root = parse_xml(path)
    except Problem as problem:
        found.unreadable = problem
        return found
    if root.tag != dialect.root:
        return None
    found.head = dialect.head(root)
    for place, node in enumerate(dialect.objects(root), start=1):
        try:
            found.labels.append((place, node.line, dialect.label(node)))
        except Problem as problem:
            found.problems.append((place, node.line, problem))
    return found


def _xml_files(source: Path) -> list[Path]:
    """XML files, without the sidecars that GDAL writes beside rasters."""
    if source.is_file():
        return [source] if source.suffix.lower() == ".xml" else []
    return [f for f in list_files(source, {".xml"}) if not f.name.lower().endswith(".aux.xml")]


def read_xml(request: ReadRequest, dialect: Dialect) -> Dataset:
    """Read a folder of XML labels; see `FormatReader`."""
    tally = Tally(image_root(request))
    names = LabelNames(request.classes, request.class_map)
    base = label_base(request)
    files = _of_own_kind(_all_files(request, dialect, tally), base, dialect, tally)
    named = {f.path: _stem(f.head.image) for f in files if f.head.image is not None}
    pairs = find_pairs(request, tally, [f.path for f in files], named)
    parsed = {f.path: f for f in files}
    boxes = [lb.values for f in files for _, _, lb in f.labels if lb.form == "box"]
    from_zero = zero_based(boxes) if request.voc_base == "auto" else request.voc_base == 0
    if from_zero and request.voc_base == "auto":
        tally.notes.append(
            f"{dialect.name}: boxes start at 0, read as pixel edges and not as VOC's pixels from 1 "
            "(-s extract_masks.voc_base=1 reads them so)"
        )
    splits = _split_lists(request, tally)
    for pair in pairs.found:
        if pair.labels is None and (request.labels or request.path).is_file():
            continue  # one label file was asked for, not its neighbours' images
        if pair.labels is None:
            missing = Problem(
                "MissingLabels",
                "no label file for this image",
                "add one (without objects when there is none), or remove the image",
            )
            tally.image_failed(pairs.item(pair), missing)
            continue
        _keep(pair, parsed[pair.labels], pairs, from_zero, splits, names, tally)
    return tally.dataset(dialect.name, names.table())


def _all_files(request: ReadRequest, dialect: Dialect, tally: Tally) -> list[_File]:
    found = []
    others = 0
    for path in _xml_files(request.labels or request.path):
        file = _parse(path, dialect)
        others += file is None
        if file is not None:
            found.append(file)
    if others:
        tally.notes.append(f"{others} XML files without <{dialect.root}> left alone")
    return found


def _of_own_kind(files: list[_File], base: Path, dialect: Dialect, tally: Tally) -> list[_File]:
    """Without folders that hold labels of other kinds alone, where others hold the own kind."""
    own = {f.path.parent for f in files if f.forms & dialect.own}
    alien = {f.path.parent for f in files if f.forms - dialect.own} - own
    if not own or not alien:
        return files
    listed = ", ".join(sorted(relative(folder, base) for folder in alien))
    tally.notes.append(f"{dialect.name}: labels of another kind in {listed} left alone")
    return [f for f in files if f.path.parent not in alien]


def _stem(name: str) -> str:
    """An image's name without folders and without an image's suffix."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def zero_based(boxes: Iterable[Sequence[float]]) -> bool:
    """Whether boxes are edges counted from 0, not VOC's pixels counted from 1.

    An object at the border has xmin or ymin 0 in the one, 1 in the other: the more frequent
    decides, so that one slip in a large set does not move all. Without either it is VOC's.
    """
    found = Counter(value for box in boxes for value in box[:2] if value in (0, 1))
    return found[0] > 0 and found[0] >= found[1]


def _split_lists(request: ReadRequest, tally: Tally) -> dict[str, str]:
    """Stem -> split from ImageSets/**/{train,val,test}.txt; the part held out most wins."""
    lists: dict[str, list[Path]] = {}
    for base in dict.fromkeys([image_root(request), label_base(request), request.path]):
        for file in list_files(base, {".txt"}):
            folders = [part.lower() for part in file.relative_to(base).parts[:-1]]
            if "imagesets" in folders and folders[-1] not in LISTS_OF_OTHER_TASKS:
                lists.setdefault(SPLITS.get(file.stem.lower(), file.stem.lower()), []).append(file)
        if lists:
            break
    if "train" not in lists and "val" not in lists and "trainval" in lists:
        lists["train"] = lists["trainval"]
    found: dict[str, str] = {}
    repeated = set()
    for split in ("test", "val", "train"):
        for file in lists.get(split, []):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                stem = _stem(line.split()[0]) if line.strip() else ""
                if stem and found.setdefault(stem, split) != split:
                    repeated.add(stem)
    if repeated:
        tally.notes.append(
            f"{len(repeated)} images are listed in several splits, such as {min(repeated)!r}: "
            "test goes before val, val before train"
        )
    return found


def _size(pair: Pair, head: Head, pairs: Pairs, tally: Tally) -> tuple[int, int]:
    """The image's size, checked against what the file declares.

    Raises:
        Problem: MissingImage, WrongSize, BadSize, TooManyPixels, or a bad image.
    """
    declared = None
    if head.width is not None and head.height is not None:
        if head.width == head.height == "0":
            tally.remark("a declared size of 0 x 0 was passed over")
        else:
            declared = check_size(head.width, head.height, pairs.request.max_pixels)
    if pair.image is None and declared is not None and not pairs.request.require_images:
        return declared
    size = pairs.size(pair)
    if declared is not None and declared != size:
        raise Problem(
            "WrongSize",
            f"declared {declared[0]} x {declared[1]}, the image is {size[0]} x {size[1]}",
            "use the images that were annotated, or correct <size>",
        )
    return size


def _keep(
    pair: Pair,
    file: _File,
    pairs: Pairs,
    from_zero: bool,
    splits: dict[str, str],
    names: LabelNames,
    tally: Tally,
) -> None:
    request, item = pairs.request, pairs.item(pair)
    try:
        if file.unreadable is not None:
            raise file.unreadable
        width, height = _size(pair, file.head, pairs, tally)
    except Problem as problem:
        tally.image_failed(item, problem, len(file.labels) + len(file.problems))
        return
    if pair.image is not None and file.head.image and _stem(file.head.image) != pair.image.stem:
        tally.remark("a file names another image than the one that is called like it")
    for place, line, found in file.problems:
        tally.label_failed(f"{item}:{line} object {place}", found)
    instances = []
    for place, line, label in file.labels:
        try:
            instances.append(_instance(label, width, height, from_zero, names, request))
        except Problem as problem:
            tally.label_failed(f"{item}:{line} object {place}", problem)
    sample_id = pairs.sample_id(pair)
    gsd_m = request.gsd_m or file.head.gsd_m
    stem = PurePosixPath(pair.key).name
    split = splits.get(stem) or splits.get(file.path.stem) or pairs.split(pair)
    tally.keep(
        Sample(
            sample_id,
            Layout(width, height, paint_order(instances, names), gsd_m),
            None if pair.image is None else sample_id,
            split=split,
        ),
        labels=len(instances),
    )


def _instance(
    label: Label,
    width: int,
    height: int,
    from_zero: bool,
    names: LabelNames,
    request: ReadRequest,
) -> Instance:
    name = names.resolve_first(label.names)
    heading, quad = None, None
    if label.form == "box":
        x0, y0, x1, y1 = label.values
        shift = 0 if from_zero else 1
        box, cut = check_box(Box(x0 - shift, y0 - shift, x1, y1), width, height)
    else:
        quad, box, cut = check_quad(label.values, width, height)
        if not names.is_symmetric(name) and request.heading is not False:
            heading = label.heading_rad
    return Instance(
        label=name,
        box=box,
        quad=quad,
        heading_rad=heading,
        attributes={"occluded": "1"} if label.occluded else {},
        truncated=label.truncated or cut,
        difficult=label.difficult,
    )


def xml_votes(source: Source, dialect: Dialect, what: str) -> Found | None:
    """What speaks for an XML format: label files with objects of its own kind.

    A few files of each folder are looked at. Upright boxes have no vote where there are
    oriented ones too, since those say more; nor have files without any object.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in _xml_files(source.root):
        by_folder.setdefault(path.parent, []).append(path)
    chosen = [
        f for fs in list(by_folder.values())[:LOOKED_AT_FOLDERS] for f in fs[:LOOKED_AT_FILES]
    ]
    parsed = [f for f in (_parse(path, dialect) for path in chosen) if f is not None]
    parsed = [f for f in parsed if f.unreadable is None]
    own = [f for f in parsed if f.forms & dialect.own]
    empty = [f for f in parsed if not f.labels] if "box" in dialect.own else []
    if not own and not empty:
        return None
    first = relative((own or empty)[0].path, source.base)
    if not own:
        return Found(f"{first} has no object", "xml", 0)
    outdone = any(f.forms - dialect.own for f in parsed) and dialect.own == {"box"}
    return Found(f"{first} has {what}", "xml", 0 if outdone else len(own))
