"""Trajectories: images painted with noise in a window of steps, which is all that is kept.

Everything random in trajectory k follows from its item seed, so it is the same in any batch of
the same shape, and two ranks draw what one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsgen.models.process import Gaussian
from rsgen.rl.layouts import Drawn
from rsgen.rl.policy import Policy

__all__ = ["Trajectories", "bytes_a_sample", "roll_out"]


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A batch of trajectories inside the window of K steps; N samples of D = C h w numbers.

    `latents` [N, K + 1, C, h, w] are rounded to their storage type, and were scored so.
    """

    drawn: tuple[Drawn, ...]
    steps: tuple[int, ...]
    latents: Tensor
    means: Tensor  # float32 [N, K, C, h, w], of the policy that painted
    log_probs: Tensor  # float32 [N, K], means over D
    version: int  # of the policy: optimiser epochs before it

    def __len__(self) -> int:
        return len(self.drawn)

    def states(self, k: int) -> Tensor:
        """Where step k of the window starts, float32 [N, C, h, w]."""
        return self.latents[:, k].float()

    def actions(self, k: int) -> Tensor:
        """Where it ended."""
        return self.latents[:, k + 1].float()


def bytes_a_sample(policy: Policy, storage: torch.dtype) -> int:
    """Memory of one stored trajectory."""
    channels, height, width = policy.shape
    numbers, steps = channels * height * width, len(policy.window)
    return numbers * ((steps + 1) * storage.itemsize + steps * 4) + steps * 4


def roll_out(
    policy: Policy,
    drawn: Sequence[Drawn],
    seeds: Sequence[int],
    *,
    storage: torch.dtype,
    version: int,
) -> tuple[Trajectories, Tensor]:
    """Paint a batch; its trajectories, and the final latents [N, C, h, w] for decoding.

    Steps outside the window are deterministic. Latents inside it are rounded to `storage`
    before they are scored and gone on from.
    """
    steps: list[int] = []
    latents: list[Tensor] = []
    means: list[Tensor] = []
    log_probs: list[Tensor] = []

    def keep(step: int, before: Tensor, gaussian: Gaussian, after: Tensor) -> None:
        if not latents:
            latents.append(before.to(storage))
        steps.append(step)
        latents.append(after.to(storage))
        means.append(gaussian.mean)
        log_probs.append(gaussian.log_prob(after))

    final = policy.paint(drawn, seeds, storage, keep)
    found = Trajectories(
        tuple(drawn),
        tuple(steps),
        torch.stack(latents, dim=1),
        torch.stack(means, dim=1),
        torch.stack(log_probs, dim=1),
        version,
    )
    return found, final
