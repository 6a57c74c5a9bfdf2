"""EarthSynth-180K written: class indices 1..66 in gray PNG, a row an image, a row a class.

Paths in the rows are relative to their file. A single-category row names the image itself,
not a copy of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TextIO

import numpy as np

from rsgen.classes import load_class_table
from rsgen.formats import masks_write
from rsgen.formats.common import WriteReport
from rsgen.formats.masks_write import encode_index, merged, merged_notes, painted
from rsgen.images import replace_bytes
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["TABLE", "EarthSynthWriter", "earth_name", "held_shape"]

TABLE = "earthsynth-67"


@lru_cache(maxsize=512)
def _earth_name(names: tuple[str, ...]) -> str | None:
    table = load_class_table(TABLE)
    return next((found.name for n in names if (found := table.find(n)) is not None), None)


def earth_name(label: str, classes: ClassTable) -> str | None:
    """EarthSynth's name of a class, met by name or alias; None where it has none."""
    entry = classes.resolve(label)
    return _earth_name((entry.name, *entry.aliases))


def held_shape(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """What a mask holds of an instance of one of EarthSynth's classes; None for others."""
    if earth_name(instance.label, classes) is None:
        return None
    return masks_write.held_shape(instance, layout, classes)


class EarthSynthWriter:
    """`SPLIT/images`, `SPLIT/masks`, `SPLIT/category_masks` and `SPLIT/SPLIT.jsonl`."""

    name = "earthsynth-180k"
    places_images = True

    def __init__(self) -> None:
        self._files: dict[str, TextIO] = {}
        self._images = self._labels = 0
        self._merged: Counter[str] = Counter()
        self._other: Counter[str] = Counter()

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._classes = out_dir, classes
        self._table = load_class_table(TABLE)
        for split in splits:
            for folder in ("images", "masks", "category_masks"):
                (out_dir / split / folder).mkdir(parents=True, exist_ok=True)
            path = out_dir / split / f"{split}.jsonl.tmp"
            self._files[split] = path.open("w", encoding="utf-8")

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"{split}/images/{image_name}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        layout, raster = painted(self._translated(sample.layout), self._table)
        stem, folder = Path(image_name).stem, self._out / split
        row = {"file_name": f"images/{image_name}", "mask_name": f"masks/{stem}.png"}
        replace_bytes(folder / row["mask_name"], encode_index(raster.index, ()))
        present = [int(k) for k in np.unique(raster.index) if k]
        names = [self._table.names[k - 1] for k in present]
        views = [f"category_masks/{stem}_{name.replace(' ', '_')}.png" for name in names]
        text = sample.prompt or (_text(names) if names else "A satellite image")
        self._row(split, {**row, "text": text, "category_masks": views})
        for place, name, view in zip(present, names, views, strict=True):
            only = np.where(raster.index == place, raster.index, 0).astype(np.uint16)
            replace_bytes(folder / view, encode_index(only, ()))
            self._row(split, {**row, "mask_name": view, "text": _text([name])})
        self._images += 1
        self._labels += len(layout.instances)
        self._merged.update(merged(layout, raster, self._table))

    def _translated(self, layout: Layout) -> Layout:
        """The layout under EarthSynth's names, without objects of other classes."""
        kept = []
        for instance in layout.instances:
            name = earth_name(instance.label, self._classes)
            if name is None:
                self._other[instance.label] += 1
            else:
                kept.append(replace(instance, label=name))
        return replace(layout, instances=tuple(kept))

    def _row(self, split: str, row: dict[str, object]) -> None:
        self._files[split].write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> WriteReport:
        for split, handle in self._files.items():
            handle.close()
            Path(handle.name).replace(self._out / split / f"{split}.jsonl")
        return WriteReport(
            tuple(f"{split}/{split}.jsonl" for split in self._files),
            self._images,
            self._labels,
            {f"of {label} (no class of EarthSynth-67)": n for label, n in self._other.items()},
            merged_notes(self._merged),
        )

    def abort(self) -> None:
        for handle in self._files.values():
            handle.close()
            Path(handle.name).unlink(missing_ok=True)


def _text(names: Sequence[str]) -> str:
    return f"A satellite image of {', '.join(names)}"
