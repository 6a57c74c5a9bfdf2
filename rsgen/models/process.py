"""One reverse step as a Gaussian: what `generate`, a rollout and an update all go through.

A step of DDIM or DDPM is affine in the latent and in the network's prediction, so a whole
schedule is a table of three numbers a step: mean = state * x + prediction * p, and std.
Steps are integer indices into that table; no scheduler object is stepped.

Symbols: x_t the latent; abar_t the cumulated product of 1 - beta (`signal`); abar_p the same one
step further towards the clean image (`following`); s the standard deviation of a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from rsgen.errors import SetupError, UsageError

__all__ = ["PREDICTIONS", "RULES", "Gaussian", "Process", "Rule"]

RULES = ("ddim", "ddpm")
PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class Gaussian:
    """N(mean, std^2), independent numbers. mean [N, ...]; std [] or [N, 1, ...]; std 0: a point.

    Log-probabilities and divergences are means over the numbers of a sample (nats / D), as in
    DDPO's reference code and I-DRUID's listing (its text has the density itself, their sum).
    """

    mean: Tensor
    std: Tensor

    @property
    def has_density(self) -> bool:
        return bool((self.std > 0).all())

    def sample(self, noise: Tensor, store_dtype: torch.dtype | None = None) -> Tensor:
        """mean + std * noise, rounded to `store_dtype` and given back in the mean's dtype.

        What is stored is what must be scored: a latent rounded to bf16 after scoring shifts the
        log-probability by up to 25 times DDPO's clip range. So round here, then `log_prob`.
        """
        drawn = self.mean + self.std * noise.to(self.mean)
        return drawn if store_dtype is None else drawn.to(store_dtype).to(self.mean.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """[N]: mean over the numbers of a sample of log N(x; mean, std). x is held constant.

        Source: ddpo-pytorch `ddim_step_with_logprob` (Black et al. 2023, eq. 5), with the density
        whole: Flow-GRPO's CPS leaves 1 / (2 std^2) out, which is another temperature.

        Raises:
            UsageError: a deterministic step.
        """
        self._need_density()
        score = ((x.detach().to(self.mean) - self.mean) / self.std).square()
        constant = self.std.log() + 0.5 * math.log(2 * math.pi)
        return (-0.5 * score - constant).flatten(1).mean(dim=1)

    def kl(self, other: Gaussian) -> Tensor:
        """[N]: KL(self || other) as a mean over the numbers of a sample; gradients reach both.

        Closed form; std is that of the whole step, sqrt(|dt|) included (Flow-GRPO's code leaves
        it out). I-DRUID's listing subtracts log-probabilities of different trajectories instead,
        which estimates nothing.

        Raises:
            UsageError: a deterministic step.
        """
        self._need_density()
        other._need_density()
        ratio = self.std / other.std
        # Exactly 0 for equal standard deviations, so that a small distance is not rounded away.
        spread = 0.5 * (ratio.square() - 1) - ratio.log()
        moved = ((self.mean - other.mean) / other.std).square()
        return (0.5 * moved + spread).flatten(1).mean(dim=1)

    def kl_nats(self, other: Gaussian) -> Tensor:
        """[N]: KL(self || other) of the whole latent, in nats."""
        return self.kl(other) * self.mean[0].numel()

    def _need_density(self) -> None:
        if not self.has_density:
            raise UsageError(
                "a deterministic step has no log-probability",
                hint="train only the steps of `Process.stochastic`: eta above 0, inside the window",
            )


@dataclass(frozen=True)
class Rule:
    """Which reverse step is taken where.

    `ddim`: eta from 0 (deterministic) to 1; `ddpm`: the posterior of the forward process.
    The steps of `window`, fractions [first, last) of the steps, draw noise; the others are DDIM
    with eta 0. (0, 0.2) of 20 steps: the first 4.
    """

    kind: str = "ddim"
    eta: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.kind not in RULES:
            raise UsageError(
                f"sampler {self.kind!r} gives no density of a step",
                hint=f"use one of {', '.join(RULES)}",
            )
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta {self.eta}: must be from 0 (no noise) to 1")
        if not 0 <= self.window[0] <= self.window[1] <= 1:
            raise UsageError(
                f"window {self.window}: must be two fractions of the steps, the first not larger",
                hint="(0, 0.2) is the first fifth, (0, 1) every step",
            )

    def drawn(self, steps: int) -> range:
        """Indices of the steps inside the window: every step it touches counts."""
        if self.kind == "ddim" and self.eta == 0:
            return range(0)
        first, last = self.window
        # 1e-9: 0.1 * 30 is 3.0000000000000004, and that is 3 steps.
        return range(math.floor(first * steps + 1e-9), math.ceil(last * steps - 1e-9))


@dataclass(frozen=True)
class Process:
    """A noise schedule, its step grid and a rule, as one table. Tensors are on the CPU.

    timesteps int64 [T], from noise to image; all others float64 [T]. Index i names the step that
    starts at timesteps[i].
    """

    rule: Rule
    prediction_type: str
    timesteps: Tensor
    signal: Tensor  # abar at the step's start
    following: Tensor  # abar at its end
    state: Tensor
    prediction: Tensor
    std: Tensor

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], steps: int, rule: Rule | None = None
    ) -> Process:
        """The schedule of a diffusers scheduler config, on the grid diffusers' DDIM would take.

        Clipping of the predicted image is left out: latents have no range.

        Raises:
            UsageError: a flow schedule, or more steps than the schedule has.
            SetupError: a schedule that its model cannot be sampled on.
        """
        rule = rule or Rule()
        scheduler = _scheduler(config)
        timesteps = _grid(scheduler, steps)
        table = scheduler.alphas_cumprod.double()
        signal = table[timesteps]
        following = _following(scheduler, timesteps, steps)
        drawn = torch.zeros(len(timesteps), dtype=torch.bool)
        drawn[list(rule.drawn(len(timesteps)))] = True
        state, prediction, std = _ddim(
            signal,
            following,
            drawn.double() * (rule.eta if rule.kind == "ddim" else 0.0),
            scheduler.config.prediction_type,
        )
        if rule.kind == "ddpm":
            after = torch.cat([signal[1:], signal.new_ones(1)])
            posterior = _ddpm(signal, after, scheduler.config.prediction_type)
            following = torch.where(drawn, after, following)
            state, prediction, std = (
                torch.where(drawn, inside, outside)
                for inside, outside in zip(posterior, (state, prediction, std), strict=True)
            )
        if not bool(torch.isfinite(state * prediction * std).all()):
            raise SetupError(
                f"the schedule starts at timestep {int(timesteps[0])} without any signal, and a "
                "model that predicts noise cannot start from there",
                hint="set timestep_spacing to leading, or rescale_betas_zero_snr to false, in the "
                "model's scheduler/scheduler_config.json",
            )
        kind = str(scheduler.config.prediction_type)
        return cls(rule, kind, timesteps, signal, following, state, prediction, std)

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic(self) -> tuple[int, ...]:
        """Indices of the steps that draw noise: those with a density, which can be trained.

        The last step is not among them where it ends on the clean image (its std is 0).
        """
        return tuple(torch.nonzero(self.std > 0).flatten().tolist())

    def transition(self, x: Tensor, prediction: Tensor, i: int | Tensor) -> Gaussian:
        """The step from x [N, C, h, w] with the network's (guided) prediction of the same shape.

        i: one index for all samples, or int64 [N]. Computed in float32 or wider, whatever comes
        in: half precision rounds the mean by more than a late step's std.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        x = x.to(dtype)
        state, weight, std = (
            self._at(values, i, x) for values in (self.state, self.prediction, self.std)
        )
        return Gaussian(state * x + weight * prediction.to(dtype), std)

    def clean(self, x: Tensor, prediction: Tensor, i: int | Tensor) -> Tensor:
        """The image [N, C, h, w] that the network expects at the end."""
        of_x, of_prediction = _clean(self.signal, self.prediction_type)
        return self._at(of_x, i, x) * x + self._at(of_prediction, i, x) * prediction

    def noised(self, clean: Tensor, noise: Tensor, i: int | Tensor) -> Tensor:
        """A clean latent at the noise level where step i starts."""
        kept = self._at(self.signal.sqrt(), i, clean)
        return kept * clean + self._at((1 - self.signal).sqrt(), i, clean) * noise

    def _at(self, values: Tensor, i: int | Tensor, like: Tensor) -> Tensor:
        if isinstance(i, int):
            return values[i].to(like)
        chosen = values[i.to(values.device)].to(like)
        return chosen.reshape(-1, *[1] * (like.dim() - 1))


