"""Scorers of the ground: asked stuff (water, road, grass ...) against what judge A finds there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.images import Pixels
from rsgen.judge.eyes import JUDGE, EyesRef
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import FloatArray, Level
from rsgen.scorers.looking import Eyes, open_eyes
from rsgen.scorers.pixels import object_shape

if TYPE_CHECKING:
    from rsgen.judge.model import Judge

__all__ = ["Stuff", "StuffAreas", "stuff_of"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Ground:
    """Judge A and what it says of every pixel."""

    uses_torch: ClassVar[bool] = True
    from_inputs: ClassVar[Mapping[str, str]] = {"judge": "judge"}
    judge: str = ""
    device: str = "cpu"

    @property
    def _reference(self) -> EyesRef:
        return EyesRef.parse(JUDGE, self.judge)

    def check(self) -> None:
        """Refuse a judge that knows no ground; loads no weights."""
        self._reference.identity("reward")
        if not stuff_of(Path(self.judge)):
            raise UsageError(
                f"{self.judge}: the judge has learned no stuff class: it does not see the ground",
                hint="leave the rule out, or train judges on a run whose class table has stuff",
            )

    def model_hash(self) -> str:
        return self._reference.identity("reward")

    def eyes(self) -> Eyes:
        return open_eyes(self._reference, None, self.device, 60.0)

    def classes(self, layout: Layout) -> list[str]:
        """The judge's stuff class of each instance; "" of things and what it does not know."""
        entries = [self.eyes().detector.classes.find(i.label) for i in layout.instances]
        return [e.name if e is not None and e.kind == "stuff" else "" for e in entries]

    def ious(
        self, images: Pixels, samples: Sequence[Sample], least: float = 0.0
    ) -> list[dict[str, float]]:
        """`class_ious` of each image."""
        eyes = self.eyes()
        judge = cast("Judge", eyes.detector)
        height, width = images.shape[1:3]
        _, maps = eyes.look(images)
        assert maps is not None, "a judge has maps"
        return [
            class_ious(asked_ground(sample.layout, judge), seen, judge.card.stuff, least)
            for seen, sample in zip(judge.ground(maps, width, height), samples, strict=True)
        ]


@dataclass(frozen=True)
class Stuff(_Ground):
    """How well the ground is what the labels say, in [0, 1], an image: mean IoU of stuff classes.

    The mean is over the classes that are asked or seen on `least` of the pixels that count. `of`
    asks for the IoU of one class alone. What lies under objects, crowds and stuff that the judge
    does not know does not count. NaN where no known stuff is asked for (there is nothing to tell
    a wrong ground by), or not the class that `of` names.
    """

    level: ClassVar[Level] = "image"
    of: str = ""
    least: float = 0.01

    def check(self) -> None:
        super().check()
        known = stuff_of(Path(self.judge))
        if self.of and self.of not in known:
            raise UsageError(
                f"scorer stuff: the judge knows no stuff class {self.of!r}",
                hint=f"it knows {', '.join(known)}",
            )

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        rows = zip(self.ious(images, samples, self.least), samples, strict=True)
        return np.asarray([self._one(found, s.layout) for found, s in rows], dtype=np.float32)

    def _one(self, found: Mapping[str, float], layout: Layout) -> float:
        asked = {name for name in self.classes(layout) if name}
        if self.of:
            return found.get(self.of, math.nan) if self.of in asked else math.nan
        return float(np.mean(list(found.values()))) if asked and found else math.nan


@dataclass(frozen=True)
class StuffAreas(_Ground):
    """How well each stuff label's class is found on the ground, in [0, 1], an instance.

    The IoU of its class over the whole image, so a class has one score an image, and with
    `quantile` a bound of its own. NaN for things, for classes that the judge does not know and
    for what lies under objects altogether.
    """

    level: ClassVar[Level] = "instance"

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        scores = []
        for found, sample in zip(self.ious(images, samples), samples, strict=True):
            row = [found.get(name, math.nan) for name in self.classes(sample.layout)]
            scores.append(np.asarray(row, dtype=np.float32))
        return scores


def stuff_of(judge: Path) -> tuple[str, ...]:
    """The stuff classes of the judge for filters, in a train-judge OUT or a judge's folder."""
    from rsgen.judge.model import judge_card

    return judge_card(judge, "reward").stuff


def asked_ground(layout: Layout, judge: Judge) -> Ints:
    """The asked stuff class of each pixel, int64 [H, W]: 0 none, then as the judge's `stuff`.

    -1 where nothing can be asked: under objects, and where the label is unknown to the judge.
    """
    from rsgen.judge.targets import ground_of

    known = tuple(i for i in layout.instances if judge.classes.find(i.label) is not None)
    asked = ground_of(replace(layout, instances=known), judge.classes, judge.card.stuff)
    ground = asked.astype(np.int64)
    for instance in layout.instances:
        entry = judge.classes.find(instance.label)
        if entry is None or entry.kind == "thing":
            _blank(ground, instance)
    return ground


def _blank(ground: Ints, instance: Instance) -> None:
    height, width = ground.shape
    if instance.box is None and instance.quad is None:
        if instance.mask is not None:
            ground[instance.mask.to_array(width, height)] = -1
        return
    shape = object_shape(replace(instance, iscrowd=False), width, height)
    if shape is not None:
        ground[shape.window][shape.pixels] = -1


def class_ious(asked: Ints, seen: Ints, names: Sequence[str], least: float) -> dict[str, float]:
    """IoU by class, of those that are asked or seen on a share `least` of what counts, or more.

    Args:
        asked: int64 [H, W], 0 none, 1.. as `names`, -1 does not count. seen: int64 [H, W].
    """
    side = len(names) + 1
    counts = asked >= 0
    pairs = asked[counts] * side + seen[counts]
    table = np.bincount(pairs, minlength=side * side).reshape(side, side).astype(np.float64)
    hit, wanted, found = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    limit = max(least * table.sum(), 1.0)
    return {
        name: float(hit[k] / (wanted[k] + found[k] - hit[k]))
        for k, name in enumerate(names, start=1)
        if max(wanted[k], found[k]) >= limit
    }
