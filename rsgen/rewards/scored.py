"""Any scorer as a reward: its score of an image, or the mean over the objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from rsgen.errors import UsageError
from rsgen.records import Layout
from rsgen.registry import resolve
from rsgen.rewards.base import Floats, Made, RewardSetup
from rsgen.rewards.places import SIDE, worth_by_place
from rsgen.rewards.single import PLACES, VALUE, PerImage
from rsgen.scorers.base import Scores, is_novelty, make_scorer

__all__ = ["ScorerReward", "image_scores", "scorer_for"]


@dataclass(frozen=True)
class ScorerReward:
    """A scorer of the registry by its name; what does not apply counts 0, and is counted."""

    scorer: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, setup: RewardSetup) -> None:
        """Refuse what cannot work; loads no weights."""
        scorer = scorer_for(self.scorer, self.options, setup)
        if is_novelty(scorer):
            raise UsageError(
                f"reward {self.scorer}: it compares images with others, which a reward of one "
                "image cannot",
                hint="use the reward distribution",
            )
        check = getattr(scorer, "check", None)
        if callable(check):
            check()

    def hashes(self, setup: RewardSetup) -> Mapping[str, str]:
        scorer = scorer_for(self.scorer, self.options, setup)
        found = scorer.model_hash() if hasattr(scorer, "model_hash") else ""
        return {self.scorer: found} if found else {}

    def open(self, setup: RewardSetup) -> PerImage:
        scorer = scorer_for(self.scorer, self.options, setup)
        of_objects = resolve("scorers", self.scorer).level == "instance"
        return PerImage(self.scorer, partial(_look, scorer), places=of_objects)


def scorer_for(name: str, options: Mapping[str, Any], setup: RewardSetup) -> Any:
    """The scorer, told what it takes from the run where its options do not say."""
    kind, own = resolve("scorers", name), dict(options)
    fields = {f.name for f in dataclasses.fields(kind)}
    for option, source in getattr(kind, "from_inputs", {}).items():
        if setup.path(source):
            own.setdefault(option, setup.path(source))
    for option, key in getattr(kind, "from_real", {}).items():
        if key in setup.real_options:
            own.setdefault(option, setup.real_options[key])
    if "device" in fields:
        own.setdefault("device", setup.device)
    if "classes" in fields:
        own.setdefault("classes", setup.classes)
    return make_scorer(name, own)


def _look(scorer: Any, made: Made) -> dict[str, Floats]:
    scores = scorer.score(made.images, made.samples)
    found = {VALUE: image_scores(scores)}
    if isinstance(scores, np.ndarray):  # PLACES is read of scorers of objects alone
        everywhere = np.nan_to_num(found[VALUE], posinf=0.0, neginf=0.0)[:, None, None]
        return {**found, PLACES: np.broadcast_to(everywhere, (len(scores), SIDE, SIDE))}
    rows = zip(scores, made.samples, strict=True)
    return {**found, PLACES: np.stack([_places(row, s.layout) for row, s in rows])}


def _places(row: Sequence[float] | np.ndarray, layout: Layout) -> Floats:
    """Where the mean over the objects comes from."""
    known = np.asarray(row, dtype=np.float64)
    worth = known / max(int((~np.isnan(known)).sum()), 1)
    boxes = [instance.bounds() for instance in layout.instances]
    return worth_by_place(boxes, worth, layout.width, layout.height)


def image_scores(scores: Scores) -> Floats:
    """Scores of images as they are, of objects their mean over those that they apply to, [N]."""
    if isinstance(scores, np.ndarray):
        return np.asarray(scores, dtype=np.float64)
    return np.array([_mean(row) for row in scores], dtype=np.float64)


def _mean(row: Sequence[float] | np.ndarray) -> float:
    known = np.asarray(row, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")