# ---------------------------------------------------------------- the table


def _scheduler(config: Mapping[str, Any]) -> Any:
    """diffusers' DDIM on the schedule of `config`, which may be another scheduler's."""
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    name = str(config.get("_class_name", ""))
    kind = own.get("prediction_type", "epsilon")
    if "FlowMatch" in name or name.startswith("EDM") or kind not in PREDICTIONS:
        raise UsageError(
            f"{name or 'the scheduler'} with prediction type {kind!r} has no variance-preserving "
            "noise schedule",
            hint=f"{' and '.join(RULES)} run on models that predict {', '.join(PREDICTIONS)}",
        )
    if own.get("thresholding"):
        raise SetupError(
            "the model's scheduler thresholds predicted images, which is for pixels, not latents",
            hint="set thresholding to false in scheduler/scheduler_config.json",
        )
    ddim: Any = DDIMScheduler
    return ddim.from_config(own, clip_sample=False)


def _grid(scheduler: Any, steps: int) -> Tensor:
    """int64 timesteps, from noise to image, all within the schedule."""
    trained = int(scheduler.config.num_train_timesteps)
    if not 1 <= steps <= trained:
        raise UsageError(f"{steps} steps: the model's schedule has {trained}")
    scheduler.set_timesteps(steps)
    timesteps: Tensor = scheduler.timesteps
    # Trailing spacing: float rounding in diffusers' arange can add a step at -1 (61 of 1000),
    # which would read the noisiest entry of the table as the cleanest.
    timesteps = timesteps[timesteps >= 0]
    if int(timesteps[0]) >= trained:
        raise UsageError(
            f"{steps} steps start at timestep {int(timesteps[0])}, the schedule ends at "
            f"{trained - 1}",
            hint=f"take fewer than {steps} steps (steps_offset is {scheduler.config.steps_offset})",
        )
    return timesteps


