"""Streamed COCO writing: annotations are spooled to a temporary file, so memory stays flat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rsgen.errors import DataError, UsageError
from rsgen.formats.atlas import trace_masks
from rsgen.formats.checks import raster_session
from rsgen.formats.common import WriteReport
from rsgen.geometry import polygon_area, quad_to_rotated_box
from rsgen.mask import Mask
from rsgen.records import WEIGHT, ClassTable, Instance, Layout, Sample, normal_name

__all__ = ["CategoryIds", "CocoWriter"]

DECIMALS = 6


@dataclass(frozen=True)
class CategoryIds:
    """How classes are numbered: from `start` in table order, or as another COCO file does."""

    start: int = 1
    by_name: dict[str, int] = field(default_factory=dict)
    source: str = ""

    @classmethod
    def parse(cls, text: str) -> CategoryIds:
        """From `start=N` or `from=FILE` (a COCO JSON with the wanted ids).

        Raises:
            UsageError: another text. DataError: the file has no categories.
        """
        key, _, value = text.partition("=")
        if key == "start" and value.isdigit():
            return cls(start=int(value))
        if key != "from" or not value:
            raise UsageError(
                f"--category-ids {text!r} is not understood", hint="write start=1 or from=FILE.json"
            )
        try:
            records = json.loads(Path(value).read_text(encoding="utf-8"))["categories"]
            by_name = {normal_name(r["name"]): int(r["id"]) for r in records}
            return cls(by_name=by_name, source=value)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{value}: no COCO categories ({error!r})", hint="give a COCO JSON file"
            ) from error

    def assign(self, classes: ClassTable) -> dict[str, int]:
        """Class name -> category id, things only.

        Raises:
            DataError: the file does not name a class, or two classes share an id.
        """
        things = [c for c in classes.classes if c.kind == "thing"]
        if not self.by_name:
            return {c.name: self.start + k for k, c in enumerate(things)}
        found: dict[str, int] = {}
        for entry in things:
            spellings = [normal_name(n) for n in (entry.name, *entry.aliases)]
            ids = [self.by_name[n] for n in spellings if n in self.by_name]
            if not ids:
                raise DataError(
                    f"{self.source} has no category {entry.name!r}; it has: "
                    f"{', '.join(self.by_name)}",
                    hint="add the category there, or an alias in the class table",
                )
            found[entry.name] = ids[0]
        if len(set(found.values())) < len(found):
            raise DataError(
                f"{self.source}: two of the classes {', '.join(found)} share an id",
                hint="give each class its own category",
            )
        return found


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(v), DECIMALS) for v in values]


def segmentations_of(
    instances: Sequence[Instance], width: int, height: int
) -> dict[int, dict[str, Any] | list[list[int]]]:
    """By position: polygons on pixel edges, or a compressed RLE where polygons would lie.

    RLE for crowds, for masks with holes or over the border, and for upright rectangles (four
    points would read as a label's corners). pycocotools decodes both to the very same pixels.
    """
    found: dict[int, dict[str, Any] | list[list[int]]] = {}
    traced: list[tuple[int, Mask]] = []
    for index, instance in enumerate(instances):
        mask = instance.mask
        if mask is None:
            continue
        if instance.iscrowd or mask.box.clip(width, height) != mask.box:
            found[index] = mask.to_coco(width, height)
        else:
            traced.append((index, mask))
    rings_of = trace_masks([mask for _, mask in traced])
    for (index, mask), parts in zip(traced, rings_of, strict=True):
        if any(len(rings) > 1 or len(rings[0]) <= 4 for rings in parts):
            found[index] = mask.to_coco(width, height)
        else:
            found[index] = [[int(v) for v in rings[0].ravel()] for rings in parts]
    return found


def annotation_of(
    instance: Instance, segmentation: Any, width: int, height: int
) -> dict[str, Any] | None:
    """An annotation without its ids; None when nothing of it lies inside the image.

    `segmentation` is that of its mask, None without one.
    """
    bounds = instance.bounds()
    box = None if bounds is None else bounds.clip(width, height)
    if box is None or box.area <= 0:
        return None
    record: dict[str, Any] = {
        "bbox": _rounded([box.x0, box.y0, box.width, box.height]),
        "area": box.area,
        "iscrowd": int(instance.iscrowd),
        "segmentation": [],
    }
    if instance.quad is not None:
        turned = quad_to_rotated_box(instance.quad)
        record["obb"] = _rounded([turned.cx, turned.cy, turned.w, turned.h, turned.angle_rad])
        record["segmentation"] = [_rounded([c for point in instance.quad for c in point])]
        record["area"] = abs(polygon_area(instance.quad))
    if instance.mask is not None:
        record["segmentation"] = segmentation
        record["area"] = instance.mask.area
    if instance.heading_rad is not None:
        record["heading"] = round(instance.heading_rad, DECIMALS)
    if instance.difficult:
        record["difficult"] = 1
    if instance.truncated:
        record["truncated"] = 1
    if WEIGHT in instance.scores:
        record[WEIGHT] = instance.scores[WEIGHT]
    record["area"] = round(float(record["area"]), DECIMALS)
    return record


@dataclass
class _SplitFile:
    """One instances_SPLIT.json in the making: images in place, annotations beside it."""

    path: Path
    main: TextIO
    spool: TextIO
    images: int = 0
    annotations: int = 0

    @classmethod
    def start(cls, path: Path, head: dict[str, Any]) -> _SplitFile:
        path.parent.mkdir(parents=True, exist_ok=True)
        main = path.with_name(path.name + ".tmp").open("w", encoding="utf-8")
        spool = path.with_name(path.name + ".annotations.tmp").open("w+", encoding="utf-8")
        main.write(json.dumps(head)[:-1] + ',\n"images": [')
        return cls(path, main, spool)

    def add_image(self, record: dict[str, Any]) -> None:
        self.main.write((",\n" if self.images else "\n") + json.dumps(record, allow_nan=False))
        self.images += 1

    def add_annotation(self, record: dict[str, Any]) -> None:
        separator = ",\n" if self.annotations else "\n"
        self.spool.write(separator + json.dumps(record, allow_nan=False))
        self.annotations += 1

    def finish(self) -> None:
        self.main.write('],\n"annotations": [')
        self.spool.seek(0)
        shutil.copyfileobj(self.spool, self.main)
        self.main.write("]}\n")
        self.main.close()
        self.spool.close()
        Path(self.main.name).replace(self.path)
        Path(self.spool.name).unlink()

    def abandon(self) -> None:
        for handle in (self.main, self.spool):
            handle.close()
            Path(handle.name).unlink(missing_ok=True)


class CocoWriter:
    """`annotations/instances_SPLIT.json` and `images/SPLIT/`; ids count from 1.

    Stuff classes are left out (and counted): a detection set has no boxes for them.
    """

    name = "coco"
    places_images = True

    def __init__(self, category_ids: CategoryIds | None = None) -> None:
        self._category_ids = category_ids or CategoryIds()
        self._files: dict[str, _SplitFile] = {}
        self._ids: dict[str, int] = {}
        self._labels: dict[str, tuple[str, bool]] = {}
        self._skipped: dict[str, int] = {}

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._classes, self._out = classes, out_dir
        self._ids = self._category_ids.assign(classes)
        head = {
            "info": {"description": "written by rsgen", "version": "1.0"},
            "licenses": [],
            "categories": [
                {"id": number, "name": name, "supercategory": ""}
                for name, number in self._ids.items()
            ],
        }
        for split in splits:
            path = out_dir / "annotations" / f"instances_{split}.json"
            self._files[split] = _SplitFile.start(path, head)

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"images/{split}/{image_name}"

    def _category(self, label: str) -> int | None:
        """The category id; None for a stuff class."""
        if label not in self._labels:
            entry = self._classes.resolve(label)
            self._labels[label] = (entry.name, entry.kind == "stuff")
        name, stuff = self._labels[label]
        return None if stuff else self._ids[name]

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        file, layout = self._files[split], sample.layout
        record: dict[str, Any] = {
            "id": file.images + 1,
            "file_name": image_name,
            "width": layout.width,
            "height": layout.height,
        }
        if layout.gsd_m is not None:
            record["gsd_m"] = layout.gsd_m
        if WEIGHT in sample.scores:
            record[WEIGHT] = sample.scores[WEIGHT]
        file.add_image(record)
        with raster_session():
            self._add_labels(layout, file)

    def _add_labels(self, layout: Layout, file: _SplitFile) -> None:
        outlines = segmentations_of(layout.instances, layout.width, layout.height)
        for index, instance in enumerate(layout.instances):
            category = self._category(instance.label)
            if category is None:
                self._skip("stuff class")
                continue
            record = annotation_of(instance, outlines.get(index), layout.width, layout.height)
            if record is None:
                self._skip("outside the image")
                continue
            ids = {"id": file.annotations + 1, "image_id": file.images, "category_id": category}
            file.add_annotation({**ids, **record})

    def _skip(self, reason: str) -> None:
        self._skipped[reason] = self._skipped.get(reason, 0) + 1

    def close(self) -> WriteReport:
        for file in self._files.values():
            file.finish()
        files = tuple(f.path.relative_to(self._out).as_posix() for f in self._files.values())
        return WriteReport(
            files,
            sum(f.images for f in self._files.values()),
            sum(f.annotations for f in self._files.values()),
            dict(self._skipped),
        )

    def abort(self) -> None:
        for file in self._files.values():
            file.abandon()
