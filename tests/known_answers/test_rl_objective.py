"""The objective of RL against gradients worked out without it, and tables made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rsgen.errors import DataError, UsageError
from rsgen.models.process import Gaussian, Process, Rule
from rsgen.rl.advantages import (
    explained_variance,
    flat_groups,
    group_advantages,
    step_advantages,
)
from rsgen.rl.objective import (
    adapted_beta,
    clip_range,
    clipped,
    ratio_of,
    step_weights,
    surrogate,
)

STABLE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------- a chain with a known gradient

SPREAD = 0.3  # data is N(theta, .3^2), the reward of x0 is -(x0 - 1)^2
CHAIN = Process.from_config(STABLE, 10, Rule(eta=1.0))


def predicted(x: Tensor, i: int, theta: Tensor) -> Tensor:
    """E[eps | x_t] for that data."""
    abar = float(CHAIN.signal[i])
    variance = abar * SPREAD**2 + 1 - abar
    return math.sqrt(1 - abar) * (x - math.sqrt(abar) * theta) / variance


def expected_return(theta: float) -> float:
    """J by moments alone, with DDIM written out again: no sampling, no code under test."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    abars = np.cumprod(1 - betas)
    mean, variance = 0.0, 1.0
    for t in range(901, 0, -100):
        abar, after = abars[t], abars[t - 100] if t >= 100 else abars[0]
        of_data = abar * SPREAD**2 + 1 - abar
        slope, shift = (1 - abar) ** 0.5 / of_data, -((1 - abar) ** 0.5) * abar**0.5 / of_data
        s2 = (1 - after) / (1 - abar) * (1 - abar / after)
        # x' = root x0 + direction eps + s z, x0 = (x - sqrt(1 - abar) eps) / sqrt(abar)
        root, direction = after**0.5, (1 - after - s2) ** 0.5
        factor = direction - root * ((1 - abar) / abar) ** 0.5
        gain, moved = root / abar**0.5 + factor * slope, factor * shift * theta
        mean, variance = gain * mean + moved, gain**2 * variance + s2
    return float(-((mean - 1) ** 2) - variance)


def rolled_out(count: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    theta = torch.zeros((), dtype=torch.float64)
    x = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    states = [x]
    for i in range(len(CHAIN)):
        step = CHAIN.transition(x, predicted(x, i, theta), i)
        x = step.sample(torch.randn(count, 1, generator=generator, dtype=torch.float64))
        states.append(x)
    return states, -((x[:, 0] - 1) ** 2)


@pytest.fixture(scope="module")
def rollout() -> tuple[list[Tensor], Tensor]:
    return rolled_out(200_000)


def gradient(rollout: tuple[list[Tensor], Tensor], clip: float | None) -> float:
    """Of the summed loss over all steps; clip None: REINFORCE, log-prob times advantage."""
    states, rewards = rollout
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    advantages = rewards - rewards.mean()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(CHAIN)):
        x, following = states[i], states[i + 1]
        with torch.no_grad():
            old = CHAIN.transition(x, predicted(x, i, theta), i)
            old_log_prob = old.log_prob(following)
        now = CHAIN.transition(x, predicted(x, i, theta), i)
        if clip is None:
            losses = -now.log_prob(following) * advantages
        else:
            ratio = ratio_of(now, old.mean, following, old_log_prob)
            losses = surrogate(ratio, advantages, clip)
        total = total + losses.mean()
    torch.autograd.backward(total)
    assert theta.grad is not None
    return float(-theta.grad)


def test_the_policy_gradient_is_the_derivative_of_the_expected_return(
    rollout: tuple[list[Tensor], Tensor],
) -> None:
    """dJ / dtheta = 1.9966 by moments: catches a lost step, a scale of s, a sign."""
    exact = (expected_return(1e-4) - expected_return(-1e-4)) / 2e-4
    assert exact == pytest.approx(1.9966, abs=2e-3)
    assert gradient(rollout, None) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("clip", [0.2, 1e-4])
def test_at_ratio_1_the_clipped_objective_is_reinforce(
    clip: float, rollout: tuple[list[Tensor], Tensor]
) -> None:
    """For any clip: catches a clip that acts at ratio 1, and ratios of two trajectories."""
    assert gradient(rollout, clip) == pytest.approx(gradient(rollout, None), rel=1e-9)