def _following(scheduler: Any, timesteps: Tensor, steps: int) -> Tensor:
    """abar at the end of each DDIM step, float64 [T].

    As diffusers does it, T_train // steps further, which is the next timestep of the grid except
    where that division has a remainder. DDPO's reference clamps the index to 0 instead of taking
    the final value: the same number unless set_alpha_to_one is true.
    """
    ends = timesteps - int(scheduler.config.num_train_timesteps) // steps
    final = scheduler.final_alpha_cumprod.double()
    return torch.where(ends >= 0, scheduler.alphas_cumprod.double()[ends.clamp(min=0)], final)


def _clean(signal: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """x0 = first * x_t + second * prediction."""
    root, noise = signal.sqrt(), (1 - signal).sqrt()
    if kind == "epsilon":
        return 1 / root, -noise / root
    if kind == "sample":
        return torch.zeros_like(root), torch.ones_like(root)
    return root, -noise


def _noise(signal: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """eps = first * x_t + second * prediction."""
    root, noise = signal.sqrt(), (1 - signal).sqrt()
    if kind == "epsilon":
        return torch.zeros_like(root), torch.ones_like(root)
    if kind == "sample":
        return 1 / noise, -root / noise
    return noise, root


def _posterior_variance(signal: Tensor, following: Tensor) -> Tensor:
    """Variance of q(x_p | x_t, x_0): (1 - abar_p) / (1 - abar_t) * (1 - abar_t / abar_p)."""
    return ((1 - following) / (1 - signal) * (1 - signal / following)).clamp(min=0)


def _ddim(
    signal: Tensor, following: Tensor, eta: Tensor, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(state, prediction, std) of DDIM.

    Source: Song et al., Denoising Diffusion Implicit Models, eq. 12 and 16:
    mean = sqrt(abar_p) x0 + sqrt(1 - abar_p - s^2) eps, s = eta * sqrt(posterior variance).
    """
    variance = eta.square() * _posterior_variance(signal, following)
    root, direction = following.sqrt(), (1 - following - variance).clamp(min=0).sqrt()
    parts = zip(_clean(signal, kind), _noise(signal, kind), strict=True)
    state, prediction = (root * clean + direction * noise for clean, noise in parts)
    return state, prediction, variance.sqrt()


def _ddpm(signal: Tensor, following: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """(state, prediction, std) of the forward process's posterior.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, eq. 7, over a stretch of the
    schedule: alpha = abar_t / abar_p. It equals DDIM with eta 1 wherever both end alike.
    """
    alpha = signal / following
    of_clean = following.sqrt() * (1 - alpha) / (1 - signal)
    of_state = alpha.sqrt() * (1 - following) / (1 - signal)
    of_x, of_prediction = _clean(signal, kind)
    std = _posterior_variance(signal, following).sqrt()
    return of_state + of_clean * of_x, of_clean * of_prediction, std
