"""Distances between two sets of feature vectors; each formula with its source.

All take float64 [N, D] and [M, D] and do not depend on the order of rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["cmmd", "frechet", "kernel_distance", "maximum_mean_discrepancy"]

Features = npt.NDArray[Any]
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


def frechet(first: Features, second: Features) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the two sets' Gaussians.

    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", equation 6.
    Covariances are unbiased (N - 1). The trace of the root is the sum of the roots of the
    eigenvalues of C1^(1/2) C2 C1^(1/2), which has those of C1 C2 and is symmetric: with fewer
    images than features a general matrix root is inaccurate. It grows as N shrinks: compare at
    equal N only. With Inception features it is FID.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    difference = a.mean(axis=0) - b.mean(axis=0)
    one, other = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    sizes, axes = np.linalg.eigh(one)
    half = (axes * np.sqrt(np.maximum(sizes, 0))) @ axes.T
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ other @ half), 0))
    value = difference @ difference + np.trace(one) + np.trace(other) - 2 * roots.sum()
    return max(float(value), 0.0)


def maximum_mean_discrepancy(k_aa: Features, k_bb: Features, k_ab: Features) -> float:
    """The unbiased estimate of MMD^2 from kernel matrices; it may be slightly negative.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3: diagonals left out.
    """
    n, m = len(k_aa), len(k_bb)
    if n < 2 or m < 2:
        return math.nan
    within_a = (k_aa.sum() - np.trace(k_aa)) / (n * (n - 1))
    within_b = (k_bb.sum() - np.trace(k_bb)) / (m * (m - 1))
    return float(within_a + within_b - 2 * k_ab.mean())


def kernel_distance(first: Features, second: Features) -> float:
    """MMD^2 with the kernel (x.y / D + 1)^3, over all pairs (no subsets).

    Source: Binkowski et al. 2018, "Demystifying MMD GANs", section 4; with Inception features
    it is KID. Unbiased: its mean does not depend on N.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)

    def kernel(x: Features, y: Features) -> Features:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    return maximum_mean_discrepancy(kernel(a, a), kernel(b, b), kernel(a, b))


def cmmd(first: Features, second: Features) -> float:
    """1000 x MMD^2 of vectors of length 1 with a Gaussian kernel of sigma 10.

    Source: Jayasumana et al. 2024, "Rethinking FID", section 5 (CLIP ViT-L/14@336 features).
    Differs in: the unbiased estimate, so that small sets are not punished.
    """
    a, b = _of_length_one(first), _of_length_one(second)

    def kernel(x: Features, y: Features) -> Features:
        squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
        return np.asarray(np.exp(-np.maximum(squares, 0) / (2 * CMMD_SIGMA**2)))

    return CMMD_SCALE * maximum_mean_discrepancy(kernel(a, a), kernel(b, b), kernel(a, b))


def _of_length_one(features: Features) -> Features:
    rows = np.asarray(features, dtype=np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
