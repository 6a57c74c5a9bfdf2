"""The ground of a given layout, also where its objects hide it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.records import Instance, Layout

__all__ = ["StuffMap", "stuff_map"]

StuffMap = npt.NDArray[np.int32]


def stuff_map(layout: Layout, stuff: list[Instance], things: list[Instance]) -> StuffMap:
    """Which stuff (1 + position) covers each pixel; under things it is that of the nearest."""
    ground: StuffMap = np.zeros((layout.height, layout.width), dtype=np.int32)
    for number, instance in enumerate(stuff, start=1):
        if instance.mask is not None:
            instance.mask.paint(ground, number)
    if not stuff:
        return ground
    hidden = np.zeros(ground.shape, dtype=np.uint8)
    for instance in things:
        if instance.mask is not None:
            instance.mask.paint(hidden, 1)
    # a ring more: pixels that an object covers by less than half belong to nothing
    hidden = np.asarray(cv2.dilate(hidden, np.ones((3, 3), dtype=np.uint8)), dtype=np.uint8)
    hidden[ground > 0] = 0
    if not hidden.any() or hidden.all():
        return ground
    _, nearest = cv2.distanceTransformWithLabels(
        hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(int(nearest.max()) + 1, dtype=np.int32)
    values[nearest[hidden == 0]] = ground[hidden == 0]
    return np.where(hidden > 0, values[nearest], ground).astype(np.int32)
