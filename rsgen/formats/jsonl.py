"""JSON lines: one whole Sample a line, nothing lost; classes.json beside it.

`image` is relative to the folder of the file; masks are COCO compressed run-length codes of
their crop (x0, y0, width, height, counts).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from rsgen.errors import DataError, UsageError
from rsgen.formats.checks import check_box, check_crop, check_quad, check_size, finite_numbers
from rsgen.formats.checks import number as check_number
from rsgen.formats.common import (
    SAMPLE_FIELDS,
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
    WriteReport,
    split_of_path,
)
from rsgen.formats.files import relative, safe_relative, size_of
from rsgen.formats.names import LabelNames
from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, Sample
from rsgen.tables import sample_from_row, sample_row

__all__ = ["FORMAT", "JsonlWriter", "jsonl_files", "read_jsonl", "sample_from_json", "to_json"]

FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "image", "sha256", "scene", "prompt", "split", "verdict"), (str,)),
    **dict.fromkeys(("attributes", "geo", "provenance", "scores"), (str,)),  # JSON in a string
    "gsd_m": (int, float),
    "reasons": (list,),
}


def to_json(sample: Sample) -> str:
    """One line; non-finite numbers are refused (ValueError)."""
    row = sample_row(sample)
    for instance in row["instances"]:
        if instance["mask"] is not None:
            counts = instance["mask"]["counts"].decode("ascii")
            instance["mask"] = {**instance["mask"], "counts": counts}
    return json.dumps(row, allow_nan=False, ensure_ascii=False)


def sample_from_json(text: str) -> tuple[Sample, list[dict[str, Any]]]:
    """(the sample without its instances, the raw instances), to be checked one by one.

    Raises:
        Problem: BadJson or MissingField.
    """
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise TypeError("the line is no object")
        raw = row["instances"]
        if not isinstance(raw, list) or not all(isinstance(i, dict) for i in raw):
            raise TypeError("an instance is no object")
        _check_fields(row)
        return sample_from_row({**row, "instances": []}), raw
    except json.JSONDecodeError as error:
        raise Problem(
            "BadJson", f"not valid JSON ({error.msg}, column {error.colno})", "write the line anew"
        ) from error
    except KeyError as error:
        raise Problem("MissingField", f"no field {error}", "write one Sample a line") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Problem("BadRecord", f"no Sample ({error})", "write one Sample a line") from error


def _check_fields(row: Mapping[str, Any]) -> None:
    """Raises TypeError where a field is of another type than a Sample has it."""
    for name, kinds in FIELDS.items():
        value = row[name]
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise TypeError(f"{name} is {str(value)[:40]!r}")
    if not row["id"]:
        raise TypeError("the id is empty")
    gsd_m = row["gsd_m"]
    if gsd_m is not None and not 0 < gsd_m < 1e6:
        raise TypeError(f"gsd_m is {gsd_m!r}")


def jsonl_files(path: Path) -> list[Path]:
    """The file itself, or the `*.jsonl` files of a folder, sorted."""
    return [path] if path.is_file() else sorted(path.glob("*.jsonl"))


def read_jsonl(request: ReadRequest) -> Dataset:
    """Read rsgen's own lines; see `FormatReader`. Paint order and ids are kept as written."""
    source = request.labels or request.path
    files = jsonl_files(source)
    if not files:
        raise DataError(f"{source}: no .jsonl file", hint="point at the file or its folder")
    folder = source if source.is_dir() else source.parent
    names = LabelNames(request.classes, request.class_map)
    _declare(folder / "classes.json", names)
    tally = Tally(request.images or folder)
    for file in files:
        where = relative(file, folder)
        for position, text in _lines(file, where):
            _read_line(text, f"{where}:{position}", request, names, tally)
    ordered = (folder / "classes.json").is_file()
    return tally.dataset("jsonl", names.table(in_order=ordered))


