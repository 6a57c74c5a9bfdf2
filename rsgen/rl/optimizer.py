"""How gradients move weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsgen.settings import RlTuneConfig

__all__ = ["OneScale", "length", "make_optimizer"]


def length(gradients: Sequence[Tensor]) -> float:
    """The Euclidean norm of all numbers."""
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


class OneScale(torch.optim.Optimizer):
    """Adam with one second moment for all numbers: along the gradient, not along its signs.

    A policy gradient of a few hundred images is mostly noise. Adam divides each number by its own
    scale, so that all of them move alike, and those that no reward depends on walk at random as
    far as the others go; here a number moves as far as its gradient says. `lr` is what it is to
    Adam: how far a number moves in a step, root mean square.

    Source: Kingma and Ba 2015, algorithm 1, with the mean over all numbers in place of v.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; nothing moves where all gradients are 0. Takes no closure."""
        for group in self.param_groups:
            self._step(group, [p for p in group["params"] if p.grad is not None])

    def _step(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        first, second = group["betas"]
        numbers = sum(p.numel() for p in parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        square = length(gradients) ** 2 / numbers if numbers else 0.0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros((), dtype=torch.float64)
            state["step"] += 1
            state["exp_avg"].lerp_(gradient, 1 - first)
            state["square"].lerp_(torch.tensor(square, dtype=torch.float64), 1 - second)
            count = int(state["step"])
            scale = math.sqrt(float(state["square"]) / (1 - second**count))
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if scale:
                rate = group["lr"] / (1 - first**count) / scale
                parameter.add_(state["exp_avg"], alpha=-rate)


def make_optimizer(
    settings: RlTuneConfig, parameters: list[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """The optimiser that `rl_tune.optimizer` names."""
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.999), weight_decay=decay)
    return OneScale(parameters, lr, weight_decay=decay)