def test_reward_against_kl_settles_where_their_gradients_meet() -> None:
    """One step N(theta, s^2), reward c x, beta KL: theta* = c s^2 / beta. Catches 2 s^2 for s^2."""
    s, c, beta = 0.5, 0.8, 2.0
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    std = torch.tensor(s, dtype=torch.float64)
    start = Gaussian(torch.zeros(4000, 1, dtype=torch.float64), std)
    noise = random(2000, 1)
    noise = torch.cat([noise, -noise])
    optimizer = torch.optim.SGD([theta], lr=0.05)
    for _ in range(120):
        with torch.no_grad():
            old = Gaussian(theta.expand(4000, 1).clone(), std)
            actions = old.sample(noise)
            rewards = c * actions[:, 0]
        now = Gaussian(theta.expand(4000, 1), std)
        ratio = ratio_of(now, old.mean, actions, old.log_prob(actions))
        losses = surrogate(ratio, rewards - rewards.mean(), 0.2)
        optimizer.zero_grad()
        torch.autograd.backward((losses + beta * now.kl(start)).mean())
        optimizer.step()
    assert float(theta.detach()) == pytest.approx(c * s**2 / beta, rel=0.05)


# ---------------------------------------------------------------- ratio and clip


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "slope"),
    [
        (1, 1.2, -1.1, 0.0),  # better and likely enough already
        (1, 1.0, -1.0, -1.0),
        (1, 0.8, -0.8, -1.0),  # better and less likely: pulled back, never clipped
        (-1, 1.2, 1.2, 1.0),
        (-1, 1.0, 1.0, 1.0),
        (-1, 0.8, 0.9, 0.0),  # worse and unlikely enough already
    ],
)
def test_clip_table(advantage: int, ratio: float, loss: float, slope: float) -> None:
    """Half-width .1. Catches I-DRUID's eq. 10, a minimum taken as a loss: every sign turns."""
    rho = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    gain = torch.tensor([float(advantage)], dtype=torch.float64)
    found = surrogate(rho, gain, 0.1)
    torch.autograd.backward(found.sum())
    assert rho.grad is not None
    assert float(found.detach()) == pytest.approx(loss)
    assert float(rho.grad) == pytest.approx(slope)
    high, low = clipped(rho, gain, 0.1)
    assert (high + low == 1) == (slope == 0)
    assert (high == 1) == (slope == 0 and advantage > 0)


@pytest.mark.parametrize(
    ("numbers", "expected"), [(16384, 9.77e-5), (262144, 6.1e-6), (1024, 1.5625e-3)]
)
def test_the_clip_is_one_region_in_nats_at_every_size(numbers: int, expected: float) -> None:
    """DDPO's 1e-4 is 1.6 nats at 512 px; copied to 1024 px it would be 26."""
    clip = clip_range(1.6, numbers)
    assert clip == pytest.approx(expected, rel=1e-3)
    # A shift of every number by f of s is D f^2 / 2 nats.
    step = Gaussian(torch.zeros(1, 4, 64, 64), torch.tensor(0.3))
    for share, nats in ((0.005, 0.205), (0.01, 0.82), (0.03, 7.37)):
        moved = Gaussian(step.mean + share * 0.3, step.std)
        assert float(moved.kl_nats(step)) == pytest.approx(nats, rel=0.01)
    with pytest.raises(UsageError):
        clip_range(0, numbers)


