"""The one sampling loop: noise and a condition in, latents out, under any diffusers scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from rsgen.errors import DataError, UsageError
from rsgen.models.base import DiffusionModel, Residuals

__all__ = [
    "SCHEDULERS",
    "Branches",
    "Keep",
    "Predictor",
    "SamplingSettings",
    "draw_noise",
    "make_scheduler",
    "plan_branches",
    "sample",
]

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
    "dpm++2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "euler": (EulerDiscreteScheduler, {}),
}
# The cosine schedule ends at almost no signal; diffusers' own advice for DPM++ with it.
COSINE_LAMBDA_MIN = -5.1


@dataclass(frozen=True)
class SamplingSettings:
    """How latents are denoised; guidance 1 means none, control_scale weighs the residuals."""

    scheduler: str = "ddim"
    steps: int = 20
    text_guidance: float = 1.5
    layout_guidance: float = 1.0
    control_scale: float = 1.0


@dataclass(frozen=True)
class Keep:
    """Pixels held to a given image: scaled latents [N, C, h, w], and mask [N, 1, h, w], 1 = held.

    A value between 0 and 1 blends.
    """

    latents: Tensor
    mask: Tensor


def draw_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal float32 [N, C, h, w] on the CPU; row k depends on seeds[k] alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        rows.append(torch.randn(shape, generator=generator, dtype=torch.float32))
    return torch.stack(rows)


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


# ---------------------------------------------------------------- guidance


@dataclass(frozen=True)
class Branches:
    """The network calls of one step, with equal ones joined.

    Call j runs sample `rows[j]` with its negative prompt where `negative[j]`, without its
    layout where `bare[j]`, and enters that sample's prediction with `weights[j]`.
    """

    rows: Tensor  # int64 [R]
    negative: Tensor  # bool [R]
    bare: Tensor  # bool [R]
    weights: Tensor  # float32 [R]
    full: int  # calls if equal branches were not joined

    def __len__(self) -> int:
        return len(self.rows)


def plan_branches(
    text: Tensor,
    negative: Tensor,
    condition: Tensor | None,
    text_guidance: float,
    layout_guidance: float,
    *,
    empty_equals_bare: bool,
) -> Branches:
    """Which calls a step needs, for prompts [N, L, D] and conditions [N, K, H, W] or None.

    prediction = p(-, -) + layout_guidance (p(-, layout) - p(-, -))
                         + text_guidance (p(text, layout) - p(-, layout)),
    a weighted sum of three calls: calls that are equal (the prompt equals the negative prompt,
    the layout is empty) are joined, and those of weight 0 are left out.
    """
    wanted: list[tuple[int, bool, bool, float]] = []
    full = 0
    for row in range(len(text)):
        same_text = torch.equal(text[row], negative[row])
        no_layout = condition is None or (empty_equals_bare and not bool(condition[row].any()))
        terms = {
            (False, False): text_guidance,
            (True, False): layout_guidance - text_guidance,
            (True, True): 1.0 - layout_guidance,
        }
        full += sum(weight != 0 for weight in terms.values())
        joined: dict[tuple[bool, bool], float] = {}
        for (is_negative, is_bare), weight in terms.items():
            key = (is_negative and not same_text, is_bare or no_layout)
            joined[key] = joined.get(key, 0.0) + weight
        wanted += [(row, *key, weight) for key, weight in joined.items() if weight != 0]
    rows, negatives, bare, weights = zip(*wanted, strict=True)
    return Branches(
        torch.tensor(rows),
        torch.tensor(negatives),
        torch.tensor(bare),
        torch.tensor(weights, dtype=torch.float32),
        full,
    )


class Predictor:
    """The guided prediction of a model for fixed prompts and conditions."""

    def __init__(
        self,
        model: DiffusionModel,
        text: Tensor,
        negative: Tensor,
        condition: Tensor | None,
        settings: SamplingSettings,
    ) -> None:
        # Checkpoints trained with hint dropout have seen empty conditions; of others the
        # layout-free prediction is the UNet without its control branch.
        self.learned_empty = model.card is not None and model.card.knows_empty_layouts
        branches = plan_branches(
            text,
            negative,
            condition,
            settings.text_guidance,
            settings.layout_guidance,
            empty_equals_bare=self.learned_empty,
        )
        self.model, self.settings, self.branches = model, settings, branches
        device = text.device
        self.count = len(text)
        self.rows = branches.rows.to(device)
        self.weights = branches.weights.to(device)[:, None, None, None]
        chosen = branches.negative.to(device)[:, None, None]
        self.text = torch.where(chosen, negative[self.rows], text[self.rows])
        self.condition: Tensor | None = None
        self.controlled = torch.zeros(len(branches), dtype=torch.bool, device=device)
        if condition is not None:
            bare = branches.bare.to(device)
            kept = (~bare).to(condition.dtype)[:, None, None, None]
            whole = condition[self.rows] * kept
            self.controlled = ~bare | self.learned_empty
            # One tensor for every step, so that a model may remember what it made of it.
            self.condition = whole[self.controlled]

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Guided prediction float32 [N, C, h, w] for scaled model input [N, C, h, w]."""
        repeated = latents[self.rows]
        steps = timestep.to(repeated.device).expand(len(repeated))
        residuals = self._control(repeated, steps)
        output = self.model.predict(repeated, steps, self.text, residuals).float()
        if len(output) == self.count:
            return output
        total = torch.zeros_like(latents, dtype=torch.float32)
        return total.index_add_(0, self.rows, output * self.weights)

    def _control(self, latents: Tensor, steps: Tensor) -> Residuals | None:
        if self.condition is None or not len(self.condition):
            return None
        if len(self.condition) == len(latents):
            residuals = self.model.control(latents, steps, self.text, self.condition)
        else:
            on = self.controlled
            some = self.model.control(latents[on], steps[on], self.text[on], self.condition)
            residuals = Residuals(
                tuple(_spread(t, on) for t in some.down), _spread(some.middle, on)
            )
        scale = self.settings.control_scale
        return residuals if scale == 1 else residuals.scaled(scale)


