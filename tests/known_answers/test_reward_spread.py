"""OF-Diff's reward: estimates with known values, and where a generator that follows it ends."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from rsgen.rewards.base import Floats
from rsgen.rewards.neighbours import FLOOR, divergence, entropy, log_kth, usual_log_kth
from rsgen.rewards.spread import Spread


def normal(count: int, *, mean: float = 0.0, std: float = 1.0, d: int = 2, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(mean, std, (count, d))


@pytest.mark.parametrize(
    ("points", "known"),
    [
        pytest.param({"mean": 0.3}, 0.09, id="moved by 0.3"),
        pytest.param({"std": 0.7}, 0.2033, id="std 0.7"),
        pytest.param({}, 0.0, id="the same"),
    ],
)
def test_divergence_of_gaussians(points: dict[str, Any], known: float) -> None:
    """Catches n and m swapped, the wrong neighbour left out, or a missing log(m / (n - 1))."""
    found = [
        divergence(normal(1000, seed=s, **points), normal(2000, seed=s + 50), 5) for s in range(3)
    ]
    assert np.mean(found) == pytest.approx(known, abs=0.05)


def test_entropy_of_a_gaussian() -> None:
    found = [entropy(normal(1000, seed=s), 5) for s in range(3)]
    assert np.mean(found) == pytest.approx(1 + np.log(2 * np.pi), abs=0.05)


def test_terms_of_points_average_to_the_estimate() -> None:
    """Catches a reward of single samples that is not the estimate's: d x mean."""
    points, real = normal(300, std=0.8), normal(700, seed=1)
    spread = Spread(real, np.zeros(700, dtype=np.int64), k=4)
    rated = spread.rate(points, np.zeros(300, dtype=np.int64), epoch=0)
    assert 2 * rated.divergence.mean() == pytest.approx(divergence(points, real, 4), abs=1e-12)


def test_copies_are_near_and_not_infinitely_so() -> None:
    """Catches log 0 where the generator repeats itself, and where it repeats a real image."""
    real = normal(100, seed=1)
    points = np.concatenate([np.repeat(normal(1), 30, axis=0), np.repeat(real[:1], 30, axis=0)])
    spread = Spread(real, np.zeros(100, dtype=np.int64), k=5)
    rated = spread.rate(points, np.zeros(60, dtype=np.int64), epoch=0)
    assert np.isfinite(rated.value).all()
    assert rated.diversity == pytest.approx(np.log(FLOOR) + np.log(59) / 2)


def test_the_usual_distance_is_that_of_as_many_real_points() -> None:
    """Catches a cap from all real points beside few generated ones: nothing would be capped."""
    points = normal(1600, d=2)
    few, many = usual_log_kth(points, 5, 100), usual_log_kth(points, 5, 1600)
    assert few - many == pytest.approx(np.log(16) / 2, abs=0.15)  # d = 2: distance ~ n^(-1/2)
    beyond = usual_log_kth(points[:400], 5, 1600)
    assert beyond == pytest.approx(many, abs=0.15)
    assert log_kth(points, points, 1, np.arange(1600)).min() > np.log(FLOOR) - 1e-9


@pytest.mark.parametrize("each", [256, 12], ids=["enough at once", "the bank fills up"])
def test_an_unchanged_generator_has_an_unchanged_reward(each: int) -> None:
    """Catches a value that follows how many points are known, in the bank or of held images.

    With log n left out, or put in, the mean reward moved by 0.2 and 0.1 over these epochs (its
    standard error is 0.01), and held images got 0.4 more than others: a collapse that was none,
    and an epoch 0 that always won.
    """
    d = 32
    real = normal(4096, d=d)
    spread, means = Spread(real, np.zeros(4096, dtype=np.int64)), []
    held = normal(64, d=d, seed=1000)
    looks = set()
    for epoch in range(1, 7):
        points = normal(each, d=d, seed=epoch)
        rated = spread.rate(points, np.zeros(each, dtype=np.int64), epoch=epoch)
        means += [rated.value.mean()] if rated.warm.all() else []
        look = spread.rate(held, np.zeros(64, dtype=np.int64), epoch=epoch, learn=False)
        looks.add(look.value.mean())
    assert len(means) >= 5 and len(looks) == 1
    assert np.abs(means).max() < 3 * rated.error < 0.2
    assert abs(looks.pop()) < 0.08


