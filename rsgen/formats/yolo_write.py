"""YOLO writing: boxes, oriented boxes (four corners) or segments, and data.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from rsgen.formats.atlas import fill_outlines
from rsgen.formats.checks import quad_inside, raster_session, whole_pixels
from rsgen.formats.common import WriteReport
from rsgen.geometry import Array, Quad, as_array, bounds, box_quad
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Sample

__all__ = ["YoloWriter", "bridged", "fillable"]


NO_VAL = (
    "data.yaml has no val, which Ultralytics asks for: export real images too (--with-real), or "
    "name a folder of your own there"
)


def bridged(rings: list[Array]) -> Array:
    """All rings as one outline, float64 [N, 2], through bridges of no width.

    Each further ring is entered from and left to the first point of the first ring, so that
    filling even-odd gives the same pixels: parts stay apart and holes stay holes.
    """
    start = rings[0][:1]
    pieces = [rings[0]]
    for ring in rings[1:]:
        pieces += [start, ring, ring[:1]]
    return np.concatenate(pieces)


def fillable(quad: Quad, width: int, height: int) -> Quad:
    """The quad; where it goes around no pixel's centre, so that no mask comes of it, the whole
    pixels that it lies in."""
    if fill_outlines([[as_array(quad)]], width, height)[0] is not None:
        return quad
    return box_quad(whole_pixels(bounds(quad), width, height))


class YoloWriter:
    """`images/SPLIT/`, `labels/SPLIT/` and data.yaml; class indices from 0, things only.

    Oriented boxes are four corners, clockwise, the front edge first, inside the image: what
    reaches over the border is clipped and fitted again. Segments come from masks; a label
    without a mask is written by its corners.
    """

    def __init__(self, kind: Literal["yolo", "yolo-obb", "yolo-seg"]) -> None:
        self.name: str = kind
        self.places_images = True
        self._images = self._labels = 0
        self._skipped: dict[str, int] = {}
        self._index: dict[str, int | None] = {}

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._classes, self._splits = out_dir, classes, tuple(splits)
        self._things = [c.name for c in classes.classes if c.kind == "thing"]
        for split in splits:
            (out_dir / "images" / split).mkdir(parents=True, exist_ok=True)
            (out_dir / "labels" / split).mkdir(parents=True, exist_ok=True)

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"images/{split}/{image_name}"

    def _class_index(self, label: str) -> int | None:
        """The index from 0; None for a stuff class."""
        if label not in self._index:
            entry = self._classes.resolve(label)
            stuff = entry.kind == "stuff"
            self._index[label] = None if stuff else self._things.index(entry.name)
        return self._index[label]

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        width, height = sample.layout.width, sample.layout.height
        with raster_session():
            lines = self._lines(sample, width, height)
        target = self._out / "labels" / split / f"{Path(image_name).stem}.txt"
        target.write_text("".join(lines), encoding="utf-8")
        self._images += 1

    def _lines(self, sample: Sample, width: int, height: int) -> list[str]:
        lines = []
        for instance in sample.layout.instances:
            index = self._class_index(instance.label)
            values = None if index is None else self._values(instance, width, height)
            if values is None:
                reason = "stuff class" if index is None else "outside the image"
                self._skipped[reason] = self._skipped.get(reason, 0) + 1
                continue
            lines.append(f"{index} " + " ".join(f"{v:.8f}" for v in values.ravel()) + "\n")
            self._labels += 1
        return lines

    def _values(self, instance: Instance, width: int, height: int) -> Array | None:
        """Normalised numbers of one line; None when nothing lies inside the image."""
        scale = np.array([width, height], dtype=np.float64)
        if self.name == "yolo-seg" and instance.mask is not None:
            inside = instance.mask.window(0, 0, width, height)
            return None if inside is None else _outline(inside) / scale
        around = instance.bounds()
        box = None if around is None else around.clip(width, height)
        if box is None or box.area <= 0:
            return None
        if self.name == "yolo":
            return np.array([*box.center, box.width, box.height]) / np.tile(scale, 2)
        quad = box_quad(box)
        if instance.quad is not None:
            quad = quad_inside(instance.quad, instance.heading_rad, width, height) or quad
        if self.name == "yolo-seg":
            quad = fillable(quad, width, height)
        return as_array(quad) / scale

    def close(self) -> WriteReport:
        document = {
            **{split: f"images/{split}" for split in self._splits},
            "nc": len(self._things),
            "names": dict(enumerate(self._things)),
        }
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        (self._out / "data.yaml").write_text(text, encoding="utf-8")
        return WriteReport(
            ("data.yaml", *(f"labels/{split}" for split in self._splits)),
            self._images,
            self._labels,
            dict(self._skipped),
            () if "val" in self._splits else (NO_VAL,),
        )

    def abort(self) -> None:
        """Nothing is open between samples."""


def _outline(mask: Mask) -> Array:
    return bridged([ring for part in mask.rings() for ring in part])
