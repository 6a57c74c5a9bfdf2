"""The `filter` command: scores and a verdict for every sample and instance; nothing deleted.

A shard is scored by the rules' scorers, compared with the real images and with the items
before it, and judged by bounds that OUT/thresholds.json freezes at the first start. Quotas
count what was kept in earlier shards: a worker that cannot see them yet judges them itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rsgen.errors import UsageError
from rsgen.execution import Control, Finish, FinishedRun, Shard, ShardOutput
from rsgen.images import replace_bytes
from rsgen.records import ClassTable, Sample
from rsgen.request import RunInfo, item_seed
from rsgen.scorers.base import Bound, NoveltyScorer, Rule, is_novelty
from rsgen.scorers.judging import FAILED, Scored, judge, score_samples, without_verdict
from rsgen.scorers.neighbours import (
    References,
    SignatureStore,
    compare,
    own_distances,
    put_all,
    stored_or_made,
    without_signature,
)
from rsgen.scorers.rules import rules_of
from rsgen.screening.audit import audited_set, kept_objects
from rsgen.screening.checks import (
    check_audit,
    check_promise,
    check_rescore,
    check_rules,
    failed_rule,
)
from rsgen.screening.finish import finish_filter
from rsgen.screening.opening import scorer_of
from rsgen.screening.promise import GATE, Promise, gate
from rsgen.screening.promising import make_promise
from rsgen.screening.quotas import Quotas, objects_of, within_quotas
from rsgen.screening.rethreshold import Rethreshold, judge_columns
from rsgen.screening.thresholds import THRESHOLDS, Thresholds, score_quantiles
from rsgen.store import SampleRun, open_samples, part_path, read_part
from rsgen.tables import samples_from_table

__all__ = ["FilterStage"]


class FilterStage:
    """Inputs: `run` (samples with images), `real` (samples), `checkpoint` (an autoencoder),
    `judge` (train-judge OUT), `audit` (audit.csv with verdicts)."""

    shard_size = 64
    batch_size = 16
    by_columns = True  # without scoring, whole parts at once; else sample by sample: the same rows

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._settings = info.config.filter
        if len(info.paths("run")) != 1:
            raise UsageError(
                f"filter reads one sample run, got {len(info.paths('run'))}",
                hint="filter each run by itself; export takes several",
            )
        if self._settings.rescore == "none":
            self.shard_size = 1024  # no pixels: files are the work
        self._rules = rules_of(info)
        self._check()
        self.uses_torch = self._settings.rescore == "all" and any(
            getattr(self._scorer(rule), "uses_torch", False) for rule in self._rules
        )

    def _check(self) -> None:
        check_rules(self._rules, self._scorer_levels(), real=bool(self._info.paths("real")))
        for name in self._settings.quotas:
            self.classes().resolve(name)
        if self._info.paths("audit") or self._settings.min_label_precision is not None:
            check_promise(self._info, self._run)
        for rule in self._rules:
            scorer = self._scorer(rule)
            if getattr(scorer, "only_real", False) and not self._info.paths("real"):
                raise UsageError(
                    f"filter rule {rule.name}: compares with real images, and there are none",
                    hint="add --real RUN",
                )
            # `check` is a number of novelty-hash: only a method is asked.
            check = getattr(scorer, "check", None)
            if self._settings.rescore == "all" and callable(check):
                check()

    # ------------------------------------------------------------ what is read

    @cached_property
    def _run(self) -> SampleRun:
        return self._open("run")

    @cached_property
    def _real(self) -> SampleRun | None:
        return self._open("real") if self._info.paths("real") else None

    def _open(self, name: str) -> SampleRun:
        ref = next(ref for ref in self._info.inputs if ref.name == name)
        return open_samples(Path(ref.path), allow_partial=ref.manifest_hash == "partial")

    def count(self) -> int:
        if self._settings.rescore == "none":
            check_rescore(self._run, self._rules)
        check_audit(self._info, self._run, self._scorer_levels(), self._name)
        return len(self._run)

    def classes(self) -> ClassTable:
        return self._run.classes

    @cached_property
    def _names(self) -> dict[str, str]:
        return {}

    def _name(self, label: str) -> str:
        """A label's name in the class table."""
        if label not in self._names:
            self._names[label] = self.classes().resolve(label).name
        return self._names[label]

    def image_roots(self) -> list[Path]:
        return self._run.image_roots

    def model_hashes(self) -> dict[str, str]:
        """The weights behind each rule that looks through a network, the scripts of a worker."""
        if self._settings.rescore == "none":
            return {}
        scorers = {rule.name: self._scorer(rule) for rule in self._rules}
        found = {n: s.model_hash() for n, s in scorers.items() if hasattr(s, "model_hash")}
        return {name: value for name, value in found.items() if value}

    # ------------------------------------------------------------ once a worker

    def open(self) -> None:
        self._scorers = {rule.name: self._scorer(rule) for rule in self._rules}
        self._levels = {name: scorer.level for name, scorer in self._scorers.items()}
        self._novelty: dict[str, NoveltyScorer] = {
            name: scorer for name, scorer in self._scorers.items() if is_novelty(scorer)
        }
        self._signatures = SignatureStore(self._info.out / "state" / "signatures")
        self._thresholds = self._frozen_thresholds()
        promise, run = self._thresholds.promise, self._run
        if promise is not None and promise.of != audited_set(run.fingerprint, len(run)):
            raise UsageError(
                f"{self._info.out}: its label precision is about {promise.of}, not about the run "
                "as it is now",
                hint="give the grown run an OUT of its own, and audit it anew",
            )
        self._kept: dict[int, Counter[str]] = {}  # objects kept, by shard
        self._columns = self._rethreshold()

    def _rethreshold(self) -> Rethreshold | None:
        """Who judges whole parts; a promise needs ranks, which are given sample by sample."""
        if self._settings.rescore == "all" or self._thresholds.promise or not self.by_columns:
            return None
        rules, levels, bounds = self._rules, self._levels, self._thresholds.bounds
        plan = self._info.plan
        return Rethreshold(
            self._run,
            self._info.out,
            () if plan is None else plan.shards,
            self._quotas,
            lambda columns: judge_columns(columns, rules, bounds, levels, self._name),
            self._name,
        )

    def _scorer(self, rule: Rule) -> Any:
        return scorer_of(rule, self._info, self._real, self.classes())

    def _frozen_thresholds(self) -> Thresholds:
        path = self._info.out / THRESHOLDS
        if not path.is_file():
            text = json.dumps(self._resolve_thresholds().to_json(), indent=1, sort_keys=True)
            replace_bytes(path, (text + "\n").encode("utf-8"))
        return Thresholds.from_json(json.loads(path.read_text(encoding="utf-8")))

    def _resolve_thresholds(self) -> Thresholds:
        count = 0 if self._real is None else len(self._real)
        asked = [rule for rule in self._rules if rule.of_real]
        if self._settings.rescore == "all":  # the others' scores of real images are shown
            asked += [r for r in self._rules if not r.of_real and r.name not in self._novelty]
        scores: dict[str, dict[str, list[float]]] = {rule.name: {} for rule in asked}
        plain = {r.name: self._scorers[r.name] for r in asked if r.name not in self._novelty}
        failed: set[str] = set()
        if self._real is not None:
            compared = self._settings.rescore == "all" or len(plain) < len(asked)
            references = self._real_references(count) if compared else {}
            for name, found in references.items():
                if name in scores:
                    scores[name][""] = own_distances(found, self._novelty[name]).tolist()
                if len(found) < count:
                    failed |= without_signature(self._real.rows(0, count), found)
            for item in self._score(self._real, self._drawn(count), plain) if plain else ():
                failed |= {failure.item for failure in item.failures}
                for name in plain:
                    for label, score in self._values(item.sample, name):
                        scores[name].setdefault(label, []).append(score)
        bounds = {rule.name: rule.bound(scores.get(rule.name)) for rule in self._rules}
        shown = {name: score_quantiles(found) for name, found in scores.items() if found}
        return Thresholds(bounds, count, tuple(sorted(failed)), self._new_promise(bounds), shown)

    def _new_promise(self, bounds: dict[str, Bound]) -> Promise | None:
        """What min_label_precision makes of an audit, or of faults planted on real labels."""
        if self._settings.min_label_precision is None:
            return None
        drawn = [] if self._real is None else self._drawn(len(self._real))
        return make_promise(
            self._info,
            self._run,
            {n: bound for n, bound in bounds.items() if self._levels[n] == "instance"},
            self._name,
            real=lambda: self._samples(self._real, drawn) if self._real else [],
            score=self._score_real,
        )

    def _score_real(self, samples: Sequence[Sample], rules: Sequence[str]) -> list[Scored]:
        assert self._real is not None, "make_promise has asked for real samples"
        return self._score_samples(self._real, samples, {n: self._scorers[n] for n in rules})

    def _drawn(self, count: int) -> list[int]:
        """Positions of the real samples that set the bounds: a fair draw, in order."""
        seed = self._info.seed
        ranked = sorted(range(count), key=lambda k: item_seed(seed, "filter/real", str(k)))
        return sorted(ranked[: self._settings.real_sample])

    def _score(
        self,
        run: SampleRun,
        positions: Sequence[int],
        scorers: dict[str, Any],
        control: Control | None = None,
    ) -> list[Scored]:
        """Score some samples of a run; the scores that they came with are left out."""
        return self._score_samples(run, self._samples(run, positions), scorers, control)

    def _samples(self, run: SampleRun, positions: Sequence[int]) -> list[Sample]:
        return [s for start, stop in _ranges(positions) for s in run.rows(start, stop)]

    def _values(self, sample: Sample, rule: str) -> Iterator[tuple[str, float]]:
        """(class, score) of each object, or ("", score) of the image."""
        if self._levels[rule] == "instance":
            for instance in sample.layout.instances:
                if rule in instance.scores:
                    yield self._name(instance.label), instance.scores[rule]
        elif rule in sample.scores:
            yield "", sample.scores[rule]

    def _score_samples(
        self,
        run: SampleRun,
        samples: Sequence[Sample],
        scorers: dict[str, Any],
        control: Control | None = None,
    ) -> list[Scored]:
        plan = self._info.plan
        if run.info.command == "filter":
            samples = [without_verdict(sample) for sample in samples]

        def after_batch(count: int) -> None:
            if control is not None:
                control.advance(count)
                control.check()

        return score_samples(
            samples,
            scorers,
            run.read_image,
            batch_size=plan.batch_size if plan else self.batch_size,
            after_batch=after_batch,
        )

    def _real_references(self, count: int) -> dict[str, References]:
        """Signatures of the first `count` real images, for every novelty rule."""
        real = self._real
        if real is None or not self._novelty:
            return {}

        def make() -> list[Scored]:
            return self._score(real, range(count), dict(self._novelty))

        return stored_or_made(self._signatures, list(self._novelty), f"real-{count}", make)

    # ------------------------------------------------------------ a shard

    def process(self, shard: Shard, control: Control) -> ShardOutput:
        if self._columns is not None:
            return self._columns.shard(shard, control)
        scored = self._judged(shard.start, shard.stop, control)
        samples = [item.sample for item in scored]
        if self._quotas:
            samples = self._within_quotas(samples, self._kept_before(shard.start, control))
        counts = Counter(f"{sample.verdict}" for sample in samples)
        return ShardOutput(
            samples,
            [failure for item in scored for failure in item.failures],
            {"kept": counts["keep"], "dropped": counts["drop"], "unknown": counts["unknown"]},
        )

    def _judged(self, start: int, stop: int, control: Control | None) -> list[Scored]:
        """Samples start..stop-1 with scores, verdict and reasons, before quotas."""
        if self._settings.rescore == "none":
            scored = [self._as_scored(sample) for sample in self._run.rows(start, stop)]
        else:
            scored = self._score(self._run, range(start, stop), self._scorers, control)
            self._compare(scored, start, stop)
        rules, levels, bounds = self._rules, self._levels, self._thresholds.applied
        if self._thresholds.promise is not None:
            rules, levels = [*rules, gate()], {**levels, GATE: "instance"}
        for item in scored:
            item.sample = judge(item, rules, bounds, levels, self._name)
        return scored

    def _as_scored(self, sample: Sample) -> Scored:
        """A sample of an old filter run, with what its scorers had said."""
        failed = dict(failed_rule(r) for r in sample.reasons if r.startswith(f"{FAILED} "))
        bare, promise = without_verdict(sample), self._thresholds.promise
        if promise is not None:
            bare = promise.with_ranks(bare, kept_objects(sample), self._name)
        return Scored(bare, failed)

    def _compare(self, scored: list[Scored], start: int, stop: int) -> None:
        if not self._novelty:
            return
        names = list(self._novelty)
        put_all(self._signatures, names, _range_key(start, stop), scored)
        real = self._real_references(self._thresholds.real_count)
        earlier = []
        for a, b in self._shards_before(start):

            def make(a: int = a, b: int = b) -> list[Scored]:
                return self._score(self._run, range(a, b), dict(self._novelty))

            earlier.append(stored_or_made(self._signatures, names, _range_key(a, b), make))
        for name, scorer in self._novelty.items():
            before = [] if getattr(scorer, "only_real", False) else earlier
            others = [found[name] for found in [real, *before] if name in found]
            compare(scored, name, scorer, others)

    def _shards_before(self, start: int) -> list[tuple[int, int]]:
        plan = self._info.plan
        return [] if plan is None else [(a, b) for a, b in plan.shards if b <= start]

    # ------------------------------------------------------------ quotas

    def _kept_before(self, start: int, control: Control) -> Counter[str]:
        """What quotas count in all earlier shards; those not done yet are judged here."""
        used: Counter[str] = Counter()
        for index, (a, b) in enumerate(self._shards_before(start)):
            if index not in self._kept:
                path = part_path(self._info.out, index)
                if path.is_file():
                    samples = list(samples_from_table(read_part(path)))
                else:
                    judged = [item.sample for item in self._judged(a, b, None)]
                    samples = self._within_quotas(judged, Counter(used))
                    control.check()
                kept = [sample for sample in samples if sample.verdict == "keep"]
                counted = (objects_of(sample, self._name, self._quotas) for sample in kept)
                self._kept[index] = sum(counted, Counter())
            used.update(self._kept[index])
        return used

    def _within_quotas(self, samples: list[Sample], used: Counter[str]) -> list[Sample]:
        return within_quotas(samples, used, self._quotas, self._name)

    @cached_property
    def _quotas(self) -> Quotas:
        classes = {self._name(k): v for k, v in self._settings.quotas.items()}
        return Quotas(classes, self._settings.mask_quota)

    # ------------------------------------------------------------ the end

    def finish(self, run: FinishedRun) -> Finish:
        levels = self._scorer_levels()
        return finish_filter(run, self._rules, levels, self._name, self.by_columns)

    def _scorer_levels(self) -> dict[str, str]:
        return {rule.name: self._scorer(rule).level for rule in self._rules}


def _range_key(start: int, stop: int) -> str:
    return f"{start:09d}-{stop:09d}"


def _ranges(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive positions joined to half-open ranges."""
    if isinstance(positions, range):
        yield positions.start, positions.stop
        return
    start = previous = None
    for position in positions:
        if start is None or previous is None:
            start = position
        elif position != previous + 1:
            yield start, previous + 1
            start = position
        previous = position
    if start is not None and previous is not None:
        yield start, previous + 1
