"""Layouts from given ones: the same labels with other shapes, or the same place rearranged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError, UsageError
from rsgen.geometry import (
    Quad,
    RotatedBox,
    box_quad,
    clockwise,
    heading_of,
    quad_to_rotated_box,
    rotated_box_to_quad,
    wrap_angle,
)
from rsgen.layout.from_pool import PlannedLayout
from rsgen.layout.ground import SMALLEST_PX, visible_part
from rsgen.layout.place import inside, place_mask
from rsgen.layout.stuff import StuffMap, stuff_map
from rsgen.mask import Mask
from rsgen.pool import MaskPool, canonical_pose
from rsgen.raster import fill_quad
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample

__all__ = ["Perturbation", "plan_from_layout"]

BoolImage = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """How far `perturb` goes. Moves are shares of the object's long side."""

    move: float = 0.4
    turn_rad: float = math.radians(10)
    resize: float = 0.12
    drop: float = 0.1
    duplicate: float = 0.12
    swap: float = 0.5  # only where own masks are allowed; else every mask is swapped
    tries: int = 8


@dataclass(frozen=True, slots=True)
class _Shape:
    """An object to place: canonical pixels, the label it has, and where the mask is from."""

    pixels: BoolImage
    quad: Quad
    heading_known: bool
    origin: str
    sources: tuple[str, ...]
    own: bool = False


@dataclass
class _Work:
    """The layout being made: what is taken, what is placed, what became of the rest."""

    sample: Sample
    classes: ClassTable | None
    pool: MaskPool | None
    rng: np.random.Generator
    allow_same_source: bool
    seen_in: frozenset[str] = frozenset()
    things: list[Instance] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def entry(self, label: str) -> ObjectClass:
        """The class of a label; an own table wins over the pool's, none makes it a thing."""
        for table in (self.classes, None if self.pool is None else self.pool.classes):
            found = None if table is None else table.find(label)
            if found is not None:
                return found
        return ObjectClass(label)

    def is_stuff(self, instance: Instance) -> bool:
        """By class; without a table, a mask that has neither box nor quad is stuff."""
        known = self.entry(instance.label).kind == "stuff"
        return known or (instance.box is None and instance.quad is None)


def plan_from_layout(
    sample: Sample,
    pool: MaskPool | None,
    rng: np.random.Generator,
    *,
    mode: Literal["resample", "perturb"] = "resample",
    allow_same_source: bool = False,
    classes: ClassTable | None = None,
    amount: Perturbation = Perturbation(),
    seen_in: Iterable[str] = (),
) -> PlannedLayout:
    """A layout made of a given one; its stuff stays, with holes of moved objects closed.

    resample: every label stays where it is and gets the mask of another object of its class,
    of similar size and aspect, mapped onto it exactly.
    perturb: objects are moved, turned, resized, swapped, dropped and doubled; each label is
    moved with its object. They stay on the ground they stood on, and off each other.

    With a pool, masks seen in the sample's own image (its parent scene, or `seen_in`: other
    names of it) are not used unless `allow_same_source`; an object whose class has no other
    mask is left out and counted as `dropped`. Without a pool the layout's own shapes are used
    and counted as `same_source`.
    Labels without a mask are filled from their quad or box.

    Raises:
        UsageError: an unknown mode.
    """
    if mode not in ("resample", "perturb"):
        raise UsageError(f"unknown layout mode {mode!r}", hint="use resample or perturb")
    own = frozenset({sample.id, sample.id.split("#", 1)[0], sample.parent, *seen_in})
    work = _Work(sample, classes, pool, rng, allow_same_source, own)
    given = sample.layout
    stuff = [i for i in given.instances if work.is_stuff(i)]
    things = [i for i in given.instances if not work.is_stuff(i)]
    ground = stuff_map(given, stuff, things)
    if mode == "resample":
        for instance in things:
            _resample(work, instance)
    else:
        _perturb(work, things, ground, amount)
    layout = replace(given, instances=_finish(given, stuff, ground, work.things))
    work.counts["placed"] = len(work.things)
    return PlannedLayout(
        layout=layout,
        template=mode,
        sources=tuple(sorted({*work.sources, sample.id})),
        notes=tuple(f"{text}: {n}" for text, n in sorted(work.notes.items())),
        counts=dict(sorted(work.counts.items())),
    )


# --- shapes ------------------------------------------------------------------------------


