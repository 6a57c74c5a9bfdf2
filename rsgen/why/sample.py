"""A sample with its scores, bounds and reasons side by side, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rsgen.errors import DataError
from rsgen.records import Instance, Sample
from rsgen.request import RunInfo
from rsgen.scorers.base import Bound
from rsgen.scorers.judging import failed_rules
from rsgen.scorers.rules import rules_of
from rsgen.screening.thresholds import Thresholds
from rsgen.store import SampleRun
from rsgen.why.chain import chain_lines, pool_masks, upstream

__all__ = ["Explained", "Judged", "ObjectExplained", "explain"]


@dataclass(frozen=True)
class Judged:
    """One score and its bound. `ok` is None where no rule of the run looks at it.

    `tolerated`: the worst object is beyond the bound, but few enough objects are.
    """

    rule: str
    score: float
    bound: str
    ok: bool | None
    tolerated: bool = False


@dataclass(frozen=True)
class ObjectExplained:
    """One instance; `number` counts from 1, as in the picture. `sources` are of its pool mask."""

    number: int
    label: str
    box: tuple[float, float, float, float] | None
    origin: str
    sources: tuple[str, ...]
    truncated: bool
    judged: tuple[Judged, ...]
    failed: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Explained:
    """A sample of a run. `chain` goes from this run back to the data it began with."""

    id: str
    run: str
    command: str
    verdict: str | None
    reasons: tuple[str, ...]
    judged: tuple[Judged, ...]
    tolerated: Mapping[str, float]
    objects: tuple[ObjectExplained, ...]
    image: str | None
    image_note: str
    width: int
    height: int
    gsd_m: float | None
    split: str | None
    prompt: str | None
    scene: str | None
    provenance: Mapping[str, Any]
    chain: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {"schema": 1, **asdict(self)}


def explain(run: SampleRun, sample: Sample) -> Explained:
    """Everything that is known of a sample of a run."""
    bounds, tolerated = _rules(run.info)
    image, note = _image(run, sample)
    links = upstream(run.info)
    masks = pool_masks(links, sample)
    provenance = asdict(sample.provenance)
    layout = sample.layout
    return Explained(
        id=sample.id,
        run=str(run.path),
        command=run.info.command,
        verdict=sample.verdict,
        reasons=sample.reasons,
        judged=_tolerating(_judged(sample.scores, bounds), sample.reasons, tolerated),
        tolerated=tolerated,
        objects=tuple(
            _object(k, instance, _own(bounds, instance, run.info), masks)
            for k, instance in enumerate(layout.instances, 1)
        ),
        image=image,
        image_note=note,
        width=layout.width,
        height=layout.height,
        gsd_m=layout.gsd_m,
        split=sample.split,
        prompt=sample.prompt,
        scene=layout.scene,
        provenance={k: v for k, v in provenance.items() if v not in (None, ())},
        chain=tuple(chain_lines(links)),
    )


def _rules(info: RunInfo) -> tuple[dict[str, Bound], dict[str, float]]:
    """(bounds by rule name, the share of objects that each tolerates) of a filter run."""
    path = info.out / "thresholds.json"
    if info.command != "filter" or not path.is_file():
        return {}, {}
    rules = rules_of(info)
    frozen = Thresholds.from_json(json.loads(path.read_text(encoding="utf-8"))).applied
    order = [rule.name for rule in rules if rule.name in frozen]
    bounds = {name: frozen[name] for name in dict.fromkeys([*order, *frozen])}
    return bounds, {
        rule.name: rule.tolerate if rule.policy == "reject" else 1.0
        for rule in rules
        if rule.tolerate or rule.policy != "reject"
    }


def _own(bounds: Mapping[str, Bound], instance: Instance, info: RunInfo) -> dict[str, Bound]:
    """The bounds of an object's class."""
    entry = info.classes.find(instance.label)
    name = instance.label if entry is None else entry.name
    return {rule: bound.of(name) for rule, bound in bounds.items()}


def _judged(scores: Mapping[str, float], bounds: Mapping[str, Bound]) -> tuple[Judged, ...]:
    rows = []
    for name in [*(n for n in bounds if n in scores), *(n for n in scores if n not in bounds)]:
        bound = bounds.get(name)
        ok = None if bound is None else bound.passes(scores[name])
        rows.append(Judged(name, scores[name], "" if bound is None else str(bound), ok))
    return tuple(rows)


def _tolerating(
    rows: tuple[Judged, ...], reasons: Sequence[str], tolerated: Mapping[str, float]
) -> tuple[Judged, ...]:
    """The image's rows: an object rule fails the image only where a reason says so."""
    failed = {reason.split(" ", 1)[0] for reason in reasons}
    return tuple(
        replace(row, ok=True, tolerated=True)
        if row.ok is False and row.rule in tolerated and row.rule not in failed
        else row
        for row in rows
    )


def _object(
    number: int,
    instance: Instance,
    bounds: Mapping[str, Bound],
    masks: Mapping[str, tuple[str, ...]],
) -> ObjectExplained:
    box = instance.bounds()
    return ObjectExplained(
        number=number,
        label=instance.label,
        box=None if box is None else (box.x0, box.y0, box.x1, box.y1),
        origin=instance.origin,
        sources=masks.get(instance.origin.removeprefix("pool:"), ()),
        truncated=instance.truncated,
        judged=_judged(instance.scores, bounds),
        failed=tuple(failed_rules(instance)),
        reasons=instance.reasons,
    )


def _image(run: SampleRun, sample: Sample) -> tuple[str | None, str]:
    try:
        return str(run.image_path(sample)), ""
    except DataError as error:
        return None, error.message