def test_a_moved_policy_has_a_centred_ratio() -> None:
    """3 % drift shifts the plain ratio by -4.5e-4, beyond the clip: good steps never clip."""
    s, old = torch.tensor(0.3), torch.zeros(256, 4, 32, 32)
    then = Gaussian(old, s)
    action = then.sample(random(256, 4, 32, 32).float())
    now = Gaussian(old + 0.03 * 0.3, s)
    plain = ratio_of(now, old, action, then.log_prob(action), "plain") - 1
    centred = ratio_of(now, old, action, then.log_prob(action), "center") - 1
    assert float(plain.mean()) == pytest.approx(-4.5e-4, abs=1e-4)
    assert float(centred.mean()) == pytest.approx(0, abs=1e-4)
    scaled = ratio_of(now, old, action, then.log_prob(action), "norm")
    torch.testing.assert_close(scaled.log(), 0.3 * (centred + 1).log(), atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("mode", ["plain", "center", "norm"])
def test_an_unmoved_policy_has_ratio_1_exactly(mode: Any) -> None:
    """Also with latents kept in half precision, and one std a sample."""
    process = Process.from_config(STABLE, 20, Rule(eta=1.0))
    x, prediction = random(3, 4, 8, 8).float(), random(3, 4, 8, 8, seed=1).float()
    steps = torch.tensor([0, 3, 19])
    old = process.transition(x, prediction, steps)
    action = old.sample(random(3, 4, 8, 8, seed=2), torch.float16)
    stored, score = action.half(), old.log_prob(action)
    again = process.transition(x, prediction, steps)
    ratio = ratio_of(again, old.mean, stored.float(), score, mode)
    assert torch.equal(ratio, torch.ones(3))


def test_normalised_steps_pull_alike() -> None:
    """dmu / dprediction spans a factor of 9 over DDIM-50: catches weights turned round."""
    process = Process.from_config(STABLE, 50, Rule(eta=1.0))
    steps = process.stochastic
    weights = step_weights(process, steps, "norm")
    assert sum(weights) / len(weights) == pytest.approx(1)
    pulls = [w * abs(float(process.prediction[i])) for w, i in zip(weights, steps, strict=True)]
    assert max(pulls) == pytest.approx(min(pulls))
    assert step_weights(process, steps, "center") == [1.0] * 50


@pytest.mark.parametrize(
    ("beta", "kl", "target", "expected"),
    [
        (0.01, 0.25, 0.1, 0.02),
        (0.01, 0.15, 0.1, 0.01),
        (0.01, 0.051, 0.1, 0.01),
        (0.01, 0.04, 0.1, 0.005),
        (0.01, 9.0, None, 0.01),
        (0.0, 9.0, 0.1, 0.0),
        (0.01, float("nan"), 0.1, 0.01),
        (800.0, 9.0, 0.1, 1000.0),
        (1.5e-6, 0.0, 0.1, 1e-6),
    ],
)
def test_beta_follows_the_divergence(
    beta: float, kl: float, target: float | None, expected: float
) -> None:
    assert adapted_beta(beta, kl, target) == pytest.approx(expected)


# ---------------------------------------------------------------- advantages

GROUPS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
REWARDS = np.array([0.0, 3.0, 6.0, 5.0, 5.0, 5.0, 1.0, 1.0, 4.0])


@pytest.mark.parametrize(
    ("baseline", "differences"),
    [
        ("group", [-3, 0, 3, 0, 0, 0, -1, -1, 2]),
        ("leave-one-out", [-4.5, 0, 4.5, 0, 0, 0, -1.5, -1.5, 3]),
    ],
)
def test_group_advantages_by_hand(baseline: Any, differences: list[float]) -> None:
    """Catches statistics across layouts, and a deviation for each group."""
    expected = np.array(differences) / np.std(differences)
    np.testing.assert_allclose(group_advantages(REWARDS, GROUPS, baseline), expected)
    # Groups need not lie together.
    order = np.array([8, 3, 0, 5, 2, 7, 4, 1, 6])
    mixed = group_advantages(REWARDS[order], GROUPS[order], baseline)
    np.testing.assert_allclose(mixed, expected[order])
    assert flat_groups(REWARDS, GROUPS).tolist() == [False, True, False]


@pytest.mark.parametrize("baseline", ["group", "leave-one-out"])
def test_equal_rewards_teach_nothing(baseline: Any) -> None:
    """0.1 thrice does not sum to 0.3: catches rounding noise blown up, and 0 / 0."""
    rewards = np.full(9, 0.1)
    assert (group_advantages(rewards, GROUPS, baseline) == 0).all()
    rewards[0] += 1e-6  # far below the floor
    assert np.abs(group_advantages(rewards, GROUPS, baseline)).max() < 2e-3


def test_advantages_are_cut() -> None:
    rewards = np.zeros(90)
    rewards[4] = 1.0
    found = group_advantages(rewards, np.repeat(np.arange(30), 3), "group", clip=5.0)
    assert found.max() == 5.0


def test_a_critic_gives_each_step_its_own_advantage() -> None:
    """By hand: r - phi minus the step's mean, over the deviation of all."""
    values = np.array([[0.0, 4.0], [2.0, 4.0]])
    found = step_advantages(np.array([1.0, 3.0]), values)
    # left: [[1, -3], [1, -1]]; minus column means: [[0, -1], [0, 1]]; deviation sqrt(1 / 2)
    np.testing.assert_allclose(found, np.array([[0, -1], [0, 1]]) * 2**0.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 3.0, 6.0], 1.0),
        ([9.0, 12.0, 15.0], 1.0),
        ([3.0, 3.0, 3.0], 0.0),
        ([6.0, 3.0, 0.0], -3.0),
    ],
)
def test_explained_variance(values: list[float], expected: float) -> None:
    rewards = np.array([0.0, 3.0, 6.0])
    assert explained_variance(rewards, np.array(values)) == pytest.approx(expected)
    both = np.stack([values, values], axis=1)
    assert explained_variance(rewards, both) == pytest.approx(expected)
    assert explained_variance(np.zeros(3), np.array(values)) == 0.0


def test_what_is_not_a_reward_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 9 rewards are not finite"):
        group_advantages(np.where(REWARDS == 3, np.nan, REWARDS), GROUPS)
    with pytest.raises(DataError, match="9 rewards for 3 samples"):
        group_advantages(REWARDS, GROUPS[:3])
    with pytest.raises(UsageError, match="group of one"):
        group_advantages(np.ones(3), np.array([0, 0, 1]))
    with pytest.raises(DataError, match="critic gave"):
        step_advantages(np.ones(2), np.array([[np.nan], [0.0]]))
