"""One epoch's experience: layouts in, trajectories with advantages out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rsgen.errors import UsageError
from rsgen.records import Sample
from rsgen.request import item_seed
from rsgen.rewards.base import RewardBatch
from rsgen.rewards.combine import Rewards
from rsgen.rl.layouts import Drawn, TuningLayouts
from rsgen.rl.policy import Policy
from rsgen.rl.rewarding import THUMBNAIL, Looking, gathered, group_diversity
from rsgen.rl.rollout import Trajectories, roll_out

__all__ = ["EpochShape", "Experience", "Painted", "epoch_shape", "paint_epoch"]

BATCH_SIZE = 16


@dataclass(frozen=True)
class EpochShape:
    """How the images of an epoch are divided: batches of `batch_size` over all ranks."""

    layouts: int
    samples: int
    batch_size: int
    rank: int
    ranks: int

    @property
    def images(self) -> int:
        return self.layouts * self.samples

    @property
    def batches(self) -> int:
        return self.images // self.batch_size

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """Which layout each image is of, by position in the epoch."""
        return np.repeat(np.arange(self.layouts), self.samples)

    def own(self, batch: int) -> range:
        """Positions of this rank's share of a batch."""
        share = self.batch_size // self.ranks
        start = batch * self.batch_size + self.rank * share
        return range(start, start + share)


def epoch_shape(
    layouts: int, samples: int, asked: int | None, ranks: int, rank: int = 0
) -> EpochShape:
    """The shape for a batch size that was asked for, else the largest that fits up to 16.

    Raises:
        UsageError: it does not divide the images, or the ranks do not divide it.
    """
    images = layouts * samples
    fitting = [size for size in range(1, images + 1) if images % size == 0 and size % ranks == 0]
    if not fitting or (asked is not None and asked not in fitting):
        near = min(fitting, key=lambda size: abs(size - (asked or BATCH_SIZE)), default=0)
        hint = f"use --batch-size {near}" if near else f"use a multiple of {ranks} images an epoch"
        raise UsageError(
            f"an epoch of {layouts} layouts x {samples} images cannot be cut into batches of "
            f"{asked or 'any size'} for {ranks} processes: all batches must have one size",
            hint=hint,
        )
    size = asked or max((s for s in fitting if s <= BATCH_SIZE), default=fitting[0])
    return EpochShape(layouts, samples, size, rank, ranks)


@dataclass(frozen=True, eq=False)
class Experience:
    """What one epoch's update learns from: this rank's batches, and what each step is worth.

    `advantages`: one tensor a batch, float32 [N, K], or [N, K, h, w] of places of the latents.
    """

    epoch: int
    batches: tuple[Trajectories, ...]
    advantages: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Painted:
    """An epoch's images as they were rewarded, of all ranks; and this rank's trajectories."""

    epoch: int
    shape: EpochShape
    batches: tuple[Trajectories, ...]
    rewards: RewardBatch
    diversity: float
    counts: dict[str, int] = field(default_factory=dict)

    def own(self, values: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        """This rank's rows [N, ...] of values [images, ...], a batch each."""
        return [values[list(self.shape.own(b))] for b in range(self.shape.batches)]


def paint_epoch(
    policy: Policy,
    rewards: Rewards,
    layouts: TuningLayouts,
    shape: EpochShape,
    *,
    epoch: int,
    cursor: int,
    seed: int,
    storage: torch.dtype,
    after_batch: Callable[[int], None],
) -> tuple[Painted, int]:
    """Paint and reward every image of an epoch; also the next place in the layouts.

    Image `position` depends on (seed, epoch, position), its layout and the model alone.
    """
    drawn, cursor = layouts.take(cursor, shape.layouts)
    groups = shape.groups
    kept: list[Trajectories] = []
    with Looking(policy, rewards) as looking:
        for batch in range(shape.batches):
            positions = shape.own(batch)
            chosen = [drawn[groups[p]] for p in positions]
            seeds = [item_seed(seed, "rl-tune", f"{epoch}/{p}") for p in positions]
            found, latents = roll_out(policy, chosen, seeds, storage=storage, version=epoch)
            kept.append(found)
            samples = [_sample(policy, d, epoch, p) for d, p in zip(chosen, positions, strict=True)]
            looking.add(latents, samples, [int(groups[p]) for p in positions])
            after_batch(shape.batch_size)
        seen = gathered(looking.seen(), shape.batches, policy.accelerator)
    thumbnails = seen.pop(THUMBNAIL)
    rated = rewards.rate(seen, epoch=epoch, learn=True)
    painted = Painted(
        epoch,
        shape,
        tuple(kept),
        rated,
        group_diversity(thumbnails, groups.tolist()),
        dict(rated.counts),
    )
    return painted, cursor


def _sample(policy: Policy, drawn: Drawn, epoch: int, position: int) -> Sample:
    return drawn.sample(f"{epoch:05d}-{position:06d}", policy.painter.prompt(drawn.layout))
