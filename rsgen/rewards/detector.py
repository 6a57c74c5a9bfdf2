"""Reward `detector`: what was asked for is seen, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from rsgen.detections import Detections
from rsgen.errors import UsageError
from rsgen.geometry import Box
from rsgen.judge.eyes import JUDGE, EyesRef
from rsgen.matching import Asked, Match, iou_matrix
from rsgen.records import Layout
from rsgen.rewards.base import Floats, Made, RewardSetup
from rsgen.rewards.known import unseen_by_judge
from rsgen.rewards.places import worth_by_place
from rsgen.rewards.single import PLACES, VALUE, PerImage
from rsgen.scorers.base import is_thing
from rsgen.scorers.detection import shares_in_box
from rsgen.scorers.looking import Eyes, asked_things, open_eyes, other_outlines

__all__ = ["DetectorReward", "Sight", "assign", "see"]

COLUMNS = ("iou", "confidence", "found", "extra")
OBJECTS = "objects"
SAME = 0.5  # a detection on an object that is not asked about, or in a crowd, is no extra one


@dataclass(frozen=True)
class DetectorReward:
    """I-DRUID's reward, an image: the mean over its objects of IoU + confidence, less `extra`
    times the confidence of all that is seen and was not asked for, an object.

    Source: I-DRUID, equation 6. Differs in: objects and detections of a class are matched one to
    one by Hungarian assignment (a detection vouches for one object); IoU is that of the outlines
    as polygons; the mean, where the equation's sum would favour images of many objects; and the
    penalty: without it objects that no label names, and doubles, go unpunished and
    poison a training set. An object that is missed counts 0, and so does an image without
    objects. Objects that a detector cannot be asked about (stuff, crowds, unknown classes,
    centres outside) do not count; where it can be asked about none of those that there are, it
    has no say, or it would reward their erasure by the extras alone.

    detectors: judge (the --judge input, judge A), a transformers detector (folder or
        hub:ORG/NAME; Grounding DINO is asked by class name), or `command: PROGRAM`; of several
        the mean counts, or the least (join).
    confidence: weight of the confidence of a match beside its IoU.
    overlap: least IoU of a match. least: detections under it are not seen. sure: from which
        confidence on an extra one is punished: no higher than `least`, or a weak judge sees none.
    """

    detectors: Sequence[str] = (JUDGE,)
    join: Literal["mean", "min"] = "mean"
    confidence: float = 1.0
    extra: float = 0.5
    overlap: float = 0.2
    least: float = 0.1
    sure: float = 0.1
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        given = (self.detectors,) if isinstance(self.detectors, str) else tuple(self.detectors)
        object.__setattr__(self, "detectors", given)

    def check(self, setup: RewardSetup) -> None:
        """Refuse what cannot work; loads no weights."""
        if self.join not in ("mean", "min"):
            raise UsageError(f"reward detector: join is {self.join!r}", hint="use mean or min")
        if not self.detectors or len(set(self.detectors)) < len(self.detectors):
            raise UsageError(
                f"reward detector: detectors is {list(self.detectors)}",
                hint="name one or more, each once: detectors: [judge, hub:ORG/NAME]",
            )
        for name, low in (("confidence", 0.0), ("extra", 0.0), ("overlap", 0.01)):
            if getattr(self, name) < low:
                raise UsageError(
                    f"reward detector: {name} is {getattr(self, name)}",
                    hint=f"it takes at least {low:g}; controls are made by rl_tune.control",
                )
        if JUDGE in self.detectors and setup.asked:
            unseen_by_judge(Path(EyesRef.parse(JUDGE, setup.judge).location), "reward", setup.asked)
        self.hashes(setup)

    def _references(self, setup: RewardSetup) -> list[EyesRef]:
        return [EyesRef.parse(text, setup.judge) for text in self.detectors]

    def hashes(self, setup: RewardSetup) -> Mapping[str, str]:
        references = zip(self.detectors, self._references(setup), strict=True)
        return {text: reference.identity("reward") for text, reference in references}

    def open(self, setup: RewardSetup) -> PerImage:
        found = []
        for reference in self._references(setup):
            classes = None if reference.kind == "judge" else setup.classes
            found.append(open_eyes(reference, classes, setup.device, self.time_limit_s))
        columns = [n for k in range(len(found)) for n in _names(k, len(found))]
        return PerImage(
            "detector",
            partial(self._look, found),
            [*columns, OBJECTS],
            absent="without objects",
            objects=OBJECTS,
            places=True,
        )

    def _look(self, every: Sequence[Eyes], made: Made) -> dict[str, Floats]:
        columns: dict[str, Floats] = {}
        values, objects, blind, places = [], [], [], []
        for number, eyes in enumerate(every):
            rows = zip(eyes.look(made.images)[0], made.samples, strict=True)
            sights = [see(found, sample.layout, eyes, self) for found, sample in rows]
            values.append(np.array([sight.value(self) for sight in sights]))
            blind.append(np.array([sight.blind for sight in sights], dtype=bool))
            objects.append(np.array([float(sight.objects) for sight in sights]))
            places.append(np.stack([sight.places for sight in sights]))
            for column, name in zip(COLUMNS, _names(number, len(every)), strict=True):
                columns[name] = np.array([getattr(sight, column) for sight in sights])
        columns[OBJECTS] = np.max(np.stack(objects), axis=0)
        shares = _shares(np.stack(values), np.stack(blind), self.join)
        joined = (shares * np.stack(values)).sum(axis=0)
        where = (shares[..., None, None] * np.stack(places)).sum(axis=0)
        return {VALUE: joined, PLACES: where, **columns}


def _shares(values: Floats, blind: npt.NDArray[np.bool_], join: str) -> Floats:
    """How much each of D detectors has to say of N images, [D, N]; nothing where it is blind."""
    if join == "min":
        least = np.where(blind, np.inf, values).argmin(axis=0)
        told = (np.arange(len(values))[:, None] == least) & ~blind
        return np.asarray(told, dtype=np.float64)
    return np.asarray(~blind / np.maximum((~blind).sum(axis=0), 1), dtype=np.float64)


def _names(number: int, count: int) -> list[str]:
    """The raw terms of a detector; numbered from 1 where there are several."""
    return [name if count == 1 else f"{name} {number + 1}" for name in COLUMNS]


@dataclass(frozen=True)
class Sight:
    """What a detector sees of one layout.

    iou, confidence: means over the objects that were asked about, 0 for a missed one. found:
    share of them that is seen. extra: sum of the confidence of what nobody asked for, over the
    number of objects (1 without any). objects: how many were asked about. places: where the value
    came from, [SIDE, SIDE] of `rewards.places`. blind: none, where there are some.
    """

    iou: float
    confidence: float
    found: float
    extra: float
    objects: int
    places: Floats
    blind: bool = False

    def value(self, options: DetectorReward) -> float:
        """The reward; 0 where nothing is asked for and nothing is seen, and where it is blind."""
        if self.blind:
            return 0.0
        return self.iou + options.confidence * self.confidence - options.extra * self.extra


def see(found: Detections, layout: Layout, eyes: Eyes, options: DetectorReward) -> Sight:
    """Compare what a detector found in an image with what was asked for."""
    places, asked = asked_things(layout, eyes)
    seen = found.above(options.least)
    matches = assign(seen, asked, options.overlap, options.confidence)
    free = seen.scores >= options.sure
    free[[match.found for match in matches]] = False
    free &= ~_excused(seen, layout, places)
    count = len(asked)
    share = max(count, 1)
    worth = np.zeros(count)
    for match in matches:
        worth[match.asked] = match.iou + options.confidence * seen.scores[match.found]
    quads = np.concatenate([asked.quads, seen.quads[free]])
    boxes = [Box(*corners.min(axis=0), *corners.max(axis=0)) for corners in quads]
    worth = np.concatenate([worth, -options.extra * seen.scores[free]]) / share
    blind = not count and any(is_thing(instance) for instance in layout.instances)
    return Sight(
        sum(match.iou for match in matches) / share,
        sum(float(seen.scores[match.found]) for match in matches) / share,
        len(matches) / share,
        float(seen.scores[free].sum()) / share,
        count,
        worth_by_place(boxes, worth, layout.width, layout.height),
        blind,
    )


def assign(found: Detections, asked: Asked, overlap: float, confidence: float = 1.0) -> list[Match]:
    """One-to-one pairs within each class with the greatest sum of IoU + confidence.

    Pairs that overlap less than `overlap` are none.
    """
    overlaps = iou_matrix(found.quads, asked.quads)
    pairs = []
    for name in sorted(set(asked.labels) & set(found.labels)):
        rows = np.array([k for k, label in enumerate(found.labels) if label == name])
        columns = np.array([k for k, label in enumerate(asked.labels) if label == name])
        table = overlaps[np.ix_(rows, columns)]
        gain = np.where(table >= overlap, table + confidence * found.scores[rows][:, None], 0.0)
        for row, column in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
            if table[row, column] >= overlap:
                pairs.append(Match(int(rows[row]), int(columns[column]), float(table[row, column])))
    return pairs


def _excused(seen: Detections, layout: Layout, places: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Detections on things that are not asked about, or in a crowd, bool [n]."""
    others = other_outlines(layout, places)
    excused = iou_matrix(seen.quads, others).max(axis=1, initial=0.0) >= SAME
    for instance in layout.instances:
        box = instance.bounds()
        if instance.iscrowd and box is not None and len(seen):
            excused |= shares_in_box(seen.quads, box) >= SAME
    return np.asarray(excused, dtype=bool)
