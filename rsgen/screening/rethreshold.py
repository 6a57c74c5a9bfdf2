"""New thresholds on the scores of a filter run, a part at a time: `filter --rescore none`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rsgen.execution import Control, Shard, ShardOutput
from rsgen.records import WEIGHT
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.judging import ARROW, FAILED, QUOTA
from rsgen.scorers.weights import without_weight
from rsgen.screening.audit import NameOf
from rsgen.screening.checks import failed_rule
from rsgen.screening.columns import (
    COUNTED,
    ORIGIN,
    Bools,
    Columns,
    Floats,
    Reasons,
    Scores,
    first_word,
    with_verdicts,
)
from rsgen.screening.quotas import FROM_POOL, Quotas
from rsgen.screening.weighing import weigh_columns
from rsgen.store import SampleRun, part_path, read_part

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Judged", "Rethreshold", "judge_columns", "within_quotas_by_columns"]


@dataclass
class Judged:
    """Verdicts [N], and the reasons of samples and of objects by their position.

    scores: those of samples [N] and of objects [M], where weights among them changed.
    """

    verdicts: list[str]
    reasons: Reasons
    object_reasons: Reasons
    scores: tuple[list[Scores], list[Scores]] | None = None

    @property
    def kept(self) -> Bools:
        """bool [N]."""
        return np.array([verdict == "keep" for verdict in self.verdicts], dtype=bool)

    def table(self, columns: Columns) -> pa.Table:
        """The samples as judged."""
        told = self.reasons, self.object_reasons
        return with_verdicts(columns, self.verdicts, *told, self.scores)


def judge_columns(
    columns: Columns,
    rules: Sequence[Rule],
    bounds: Mapping[str, Bound],
    levels: Mapping[str, str],
    name_of: NameOf,
) -> Judged:
    """What `without_verdict` and `judge` make of each sample of a filter run."""
    reasons, failed = _old_reasons(columns)
    object_reasons = _old_object_reasons(columns)
    dropped: set[int] = set()
    for rule in rules:
        bound = bounds[rule.name]
        if bound.full is not None:
            continue
        if levels[rule.name] == "instance":
            told = _judge_objects(columns, rule, bound, name_of, object_reasons)
        else:
            values = columns.values(rule.name)
            told = {
                row: f"{rule.name} {columns.scores[row][rule.name]:.4g} ({bound})"
                for row in np.flatnonzero(_failing(values, bound.low, bound.high)).tolist()
            }
        for row, reason in told.items():
            reasons.setdefault(row, []).append(reason)
        dropped.update(told)
    for row, rows in failed.items():
        texts = [f"{FAILED} {name}: {text}" for name, text in sorted(rows.items())]
        reasons.setdefault(row, []).extend(texts)
    verdicts = ["keep"] * len(columns)
    for row in failed:
        verdicts[row] = "unknown"
    for row in dropped:
        verdicts[row] = "drop"
    weighed = weigh_columns(columns, rules, bounds, levels, name_of)
    return Judged(verdicts, reasons, object_reasons, weighed)


def _old_reasons(columns: Columns) -> tuple[Reasons, dict[int, dict[str, str]]]:
    """(reasons that no rule gave, what rules could not be applied) of the run before."""
    starts = np.concatenate([[0], np.cumsum(columns.counts)])
    kept: Reasons = {}
    failed: dict[int, dict[str, str]] = {}
    for row, texts in columns.reasons.items():
        ours = {FAILED, QUOTA, *columns.scores[row]}
        for scores in columns.object_scores[starts[row] : starts[row + 1]]:
            ours.update(scores)
        ours.discard(WEIGHT)
        foreign = [text for text in texts if first_word(text) not in ours]
        if foreign:
            kept[row] = foreign
        rules = dict(failed_rule(text) for text in texts if text.startswith(f"{FAILED} "))
        if rules:
            failed[row] = rules
    return kept, failed


def _old_object_reasons(columns: Columns) -> Reasons:
    scores = columns.object_scores
    kept = {
        place: [text for text in texts if first_word(text) not in without_weight(scores[place])]
        for place, texts in columns.object_reasons.items()
    }
    return {place: texts for place, texts in kept.items() if texts}


def _failing(values: Floats, low: Floats | float | None, high: Floats | float | None) -> Bools:
    """Where scores break a bound; NaN passes."""
    failing = np.zeros(len(values), dtype=bool)
    if low is not None:
        failing |= values < low
    if high is not None:
        failing |= values > high
    return failing


def _judge_objects(
    columns: Columns, rule: Rule, bound: Bound, name_of: NameOf, object_reasons: Reasons
) -> dict[int, str]:
    """Adds the reasons of failing objects; the reason of each sample of which too many fail."""
    values, labels = columns.object_values(rule.name), columns.label_numbers
    there = ~np.isnan(values)
    owns = [bound] * len(columns.labels)
    if bound.differs:
        for number in np.unique(labels[there]).tolist():
            owns[number] = bound.of(name_of(columns.labels[number]))
    lows = np.array([-math.inf if own.low is None else own.low for own in owns])
    highs = np.array([math.inf if own.high is None else own.high for own in owns])
    if not len(owns):
        return {}
    failing = there & _failing(values, lows[labels], highs[labels])
    if not failing.any():
        return {}
    end = "" if rule.policy == "reject" else f"{ARROW}{rule.policy}"
    ends = [f" ({own}){end}" for own in owns]
    for place in np.flatnonzero(failing).tolist():
        score = columns.object_scores[place][rule.name]
        reason = f"{rule.name} {score:.4g}{ends[labels[place]]}"
        object_reasons.setdefault(place, []).append(reason)
    applies = np.bincount(columns.owners[there], minlength=len(columns)).tolist()
    fails = np.bincount(columns.owners[failing], minlength=len(columns))
    return {
        row: f"{rule.name} {fails[row]} of {applies[row]} objects fail ({bound})"
        for row in np.flatnonzero(fails).tolist()
        if fails[row] > rule.allowed(applies[row])
    }


# ---------------------------------------------------------------- a shard


class Rethreshold:
    """Judges parts of a filter run without building their samples; quotas go in its order."""

    def __init__(
        self,
        run: SampleRun,
        out: Path,
        shards: Sequence[tuple[int, int]],
        quotas: Quotas,
        judge: Callable[[Columns], Judged],
        name_of: NameOf,
    ) -> None:
        self._run, self._out, self._shards = run, out, shards
        self._quotas, self._judge, self._name_of = quotas, judge, name_of
        self._kept: dict[int, Counter[str]] = {}  # objects with a quota that are kept, by shard

    def shard(self, shard: Shard, control: Control) -> ShardOutput:
        columns, judged = self._judged(shard.index, control)
        rows = judged.table(columns)
        counts = Counter(judged.verdicts)
        return ShardOutput(
            rows,
            [],
            {"kept": counts["keep"], "dropped": counts["drop"], "unknown": counts["unknown"]},
        )

    def _judged(self, index: int, control: Control) -> tuple[Columns, Judged]:
        columns = Columns(self._run.table(*self._shards[index]))
        judged = self._judge(columns)
        if self._quotas:
            used = self._kept_before(index, control)
            before = used.copy()
            within_quotas_by_columns(columns, judged, used, self._quotas, self._name_of)
            self._kept[index] = used - before
        return columns, judged

    def _kept_before(self, index: int, control: Control) -> Counter[str]:
        """Objects kept in all earlier shards; those not done yet are judged here."""
        used: Counter[str] = Counter()
        for earlier in range(index):
            if earlier not in self._kept:
                path = part_path(self._out, earlier)
                if path.is_file():
                    done = Columns(read_part(path, (*COUNTED, ORIGIN)))
                    kept = np.array([verdict == "keep" for verdict in done.verdicts], dtype=bool)
                    rows = _counted(done, kept, self._quotas, self._name_of)
                    self._kept[earlier] = sum(rows.values(), Counter())
                else:
                    self._judged(earlier, control)
                    control.check()
            used.update(self._kept[earlier])
        return used


def within_quotas_by_columns(
    columns: Columns, judged: Judged, used: Counter[str], quotas: Quotas, name_of: NameOf
) -> None:
    """As `within_quotas`: drop, in order, what a quota has no room for; `used` counts up."""
    for row, adds in sorted(_counted(columns, judged.kept, quotas, name_of).items()):
        over = quotas.over(adds, used)
        if over:
            judged.verdicts[row] = "drop"
            judged.reasons.setdefault(row, []).extend(over)
        else:
            used.update(adds)


def _counted(
    columns: Columns, of: Bools, quotas: Quotas, name_of: NameOf
) -> dict[int, Counter[str]]:
    """As `objects_of`, by row of the samples `of` [N]; rows with nothing to count are left out."""
    found: dict[int, Counter[str]] = {}
    for name, counts in columns.class_counts(quotas.classes, of, name_of).items():
        for row in np.flatnonzero(counts).tolist():
            found.setdefault(row, Counter())[name] = int(counts[row])
    if quotas.mask is not None:
        places = np.flatnonzero(columns.things & of[columns.owners])
        origins = columns.origins(places)
        for row, origin in zip(columns.owners[places].tolist(), origins, strict=True):
            if origin.startswith(FROM_POOL):
                found.setdefault(row, Counter())[origin] += 1
    return found
