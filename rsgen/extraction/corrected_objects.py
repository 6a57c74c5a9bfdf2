"""What becomes of each object of an image that a person has corrected.

    untouched   the outline is the one that was given out: the old object stays, with its mask,
                score and origin (an export simplifies outlines; that alone changes nothing)
    redrawn     another outline over an old object (same class, IoU of at least 0.5): heading,
                caption and attributes are carried over where the correction has none, and the
                oriented box is fitted anew
    relabelled  over an old object of another class: likewise, but for the caption
    added       over no old object

A mask that a person has drawn has origin `correction` and score 1, and no backend touches it. A
corrected box without a mask gets its mask from the backend. Stuff classes change only where the
correction has the class.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rsgen.extraction.base import CORRECTION
from rsgen.formats import Holds
from rsgen.formats.names import LabelNames, paint_order
from rsgen.geometry import (
    Quad,
    as_array,
    box_iou,
    heading_of,
    min_area_quad,
    quad_from_tuple,
    quad_iou,
)
from rsgen.pool.canonical import FRONT_GUESS
from rsgen.records import ClassTable, Instance, Layout

__all__ = ["correct_layout"]

SAME_PX = 1.0  # formats of whole pixels give a corner back that far off
SAME_OBJECT = 0.5  # IoU


def correct_layout(
    old: Layout, fixed: Layout, classes: ClassTable, holds: Holds, oriented: bool
) -> tuple[Layout, Counter[str]]:
    """(the layout with its labels corrected, what was done to how many things).

    The very same `old` comes back where nothing was changed. `holds` is what the corrections'
    format keeps of an object; `oriented`: whether added masks get an oriented box.
    """
    changes: Counter[str] = Counter()
    given = {k: i for k, i in enumerate(old.instances) if not classes.is_stuff(i.label)}
    drawn = [i for i in fixed.instances if not classes.is_stuff(i.label)]
    held = {k: h for k, i in given.items() if (h := holds.instance(i, old, classes)) is not None}
    result: dict[int, Instance | None] = dict(enumerate(old.instances))
    added: list[Instance] = []
    matches = _matches({k: given[k] for k in held}, held, drawn)
    for k in held:
        if k not in matches.values():
            result[k] = None
            changes["deleted"] += 1
    for number, instance in enumerate(drawn):
        if number not in matches:
            added.append(_drawn(instance, None, classes, oriented))
            changes["added"] += 1
            continue
        place = matches[number]
        result[place], what = _changed(instance, given[place], held[place], classes)
        changes[what] += 1
    stuff = {i.label: i for i in fixed.instances if classes.is_stuff(i.label)}
    for k, instance in enumerate(old.instances):
        if k not in given and instance.label in stuff:
            new = stuff.pop(instance.label)
            if new.mask != instance.mask:
                result[k] = _drawn(new, instance, classes, oriented=False)
    added += [_drawn(i, None, classes, oriented=False) for i in stuff.values()]
    instances = [i for i in result.values() if i is not None] + added
    if tuple(instances) == old.instances:
        return old, changes
    return replace(old, instances=paint_order(instances, LabelNames(classes, {}))), changes


def _matches(
    given: Mapping[int, Instance], held: Mapping[int, Instance], drawn: Sequence[Instance]
) -> dict[int, int]:
    """Position in `drawn` -> key of the old object that it is; each is taken once.

    Outlines that nobody moved come first, then objects of the class by IoU, then any.
    """
    pairs = sorted(_pairs(given, held, drawn), reverse=True)
    found: dict[int, int] = {}
    taken: set[int] = set()
    for _, _, _, number, k in pairs:
        if number not in found and k not in taken:
            found[number] = k
            taken.add(k)
    return found


def _pairs(
    given: Mapping[int, Instance], held: Mapping[int, Instance], drawn: Sequence[Instance]
) -> Iterator[tuple[bool, bool, float, int, int]]:
    """(same class, same outline, IoU, position in drawn, key) of objects that overlap enough."""
    keys = [k for k, i in given.items() if i.bounds() is not None]
    ours = np.array([_corners(given[k]) for k in keys]).reshape(-1, 4)
    for number, instance in enumerate(drawn):
        x0, y0, x1, y1 = _corners(instance)
        near = (ours[:, 0] < x1) & (x0 < ours[:, 2]) & (ours[:, 1] < y1) & (y0 < ours[:, 3])
        for place in np.flatnonzero(near).tolist():
            k = keys[place]
            same = _same_outline(instance, given[k], held[k])
            overlap = 1.0 if same else _iou(instance, given[k])
            if overlap >= SAME_OBJECT:
                yield instance.label == given[k].label, same, overlap, number, k


def _corners(instance: Instance) -> tuple[float, float, float, float]:
    box = instance.bounds()
    assert box is not None, "readers give every label a place"
    return box.x0, box.y0, box.x1, box.y1


def _iou(a: Instance, b: Instance) -> float:
    """The better of masks' and outlines' IoU: a mask is redrawn because the old one was bad."""
    one, other = a.bounds(), b.bounds()
    assert one is not None and other is not None, "both have a place"
    if a.quad is not None and b.quad is not None:
        best = quad_iou(a.quad, b.quad)
    else:
        best = box_iou(one, other)
    return max(best, a.mask.iou(b.mask)) if a.mask is not None and b.mask is not None else best


def _same_outline(drawn: Instance, old: Instance, held: Instance) -> bool:
    """Whether nobody moved it: what came back is what the format holds of the old object."""
    if drawn.mask is not None:
        return drawn.mask in (held.mask, old.mask)
    if held.mask is not None:
        return False
    if drawn.quad is not None and held.quad is not None:
        turns = [np.roll(as_array(held.quad), -k, axis=0) for k in range(4)]
        return any(bool(np.allclose(as_array(drawn.quad), t, atol=SAME_PX)) for t in turns)
    if drawn.quad is not None or held.quad is not None:
        return False
    return bool(np.allclose(_corners(drawn), _corners(held), atol=SAME_PX))


def _changed(
    drawn: Instance, old: Instance, held: Instance, classes: ClassTable
) -> tuple[Instance, str]:
    """(the object as corrected, what was done to it)."""
    same = _same_outline(drawn, old, held)
    if not same:
        what = "redrawn" if drawn.label == old.label else "relabelled"
        return _drawn(drawn, old, classes, oriented=old.quad is not None), what
    kept = replace(
        old,
        label=drawn.label,
        attributes={**old.attributes, **drawn.attributes},
        truncated=old.truncated or drawn.truncated,
        difficult=old.difficult or drawn.difficult,
    )
    if drawn.label == old.label:
        kept = replace(kept, caption=drawn.caption or old.caption)
        return (old, "untouched") if kept == old else (kept, "marked")
    kept = replace(kept, caption=drawn.caption, heading_rad=_heading(drawn, old, classes))
    if old.origin == "box":  # the typical outline of the class that it is not
        kept = replace(kept, mask=None, scores={}, reasons=(), origin="annotation")
    return kept, "relabelled"


def _heading(drawn: Instance, old: Instance | None, classes: ClassTable) -> float | None:
    if classes.resolve(drawn.label).symmetric:
        return None
    if drawn.heading_rad is None and old is not None:
        return old.heading_rad
    return drawn.heading_rad


def _drawn(drawn: Instance, old: Instance | None, classes: ClassTable, oriented: bool) -> Instance:
    """An object as a person drew it, with what the correction does not say from the old one."""
    heading = _heading(drawn, old, classes)
    quad = drawn.quad
    if quad is None and drawn.mask is not None and oriented:
        quad = min_area_quad(np.concatenate(drawn.mask.polygons()), heading)
    elif quad is not None and heading is not None:
        quad = _facing(quad, heading)
        heading = heading if drawn.heading_rad is not None else heading_of(quad)
    elif quad is None and drawn.mask is None:
        heading = None  # of an upright box nobody knows which way it lies
    same_class = old is not None and old.label == drawn.label
    attributes = {**(old.attributes if old is not None else {}), **drawn.attributes}
    attributes.pop(FRONT_GUESS, None)  # a guess from the outline that was wrong
    by_hand = drawn.mask is not None
    return Instance(
        label=drawn.label,
        box=drawn.bounds() if not classes.is_stuff(drawn.label) else None,
        quad=quad,
        mask=drawn.mask,
        heading_rad=heading,
        caption=drawn.caption or (old.caption if old is not None and same_class else None),
        attributes=attributes,
        truncated=drawn.truncated or (old is not None and old.truncated),
        difficult=drawn.difficult or (old is not None and old.difficult),
        iscrowd=drawn.iscrowd,
        scores={"mask": 1.0} if by_hand else {},
        origin=CORRECTION if by_hand else "annotation",
    )


def _facing(quad: Quad, heading: float) -> Quad:
    """The same corners, the edge that faces the heading best first."""
    turns: Iterable[Quad] = [quad_from_tuple(np.roll(as_array(quad), -k, axis=0)) for k in range(4)]
    return min(turns, key=lambda q: abs(math.remainder(heading_of(q) - heading, 2 * math.pi)))
