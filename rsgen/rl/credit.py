"""What each step of each trajectory is worth: rewards against a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rsgen.request import item_seed
from rsgen.rl.advantages import explained_variance, group_advantages, step_advantages
from rsgen.rl.critic import CriticLearner, Seen, pooled_layout, pooled_text
from rsgen.rl.epoch import Painted
from rsgen.rl.policy import Policy
from rsgen.rl.rewarding import in_order
from rsgen.rl.rollout import Trajectories
from rsgen.settings import RlTuneConfig
from rsgen.training.loop import average_gradients

__all__ = ["Credit", "CriticCredit", "GroupCredit", "credit_of"]


class Credit(Protocol):
    """Gives advantages, and may learn from what was painted.

    Of each step, or of each place of each step: on the grid [h, w] of the latents.
    """

    @property
    def warmup(self) -> int:
        """Epochs in which it alone learns."""
        ...

    def advantages(self, painted: Painted) -> list[Tensor]:
        """float32 [N, K] or [N, K, h, w] a batch of this rank, from the rewards of all ranks."""
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
    """The other images of a layout are the baseline: DDPO, with groups in place of prompts.

    With rl_tune.credit objects, where a reward tells places apart: the same place of the others.
    """

    warmup = 0

    def __init__(self, settings: RlTuneConfig) -> None:
        self.settings = settings

    def advantages(self, painted: Painted) -> list[Tensor]:
        settings = self.settings
        values = group_advantages(
            self._rewards(painted),
            painted.shape.groups,
            settings.baseline,
            settings.std_floor,
            settings.advantage_clip,
        )
        return [
            torch.from_numpy(rows.astype(np.float32))[:, None].expand(
                -1, len(batch.steps), *rows.shape[1:]
            )
            for rows, batch in zip(painted.own(values), painted.batches, strict=True)
        ]

    def _rewards(self, painted: Painted) -> npt.NDArray[np.float64]:
        """Of images [N], or of their places [N, h, w]."""
        places = painted.rewards.places
        if places is None or self.settings.credit == "image":
            return painted.rewards.total
        side = painted.batches[0].latents.shape[-2:]
        found = functional.interpolate(torch.from_numpy(places)[:, None], side, mode="area")
        return found[:, 0].numpy()

    def learn(self, painted: Painted, check_stop: Callable[[], None]) -> float | None:
        return None

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        return


class CriticCredit:
    """A critic of half-painted images is the baseline: PPO, with one advantage a step.

    Every rank has the same critic: gradients are averaged, statistics are of all rewards.
    """

    def __init__(self, settings: RlTuneConfig, policy: Policy, seed: int) -> None:
        self.settings, self.policy, self.seed = settings, policy, seed
        self.warmup = settings.critic_warmup
        self.learner = CriticLearner(
            policy.shape[0],
            policy.painter.encoding.channels,
            policy.text_width,
            rate=settings.critic_lr,
            seed=item_seed(seed, "rl-tune", "critic") % 2**31,
            device=policy.device,
        )
        self._explained: float | None = None

    def advantages(self, painted: Painted) -> list[Tensor]:
        settings, rewards = self.settings, painted.rewards.total
        own = [
            self.learner.values(self._seen(batch)).reshape(len(batch), -1)
            for batch in painted.batches
        ]
        values = in_order(torch.cat(own), painted.shape.batches, self.policy.accelerator).numpy()
        spread = np.broadcast_to(rewards[:, None], values.shape)
        self._explained = explained_variance(spread, values)
        found = step_advantages(rewards, values, settings.std_floor, settings.advantage_clip)
        return [torch.from_numpy(rows.astype(np.float32)) for rows in painted.own(found)]

    def learn(self, painted: Painted, check_stop: Callable[[], None]) -> float | None:
        rewards, settings = painted.rewards.total, self.settings
        self.learner.meet(torch.from_numpy(rewards))
        targets = painted.own(rewards)
        rng = np.random.default_rng(item_seed(self.seed, "rl-tune-critic", str(painted.epoch)))
        at_once = max(1, painted.shape.batches // settings.updates)
        parameters = list(self.learner.critic.parameters())
        for _ in range(settings.updates * settings.critic_updates):
            chosen = rng.permutation(painted.shape.batches)[:at_once]
            parts = [self._seen(painted.batches[int(b)]) for b in chosen]
            rows = [np.repeat(targets[int(b)], len(painted.batches[int(b)].steps)) for b in chosen]
            self.learner.update(
                joined(parts),
                torch.from_numpy(np.concatenate(rows)),
                lambda: average_gradients(parameters, self.policy.accelerator),
            )
            check_stop()
        return self._explained

    def _seen(self, batch: Trajectories) -> Seen:
        """Every state of a batch, sample by sample."""
        text, _, condition = self.policy.inputs(batch.drawn)
        count = len(batch.steps)
        timesteps = self.policy.process.timesteps[list(batch.steps)].to(self.policy.device)
        return Seen(
            batch.latents[:, :count].flatten(0, 1).float(),
            timesteps.repeat(len(batch)),
            pooled_layout(condition).repeat_interleave(count, dim=0),
            pooled_text(text).repeat_interleave(count, dim=0),
        )

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {"critic": self.learner.tensors()}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.learner.load(tensors["critic"])


def joined(parts: Sequence[Seen]) -> Seen:
    """Several batches of states as one."""
    return Seen(
        torch.cat([p.latents for p in parts]),
        torch.cat([p.timesteps for p in parts]),
        torch.cat([p.layout for p in parts]),
        torch.cat([p.text for p in parts]),
    )


def credit_of(settings: RlTuneConfig, policy: Policy, seed: int) -> Credit:
    """The credit that the algorithm asks for."""
    if settings.algorithm == "ppo":
        return CriticCredit(settings, policy, seed)
    return GroupCredit(settings)
