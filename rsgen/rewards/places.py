"""Where in an image a reward comes from: the worth of each object on a grid over the frame.

A layout's noise is independent from place to place, and whether one object turns out well hangs
mostly on the noise around it. A reward that tells its parts by object lets each place learn from
its own; from the image's sum, every place also learns the luck of all the other objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rsgen.geometry import Box

__all__ = ["SIDE", "worth_by_place"]

SIDE = 32  # cells of the grid
GROWN = 0.25  # of an object's longer side: what is painted around it makes it plain, or not
MARGIN = 1 / 32  # of the frame's longer side, at least

Floats = npt.NDArray[np.float64]


def worth_by_place(
    boxes: Sequence[Box | None], worth: Sequence[float] | Floats, width: int, height: int
) -> Floats:
    """[SIDE, SIDE] float64: the sum of what the objects around each cell are worth.

    Args:
        boxes: of the objects, in pixels of the frame; parts outside it do not count, nor do None
            and boxes that are not finite.
        worth: their shares of the image's reward; not finite: none.
    """
    grid = np.zeros((SIDE, SIDE))
    least = MARGIN * max(width, height)
    for box, value in zip(boxes, worth, strict=True):
        if box is None or not all(map(math.isfinite, (value, box.x0, box.y0, box.x1, box.y1))):
            continue
        grown = max(GROWN * max(box.width, box.height), least)
        columns = _cells(box.x0 - grown, box.x1 + grown, width)
        grid[_cells(box.y0 - grown, box.y1 + grown, height), columns] += value
    return grid


def _cells(start: float, end: float, length: int) -> slice:
    """The cells that an interval of an axis touches."""
    first, last = math.floor(start * SIDE / length), math.ceil(end * SIDE / length)
    return slice(min(max(first, 0), SIDE), min(max(last, 0), SIDE))
