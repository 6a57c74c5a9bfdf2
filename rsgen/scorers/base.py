"""The scorer protocol, and rules: a scorer with a bound.

A scorer is a frozen dataclass whose fields are its options, found by name in the registry
group `scorers`. Larger is better; NaN means "does not apply" and every bound lets it pass.
One that looks through a network may also have `uses_torch = True`, `model_hash()` (it enters
the request), `check()` (refuse what cannot work, before any work), `from_inputs` (option ->
input of `filter` that it defaults to), `from_real` (option -> setting of the extract-masks run
that --real is), and the fields `device` and `classes` (the run's class table).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.images import Pixels
from rsgen.records import Instance, Sample
from rsgen.registry import resolve

__all__ = [
    "Bound",
    "Level",
    "NoveltyScorer",
    "Policy",
    "Rule",
    "Scorer",
    "Scores",
    "Signatures",
    "is_novelty",
    "is_thing",
    "make_scorer",
]

Level = Literal["image", "instance"]
Policy = Literal["reject", "drop", "difficult", "weight"]
# A class has a bound of its own where so many real scores lie beyond it, of so many in all.
LEAST_BELOW, LEAST_OF_CLASS = 3, 30
MEDIAN = 0.5
FloatArray = npt.NDArray[np.float32]
Scores = FloatArray | list[FloatArray]
Signatures = npt.NDArray[Any]


class Scorer(Protocol):
    """Gives one float an image, or one an instance."""

    level: ClassVar[Level]

    def score(self, images: Pixels, samples: Sequence[Sample]) -> Scores:
        """Score a batch.

        Args:
            images: uint8 [N, H, W, 3] RGB, of one size.
            samples: N samples in the same order.

        Returns:
            level "image": float32 [N]. level "instance": N arrays, float32 [instances].
        """
        ...


@runtime_checkable
class NoveltyScorer(Protocol):
    """A scorer that compares an image with others: with real ones, and with earlier ones.

    Its score is the distance to the nearest; to the k-th nearest where it has a field `k`.
    """

    level: ClassVar[Level]

    def signatures(self, images: Pixels) -> Signatures:
        """What is kept of each image, [N, ...]; a pure function of the pixels."""
        ...

    def distances(self, signatures: Signatures, references: Signatures) -> npt.NDArray[np.float32]:
        """Distances in [0, 1], float32 [N, M]; 0 is a copy."""
        ...


def is_novelty(scorer: object) -> TypeGuard[NoveltyScorer]:
    """Whether a scorer needs the other images."""
    return isinstance(scorer, NoveltyScorer)


def is_thing(instance: Instance) -> bool:
    """Whether instance rules apply: stuff has neither box nor quad, a crowd is not one object."""
    return (instance.box is not None or instance.quad is not None) and not instance.iscrowd


@dataclass(frozen=True)
class Bound:
    """What a score must satisfy; None is no bound.

    `by_class`, `high_by_class`: `low` and `high` of classes that have their own.
    With `full` it rejects nothing and gives a weight: 0 up to `low`, 1 from `full` on.
    """

    low: float | None = None
    high: float | None = None
    by_class: Mapping[str, float] = field(default_factory=dict)
    full: float | None = None
    full_by_class: Mapping[str, float] = field(default_factory=dict)
    high_by_class: Mapping[str, float] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        """Whether some class has a bound of its own."""
        return bool(self.by_class or self.high_by_class)

    def of(self, name: str) -> Bound:
        """The bound of an object of that class, by the class table's name."""
        if name not in self.by_class and name not in self.high_by_class:
            return self
        return Bound(
            self.by_class.get(name, self.low),
            self.high_by_class.get(name, self.high),
            full=self.full_by_class.get(name, self.full),
        )

    def passes(self, score: float) -> bool:
        if math.isnan(score) or self.full is not None:
            return True
        return (self.low is None or score >= self.low) and (self.high is None or score <= self.high)

    def weight(self, score: float) -> float:
        """(score - low) / (full - low), cut to [0, 1]."""
        assert self.full is not None and self.low is not None, "a bound that gives weights"
        if self.full <= self.low:
            return float(score >= self.low)
        return min(max((score - self.low) / (self.full - self.low), 0.0), 1.0)

    def __str__(self) -> str:
        if self.full is not None:
            return f"weight 0 at {self.low:.4g}, 1 at {self.full:.4g}"
        low = "" if self.low is None else f"min {self.low:.4g}"
        high = "" if self.high is None else f"max {self.high:.4g}"
        parts = (low, _range(self.by_class), high, _range(self.high_by_class))
        return ", ".join(part for part in parts if part) or "no bound"


def _range(by_class: Mapping[str, float]) -> str:
    if not by_class:
        return ""
    return f"by class {min(by_class.values()):.4g} to {max(by_class.values()):.4g}"


