"""When tuning must end, or begin again more gently: rules on what every epoch tells.

Every rule that ends a run says why in one sentence; the caller restores the best weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Alarm", "EpochFacts", "Limits", "Watch"]

MOST_SKIPPED = 3
COLLAPSE_EPOCHS = 3
SIGMAS = 3.0
LEAST_DIVERSITY = 0.3
MOST_SATURATED = 0.8
MOST_WARMING = 0.1


@dataclass(frozen=True)
class Limits:
    """`patience`: looks in which the held score may fall while the reward grows; nats a step.

    A `control` (negated, shuffled rewards) ends by numbers alone: images that get worse are
    what it is there to show.
    """

    patience: int
    kl_max: float
    control: bool = False


@dataclass(frozen=True)
class EpochFacts:
    """What an epoch tells. `deviation`: standard error of the mean reward over layouts.

    `diversity`: mean distance between images of one layout; `saturated`: share of layouts
    whose images all have one reward; `skipped`: batches with numbers that are not finite, of
    the whole run; `held`: score on held layouts, None where they were not looked at.
    `warming`: share of the images that a reward cannot tell the worth of yet.
    """

    reward: float
    deviation: float
    diversity: float
    saturated: float
    kl: float
    skipped: int
    held: float | None = None
    warming: float = 0.0

    @property
    def cold(self) -> bool:
        """Whether the epoch's rewards are no measure: they change as more is known."""
        return self.warming > MOST_WARMING


@dataclass(frozen=True)
class Alarm:
    """Why, in one sentence; `stop` ends the run, else it goes on from the best at half the rate."""

    rule: str
    sentence: str
    stop: bool


@dataclass
class Watch:
    """Remembers what the rules compare with."""

    limits: Limits
    best_reward: float = -math.inf
    squares: float = 0.0  # sum over epochs of the squared standard error
    epochs: int = 0
    low_epochs: int = 0
    first_diversity: float | None = None
    halved: bool = False
    looks: list[tuple[float, float]] = field(default_factory=list)  # (mean reward since, held)
    since: list[float] = field(default_factory=list)  # rewards since the last look

    def after(self, facts: EpochFacts) -> Alarm | None:
        """The first rule that an epoch breaks.

        Of an epoch whose rewards only warm up no rule asks what its rewards were.
        """
        if not facts.cold:
            self.since.append(facts.reward)
            self.squares += facts.deviation**2
            self.epochs += 1
        if facts.held is not None and self.since:
            self.looks.append((sum(self.since) / len(self.since), facts.held))
            self.since.clear()
        if self.first_diversity is None:
            self.first_diversity = facts.diversity
        found = self._not_finite(facts) or self._too_far(facts) or self._saturates(facts)
        if not found and not self.limits.control:
            found = self._diverges() or self._collapses(facts)
        if found is not None and not found.stop:
            self._begin_again()
        elif facts.reward > self.best_reward and not facts.cold:
            self.best_reward = facts.reward
        return found

    def _begin_again(self) -> None:
        """Forget what the collapsed model was compared with: the best weights earn less at first.

        What pictures of one layout differed by at the start stays, and that one try is used up.
        """
        self.best_reward, self.low_epochs = -math.inf, 0
        self.looks.clear()
        self.since.clear()

    def _not_finite(self, facts: EpochFacts) -> Alarm | None:
        if facts.skipped < MOST_SKIPPED:
            return None
        return Alarm(
            "not finite",
            f"{facts.skipped} batches had rewards or losses that are not numbers: use a smaller "
            "rl_tune.step_nats (or rl_tune.lr, where that is a number), or execution.dtype=fp32",
            stop=True,
        )

    def _too_far(self, facts: EpochFacts) -> Alarm | None:
        if math.isfinite(facts.kl) and facts.kl <= self.limits.kl_max:
            return None
        return Alarm(
            "KL too far",
            f"the model went {facts.kl:.3g} nats a step from its start, over rl_tune.kl_max "
            f"{self.limits.kl_max:.3g}: use a smaller rl_tune.step_nats (or rl_tune.lr, where that "
            "is a number) or a larger rl_tune.beta",
            stop=True,
        )

    def _diverges(self) -> Alarm | None:
        """Source: the signature of a reward that is fooled: it grows while the measure falls."""
        span = self.looks[-(self.limits.patience + 1) :]
        if len(span) <= self.limits.patience:
            return None
        pairs = list(itertools.pairwise(span))
        if not all(after[0] > before[0] and after[1] < before[1] for before, after in pairs):
            return None
        return Alarm(
            "reward is fooled",
            f"the reward grew from {span[0][0]:.3f} to {span[-1][0]:.3f} while the score on held "
            f"layouts fell from {span[0][1]:.3f} to {span[-1][1]:.3f} in {self.limits.patience} "
            "looks: the images please the reward and get worse",
            stop=True,
        )

    def _collapses(self, facts: EpochFacts) -> Alarm | None:
        """Far under the best epoch for a while, or all images of a layout alike.

        Each epoch has other layouts, some easier: what a difference of two epochs may be by
        chance follows from how layouts differ in all epochs, not in the one that was best.
        """
        error = math.sqrt(2 * self.squares / max(1, self.epochs))
        low = facts.reward < self.best_reward - SIGMAS * error
        if not facts.cold:
            self.low_epochs = self.low_epochs + 1 if low else 0
        first = self.first_diversity or 0.0
        alike = facts.diversity < LEAST_DIVERSITY * first
        if self.low_epochs < COLLAPSE_EPOCHS and not alike:
            return None
        reason = (
            f"images of one layout differ by {facts.diversity / first:.0%} of what they did at "
            "the start"
            if alike
            else f"the reward has been {facts.reward:.3f} or so for {self.low_epochs} epochs, "
            f"after {self.best_reward:.3f}"
        )
        stop, self.halved = self.halved, True
        if stop:
            return Alarm("collapse", f"the model collapsed again: {reason}", stop=True)
        return Alarm(
            "collapse",
            f"the model collapses: {reason}; on from the best weights at half the learning rate",
            stop=False,
        )

    def _saturates(self, facts: EpochFacts) -> Alarm | None:
        if facts.cold or facts.saturated <= MOST_SATURATED:
            return None
        return Alarm(
            "saturated",
            f"in {facts.saturated:.0%} of the layouts all images have one reward, so there is "
            "nothing to learn: use harder layouts, or another reward",
            stop=True,
        )

    def to_json(self) -> dict[str, Any]:
        """What a resume needs; `limits` come from the settings."""
        row = asdict(self)
        del row["limits"]
        if not math.isfinite(self.best_reward):
            row["best_reward"] = None
        return row

    @classmethod
    def from_json(cls, limits: Limits, row: Mapping[str, Any]) -> Watch:
        kept = dict(row)
        kept["looks"] = [(float(a), float(b)) for a, b in kept["looks"]]
        if kept["best_reward"] is None:
            kept["best_reward"] = -math.inf
        return cls(limits, **kept)
