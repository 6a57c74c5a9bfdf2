"""Labels of composed images, pixel by pixel: who is seen where, and what is left of a label.

Everything is exact: painting the labels of a composite (raster.py) gives the label map of one
image where its objects were pasted, and that of the other elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.raster import instance_mask, paint_positions
from rsgen.records import ClassTable, Instance, Layout

__all__ = ["STAND_IN", "composed_layout", "one_class", "owners"]

STAND_IN = "box"  # origin of masks that are not the object's own shape

BoolImage = npt.NDArray[np.bool_]
Owners = npt.NDArray[np.int32]


def owners(layout: Layout, classes: ClassTable) -> Owners:
    """int32 [H, W]: 1 + position of the instance that is seen there, stuff included, else 0."""
    found = np.zeros((layout.height, layout.width), dtype=np.int32)
    for position in paint_positions(layout.instances, cache(classes.is_stuff)):
        mask = instance_mask(layout.instances[position], layout.width, layout.height)
        if mask is not None:
            mask.paint(found, position + 1)
    return found


def composed_layout(
    base: Layout,
    donor: Layout,
    chosen: Collection[int],
    seen: tuple[Owners, Owners],
) -> tuple[Layout, BoolImage] | None:
    """The labels of `base` with instances of `donor` on top, and where those are seen.

    `chosen` are positions in `donor`, `seen` the owners of base and donor. The region, bool
    [H, W], is where a chosen instance is seen in the donor. What it hides of the base's labels
    is cut off, a label that it hides wholly is left out. None where nothing would be seen.
    """
    region = np.isin(seen[1], [position + 1 for position in chosen])
    if not region.any():
        return None
    size = (base.width, base.height)
    below = [
        _within(instance, ~region, seen[0] == k + 1, size)
        for k, instance in enumerate(base.instances)
    ]
    above = [_within(donor.instances[k], region, seen[1] == k + 1, size) for k in sorted(chosen)]
    found = tuple(instance for instance in [*below, *above] if instance is not None)
    return replace(base, instances=found), region


def one_class(layout: Layout, classes: ClassTable, label: str) -> Layout:
    """The labels of one class alone, as they are seen: what lies on them stays cut out."""
    wanted = classes.index(label)
    mine = [classes.index(i.label) == wanted for i in layout.instances]
    seen = owners(layout, classes)
    region = np.isin(seen, [k + 1 for k, own in enumerate(mine) if own])
    size = (layout.width, layout.height)
    kept = [
        _within(instance, region, seen == k + 1, size)
        for k, instance in enumerate(layout.instances)
        if mine[k]
    ]
    return replace(layout, instances=tuple(i for i in kept if i is not None))


def _within(
    instance: Instance, allowed: BoolImage, visible: BoolImage, size: tuple[int, int]
) -> Instance | None:
    """What is left of an instance where only `allowed` pixels count; None where nothing is.

    A cut one keeps the pixels that are seen alone: the order in which instances are painted
    goes by their size, which has changed. Its quad stays that of the whole object, as where an
    image's border cuts it; its box gives way on the sides where the mask does.
    """
    whole = instance_mask(instance, *size)
    if whole is None:
        return instance
    pixels = whole.to_array(*size)
    if bool(allowed[pixels].all()):
        return instance
    mask = Mask.from_array(pixels & visible & allowed)
    if mask is None:
        return None
    # a filled quad or box is no shape of its own
    origin = instance.origin if instance.mask is not None else STAND_IN
    box = None if instance.box is None else _following(instance.box, whole.box, mask.box)
    return replace(instance, mask=mask, box=box, truncated=True, origin=origin)


def _following(box: Box, before: Box, after: Box) -> Box:
    """A box whose mask shrank: sides that the mask left behind move to it, others stay."""
    moved = Box(
        box.x0 if after.x0 == before.x0 else after.x0,
        box.y0 if after.y0 == before.y0 else after.y0,
        box.x1 if after.x1 == before.x1 else after.x1,
        box.y1 if after.y1 == before.y1 else after.y1,
    )
    return moved if moved.area > 0 else after