@dataclass(frozen=True)
class Rule:
    """A named scorer with a bound: absolute, or a quantile of the scores of real images.

    `at_most`: what a quantile may ask for at most, where real images score far over what is good
    enough. `upper`: the quantile that is the upper bound, of scores of which too much is wrong.

    `policy`, of an instance rule: "reject" the image where more than the share `tolerate` of its
    instances fail; "drop" or mark "difficult" the failing ones, and reject only where all fail.
    The failing instances carry the reason either way. "weight", of any rule, rejects nothing:
    what it scores gets a weight that rises from 0 at the bound to 1 at `full`, a score, or with
    `quantile` a quantile of the real ones (the median, if not given).
    """

    scorer: str
    name: str = ""
    min: float | None = None
    max: float | None = None
    quantile: float | None = None
    tolerate: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = "reject"
    at_most: float | None = None
    full: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.scorer)
        if self.min is None and self.max is None and not self.of_real:
            raise UsageError(
                f"filter rule {self.name!r} has no bound",
                hint="give it min, max, quantile or upper",
            )
        self._check_upper()
        if self.min is not None and self.quantile is not None:
            raise UsageError(
                f"filter rule {self.name!r} has both min {self.min} and quantile {self.quantile}",
                hint="keep one of them: both are lower bounds",
            )
        if self.at_most is not None and self.quantile is None:
            raise UsageError(
                f"filter rule {self.name!r} has at_most {self.at_most} and no quantile",
                hint="at_most limits what a quantile asks for: add one, or give min instead",
            )

        self._check_weight()

    def _check_upper(self) -> None:
        if self.upper is None:
            return
        if self.max is not None:
            raise UsageError(
                f"filter rule {self.name!r} has both max {self.max} and upper {self.upper}",
                hint="keep one of them: both are upper bounds",
            )
        if self.quantile is not None and self.upper <= self.quantile:
            raise UsageError(
                f"filter rule {self.name!r} keeps nothing between quantile {self.quantile} and "
                f"upper {self.upper}",
                hint="upper is the quantile of the greatest score that passes: 0.99, for instance",
            )

    def _check_weight(self) -> None:
        if self.policy != "weight":
            if self.full is not None:
                raise UsageError(
                    f"filter rule {self.name!r} has full {self.full} and policy {self.policy}",
                    hint="full says where a weight is 1: add policy: weight, or leave it out",
                )
            return
        if self.max is not None or self.upper is not None or self.tolerate:
            raise UsageError(
                f"filter rule {self.name!r} has policy weight, and max, upper or tolerate",
                hint="a weight rises with the score from min or quantile on, and rejects nothing: "
                "leave them out",
            )
        if self.quantile is None and self.full is None:
            raise UsageError(
                f"filter rule {self.name!r} has policy weight and min {self.min}, and no full",
                hint="say at which score the weight is 1: full",
            )
        if self.full_level <= self.low_level:
            raise UsageError(
                f"filter rule {self.name!r}: the weight is 0 at {self.low_level:g} and 1 at "
                f"{self.full_level:g}",
                hint="full must be above min, or above quantile",
            )

    @property
    def of_real(self) -> bool:
        """Whether real images set a bound."""
        return self.quantile is not None or self.upper is not None

    @property
    def low_level(self) -> float:
        """`quantile`, else `min`."""
        level = self.min if self.quantile is None else self.quantile
        return -math.inf if level is None else level

    @property
    def full_level(self) -> float:
        """`full`, by default the median of real scores."""
        return MEDIAN if self.full is None else self.full

    def allowed(self, applies: int) -> int:
        """How many of an image's objects may fail before the image does."""
        return int(self.tolerate * applies) if self.policy == "reject" else applies - 1

    def bound(self, real_scores: Mapping[str, Sequence[float]] | None = None) -> Bound:
        """The resolved bound; a quantile is taken over the finite scores of real images.

        Args:
            real_scores: by class name; "" for scores of images. A class with too few to tell
                its quantile has that of all.
        """
        weighs = self.policy == "weight"
        if not self.of_real:
            return Bound(self.min, self.max, full=self.full if weighs else None)
        scores = {name: _finite(values) for name, values in (real_scores or {}).items()}
        finite = np.concatenate([np.zeros(0), *scores.values()])
        if finite.size == 0:
            level = self.upper if self.quantile is None else self.quantile
            raise UsageError(
                f"filter rule {self.name!r}: quantile {level} needs scores of real "
                "images, and none applies",
                hint="give --real RUN with labelled images, or a fixed bound with min or max",
            )
        low, lows = self.min, dict[str, float]()
        if self.quantile is not None:
            quantile, most = self.quantile, math.inf if self.at_most is None else self.at_most
            low = min(float(np.quantile(finite, quantile)), most)
            lows = {n: min(q, most) for n, q in _of_classes(scores, quantile, quantile).items()}
        if weighs:
            level = self.full_level
            full = {name: float(np.quantile(scores[name], level)) for name in lows}
            return Bound(low, None, lows, float(np.quantile(finite, level)), full)
        if self.upper is None:
            return Bound(low, self.max, lows)
        highs = _of_classes(scores, self.upper, 1 - self.upper)
        return Bound(low, float(np.quantile(finite, self.upper)), lows, high_by_class=highs)


def _of_classes(
    scores: Mapping[str, npt.NDArray[np.float64]], quantile: float, outside: float
) -> dict[str, float]:
    """A quantile of each class that has enough scores; `outside`: the share beyond it."""
    return {
        name: float(np.quantile(values, quantile))
        for name, values in sorted(scores.items())
        if name and len(values) >= LEAST_OF_CLASS and len(values) * outside >= LEAST_BELOW
    }


def _finite(values: Sequence[float]) -> npt.NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    return found[np.isfinite(found)]


def make_scorer(name: str, options: Mapping[str, Any]) -> Any:
    """The scorer of that name with its options.

    Raises:
        UsageError: an unknown name, or an option that the scorer does not have.
    """
    kind = resolve("scorers", name)
    known = [f.name for f in dataclasses.fields(kind) if f.init]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"scorer {name!r} has no option {key!r}; it has: {', '.join(known) or 'none'}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
    return kind(**options)
