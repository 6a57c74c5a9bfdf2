"""What each step of each trajectory is worth: rewards against a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rsgen.rl.advantages import group_advantages
from rsgen.rl.epoch import EpochShape, Painted
from rsgen.rl.policy import Policy
from rsgen.settings import RlTuneConfig

__all__ = ["Credit", "GroupCredit", "credit_of"]


class Credit(Protocol):
    """Gives advantages, and may learn from what was painted."""

    @property
    def warmup(self) -> int:
        """Epochs in which it alone learns."""
        ...

    def advantages(self, painted: Painted) -> list[Tensor]:
        """float32 [N, K] a batch of this rank, from the rewards of all ranks."""
        ...

    def learn(self, painted: Painted, check_stop: Callable[[], None]) -> float | None:
        """Learn from an epoch; the explained variance before it, None where nothing learns."""
        ...

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What a state keeps, by file name."""
        ...

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from there."""
        ...


class GroupCredit:
    """The other images of a layout are the baseline: DDPO, with groups in place of prompts."""

    warmup = 0

    def __init__(self, settings: RlTuneConfig) -> None:
        self.settings = settings

    def advantages(self, painted: Painted) -> list[Tensor]:
        settings = self.settings
        values = group_advantages(
            painted.rewards.total,
            painted.shape.groups,
            settings.baseline,
            settings.std_floor,
            settings.advantage_clip,
        )
        return [
            torch.from_numpy(rows.astype(np.float32))[:, None].expand(-1, len(batch.steps))
            for rows, batch in zip(painted.own(values), painted.batches, strict=True)
        ]

    def learn(self, painted: Painted, check_stop: Callable[[], None]) -> float | None:
        return None

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        return


def credit_of(settings: RlTuneConfig, policy: Policy, shape: EpochShape, seed: int) -> Credit:
    """The credit that the algorithm asks for."""
    return GroupCredit(settings)
