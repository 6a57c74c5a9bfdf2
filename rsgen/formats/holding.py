"""What a format holds of a sample: the sample as it comes back, and what is lost on the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rsgen.formats.common import SAMPLE_FIELDS, Format, things_only
from rsgen.geometry import as_array, clockwise
from rsgen.records import WEIGHT, ClassTable, Instance, Layout, Sample

__all__ = ["SAMPLE_WORDS", "as_held", "difference", "losses"]

# Labels are written with 4 decimals (DOTA) or better; readers clip at the border.
TOLERANCE_PX = 1e-3
TOLERANCE_RAD = 1e-4

Numbers = npt.NDArray[np.float64]

INSTANCE_WORDS = {
    "quad": "oriented boxes",
    "mask": "masks",
    "heading_rad": "headings",
    "caption": "captions",
    "attributes": "object attributes",
    "difficult": "marks of difficult objects",
    "iscrowd": "marks of crowds",
    "truncated": "marks of cut objects",
    "scores": "object scores",
}
SAMPLE_WORDS = {
    "attributes": "image attributes",
    "geo": "positions on the ground",
    "gsd_m": "ground sampling distances",
    "prompt": "prompts",
    "scene": "names of scenes",
    "scores": "image scores",
}

LAYOUT_FIELDS = frozenset({"gsd_m", "scene"})


def as_held(sample: Sample, classes: ClassTable, chosen: Format) -> Sample:
    """The sample as it comes back when the format's files are read."""
    held = (chosen.holds.instance(i, sample.layout, classes) for i in sample.layout.instances)
    layout = replace(sample.layout, instances=tuple(i for i in held if i is not None))
    if "gsd_m" not in chosen.holds.sample:
        layout = replace(layout, gsd_m=None)
    if "scene" not in chosen.holds.sample:
        layout = replace(layout, scene=None)
    if chosen.holds.sample == SAMPLE_FIELDS:
        return replace(sample, layout=layout)
    kept = {name: getattr(sample, name) for name in chosen.holds.sample - LAYOUT_FIELDS}
    if chosen.holds.weights and WEIGHT in sample.scores:
        kept["scores"] = {WEIGHT: sample.scores[WEIGHT]}
    return Sample(sample.id, layout, sample.image, split=sample.split, **kept)


def losses(sample: Sample, classes: ClassTable, chosen: Format) -> Counter[str]:
    """What the format cannot hold of a sample, in words, with how many of each."""
    lost: Counter[str] = Counter()
    for instance in sample.layout.instances:
        kept = chosen.holds.instance(instance, sample.layout, classes)
        if kept is None:
            lost[_why_left_out(instance, sample.layout, classes)] += 1
            continue
        for name, words in INSTANCE_WORDS.items():
            lost[words] += bool(_is_set(instance, name) and not _is_set(kept, name))
        lost["object weights"] += WEIGHT in instance.scores and WEIGHT not in kept.scores
    for name, words in SAMPLE_WORDS.items():
        owner = sample.layout if name in LAYOUT_FIELDS else sample
        if name == "attributes" and sample.attributes.keys() <= chosen.holds.attributes:
            continue
        lost[words] += bool(_is_set(owner, name) and name not in chosen.holds.sample)
    weights = chosen.holds.weights or "scores" in chosen.holds.sample
    lost["image weights"] += WEIGHT in sample.scores and not weights
    return +lost


def _why_left_out(instance: Instance, layout: Layout, classes: ClassTable) -> str:
    if classes.is_stuff(instance.label):
        return "masks of stuff classes"
    inside = things_only(instance, layout, classes) is not None
    return "objects of classes that it does not have" if inside else "objects outside the image"


def _is_set(record: object, name: str) -> bool:
    value = getattr(record, name)
    if name == "scores":
        return bool(value.keys() - {WEIGHT})
    return value is not None and value is not False and value != {}