def _spread(some: Tensor, on: Tensor) -> Tensor:
    """Rows of `some` at the true places of `on`, zeros elsewhere."""
    whole = some.new_zeros((len(on), *some.shape[1:]))
    whole[on] = some
    return whole


# ---------------------------------------------------------------- the loop


@torch.no_grad()
def sample(
    model: DiffusionModel,
    *,
    noise: Tensor,
    text: Tensor,
    negative: Tensor,
    condition: Tensor | None,
    settings: SamplingSettings,
    keep: Keep | None = None,
    after_step: Callable[[int], None] | None = None,
    on_branches: Callable[[Branches], None] | None = None,
) -> Tensor:
    """Denoise a batch: float32 latents [N, C, h, w] for `model.decode_latents`.

    Args:
        noise: standard normal [N, C, h, w] (see `draw_noise`).
        text, negative: prompt states [N, L, D].
        condition: [N, K, H, W] in [0, 1] at the exact image size; None for a base model.
        keep: pixels held to a given image while the rest is painted.
        after_step: called with the number of finished steps.
        on_branches: told which network calls a step makes, before the first one.

    Raises:
        DataError: shapes that do not fit each other. UsageError: an unknown scheduler.
    """
    _check_shapes(model, noise, text, negative, condition)
    device = torch.device(model.device)
    noise, text, negative = noise.to(device), text.to(device), negative.to(device)
    if condition is not None:
        condition = condition.to(device)
    scheduler = make_scheduler(settings.scheduler, model.scheduler_config)
    scheduler.set_timesteps(settings.steps, device=device)
    predictor = Predictor(model, text, negative, condition, settings)
    if on_branches is not None:
        on_branches(predictor.branches)
    latents: Tensor = noise.float() * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        prediction = predictor(scaled, timestep)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        if keep is not None:
            following = timesteps[index + 1] if index + 1 < len(timesteps) else None
            latents = _held(scheduler, latents, keep, noise, following)
        if after_step is not None:
            after_step(index + 1)
    return latents


def _held(
    scheduler: Any, latents: Tensor, keep: Keep, noise: Tensor, timestep: Tensor | None
) -> Tensor:
    """Put the given image, at the noise level of `timestep` (None: clean), where it is held."""
    known, mask = keep.latents.to(latents), keep.mask.to(latents)
    if timestep is not None:
        known = scheduler.add_noise(known, noise, timestep.expand(len(known)))
    held: Tensor = mask * known + (1 - mask) * latents
    return held


def _check_shapes(
    model: DiffusionModel, noise: Tensor, text: Tensor, negative: Tensor, condition: Tensor | None
) -> None:
    count, channels, height, width = noise.shape
    if channels != model.latent_channels:
        raise DataError(f"noise has {channels} channels, the model {model.latent_channels}")
    if len(text) != count or text.shape != negative.shape:
        raise DataError(
            f"{count} noise rows, prompt states {tuple(text.shape)}, "
            f"negative prompt states {tuple(negative.shape)}: the counts and shapes must agree"
        )
    if condition is None:
        return
    wanted = (count, height * model.factor, width * model.factor)
    found = (len(condition), *condition.shape[-2:])
    if found != wanted:
        # diffusers would resize it in silence.
        raise DataError(f"condition [N, H, W] is {found}, the latents need {wanted}")
