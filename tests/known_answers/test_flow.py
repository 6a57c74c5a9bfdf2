"""Steps of rectified flow against diffusers, exact moments and a mixture of two modes."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from scipy.stats import ks_2samp
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from rsgen.errors import UsageError
from rsgen.models.flow import FLOW_RULES, flow_transition

MEAN, SPREAD = 0.4, 0.5
NOISY = [rule for rule in FLOW_RULES if rule != "ode"]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def velocity(x: Tensor, sigma: float, mean: float = MEAN, spread: float = SPREAD) -> Tensor:
    """E[eps - x0 | x] for data N(mean, spread^2)."""
    variance = ((1 - sigma) * spread) ** 2 + sigma**2
    away = (x - (1 - sigma) * mean) / variance
    return sigma * away - (mean + (1 - sigma) * spread**2 * away)


def published(steps: int) -> Any:
    """Stable Diffusion 3's scheduler."""
    kind: Any = FlowMatchEulerDiscreteScheduler
    scheduler = kind(shift=3.0)
    scheduler.set_timesteps(steps)
    return scheduler


def levels(steps: int) -> list[float]:
    return [*np.linspace(1.0, 1e-3, steps).tolist(), 0.0]


# ---------------------------------------------------------------- against diffusers


@pytest.mark.parametrize("steps", [1, 10, 28])
@pytest.mark.parametrize("rule", FLOW_RULES)
def test_without_noise_every_rule_is_the_euler_step_of_diffusers(rule: str, steps: int) -> None:
    """On Stable Diffusion 3's own levels, the last step included."""
    scheduler = published(steps)
    x, v = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    sigmas = scheduler.sigmas.tolist()
    assert len(sigmas) == steps + 1
    for i, timestep in enumerate(scheduler.timesteps):
        step = flow_transition(x, v, sigmas[i], sigmas[i + 1], rule, 0.0)
        expected = scheduler.step(v, timestep, x).prev_sample.double()
        torch.testing.assert_close(step.mean, expected, atol=1e-6, rtol=0)
        assert not step.has_density


def test_flow_sde_is_the_published_step() -> None:
    """Flow-GRPO's drift and noise, written with score and velocity: catches a lost sqrt(-dt)."""
    x, v = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    sigma, following, a = 0.8, 0.7, 0.7
    dt = following - sigma
    g = a * math.sqrt(sigma / (1 - sigma))
    score = -(x + (1 - sigma) * v) / sigma
    step = flow_transition(x, v, sigma, following, "flow_sde", a)
    torch.testing.assert_close(step.mean, x + (v - g**2 / 2 * score) * dt)
    assert float(step.std) == pytest.approx(g * math.sqrt(-dt))


def test_ddim_eta_is_the_posterior_of_the_schedule() -> None:
    """q(x' | x, x0) worked out from precisions: catches an exponent in the ratio."""
    sigma, following = 0.6, 0.45
    # x = alpha x' + noise of variance beta, because both levels are of one schedule.
    alpha = (1 - sigma) / (1 - following)
    beta = sigma**2 - (alpha * following) ** 2
    precision = alpha**2 / beta + 1 / following**2
    x, v = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    clean = x - sigma * v
    mean = (alpha * x / beta + (1 - following) * clean / following**2) / precision
    step = flow_transition(x, v, sigma, following, "ddim_eta", 1.0)
    torch.testing.assert_close(step.mean, mean)
    assert float(step.std) == pytest.approx(precision**-0.5)


# ---------------------------------------------------------------- moments, no sampling


def moments(rule: str, grid: list[float], spread: float = SPREAD, until: int = 0) -> list[float]:
    """Largest error of the mean, and the final deviation; `until`: steps with noise (0: all)."""
    mean, variance, off = 0.0, 1.0, 0.0
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None]
    for i, (sigma, following) in enumerate(pairwise(grid)):
        now = "ode" if until and i >= until else rule
        v = velocity(ends, sigma, spread=spread)
        step = flow_transition(ends, v, sigma, following, now)
        shift, slope = float(step.mean[0]), float(step.mean[1] - step.mean[0])
        mean, variance = shift + slope * mean, slope**2 * variance + float(step.std) ** 2
        off = max(off, abs(mean - (1 - following) * MEAN))
    return [off, math.sqrt(variance)]


@pytest.mark.parametrize(
    ("rule", "spreads"),
    [
        ("ode", (0.42, 0.485, 0.499)),
        ("flow_sde", (0.48, 0.50, 0.50)),
        ("ddim_eta", (0.38, 0.47, 0.498)),
        ("precise", (0.37, 0.47, 0.498)),
        ("cps", (0.35, 0.39, 0.40)),  # biased by design
    ],
)
def test_moments_of_gaussian_data(rule: str, spreads: tuple[float, ...]) -> None:
    """The mean is exact at every step, the deviation tends to 0.5 with 10, 50, 1000 steps."""
    for steps, spread in zip((10, 50, 1000), spreads, strict=True):
        off, found = moments(rule, levels(steps))
        assert off < 1e-9
        assert found == pytest.approx(spread, abs=0.006)


