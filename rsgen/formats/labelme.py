"""labelme JSON, one file an image: outlines that people draw and correct by hand.

What is written opens in labelme as it is (`labelme FOLDER/train --labels FOLDER/labels.txt`):
masks are polygons of few points, oriented boxes oriented rectangles, boxes rectangles. Beside
labelme's own keys, which it keeps when it saves: `sampleId` and `gsd_m` of the image, `heading`
(radians) and `attributes` of a shape; its flags `difficult`, `truncated` and `iscrowd`, and its
description (the caption). Shapes that share label and group_id are one object.

Source: labelme 5 and 6 (github.com/wkentaro/labelme), and the shape types that X-AnyLabeling
adds (rotation, rectangles of four points).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from rsgen.errors import DataError
from rsgen.formats.atlas import fill_outlines
from rsgen.formats.checks import check_size, no_pixel
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    SafeNames,
    Source,
    Tally,
    WriteOptions,
    split_of_path,
)
from rsgen.formats.files import list_files, read_lines, relative, safe_relative, size_of
from rsgen.formats.labelme_shapes import shapes_as_instance
from rsgen.formats.labelme_write import LabelmeWriter, labelme_holds
from rsgen.formats.names import LabelNames, paint_order
from rsgen.geometry import Array
from rsgen.images import IMAGE_SUFFIXES
from rsgen.records import Instance, Layout, Sample

__all__ = ["FORMAT", "looks_like_labelme", "read_labelme"]

END_BYTES = 1 << 16
NO_CLASS = frozenset({"__ignore__", "_background_"})


def looks_like_labelme(path: Path) -> bool:
    """Whether a JSON file has labelme's keys near its ends (pixels may be embedded between)."""
    with path.open("rb") as handle:
        text = handle.read(END_BYTES)
        length = handle.seek(0, 2)
        handle.seek(max(0, length - END_BYTES))
        text += handle.read()
    of_image = any(f'"{key}"'.encode() in text for key in ("imagePath", "imageHeight"))
    return text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and b'"shapes"' in text and of_image


def detect_labelme(source: Source) -> Found | None:
    """labelme files under the source."""
    found = [f for f in source.files(".json") if looks_like_labelme(f)]
    if not found:
        return None
    first = relative(found[0], source.base)
    return Found(
        f"{first} has shapes and imagePath ({len(found)} such files)", "labelme", len(found)
    )


def read_labelme(request: ReadRequest) -> Dataset:
    """Read labelme files; see `FormatReader`. Images without a file are not labelled: left out."""
    source = request.labels or request.path
    base = source if source.is_dir() else source.parent
    root = request.images or (request.path if request.path.is_dir() else request.path.parent)
    tally = Tally(root)
    names = LabelNames(request.classes, request.class_map)
    listed = _declare(base / "labels.txt", names)
    images = _Images(root, base, request)
    readers: dict[str, str] = {}
    foreign = 0
    for file in [source] if source.is_file() else list_files(base, {".json"}):
        where = relative(file, base)
        if not (source.is_file() or looks_like_labelme(file) or images.beside(file)):
            foreign += 1
            continue
        _read_file(file, where, images, names, tally, readers)
    if foreign:
        tally.notes.append(f"{foreign} JSON files that are none of labelme's were left alone")
    return tally.dataset("labelme", names.table(in_order=listed))


def _declare(path: Path, names: LabelNames) -> bool:
    """Give the classes of labels.txt their order; whether there is one."""
    if not path.is_file():
        return False
    try:
        lines = [line.strip() for line in read_lines(path)]
    except Problem as problem:
        raise DataError(f"{path.name}: {problem.message}", hint=problem.fix) from problem
    for line in lines:
        if line and line not in NO_CLASS:
            names.declare(line)
    return True


class _Images:
    """Where the image of a labelme file lies, and its size."""

    def __init__(self, root: Path, base: Path, request: ReadRequest) -> None:
        self._root, self._base, self._request = root, base, request
        self._by_name: dict[str, list[Path]] | None = None

    @property
    def gsd_m(self) -> float | None:
        """Metres a pixel that were asked for."""
        return self._request.gsd_m

    def beside(self, file: Path) -> bool:
        """Whether an image of the file's name lies beside it."""
        return any(file.with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES)

    def _candidates(self, file: Path, name: str) -> list[str]:
        """Paths under the root that a label file's imagePath may mean, the likeliest first.

        labelme writes it relative to the label file; absolute ones, and those that lead out of
        the data set, are good for the file name alone.
        """
        folder = PurePosixPath(relative(file, self._base)).parent
        last = PurePosixPath(name).name
        texts = [f"{folder}/{name}", name, f"{folder}/{last}", last]
        if name.startswith("/") or name[1:2] == ":":
            texts = texts[2:]
        found: list[str] = []
        for text in texts:
            try:
                found.append(safe_relative(text))
            except Problem:
                continue
        return list(dict.fromkeys(found))

    def find(self, file: Path, record: Mapping[str, Any]) -> tuple[str, str | None, int, int]:
        """(id, image path or None, width, height) of a label file's image.

        Raises:
            Problem: MissingField, PathEscape, MissingImage, WrongSize, or what is wrong with it.
        """
        name = record.get("imagePath")
        if not isinstance(name, str) or not name.strip():
            raise Problem("MissingField", "no imagePath", "write the image's file name")
        candidates = self._candidates(file, name.strip().replace("\\", "/"))
        if not candidates:
            raise Problem("PathEscape", f"the path {name!r} is no file name", "write the file name")
        declared = None
        if record.get("imageWidth") is not None or record.get("imageHeight") is not None:
            declared = check_size(
                record.get("imageWidth"), record.get("imageHeight"), self._request.max_pixels
            )
        path = self._existing(candidates)
        if path is None:
            return self._without_image(candidates, declared)
        inside = relative(path, self._root)
        size = size_of(path, inside, self._request.max_pixels)
        if declared is not None and declared != size:
            raise Problem(
                "WrongSize",
                f"drawn on {declared[0]} x {declared[1]} pixels, {inside} is {size[0]} x {size[1]}",
                "use the image that was drawn on, or draw the shapes again",
            )
        return inside, inside, *size

    def _existing(self, candidates: Sequence[str]) -> Path | None:
        for name in candidates:
            if (self._root / name).is_file():
                return self._root / name
        if self._by_name is None:
            self._by_name = {}
            for path in list_files(self._root, IMAGE_SUFFIXES):
                self._by_name.setdefault(path.name, []).append(path)
        found = self._by_name.get(PurePosixPath(candidates[0]).name, [])
        return found[0] if len(found) == 1 else None

    def _without_image(
        self, candidates: Sequence[str], declared: tuple[int, int] | None
    ) -> tuple[str, None, int, int]:
        if self._request.require_images:
            raise Problem(
                "MissingImage",
                f"no image {candidates[0]!r}",
                "put it beside the JSON file, or give its folder with --images",
            )
        size = declared or self._request.size
        if size is None:
            raise Problem("BadSize", "no imageWidth and imageHeight, and no image", "write them")
        return candidates[0], None, *size


