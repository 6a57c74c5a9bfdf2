"""What a labelled folder holds, read without decoding a pixel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.classes import load_class_table, load_legend
from rsgen.errors import DataError
from rsgen.first_look.known import known_class, length_m
from rsgen.formats import Dataset, read_dataset
from rsgen.geometry import Quad
from rsgen.records import Instance, Sample
from rsgen.splits import assign_splits, split_counts

__all__ = ["ClassFound", "Findings", "Request", "examine"]

TURNED_RAD = math.radians(1.0)  # a quad nearer to the axes is a box in another spelling
EXAMPLES = 3
SIZES_SHOWN = 4
ENOUGH = 5  # objects of a class before its size says anything about the ground


@dataclass(frozen=True)
class Request:
    """What was typed; paths stay as they were typed, so that the file runs from there.

    reading: values of `READ_KEYS`, for labels that need to be told more.
    """

    dataset: Path
    images: Path | None = None
    labels: Path | None = None
    format: str = "auto"
    classes: str | None = None
    class_map: Mapping[str, str] = field(default_factory=dict)
    gsd_m: float | None = None
    seed: int = 7
    reading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassFound:
    """A class with its objects. `train`: those that may be learned from. Sizes are pixels."""

    name: str
    kind: str
    symmetric: bool
    known_as: str | None  # the embedded model's name for it
    objects: int
    train: int
    images: int
    median_px: float | None  # of sqrt(box area)


@dataclass(frozen=True)
class Findings:
    """What was found. `sizes`: (width, height, images), most frequent first.

    things: objects that are not stuff (ground); sizes in pixels are theirs. label_kind: masks
    (most labels have a shape), oriented (turned boxes) or boxes. `long_px`: the third quartile
    of the boxes' long sides. `gsd_from`: files, given, guess or unknown.
    """

    format: str
    why: str
    images: int
    empty_images: int
    sizes: tuple[tuple[int, int, int], ...]
    other_sizes: int
    least_side: int
    largest_side: int
    objects: int
    things: int
    with_shape: int
    turned: int
    with_front: int
    label_kind: str
    classes: tuple[ClassFound, ...]
    splits: Mapping[str, int]
    splits_given: bool
    median_px: float | None
    long_px: float | None
    gsd_m: float | None
    gsd_from: str
    gsd_why: str
    bad: Mapping[str, int]
    bad_examples: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def examine(request: Request) -> Findings:
    """Read the labels and count.

    Raises:
        DataError: no labels of a known format, or not one usable image.
        UsageError: an unknown format or class table.
    """
    table = None if request.classes is None else load_class_table(request.classes)
    dataset = read_dataset(
        request.dataset,
        images=request.images,
        labels=request.labels,
        format=request.format,
        classes=table,
        class_map=request.class_map,
        gsd_m=request.gsd_m,
        legend=None if request.classes is None else load_legend(request.classes),
        **request.reading,
    )
    samples = dataset.records
    if not samples:
        first = f"; the first: {dataset.failures[0].message}" if dataset.failures else ""
        raise DataError(
            f"{request.dataset}: {dataset.format} labels, but not one usable image{first}",
            hint=_fix(dataset),
        )
    splits = assign_splits(samples, request.seed)
    instances = [i for s in samples for i in s.layout.instances]
    stuff = {entry.name for entry in dataset.classes.classes if entry.kind == "stuff"}
    things = [i for i in instances if i.label not in stuff]
    boxes = [box for i in things if (box := i.bounds()) is not None]
    sizes = Counter((s.layout.width, s.layout.height) for s in samples)
    turned = sum(i.quad is not None and _is_turned(i.quad) for i in instances)
    shaped = sum(i.mask is not None for i in instances)
    gsd_m, gsd_from, gsd_why = _ground(request, samples, instances)
    why = next((n for n in dataset.notes if n.startswith("format: ")), "")
    bad = {k.split(".", 1)[1]: v for k, v in dataset.counts.items() if "_skipped." in k}
    return Findings(
        format=dataset.format,
        why=why.partition(", since ")[2] or "as given with --format",
        images=len(samples),
        empty_images=sum(not s.layout.instances for s in samples),
        sizes=tuple((w, h, n) for (w, h), n in sizes.most_common(SIZES_SHOWN)),
        other_sizes=max(0, len(sizes) - SIZES_SHOWN),
        least_side=min(min(size) for size in sizes),
        largest_side=max(max(size) for size in sizes),
        objects=len(instances),
        things=len(things),
        with_shape=shaped,
        turned=turned,
        with_front=sum(i.heading_rad is not None for i in instances),
        label_kind=_kind(len(instances), shaped, turned),
        classes=_classes(dataset, splits),
        splits=split_counts(splits),
        splits_given=all(s.split is not None for s in samples),
        median_px=float(np.median([math.sqrt(b.area) for b in boxes])) if boxes else None,
        long_px=float(np.quantile([max(b.width, b.height) for b in boxes], 0.75))
        if boxes
        else None,
        gsd_m=gsd_m,
        gsd_from=gsd_from,
        gsd_why=gsd_why,
        bad=bad,
        bad_examples=tuple(f.message for f in dataset.failures[:EXAMPLES]),
        notes=tuple(n for n in dataset.notes if n != why),
    )


def _fix(dataset: Dataset) -> str | None:
    """What to do where no image was usable; a failure's message has its own fix."""
    missing = [f for f in dataset.failures if f.error == "MissingImage"]
    if missing or not dataset.failures:
        return "name the folder of the images with --images DIR"
    return None


def _is_turned(quad: Quad) -> bool:
    (ax, ay), (bx, by) = quad[0], quad[1]
    angle = math.atan2(by - ay, bx - ax) % (math.pi / 2)
    return min(angle, math.pi / 2 - angle) > TURNED_RAD


def _kind(objects: int, shaped: int, turned: int) -> str:
    if objects and shaped * 2 >= objects:
        return "masks"
    return "oriented" if turned * 20 >= max(objects, 1) else "boxes"


def _classes(dataset: Dataset, splits: Mapping[str, str]) -> tuple[ClassFound, ...]:
    """Every class of the table, in its order, also those without an object."""
    found: dict[str, list[tuple[Sample, Instance]]] = {n: [] for n in dataset.classes.names}
    for sample in dataset.records:
        for instance in sample.layout.instances:
            found[dataset.classes.resolve(instance.label).name].append((sample, instance))
    rows = []
    for entry in dataset.classes.classes:
        pairs = found[entry.name]
        areas = [b.area for _, i in pairs if (b := i.bounds()) is not None]
        known = known_class(entry.name, entry.aliases)
        rows.append(
            ClassFound(
                name=entry.name,
                kind=entry.kind,
                symmetric=entry.symmetric or known.symmetric,
                known_as=known.embedded,
                objects=len(pairs),
                train=sum(splits[s.id] == "train" for s, _ in pairs),
                images=len({s.id for s, _ in pairs}),
                median_px=float(np.median(np.sqrt(areas))) if areas else None,
            )
        )
    return tuple(rows)


def _ground(
    request: Request, samples: Sequence[Sample], instances: Sequence[Instance]
) -> tuple[float | None, str, str]:
    """(metres a pixel, files | given | guess | unknown, from what)."""
    if request.gsd_m is not None:
        return request.gsd_m, "given", "--gsd"
    told = [s.layout.gsd_m for s in samples if s.layout.gsd_m is not None]
    if told:
        same = f"{len(told)} of {len(samples)} images say it"
        spread = "" if min(told) == max(told) else f", from {min(told):.3g} to {max(told):.3g}"
        return float(np.median(told)), "files", same + spread
    by_class: dict[str, list[float]] = {}
    for instance in instances:
        box = instance.bounds()
        if box is not None and length_m(instance.label) is not None:
            by_class.setdefault(instance.label, []).append(_long_side(instance))
    by_class = {name: sides for name, sides in by_class.items() if len(sides) >= ENOUGH}
    if not by_class:
        return None, "unknown", "no file says it, and no class has a size that is the same anywhere"
    name = max(by_class, key=lambda n: len(by_class[n]))
    metres, pixels = length_m(name) or 1.0, float(np.median(by_class[name]))
    why = f"the median {name} is {pixels:.0f} px long, and about {metres:g} m in truth"
    return round(metres / pixels, 3), "guess", why


def _long_side(instance: Instance) -> float:
    if instance.quad is not None:
        a, b, c, _ = instance.quad
        return max(math.dist(a, b), math.dist(b, c))
    box = instance.bounds()
    return 0.0 if box is None else max(box.width, box.height)
