"""Distances of feature sets against closed forms, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from rsgen.evaluation.distances import (
    CMMD_SCALE,
    CMMD_SIGMA,
    cmmd,
    frechet,
    kernel_distance,
    maximum_mean_discrepancy,
)


def normal(count: int, dimensions: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (count, dimensions))


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0], ids=str)
def test_frechet_of_a_moved_set_is_the_squared_shift(shift: float) -> None:
    """Same covariance: the closed form is |shift|^2, exactly, whatever the covariance is."""
    first = normal(60, 5, 0) @ np.diag([1, 2, 0.5, 1, 3])
    assert frechet(first, first + shift) == pytest.approx(5 * shift**2, abs=1e-6)


def test_frechet_of_stretched_gaussians() -> None:
    """Diagonal covariances: sum of (s1 - s2)^2 over the axes. A plain trace of products fails."""
    first = normal(50, 3, 1)
    first = (first - first.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(first.T))).T
    one, other = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5])
    wanted = ((one - other) ** 2).sum()
    assert frechet(first * one, first * other) == pytest.approx(wanted, rel=1e-6)


def test_frechet_agrees_with_its_formula_in_scipy() -> None:
    first = normal(80, 6, 2)
    other = normal(70, 6, 3, 0.4) @ np.random.default_rng(4).normal(size=(6, 6))
    a, b = np.cov(first.T), np.cov(other.T)
    half = sqrtm(a)  # tr (A^1/2 B A^1/2)^1/2: the symmetric form of the same trace
    root = sqrtm(half @ b @ half)
    gap = first.mean(axis=0) - other.mean(axis=0)
    wanted = gap @ gap + np.trace(a + b - 2 * np.real(root))
    assert frechet(first, other) == pytest.approx(wanted, rel=1e-6)
    assert frechet(other, first) == pytest.approx(wanted, rel=1e-6)


def test_frechet_of_fewer_images_than_features_is_a_number() -> None:
    """Singular covariances: a bare square root gives NaN or a complex number."""
    first, other = normal(6, 20, 5), normal(6, 20, 6)
    value = frechet(first, other)
    assert np.isfinite(value) and value > 0
    assert frechet(first, first) == pytest.approx(0, abs=1e-3)


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    """The biased estimate, diagonals kept, is far over 0 for one distribution."""
    same = [kernel_distance(normal(12, 4, s), normal(12, 4, 1000 + s)) for s in range(300)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0
    moved = [kernel_distance(normal(12, 4, s), normal(12, 4, 1000 + s, 1.0)) for s in range(100)]
    assert np.mean(moved) > 20 * error


def test_kernel_distance_of_a_hand_case() -> None:
    """Two points a side in one dimension: (xy + 1)^3 of 0, 1 against 2, 3."""
    k_aa, k_bb = 1.0, 7.0**3
    k_ab = np.mean([1, 1, 3.0**3, 4.0**3])
    found = kernel_distance(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]]))
    assert found == pytest.approx(k_aa + k_bb - 2 * k_ab)


def test_kernels_agree_with_scikit_learn() -> None:
    a, b = normal(15, 7, 7), normal(20, 7, 8, 0.3)
    cubic = [polynomial_kernel(x, y, degree=3) for x, y in ((a, a), (b, b), (a, b))]
    assert kernel_distance(a, b) == pytest.approx(maximum_mean_discrepancy(*cubic))
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    gamma = 1 / (2 * CMMD_SIGMA**2)
    gaussian = [rbf_kernel(x, y, gamma=gamma) for x, y in ((u, u), (v, v), (u, v))]
    wanted = CMMD_SCALE * maximum_mean_discrepancy(*gaussian)
    assert cmmd(a, b) == pytest.approx(wanted, abs=1e-9)


def test_distances_do_not_depend_on_the_order_of_images() -> None:
    a, b = normal(30, 5, 9), normal(30, 5, 10, 0.5)
    order = np.random.default_rng(0).permutation(30)
    for distance in (frechet, kernel_distance, cmmd):
        assert distance(a[order], b[order[::-1]]) == pytest.approx(distance(a, b), rel=1e-8)


def test_one_image_has_no_unbiased_distance() -> None:
    assert np.isnan(kernel_distance(normal(1, 3, 0), normal(5, 3, 1)))
