"""Trajectories that are learned from once more, on disk: of all ranks, as one rank has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from rsgen.rl.epoch import EpochShape, Experience
from rsgen.rl.layouts import TuningLayouts
from rsgen.rl.rewarding import in_order
from rsgen.rl.rollout import Trajectories

__all__ = ["pool_tensors", "pooled"]


def pool_tensors(
    experience: Experience, shape: EpochShape, accelerator: Accelerator
) -> dict[str, Tensor]:
    """An epoch's experience, gathered; all ranks must call it."""

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return in_order(torch.cat([p.cpu() for p in parts]), shape.batches, accelerator)

    batches = experience.batches
    return {
        "numbers": joined([torch.tensor([d.number for d in b.drawn]) for b in batches]),
        "latents": joined([b.latents for b in batches]),
        "means": joined([b.means for b in batches]),
        "log_probs": joined([b.log_probs for b in batches]),
        "advantages": joined(experience.advantages),
        "steps": torch.tensor(batches[0].steps),
    }


def pooled(
    epoch: int,
    tensors: Mapping[str, Tensor],
    shape: EpochShape,
    layouts: TuningLayouts,
    device: torch.device,
) -> Experience:
    """This rank's share of what `pool_tensors` gave."""
    batches, advantages = [], []
    steps = tuple(tensors["steps"].tolist())
    for number in range(shape.batches):
        rows = list(shape.own(number))
        own = {n: t[rows].to(device) for n, t in tensors.items() if n != "steps"}
        drawn = tuple(layouts.named(int(n)) for n in own["numbers"])
        batches.append(
            Trajectories(drawn, steps, own["latents"], own["means"], own["log_probs"], epoch)
        )
        advantages.append(own["advantages"])
    return Experience(epoch, tuple(batches), tuple(advantages))
