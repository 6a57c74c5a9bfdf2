"""Several rewards as one number an image: weights, controls, counts, and what must be kept.

The raw value of every term is always there beside the sum: a sum alone hides which term was
fooled. What is broken, or could not be looked at, is worth 0, and less where an image that was
looked at is worth less: many rewards go below 0, and a failure must never pay. Two controls say
whether learning came from the reward at all: `negated` turns it round, `shuffled` deals the
values out to other images of the batch.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError, SetupError, UsageError
from rsgen.registry import names, resolve
from rsgen.rewards.base import (
    FAILED,
    WARMING,
    Bools,
    Floats,
    Made,
    Rated,
    Reward,
    RewardBatch,
    RewardKind,
    RewardSetup,
    Seen,
    State,
)
from rsgen.rewards.places import SIDE
from rsgen.rewards.scored import ScorerReward

__all__ = [
    "Control",
    "RewardSpec",
    "Rewards",
    "check_rewards",
    "join_seen",
    "open_rewards",
    "reward_hashes",
    "reward_specs",
]

Control = Literal["none", "negated", "shuffled"]
BROKEN, GROUPS = "broken", "groups"


class _Row(Protocol):
    """A reward as configured."""

    @property
    def reward(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def name(self) -> str | None: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class RewardSpec:
    """A reward by its name in the registry group rewards, or of a scorer, with its weight."""

    reward: str
    weight: float = 1.0
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.reward)


def reward_specs(rows: Sequence[_Row]) -> tuple[RewardSpec, ...]:
    """As configured.

    Raises:
        UsageError: none, two of one name, a name with a slash, or a weight that counts nothing.
    """
    specs = tuple(RewardSpec(r.reward, r.weight, r.name or r.reward, r.options) for r in rows)
    if not specs:
        raise UsageError("no reward", hint="give one, as rl_tune.rewards: [{reward: detector}]")
    for k, spec in enumerate(specs):
        if spec.name in (other.name for other in specs[:k]):
            raise UsageError(
                f"two rewards are called {spec.name!r}", hint="give one of them another name"
            )
        if "/" in spec.name or spec.name in (BROKEN, GROUPS):
            raise UsageError(f"a reward cannot be called {spec.name!r}", hint="use letters and -")
        if spec.weight == 0 or not np.isfinite(spec.weight):
            raise UsageError(
                f"reward {spec.name}: weight {spec.weight}",
                hint="give a number other than 0, or leave the reward out",
            )
    return specs


def _kind(spec: RewardSpec) -> RewardKind:
    """Its options; a scorer's name is a reward too.

    Raises:
        UsageError: an unknown name, or an option that the reward does not have.
    """
    rewards, scorers = names("rewards"), names("scorers")
    if spec.reward not in rewards:
        if spec.reward in scorers:
            return ScorerReward(spec.reward, dict(spec.options))
        near = difflib.get_close_matches(spec.reward, [*rewards, *scorers], n=1)
        raise UsageError(
            f"unknown reward {spec.reward!r}; known: {', '.join(rewards)}; and the scorers "
            f"{', '.join(scorers)}",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )
    kind: Any = resolve("rewards", spec.reward)
    if not dataclasses.is_dataclass(kind):
        raise SetupError(
            f"the plug-in {spec.reward!r} of rewards is no dataclass of its options",
            hint="update or remove the package that provides it",
        )
    known = [f.name for f in dataclasses.fields(kind) if f.init]
    for key in spec.options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"reward {spec.reward!r} has no option {key!r}; it has: "
                f"{', '.join(known) or 'none'}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
    make: Any = kind  # the check above leaves an instance's type
    return cast(RewardKind, make(**spec.options))


def check_rewards(specs: Sequence[RewardSpec], setup: RewardSetup) -> None:
    """Refuse what cannot work, before any work; loads no weights.

    Raises:
        UsageError: an unknown name or option; no judge, detector or real images where one needs
            them; judge B. DataError, SetupError: files are missing.
    """
    for spec in specs:
        _kind(spec).check(setup)


def reward_hashes(specs: Sequence[RewardSpec], setup: RewardSetup) -> dict[str, str]:
    """What the rewards look with, by `reward/part`: enters the request."""
    return {
        f"{spec.name}/{part}": value
        for spec in specs
        for part, value in _kind(spec).hashes(setup).items()
    }


def open_rewards(
    specs: Sequence[RewardSpec], setup: RewardSetup, control: Control = "none"
) -> Rewards:
    """The rewards, ready to look.

    Raises:
        UsageError: an unknown control; as of `check_rewards`.
    """
    if control not in ("none", "negated", "shuffled"):
        raise UsageError(f"control is {control!r}", hint="use none, negated or shuffled")
    parts = [(spec, _kind(spec).open(setup)) for spec in specs]
    return Rewards(parts, control, setup.seed)


def join_seen(rows: Sequence[Seen]) -> Seen:
    """What several ranks saw, in their order, as one batch."""
    return {name: np.concatenate([seen[name] for seen in rows]) for name in rows[0]}


class Rewards:
    """All terms, weighted. Calling it looks and rates in one step."""

    def __init__(
        self, parts: Sequence[tuple[RewardSpec, Reward]], control: Control = "none", seed: int = 0
    ) -> None:
        self.control = control
        self._parts, self._seed = tuple(parts), seed
        self._calls = 0  # of rate() with learning: each shuffles anew

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec, _ in self._parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, once."""
        lines = [line for _, reward in self._parts for line in reward.notes]
        if self.control != "none":
            lines.append(f"the reward is {self.control}: this run is a control, not a result")
        return tuple(lines)

    def __call__(self, made: Made, *, epoch: int, learn: bool = True) -> RewardBatch:
        return self.rate(self.observe(made), epoch=epoch, learn=learn)

    def observe(self, made: Made) -> Seen:
        """What is seen in each image by itself, rows of numbers; slow, and remembers nothing."""
        found: Seen = {BROKEN: made.broken, GROUPS: made.groups}
        for spec, reward in self._parts:
            for name, rows in reward.observe(made).items():
                found[f"{spec.name}/{name}"] = rows
        return found

    def rate(self, seen: Seen, *, epoch: int, learn: bool = True) -> RewardBatch:
        """What the whole batch is worth; with `learn` it is remembered.

        Without `learn` (held-out images) there is no control, and no bank or counter moves.
        """
        readable = ~seen[BROKEN].astype(bool)
        terms: dict[str, Floats] = {}
        counts = {BROKEN: int((~readable).sum())}
        plain, places = np.zeros(len(readable)), _Places(len(readable))
        warming, error = np.zeros(len(readable), dtype=bool), 0.0
        for spec, reward in self._parts:
            own = {
                name.removeprefix(f"{spec.name}/"): rows
                for name, rows in seen.items()
                if name.startswith(f"{spec.name}/")
            }
            rated = reward.rate(own, readable, seen[GROUPS], epoch=epoch, learn=learn)
            value, odd, lost = _finite(spec, rated, readable)
            warming |= rated.noted.get(WARMING, False)
            terms[spec.name] = value
            terms |= {f"{spec.name}/{name}": rows for name, rows in rated.terms.items()}
            noted = {**rated.noted, "not finite": odd}
            found = {f"{spec.name}/{name}": int(rows.sum()) for name, rows in noted.items()}
            counts |= {name: count for name, count in found.items() if count}
            plain += spec.weight * value
            places.add(spec, value, rated.places, lost)
            error = float(np.hypot(error, spec.weight * rated.error))
        share = float(warming.mean()) if len(warming) else 0.0
        control = self._control(len(plain), learn)
        told = None if places.told is None else control(places.told)
        return RewardBatch(control(plain), plain, terms, counts, share, error, told)

    def _control(self, count: int, learn: bool) -> Callable[[Floats], Floats]:
        """What the control makes of values of so many images, [N, ...]: new arrays."""
        if not learn:
            return np.array
        self._calls += 1
        if self.control == "negated":
            return np.negative
        if self.control == "shuffled":
            order = np.random.default_rng([self._seed, self._calls]).permutation(count)
            return lambda values: values[order]
        return np.array

    def state_dict(self) -> State:
        """What is remembered, as arrays by flat names."""
        found: State = {"calls": np.array([self._calls], dtype=np.int64)}
        for spec, reward in self._parts:
            for name, array in reward.state_dict().items():
                found[f"{spec.name}/{name}"] = np.array(array)
        return found

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from there.

        Raises:
            DataError: it is the state of other rewards, or of other real images.
        """
        wanted, given = set(self.state_dict()), set(state)
        if wanted != given:
            raise DataError(
                f"the saved rewards differ in {', '.join(sorted(wanted ^ given))}",
                hint="resume with the rewards that the run was started with",
            )
        for spec, reward in self._parts:
            own = {
                name.removeprefix(f"{spec.name}/"): np.asarray(array)
                for name, array in state.items()
                if name.startswith(f"{spec.name}/")
            }
            reward.load_state_dict(own)
        self._calls = int(np.asarray(state["calls"])[0])

    def close(self) -> None:
        """Let each reward end what it started."""
        for _, reward in self._parts:
            reward.close()


class _Places:
    """The weighted sum of what rewards say of places; `told` stays None where none does."""

    def __init__(self, count: int) -> None:
        self.told: Floats | None = None
        self._everywhere = np.zeros(count)

    def add(self, spec: RewardSpec, value: Floats, places: Floats | None, lost: Bools) -> None:
        """A reward that tells no places counts in each; so does what a lost image gets."""
        weight = spec.weight
        if places is None:
            self._everywhere += weight * value
            if self.told is not None:
                self.told += weight * value[:, None, None]
            return
        known = np.array(places, dtype=np.float64)
        if known.shape != (len(lost), SIDE, SIDE) or not np.isfinite(known[~lost]).all():
            raise DataError(
                f"reward {spec.name}: its places are {known.shape} numbers, not all of them finite",
                hint=f"the plug-in must give {(len(lost), SIDE, SIDE)} finite ones",
            )
        sign = np.sign(weight)
        known[lost] = sign * (sign * known[~lost]).min(initial=0.0)
        so_far = self._everywhere[:, None, None] if self.told is None else self.told
        self.told = so_far + weight * known


def _finite(spec: RewardSpec, rated: Rated, readable: Bools) -> tuple[Floats, Bools, Bools]:
    """Values, the least of them (or 0, if that is less) for failures; which were no number; lost.

    Of a reward with a negative weight the greatest, or 0.
    """
    value = np.array(rated.value, dtype=np.float64)
    if value.shape != readable.shape:
        raise DataError(f"reward {spec.name}: {value.shape} values for {len(readable)} images")
    odd = ~np.isfinite(value)
    lost = odd | ~readable | rated.noted.get(FAILED, False)
    sign = np.sign(spec.weight)
    value[lost] = sign * (sign * value[~lost]).min(initial=0.0)
    return value, odd, lost
