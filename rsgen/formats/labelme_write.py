"""labelme writing: one JSON file an image, and labels.txt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsgen.formats.common import WriteReport, things_only
from rsgen.formats.labelme_shapes import drawn, shape_records
from rsgen.geometry import clockwise
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["LabelmeWriter", "labelme_holds"]

VERSION = "5.5.0"


def labelme_holds(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """One outline an object: the mask as drawn with few points, else the quad, else the box."""
    held = things_only(instance, layout, classes)
    if held is None:
        return None
    held = replace(held, scores={}, reasons=(), origin="annotation")
    if held.mask is not None:
        mask = held.mask.window(0, 0, layout.width, layout.height)
        if mask is not None:
            return replace(held, mask=drawn(mask)[0], box=None, quad=None, origin="polygon")
    if held.quad is not None:
        return replace(held, mask=None, box=None, quad=clockwise(held.quad))
    box = held.bounds()
    assert box is not None, "things_only has looked"
    return replace(held, mask=None, box=box.clip(layout.width, layout.height))


@dataclass
class LabelmeWriter:
    """`SPLIT/NAME.json` beside `SPLIT/NAME.png`, and labels.txt; stuff is left out."""

    name: str = "labelme"
    places_images: bool = True

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._classes = out_dir, classes
        self._images = self._labels = 0
        self._skipped: dict[str, int] = {}
        for split in splits:
            (out_dir / split).mkdir(parents=True, exist_ok=True)
        things = [c.name for c in classes.classes if c.kind == "thing"]
        text = "".join(f"{name}\n" for name in things)
        (out_dir / "labels.txt").write_text(text, encoding="utf-8")

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"{split}/{image_name}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        layout = sample.layout
        shapes: list[dict[str, Any]] = []
        for instance in layout.instances:
            held = labelme_holds(instance, layout, self._classes)
            if held is None:
                stuff = self._classes.is_stuff(instance.label)
                reason = "stuff class" if stuff else "outside the image"
                self._skipped[reason] = self._skipped.get(reason, 0) + 1
                continue
            label = self._classes.resolve(instance.label).name
            shapes += shape_records(replace(held, label=label), instance, layout, self._labels + 1)
            self._labels += 1
        record: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image_name,
            "imageData": None,
            "imageHeight": layout.height,
            "imageWidth": layout.width,
            "sampleId": sample.id,
        }
        if layout.gsd_m is not None:
            record["gsd_m"] = layout.gsd_m
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        path = self._out / split / f"{Path(image_name).stem}.json"
        path.write_text(text + "\n", encoding="utf-8")
        self._images += 1

    def close(self) -> WriteReport:
        return WriteReport(("labels.txt",), self._images, self._labels, dict(self._skipped))

    def abort(self) -> None:
        """Every file is whole when it is written; there is nothing to let go of."""
