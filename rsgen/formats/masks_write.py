"""Semantic masks written: index PNG with a palette, and legend.yaml, which reads back."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from rsgen.formats.common import WriteReport
from rsgen.formats.mask_parts import label_parts
from rsgen.images import replace_bytes
from rsgen.legend import BLACK, Color, Legend, LegendRow, legend_to_yaml
from rsgen.pictures import palette
from rsgen.raster import Raster, instance_mask, rasterize
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["LEGEND", "MasksWriter", "encode_index", "held_shape", "merged_notes", "painted"]

LEGEND = "legend.yaml"
MOST_INDICES = 255  # classes of an 8-bit mask; more are written as 16-bit values


def held_shape(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """What a semantic mask holds of an instance: its pixels inside the image, none of its own."""
    mask = instance_mask(instance, layout.width, layout.height)
    inside = None if mask is None else mask.window(0, 0, layout.width, layout.height)
    if inside is None:
        return None
    box = None if classes.is_stuff(instance.label) else inside.box
    return Instance(instance.label, box, mask=inside)


def painted(layout: Layout, classes: ClassTable) -> tuple[Layout, Raster]:
    """The shapes that a mask can hold, and these painted in their order."""
    held = [held_shape(i, layout, classes) for i in layout.instances]
    kept = replace(layout, instances=tuple(i for i in held if i is not None))
    return kept, rasterize(kept, classes)


def distinct_colors(count: int) -> list[Color]:
    """A colour for each of the places 1..count, none black and none twice."""
    used, found = {BLACK}, list[Color]()
    for place in range(1, count + 1):
        red, green, blue = palette(place)
        while (red, green, blue) in used:
            blue = (blue + 1) % 256
        used.add((red, green, blue))
        found.append((red, green, blue))
    return found


def encode_index(index: npt.NDArray[np.uint16], colors: Sequence[Color]) -> bytes:
    """PNG bytes of a map of class places: 8-bit indices with a palette, without `colors` plain
    values of 8 or, above 255, of 16 bits."""
    wide = index.max(initial=0) > MOST_INDICES
    image = Image.fromarray(index if wide else index.astype(np.uint8))
    if colors:
        image.putpalette([channel for color in (BLACK, *colors) for channel in color])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


class MasksWriter:
    """`images/SPLIT/`, `masks/SPLIT/NAME.png` and legend.yaml; value k is the k-th class.

    Things and stuff are painted in the layout's order: later covers earlier.
    """

    name = "masks"
    places_images = True

    def __init__(self) -> None:
        self._images = self._labels = 0
        self._merged: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._classes = out_dir, classes
        few = len(classes.classes) <= MOST_INDICES
        self._colors = distinct_colors(len(classes.classes)) if few else []
        for split in splits:
            (out_dir / "images" / split).mkdir(parents=True, exist_ok=True)
            (out_dir / "masks" / split).mkdir(parents=True, exist_ok=True)

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"images/{split}/{image_name}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        held, raster = painted(sample.layout, self._classes)
        data = encode_index(raster.index, self._colors)
        replace_bytes(self._out / "masks" / split / f"{Path(image_name).stem}.png", data)
        self._images += 1
        self._labels += len(held.instances)
        left = len(sample.layout.instances) - len(held.instances)
        if left:
            self._skipped["outside the image"] += left
        self._merged.update(merged(held, raster, self._classes))

    def close(self) -> WriteReport:
        rows: list[LegendRow] = [
            (entry, place, self._colors[place - 1] if self._colors else None)
            for place, entry in enumerate(self._classes.classes, start=1)
        ]
        legend = Legend.of(rows)
        document = {"classes": []} if legend is None else legend_to_yaml(legend)
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        replace_bytes(self._out / LEGEND, text.encode("utf-8"))
        return WriteReport(
            (LEGEND, "masks"),
            self._images,
            self._labels,
            dict(self._skipped),
            merged_notes(self._merged),
        )

    def abort(self) -> None:
        """Nothing is open between samples."""


def merged(layout: Layout, raster: Raster, classes: ClassTable) -> Counter[str]:
    """Things whose own outline a mask of classes cannot give back, by what happens to them."""
    found: Counter[str] = Counter()
    things = [k for k, i in enumerate(layout.instances) if i.box is not None]
    visible = np.bincount(raster.things.ravel(), minlength=len(layout.instances) + 1)
    labels = {layout.instances[k].label for k in things}
    for k in things:
        mask = layout.instances[k].mask
        seen = int(visible[k + 1])
        found["hidden"] += seen == 0
        found["covered"] += mask is not None and 0 < seen < mask.area
    for label in labels:
        parts, stats = label_parts((raster.index == classes.index(label)) & (raster.things > 0))
        inside = parts > 0
        pairs = np.unique(
            parts[inside].astype(np.int64) * (len(layout.instances) + 1) + raster.things[inside]
        )
        part_of, thing_of = np.divmod(pairs, len(layout.instances) + 1)
        members = np.bincount(part_of, minlength=len(stats))
        found["joined"] += int(members[members > 1].sum())
        found["cut"] += int((np.bincount(thing_of) > 1).sum())
    return +found


def merged_notes(found: Counter[str]) -> tuple[str, ...]:
    """Lines for the user."""
    words = {
        "joined": "objects touch another of their class and come back as one with it",
        "covered": "objects are covered in part by others, and come back without that part",
        "cut": "objects come back in several parts",
        "hidden": "objects are wholly covered by others, and do not come back",
    }
    return tuple(f"{found[key]} {text}" for key, text in words.items() if found[key])
