"""Putting a canonical mask into a label's box, and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rsgen.geometry import Affine, Quad, as_array, square_to_quad
from rsgen.mask import Mask

__all__ = ["inside", "place_mask", "placement"]

BoolImage = npt.NDArray[np.bool_]


def placement(pixels: BoolImage, quad: Quad) -> Affine:
    """The matrix [2, 3] from a canonical mask [h, w] (front at x = w) to a label's corners.

    The canonical box's corners (w, 0), (w, h), (0, h), (0, 0) land on p1, p2, p3, p4.
    """
    height, width = pixels.shape
    return square_to_quad(width, height, quad)


def place_mask(pixels: BoolImage, quad: Quad, width: int, height: int) -> Mask | None:
    """The mask inside `quad` on a canvas; None where no pixel centre falls into it.

    A pixel is set when its centre lies in the affinely mapped outline of `pixels`: the mask is
    sampled at the inverse image of each centre. Parts outside the canvas are cut off.
    """
    corners = as_array(quad)
    x0, y0 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)), 0, (width, height)).astype(int).tolist()
    if x1 <= x0 or y1 <= y0:
        return None
    matrix = placement(pixels, quad)
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    if abs(determinant) < 1e-12:
        return None
    dx = np.arange(x0, x1)[None, :] + 0.5 - matrix[0, 2]
    dy = np.arange(y0, y1)[:, None] + 0.5 - matrix[1, 2]
    column = np.floor((matrix[1, 1] * dx - matrix[0, 1] * dy) / determinant).astype(np.int32)
    row = np.floor((matrix[0, 0] * dy - matrix[1, 0] * dx) / determinant).astype(np.int32)
    rows, columns = pixels.shape
    within = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    covered = within & pixels[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]
    return Mask.from_array(covered, x0, y0)


def inside(quad: Quad, width: int, height: int) -> bool:
    """Whether all corners lie on the canvas."""
    corners = as_array(quad)
    tolerance = 1e-9
    return bool(
        (corners >= -tolerance).all() and (corners <= np.array([width, height]) + tolerance).all()
    )
