"""Scorers that look for the labelled objects: judge A, another detector, or a worker's eyes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import shapely

from rsgen.detections import Detections
from rsgen.errors import UsageError
from rsgen.geometry import Box
from rsgen.images import Pixels
from rsgen.judge.eyes import JUDGE, EyesRef
from rsgen.matching import Asked, iou_matrix, match_objects
from rsgen.records import ClassTable, Layout, Sample
from rsgen.scorers.base import FloatArray, Level
from rsgen.scorers.looking import Eyes, asked_things, open_eyes, other_outlines

if TYPE_CHECKING:
    from rsgen.judge.network import Maps

__all__ = [
    "ClassPresence",
    "Difficulty",
    "ExtraObjects",
    "JudgeImage",
    "JudgeObjects",
    "judge_features",
]

SAME = 0.5  # a detection on an object that is not scored is no extra one
RIGHT = 0  # place of "right" among the verification head's answers
LEAST_CHANCE = 1e-3  # an object that is not seen at all costs 6.9 nats, not all there are


@dataclass(frozen=True)
class _Looking:
    """The options that choose whose eyes look, and what follows from them.

    `detector`: judge (the --judge input, judge A), a transformers detector (folder or
    hub:ORG/NAME), or `command: PROGRAM`.
    """

    uses_torch: ClassVar[bool] = True
    from_inputs: ClassVar[Mapping[str, str]] = {"judge": "judge"}
    judge: str = ""
    detector: str = JUDGE
    device: str = "cpu"
    time_limit_s: float = 60.0
    classes: ClassTable | None = field(default=None, repr=False, compare=False)

    @property
    def _reference(self) -> EyesRef:
        return EyesRef.parse(self.detector, self.judge)

    def eyes(self) -> Eyes:
        """The detector, opened."""
        classes = None if self._reference.kind == "judge" else self.classes
        return open_eyes(self._reference, classes, self.device, self.time_limit_s)

    def check(self) -> None:
        """Refuse what cannot be opened, before any work; loads no weights."""
        if self._reference.kind == "judge":
            self._reference.identity("reward")

    def model_hash(self) -> str:
        return self._reference.identity("reward")


@dataclass(frozen=True)
class JudgeObjects(_Looking):
    """Whether a detector sees each labelled object, in [0, 1], an instance.

    look "detection": calibrated score x IoU (of the quads, as polygons) of the detection of
    the object's class that it is matched with, best detection first; 0 where none overlaps by
    `overlap`. "verification": the judge's probability that the box as given, with its class,
    is right; it needs no detection, and falls with a wrong class, place or size. "both": the
    mean of the two.
    NaN for stuff, crowds, objects whose centre lies outside the image, and classes that the
    detector does not know (a judge: of which it has learned from no object).
    Only a judge answers questions of verification.
    """

    level: ClassVar[Level] = "instance"
    look: Literal["detection", "verification", "both"] = "both"
    overlap: float = 0.5

    def check(self) -> None:
        """Refuse a detector that cannot be opened, or cannot do what it is asked."""
        if self.look not in ("detection", "verification", "both"):
            raise UsageError(
                f"a scorer's option look is {self.look!r}",
                hint="use detection, verification or both",
            )
        if self.look != "detection" and self.detector != JUDGE:
            raise UsageError(
                f"detector {self.detector!r} answers no questions about boxes",
                hint="add the option look: detection",
            )
        super().check()

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        eyes = self.eyes()
        found, maps = eyes.look(images)
        rows = [asked_things(s.layout, eyes) for s in samples]
        parts = []
        if self.look != "verification":
            parts.append([self._seen(d, a) for d, (_, a) in zip(found, rows, strict=True)])
        if self.look != "detection":
            parts.append(_verified(eyes, maps, samples, [places for places, _ in rows]))
        scores = []
        for k, sample in enumerate(samples):
            row = np.full(len(sample.layout.instances), np.nan, dtype=np.float32)
            row[rows[k][0]] = np.mean([part[k] for part in parts], axis=0)
            scores.append(row)
        return scores

    def _seen(self, found: Detections, asked: Asked) -> npt.NDArray[np.float64]:
        scores = np.zeros(len(asked))
        for match in match_objects(found, asked, self.overlap):
            scores[match.asked] = found.scores[match.found] * match.iou
        return scores


@dataclass(frozen=True)
class Difficulty(_Looking):
    """What a detector's loss is on the labelled objects, in [0, 6.9] nats, an image.

    The mean over the objects of -log of what `judge` says with the same `look`: 0 where it is
    sure of every label, 0.7 at even chances. Keep a band of it, `quantile` and `upper` of the
    real images': what a detector knows by heart teaches another little, what it cannot see at
    all is more likely wrong than new. It takes the judge for the detector that will be trained,
    so it ranks images, and says nothing of an object. NaN without an object that can be asked.
    """

    level: ClassVar[Level] = "image"
    look: Literal["detection", "verification", "both"] = "verification"
    overlap: float = 0.5

    @property
    def _objects(self) -> JudgeObjects:
        return JudgeObjects(
            self.judge, self.detector, self.device, self.time_limit_s, self.classes,
            look=self.look, overlap=self.overlap,
        )  # fmt: skip

    def check(self) -> None:
        self._objects.check()

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        rows = self._objects.score(images, samples)
        chances = [row[np.isfinite(row)].astype(np.float64) for row in rows]
        losses = [-np.log(np.maximum(row, LEAST_CHANCE)) for row in chances]
        means = [float(row.mean()) if len(row) else math.nan for row in losses]
        return np.asarray(means, dtype=np.float32)


@dataclass(frozen=True)
class JudgeImage(_Looking):
    """How well what a detector sees agrees with the labels, in [0, 1], an image.

    2 x sum of (score x IoU) over matched objects / (labelled objects + sum of the scores of
    all detections): a soft F1. Missing objects, wrong classes and extra objects all lower it;
    labels that are found exactly, surely, and alone give 1. Detections under `least` do not
    count, nor do those on objects that are not asked about (crowds, unknown classes). Without
    labelled objects 1 / (1 + sum of the scores). NaN where there are things and the detector
    knows none of them.
    """

    level: ClassVar[Level] = "image"
    least: float = 0.25
    overlap: float = 0.5

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        eyes = self.eyes()
        found, _ = eyes.look(images)
        rows = zip(found, samples, strict=True)
        return np.asarray([self._one(d, s.layout, eyes) for d, s in rows], dtype=np.float32)

    def _one(self, found: Detections, layout: Layout, eyes: Eyes) -> float:
        places, asked = asked_things(layout, eyes)
        others = other_outlines(layout, places)
        if not len(asked) and len(others):
            return math.nan
        sure = found.above(self.least)
        matches = match_objects(sure, asked, self.overlap)
        free = np.ones(len(sure), dtype=bool)
        if len(others):
            free = iou_matrix(sure.quads, others).max(axis=1, initial=0.0) < SAME
        free[[m.found for m in matches]] = True
        total = float(sure.scores[free].sum())
        if not len(asked):
            return 1 / (1 + total)
        hit = sum(float(sure.scores[m.found]) * m.iou for m in matches)
        return 2 * hit / (len(asked) + total)


@dataclass(frozen=True)
class ClassPresence(_Looking):
    """Whether a detector sees each labelled class anywhere in the image, in [0, 1], an image.

    The least, over the thing classes of the labels, of the best score of a detection of that
    class, wherever it lies. NaN where it knows none of them.
    """

    level: ClassVar[Level] = "image"

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        eyes = self.eyes()
        found, _ = eyes.look(images)
        rows = zip(found, samples, strict=True)
        return np.asarray([self._one(d, s.layout, eyes) for d, s in rows], dtype=np.float32)

    def _one(self, found: Detections, layout: Layout, eyes: Eyes) -> float:
        _, asked = asked_things(layout, eyes)
        best = {
            name: max((s for s, n in zip(found.scores, found.labels, strict=True) if n == name),
                      default=0.0)
            for name in set(asked.labels)
        }  # fmt: skip
        return float(min(best.values(), default=math.nan))


@dataclass(frozen=True)
class ExtraObjects(_Looking):
    """How free an image is of objects that its labels do not name, in [0, 1], an image.

    1 less the score of the surest detection that lies on no label. The surest, not all of them:
    the many half-seen things of a crowded image add up to more than one plain object. A detection
    lies on a label, of whatever class, where they overlap by `overlap` (a second, worse
    detection of a labelled object is none of its own), or where `inside` of it is in a crowd.
    """

    level: ClassVar[Level] = "image"
    overlap: float = 0.1
    inside: float = 0.5

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        found, _ = self.eyes().look(images)
        rows = zip(found, samples, strict=True)
        return np.asarray([self._one(d, s.layout) for d, s in rows], dtype=np.float32)

    def _one(self, found: Detections, layout: Layout) -> float:
        labels = other_outlines(layout, ())
        free = iou_matrix(found.quads, labels).max(axis=1, initial=0.0) < self.overlap
        for instance in layout.instances:
            box = instance.bounds()
            if instance.iscrowd and box is not None:
                free &= shares_in_box(found.quads, box) < self.inside
        return 1 - float(found.scores[free].max(initial=0.0))


def shares_in_box(quads: npt.NDArray[np.float64], box: Box) -> npt.NDArray[np.float64]:
    """Share of each quad's area [n, 4, 2] that lies in a box, float64 [n]; 0 for no area."""
    shapes = shapely.polygons(quads)
    area = shapely.area(shapes)
    common = shapely.area(shapely.intersection(shapes, shapely.box(box.x0, box.y0, box.x1, box.y1)))
    return np.asarray(np.divide(common, area, out=np.zeros_like(common), where=area > 0))


