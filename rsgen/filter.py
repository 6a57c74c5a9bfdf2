"""The `filter` command: scores and a verdict for every sample and instance; nothing deleted.

A shard is scored by the rules' scorers, compared with the real images and with the items
before it, and judged by bounds that OUT/thresholds.json freezes at the first start. Quotas
count what was kept in earlier shards: a worker that cannot see them yet judges them itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.errors import UsageError
from rsgen.execution import Control, Finish, FinishedRun, Shard, ShardOutput
from rsgen.images import replace_bytes
from rsgen.records import ClassTable, Sample
from rsgen.registry import resolve
from rsgen.request import RunInfo, item_seed
from rsgen.scorers.base import NoveltyScorer, Rule, is_novelty, is_thing, make_scorer
from rsgen.scorers.judging import (
    FAILED,
    QUOTA,
    Scored,
    judge,
    score_samples,
    without_verdict,
)
from rsgen.scorers.neighbours import (
    References,
    SignatureStore,
    compare,
    own_distances,
    put_all,
    stored_or_made,
    without_signature,
)
from rsgen.scorers.report import verdict_sheets
from rsgen.scorers.rules import Thresholds, rules_of
from rsgen.store import SampleRun, open_samples, part_path, read_part
from rsgen.tables import samples_from_table

__all__ = ["FilterStage"]


class FilterStage:
    """Inputs: `run` (samples with images), `real` (samples), `checkpoint` (an autoencoder),
    `judge` (train-judge OUT)."""

    shard_size = 64
    batch_size = 16

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._settings = info.config.filter
        if len(info.paths("run")) != 1:
            raise UsageError(
                f"filter reads one sample run, got {len(info.paths('run'))}",
                hint="filter each run by itself; export takes several",
            )
        self._rules = rules_of(info)
        self._check_rules()
        self.uses_torch = self._settings.rescore == "all" and any(
            getattr(self._scorer(rule), "uses_torch", False) for rule in self._rules
        )

    def _check_rules(self) -> None:
        names = [rule.name for rule in self._rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        reserved = sorted({FAILED, QUOTA} & set(names))
        if twice or reserved or any(" " in name for name in names):
            raise UsageError(
                f"filter.rules: names must be distinct, without spaces, and not {FAILED} or "
                f"{QUOTA}; got {', '.join(names)}",
                hint="give a second rule of one scorer its own name",
            )
        quantiles = [rule.name for rule in self._rules if rule.quantile is not None]
        if quantiles and not self._info.paths("real"):
            raise UsageError(
                f"filter rules {', '.join(quantiles)} take quantiles of real images, "
                "and there are none",
                hint="add --real RUN, or give the rules a fixed min",
            )
        for name in self._settings.quotas:
            self.classes().resolve(name)
        for rule in self._rules:
            scorer = self._scorer(rule)
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
            self._check_rescore()
        return len(self._run)

    def _check_rescore(self) -> None:
        if self._run.info.command != "filter":
            raise UsageError(
                f"--rescore none: {self._run.path} is a {self._run.info.command} run, not a "
                "filter run",
                hint="leave --rescore none out to compute the scores",
            )
        have = {name for sample in self._run for name in _score_names(sample)}
        lacking = [rule.name for rule in self._rules if rule.name not in have]
        if lacking and len(self._run):
            raise UsageError(
                f"--rescore none: {self._run.path} has no scores for {', '.join(lacking)}; it "
                f"has: {', '.join(sorted(have)) or 'none'}",
                hint="leave --rescore none out, or drop these rules",
            )

    def classes(self) -> ClassTable:
        return self._run.classes

    def image_roots(self) -> list[Path]:
        return self._run.image_roots

    def model_hashes(self) -> dict[str, str]:
        """The weights behind each rule that looks through a network."""
        if not self.uses_torch:
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
        self._kept: dict[int, Counter[str]] = {}  # objects kept, by shard

    def _scorer(self, rule: Rule) -> Any:
        """The scorer, told what it takes from the run where its options do not say."""
        kind, options = resolve("scorers", rule.scorer), dict(rule.options)
        fields = {f.name for f in dataclasses.fields(kind)}
        for option, name in getattr(kind, "from_inputs", {}).items():
            for path in self._info.paths(name):
                options.setdefault(option, str(path))
        if self._real is not None and self._real.info.command == "extract-masks":
            for option, key in getattr(kind, "from_real", {}).items():
                section, _, setting = key.partition(".")
                made = getattr(getattr(self._real.info.config, section), setting)
                options.setdefault(option, made)
        if "device" in fields and self._info.plan is not None:
            options.setdefault("device", self._info.plan.device)
        if "classes" in fields:
            options.setdefault("classes", self.classes())
        return make_scorer(rule.scorer, options)

    def _frozen_thresholds(self) -> Thresholds:
        path = self._info.out / "thresholds.json"
        if not path.is_file():
            text = json.dumps(self._resolve_thresholds().to_json(), indent=1, sort_keys=True)
            replace_bytes(path, (text + "\n").encode("utf-8"))
        return Thresholds.from_json(json.loads(path.read_text(encoding="utf-8")))

    def _resolve_thresholds(self) -> Thresholds:
        count = 0 if self._real is None else len(self._real)
        asked = [rule for rule in self._rules if rule.quantile is not None]
        scores: dict[str, list[float]] = {rule.name: [] for rule in asked}
        plain = {r.name: self._scorers[r.name] for r in asked if r.name not in self._novelty}
        failed: set[str] = set()
        if self._real is not None:
            compared = self._settings.rescore == "all" or len(plain) < len(asked)
            references = self._real_references(count) if compared else {}
            for name, found in references.items():
                if name in scores:
                    scores[name] = own_distances(found, self._novelty[name]).tolist()
                if len(found) < count:
                    failed |= without_signature(self._real.rows(0, count), found)
            for item in self._score(self._real, self._drawn(count), plain) if plain else ():
                failed |= {failure.item for failure in item.failures}
                for name in plain:
                    scores[name] += _values(item.sample, name, self._levels[name])
        bounds = {rule.name: rule.bound(np.asarray(scores.get(rule.name, []))) for rule in
                  self._rules}  # fmt: skip
        return Thresholds(bounds, count, tuple(sorted(failed)))

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
        plan = self._info.plan
        samples = [s for start, stop in _ranges(positions) for s in run.rows(start, stop)]
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
        scored = self._judged(shard.start, shard.stop, control)
        samples = [item.sample for item in scored]
        if self._settings.quotas:
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
            scored = [_as_scored(sample) for sample in self._run.rows(start, stop)]
        else:
            scored = self._score(self._run, range(start, stop), self._scorers, control)
            self._compare(scored, start, stop)
        for item in scored:
            item.sample = judge(item, self._rules, self._thresholds.bounds, self._levels)
        return scored

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
            others = [found[name] for found in [real, *earlier] if name in found]
            compare(scored, name, scorer, others)

    def _shards_before(self, start: int) -> list[tuple[int, int]]:
        plan = self._info.plan
        return [] if plan is None else [(a, b) for a, b in plan.shards if b <= start]

    # ------------------------------------------------------------ quotas

    def _kept_before(self, start: int, control: Control) -> Counter[str]:
        """Objects kept by class in all earlier shards; those not done yet are judged here."""
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
                counted = [self._counted(s) for s in samples if s.verdict == "keep"]
                self._kept[index] = sum(counted, Counter())
            used.update(self._kept[index])
        return used

    def _within_quotas(self, samples: list[Sample], used: Counter[str]) -> list[Sample]:
        """Drop, in order, each sample with which a class would exceed its quota."""
        quotas = {self.classes().resolve(k).name: v for k, v in self._settings.quotas.items()}
        judged = []
        for sample in samples:
            if sample.verdict == "keep":
                adds = self._counted(sample)
                over = [c for c, n in sorted(adds.items()) if used[c] + n > quotas.get(c, math.inf)]
                if over:
                    reasons = tuple(f"{QUOTA} {c} (max {quotas[c]})" for c in over)
                    sample = replace(sample, verdict="drop", reasons=(*sample.reasons, *reasons))
                else:
                    used.update(adds)
            judged.append(sample)
        return judged

    def _counted(self, sample: Sample) -> Counter[str]:
        things = (i for i in sample.layout.instances if is_thing(i))
        return Counter(self.classes().resolve(i.label).name for i in things)

    # ------------------------------------------------------------ the end

    def finish(self, run: FinishedRun) -> Finish:
        verdicts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        objects: dict[str, Counter[str]] = {}
        for sample in run.samples():
            verdicts[str(sample.verdict)] += 1
            reasons.update({reason.split(" ", 1)[0] for reason in sample.reasons}
                           if sample.verdict != "keep" else ())  # fmt: skip
            for label, count in self._counted(sample).items():
                objects.setdefault(label, Counter())[str(sample.verdict)] += count
        thresholds = run.path / "thresholds.json"
        frozen = Thresholds.from_json(json.loads(thresholds.read_text(encoding="utf-8")))
        kept, total = verdicts["keep"], sum(verdicts.values())
        tables: dict[str, dict[str, float | int | str]] = {
            "verdicts": {v: verdicts[v] for v in ("keep", "drop", "unknown")},
            "reasons": dict(sorted(reasons.items())),
            "objects kept": {k: f"{objects[k]['keep']} of {objects[k].total()}" for k in
                             sorted(objects)},
            "thresholds": {name: str(bound) for name, bound in frozen.bounds.items()},
        }  # fmt: skip
        notes = _real_notes(frozen)
        tables = {name: rows for name, rows in tables.items() if rows}
        artifacts = {"thresholds": thresholds, **verdict_sheets(run)}
        wanted = self._settings.fail_under
        if wanted is None or kept >= wanted * total:
            return Finish(artifacts, tables, notes)
        note = f"kept {kept} of {total}, under the asked share {wanted:g}: exit 7"
        return Finish(artifacts, tables, [*notes, note], exit_code=7)


def _real_notes(thresholds: Thresholds) -> list[str]:
    """What is said of real images that had no part in the bounds or the comparison."""
    failed = thresholds.real_failed
    if not failed:
        return []
    names = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
    return [
        f"{len(failed)} of {thresholds.real_count} real images could not be read or scored "
        f"({names}): they set no bound, and nothing was compared with them"
    ]


def _score_names(sample: Sample) -> Iterator[str]:
    yield from sample.scores
    for instance in sample.layout.instances:
        yield from instance.scores
    for reason in sample.reasons:
        if reason.startswith(f"{FAILED} "):
            yield _failed_rule(reason)[0]


def _failed_rule(reason: str) -> tuple[str, str]:
    name, _, text = reason[len(FAILED) + 1 :].partition(": ")
    return name, text


def _as_scored(sample: Sample) -> Scored:
    """A sample of an old filter run, with what its scorers had said."""
    failed = dict(_failed_rule(r) for r in sample.reasons if r.startswith(f"{FAILED} "))
    return Scored(without_verdict(sample), failed)


def _values(sample: Sample, name: str, level: str) -> list[float]:
    if level == "instance":
        return [i.scores[name] for i in sample.layout.instances if name in i.scores]
    return [sample.scores[name]] if name in sample.scores else []


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
