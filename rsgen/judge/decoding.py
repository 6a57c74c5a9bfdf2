"""The judge's maps -> detections: peaks, their boxes, and one box an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
import torch
import torch.nn.functional as functional
from torch import Tensor

from rsgen.detections import Detections
from rsgen.judge.network import SIZE_UNIT, STRIDE, Maps
from rsgen.judge.targets import LEAST_SPREAD_PX, NEAR, SPREADS_A_SIDE
from rsgen.matching import iou_of_pairs

__all__ = ["ClassHabits", "decode", "suppress"]

MOST_OBJECTS = 3000
REACH = 4  # cells to each side of a peak that may have a say in its box
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

    A peak is a cell that no neighbour of its class exceeds. At most 3,000 an image. Its box is
    what the cells around it say on average, see `_together`.
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
    kinds = thing.cpu().numpy()
    turned = np.array([h.turned for h in habits], dtype=bool)[kinds]
    headed = np.array([h.headed for h in habits], dtype=bool)[kinds] & turned
    said = _together(maps, image, rows, columns, thing, torch.from_numpy(turned).to(rows.device))
    offset, size, axis, heading = said.double().cpu().numpy().reshape(4, 2, -1)
    x = (columns.cpu().numpy() + 0.5 + offset[0]) * STRIDE
    y = (rows.cpu().numpy() + 0.5 + offset[1]) * STRIDE
    length, width = np.exp(np.clip(size, -4, 5)) * SIZE_UNIT
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


def _together(
    maps: Maps, image: int, rows: Tensor, columns: Tensor, thing: Tensor, turned: Tensor
) -> Tensor:
    """Offset, size, axis and heading at peaks, float32 [8, n]: the mean over an object's cells.

    All the cells that learn an object's box (`NEAR`) say it, each with an error of its own. A
    cell counts by its nearness to the peak, in the object's own sides, and by how much it is
    taken for the peak's class.
    """
    said = torch.cat([maps.offset, maps.size, maps.axis, maps.heading], dim=1)[image].float()
    own = said[:, rows, columns]
    steps = torch.arange(-REACH, REACH + 1, device=rows.device)
    dy, dx = (g.reshape(1, -1) for g in torch.meshgrid(steps, steps, indexing="ij"))
    row, column = rows[:, None] + dy, columns[:, None] + dx
    height, width = said.shape[1:]
    there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    sides = own[2:4].clamp(-4, 5).exp() * SIZE_UNIT
    along, aside = (sides / SPREADS_A_SIDE).clamp_min(LEAST_SPREAD_PX)[:, :, None] / STRIDE
    angle = torch.where(turned, torch.atan2(own[5], own[4]) / 2, 0.0)[:, None]
    u = (dx * angle.cos() + dy * angle.sin()) / along
    v = (dy * angle.cos() - dx * angle.sin()) / aside
    bell = (-0.5 * (u * u + v * v)).exp()
    sure = maps.heat[image].float().sigmoid()[thing[:, None], row, column]
    weight = bell * (bell >= NEAR) * sure * there
    weight = weight / weight.sum(dim=1, keepdim=True)
    values = said[:, row, column]
    values[0] += dx  # a centre as the peak's cell would say it
    values[1] += dy
    mean: Tensor = (values * weight).sum(dim=2)
    return mean


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
