"""Scorer of label geometry: needs no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from shapely.geometry import Polygon
from shapely.geometry import box as shapely_box

from rsgen.geometry import Array, as_array, bounds, box_quad
from rsgen.images import Pixels
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import FloatArray, Level, is_thing
from rsgen.scorers.pixels import object_shape

__all__ = ["LabelGeometry"]


@dataclass(frozen=True)
class LabelGeometry:
    """How sound a label is, in [0, 1], an instance: the least of four shares.

    Area / `min_area_px`; box inside the image (not asked of truncated objects); mask inside
    its box times box spanned by the mask; mask not covered by another thing's mask. 0 for a
    box without area or with a corner that is not finite. NaN for stuff and crowds.
    """

    level: ClassVar[Level] = "instance"
    min_area_px: float = 4.0
    slack_px: float = 1.0  # a mask may reach this far over its box: rasters round

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        return [self.layout_scores(sample.layout) for sample in samples]

    def layout_scores(self, layout: Layout) -> FloatArray:
        """float32 [instances]."""
        shares = [self._own(instance, layout) for instance in layout.instances]
        free = _uncovered(layout)
        return np.asarray(
            [min(a, b) if not np.isnan(a) else a for a, b in zip(shares, free, strict=True)],
            dtype=np.float32,
        )

    def _own(self, instance: Instance, layout: Layout) -> float:
        if not is_thing(instance):
            return float("nan")
        corners = _corners(instance)
        if not np.isfinite(corners).all():
            return 0.0
        outline = Polygon(corners)
        if not outline.is_valid or outline.area <= 0:
            return 0.0
        share = min(1.0, float(outline.area) / self.min_area_px)
        if not instance.truncated:
            canvas = shapely_box(0, 0, layout.width, layout.height)
            share = min(share, float(outline.intersection(canvas).area / outline.area))
        return min(share, self._agreement(instance, corners, layout))

    def _agreement(self, instance: Instance, corners: Array, layout: Layout) -> float:
        """Mask pixels in the box, times how far the mask spans it; 1 without a mask."""
        if instance.mask is None:
            return 1.0
        rows, columns = np.nonzero(instance.mask.crop())
        points = np.stack([columns + instance.mask.x0, rows + instance.mask.y0], axis=1) + 0.5
        origin, along, across = corners[0], corners[1] - corners[0], corners[3] - corners[0]
        spans, inside = 1.0, np.ones(len(points), dtype=bool)
        for axis in (along, across):
            length = float(np.linalg.norm(axis))
            if length == 0:
                return 0.0
            place = (points - origin) @ (axis / length)
            inside &= (place >= -self.slack_px) & (place <= length + self.slack_px)
            spans *= min(1.0, float(np.ptp(place) + 1) / _visible(corners, axis, layout))
        return float(inside.mean()) * spans


def _corners(instance: Instance) -> Array:
    if instance.quad is not None:
        return as_array(instance.quad)
    return as_array(box_quad(instance.box or bounds(np.zeros((1, 2)))))


def _visible(corners: Array, axis: Array, layout: Layout) -> float:
    """Length of a box along one of its axes, of the part inside the image."""
    canvas = shapely_box(0, 0, layout.width, layout.height)
    part = Polygon(corners).intersection(canvas)
    if part.is_empty or part.geom_type != "Polygon":
        return float(np.linalg.norm(axis))
    place = np.asarray(part.exterior.coords) @ (axis / np.linalg.norm(axis))
    return float(np.ptp(place))


def _uncovered(layout: Layout) -> npt.NDArray[np.float64]:
    """Share of each thing's mask that no other thing's mask covers, float64 [instances]."""
    free = np.ones(len(layout.instances))
    masked = [k for k, i in enumerate(layout.instances) if i.mask is not None and is_thing(i)]
    times = np.zeros((layout.height, layout.width), dtype=np.uint8)
    shapes = {k: object_shape(layout.instances[k], layout.width, layout.height) for k in masked}
    for shape in shapes.values():
        if shape is not None:
            times[shape.window] += shape.pixels & (times[shape.window] < 255)
    for k, shape in shapes.items():
        if shape is not None and shape.pixels.any():
            free[k] = float((times[shape.window][shape.pixels] == 1).mean())
    return free
