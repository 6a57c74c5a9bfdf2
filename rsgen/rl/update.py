"""Updates of the policy from stored trajectories, with the paired loss beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsgen.errors import SetupError
from rsgen.models.process import Gaussian
from rsgen.request import item_seed
from rsgen.rl.adapter import Learner
from rsgen.rl.epoch import Experience
from rsgen.rl.objective import (
    Ratio,
    clip_range,
    clipped,
    place_clip,
    place_ratios,
    ratio_of,
    step_weights,
    surrogate,
)
from rsgen.rl.optimizer import length
from rsgen.rl.policy import Policy
from rsgen.rl.rollout import Trajectories
from rsgen.training.loop import average_gradients

__all__ = ["Paired", "UpdateSettings", "UpdateStats", "Updater", "ratio_bound"]

CURES = (
    "try execution.dtype=fp32 (--dtype fp32), else another --batch-size, in a new --out; what is "
    "left is a network that does not repeat itself: dropout, one that was compiled for one pass "
    "only, a kernel that is not deterministic"
)


@dataclass(frozen=True)
class UpdateSettings:
    """Numbers of the update; see the settings section rl_tune."""

    updates: int
    clip_nats: float
    ratio: Ratio
    clip_norm: float
    step_limit: float  # nats a step; once an epoch has moved further, its updates left are skipped
    paired_weight: float
    seed: int


class Paired:
    """The usual loss on real images: `loss(step)` is this rank's mean, with gradients."""

    def __init__(self, objective: Any, batch_size: int, policy: Policy) -> None:
        self.objective, self.batch_size, self.policy = objective, batch_size, policy

    def loss(self, step: int) -> Tensor:
        accelerator = self.policy.accelerator
        share = self.batch_size // accelerator.num_processes
        start = accelerator.process_index * share
        batch = self.objective.batch(step, start, start + share, self.policy.device)
        with accelerator.autocast():
            losses: Tensor = self.objective.module(batch)
        return losses.mean()