def test_the_error_of_the_mean_is_that_between_epochs() -> None:
    """Catches an error as of single values, a third of it: noise would pass for a collapse."""
    spread, means = Spread(normal(4096, d=32), np.zeros(4096, dtype=np.int64)), []
    for epoch in range(12):
        points = normal(256, d=32, seed=10 + epoch)
        rated = spread.rate(points, np.zeros(256, dtype=np.int64), epoch=epoch)
        means.append(rated.value.mean())
    assert 0.5 < rated.error / np.std(means) < 2
    assert rated.error > 2 * rated.value.std() / 16


def test_a_generator_of_its_own_kind_has_an_unchanged_reward_too() -> None:
    """Catches a correction by what real points do alone.

    Eight images of a layout lie close together, on five of 32 axes: their distances neither
    shrink as those of real points do, nor with the bank.
    """
    d, means = 32, []
    spread = Spread(normal(4096, d=d), np.zeros(4096, dtype=np.int64))
    for epoch in range(1, 6):
        centres = np.repeat(normal(16, d=d, seed=epoch) * (np.arange(d) < 5), 8, axis=0)
        points = centres + normal(128, std=0.2, d=d, seed=100 + epoch) * (np.arange(d) < 5)
        means.append(spread.rate(points, np.zeros(128, dtype=np.int64), epoch=epoch).value.mean())
    assert np.ptp(means) < 0.25 and np.mean(means) < -2


def spread_of_follower(
    omega: float, cap: Literal["real", "none"], start: float
) -> tuple[float, float]:
    """Variance and mean that a Gaussian generator in the plane ends with; real: N(0, 1).

    Its gradient is that of the score function with whitened rewards, 256 samples a step.
    """
    rng = np.random.default_rng(0)
    real = rng.normal(size=(2000, 2))
    spread = Spread(real, np.zeros(2000, dtype=np.int64), omega=omega, cap=cap, max_age=1)
    mean, log_std = np.full(2, 0.4), np.full(2, np.log(start))
    seen, labels = [], np.zeros(256, dtype=np.int64)
    for epoch in range(130):
        noise = rng.normal(size=(256, 2))
        value = spread.rate(mean + np.exp(log_std) * noise, labels, epoch=epoch).value
        advantage = (value - value.mean()) / max(value.std(), 1e-3)
        mean = mean + 0.1 * (advantage[:, None] * noise / np.exp(log_std)).mean(axis=0)
        log_std = log_std + 0.1 * (advantage[:, None] * (noise**2 - 1)).mean(axis=0)
        seen.append(np.exp(2 * log_std).mean())
    return float(np.mean(seen[-50:])), float(np.abs(mean).max())


@pytest.mark.parametrize(
    ("omega", "cap", "start", "low", "high"),
    [
        pytest.param(2.0, "none", 1.0, 1.35, 1.65, id="paper mode flattens: 1.5"),
        pytest.param(2.0, "real", 0.5, 0.9, 1.15, id="capped, from a collapsed generator"),
        pytest.param(2.0, "real", 3.0, 0.9, 1.15, id="capped, from a wide one"),
        pytest.param(0.5, "real", 3.0, 0.9, 1.4, id="capped, a weak pull"),
    ],
)
def test_where_a_generator_ends(
    omega: float, cap: Literal["real", "none"], start: float, low: float, high: float
) -> None:
    """Catches a reward of batches (the mean is never learned), and escape to far from all data."""
    variance, away = spread_of_follower(omega, cap, start)
    assert low <= variance <= high and away < 0.2


def test_without_a_cap_a_weak_pull_lets_it_escape() -> None:
    """What the cap is for; and that `cap: none` is the paper's formula."""
    assert spread_of_follower(0.5, "none", 3.0)[0] > 30
