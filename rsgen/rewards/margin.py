"""Reward `filter`: how far an image is above the thresholds that the filter would drop it by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsgen.errors import DataError, UsageError
from rsgen.images import Pixels, replace_bytes
from rsgen.records import ClassTable, Sample
from rsgen.registry import resolve
from rsgen.request import RunInfo, digest, item_seed
from rsgen.rewards.base import Floats, Made, RewardSetup
from rsgen.rewards.scored import scorer_for
from rsgen.rewards.single import VALUE, PerImage
from rsgen.scorers.base import Bound, Rule, is_novelty
from rsgen.scorers.judging import score_samples
from rsgen.scorers.rules import default_rules, rules_of
from rsgen.screening.thresholds import THRESHOLDS, Thresholds, score_quantiles

__all__ = ["FilterMargin", "margin"]

MIDDLE = (5, 95)  # percentiles of real scores whose distance is the unit of a margin
SCHEMA = 1


@dataclass(frozen=True)
class FilterMargin:
    """The margin over the filter's thresholds, in [-1, cap], an image.

    Of each rule (score - bound) in units of the middle 90 % of real scores (else of the bound),
    cut off at -1 and `cap`: what passes well earns no more. An object rule has the mean over its
    objects, by the bound of their class. join: the mean over the rules that apply, or the least.
    Rules that compare images with one another (copies, novelty) are left out.

    run: the OUT of a filter run, whose rules, thresholds, judge and CLIP are taken; without it
    the default rules for `task` with what there is, bounded by `sample` real images.
    """

    run: str = ""
    join: Literal["mean", "min"] = "mean"
    cap: float = 1.0
    task: Literal["classification", "detection", "segmentation"] = "detection"
    sample: int = 200

    def check(self, setup: RewardSetup) -> None:
        """Refuse what cannot work; loads no weights."""
        if self.join not in ("mean", "min"):
            raise UsageError(f"reward filter: join is {self.join!r}", hint="use mean or min")
        if not self.cap > 0:
            raise UsageError(f"reward filter: cap is {self.cap}", hint="give a number over 0")
        if self.task not in ("classification", "detection", "segmentation"):
            raise UsageError(
                f"reward filter: task is {self.task!r}",
                hint="use classification, detection or segmentation",
            )
        for scorer in self._source(setup).scorers.values():
            check = getattr(scorer, "check", None)
            if callable(check):
                check()

    def hashes(self, setup: RewardSetup) -> Mapping[str, str]:
        source = self._source(setup)
        found = {n: s.model_hash() for n, s in source.scorers.items() if hasattr(s, "model_hash")}
        if source.frozen is not None:
            found["thresholds"] = digest(source.frozen.to_json())
        return {name: value for name, value in found.items() if value}

    def open(self, setup: RewardSetup) -> PerImage:
        source = self._source(setup)
        thresholds = source.frozen or _resolved(source, setup, self.sample)
        judged = [_Judged.of(r, source.scorers[r.name], thresholds) for r in source.rules]
        notes = [f"filter: {len(judged)} rules: {', '.join(rule.name for rule in judged)}"]
        if source.left_out:
            notes.append(f"filter: left out, as they compare images: {', '.join(source.left_out)}")
        look = partial(self._look, judged, setup.classes)
        return PerImage("filter", look, [rule.name for rule in judged], notes=notes)

    def _source(self, setup: RewardSetup) -> _Source:
        if self.run:
            return _Source.of_run(Path(self.run), setup)
        rules = default_rules(
            real=setup.real is not None,
            checkpoint=False,
            judge=bool(setup.judge),
            clip=bool(setup.clip),
            task=self.task,
        )
        return _Source(rules, setup, None)

    def _look(
        self, judged: Sequence[_Judged], classes: ClassTable, made: Made
    ) -> dict[str, Floats]:
        columns = {rule.name: rule.margins(made, classes, self.cap) for rule in judged}
        table = np.stack(list(columns.values()))
        absent = np.isnan(table)
        count = (~absent).sum(axis=0)
        total = np.where(absent, 0.0, table).sum(axis=0)
        joined = np.divide(total, count, out=np.full(len(made), np.nan), where=count > 0)
        if self.join == "min":
            least = np.where(absent, np.inf, table).min(axis=0)
            joined = np.where(count > 0, least, np.nan)
        return {VALUE: joined, **columns}


class _Source:
    """Rules that look at one image by itself, with their scorers, and frozen thresholds."""

    def __init__(
        self, rules: Sequence[Rule], setup: RewardSetup, frozen: Thresholds | None
    ) -> None:
        self._setup, self.frozen = setup, frozen
        alone = [rule for rule in rules if not _compares(rule)]
        self.rules = alone
        self.left_out = [rule.name for rule in rules if rule not in alone]
        if not alone:
            raise UsageError(
                "reward filter: no rule looks at one image by itself",
                hint="give a filter run with other rules, or use the reward distribution",
            )

    @cached_property
    def scorers(self) -> dict[str, Any]:
        return {r.name: scorer_for(r.scorer, r.options, self._setup) for r in self.rules}

    @classmethod
    def of_run(cls, out: Path, setup: RewardSetup) -> _Source:
        """As a filter run was asked for, with the bounds that it froze."""
        info = RunInfo.load(out)
        if info.command != "filter":
            raise UsageError(
                f"reward filter: {out} is a run of {info.command}", hint="give the OUT of filter"
            )
        path = out / THRESHOLDS
        try:
            frozen = Thresholds.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: no thresholds ({error!r})", hint="run the filter again"
            ) from error
        own = {name: str(path) for name in ("judge", "clip") for path in info.paths(name)}
        told = replace(setup, judge=own.get("judge", setup.judge), clip=own.get("clip", setup.clip))
        return cls(rules_of(info), told, frozen)


def _compares(rule: Rule) -> bool:
    return is_novelty(resolve("scorers", rule.scorer))


def _resolved(source: _Source, setup: RewardSetup, most: int) -> Thresholds:
    """Bounds from scores of real images; from the cache where they were made before."""
    if setup.real is None:
        return Thresholds({rule.name: rule.bound() for rule in source.rules}, 0)
    scorers = source.scorers
    hashes = {n: s.model_hash() for n, s in scorers.items() if hasattr(s, "model_hash")}
    rules = [repr(rule) for rule in source.rules]
    key = digest([SCHEMA, rules, hashes, setup.real.identity, most, setup.seed])
    path = None if setup.cache is None else setup.cache / f"thresholds-{key}.json"
    if path is not None and path.is_file():
        return Thresholds.from_json(json.loads(path.read_text(encoding="utf-8")))
    numbers = setup.real.drawn(most, item_seed(setup.seed, "rl-tune/real", "filter"))
    scores = _real_scores(source, setup, numbers)
    bounds = {rule.name: rule.bound(scores[rule.name]) for rule in source.rules}
    shown = {name: score_quantiles(found) for name, found in scores.items() if found}
    found = Thresholds(bounds, len(numbers), (), None, shown)
    if path is not None and not setup.preview:
        replace_bytes(path, (json.dumps(found.to_json(), sort_keys=True) + "\n").encode())
    return found


def _real_scores(
    source: _Source, setup: RewardSetup, numbers: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Scores of real images by rule and class; "" for those of whole images."""
    real = setup.needed_real("filter")
    pictures: dict[str, Pixels] = {}
    scores: dict[str, dict[str, list[float]]] = {rule.name: {} for rule in source.rules}
    for number in numbers:
        setup.check_stop()
        ((pixels, sample),) = real.samples([number])
        pictures[sample.id] = pixels
        item = score_samples([sample], source.scorers, lambda s: pictures[s.id], batch_size=1)[0]
        pictures.clear()
        for name, scorer in source.scorers.items():
            for label, score in _values(item.sample, name, scorer.level, setup.classes):
                scores[name].setdefault(label, []).append(score)
    return scores


