"""Reverse steps of rectified flow as Gaussians: the ODE, and rules that add noise.

Ready for models that predict a velocity (MM-DiT); rsgen loads none yet. As in diffusers:
x_sigma = (1 - sigma) x0 + sigma eps, v = eps - x0, sigma falls from 1 to 0, and the network is
given the timestep 1000 sigma. A step goes from sigma to following < sigma; h is the difference.
All rules without noise are the ODE.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rsgen.errors import UsageError
from rsgen.models.process import Gaussian

__all__ = ["FLOW_RULES", "flow_transition"]

# Rule -> default amount of noise, that of its own paper or code.
FLOW_RULES = {
    "ode": 0.0,
    "flow_sde": 0.7,
    "dance": 0.3,
    "cps": 0.8,
    "ddim_eta": 1.0,
    "precise": 1.5,
}
# Schedules in float32 or half precision start close to 1, not at it.
START = 1 - 1e-3


def flow_transition(
    x: Tensor,
    velocity: Tensor,
    sigma: float,
    following: float,
    rule: str = "ddim_eta",
    amount: float | None = None,
) -> Gaussian:
    """The step from x [N, C, h, w] with the network's velocity of the same shape.

    Rules (and what their amount is):
    - `ode`: Euler's step, diffusers' FlowMatchEulerDiscreteScheduler.
    - `flow_sde` (a): Flow-GRPO and I-DRUID's eq. 5, g = a sqrt(sigma / (1 - sigma)). The paper's
      sqrt(dt) has dt < 0; it is sqrt(-dt). Near sigma 1, g is infinite: 1 - following stands in
      for 1 - sigma as in Flow-GRPO's code, which makes that step's noise `a` whatever h is.
    - `dance` (g): DanceGRPO, the same with g constant.
    - `cps` (eta): FlowCPS, s = following sin(eta pi / 2). Biased: spreads of images come out too
      small however many steps are taken.
    - `ddim_eta` (eta): DDIM's rule on this schedule; 1 is DDPM's posterior.
    - `precise` (eta): s = following sqrt(1 - r^(eta^2)), r the ratio of signal-to-noise ratios.
    The last step (following 0) draws no noise in any rule: in `dance` and `flow_sde` it would
    stay on the image, and its tiny s would swamp every other step's gradient.

    Computed in float32 or wider: bf16 rounds the mean.

    Raises:
        UsageError: an unknown rule, an amount below 0, or levels that do not fall within [0, 1].
    """
    noise = _amount(rule, amount)
    if not 0 <= following < sigma <= 1:
        raise UsageError(f"a step from sigma {sigma} to {following}: must fall, within 0 and 1")
    if following == 0 or noise == 0 or rule == "ode":
        state, weight, std = 1.0, following - sigma, 0.0
    elif rule in ("flow_sde", "dance"):
        state, weight, std = _sde(sigma, following, _diffusion(rule, noise, sigma, following))
    else:
        state, weight, std = _preserving(sigma, following, _std(rule, noise, sigma, following))
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean = state * x.to(dtype) + weight * velocity.to(dtype)
    return Gaussian(mean, torch.as_tensor(std, dtype=dtype, device=x.device))


def _amount(rule: str, amount: float | None) -> float:
    if rule not in FLOW_RULES:
        raise UsageError(f"unknown flow rule {rule!r}", hint=f"use one of {', '.join(FLOW_RULES)}")
    noise = FLOW_RULES[rule] if amount is None else amount
    if noise < 0 or (rule in ("cps", "ddim_eta") and noise > 1):
        limit = "from 0 to 1" if rule in ("cps", "ddim_eta") else "0 or more"
        raise UsageError(f"flow rule {rule}: an amount of {noise}; must be {limit}")
    return noise


def _diffusion(rule: str, noise: float, sigma: float, following: float) -> float:
    if rule == "dance":
        return noise
    return noise * math.sqrt(sigma / (1 - (following if sigma > START else sigma)))


def _sde(sigma: float, following: float, g: float) -> tuple[float, float, float]:
    """(state, velocity, std) of Euler-Maruyama on the reverse SDE with diffusion g.

    Source: Flow-GRPO (Liu et al. 2025), eq. 9: drift v + g^2 / (2 sigma) (x + (1 - sigma) v).
    """
    h, pull = sigma - following, g * g / (2 * sigma)
    return 1 - pull * h, -h * (1 + pull * (1 - sigma)), g * math.sqrt(h)


def _std(rule: str, noise: float, sigma: float, following: float) -> float:
    if rule == "cps":
        return following * math.sin(noise * math.pi / 2)
    ratio = following * (1 - sigma) / (sigma * (1 - following))
    if rule == "ddim_eta":
        return noise * following * math.sqrt(1 - ratio**2)
    return following * math.sqrt(1 - ratio ** (noise * noise))


def _preserving(sigma: float, following: float, std: float) -> tuple[float, float, float]:
    """(state, velocity, std) of (1 - following) x0 + sqrt(following^2 - s^2) eps + s noise."""
    kept, direction = 1 - following, math.sqrt(max(following**2 - std**2, 0.0))
    # x0 = x - sigma v, eps = x + (1 - sigma) v
    return kept + direction, direction * (1 - sigma) - kept * sigma, std
