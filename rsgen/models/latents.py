"""How alike two images are to an autoencoder: pooled latents and their distance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch.nn.functional as functional
from torch import Tensor

__all__ = ["GRID", "pooled", "relative_distances"]

GRID = 8

FloatArray = npt.NDArray[np.float32]


def pooled(latents: Tensor, grid: int = GRID) -> FloatArray:
    """Latents [N, C, h, w] averaged on a lattice, float32 [N, C * grid * grid]."""
    cells = functional.adaptive_avg_pool2d(latents.float(), grid)
    return np.asarray(cells.flatten(1).cpu().numpy(), dtype=np.float32)


def relative_distances(ours: FloatArray, others: FloatArray) -> FloatArray:
    """||a - b|| / (||a|| + ||b||) of vectors [N, D] and [M, D], float32 [N, M] in [0, 1]."""
    a, b = ours.astype(np.float64), others.astype(np.float64)
    length_a, length_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    squares = length_a[:, None] ** 2 + length_b**2 - 2 * a @ b.T
    total = np.maximum(length_a[:, None] + length_b, 1e-12)
    # products of other shapes differ in their last digits: what is kept must not
    return np.asarray(np.round(np.sqrt(np.maximum(squares, 0)) / total, 5), dtype=np.float32)
