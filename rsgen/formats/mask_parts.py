"""Class places -> instances: connected parts of things, one mask a stuff class."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.formats.common import Problem
from rsgen.formats.mask_pixels import Places
from rsgen.formats.names import LabelNames
from rsgen.mask import Mask
from rsgen.records import Instance

__all__ = ["MAX_PARTS", "Parts", "cut_parts", "label_parts", "place_counts"]

MAX_PARTS = 200_000  # objects of a class in one mask; more is noise
MAX_WORK = 200  # sum of the parts' boxes over the mask's pixels; more is a labyrinth
ROWS = 1 << 20

BoolImage = npt.NDArray[np.bool_]


@dataclass
class Parts:
    """Instances of a mask, parts under the least area, and classes that could not be used."""

    instances: list[Instance] = field(default_factory=list)
    small: int = 0
    problems: list[tuple[int, Problem]] = field(default_factory=list)  # (labels, what is wrong)


def cut_parts(
    places: Places, class_names: tuple[str, ...], names: LabelNames, min_area_px: int
) -> Parts:
    """The instances of a mask: 8-connected parts of things, one mask a stuff class.

    Args:
        places: uint16 [H, W], 0 unlabelled, k the k-th of `class_names`.
    """
    counts = place_counts(places, len(class_names) + 1)
    by_label: dict[str, list[int]] = {}
    parts = Parts()
    for place, name in enumerate(class_names, start=1):
        if not counts[place]:
            continue
        try:
            by_label.setdefault(names.resolve(name), []).append(place)
        except Problem as problem:
            parts.problems.append((1, problem))
    for label, wanted in by_label.items():
        area = places == wanted[0]
        for place in wanted[1:]:
            area |= places == place
        if names.is_stuff(label):
            parts.instances.append(Instance(label, mask=Mask.from_array(area)))
            continue
        try:
            masks, small = _things(area, min_area_px)
        except Problem as problem:
            parts.problems.append((1, problem))
            continue
        parts.small += small
        parts.instances += [Instance(label, mask.box, mask=mask) for mask in masks]
    return parts


def place_counts(places: Places, length: int) -> npt.NDArray[np.int64]:
    """Pixels of every place, int64 [length]; a block of rows at a time."""
    flat = places.reshape(-1)
    counts = np.zeros(length, dtype=np.int64)
    for start in range(0, flat.size, ROWS):
        counts += np.bincount(flat[start : start + ROWS], minlength=length)
    return counts


def label_parts(area: BoolImage) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(int32 [H, W] part numbers from 1, int32 [N + 1, 5] x, y, width, height, pixels)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        area.view(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    return np.asarray(labels, dtype=np.int32), np.asarray(stats, dtype=np.int32)


def _things(area: BoolImage, min_area_px: int) -> tuple[list[Mask], int]:
    """(masks of the parts of at least `min_area_px`, how many were smaller).

    Raises:
        Problem: TooManyParts.
    """
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    crop = np.ascontiguousarray(area[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1])
    labels, stats = label_parts(crop)
    kept = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= min_area_px)
    work = int((stats[kept, 2].astype(np.int64) * stats[kept, 3]).sum())
    if len(kept) > MAX_PARTS or work > MAX_WORK * max(crop.size, ROWS):
        raise Problem(
            "TooManyParts",
            f"a thing class falls into {len(kept)} parts",
            "make it stuff in the class table, or raise extract_masks.min_area_px",
        )
    masks = []
    for number in kept.tolist():
        x, y, width, height = stats[number, :4].tolist()
        mask = Mask.from_array(labels[y : y + height, x : x + width] == number, left + x, top + y)
        if mask is not None:
            masks.append(mask)
    return masks, len(stats) - 1 - len(kept)
