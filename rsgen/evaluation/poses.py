"""How exactly found objects lie: centre, size, axis, heading; and where labels say nothing of it.

A class labelled with upright boxes has no axis: a judge that has learned from them finds upright
boxes, and the angle between those and slender objects that lie oblique says nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rsgen.detections import Detections
from rsgen.geometry import RotatedBox, quad_from_tuple, quad_to_rotated_box
from rsgen.matching import Asked, match_objects

__all__ = ["pose_errors", "upright_labels", "upright_notes"]

LOOSE = 0.3  # pose errors are taken of pairs that overlap this much: at 0.5 they flatter
SLENDER = 1.3  # long side to short side from which there is an axis
UPRIGHT = math.sin(math.radians(1))  # an edge that leans less lies along the image
STRAY = 0.02  # share of labels that may lie oblique in a class of upright boxes


def upright_labels(asked: Iterable[Asked]) -> frozenset[str]:
    """Classes whose objects are labelled with upright boxes."""
    count, oblique = Counter[str](), Counter[str]()
    for one in asked:
        edges = np.abs(one.quads[:, 1:3] - one.quads[:, 0:2])
        leans = (edges.min(axis=2) > UPRIGHT * edges.max(axis=2)).any(axis=1)
        count.update(one.labels)
        oblique.update(label for label, lean in zip(one.labels, leans, strict=True) if lean)
    return frozenset(k for k, n in count.items() if oblique[k] <= STRAY * n)


def upright_notes(sets: Mapping[str, Sequence[Asked]]) -> list[str]:
    """Why axes are not measured: upright classes with slender objects, for each set of images."""
    slender = {
        label
        for asked in sets.values()
        for one in asked
        for label, ratio in zip(one.labels, _ratios(one), strict=True)
        if ratio > SLENDER
    }
    found = {name: sorted(slender & upright_labels(asked)) for name, asked in sets.items()}
    return [
        f"axis error: not measured for {', '.join(labels)}, labelled with upright boxes in {name} "
        "images"
        for name, labels in found.items()
        if labels
    ]


def _ratios(asked: Asked) -> npt.NDArray[np.float64]:
    """Long side to short side of each object."""
    sides = np.linalg.norm(asked.quads[:, 1:3] - asked.quads[:, 0:2], axis=2)
    ratios: npt.NDArray[np.float64] = sides.max(axis=1) / np.maximum(sides.min(axis=1), 1e-9)
    return ratios


def pose_errors(
    found: Sequence[Detections], asked: Sequence[Asked], upright: Collection[str] | None = None
) -> dict[str, float]:
    """Medians over matched objects of a class: centre in pixels, size as a ratio of sqrt areas,
    axis in degrees (0 to 90; slender objects alone), and the share of right headings.

    A heading is right when it is nearer to the asked one than to its opposite.

    Args:
        upright: classes without an axis; those of the labels where not given.
    """
    without_axis = upright_labels(asked) if upright is None else upright
    centres, sizes, axes, fronts = [], [], [], []
    for ours, theirs in zip(found, asked, strict=True):
        for match in match_objects(ours, theirs, LOOSE):
            if theirs.ignored[match.asked]:
                continue
            one = quad_to_rotated_box(quad_from_tuple(ours.quads[match.found]))
            other = quad_to_rotated_box(quad_from_tuple(theirs.quads[match.asked]))
            centres.append(math.hypot(one.cx - other.cx, one.cy - other.cy))
            areas = one.w * one.h, max(other.w * other.h, 1e-9)
            sizes.append(abs(math.sqrt(areas[0] / areas[1]) - 1))
            slender = max(other.w, other.h) > SLENDER * min(other.w, other.h)
            if slender and theirs.labels[match.asked] not in without_axis:
                axes.append(_axis_degrees(_long_axis(one), _long_axis(other)))
            asked_front = theirs.headings[match.asked]
            front = ours.headings[match.found]
            if not math.isnan(asked_front) and not math.isnan(front):
                fronts.append(math.cos(front - asked_front) > 0)
    return {
        "centre error, px (median)": _median(centres),
        "size error, share (median)": _median(sizes),
        "axis error, degrees (median)": _median(axes),
        "headings right, share": float(np.mean(fronts)) if fronts else math.nan,
    }


def _long_axis(box: RotatedBox) -> float:
    return box.angle_rad if box.w >= box.h else box.angle_rad + math.pi / 2


def _axis_degrees(one: float, other: float) -> float:
    return math.degrees(abs(math.remainder(one - other, math.pi)))


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan
