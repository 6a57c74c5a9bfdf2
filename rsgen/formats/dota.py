"""DOTA text labels: `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, one file an image.

Corners run clockwise and the first edge p1 -> p2 is the object's front. A set in which every
quad is upright says nothing about fronts: it is read as plain boxes (heading="auto").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rsgen.errors import UsageError
from rsgen.formats.checks import axis_aligned, check_quad, number
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
    WriteReport,
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
from rsgen.geometry import bounds, box_quad, heading_of, quad_from_tuple
from rsgen.hints import counted
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["ANNFILES", "FORMAT", "DotaWriter", "parse_line", "read_dota", "safe_class_name"]


@dataclass(frozen=True)
class _Line:
    number: int
    corners: tuple[float, ...]
    name: str
    difficult: bool


@dataclass
class _File:
    """A parsed label file: good lines, failed lines, header."""

    lines: list[_Line] = field(default_factory=list)
    problems: list[tuple[int, Problem]] = field(default_factory=list)
    gsd_m: float | None = None
    source: str | None = None


def safe_class_name(name: str) -> str:
    """A class name without white space, which would shift the fields."""
    return "-".join(name.split())


def parse_line(text: str) -> tuple[tuple[float, ...], str, bool]:
    """(eight coordinates, class, difficult) of a line with 9 or 10 fields.

    A class of several words is joined. Raises Problem: FieldCount, NotANumber, NotFinite,
    BadDifficulty.
    """
    fields = text.split()
    numeric = 0
    while numeric < min(8, len(fields)) and _is_number(fields[numeric]):
        numeric += 1
    if len(fields) < 9 or (numeric < 8 and len(fields) < 11):
        raise Problem(
            "FieldCount",
            f"{numeric} of 8 coordinates in {text.strip()[:60]!r}",
            "write x1 y1 x2 y2 x3 y3 x4 y4 class difficult",
        )
    corners = tuple(number(v, f"coordinate {k + 1}") for k, v in enumerate(fields[:8]))
    rest = fields[8:]
    difficulty = rest.pop() if len(rest) > 1 and _is_number(rest[-1]) else "0"
    if difficulty not in ("0", "1", "2"):
        raise Problem("BadDifficulty", f"difficult is {difficulty!r}", "write 0, 1 or 2")
    # Ten fields leave no doubt where the class stands: one called "7" is a class like others.
    if len(fields) != 10 and any(_is_number(word) for word in rest):
        raise Problem(
            "FieldCount",
            f"{len(fields)} fields in {text.strip()[:60]!r}, expected 9 or 10",
            "write x1 y1 x2 y2 x3 y3 x4 y4 class difficult",
        )
    return corners, " ".join(rest), difficulty != "0"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_file(path: Path) -> _File:
    """Parse one label file; NotUtf8 and Unreadable concern the whole file."""
    parsed = _File()
    for position, text in enumerate(read_lines(path), start=1):
        stripped = text.strip()
        head, _, value = stripped.partition(":")
        if not stripped:
            continue
        if head.lower() == "imagesource":
            parsed.source = value.strip() or None
        elif head.lower() == "gsd":
            parsed.gsd_m = _gsd(value)
        else:
            try:
                parsed.lines.append(_Line(position, *parse_line(stripped)))
            except Problem as problem:
                parsed.problems.append((position, problem))
    return parsed


def _gsd(text: str) -> float | None:
    """Metres a pixel; None for `null`, 0 and nonsense, as the official files have them."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def read_dota(request: ReadRequest) -> Dataset:
    """Read a DOTA folder (labelTxt or annfiles, with or without split folders).

    Axis-aligned sets give boxes alone. Otherwise each label has its quad, and its heading
    unless `heading` is False or the class is symmetric.
    """
    tally = Tally(image_root(request))
    names = LabelNames(request.classes, request.class_map)
    pairs = find_pairs(request, tally)
    parsed: list[tuple[Pair, _File]] = []
    for pair in pairs.found:
        if pair.labels is None:
            missing = Problem(
                "MissingLabels",
                "no label file for this image",
                "add one (empty when there is no object), or remove the image",
            )
            tally.image_failed(pairs.item(pair), missing)
            continue
        try:
            parsed.append((pair, _parse_file(pair.labels)))
        except Problem as problem:
            tally.image_failed(pairs.item(pair), problem)
    oriented = request.heading is True or any(
        not axis_aligned(quad_from_tuple(list(line.corners)))
        for _, file in parsed
        for line in file.lines
    )
    if not oriented and parsed:
        tally.notes.append("dota: every box is upright, read without headings")
    for pair, file in parsed:
        _keep(pair, file, pairs, oriented, names, tally)
    return tally.dataset("dota", names.table())


def _keep(
    pair: Pair, file: _File, pairs: Pairs, oriented: bool, names: LabelNames, tally: Tally
) -> None:
    request = pairs.request
    try:
        width, height = pairs.size(pair)
    except Problem as problem:
        total = len(file.lines) + len(file.problems)
        tally.image_failed(pairs.item(pair), problem, total)
        return
    for position, found in file.problems:
        tally.label_failed(pairs.item(pair, position), found)
    instances = []
    for line in file.lines:
        try:
            instances.append(_instance(line, width, height, oriented, request, names))
        except Problem as problem:
            tally.label_failed(pairs.item(pair, line.number), problem)
    sample_id = pairs.sample_id(pair)
    layout = Layout(width, height, paint_order(instances, names), request.gsd_m or file.gsd_m)
    tally.keep(
        Sample(
            sample_id,
            layout,
            None if pair.image is None else sample_id,
            attributes={} if file.source is None else {"imagesource": file.source},
            split=pairs.split(pair),
        ),
        labels=len(instances),
    )