def _own_shape(work: _Work, instance: Instance) -> _Shape | None:
    """The instance's mask in its canonical pose; its quad or box filled where it has none."""
    entry = work.entry(instance.label)
    source = replace(instance, mask=instance.mask or _filled(work.sample.layout, instance))
    pose = canonical_pose(source, symmetric=entry.symmetric)
    if pose is None:
        return None
    known = instance.heading_rad is not None and not entry.symmetric
    return _Shape(pose.pixels, pose.quad, known, instance.origin, (work.sample.id,), own=True)


def _filled(layout: Layout, instance: Instance) -> Mask | None:
    quad = instance.quad
    if quad is None:
        quad = None if instance.box is None else box_quad(instance.box)
    return None if quad is None else fill_quad(quad, layout.width, layout.height)


def _label_quad(work: _Work, instance: Instance) -> Quad | None:
    """The oriented label of an instance: its quad, else the rectangle of its mask's pose."""
    if instance.quad is not None:
        return clockwise(instance.quad)
    own = _own_shape(work, instance)
    return None if own is None else own.quad


def _pool_shape(work: _Work, instance: Instance, quad: Quad) -> _Shape | None:
    """Another object's mask for a label; None where the pool has none to give."""
    pool = work.pool
    if pool is None:
        return None
    label = _pool_label(pool, work.entry(instance.label))
    if label is None:
        return None
    box = quad_to_rotated_box(quad)
    known = instance.heading_rad is not None
    if not known and box.h > box.w:  # the pool lays what has no front along its long side
        quad = (quad[1], quad[2], quad[3], quad[0])
        box = quad_to_rotated_box(quad)
    exclude = None if work.allow_same_source else work.seen_in
    try:
        mask = pool.draw(
            label, work.rng, size_px=box.w, aspect=box.w / max(box.h, 1e-6), exclude_source=exclude
        )
    except DataError:
        return None
    front = mask.pose == "heading" and not work.entry(instance.label).symmetric
    if front and not known and work.rng.random() < 0.5:  # either end may be the front
        quad = (quad[2], quad[3], quad[0], quad[1])
    return _Shape(mask.pixels, quad, known or front, f"pool:{mask.id}", mask.sources)


def _pool_label(pool: MaskPool, entry: ObjectClass) -> str | None:
    for name in (entry.name, *entry.aliases):
        found = pool.classes.find(name)
        if found is not None and found.name in pool.labels:
            return found.name
    return None


def _place(work: _Work, instance: Instance, shape: _Shape, mask: Mask) -> None:
    """Add an object: the label is the quad its mask was mapped to."""
    layout = work.sample.layout
    work.things.append(
        replace(
            instance,
            box=mask.box,
            quad=shape.quad,
            mask=mask,
            heading_rad=heading_of(shape.quad) if shape.heading_known else None,
            truncated=(instance.truncated and shape.own)
            or not inside(shape.quad, layout.width, layout.height),
            origin=shape.origin,
            scores={},
            attributes={k: v for k, v in instance.attributes.items() if k != "occluded"},
        )
    )
    work.sources.update(shape.sources)
    parents = {source.split("#", 1)[0] for source in shape.sources}
    if shape.own or not parents.isdisjoint(work.seen_in):
        work.count("same_source")


def _drop(work: _Work, instance: Instance, why: str) -> None:
    work.count("dropped")
    text = f"{instance.label} {why}"
    work.notes[text] = work.notes.get(text, 0) + 1


# --- modes -------------------------------------------------------------------------------


def _resample(work: _Work, instance: Instance) -> None:
    layout = work.sample.layout
    if work.pool is None:
        # its own mask, to the pixel: no sampling in between
        mask = instance.mask or _filled(layout, instance)
        if mask is None:
            _drop(work, instance, "outside the image")
            return
        work.things.append(replace(instance, mask=mask, box=instance.box or mask.box))
        work.sources.add(work.sample.id)
        work.count("same_source")
        return
    quad = _label_quad(work, instance)
    if quad is None:
        _drop(work, instance, "outside the image")
        return
    shape = _pool_shape(work, instance, quad)
    if shape is None:
        _drop(work, instance, "without a mask from another image")
        return
    mask = place_mask(shape.pixels, shape.quad, layout.width, layout.height)
    if mask is None:
        _drop(work, instance, "too thin for its new mask")
        return
    _place(work, instance, shape, mask)


