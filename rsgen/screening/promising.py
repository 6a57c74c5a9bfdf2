"""Making a promise from a filter run: its scores, and an audit or real labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rsgen.errors import DataError, UsageError
from rsgen.records import Instance, Sample
from rsgen.request import RunInfo, item_seed
from rsgen.scorers.base import Bound, is_thing
from rsgen.scorers.judging import Scored, without_verdict
from rsgen.screening.audit import NameOf, audited_set, draw_audit, read_audit
from rsgen.screening.promise import (
    Promise,
    Ranks,
    estimated_promise,
    learned_promise,
    planted,
    set_scores,
)
from rsgen.store import SampleRun

__all__ = ["ScoreReal", "audited_promise", "make_promise"]

ScoreReal = Callable[[Sequence[Sample], Sequence[str]], Sequence[Scored]]
MOST_PLANTED = 300  # real images with planted faults


def make_promise(
    info: RunInfo,
    run: SampleRun,
    bounds: Mapping[str, Bound],
    name_of: NameOf,
    *,
    real: Callable[[], Sequence[Sample]],
    score: ScoreReal,
) -> Promise:
    """What `min_label_precision` comes to: a bound from the audit, else an estimate.

    Args:
        run: the filter run that is filtered again. bounds: of the object rules.
        real: real samples for the estimate; `score` gives them their scores.

    Raises:
        DataError: an audit that is not the one that was drawn. UsageError: it cannot be promised.
    """
    rules = list(bounds)
    if info.paths("audit"):
        return audited_promise(info, run, rules, name_of)
    scores = set_scores(lambda: run, _object_rules(rules), name_of)
    right, wrong = _planted_ranks(info, scores.ranks, bounds, name_of, real, score)
    of = audited_set(run.fingerprint, len(run))
    return estimated_promise(of, scores, right, wrong, _wanted(info))


def audited_promise(
    info: RunInfo, run: SampleRun, rules: Sequence[str], name_of: NameOf
) -> Promise:
    """The bound that the audit carries. It needs no pixels, so it is asked before OUT is taken.

    Args:
        run: the filter run that drew the audit. rules: those that score objects.

    Raises:
        DataError: an audit that is not the one that was drawn. UsageError: it cannot be promised.
    """
    drawn_count = run.info.config.filter.draw_audit
    if drawn_count is None:
        raise DataError(
            f"--audit: {run.path} drew no audit",
            hint="draw one with: rsgen filter RUN --draw-audit 200 --out OUT",
        )
    of = audited_set(run.fingerprint, len(run))
    drawn = draw_audit(run, name_of, drawn_count, run.info.seed)
    audit = read_audit(info.paths("audit")[0], of, drawn)
    places = frozenset((row.sample, row.instance) for row in audit)
    scores = set_scores(lambda: run, _object_rules(rules), name_of, places)
    return learned_promise(of, scores, audit, _wanted(info), info.config.filter.confidence)


def _wanted(info: RunInfo) -> float:
    wanted = info.config.filter.min_label_precision
    assert wanted is not None, "asked by the caller"
    return wanted


def _object_rules(rules: Sequence[str]) -> Sequence[str]:
    if not rules:
        raise UsageError(
            "--min-label-precision needs a rule that scores objects",
            hint="add one: judge, contrast, clip-objects",
        )
    return rules


def _planted_ranks(
    info: RunInfo,
    ranks: Ranks,
    bounds: Mapping[str, Bound],
    name_of: NameOf,
    real: Callable[[], Sequence[Sample]],
    score: ScoreReal,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of real labels as they are, and as faults make them.

    As in the set, what breaks a bound is not among them: it would not have been kept.
    """
    samples = [without_verdict(sample) for sample in real()[:MOST_PLANTED]]
    names = sorted({n for classes in ranks.quantiles.values() for n in classes})
    faulty = [
        planted(s, names, np.random.default_rng(item_seed(info.seed, "filter/planted", s.id)))
        for s in samples
    ]

    def kept(instance: Instance, name: str) -> bool:
        scores = instance.scores
        return all(b.of(name).passes(scores[r]) for r, b in bounds.items() if r in scores)

    def found(some: Sequence[Sample]) -> np.ndarray:
        things = [
            (instance, name_of(instance.label))
            for item in score(some, list(bounds))
            for instance in item.sample.layout.instances
            if is_thing(instance)
        ]
        return np.array([ranks.of(i, n) for i, n in things if n in names and kept(i, n)])

    return found(samples), found(faulty)