def _instance(
    line: _Line, width: int, height: int, oriented: bool, request: ReadRequest, names: LabelNames
) -> Instance:
    label = names.resolve(line.name)
    quad, box, cut = check_quad(line.corners, width, height)
    faces = oriented and request.heading is not False and not names.is_symmetric(label)
    return Instance(
        label=label,
        box=box,
        quad=quad if oriented else None,
        heading_rad=heading_of(quad) if faces else None,
        truncated=cut,
        difficult=line.difficult,
    )


class DotaWriter:
    """`SPLIT/images/` and `SPLIT/labelTxt/`, with `imagesource:` and `gsd:` headers.

    `layout="annfiles"` writes `SPLIT/annfiles/` without headers, as training code of the
    mmrotate family reads it. Quads are written as they are, boxes as their four corners;
    masks are not carried. Stuff classes are left out and counted.
    """

    places_images = True

    def __init__(self, layout: Literal["labelTxt", "annfiles"] = "labelTxt") -> None:
        if layout not in ("labelTxt", "annfiles"):
            raise UsageError(f"DOTA layout {layout!r}", hint="choose labelTxt or annfiles")
        self.name = "dota" if layout == "labelTxt" else "dota-annfiles"
        self._folder = layout
        self._folders: tuple[str, ...] = ()
        self._images = self._labels = 0
        self._skipped: dict[str, int] = {}
        self._turned = self._frontless = 0
        self._names: dict[str, str | None] = {}

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._classes = out_dir, classes
        self._folders = tuple(f"{split}/{self._folder}" for split in splits)
        for split in splits:
            (out_dir / split / self._folder).mkdir(parents=True, exist_ok=True)
            (out_dir / split / "images").mkdir(parents=True, exist_ok=True)

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"{split}/images/{image_name}"

    def _class_name(self, label: str) -> str | None:
        """The name to write; None for a stuff class."""
        if label not in self._names:
            entry = self._classes.resolve(label)
            self._names[label] = None if entry.kind == "stuff" else safe_class_name(entry.name)
        return self._names[label]

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        lines = [] if self._folder == "annfiles" else self._header(sample)
        for instance in sample.layout.instances:
            name, box = self._class_name(instance.label), instance.bounds()
            quad = instance.quad or (None if box is None else box_quad(box))
            layout = sample.layout
            outside = box is None or box.clip(layout.width, layout.height).area <= 0
            if name is None or quad is None or outside:
                reason = "stuff class" if name is None else "outside the image"
                self._skipped[reason] = self._skipped.get(reason, 0) + 1
                continue
            self._turned += instance.quad is not None and not axis_aligned(instance.quad)
            front = (
                instance.heading_rad is not None or self._classes.resolve(instance.label).symmetric
            )
            self._frontless += not front
            corners = " ".join(_text(c) for point in quad for c in point)
            lines.append(f"{corners} {name} {int(instance.difficult)}")
            self._labels += 1
        target = self._out / split / self._folder / f"{Path(image_name).stem}.txt"
        target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._images += 1

    @staticmethod
    def _header(sample: Sample) -> list[str]:
        synthetic = "rsgen" if sample.provenance.kind == "synthetic" else "null"
        source = " ".join(sample.attributes.get("imagesource", synthetic).split())
        gsd_m = sample.layout.gsd_m
        return [f"imagesource:{source}", f"gsd:{'null' if gsd_m is None else repr(gsd_m)}"]

    def close(self) -> WriteReport:
        skipped, notes = dict(self._skipped), tuple[str, ...]()
        if self._turned and self._frontless:  # upright boxes alone are read without headings
            notes = (
                f"{counted(self._frontless, 'object')} without a known front: DOTA cannot say so, "
                "and readers take the first edge for it",
            )
        return WriteReport(self._folders, self._images, self._labels, skipped, notes)

    def abort(self) -> None:
        """Nothing is open between samples."""


def _text(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _detect(source: Source) -> Found | None:
    found = text_votes(source, "eight coordinates and a class name", _is_label)
    if found is not None:
        return found
    folder = empty_labels(source)
    if folder is None or (folder.startswith("label") and folder != "labelTxt"):
        return None
    return Found(f"empty label files in {folder}", "text")


def _is_label(line: str) -> bool:
    if line.lower().startswith(("imagesource:", "gsd:")):
        return True
    try:
        parse_line(line)
    except Problem:
        return False
    return True


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    kept = things_only(instance, layout, classes)
    if kept is None:
        return None
    if kept.quad is None:  # written as an upright box, which has no front
        return Instance(kept.label, kept.bounds(), difficult=kept.difficult)
    return Instance(
        kept.label,
        bounds(kept.quad),
        kept.quad,
        heading_rad=kept.heading_rad,
        difficult=kept.difficult,
    )


FORMAT = Format(
    "dota",
    "`SPLIT/labelTxt/*.txt` beside `SPLIT/images/`; the first edge of a quad is the object's front "
    "where its heading is known",
    read_dota,
    lambda _: DotaWriter(),
    _detect,
    Holds(_held, frozenset({"gsd_m"}), frozenset({"imagesource"})),
)
ANNFILES = Format(
    "dota-annfiles",
    "`SPLIT/annfiles/*.txt` without headers beside `SPLIT/images/`, as mmrotate reads them",
    read_dota,
    lambda _: DotaWriter("annfiles"),
    holds=Holds(_held),
)
