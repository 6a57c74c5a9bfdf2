"""Samplers by name, and how the sampling loop sees them: one object with integer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from rsgen.errors import UsageError
from rsgen.models.process import Gaussian, Process

__all__ = ["SCHEDULERS", "DiffusersSteps", "OnDraw", "OwnSteps", "Steps", "make_scheduler"]

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
    "dpm++2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "euler": (EulerDiscreteScheduler, {}),
}
# The cosine schedule ends at almost no signal; diffusers' own advice for DPM++ with it.
COSINE_LAMBDA_MIN = -5.1


# Index of a step that drew noise, latents before it, its Gaussian, what was drawn.
OnDraw = Callable[[int, Tensor, Gaussian, Tensor], None]


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler on the model's noise schedule.

    Raises:
        UsageError: an unknown name.
    """
    if name not in SCHEDULERS:
        raise UsageError(
            f"unknown scheduler {name!r}", hint=f"use one of {', '.join(sorted(SCHEDULERS))}"
        )
    kind, options = SCHEDULERS[name]
    options = dict(options)
    if name == "dpm++2m" and config.get("beta_schedule") == "squaredcos_cap_v2":
        options["lambda_min_clipped"] = COSINE_LAMBDA_MIN
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    return kind.from_config(own, **options)


class Steps(Protocol):
    """A scheduler as the loop sees it: steps are indices into `timesteps`."""

    timesteps: Tensor

    def start(self, noise: Tensor) -> Tensor: ...

    def model_input(self, latents: Tensor, i: int) -> Tensor: ...

    def step(self, latents: Tensor, prediction: Tensor, i: int) -> Tensor: ...

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor: ...


class OwnSteps:
    """DDIM and DDPM through `Process`.

    draw: index of a step -> its standard normal noise. store_dtype: latents before and after a
    step that draws are rounded to it, so that they can be kept in it without a loss.

    Raises:
        UsageError: steps that draw noise, and no `draw`.
    """

    def __init__(
        self,
        process: Process,
        device: torch.device,
        draw: Callable[[int], Tensor] | None = None,
        store_dtype: torch.dtype | None = None,
        on_draw: OnDraw | None = None,
    ) -> None:
        if process.stochastic and draw is None:
            raise UsageError("steps that draw noise need the seed of every sample")
        self.process, self.timesteps = process, process.timesteps.to(device)
        self.draw, self.store_dtype, self.on_draw = draw, store_dtype, on_draw
        self.stochastic = frozenset(process.stochastic)

    def start(self, noise: Tensor) -> Tensor:
        return self._rounded(noise) if 0 in self.stochastic else noise

    def model_input(self, latents: Tensor, i: int) -> Tensor:
        return latents

    def step(self, latents: Tensor, prediction: Tensor, i: int) -> Tensor:
        gaussian = self.process.transition(latents, prediction, i)
        if i not in self.stochastic or self.draw is None:
            # What a trained step starts from is stored too.
            return self._rounded(gaussian.mean) if i + 1 in self.stochastic else gaussian.mean
        drawn = gaussian.sample(self.draw(i), self.store_dtype)
        if self.on_draw is not None:
            self.on_draw(i, latents, gaussian, drawn)
        return drawn

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        return self.process.noised(clean, noise, i)

    def _rounded(self, latents: Tensor) -> Tensor:
        if self.store_dtype is None:
            return latents
        return latents.to(self.store_dtype).to(latents.dtype)


class DiffusersSteps:
    """A scheduler of diffusers, which keeps its own place in the schedule."""

    def __init__(self, scheduler: Any, steps: int, device: torch.device) -> None:
        scheduler.set_timesteps(steps, device=device)
        self.scheduler, self.timesteps = scheduler, scheduler.timesteps

    def start(self, noise: Tensor) -> Tensor:
        started: Tensor = noise * self.scheduler.init_noise_sigma
        return started

    def model_input(self, latents: Tensor, i: int) -> Tensor:
        scaled: Tensor = self.scheduler.scale_model_input(latents, self.timesteps[i])
        return scaled

    def step(self, latents: Tensor, prediction: Tensor, i: int) -> Tensor:
        stepped: Tensor = self.scheduler.step(
            prediction, self.timesteps[i], latents, return_dict=False
        )[0]
        return stepped

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        noised: Tensor = self.scheduler.add_noise(
            clean, noise, self.timesteps[i].expand(len(clean))
        )
        return noised
