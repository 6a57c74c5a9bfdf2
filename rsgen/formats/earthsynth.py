"""EarthSynth-180K: images/, masks/ of class indices, and train.jsonl of both row kinds.

A full row has file_name, mask_name, text and category_masks; a single-category row has the
first three, a mask of one class and (upstream) a copy of the whole image. A single row whose
full row is there adds its text alone: its pixels are not read a second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from rsgen.classes import load_class_table, load_legend
from rsgen.errors import DataError
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
    split_of_path,
)
from rsgen.formats.earthsynth_write import TABLE, EarthSynthWriter, earth_name, held_shape
from rsgen.formats.files import list_files, relative, safe_relative, size_of
from rsgen.formats.mask_pixels import read_mask
from rsgen.formats.masks import TOUCHING, masked_sample, same_classes
from rsgen.formats.names import LabelNames
from rsgen.formats.pairs import image_root, label_base
from rsgen.legend import Legend
from rsgen.records import ClassTable, Layout, Provenance, Sample

__all__ = ["FORMAT", "read_earthsynth"]

FOLDERS = ("images", "masks", "category_images", "category_masks")


@dataclass
class _Row:
    """A row of train.jsonl; paths start with one of FOLDERS."""

    item: str
    image: str
    mask: str
    text: str | None
    views: list[str] = field(default_factory=list)  # its category masks
    texts: dict[str, str] = field(default_factory=dict)  # class -> text of a single row
    parent: str | None = None

    @property
    def is_single(self) -> bool:
        return self.mask.startswith("category_masks/")


def read_earthsynth(request: ReadRequest) -> Dataset:
    """Read `*.jsonl` of a folder and the masks it names; prompts are the rows' texts."""
    base = label_base(request)
    root = image_root(request)
    if request.labels is not None and request.labels.is_file():
        files = [request.labels]
    else:
        files = [request.path] if request.path.is_file() else list_files(base, {".jsonl"})
        root = root if root.is_dir() else root.parent
    if not files:
        raise DataError(f"{base}: no .jsonl file", hint="point at the folder of train.jsonl")
    tally = Tally(root)
    legend = load_legend(TABLE)
    assert legend is not None
    names = LabelNames(request.classes, request.class_map)
    if request.classes is None:
        names.declare_table(legend.table)
    for file in files:
        for row in _rows(file, base, tally):
            try:
                _read(row, file, request, root, legend, names, tally)
            except Problem as problem:
                tally.image_failed(row.item, problem)
    if any(i.box is not None for s in tally.records for i in s.layout.instances):
        tally.notes.append(TOUCHING)
    return tally.dataset("earthsynth-180k", names.table(in_order=True))


# ---------------------------------------------------------------- rows


def _rows(file: Path, base: Path, tally: Tally) -> list[_Row]:
    """Full rows with the texts of their single ones, and single rows without a full one."""
    full: dict[str, _Row] = {}
    single: dict[str, _Row] = {}
    for item, data in _lines(file, relative(file, base), tally):
        try:
            row = _row(item, data)
        except Problem as problem:
            tally.image_failed(item, problem)
            continue
        known = single if row.is_single else full
        if row.mask in known:
            # The tool that writes these files adds every row again when it is run again.
            tally.remark("rows of train.jsonl that stand there twice, read once")
            continue
        known[row.mask] = row
    owner = {view: row for row in full.values() for view in row.views}
    alone = []
    for row in single.values():
        stem, label = _view_of(row.mask)
        parent = owner.get(row.mask) or full.get(f"masks/{stem}.png")
        if parent is None:
            row.parent = f"images/{stem}"
            alone.append(row)
            continue
        tally.remark("single-category rows joined with their image: its text is kept")
        if row.text is not None:
            parent.texts[label] = row.text
    return [*full.values(), *alone]


def _lines(file: Path, where: str, tally: Tally) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open("rb") as handle:
        for position, raw in enumerate(handle, start=1):
            item = f"{where}:{position}"
            try:
                text = raw.decode("utf-8-sig" if position == 1 else "utf-8").strip()
                data = json.loads(text) if text else None
                if data is not None and not isinstance(data, dict):
                    raise ValueError("no object")
            except (ValueError, RecursionError) as error:
                problem = Problem("BadJson", f"not valid JSON ({error})", "write the line anew")
                tally.image_failed(item, problem)
                continue
            if data is not None:
                yield item, data


