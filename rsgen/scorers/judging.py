"""From scores to a verdict: batches through the scorers, then bounds over what they gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rsgen.errors import DataError, RsgenError
from rsgen.images import Pixels
from rsgen.records import WEIGHT, Failure, Instance, Sample
from rsgen.scorers.base import Bound, Policy, Rule, Scorer, Signatures, is_novelty
from rsgen.scorers.weights import rounded, weighted

__all__ = [
    "Scored",
    "failed_policy",
    "failed_rules",
    "judge",
    "rounded",
    "score_samples",
    "without_verdict",
]

ReadImage = Callable[[Sample], Pixels]
FAILED = "failed"
QUOTA = "quota"
POLICIES: tuple[Policy, ...] = ("drop", "difficult")  # the first that any failed rule asks for
ARROW = " -> "  # before the policy, at the end of an instance's reason


@dataclass
class Scored:
    """A sample with its scores so far; novelty rules leave a signature to be compared."""

    sample: Sample
    failed: dict[str, str] = field(default_factory=dict)  # rule name -> what went wrong
    signatures: dict[str, Signatures] = field(default_factory=dict)  # by rule name, one image
    nearest: dict[str, str] = field(default_factory=dict)  # rule name -> id it resembles
    failures: list[Failure] = field(default_factory=list)

    def fail(self, rules: Sequence[str], error: Exception) -> None:
        """Note that these rules could not be applied; one Failure row."""
        message = error.message if isinstance(error, RsgenError) else str(error)
        for rule in rules:
            self.failed[rule] = f"{type(error).__name__}: {message}"
        row = Failure(self.sample.id, "filter", type(error).__name__, f"{rules[0]}: {message}")
        self.failures.append(row)


def without_verdict(sample: Sample) -> Sample:
    """The sample before it was judged: no verdict, no weight, and no reasons that a rule gave."""
    sample = _without_scores(sample, (WEIGHT,)) if _has_weight(sample) else sample
    instances = tuple(
        replace(i, reasons=tuple(r for r in i.reasons if _rule_of(r) not in i.scores))
        if i.reasons
        else i
        for i in sample.layout.instances
    )
    if not sample.reasons and not any(i.reasons for i in sample.layout.instances):
        return replace(sample, verdict=None)
    ours = {FAILED, QUOTA, *sample.scores, *(n for i in instances for n in i.scores)}
    reasons = tuple(r for r in sample.reasons if _rule_of(r) not in ours)
    layout = replace(sample.layout, instances=instances)
    return replace(sample, layout=layout, verdict=None, reasons=reasons)


def _has_weight(sample: Sample) -> bool:
    return WEIGHT in sample.scores or any(WEIGHT in i.scores for i in sample.layout.instances)


def _without_scores(sample: Sample, names: Collection[str]) -> Sample:
    """The sample without older scores of these rules: a new NaN must not leave them behind."""

    def rest(scores: Mapping[str, float]) -> dict[str, float]:
        return {name: score for name, score in scores.items() if name not in names}

    instances = tuple(replace(i, scores=rest(i.scores)) for i in sample.layout.instances)
    layout = replace(sample.layout, instances=instances)
    return replace(sample, layout=layout, scores=rest(sample.scores))


def _rule_of(reason: str) -> str:
    return reason.split(" ", 1)[0]


def failed_rules(instance: Instance) -> list[str]:
    """Names of the rules that an instance failed."""
    return [_rule_of(r) for r in instance.reasons if _rule_of(r) in instance.scores]


def failed_policy(instance: Instance) -> Policy | None:
    """What the rules that an instance failed ask for; None where they leave it to the reader."""
    asked = {r.rpartition(ARROW)[2] for r in instance.reasons if _rule_of(r) in instance.scores}
    return next((policy for policy in POLICIES if policy in asked), None)


def same_size(items: Sequence[tuple[Scored, Pixels]], size: int) -> Iterator[list[int]]:
    """Runs of consecutive positions whose images have one shape, at most `size` long."""
    start = 0
    for k in range(1, len(items) + 1):
        full = k - start == size
        if k == len(items) or full or items[k][1].shape != items[start][1].shape:
            yield list(range(start, k))
            start = k


def score_samples(
    samples: Sequence[Sample],
    scorers: Mapping[str, Any],
    read_image: ReadImage,
    *,
    batch_size: int,
    after_batch: Callable[[int], None] = lambda count: None,
) -> list[Scored]:
    """Score samples; an image that cannot be read fails every rule, as a row.

    Args:
        scorers: rule name -> scorer.
        after_batch: called with the number of finished samples; may raise Stopped.
    """
    found = [Scored(_without_scores(sample, scorers)) for sample in samples]
    for start in range(0, len(found), batch_size):
        chunk = found[start : start + batch_size]
        readable: list[tuple[Scored, Pixels]] = []
        for item in chunk:
            try:
                readable.append((item, read_image(item.sample)))
            except DataError as error:
                item.fail(list(scorers), error)
        for places in same_size(readable, batch_size):
            batch = [readable[k] for k in places]
            for name, scorer in scorers.items():
                _apply(name, scorer, batch)
        after_batch(len(chunk))
    return found


def _apply(name: str, scorer: Any, batch: list[tuple[Scored, Pixels]]) -> None:
    """One scorer over one batch; when it fails, again one by one to find the culprit."""
    try:
        _store(name, scorer, batch)
    except RsgenError as error:
        if not isinstance(error, DataError):
            raise
        _one_by_one(name, scorer, batch, error)
    except Exception as error:  # noqa: BLE001 - a scorer may be anyone's code: its failure is a row
        _one_by_one(name, scorer, batch, error)


def _one_by_one(
    name: str, scorer: Any, batch: list[tuple[Scored, Pixels]], error: Exception
) -> None:
    if len(batch) == 1:
        batch[0][0].fail([name], error)
        return
    for item in batch:
        _apply(name, scorer, [item])


def _store(name: str, scorer: Scorer, batch: list[tuple[Scored, Pixels]]) -> None:
    images = np.stack([image for _, image in batch])
    items = [item for item, _ in batch]
    if is_novelty(scorer):
        for item, signature in zip(items, scorer.signatures(images), strict=True):
            item.signatures[name] = signature
        return
    scores = scorer.score(images, [item.sample for item in items])
    if len(scores) != len(items):
        raise DataError(f"scorer {name!r} gave {len(scores)} scores for {len(items)} images")
    for item, score in zip(items, scores, strict=True):
        if scorer.level == "instance":
            item.sample = with_instance_scores(item.sample, name, np.asarray(score))
        else:
            item.sample = with_score(item.sample, name, float(score))


def with_score(sample: Sample, name: str, score: float) -> Sample:
    """The sample with a score; NaN (does not apply) is not stored."""
    if math.isnan(score):
        return sample
    return replace(sample, scores={**sample.scores, name: rounded(score)})


def with_instance_scores(sample: Sample, name: str, scores: Any) -> Sample:
    """Scores float [instances] on the instances, and the worst of them on the sample."""
    instances = sample.layout.instances
    if len(scores) != len(instances):
        raise DataError(
            f"{sample.id}: scorer {name!r} gave {len(scores)} scores for {len(instances)} instances"
        )
    marked = tuple(
        i if math.isnan(s) else replace(i, scores={**i.scores, name: rounded(float(s))})
        for i, s in zip(instances, scores, strict=True)
    )
    worst = min((i.scores[name] for i in marked if name in i.scores), default=math.nan)
    sample = replace(sample, layout=replace(sample.layout, instances=marked))
    return with_score(sample, name, worst)


def judge(
    scored: Scored,
    rules: Sequence[Rule],
    bounds: Mapping[str, Bound],
    levels: Mapping[str, str],
    name_of: Callable[[str], str] = str,
) -> Sample:
    """Verdict and reasons, on the sample and on its instances, and the weights that rules give.

    drop: a rule fails, and of an instance rule more instances than its policy allows. unknown:
    else, when a rule could not be applied. keep: else. `name_of`: a label's name in the table.
    """
    sample = weighted(scored.sample, rules, bounds, levels, name_of)
    reasons: list[str] = []
    for rule in rules:
        bound = bounds[rule.name]
        if levels[rule.name] == "instance":
            sample, reason = _judge_instances(sample, rule, bound, name_of)
            reasons += [reason] if reason else []
            continue
        score = sample.scores.get(rule.name, math.nan)
        if not bound.passes(score):
            like = scored.nearest.get(rule.name)
            end = f", like {like}" if like else ""
            reasons.append(f"{rule.name} {score:.4g} ({bound}){end}")
    unknown = [f"{FAILED} {name}: {text}" for name, text in sorted(scored.failed.items())]
    verdict = "drop" if reasons else "unknown" if unknown else "keep"
    return replace(
        sample,
        verdict=verdict,  # type: ignore[arg-type]
        reasons=(*sample.reasons, *reasons, *unknown),
    )


def _judge_instances(
    sample: Sample, rule: Rule, bound: Bound, name_of: Callable[[str], str]
) -> tuple[Sample, str | None]:
    end = "" if rule.policy == "reject" else f"{ARROW}{rule.policy}"
    applies, failing = 0, 0
    marked = list(sample.layout.instances)
    for k, instance in enumerate(marked):
        score = instance.scores.get(rule.name)
        if score is None:
            continue
        applies += 1
        own = bound.of(name_of(instance.label)) if bound.differs else bound
        if not own.passes(score):
            failing += 1
            reason = f"{rule.name} {score:.4g} ({own}){end}"
            marked[k] = replace(instance, reasons=(*instance.reasons, reason))
    if not failing:
        return sample, None
    sample = replace(sample, layout=replace(sample.layout, instances=tuple(marked)))
    if failing <= rule.allowed(applies):
        return sample, None
    return sample, f"{rule.name} {failing} of {applies} objects fail ({bound})"