@dataclass
class UpdateStats:
    """Sums over the steps of an epoch's updates, on this rank."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    off: float = 0.0  # largest |ratio - 1| before the first update, inf where it is no number
    skipped: int = 0  # updates with numbers that are not finite
    left: int = 0  # updates that were left out: the policy had moved far enough

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, accelerator: Any) -> dict[str, float]:
        """Means over all ranks, which count alike."""
        names = sorted(self.sums)
        own = [self.sums[n] / max(1, self.counts[n]) for n in names]
        every = accelerator.reduce(
            torch.tensor(own, dtype=torch.float64, device=accelerator.device), "mean"
        )
        return dict(zip(names, every.tolist(), strict=True))


def ratio_bound(accelerator: Any, clip: float) -> float:
    """How far from 1 a ratio may be before any update: rounding alone.

    1e-6 in float32 on a CPU, 1e-5 on a GPU, a tenth of the clip range in half precision.
    """
    if accelerator.mixed_precision != "no":
        return clip / 10
    return 1e-6 if accelerator.device.type == "cpu" else 1e-5


class Updater:
    """An optimiser with the weights that learn, and beta."""

    def __init__(
        self,
        policy: Policy,
        learner: Learner,
        optimizer: Any,
        settings: UpdateSettings,
        paired: Paired | None,
    ) -> None:
        self.policy, self.learner, self.settings, self.paired = policy, learner, settings, paired
        self.accelerator = policy.accelerator
        self.parameters: list[nn.Parameter] = list(learner.parameters().values())
        self.optimizer = self.accelerator.prepare(optimizer)
        self.clip = clip_range(settings.clip_nats, math.prod(policy.shape))
        self.checked = False  # by this process: a resume checks anew

    def update(
        self,
        experiences: Sequence[Experience],
        epoch: int,
        beta: float,
        check_stop: Callable[[], None],
        before_step: Callable[[Sequence[tuple[Trajectories, Tensor]]], None] = lambda _: None,
    ) -> UpdateStats:
        """All updates of an epoch, from its own trajectories (and older ones of the pool).

        Raises:
            SetupError: the stored trajectories do not have ratio 1 before the first update.
        """
        stats = UpdateStats()
        pairs = [
            (batch, advantages)
            for e in experiences
            for batch, advantages in zip(e.batches, e.advantages, strict=True)
        ]
        rng = np.random.default_rng(item_seed(self.settings.seed, "rl-tune-order", str(epoch)))
        order = rng.permutation(len(pairs))
        for number, part in enumerate(np.array_split(order, self.settings.updates)):
            chosen = [pairs[int(k)] for k in part]
            if not chosen:
                continue
            moved = self._accumulate(chosen, epoch, number, beta, stats, check_stop)
            if number == 0:
                self._check_ratio(stats, [b for b, _ in chosen], [b for b, _ in pairs], epoch)
            if moved > self.settings.step_limit:
                stats.left += self.settings.updates - number
                self.optimizer.zero_grad()
                break
            self._step(stats)
        return stats

    def _accumulate(
        self,
        chosen: Sequence[tuple[Trajectories, Tensor]],
        epoch: int,
        number: int,
        beta: float,
        stats: UpdateStats,
        check_stop: Callable[[], None],
    ) -> float:
        """Gradients of one update; how far the policy has moved since it painted, nats a step."""
        terms = sum(len(batch.steps) for batch, _ in chosen)
        moved = []
        for batch, advantages in chosen:
            predictor = self.policy.predictor(batch.drawn)
            weights = step_weights(self.policy.process, batch.steps, self.settings.ratio)
            for k, values in enumerate(self._steps(batch, predictor)):
                now, start = values
                off = (now.log_prob(batch.actions(k)) - batch.log_probs[:, k]).detach()
                if number == 0 and batch.version == epoch:
                    stats.off = max(stats.off, _off_one(off))
                gain = advantages[:, k].to(now.mean)
                found, clip = self._ratios(now, batch, k, by_place=gain.ndim > 1)
                kl = now.kl(start)
                losses = weights[k] * surrogate(found, gain, clip)
                loss = (losses.mean() + beta * kl.mean()) / terms
                self.accelerator.backward(loss)
                numbers = now.mean[0].numel()
                moved.append(_nats(now, batch, k))
                high, low = clipped(found, gain, clip)
                stats.add(
                    {
                        "policy loss": losses.mean().detach(),
                        "kl": kl.mean().detach() * numbers,
                        "ratio": found.mean().detach(),
                        "clipped high": high,
                        "clipped low": low,
                    }
                )
            check_stop()
        if self.paired is not None:
            self._pair(self.paired, epoch * self.settings.updates + number, stats)
        return self._mean_of_ranks(moved)

    def _pair(self, paired: Paired, step: int, stats: UpdateStats) -> None:
        """Add the paired loss's gradient, `paired_weight` times as long as the reward's.

        Source: I-DRUID, eq. 12, whose plain sum has no scale: a policy's loss is a mean over the
        numbers of a latent, and its gradient shrinks with them: the usual loss's is far longer,
        and a reward beside the plain sum has no say.
        """
        rewarded = self._taken_gradients()
        loss = paired.loss(step)
        self.accelerator.backward(loss)
        real = self._taken_gradients()
        share = self.settings.paired_weight * length(rewarded) / (length(real) or 1.0)
        for parameter, ours, theirs in zip(self.parameters, rewarded, real, strict=True):
            parameter.grad = ours + share * theirs
        stats.add({"paired loss": loss.detach()})

    def _taken_gradients(self) -> list[Tensor]:
        """All gradients, means over ranks, taken off their parameters."""
        average_gradients(self.parameters, self.accelerator)
        taken = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.optimizer.zero_grad()
        return taken

    def _ratios(
        self, now: Gaussian, batch: Trajectories, k: int, *, by_place: bool
    ) -> tuple[Tensor, float]:
        """rho of a stored step [N], or of its places [N, h, w]; and its clip."""
        mode = self.settings.ratio
        if by_place:
            found = place_ratios(now, batch.means[:, k], batch.actions(k), mode)
            return found, place_clip(self.settings.clip_nats, self.policy.shape)
        log_probs = batch.log_probs[:, k]
        return ratio_of(now, batch.means[:, k], batch.actions(k), log_probs, mode), self.clip

    def moved(self, batch: Trajectories) -> float:
        """KL between the policy now and the one that painted a batch; nats a step, all ranks."""
        with torch.no_grad():
            found = [_nats(now, batch, k) for k, now in enumerate(self._now(batch))]
        return self._mean_of_ranks(found)

    def off(self, batch: Trajectories) -> float:
        """How far a batch's ratios are from 1, on this rank; inf where one is no number."""
        with torch.no_grad():
            return max(
                _off_one(now.log_prob(batch.actions(k)) - batch.log_probs[:, k])
                for k, now in enumerate(self._now(batch))
            )

    def _now(self, batch: Trajectories) -> Iterator[Gaussian]:
        """Of each stored step: the policy's Gaussian."""
        predictor = self.policy.predictor(batch.drawn)
        for k, step in enumerate(batch.steps):
            x = batch.states(k)
            yield self.policy.process.transition(x, self.policy.predict(predictor, x, step), step)

    def _mean_of_ranks(self, values: Sequence[float]) -> float:
        own = torch.tensor(float(np.mean(values)), device=self.policy.device)
        return float(self.accelerator.reduce(own, "mean"))

    def _steps(self, batch: Trajectories, predictor: Any) -> Iterator[tuple[Gaussian, Gaussian]]:
        """Of each stored step: the policy's Gaussian with gradients, and the start's."""
        process, policy = self.policy.process, self.policy
        for k, step in enumerate(batch.steps):
            x = batch.states(k)
            with self.learner.reference():
                start = process.transition(x, policy.predict(predictor, x, step), step)
            yield process.transition(x, policy.predict(predictor, x, step), step), start

    def _check_ratio(
        self,
        stats: UpdateStats,
        chosen: Sequence[Trajectories],
        every: Sequence[Trajectories],
        epoch: int,
    ) -> None:
        """Once, on images of this epoch: older ones of the pool have another ratio by right."""
        own = [batch for batch in every if batch.version == epoch]
        if not self.checked and own and all(batch.version != epoch for batch in chosen):
            stats.off = self.off(own[0])
        told = torch.tensor(stats.off, device=self.policy.device)
        stats.off = float(self.accelerator.gather(told.reshape(1)).max())
        bound = ratio_bound(self.accelerator, self.clip)
        if self.checked or not own:
            return
        if stats.off <= bound:
            self.checked = True
            return
        self.optimizer.zero_grad()
        raise SetupError(
            f"the model gives its own images another probability than when it painted them: the "
            f"ratio is off by {stats.off:.2g} before any update, at most {bound:.2g} is rounding; "
            "nothing was learned from them",
            hint=CURES,
        )

    def _step(self, stats: UpdateStats) -> None:
        average_gradients(self.parameters, self.accelerator)
        bound = self.settings.clip_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.parameters, bound)
        finite = norm is None or bool(torch.isfinite(torch.as_tensor(norm)))
        if not finite and self.accelerator.scaler is None:  # a scaler skips the step by itself
            stats.skipped += 1
            self.optimizer.zero_grad()
            return
        stats.add({"gradient norm": float(norm) if norm is not None else math.nan})
        self.optimizer.step()
        self.optimizer.zero_grad()


def _off_one(log_ratio: Tensor) -> float:
    """Largest |ratio - 1|; `max` would pass over what is no number."""
    far = log_ratio.detach().expm1().abs()
    return float(torch.nan_to_num(far, nan=math.inf, posinf=math.inf).max())


def _nats(now: Gaussian, batch: Trajectories, k: int) -> float:
    """KL of a stored step between the policy now and the one that drew it, mean over samples."""
    moved = ((now.mean - batch.means[:, k]) / now.std).detach()
    return 0.5 * float(moved.square().flatten(1).sum(dim=1).mean())
