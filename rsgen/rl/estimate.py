"""What a tuning run will cost: counted, and timed on one batch, before it starts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from rsgen.request import item_seed
from rsgen.rewards.base import Made
from rsgen.rewards.combine import Rewards
from rsgen.rl.adapter import Learner
from rsgen.rl.epoch import EpochShape
from rsgen.rl.layouts import TuningLayouts
from rsgen.rl.policy import Policy
from rsgen.rl.rollout import bytes_a_sample, roll_out

__all__ = ["Estimate", "estimate"]

UPDATE_COST = 4.0  # forwards of a learned step: forward, backward (twice), and the start's


@dataclass(frozen=True)
class Estimate:
    """Per epoch, over all ranks; bytes on each device."""

    images: int
    updates: int
    forwards: int  # network calls on one image to paint
    learned: int  # network calls with gradients, as many again without for the start
    epochs: int
    learning: int  # weights
    weights_bytes: int  # of the networks, and of the start where all of them learn
    learning_bytes: int  # gradients and moments
    buffer_bytes: int  # trajectories of an epoch, and of the one before where rl_tune.lag is 1
    paint_seconds: float
    reward_seconds: float
    update_seconds: float

    @property
    def seconds(self) -> float:
        """Of an epoch; rewards are looked at while the next batch is painted."""
        return max(self.paint_seconds, self.reward_seconds) + self.update_seconds

    def counts(self) -> dict[str, int]:
        return {
            "epochs": self.epochs,
            "images an epoch": self.images,
            "updates an epoch": self.updates,
            "network calls an epoch": self.forwards + 2 * self.learned,
            "buffer bytes": self.buffer_bytes,
            "seconds an epoch": math.ceil(self.seconds),
        }

    def text(self) -> str:
        """One line for the log."""
        return (
            f"an epoch: {self.images} images, {self.updates} updates, {self.forwards} network "
            f"calls to paint and {self.learned} with gradients; memory: "
            f"{_bytes(self.weights_bytes)} of weights, {_bytes(self.learning_bytes)} for gradients "
            f"and moments of {self.learning / 1e6:.2f} M that learn, {_bytes(self.buffer_bytes)} "
            f"of trajectories, the passes on top; about {_seconds(self.paint_seconds)} to paint, "
            f"{_seconds(self.reward_seconds)} to reward beside it, "
            f"{_seconds(self.update_seconds)} to learn; {self.epochs} epochs: "
            f"{_seconds(self.seconds * self.epochs)} and the looks at held layouts"
        )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def estimate(
    policy: Policy,
    learner: Learner,
    rewards: Rewards,
    layouts: TuningLayouts,
    shape: EpochShape,
    storage: torch.dtype,
    *,
    epochs: int,
    updates: int,
    lag: int,
) -> Estimate:
    """Paint and reward one batch, and scale; nothing is learned or remembered."""
    share = len(shape.own(0))
    drawn, _ = layouts.take(0, share)
    seeds = [item_seed(0, "rl-tune-estimate", str(k)) for k in range(share)]
    started = time.monotonic()
    _, latents = roll_out(policy, drawn, seeds, storage=storage, version=0)
    _wait(policy)
    painted = time.monotonic()
    samples = [d.sample(f"estimate-{k}", "") for k, d in enumerate(drawn)]
    rewards(Made.of(policy.pictures(latents), samples), epoch=0, learn=False)
    rewarded = time.monotonic()
    calls = len(policy.predictor(drawn).branches) / share  # network calls an image and step
    policy.keep(())
    steps, window = len(policy.process), len(policy.window)
    scale = shape.batches
    a_step = (painted - started) / steps
    parameters = list(learner.parameters().values())
    learning = sum(p.numel() for p in parameters)
    networks = learner.model.networks().values()
    return Estimate(
        images=shape.images,
        updates=updates,
        forwards=round(shape.images * steps * calls),
        learned=round(shape.images * window * calls),
        epochs=epochs,
        learning=learning,
        weights_bytes=sum(p.numel() * p.element_size() for n in networks for p in n.parameters())
        + learner.start_bytes,
        learning_bytes=sum(3 * p.numel() * p.element_size() for p in parameters),
        buffer_bytes=(1 + lag) * (shape.images // shape.ranks) * bytes_a_sample(policy, storage),
        paint_seconds=(painted - started) * scale,
        reward_seconds=(rewarded - painted) * scale,
        update_seconds=UPDATE_COST * a_step * window * scale,
    )


def _wait(policy: Policy) -> None:
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
