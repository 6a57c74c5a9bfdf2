"""The judge's maps -> detections: peaks, their boxes, and one box an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
import torch.nn.functional as functional
from torch import Tensor

from rsgen.detections import Detections
from rsgen.judge.network import SIZE_UNIT, STRIDE, Maps
from rsgen.matching import iou_of_pairs

__all__ = ["ClassHabits", "decode", "suppress"]

MOST_OBJECTS = 3000
OVERLAP = 0.45  # of two boxes that share more than this (IoU) the better one stays


@dataclass(frozen=True)
class ClassHabits:
    """How a thing class is labelled: turned boxes, and whether their front is known.

    objects: how many were learned from; of a class without any a judge can say nothing.
    """

    name: str
    turned: bool
    headed: bool
    objects: int = 1


def decode(
    maps: Maps, habits: Sequence[ClassHabits], least_score: float = 0.05
) -> list[Detections]:
    """Detections of each image, in its pixels, best first.

    A peak is a cell that no neighbour of its class exceeds. At most 3,000 an image.
    """
    heat = maps.heat.float().sigmoid()
    peaks = heat * (heat >= functional.max_pool2d(heat, 3, 1, 1))
    count = min(MOST_OBJECTS, peaks[0].numel())
    found = []
    for image in range(len(heat)):
        scores, flat = peaks[image].flatten().topk(count)
        keep = scores >= least_score
        scores, flat = scores[keep], flat[keep]
        cells = heat.shape[-2] * heat.shape[-1]
        thing, cell = flat // cells, flat % cells
        rows, columns = cell // heat.shape[-1], cell % heat.shape[-1]
        found.append(_objects(maps, image, rows, columns, thing, scores, habits))
    return found


def _objects(
    maps: Maps,
    image: int,
    rows: Tensor,
    columns: Tensor,
    thing: Tensor,
    scores: Tensor,
    habits: Sequence[ClassHabits],
) -> Detections:
    def at(values: Tensor) -> npt.NDArray[np.float64]:
        taken = values[image, :, rows, columns].float().cpu().numpy()
        return np.asarray(taken, dtype=np.float64)

    offset, size, axis, heading = (at(v) for v in (maps.offset, maps.size, maps.axis, maps.heading))
    x = (columns.cpu().numpy() + 0.5 + offset[0]) * STRIDE
    y = (rows.cpu().numpy() + 0.5 + offset[1]) * STRIDE
    length, width = np.exp(np.clip(size, -4, 5)) * SIZE_UNIT
    kinds = thing.cpu().numpy()
    turned = np.array([h.turned for h in habits], dtype=bool)[kinds]
    headed = np.array([h.headed for h in habits], dtype=bool)[kinds] & turned
    front = np.arctan2(heading[1], heading[0])
    angle = np.where(turned, np.arctan2(axis[1], axis[0]) / 2, 0.0)
    # The axis is surer than the heading: the heading only says which way along it.
    against = np.cos(front - angle) < 0
    angle = np.where(headed & against, angle + np.pi, angle)
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    quads = _corners(x, y, length, width, angle)
    names = tuple(habits[k].name for k in kinds)
    every = Detections(quads, names, scores.double().cpu().numpy(), np.where(headed, angle, np.nan))
    return every.chosen(suppress(every.quads, OVERLAP))


def _corners(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    length: npt.NDArray[np.float64],
    width: npt.NDArray[np.float64],
    angle: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """[n, 4, 2]: front left, front right, back right, back left; clockwise on screen."""
    ux, uy = np.cos(angle) * length / 2, np.sin(angle) * length / 2
    vx, vy = -np.sin(angle) * width / 2, np.cos(angle) * width / 2
    xs = np.stack([x + ux - vx, x + ux + vx, x - ux + vx, x - ux - vx], axis=1)
    ys = np.stack([y + uy - vy, y + uy + vy, y - uy + vy, y - uy - vy], axis=1)
    return np.stack([xs, ys], axis=2)


def suppress(quads: npt.NDArray[np.float64], overlap: float) -> list[int]:
    """Positions that stay when every quad drops the later ones it shares too much with."""
    shapes = shapely.polygons(quads)
    left, right = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pair = left < right
    left, right = left[pair], right[pair]
    shared = iou_of_pairs(shapes[left], shapes[right]) > overlap
    rivals: dict[int, list[int]] = {}
    for better, worse in zip(left[shared].tolist(), right[shared].tolist(), strict=True):
        rivals.setdefault(better, []).append(worse)
    alive = np.ones(len(quads), dtype=bool)
    for position in sorted(rivals):
        if alive[position]:
            alive[rivals[position]] = False
    return [int(k) for k in np.flatnonzero(alive)]
