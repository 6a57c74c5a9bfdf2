"""Quality rules: which masks are good enough to be reused, each refusal counted by name."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.records import ClassTable, Instance, Layout
from rsgen.settings import BuildMaskPoolConfig

__all__ = ["REFUSALS", "refusal", "solidity_and_holes"]

REFUSALS = (
    "stuff class",
    "no mask",
    "crowd",
    "fallback shape",
    "low score",
    "truncated",
    "too small",
    "in pieces",
    "not solid",
    "holes",
)
BoolImage = npt.NDArray[np.bool_]
MAIN_PART = 0.8  # least share of the area that lies in one connected part


def solidity_and_holes(crop: BoolImage) -> tuple[float, float, float]:
    """(area / hull area, hole area / filled area, largest part / area), each in [0, 1]."""
    pixels = np.ascontiguousarray(crop, dtype=np.uint8)
    area = int(pixels.sum())
    if area == 0:
        return 0.0, 0.0, 0.0
    count, _, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    main = int(stats[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0
    padded = np.pad(1 - pixels, 1, constant_values=1)
    gaps, _, sizes, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    holes = int(sizes[2:, cv2.CC_STAT_AREA].sum()) if gaps > 2 else 0
    return (
        min(1.0, (area + holes) / max(_hull_area(pixels), 1e-6)),
        holes / (area + holes),
        main / area,
    )


def _hull_area(pixels: npt.NDArray[np.uint8]) -> float:
    """Area of the hull of all pixel squares: hulls of half-open pixels reach their corners."""
    rows = np.flatnonzero(pixels.any(axis=1))
    first = pixels[rows].argmax(axis=1)
    stop = pixels.shape[1] - pixels[rows, ::-1].argmax(axis=1)
    xs = np.concatenate([first, stop, first, stop])
    ys = np.concatenate([rows, rows, rows + 1, rows + 1])
    hull = cv2.convexHull(np.stack([xs, ys], axis=1).astype(np.float32))
    return float(cv2.contourArea(hull))


def refusal(
    instance: Instance, layout: Layout, classes: ClassTable, settings: BuildMaskPoolConfig
) -> str | None:
    """The first rule that an instance's mask breaks, one of `REFUSALS`; None when it is good."""
    mask = instance.mask
    if classes.is_stuff(instance.label):
        return "stuff class"
    if mask is None:
        return "no mask"
    if instance.iscrowd:
        return "crowd"
    if instance.origin == "box" and not settings.allow_fallback:
        return "fallback shape"
    if instance.scores.get("mask", 1.0) < settings.min_score:
        return "low score"
    if not settings.allow_truncated and (instance.truncated or _at_border(instance, layout)):
        return "truncated"
    if mask.area < settings.min_area_px:
        return "too small"
    solidity, holes, main = solidity_and_holes(mask.crop())
    if main < MAIN_PART:
        return "in pieces"
    if solidity < settings.min_solidity:
        return "not solid"
    if holes > settings.max_hole_share:
        return "holes"
    return None


def _at_border(instance: Instance, layout: Layout) -> bool:
    """Whether the mask touches the image's border where its label does too."""
    mask = instance.mask
    if mask is None:
        return False
    return (
        mask.x0 <= 0
        or mask.y0 <= 0
        or mask.x0 + mask.width >= layout.width
        or mask.y0 + mask.height >= layout.height
    )