def difference(wanted: Sample, read: Sample, classes: ClassTable) -> str | None:
    """What of `wanted` did not come back in `read`, in a line; None when all did.

    Objects are matched by class and nearest corners. Where a heading is wanted the first edge
    of a quad must be the same, else any corner may come first.
    """
    ours, theirs = wanted.layout, read.layout
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        return f"size {theirs.width} x {theirs.height}, expected {ours.width} x {ours.height}"
    if ours.gsd_m is not None and not math.isclose(ours.gsd_m, theirs.gsd_m or 0, rel_tol=1e-6):
        return f"gsd {theirs.gsd_m}, expected {ours.gsd_m}"
    by_label = _by_label(ours, classes), _by_label(theirs, classes)
    for label in sorted({*by_label[0], *by_label[1]}):
        a, b = (found.get(label, []) for found in by_label)
        if len(a) != len(b):
            return f"{len(b)} objects of {label}, expected {len(a)}"
        for one, other, off in _matched(a, b):
            text = f"off by {off:.4g} pixels" if off > TOLERANCE_PX else _details(one, other)
            if text is not None:
                return f"an object of {label}: {text}"
    return None


@dataclass(frozen=True)
class _Shape:
    """An instance with what is compared: its box inside the image, and quads that may be met."""

    instance: Instance
    box: Numbers  # [4]
    quads: Numbers  # [A, 8]


def _by_label(layout: Layout, classes: ClassTable) -> dict[str, list[_Shape]]:
    found: dict[str, list[_Shape]] = {}
    for instance in layout.instances:
        box = instance.bounds()
        if box is None:
            continue
        inside = box.clip(layout.width, layout.height)
        corners = np.array([inside.x0, inside.y0, inside.x1, inside.y1])
        label = classes.resolve(instance.label).name
        found.setdefault(label, []).append(_Shape(instance, corners, _quads(instance)))
    return found


def _quads(instance: Instance) -> Numbers:
    """The corner orders that may be read back, float64 [A, 8]."""
    if instance.quad is None:
        return np.zeros((0, 8))
    turns = (0,) if instance.heading_rad is not None else (0, 1, 2, 3)
    corners = as_array(clockwise(instance.quad))
    return np.array([np.roll(corners, -k, axis=0).ravel() for k in turns])


def _matched(
    wanted: Sequence[_Shape], read: Sequence[_Shape]
) -> list[tuple[Instance, Instance, float]]:
    """(wanted, its nearest free one, largest coordinate difference in pixels)."""
    boxes = np.array([shape.box for shape in read]).reshape(-1, 4)
    corners = np.full((len(read), 8), np.nan)
    for row, shape in enumerate(read):
        if len(shape.quads):
            corners[row] = shape.quads[0]
    free = np.ones(len(read), dtype=bool)
    pairs = []
    for shape in wanted:
        off = np.abs(boxes - shape.box).max(axis=1)
        if len(shape.quads):
            turned = np.abs(corners[:, None] - shape.quads).max(axis=2).min(axis=1)
            off = np.maximum(off, np.nan_to_num(turned, nan=np.inf))
        off[~free] = np.inf
        best = off[free].min()
        # Objects with equal boxes are told apart by their masks.
        near = np.flatnonzero(free & (off <= best + TOLERANCE_PX)).tolist()
        same = [k for k in near if read[k].instance.mask == shape.instance.mask]
        nearest = int(same[0] if same else off.argmin())
        free[nearest] = False
        pairs.append((shape.instance, read[nearest].instance, float(off[nearest])))
    return pairs


def _details(wanted: Instance, read: Instance) -> str | None:
    if wanted.mask is not None and wanted.mask != read.mask:
        return "another mask"
    if wanted.heading_rad is not None and (read.heading_rad is not None or wanted.quad is None):
        found = math.nan if read.heading_rad is None else read.heading_rad
        turned = math.remainder(wanted.heading_rad - found, 2 * math.pi)
        if not abs(turned) <= TOLERANCE_RAD:
            return f"heading {read.heading_rad}, expected {wanted.heading_rad}"
    for name in ("difficult", "iscrowd"):
        if getattr(wanted, name) and not getattr(read, name):
            return f"the mark {name} is lost"
    return None
