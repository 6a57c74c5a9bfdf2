"""Rewards against a baseline: how much better than expected each step turned out.

Numpy, float64, over the whole batch: with several ranks the caller gathers rewards first, so that
two ranks find what one would.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError, UsageError

__all__ = ["Baseline", "explained_variance", "flat_groups", "group_advantages", "step_advantages"]

Values = npt.NDArray[np.float64]
Baseline = Literal["group", "leave-one-out"]


def group_advantages(
    rewards: Values,
    groups: npt.NDArray[np.int64],
    baseline: Baseline = "leave-one-out",
    floor: float = 1e-3,
    clip: float = 5.0,
) -> Values:
    """Advantages of rewards [N, ...] within their groups (samples of one layout), as many.

    Rewards of places [N, h, w] are compared place by place: a layout has its objects at the same
    places in each of its images.

    `group`: minus the group's mean (GRPO, DDPO's per-prompt statistics). `leave-one-out`: minus
    the mean of the others (LOOP, Chen et al. 2025), which is n / (n - 1) times that and without
    bias. DDPO keeps a history for each prompt; layouts hardly ever come twice, so such a history
    never fills and its reference code would silently compare across layouts.

    Differences are whitened over the batch, not in a group: the deviation of 4 or 8 nearly equal
    rewards is noise, and dividing by it would teach noise. At least `floor` (reward units) is
    divided by. Then cut to +-clip, as DDPO's code (5; its JAX original 10); of places that is in
    deviations of those that differ at all: empty ground takes no part.

    Raises:
        UsageError: a group of one under `leave-one-out`.
        DataError: rewards that are not finite.
    """
    _check(rewards, len(groups))
    _, members, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *rewards.shape[1:]))
    np.add.at(sums, members, rewards)
    of_group = sums[members]
    size = counts[members].reshape(-1, *(1,) * (rewards.ndim - 1))
    if baseline == "group":
        expected = of_group / size
    else:
        if counts.min() < 2:
            raise UsageError(
                "a group of one image has no others to compare with",
                hint="paint at least 2 images a layout, or take the algorithm with a critic",
            )
        expected = (of_group - rewards) / (size - 1)
    # Sums of a group round: equal rewards must give exactly nothing.
    flat = flat_groups(rewards, groups)[members]
    if rewards.ndim > 1:
        clip /= math.sqrt(max(1.0 - float(flat.mean()), 1 / flat.size))
    return _whitened(np.where(flat, 0.0, rewards - expected), floor, clip)


def step_advantages(
    rewards: Values, values: Values, floor: float = 1e-3, clip: float = 5.0
) -> Values:
    """[N, K] advantages of K trained steps against a critic's values [N, K].

    A = r - phi(x_t, t, layout), minus its mean at each step (a critic that is off by a constant
    does no harm), whitened over the batch and cut to +-clip. I-DRUID's listing values the final
    image instead: that baseline depends on the action, and takes the signal away as it learns.

    Raises:
        DataError: numbers that are not finite.
    """
    _check(rewards, len(values))
    if not np.isfinite(values).all():
        raise DataError("the critic gave values that are not finite", hint="lower its rate")
    left = rewards[:, None] - values
    return _whitened(left - left.mean(axis=0, keepdims=True), floor, clip)


def explained_variance(rewards: Values, values: Values) -> float:
    """1 - var(r - value) / var(r): 1 perfect, 0 as good as the mean, negative: worse.

    Rewards [N]; values [N], or [N, K] of K steps. 0 where rewards do not vary.
    """
    if values.ndim > rewards.ndim:
        rewards = np.broadcast_to(rewards[:, None], values.shape)
    spread = float(np.var(rewards))
    return 0.0 if spread == 0 else 1 - float(np.var(rewards - values)) / spread


def flat_groups(rewards: Values, groups: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[G, ...]: groups, in ascending order, whose rewards are all equal: nothing is learned there.

    Of rewards [N, ...].
    """
    _, members = np.unique(groups, return_inverse=True)
    low, high = np.full((2, int(members.max()) + 1, *rewards.shape[1:]), np.inf)
    np.minimum.at(low, members, rewards)
    np.minimum.at(high, members, -rewards)
    equal: npt.NDArray[np.bool_] = low == -high
    return equal


def _whitened(differences: Values, floor: float, clip: float) -> Values:
    spread = max(float(differences.std()), floor)
    whitened: Values = np.clip(differences / spread, -clip, clip)
    return whitened


def _check(rewards: Values, count: int) -> None:
    if len(rewards) != count or not count:
        raise DataError(f"{len(rewards)} rewards for {count} samples")
    if not np.isfinite(rewards).all():
        bad = int((~np.isfinite(rewards)).sum())
        raise DataError(
            f"{bad} of {count} rewards are not finite",
            hint="a reward of a failed measurement must be 0 or its least value",
        )