def judge_features(judge: str, images: Pixels, device: str) -> npt.NDArray[np.float32]:
    """Means and spreads of judge A's feature map, float32 [N, C] of uint8 [N, H, W, 3] RGB."""
    detector: Any = open_eyes(EyesRef.parse(JUDGE, judge), None, device, 60.0).detector
    found: npt.NDArray[np.float32] = detector.features(images)
    return found


def _verified(
    eyes: Eyes, maps: Maps | None, samples: Sequence[Sample], places: Sequence[Sequence[int]]
) -> list[npt.NDArray[np.float64]]:
    """Probability that each asked object's box and class are right, [asked] an image."""
    from rsgen.judge.targets import row_of

    detector: Any = eyes.detector
    rows, owner, labels = [], [], []
    for image, (sample, chosen) in enumerate(zip(samples, places, strict=True)):
        for k in chosen:
            instance = sample.layout.instances[k]
            rows.append(row_of(instance) or (0.0,) * 5)
            owner.append(image)
            labels.append(instance.label)
    boxes = np.array(rows, dtype=np.float32).reshape(-1, 5)
    chances = detector.verify(maps, boxes, owner, labels)[:, RIGHT]
    ends = np.cumsum([len(chosen) for chosen in places])
    return np.split(chances, ends[:-1])
