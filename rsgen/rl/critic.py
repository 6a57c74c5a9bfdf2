"""What reward a half-painted image will end with: phi(x_t, t, layout, prompt).

I-DRUID's text has phi(s_t) "on the state and the embedded condition", a light MLP taught with the
final reward, 5 critic steps to one of the actor. Its listing feeds the *final image*, which makes
the baseline depend on the action. Here it is the state, as the text has it. Sizes are unpublished:
8 x 8 latents, 16 x 16 layout, two convolutions and an MLP of 256 are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsgen.errors import DataError

__all__ = ["Critic", "CriticLearner", "Seen", "pooled_layout", "pooled_text"]

LATENT_SIDE = 8
LAYOUT_SIDE = 16
TIME_WIDTH = 32
WIDTH = 256
STD_FLOOR = 1e-6  # of rewards, in their own units


@dataclass(frozen=True, eq=False)
class Seen:
    """States as the critic sees them, M of them (samples times steps). On one device.

    latents [M, C, h, w]; timesteps int64 [M] of the training schedule; layout float32
    [M, K, 16, 16] from `pooled_layout`; text float32 [M, E] from `pooled_text`.
    """

    latents: Tensor
    timesteps: Tensor
    layout: Tensor
    text: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, chosen: Tensor) -> Seen:
        return Seen(
            self.latents[chosen], self.timesteps[chosen], self.layout[chosen], self.text[chosen]
        )


def pooled_layout(condition: Tensor) -> Tensor:
    """Control tensors [N, K, H, W] in [0, 1] -> mean coverage float32 [N, K, 16, 16]."""
    return functional.adaptive_avg_pool2d(condition.float(), LAYOUT_SIDE)


def pooled_text(states: Tensor) -> Tensor:
    """Prompt states [N, L, E] -> their means float32 [N, E]."""
    return states.float().mean(dim=1)


class Critic(nn.Module):
    """Values [M] in whitened reward units, where 0 is the mean reward; starts at 0 everywhere."""

    def __init__(self, latent_channels: int, layout_channels: int, text_width: int) -> None:
        super().__init__()
        self.layout = nn.Conv2d(layout_channels, 16, 3, stride=2, padding=1)
        self.first = nn.Conv2d(latent_channels + 16, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * LATENT_SIDE**2 + TIME_WIDTH + text_width, WIDTH)
        self.value = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, seen: Seen) -> Tensor:
        latents = functional.adaptive_avg_pool2d(seen.latents.float(), LATENT_SIDE)
        placed = functional.silu(self.layout(seen.layout))
        grid = functional.silu(self.first(torch.cat([latents, placed], dim=1)))
        grid = functional.silu(self.second(grid)).flatten(1)
        rest = [_waves(seen.timesteps), seen.text]
        hidden = functional.silu(self.hidden(torch.cat([grid, *rest], dim=1)))
        values: Tensor = self.value(hidden)[:, 0]
        return values


def _waves(timesteps: Tensor) -> Tensor:
    """Sinusoids float32 [M, 32] of timesteps, as those of the transformer."""
    rates = torch.exp(
        -math.log(10_000) * torch.arange(TIME_WIDTH // 2, device=timesteps.device) / TIME_WIDTH * 2
    )
    angles = timesteps.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class CriticLearner:
    """A critic with its optimiser and the mean and deviation of rewards that it has met.

    Same seed, same batches: same weights. `tensors` and `load` make a resume exact.
    """

    # Of an epoch's reward statistics in the running ones.
    SHARE = 0.2

    def __init__(
        self,
        latent_channels: int,
        layout_channels: int,
        text_width: int,
        *,
        rate: float = 1e-3,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = Critic(latent_channels, layout_channels, text_width)
        self.critic.to(device)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=rate)
        self.mean, self.std = 0.0, 1.0
        self.met = 0  # epochs of rewards

    @torch.no_grad()
    def values(self, seen: Seen, batch_size: int = 256) -> Tensor:
        """float64 [M] on the CPU, in reward units."""
        every = torch.arange(len(seen), device=seen.latents.device)
        starts = range(0, len(seen), batch_size)
        found = torch.cat([self.critic(seen.rows(every[k : k + batch_size])) for k in starts])
        return found.double().cpu() * self.std + self.mean

    def meet(self, rewards: Tensor) -> None:
        """Take in an epoch's rewards [N], of all ranks, before learning from them.

        After the first epoch, values stay in reward units while the whitening moves: the last
        layer is rescaled (PopArt, van Hasselt et al. 2016).
        """
        mean, std = float(rewards.double().mean()), float(rewards.double().std(correction=0))
        if not math.isfinite(mean) or not math.isfinite(std):
            raise DataError("rewards that are not finite cannot teach the critic")
        share = 1.0 if self.met == 0 else self.SHARE
        old_mean, old_std = (self.mean, self.std) if self.met else (mean, max(std, STD_FLOOR))
        self.mean += share * (mean - self.mean)
        self.std += share * (std - self.std)
        self.std = max(self.std, STD_FLOOR)
        self.met += 1
        last = self.critic.value
        with torch.no_grad():
            last.weight.mul_(old_std / self.std)
            last.bias.copy_((last.bias * old_std + old_mean - self.mean) / self.std)

    def update(
        self, seen: Seen, rewards: Tensor, before_step: Callable[[], None] = lambda: None
    ) -> float:
        """One optimiser step on states and the rewards [M] they ended with; the loss before it.

        before_step: where several ranks average their gradients.
        """
        targets = ((rewards.double() - self.mean) / self.std).float()
        self.optimizer.zero_grad()
        loss = functional.huber_loss(self.critic(seen), targets.to(seen.latents.device))
        torch.autograd.backward(loss)
        before_step()
        nn.utils.clip_grad_norm_(self.critic.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser and statistics, as a safetensors file can hold them."""
        found = {f"critic.{k}": v.detach().cpu() for k, v in self.critic.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{k}": torch.as_tensor(v) for k, v in state.items()}
        numbers = [self.mean, self.std, float(self.met)]
        return {k: v.contiguous().clone() for k, v in found.items()} | {
            "statistics": torch.tensor(numbers, dtype=torch.float64)
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from `tensors`."""
        weights, states = {}, dict[int, dict[str, Any]]()
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "critic":
                weights[rest] = value
            elif kind == "optimizer":
                number, _, key = rest.partition(".")
                states.setdefault(int(number), {})[key] = value.clone()
        self.critic.load_state_dict(weights)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.mean, self.std, met = tensors["statistics"].tolist()
        self.met = int(met)