def _load(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Problem("NotUtf8", f"byte {error.start} is not UTF-8", "save it as UTF-8") from error
    except json.JSONDecodeError as error:
        text = f"not valid JSON ({error.msg}, line {error.lineno}, column {error.colno})"
        raise Problem("BadJson", text, "the file may be cut short: save it again") from error
    except (OSError, ValueError, RecursionError) as error:  # a number too long, a nest too deep
        raise Problem("Unreadable", f"cannot be read ({error})", "check the file") from error
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise Problem("MissingField", "no list of shapes", "save it again in labelme")
    return record


def _read_file(
    file: Path,
    where: str,
    images: _Images,
    names: LabelNames,
    tally: Tally,
    readers: dict[str, str],
) -> None:
    labels = 0
    try:
        record = _load(file)
        labels = len(record["shapes"])
        image_id, image, width, height = images.find(file, record)
        sample_id = _own_id(record, image_id)
        other = readers.setdefault(sample_id, where)
        if other != where:
            raise Problem(
                "DuplicateId", f"{other} labels the same image, {sample_id}", "keep one of the two"
            )
    except Problem as problem:
        tally.image_failed(where, problem, labels)
        return
    instances, used = _instances(record["shapes"], where, width, height, names, tally)
    layout = Layout(width, height, paint_order(instances, names), _gsd(record, images))
    split = split_of_path(image_id) or split_of_path(where)
    tally.keep(Sample(sample_id, layout, image, split=split), labels=used)


def _own_id(record: Mapping[str, Any], image_id: str) -> str:
    """The sample that was written here; a file copied for another image keeps its path as id."""
    stored = record.get("sampleId")
    if isinstance(stored, str) and stored:
        wanted = SafeNames().name(stored, "").lower()
        if PurePosixPath(image_id).stem.lower().startswith(wanted):
            return stored
    return image_id


def _gsd(record: Mapping[str, Any], images: _Images) -> float | None:
    value = record.get("gsd_m")
    if images.gsd_m is not None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return images.gsd_m
    return float(value) if 0 < value < 1e6 else None


def _groups(shapes: Sequence[Any]) -> Iterator[list[int]]:
    """Positions of the shapes of one object each: same label and group_id, or one by itself."""
    found: dict[Any, list[int]] = {}
    for position, shape in enumerate(shapes):
        group = shape.get("group_id") if isinstance(shape, dict) else None
        alone = group is None or not isinstance(group, (int, str))
        key = position if alone else (str(shape.get("label")), str(group))
        found.setdefault(key, []).append(position)
    return iter(found.values())


def _instances(
    shapes: Sequence[Any],
    where: str,
    width: int,
    height: int,
    names: LabelNames,
    tally: Tally,
) -> tuple[list[Instance], int]:
    """(objects, how many shapes they were drawn with)."""
    good: list[tuple[list[int], Instance, list[Array]]] = []
    for positions in _groups(shapes):
        try:
            parts = [shapes[k] for k in positions]
            good.append((positions, *shapes_as_instance(parts, width, height, names, tally)))
        except Problem as problem:
            tally.label_failed(_place(where, positions[0]), problem, len(positions))
    masks = iter(fill_outlines([outlines for *_, outlines in good if outlines], width, height))
    instances: list[Instance] = []
    used = 0
    for positions, instance, outlines in good:
        if outlines:
            mask = next(masks)
            if mask is None:
                tally.label_failed(_place(where, positions[0]), no_pixel(), len(positions))
                continue
            instance = replace(instance, mask=mask, box=instance.box or mask.box)
        instances.append(instance)
        used += len(positions)
    return instances, used


def _place(where: str, position: int) -> str:
    return f"{where}: shapes[{position}]"


def _make_writer(options: WriteOptions) -> LabelmeWriter:
    return LabelmeWriter()


FORMAT = Format(
    "labelme",
    files="`labelme/SPLIT/*.json` beside their images, classes in `labelme/labels.txt` "
    "(labelme FOLDER --labels labels.txt); corrected files come back in by "
    "`extract-masks --corrections`",
    read=read_labelme,
    make_writer=_make_writer,
    detect=detect_labelme,
    holds=Holds(labelme_holds, frozenset({"gsd_m"})),
)