def test_an_early_window_leaves_no_noise_on_the_image() -> None:
    """Stable Diffusion 3's levels end at .0089: noise in all steps stays visible in flow_sde."""
    grid = published(10).sigmas.tolist()
    assert moments("flow_sde", grid, 0.02)[1] > 0.15
    assert moments("flow_sde", grid, 0.02, until=2)[1] == pytest.approx(0.009, abs=0.002)
    assert moments("ddim_eta", grid, 0.02)[1] == pytest.approx(0.008, abs=0.002)


# ---------------------------------------------------------------- two modes


def mixture_velocity(x: Tensor, sigma: float) -> Tensor:
    """E[eps - x0 | x] for 0.3 N(-1, .2^2) + 0.7 N(1, .2^2)."""
    spread = math.sqrt((0.2 * (1 - sigma)) ** 2 + sigma**2)
    parts = [(0.3, -1.0), (0.7, 1.0)]
    normal: Any = Normal
    likely = [normal((1 - sigma) * m, spread).log_prob(x) + math.log(w) for w, m in parts]
    shares = torch.softmax(torch.stack(likely), dim=0)
    each = torch.stack([velocity(x, sigma, mean, 0.2) for _, mean in parts])
    return (shares * each).sum(dim=0)


@pytest.mark.parametrize("rule", ["flow_sde", "ddim_eta", "precise"])
def test_noise_keeps_the_marginals_of_two_modes(rule: str) -> None:
    """Catches a drift that does not make up for its noise: modes change weight or width."""
    grid, count = levels(200), 20_000
    start = random(count, 1)

    def run(rule: str) -> Tensor:
        x, generator = start, torch.Generator().manual_seed(3)
        for sigma, following in pairwise(grid):
            step = flow_transition(x, mixture_velocity(x, sigma), sigma, following, rule)
            x = step.sample(torch.randn(count, 1, generator=generator, dtype=x.dtype))
        return x

    ode, noisy = run("ode"), run(rule)
    assert ks_2samp(ode[:, 0].numpy(), noisy[:, 0].numpy()).statistic < 0.02
    assert float((noisy < 0).double().mean()) == pytest.approx(0.3, abs=0.02)


# ---------------------------------------------------------------- both ends, densities


@pytest.mark.parametrize("rule", FLOW_RULES)
def test_both_ends_are_finite(rule: str) -> None:
    """Catches the infinite g at sigma 1, and noise or a density on the finished image."""
    x, v = random(2, 4, 3, 3).float(), random(2, 4, 3, 3, seed=1).float()
    for sigma in (1.0, 1 - 2**-12):
        step = flow_transition(x, v, sigma, 0.96, rule)
        assert torch.isfinite(step.mean).all()
        assert step.has_density == (rule != "ode")
    last = flow_transition(x, v, 0.0089, 0.0, rule)
    assert torch.isfinite(last.mean).all()
    assert not last.has_density


@pytest.mark.parametrize("following", [0.99, 0.96, 0.5])
def test_the_first_step_of_flow_sde_has_noise_a_at_any_length(following: float) -> None:
    x = torch.ones(1, 1, dtype=torch.float64)
    step = flow_transition(x, torch.zeros_like(x), 1.0, following, "flow_sde", 0.7)
    assert float(step.std) == pytest.approx(0.7)
    assert float(step.mean) == pytest.approx(1 - 0.7**2 / 2)


@pytest.mark.parametrize("rule", NOISY)
def test_noise_that_is_recovered_has_unit_variance_and_the_density_is_normal(rule: str) -> None:
    """Catches a std that is not that of the draw, and a KL without the step's length."""
    x, v = random(64, 4, 8, 8), random(64, 4, 8, 8, seed=1)
    step = flow_transition(x, v, 0.7, 0.6, rule)
    drawn = step.sample(random(64, 4, 8, 8, seed=2))
    noise = (drawn - step.mean) / step.std
    assert float(noise.square().mean()) == pytest.approx(1, abs=0.03)
    normal: Any = Normal(step.mean, step.std)
    torch.testing.assert_close(step.log_prob(drawn), normal.log_prob(drawn).mean(dim=(1, 2, 3)))
    other = flow_transition(x, v + 0.1, 0.7, 0.6, rule)
    whole = kl_divergence(normal, Normal(other.mean, other.std)).mean(dim=(1, 2, 3))
    torch.testing.assert_close(step.kl(other), whole)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (partial(flow_transition, sigma=0.5, following=0.4, rule="euler"), "use one of ode"),
        (partial(flow_transition, sigma=0.5, following=0.5), "must fall"),
        (partial(flow_transition, sigma=1.2, following=0.5), "must fall"),
        (partial(flow_transition, sigma=0.5, following=0.4, amount=1.5), "from 0 to 1"),
        (partial(flow_transition, sigma=0.5, following=0.4, amount=-1.0), "from 0"),
    ],
)
def test_what_cannot_be_stepped_is_refused(call: partial[object], words: str) -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(UsageError) as caught:
        call(x, x)
    assert words in str(caught.value)
