"""The one sampling loop: noise and a condition in, latents out, under any diffusers scheduler.

DDIM steps are those of `process.py`, which RL scores and trains; the other schedulers are
diffusers' own and draw no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rsgen.errors import DataError, UsageError
from rsgen.models.base import DiffusionModel, Residuals
from rsgen.models.process import Process, Rule
from rsgen.models.schedulers import DiffusersSteps, OnDraw, OwnSteps, Steps, make_scheduler
from rsgen.request import item_seed

__all__ = [
    "Branches",
    "Keep",
    "Predictor",
    "SamplingSettings",
    "draw_noise",
    "plan_branches",
    "sample",
]


@dataclass(frozen=True)
class SamplingSettings:
    """How latents are denoised; guidance 1 means none, control_scale weighs the residuals.

    With eta above 0, or by the rule of DDPM, the scheduler ddim draws noise in the steps of
    `window` (see `process.Rule`).
    """

    scheduler: str = "ddim"
    steps: int = 20
    text_guidance: float = 1.5
    layout_guidance: float = 1.0
    control_scale: float = 1.0
    eta: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    rule: str = "ddim"


@dataclass(frozen=True)
class Keep:
    """Pixels held to a given image: scaled latents [N, C, h, w], and mask [N, 1, h, w], 1 = held.

    A value between 0 and 1 blends.
    """

    latents: Tensor
    mask: Tensor


def draw_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal float32 [N, C, h, w] on the CPU; row k depends on seeds[k] alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        rows.append(torch.randn(tuple(shape), generator=generator, dtype=torch.float32))
    return torch.stack(rows)


def draw_step_noise(seeds: Sequence[int], step: int, shape: Sequence[int]) -> Tensor:
    """The noise of one stochastic step, as `draw_noise`; row k depends on (seeds[k], step) alone.

    Neither the batch nor the number of steps before it matter.
    """
    return draw_noise([item_seed(seed, "step", str(step)) for seed in seeds], shape)


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
    seeds: Sequence[int] | None = None,
    keep: Keep | None = None,
    store_dtype: torch.dtype | None = None,
    after_step: Callable[[int], None] | None = None,
    on_branches: Callable[[Branches], None] | None = None,
    on_draw: OnDraw | None = None,
) -> Tensor:
    """Denoise a batch: float32 latents [N, C, h, w] for `model.decode_latents`.

    Args:
        noise: standard normal [N, C, h, w] (see `draw_noise`).
        text, negative: prompt states [N, L, D].
        condition: [N, K, H, W] in [0, 1] at the exact image size; None for a base model.
        seeds: of the samples; steps that draw noise (settings.eta above 0) need them.
        keep: pixels held to a given image while the rest is painted.
        store_dtype: latents before and after a step that draws are rounded to it, so that they
            can be kept in it without a loss.
        after_step: called with the number of finished steps.
        on_branches: told which network calls a step makes, before the first one.
        on_draw: told of each step that drew noise: its index, the latents before it, its
            Gaussian, and what was drawn.

    Raises:
        DataError: shapes that do not fit each other.
        UsageError: an unknown scheduler, or one that cannot do what is asked.
    """
    _check_shapes(model, noise, text, negative, condition)
    device = torch.device(model.device)
    noise, text, negative = noise.to(device), text.to(device), negative.to(device)
    if condition is not None:
        condition = condition.to(device)
    steps: Steps
    if settings.scheduler == "ddim":
        rule = Rule(settings.rule, settings.eta, settings.window)
        process = Process.from_config(model.scheduler_config, settings.steps, rule)
        draw = None if seeds is None else partial(draw_step_noise, seeds, shape=noise.shape[1:])
        steps = OwnSteps(process, device, draw, store_dtype, on_draw)
    else:
        scheduler = make_scheduler(settings.scheduler, model.scheduler_config)
        if settings.eta:
            raise UsageError(
                f"scheduler {settings.scheduler}: eta {settings.eta} asks for noise in its steps",
                hint="take the scheduler ddim, or eta 0",
            )
        steps = DiffusersSteps(scheduler, settings.steps, device)
    predictor = Predictor(model, text, negative, condition, settings)
    if on_branches is not None:
        on_branches(predictor.branches)
    latents = steps.start(noise.float())
    for i, timestep in enumerate(steps.timesteps):
        prediction = predictor(steps.model_input(latents, i), timestep)
        latents = steps.step(latents, prediction, i)
        if keep is not None:
            last = i + 1 == len(steps.timesteps)
            known = keep.latents.to(latents)
            known = known if last else steps.noised(known, noise, i + 1)
            mask = keep.mask.to(latents)
            latents = mask * known + (1 - mask) * latents
        if after_step is not None:
            after_step(i + 1)
    return latents


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
