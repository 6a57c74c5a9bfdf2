"""Nearest-neighbour distances in a whitened space, and the estimates that rest on them.

d dimensions; rho_k(i): distance of point i to its k-th nearest other point of its own set of n;
nu_k(i): to the k-th nearest of another set, of m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from scipy.special import digamma, gammaln

from rsgen.rewards.base import Floats

__all__ = [
    "FLOOR",
    "Whitening",
    "divergence",
    "entropy",
    "log_kth",
    "log_kth_among",
    "usual_log_kth",
]

FLOOR = 1e-3  # least distance, in spreads of the real set: copies are near, not infinitely so
CHUNK = 512
SUBSETS, ENOUGH = 16, 2048
IMAGES_A_DIMENSION = 10
LEAST_SHARE = 1e-6  # of the widest axis' variance: narrower ones are rounding


@dataclass(frozen=True, eq=False)
class Whitening:
    """Features -> the principal axes of the real ones, each of variance 1.

    mean: float64 [D]. axes: float64 [D, d], divided by the spread along each.
    """

    mean: Floats
    axes: Floats

    @property
    def dimensions(self) -> int:
        return int(self.axes.shape[1])

    @classmethod
    def fit(cls, features: npt.NDArray[np.floating], most: int) -> Whitening:
        """From real features [m, D]; at most `most` axes, and one for ten images.

        Distances tell little in hundreds of dimensions (with 256 points, the divergence of two
        equal sets is estimated as -9 nats in 512 dimensions, -0.1 in 8).
        """
        rows = np.asarray(features, dtype=np.float64)
        mean = rows.mean(axis=0)
        _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
        spreads = sizes / np.sqrt(max(len(rows) - 1, 1))
        wide = int((spreads**2 > LEAST_SHARE * max(spreads[0] ** 2, 1e-300)).sum())
        count = max(1, min(most, wide, len(rows) // IMAGES_A_DIMENSION))
        # the sign of an axis is free: its largest entry is positive on every machine
        chosen = axes[:count]
        signs = np.sign(chosen[np.arange(count), np.abs(chosen).argmax(axis=1)])
        scaled = chosen * signs[:, None] / np.maximum(spreads[:count, None], 1e-12)
        return cls(mean, np.ascontiguousarray(scaled.T))

    def __call__(self, features: npt.NDArray[np.floating]) -> Floats:
        """[..., D] -> float64 [..., d]."""
        return np.asarray((np.asarray(features, dtype=np.float64) - self.mean) @ self.axes)


def log_kth(
    points: Floats, others: Floats, k: int, own: npt.NDArray[np.intp] | None = None
) -> Floats:
    """Log distance of each point [n, d] to the k-th nearest of others [m, d], float64 [n].

    Args:
        own: the position of each point among the others, where it is no neighbour of itself.

    Raises:
        ValueError: fewer than k others.
    """
    if len(others) - (own is not None) < k:
        raise ValueError(f"{len(others)} points have no {k}-th neighbour")
    found = np.zeros(len(points))
    for start in range(0, len(points), CHUNK):
        stop = min(start + CHUNK, len(points))
        table = cdist(points[start:stop], others)
        if own is not None:
            table[np.arange(stop - start), own[start:stop]] = np.inf
        found[start:stop] = np.partition(table, k - 1, axis=1)[:, k - 1]
    return np.log(np.maximum(found, FLOOR))


def entropy(points: Floats, k: int) -> float:
    """Entropy of a set [n, d] in nats.

    Source: Kozachenko and Leonenko 1987; as in Kraskov et al. 2004, "Estimating mutual
    information", equation 20 with Euclidean distances: psi(n) - psi(k) + log V_d + d mean(log
    rho_k), V_d the volume of the unit ball.
    """
    count, d = points.shape
    volume = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
    rho = log_kth(points, points, k, np.arange(count))
    return float(digamma(count) - digamma(k) + volume + d * rho.mean())


def divergence(points: Floats, others: Floats, k: int) -> float:
    """Kullback-Leibler divergence of a set [n, d] from another [m, d], in nats.

    Source: Wang, Kulkarni and Verdu 2009, "Divergence Estimation for Multidimensional Densities
    Via k-Nearest-Neighbor Distances", equation 14: d mean(log nu_k - log rho_k) + log(m/(n-1)).
    """
    count, d = points.shape
    rho = log_kth(points, points, k, np.arange(count))
    nu = log_kth(points, others, k)
    return float(d * (nu - rho).mean() + np.log(len(others) / (count - 1)))


def log_kth_among(points: Floats, k: int, count: int) -> Floats:
    """log rho_k of points drawn `count` at a time from a set [m, d] in random order.

    float64 [draws, count]: separate draws, as many as give 2048 points, at least 16, as far as
    the set goes. Where the set is smaller, all of it is taken, and the distances shrink as those
    of a denser set: log rho_k falls by psi(count) / d.
    """
    have = min(count, len(points))
    draws = max(SUBSETS, -(-ENOUGH // have))
    found = []
    for start in range(0, min(len(points) - have + 1, draws * have), have):
        some = points[start : start + have]
        found.append(log_kth(some, some, k, np.arange(have)))
    shift = (digamma(count) - digamma(have)) / points.shape[1]
    return np.asarray(np.stack(found) - shift)


def usual_log_kth(points: Floats, k: int, count: int) -> float:
    """The median of `log_kth_among`."""
    return float(np.median(log_kth_among(points, k, count)))
