"""The critic against a value that is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rsgen.errors import DataError
from rsgen.models.process import Process, Rule
from rsgen.rl.advantages import explained_variance
from rsgen.rl.critic import CriticLearner, Seen, pooled_layout, pooled_text

PROCESS = Process.from_config({"beta_schedule": "squaredcos_cap_v2"}, 20, Rule(eta=1.0))
SPREAD = 0.5


def world(count: int, seed: int) -> tuple[Seen, Tensor, Tensor]:
    """States, the rewards they end with, and their exact values.

    An image is one number u ~ N(0, .5^2) everywhere, so that x_t tells of u through its mean:
    u | x_t is normal. The reward is -(u - goal)^2, and the layout tells the goal.
    """
    generator = torch.Generator().manual_seed(seed)
    u = SPREAD * torch.randn(count, generator=generator)
    steps = torch.randint(6, 18, (count,), generator=generator)
    noise = torch.randn(count, 2, 8, 8, generator=generator)
    latents = PROCESS.noised(u[:, None, None, None].expand_as(noise), noise, steps)
    covered = torch.randint(0, 2, (count,), generator=generator).float()
    goal = covered - 0.5
    layout = covered[:, None, None, None].expand(count, 1, 64, 64)
    abar = PROCESS.signal[steps].float()
    numbers = noise[0].numel()
    # Precisions: of u itself, and of the mean of x_t / sqrt(abar) as a measurement of u.
    measured = numbers * abar / (1 - abar)
    variance = 1 / (1 / SPREAD**2 + measured)
    mean = variance * measured * latents.mean(dim=(1, 2, 3)) / abar.sqrt()
    text = torch.zeros(count, 3)
    seen = Seen(latents, PROCESS.timesteps[steps], pooled_layout(layout), text)
    return seen, -((u - goal) ** 2), -((mean - goal) ** 2) - variance


def learner(seed: int = 0) -> CriticLearner:
    return CriticLearner(2, 1, 3, seed=seed)


def teach(critic: CriticLearner, seen: Seen, rewards: Tensor, updates: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        rows = torch.randint(0, len(seen), (64,), generator=generator)
        critic.update(seen.rows(rows), rewards[rows])


def test_it_finds_a_known_value_of_half_painted_images() -> None:
    """Catches a critic that does not see the latents, the layout or the time, and its units."""
    seen, rewards, _ = world(4000, seed=1)
    critic = learner()
    critic.meet(rewards)
    start = critic.values(seen)
    torch.testing.assert_close(start, torch.full_like(start, float(rewards.mean())))
    teach(critic, seen, rewards, 100)
    fresh, ended, known = world(1000, seed=2)
    values = critic.values(fresh).numpy()
    assert explained_variance(known.double().numpy(), values) > 0.9
    assert explained_variance(ended.double().numpy(), values) > 0.85
    assert abs(values.mean() - float(ended.mean())) < 0.1
    blind = Seen(fresh.latents, fresh.timesteps, fresh.layout.flip(0), fresh.text)
    assert explained_variance(known.double().numpy(), critic.values(blind).numpy()) < 0.5


def test_a_resume_is_exact_and_a_seed_is_a_critic() -> None:
    """Catches lost optimiser moments or reward statistics, and global random state."""
    seen, rewards, _ = world(300, seed=3)
    before = torch.get_rng_state()
    critic, same, other = learner(), learner(), learner(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(critic.critic.first.weight, same.critic.first.weight)
    assert not torch.equal(critic.critic.first.weight, other.critic.first.weight)
    critic.meet(rewards)
    teach(critic, seen, rewards, 3)
    kept = critic.tensors()
    assert all(value.is_contiguous() for value in kept.values())
    other.load(kept)
    for one in (critic, other):
        one.meet(rewards * 2 + 1)
        teach(one, seen, rewards, 3, seed=9)
    again = other.tensors()
    assert again.keys() == kept.keys()
    assert all(torch.equal(value, again[name]) for name, value in critic.tensors().items())


def test_new_reward_statistics_do_not_move_its_values() -> None:
    """Catches a baseline that jumps when the rewards' scale is learned anew."""
    seen, rewards, _ = world(300, seed=4)
    critic = learner()
    critic.meet(rewards)
    teach(critic, seen, rewards, 20)
    before = critic.values(seen)
    critic.meet(rewards * 5 + 3)
    torch.testing.assert_close(critic.values(seen), before, atol=1e-4, rtol=1e-4)


def test_constant_rewards_and_bad_ones() -> None:
    seen, rewards, _ = world(64, seed=5)
    critic = learner()
    constant = torch.full_like(rewards, 0.25)
    critic.meet(constant)
    critic.update(seen, constant)
    assert np.allclose(critic.values(seen).numpy(), 0.25, atol=1e-3)
    with pytest.raises(DataError, match="not finite"):
        critic.meet(torch.tensor([1.0, float("nan")]))


def test_pooling_keeps_coverage_and_words() -> None:
    condition = torch.zeros(2, 3, 64, 64)
    condition[0, 1, :32] = 1
    pooled = pooled_layout(condition)
    assert pooled.shape == (2, 3, 16, 16)
    assert (pooled[0, 1, :8] == 1).all()
    assert float(pooled.sum()) == 8 * 16
    states = torch.arange(12.0).reshape(2, 3, 2)
    assert pooled_text(states).tolist() == [[2.0, 3.0], [8.0, 9.0]]