def _perturb(
    work: _Work, things: Iterable[Instance], ground: StuffMap, amount: Perturbation
) -> None:
    """Large objects first, so that small ones find room between them."""
    rng = work.rng
    taken = np.zeros(ground.shape, dtype=bool)
    ordered = sorted(things, key=lambda i: -_size(i))
    for instance in ordered:
        if rng.random() < amount.drop:
            _drop(work, instance, "left out on purpose")
            continue
        copies = 2 if rng.random() < amount.duplicate else 1
        for copy in range(copies):
            shape = _shape_for(work, instance, amount)
            if shape is None:
                _drop(work, instance, "without a mask from another image")
                break
            if _settle(work, instance, shape, ground, taken, amount, far=copy > 0):
                if copy:
                    work.count("doubled")
            elif copy == 0:
                _drop(work, instance, "without room")
                break


def _size(instance: Instance) -> float:
    box = instance.bounds()
    return 0.0 if box is None else box.area


def _shape_for(work: _Work, instance: Instance, amount: Perturbation) -> _Shape | None:
    swap = work.pool is not None and (not work.allow_same_source or work.rng.random() < amount.swap)
    if not swap:
        return _own_shape(work, instance)
    quad = _label_quad(work, instance)
    return None if quad is None else _pool_shape(work, instance, quad)


def _settle(
    work: _Work,
    instance: Instance,
    shape: _Shape,
    ground: StuffMap,
    taken: BoolImage,
    amount: Perturbation,
    *,
    far: bool,
) -> bool:
    """Find a place near the old one (further away for a copy): first wide, then narrow tries."""
    if far and shape.own and instance.truncated:
        return False
    height, width = ground.shape
    whole = inside(shape.quad, width, height)
    stood = _stood_on(shape, ground)
    cut = shape.own and instance.truncated  # half an object may not leave the border
    for attempt in range(amount.tries if cut else 0, amount.tries + 1):
        reach = 1.0 - attempt / amount.tries
        if far:
            reach = 1.0 + 3.0 * attempt / amount.tries
        moved = replace(shape, quad=_moved(work.rng, shape.quad, amount, reach, far))
        if whole and not inside(moved.quad, width, height):
            continue
        mask = place_mask(moved.pixels, moved.quad, width, height)
        if mask is None or mask.area < SMALLEST_PX:
            continue
        window = np.s_[mask.y0 : mask.y0 + mask.height, mask.x0 : mask.x0 + mask.width]
        crop = mask.crop()
        if taken[window][crop].any():
            continue
        if reach > 0 and not np.isin(ground[window][crop], stood).mean() >= 0.9:
            continue
        taken[window] |= crop
        _place(work, instance, moved, mask)
        return True
    return False


def _moved(
    rng: np.random.Generator, quad: Quad, amount: Perturbation, reach: float, far: bool
) -> Quad:
    """The rectangle moved, turned and resized, at most by `reach` times the amounts."""
    box = quad_to_rotated_box(quad)
    long_side = max(box.w, box.h)
    direction = float(rng.uniform(-math.pi, math.pi))
    least = 1.1 if far else 0.0
    distance = long_side * (least + float(rng.uniform(0, 1)) * amount.move * reach)
    scale = 1 + float(rng.uniform(-1, 1)) * amount.resize * min(reach, 1.0)
    angle = box.angle_rad + float(rng.uniform(-1, 1)) * amount.turn_rad * min(reach, 1.0)
    return rotated_box_to_quad(
        RotatedBox(
            box.cx + distance * math.cos(direction),
            box.cy + distance * math.sin(direction),
            box.w * scale,
            box.h * scale,
            wrap_angle(angle),
        )
    )


# --- stuff -------------------------------------------------------------------------------


def _stood_on(shape: _Shape, ground: StuffMap) -> npt.NDArray[np.int64]:
    """Kinds of ground that make up a fifth or more of what lies under an object."""
    height, width = ground.shape
    mask = place_mask(shape.pixels, shape.quad, width, height)
    if mask is None:
        return np.unique(ground).astype(np.int64)
    window = np.s_[mask.y0 : mask.y0 + mask.height, mask.x0 : mask.x0 + mask.width]
    counts = np.bincount(ground[window][mask.crop()])
    return np.flatnonzero(counts >= 0.2 * counts.sum())


def _finish(
    layout: Layout, stuff: list[Instance], ground: StuffMap, things: list[Instance]
) -> tuple[Instance, ...]:
    """Stuff first, then things from large to small, each with what can be seen of it."""
    ordered = sorted(things, key=lambda i: -(i.mask.area if i.mask else 0))
    free = np.ones((layout.height, layout.width), dtype=bool)
    shown = [v for i in reversed(ordered) if (v := visible_part(i, free)) is not None]
    below = []
    for number, instance in enumerate(stuff, start=1):
        mask = Mask.from_array((ground == number) & free)
        if mask is not None:
            below.append(replace(instance, mask=mask))
    return (*below, *reversed(shown))