def _row(item: str, data: dict[str, Any]) -> _Row:
    paths = []
    for key in ("file_name", "mask_name"):
        if not isinstance(data.get(key), str):
            raise Problem("MissingField", f"no {key!r}", "name the image and its mask")
        paths.append(_tail(data[key]))
    views = data.get("category_masks") or []
    if not isinstance(views, list) or not all(isinstance(v, str) for v in views):
        raise Problem("BadRecord", f"category_masks is {views!r}", "write a list of paths")
    text = data.get("text")
    return _Row(
        item,
        paths[0],
        paths[1],
        text.strip() or None if isinstance(text, str) else None,
        [_tail(view) for view in views],
    )


def _tail(path: str) -> str:
    """The path from its last folder of FOLDERS on: upstream writes it relative to where its
    tool was started, not to the file."""
    parts = PurePosixPath(path.strip().replace("\\", "/")).parts
    at = [k for k, part in enumerate(parts[:-1]) if part in FOLDERS]
    return safe_relative("/".join(parts[at[-1] :]) if at else path)


@cache
def _suffixes() -> list[tuple[str, str]]:
    names = load_class_table(TABLE).names
    found = [("_" + name.replace(" ", "_"), name) for name in names]
    return sorted(found, key=lambda pair: -len(pair[0]))


def _view_of(mask: str) -> tuple[str, str]:
    """(stem of the image, class) of `category_masks/<stem>_<class>.png`."""
    stem = PurePosixPath(mask).stem
    for ending, name in _suffixes():
        if stem.endswith(ending):
            return stem.removesuffix(ending), name
    return stem, ""


# ---------------------------------------------------------------- samples


def _read(
    row: _Row,
    file: Path,
    request: ReadRequest,
    root: Path,
    legend: Legend,
    names: LabelNames,
    tally: Tally,
) -> None:
    folder = file.parent
    image = _image(row, folder, request)
    item = relative(folder / row.mask, label_base(request))
    mask = read_mask(folder / row.mask, item, request.max_pixels)
    name = relative(image or folder / row.image, root)
    size = mask.size if image is None else size_of(image, name, request.max_pixels)
    if row.is_single and not row.image.startswith("category_images/"):
        name_of_sample = f"{name}#{_view_of(row.mask)[1]}"
    else:
        name_of_sample = name
    sample = Sample(
        name_of_sample,
        Layout(*size, gsd_m=request.gsd_m),
        None if image is None else name,
        prompt=row.text,
        attributes={f"prompt of {label}": text for label, text in sorted(row.texts.items())},
        split=split_of_path(relative(file, label_base(request)))
        or split_of_path(PurePosixPath(name).parent.as_posix()),
        provenance=Provenance("real", parent=row.parent),
    )
    masked_sample(sample, mask, item, legend, names, request, tally)


def _image(row: _Row, folder: Path, request: ReadRequest) -> Path | None:
    """The image's file; None where it is absent and not needed."""
    places = [folder / row.image]
    if request.images is not None:
        places.insert(0, request.images / PurePosixPath(row.image).name)
    for place in places:
        if place.is_file():
            return place
    if request.require_images:
        raise Problem("MissingImage", f"no image {row.image!r}", "copy it there, or drop the row")
    return None


def _detect(source: Source) -> Found | None:
    for file in source.files(".jsonl")[:5]:
        with file.open("rb") as handle:
            line = handle.readline(1 << 20)
        if line.lstrip().startswith(b"{") and b'"mask_name"' in line and b'"file_name"' in line:
            return Found(f"{relative(file, source.base)} names images and masks", "masks", 2)
    return None


def _compare(wanted: Sample, read: Sample, classes: ClassTable) -> str | None:
    if wanted.prompt is not None and wanted.prompt.strip() != (read.prompt or ""):
        return f"prompt {read.prompt!r}, expected {wanted.prompt!r}"
    table = load_class_table(TABLE)
    ours, theirs = (_renamed(s, classes) for s in (wanted, read))
    return same_classes(ours, theirs, table)


def _renamed(sample: Sample, classes: ClassTable) -> Sample:
    """The sample with EarthSynth's class names."""
    instances = [
        replace(i, label=earth_name(i.label, classes) or i.label) for i in sample.layout.instances
    ]
    return replace(sample, layout=replace(sample.layout, instances=tuple(instances)))


FORMAT = Format(
    "earthsynth-180k",
    "`SPLIT/images`, `SPLIT/masks` of EarthSynth's class indices, `SPLIT/SPLIT.jsonl` with a row "
    "an image and a row a class of it (`SPLIT/category_masks`)",
    read_earthsynth,
    lambda _: EarthSynthWriter(),
    _detect,
    Holds(held_shape, frozenset({"prompt"})),
    _compare,
)