def _lines(file: Path, where: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank, one at a time.

    Raises:
        DataError: a line that is not UTF-8.
    """
    with file.open("rb") as handle:
        for position, raw in enumerate(handle, start=1):
            try:
                text = raw.decode("utf-8-sig" if position == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{where}:{position}: not UTF-8", hint="save it as UTF-8"
                ) from error
            if text:
                yield position, text


def _declare(path: Path, names: LabelNames) -> None:
    if not path.is_file():
        return
    try:
        table = ClassTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (
        ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError
    ) as error:  # fmt: skip
        raise DataError(
            f"{path.name}: no class table ({error})",
            hint="remove it, or give extract-masks --classes",
        ) from error
    names.declare_table(table)


def _read_line(text: str, item: str, request: ReadRequest, names: LabelNames, tally: Tally) -> None:
    labels = 0
    try:
        sample, raw = sample_from_json(text)
        labels = len(raw)
        sample = _with_image(sample, tally.root, request)
    except Problem as problem:
        tally.image_failed(item, problem, labels)
        return
    width, height = sample.layout.width, sample.layout.height
    instances = []
    for index, row in enumerate(raw):
        try:
            instances.append(_instance(row, width, height, names))
        except Problem as problem:
            tally.label_failed(f"{item}: instances[{index}]", problem)
    layout = replace(
        sample.layout,
        instances=tuple(instances),
        gsd_m=request.gsd_m or sample.layout.gsd_m,
    )
    split = sample.split or split_of_path(item.rsplit(":", 1)[0])
    tally.keep(replace(sample, layout=layout, split=split))


def _with_image(sample: Sample, root: Path, request: ReadRequest) -> Sample:
    """The sample with a checked size and image path (None when not needed and absent)."""
    size = check_size(sample.layout.width, sample.layout.height, request.max_pixels)
    if sample.image is None:
        if request.require_images:
            raise Problem("MissingImage", "the line names no image", "add its image path")
        return sample
    name = safe_relative(sample.image)
    if not request.require_images and not (root / name).is_file():
        return replace(sample, image=None)
    found = size_of(root / name, name, request.max_pixels)
    if found != size:
        raise Problem(
            "WrongSize",
            f"declared {size[0]} x {size[1]}, the file is {found[0]} x {found[1]}",
            "use the images that were annotated, or correct the line",
        )
    return replace(sample, image=name)


def _instance(row: Mapping[str, Any], width: int, height: int, names: LabelNames) -> Instance:
    label = names.resolve(str(row.get("label") or ""))
    box = quad = mask = None
    if row.get("box") is not None:
        x0, y0, x1, y1 = finite_numbers(row["box"], 4, "box")
        box = Box(x0, y0, x1, y1)
        check_box(box, width, height)
    if row.get("quad") is not None:
        quad, _, _ = check_quad(finite_numbers(row["quad"], 8, "quad"), width, height)
    if row.get("mask") is not None:
        mask = _mask(row["mask"], width, height)
    if box is None and quad is None and mask is None:
        raise Problem("MissingField", "no box, quad or mask", "write at least one")
    heading, caption = row.get("heading_rad"), row.get("caption")
    try:
        if caption is not None and not isinstance(caption, str):
            raise TypeError(f"the caption is {str(caption)[:40]!r}")
        return Instance(
            label=label,
            box=box,
            quad=quad,
            mask=mask,
            heading_rad=None if heading is None else check_number(heading, "heading_rad"),
            caption=caption,
            attributes=_mapping(row.get("attributes"), str),
            truncated=bool(row.get("truncated")),
            difficult=bool(row.get("difficult")),
            iscrowd=bool(row.get("iscrowd")),
            scores=_mapping(row.get("scores"), (int, float)),
            reasons=tuple(map(str, row.get("reasons") or ())),
            origin=str(row.get("origin") or "annotation"),
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise Problem("BadRecord", f"no instance ({error})", "write it anew") from error


def _mapping(text: Any, kind: type | tuple[type, ...]) -> dict[str, Any]:
    """A JSON object in a string, whose values are of a type."""
    found = json.loads(text or "{}")
    if not isinstance(found, dict) or not all(isinstance(v, kind) for v in found.values()):
        raise TypeError(f"{str(text)[:40]!r} is no mapping of names")
    return found


def _mask(row: Any, width: int, height: int) -> Mask:
    try:
        place = [int(row[key]) for key in ("x0", "y0", "width", "height")]
        return check_crop(place[0], place[1], place[2], place[3], row["counts"], width, height)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise Problem("BadRle", f"no mask ({error})", "encode the mask again") from error


class JsonlWriter:
    """`SPLIT.jsonl`, `images/SPLIT/` and classes.json; every field and class is kept."""

    name = "jsonl"
    places_images = True

    def __init__(self) -> None:
        self._files: dict[str, TextIO] = {}
        self._images = self._labels = 0

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out = out_dir
        out_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(classes.to_json(), indent=1, ensure_ascii=False)
        (out_dir / "classes.json").write_text(text + "\n", encoding="utf-8")
        for split in splits:
            path = out_dir / f"{split}.jsonl.tmp"
            self._files[split] = path.open("w", encoding="utf-8")

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"images/{split}/{image_name}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        written = replace(sample, image=self.image_path(image_name, split, sample), split=split)
        self._files[split].write(to_json(written) + "\n")
        self._images += 1
        self._labels += len(sample.layout.instances)

    def close(self) -> WriteReport:
        for split, handle in self._files.items():
            handle.close()
            Path(handle.name).replace(self._out / f"{split}.jsonl")
        files = ("classes.json", *(f"{split}.jsonl" for split in self._files))
        return WriteReport(files, self._images, self._labels, {})

    def abort(self) -> None:
        for handle in self._files.values():
            handle.close()
            Path(handle.name).unlink(missing_ok=True)


def _detect(source: Source) -> Found | None:
    if source.root.is_file() and source.root.suffix.lower() != ".jsonl":
        return None
    for file in jsonl_files(source.root):
        with file.open("rb") as handle:
            line = handle.readline(1 << 20)
        if line.lstrip().startswith(b"{") and b'"instances"' in line:
            return Found(f"{file.name} has one sample a line", "jsonl")
    return None


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance:
    return instance


FORMAT = Format(
    "jsonl",
    "`*.jsonl`, one whole sample a line with masks, prompts, scores and provenance; images in "
    "`images/SPLIT/`",
    read_jsonl,
    lambda _: JsonlWriter(),
    _detect,
    Holds(_held, SAMPLE_FIELDS),
)