def _values(sample: Sample, rule: str, level: str, classes: ClassTable) -> list[tuple[str, float]]:
    if level == "image":
        return [("", sample.scores[rule])] if rule in sample.scores else []
    found = sample.layout.instances
    return [(classes.resolve(i.label).name, i.scores[rule]) for i in found if rule in i.scores]


@dataclass(frozen=True)
class _Judged:
    """A rule with its scorer, its bound, and the unit of its margins (0: by the bound)."""

    name: str
    scorer: Any
    bound: Bound
    unit: float

    @classmethod
    def of(cls, rule: Rule, scorer: Any, thresholds: Thresholds) -> _Judged:
        known = thresholds.real_scores.get(rule.name, [])
        low, high = np.percentile(known, MIDDLE) if len(known) else (0.0, 0.0)
        return cls(rule.name, scorer, thresholds.bounds[rule.name], float(high - low))

    def margins(self, made: Made, classes: ClassTable, cap: float) -> Floats:
        """float64 [N]; NaN where the rule does not apply."""
        scores = self.scorer.score(made.images, made.samples)
        if self.scorer.level == "image":
            return np.array([margin(float(s), self.bound, self.unit, cap) for s in scores])
        found = []
        for row, sample in zip(scores, made.samples, strict=True):
            pairs = zip(row, sample.layout.instances, strict=True)
            every = [
                margin(float(s), self.bound.of(_name(classes, i.label)), self.unit, cap)
                for s, i in pairs
                if not math.isnan(s)
            ]
            found.append(float(np.mean(every)) if every else math.nan)
        return np.array(found)


def _name(classes: ClassTable, label: str) -> str:
    entry = classes.find(label)
    return label if entry is None else entry.name


def margin(score: float, bound: Bound, unit: float, cap: float = 1.0) -> float:
    """How far a score is inside its bound, in units, cut off at -1 and `cap`; NaN stays NaN.

    A unit of 0 stands for the size of the bound itself, of a bound at 0 for 1.
    """
    if math.isnan(score):
        return math.nan
    sides = []
    for limit, sign in ((bound.low, 1.0), (bound.high, -1.0)):
        if limit is not None:
            own = unit or abs(limit) or 1.0
            sides.append(sign * (score - limit) / own)
    return float(np.clip(min(sides, default=cap), -1.0, cap))
