"""What a model is worth on layouts that it is not tuned on: who chooses, and who measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rsgen.condition import palette_png
from rsgen.detections import Detections
from rsgen.evaluation.layout import known_objects
from rsgen.images import Pixels
from rsgen.judge.model import Judge, load_judge
from rsgen.matching import asked_of, coco_precision
from rsgen.pictures import contact_sheet, draw_layout
from rsgen.records import ClassTable, Sample
from rsgen.request import item_seed
from rsgen.rewards.base import Made
from rsgen.rewards.combine import Rewards
from rsgen.rl.layouts import Drawn
from rsgen.rl.policy import Policy
from rsgen.scorers.detection import JudgeImage

__all__ = ["Held", "Look", "Measure"]


@dataclass(frozen=True)
class Look:
    """`score`: what chooses. `by`: whose score it is. `error`: its standard error over images."""

    score: float
    error: float
    reward: float
    by: str


@dataclass(frozen=True)
class Measure:
    """What judge B finds before and after, on the same held layouts and noise."""

    ap50: tuple[float, float]
    images: int
    objects: int

    @property
    def improved(self) -> bool:
        return self.ap50[1] > self.ap50[0]


class Held:
    """Held layouts with fixed noise, painted as `generate` would paint them."""

    def __init__(
        self,
        policy: Policy,
        held: Sequence[Drawn],
        rewards: Rewards,
        judge: str,
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        self.policy, self.held, self.rewards = policy, tuple(held), rewards
        self.batch_size = batch_size
        self.prompts = [policy.painter.prompt(d.layout) for d in self.held]
        self.seeds = [item_seed(seed, "rl-tune-held", str(d.number)) for d in self.held]
        self.samples = [
            d.sample(f"held-{d.number:08d}", prompt)
            for d, prompt in zip(self.held, self.prompts, strict=True)
        ]
        device = str(policy.device)
        self.scorer = JudgeImage(judge=judge, device=device) if judge else None

    @property
    def by(self) -> str:
        """Whose score chooses."""
        return "the reward" if self.scorer is None else "judge A"

    def pictures(self, check_stop: Callable[[], None]) -> list[Pixels | None]:
        """One image a held layout, by the model as it is now; `check_stop` before each batch."""
        painter, found = self.policy.painter, list[Pixels | None]()
        for start in range(0, len(self.held), self.batch_size):
            check_stop()
            rows = slice(start, start + self.batch_size)
            layouts = [d.layout for d in self.held[rows]]
            with self.policy.accelerator.autocast():
                latents = painter.latents(layouts, self.prompts[rows], self.seeds[rows])
            found += painter.pictures(latents)
        return found

    def look(self, pictures: Sequence[Pixels | None], epoch: int) -> Look:
        """The score of judge A, else the reward."""
        made = Made.of(pictures, self.samples)
        rewards = self.rewards(made, epoch=epoch, learn=False).plain
        scores = rewards
        if self.scorer is not None:
            scores = self.scorer.score(made.images, made.samples).astype(np.float64)
            scores[made.broken] = 0.0
            scores = scores[~np.isnan(scores)]
        count = len(scores)
        return Look(
            float(scores.mean()) if count else math.nan,
            float(scores.std() / math.sqrt(count)) if count else math.nan,
            float(rewards.mean()),
            self.by,
        )

    def grid(
        self, path: Path, start: Sequence[Pixels | None], now: Sequence[Pixels | None], count: int
    ) -> Path:
        """Layout | at the start | now | now with labels, two layouts a row."""
        tiles: list[Pixels] = []
        titles: list[str] = []
        classes = self.policy.painter.classes
        rows = list(zip(self.held, start, now, strict=True))[:count]
        for drawn, before, after in rows:
            condition = palette_png(drawn.layout, classes)
            blank = np.zeros_like(condition)
            shown = [blank if p is None else p for p in (before, after)]
            tiles += [condition, *shown, draw_layout(shown[1], drawn.layout, labels=False)]
            titles += ["layout", "at the start", "now", "with labels"]
        return contact_sheet(tiles, path, titles=titles, columns=8)

    def measured(
        self, judges: Path, before: Sequence[Pixels | None], after: Sequence[Pixels | None]
    ) -> Measure:
        """Judge B's average precision at IoU 0.5 of both sets against the layouts."""
        judge = load_judge(judges, "evaluation", device=self.policy.device)
        found = [_ap50(judge, pictures, self.samples, self.classes) for pictures in (before, after)]
        objects = sum(asked_of(s.layout, self.classes).counted for s in self.samples)
        return Measure((found[0], found[1]), len(self.samples), objects)

    @property
    def classes(self) -> ClassTable:
        return self.policy.painter.classes


def _ap50(
    judge: Judge,
    pictures: Sequence[Pixels | None],
    samples: Sequence[Sample],
    classes: ClassTable,
) -> float:
    visible = ClassTable(
        tuple(c for c in judge.classes.classes if c.kind == "thing" and c.name in judge.known)
    )
    asked = [known_objects(asked_of(s.layout, classes), visible) for s in samples]
    found: list[Detections] = []
    for picture, sample in zip(pictures, samples, strict=True):
        layout = sample.layout
        blank = np.zeros((layout.height, layout.width, 3), dtype=np.uint8)
        with torch.no_grad():
            found += judge.detect((blank if picture is None else picture)[None])
    return coco_precision(found, asked, visible.names).ap50
