"""What an update minimises: a clipped importance ratio times the advantage, plus beta times KL.

Symbols: rho the ratio of a stored step's probability under the policy now and when it was drawn;
A its advantage; D the numbers of a latent; mu, s a step's mean and standard deviation; dmu the
mean now minus the mean then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rsgen.errors import UsageError
from rsgen.models.process import Gaussian, Process

__all__ = [
    "Ratio",
    "adapted_beta",
    "clip_range",
    "clipped",
    "place_clip",
    "place_ratios",
    "ratio_of",
    "step_weights",
    "surrogate",
]

Ratio = Literal["center", "plain", "norm"]
BETA_RANGE = (1e-6, 1e3)


def clip_range(nats: float, numbers: int) -> float:
    """Half-width of the trust region around ratio 1, for latents of `numbers` numbers.

    Log-probabilities are means, so a ratio is the true one to the power 1 / D, and a fixed clip
    means another region at another size: DDPO's 1e-4 is 1.6 nats at D = 16384 (512 px of Stable
    Diffusion) and 26 at D = 262144, which is none. PPO's usual 0.2 bounds nothing here.

    Raises:
        UsageError: not positive.
    """
    if nats <= 0 or numbers < 1:
        raise UsageError(f"a clip of {nats} nats on {numbers} numbers: both must be positive")
    return nats / numbers


def ratio_of(
    now: Gaussian, old_mean: Tensor, action: Tensor, old_log_prob: Tensor, mode: Ratio = "center"
) -> Tensor:
    """rho [N] of stored steps; gradients reach `now`, which has the std it had then.

    action, old_mean: [N, C, h, w]; old_log_prob [N], a mean over D, of the action as stored.

    `plain`: exp(log p - log p_old), Schulman et al. 2017, of one stored state and action. I-DRUID's
    eq. 9 and listing divide a fresh trajectory's probability by that of another one: no
    importance ratio, its noise is 50 times DDPO's clip.
    `center`: E[rho] is exp(-KL / D) < 1 once a policy has moved, so that good steps are never
    clipped and bad ones always are (GRPO-Guard, Wang et al. 2025); adding mean|dmu|^2 / (2 s^2)
    gives a log-ratio of mean 0. Value and gradient at dmu = 0 stay.
    `norm`: the log-ratio centred and times s, RatioNorm of the same paper, so that early and late
    steps are clipped alike; the clip is then in nats times s, and `step_weights` belongs to it.
    """
    change = now.log_prob(action) - old_log_prob
    if mode != "plain":
        moved = (now.mean - old_mean) / now.std
        change = change + (0.5 * moved.square()).flatten(1).mean(dim=1)
    if mode == "norm":
        change = change * now.std.reshape(-1)
    return change.exp()


def place_ratios(now: Gaussian, old_mean: Tensor, action: Tensor, mode: Ratio = "center") -> Tensor:
    """rho [N, h, w] of the places of stored steps: `ratio_of` with means over channels alone.

    The numbers of a latent are drawn independently, so the probability of an image is a product
    over its places, and each may have an advantage of its own.
    """
    moved = (now.mean - old_mean) / now.std
    change = moved * (action - old_mean) / now.std
    if mode == "plain":
        change = change - 0.5 * moved.square()
    change = change.mean(dim=1)
    if mode == "norm":
        change = change * now.std.reshape(-1, 1, 1)
    return change.exp()


def place_clip(nats: float, shape: tuple[int, int, int]) -> float:
    """`clip_range` for a place of a latent [C, h, w].

    Log-ratios of places are independent, so they add up by their squares: where each is at its
    bound, the image is about at its own.
    """
    channels, height, width = shape
    return clip_range(nats / math.sqrt(height * width), channels)


def step_weights(process: Process, steps: Sequence[int], mode: Ratio = "center") -> list[float]:
    """Weight of each trained step's loss; 1 but for `norm`.

    `norm`: 1 / |dmu / dprediction|, with which the gradient of a step does not depend on how far
    one prediction moves its mean (RatioNorm, as in the code of Precise, 2026). Scaled to mean 1
    here, so that the weights of KL and paired loss keep their meaning; theirs is not.
    """
    if mode != "norm":
        return [1.0] * len(steps)
    raw = [1 / max(abs(float(process.prediction[i])), 1e-6) for i in steps]
    mean = sum(raw) / len(raw)
    return [value / mean for value in raw]


def surrogate(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Loss [N, ...] to minimise: max(-rho A, -clip(rho, 1 - clip, 1 + clip) A).

    Source: Schulman et al. 2017, eq. 7, negated. I-DRUID's eq. 10 gives its minimum of rho A as a
    loss, which would lower the reward; its listing has the sign used here.
    """
    held = ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(-ratio * advantages, -held * advantages)


def clipped(ratio: Tensor, advantages: Tensor, clip: float) -> tuple[float, float]:
    """Shares of what has an advantage that give no gradient: too likely, too unlikely already."""
    high = (ratio > 1 + clip) & (advantages > 0)
    low = (ratio < 1 - clip) & (advantages < 0)
    count = max(1, int((advantages != 0).sum()))
    return int(high.sum()) / count, int(low.sum()) / count


def adapted_beta(beta: float, kl: float, target: float | None) -> float:
    """The weight of KL for the next epoch: twice or half where `kl` leaves [target / 2, 2 target].

    Source: Schulman et al. 2017, sec. 4, with a band of 2 in place of 1.5. Both in the same unit.
    Beta 0 (off) and a KL that is not finite change nothing.
    """
    if target is None or not beta or not math.isfinite(kl):
        return beta
    factor = 2.0 if kl > 2 * target else 0.5 if kl < target / 2 else 1.0
    return min(max(beta * factor, BETA_RANGE[0]), BETA_RANGE[1])
