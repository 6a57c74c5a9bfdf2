"""`--min-label-precision`: how strict the filter must be, by stratum, and what may be said of it.

The rank of an object is the least, over the object rules, of the share of its class's scores that
lie at or below its own: a rank of 0.3 is worse than seven in ten by some rule. Strictness is
a bound on the rank. With an audit the bound is learned from verdicts and the precision is
promised; without, it rests on faults planted on real labels and the precision is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.geometry import Box, as_array, box_quad, quad_from_tuple
from rsgen.records import Instance, Sample, with_instances
from rsgen.scorers.base import Bound, Rule, is_thing
from rsgen.screening.audit import AuditRow, NameOf, kept_objects
from rsgen.screening.bounds import (
    estimate_threshold,
    learn_threshold,
    least_audited,
    precision_floor,
)

__all__ = [
    "GATE",
    "Claim",
    "Promise",
    "Ranks",
    "SetScores",
    "estimated_promise",
    "gate",
    "learned_promise",
    "planted",
    "ranks_of",
    "set_scores",
]

GATE = "label-precision"
LEVELS = 100
THRESHOLDS = np.arange(LEVELS // 5) * 5 / LEVELS  # 0, 0.05 .. 0.95
OUTSIDE = -1.0
ALL = "all objects"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """Quantiles of the set's scores, by rule and class: `LEVELS` + 1 values, ascending."""

    quantiles: Mapping[str, Mapping[str, Sequence[float]]]

    def of(self, instance: Instance, name: str) -> float:
        """The rank in [0, 1]; 0 where no rule applies."""
        found = []
        for rule, classes in self.quantiles.items():
            score = instance.scores.get(rule)
            if score is not None and name in classes:
                below = int(np.searchsorted(classes[name], score, side="right"))
                found.append(max(below - 1, 0) / LEVELS)
        return min(found, default=0.0)


@dataclass(frozen=True)
class Claim:
    """What is said of a stratum: of its objects with at least this rank.

    precision: what is promised, or (without an audit) expected.
    """

    stratum: str
    classes: tuple[str, ...]
    threshold: float
    precision: float
    audited: int
    right: int
    objects: int
    kept: int


@dataclass(frozen=True)
class Promise:
    """Frozen in thresholds.json: the ranks, and a claim a stratum. `of`: the set it is about."""

    of: str
    precision: float
    confidence: float | None  # None: estimated
    claims: tuple[Claim, ...]
    ranks: Ranks

    @property
    def bound(self) -> Bound:
        return Bound(0.0, None, {c: k.threshold for k in self.claims for c in k.classes})

    def with_ranks(self, sample: Sample, kept: Iterable[int], name_of: NameOf) -> Sample:
        """The ranks as scores of things; `OUTSIDE` for those the claims are not about."""
        inside = set(kept)
        marked = []
        for k, instance in enumerate(sample.layout.instances):
            if is_thing(instance):
                own = self.ranks.of(instance, name_of(instance.label)) if k in inside else OUTSIDE
                instance = replace(instance, scores={**instance.scores, GATE: own})
            marked.append(instance)
        return with_instances(sample, marked)

    def table(self) -> dict[str, str]:
        return {claim.stratum: self._line(claim) for claim in self.claims}

    def _line(self, claim: Claim) -> str:
        keeps = f"keeps {claim.kept} of {claim.objects} objects ({claim.kept / claim.objects:.0%})"
        if self.confidence is None:
            return f"estimated {claim.precision:.3f}, no bound; {keeps}"
        return (
            f"at least {claim.precision:g} at confidence {self.confidence:g}: {claim.right} of "
            f"{claim.audited} audited are right; {keeps}"
        )

    def notes(self) -> list[str]:
        if self.confidence is not None:
            return ["label precision: each stratum's bound holds at its confidence by itself"]
        return [
            f"label precision {self.precision:g} is estimated, not promised: faults planted on "
            "real images are others than those of generated ones. For a bound: --draw-audit 200, "
            "then --audit FILE"
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "precision": self.precision,
            "confidence": self.confidence,
            "claims": [asdict(claim) for claim in self.claims],
            "quantiles": self.ranks.quantiles,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Promise:
        claims = tuple(Claim(**{**c, "classes": tuple(c["classes"])}) for c in row["claims"])
        return cls(row["of"], row["precision"], row["confidence"], claims, Ranks(row["quantiles"]))


def gate() -> Rule:
    """The rule that applies a promise: an image goes where none of its objects is left."""
    return Rule(GATE, min=0.0, tolerate=1 - 1e-9)


# ---------------------------------------------------------------- the set's scores


@dataclass(frozen=True)
class SetScores:
    """Ranks of the kept objects, by class, and of the audited ones by (sample, instance)."""

    by_class: Mapping[str, Floats]
    ranks: Ranks
    places: Mapping[tuple[str, int], float]


def set_scores(
    samples: Callable[[], Iterable[Sample]],
    rules: Sequence[str],
    name_of: NameOf,
    wanted: frozenset[tuple[str, int]] = frozenset(),
) -> SetScores:
    """Two passes over the set: the quantiles of its kept objects' scores, then their ranks."""
    ranks = ranks_of(_scores_of(samples(), rules, name_of))
    found: dict[str, list[float]] = {}
    places: dict[tuple[str, int], float] = {}
    for sample in samples():
        for k in kept_objects(sample):
            instance = sample.layout.instances[k]
            name = name_of(instance.label)
            rank = ranks.of(instance, name)
            found.setdefault(name, []).append(rank)
            if (sample.id, k) in wanted:
                places[sample.id, k] = rank
    return SetScores({name: np.array(found[name]) for name in sorted(found)}, ranks, places)


def _scores_of(
    samples: Iterable[Sample], rules: Sequence[str], name_of: NameOf
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {rule: {} for rule in rules}
    for sample in samples:
        for k in kept_objects(sample):
            instance = sample.layout.instances[k]
            for rule in rules:
                score = instance.scores.get(rule)
                if score is not None:
                    found[rule].setdefault(name_of(instance.label), []).append(score)
    return found


def ranks_of(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Ranks:
    """The quantiles of scores by rule and class, each a score that occurs."""
    levels = np.linspace(0, 1, LEVELS + 1)
    return Ranks(
        {
            rule: {
                name: np.quantile(values, levels, method="lower").tolist()
                for name, values in sorted(classes.items())
            }
            for rule, classes in scores.items()
        }
    )


# ---------------------------------------------------------------- claims


def learned_promise(
    of: str, scored: SetScores, audit: Sequence[AuditRow], precision: float, confidence: float
) -> Promise:
    """A bound of every stratum of the audit.

    Raises:
        UsageError: a stratum for which the promise cannot be kept, or a class that none covers.
    """
    strata: dict[str, list[AuditRow]] = {}
    for row in audit:
        strata.setdefault(row.stratum, []).append(row)
    classes = _classes_of(strata, scored.by_class)
    claims, refused = [], []
    for stratum, rows in sorted(strata.items()):
        population = np.concatenate([scored.by_class[name] for name in classes[stratum]])
        ranks = np.array([scored.places[row.sample, row.instance] for row in rows])
        right = np.array([bool(row.right) for row in rows])
        found = learn_threshold(ranks, right, population, THRESHOLDS, precision, confidence)
        if found is None:
            floor = precision_floor(int(right.sum()), len(right), confidence)
            refused.append(
                f"{stratum}: {int(right.sum())} of {len(right)} audited are right, which promises "
                f"{floor:.3f}"
            )
            continue
        kept = int((population >= found.threshold).sum())
        claims.append(
            Claim(stratum, classes[stratum], found.threshold, precision, found.audited,
                  found.right, len(population), kept)
        )  # fmt: skip
    if refused:
        least = least_audited(precision, confidence)
        raise UsageError(
            f"--min-label-precision {precision:g} at confidence {confidence:g} cannot be promised "
            f"from this audit; {'; '.join(refused)}",
            hint=f"it takes at least {least} audited without a fault, a stratum: draw more with "
            "--draw-audit, promise less, or filter with a judge first",
        )
    return Promise(of, precision, confidence, tuple(claims), scored.ranks)


def _classes_of(
    strata: Mapping[str, Sequence[AuditRow]], by_class: Mapping[str, Floats]
) -> dict[str, tuple[str, ...]]:
    """The classes of each stratum: one of its own name, else all that have no own."""
    rest = tuple(name for name in by_class if name not in strata)
    found = {name: (name,) if name in by_class else rest for name in strata}
    covered = {name for names in found.values() for name in names}
    missing = sorted(set(by_class) - covered)
    if missing:
        raise UsageError(
            f"the audit has no row for {', '.join(missing)}, of which objects were kept",
            hint="use all rows of the table that --draw-audit wrote",
        )
    return found


def estimated_promise(
    of: str, scored: SetScores, right: Floats, wrong: Floats, precision: float
) -> Promise:
    """One estimate for all objects.

    Args:
        right, wrong: float64 ranks of real labels, and of faults planted on them.

    Raises:
        UsageError: the scores cannot tell planted faults that well.
    """
    population = np.concatenate([np.zeros(0), *scored.by_class.values()])
    found = None
    if len(population) and len(right) and len(wrong):
        found = estimate_threshold(population, right, wrong, THRESHOLDS, precision)
    if found is None:
        raise UsageError(
            f"--min-label-precision {precision:g}: no strictness of these rules is expected to "
            "reach it",
            hint="add rules that see wrong labels (--judge JUDGES), or promise less",
        )
    kept = int((population >= found.threshold).sum())
    claim = Claim(
        ALL, tuple(scored.by_class), found.threshold, found.precision, 0, 0, len(population), kept
    )
    return Promise(of, precision, None, (claim,), scored.ranks)


def planted(sample: Sample, names: Sequence[str], rng: np.random.Generator) -> Sample:
    """The sample with every thing's label made wrong: another class, moved by half, or astray.

    Masks stay with the image and are left out of moved labels.
    """
    faulty = []
    for instance in sample.layout.instances:
        if not is_thing(instance):
            faulty.append(instance)
            continue
        kind = rng.choice(["class", "moved", "astray"] if len(names) > 1 else ["moved", "astray"])
        if kind == "class":
            others = [name for name in names if name != instance.label]
            faulty.append(replace(instance, label=str(rng.choice(others)), heading_rad=None))
        else:
            faulty.append(_moved(instance, sample, rng, far=kind == "astray"))
    return with_instances(sample, faulty)


def _moved(instance: Instance, sample: Sample, rng: np.random.Generator, *, far: bool) -> Instance:
    box = instance.bounds()
    assert box is not None, "a thing has a place"
    width, height = box.x1 - box.x0, box.y1 - box.y0
    if far:
        x = rng.uniform(0, max(sample.layout.width - width, 1)) - box.x0
        y = rng.uniform(0, max(sample.layout.height - height, 1)) - box.y0
    else:
        angle = rng.uniform(-math.pi, math.pi)
        x, y = width / 2 * math.cos(angle), height / 2 * math.sin(angle)
    quad = as_array(instance.quad or box_quad(box)) + (x, y)
    moved = Box(box.x0 + x, box.y0 + y, box.x1 + x, box.y1 + y)
    own = None if instance.quad is None else quad_from_tuple(quad)
    return replace(instance, box=moved, quad=own, mask=None)
