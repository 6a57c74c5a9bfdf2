"""What the judge learns by: map losses, and questions about given boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from rsgen.judge.network import ANSWERS, JudgeNetwork, Maps, to_input
from rsgen.judge.targets import Objects

__all__ = ["JudgeLoss", "LossWeights", "Questions", "ask", "heat_loss"]

QUESTIONS = 24  # boxes an image that are asked about
RIGHT, WRONG, MOVED, RESIZED, NOTHING = range(len(ANSWERS))


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts."""

    boxes: float = 1.0
    axis: float = 1.0
    heading: float = 1.0
    stuff: float = 1.0
    questions: float = 0.5


@dataclass(frozen=True, eq=False)
class Questions:
    """Boxes to be judged: float32 [B, 5], class int64 [B], the right answer int64 [B]."""

    boxes: npt.NDArray[np.float32]
    things: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]


def ask(
    found: Objects, width: int, height: int, things: int, rng: np.random.Generator
) -> Questions:
    """QUESTIONS boxes about an image: true ones, and true ones spoilt in one way each.

    An image without objects is asked about empty ground alone.
    """
    kinds = rng.choice(len(ANSWERS), size=QUESTIONS, p=(0.36, 0.16, 0.16, 0.16, 0.16))
    if len(found) == 0:
        kinds[:] = NOTHING
    if things < 2:
        kinds[kinds == WRONG] = RIGHT
    rows, classes, answers = [], [], []
    for kind in kinds.tolist():
        made = _question(kind, found, width, height, things, rng)
        if made is not None:
            rows.append(made[0])
            classes.append(made[1])
            answers.append(kind)
    return Questions(
        np.array(rows, dtype=np.float32).reshape(-1, 5),
        np.array(classes, dtype=np.int64),
        np.array(answers, dtype=np.int64),
    )


def _question(
    kind: int, found: Objects, width: int, height: int, things: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], int] | None:
    if len(found) == 0:
        side = rng.uniform(6, min(width, height) / 4, size=2)
        place = rng.uniform(0, (width, height))
        return np.array([*place, *side, rng.uniform(-math.pi, math.pi)]), int(rng.integers(things))
    k = int(rng.integers(len(found)))
    box, thing = found.boxes[k].astype(np.float64), int(found.things[k])
    if kind == NOTHING:
        return _empty_place(box, thing, found, width, height, rng)
    if kind == WRONG:
        thing = int((thing + rng.integers(1, things)) % things)
    if kind == MOVED:
        # Far enough that under half of the box is still on the object.
        angle, far = rng.uniform(-math.pi, math.pi), rng.uniform(0.4, 0.9)
        box[0] += math.cos(angle) * far * _reach(box, angle)
        box[1] += math.sin(angle) * far * _reach(box, angle)
    else:
        box[:2] += rng.normal(0, 0.04, size=2) * box[2:4].min()
    if kind == RESIZED:
        scale = rng.uniform(1.5, 2.2)
        box[2:4] *= scale if rng.random() < 0.5 else 1 / scale
    else:
        box[2:4] *= np.exp(rng.normal(0, 0.05, size=2))
    return box, thing


def _reach(box: npt.NDArray[np.float64], angle: float) -> float:
    """The box's whole extent in a direction."""
    u = abs(math.cos(angle - box[4])) / max(box[2], 1e-6)
    v = abs(math.sin(angle - box[4])) / max(box[3], 1e-6)
    return float(1 / max(u, v))


def _empty_place(
    box: npt.NDArray[np.float64],
    thing: int,
    found: Objects,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float64], int] | None:
    radius = np.hypot(found.boxes[:, 2], found.boxes[:, 3]) / 2
    own = math.hypot(box[2], box[3]) / 2
    for _ in range(8):
        place = rng.uniform((0.0, 0.0), (width, height))
        apart = np.hypot(found.boxes[:, 0] - place[0], found.boxes[:, 1] - place[1])
        if (apart > radius + own * 0.6).all():
            return np.array([*place, *box[2:]]), thing
    return None


def heat_loss(logits: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Focal loss of centre maps, float [N]: sums over classes, weighted [K], and cells.

    Source: Law and Deng 2018, "CornerNet", equation 1 (alpha 2, beta 4).
    """
    positive = wanted >= 1 - 1e-4
    unsure = functional.logsigmoid(-logits)
    chance = logits.sigmoid()
    far = (1 - wanted).square().square() * ~positive
    miss = far * chance.square() * unsure
    # log sigmoid(x) = x + log sigmoid(-x)
    hit = (1 - chance).square() * (logits + unsure) * positive
    by_class = -(hit + miss).sum(dim=(2, 3))
    return by_class.sum(dim=1) if weights is None else by_class @ weights


class JudgeLoss(nn.Module):
    """The network with its losses: a batch of images and targets -> float [N]."""

    class_weights: Tensor

    def __init__(
        self,
        network: JudgeNetwork,
        weights: LossWeights | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        given = torch.ones(network.shape.things) if class_weights is None else class_weights
        self.register_buffer("class_weights", given, persistent=False)
        self.weights = weights or LossWeights()

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Keys: images uint8 [N, H, W, 3]; heat, boxes, near, stuff as `Targets`, stacked;
        questions float [B, 5], owner, things, answers int64 [B]."""
        pixels = to_input(batch["images"]).contiguous(memory_format=torch.channels_last)
        maps = self.network(pixels)
        return self._maps(maps, batch) + self._questions(maps.features, batch)

    def _maps(self, maps: Maps, batch: Mapping[str, Tensor]) -> Tensor:
        near, boxes = batch["near"], batch["boxes"]
        # An image is measured against the batch's mean count: empty ones count as they are.
        centres = (batch["heat"] >= 1 - 1e-4).sum(dim=(2, 3)).float().mean(dim=0)
        objects = (centres * self.class_weights).sum().clamp_min(0.1)
        total = heat_loss(maps.heat.float(), batch["heat"], self.class_weights)
        total = total / objects
        given = torch.cat([maps.offset, maps.size, maps.axis, maps.heading], dim=1).float()
        off = functional.smooth_l1_loss(given, boxes, beta=0.1, reduction="none")
        spread = near[:, 0].sum(dim=(1, 2)).mean().clamp_min(1)
        weights = self.weights
        total = total + weights.boxes * _weighted(off[:, 0:2] + 2 * off[:, 2:4], near[:, 0], spread)
        total = total + weights.axis * _weighted(off[:, 4:6], near[:, 1], spread)
        total = total + weights.heading * _weighted(off[:, 6:8], near[:, 2], spread)
        if maps.stuff.shape[1] > 1:
            wrong = functional.cross_entropy(
                maps.stuff.float(), batch["stuff"], ignore_index=-1, reduction="none"
            )
            total = total + weights.stuff * wrong.mean(dim=(1, 2))
        return total

    def _questions(self, features: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        owner = batch["owner"]
        if len(owner) == 0:
            return features.new_zeros(len(features), dtype=torch.float32)
        logits = self.network.judge_boxes(features, batch["questions"], owner, batch["things"])
        wrong = functional.cross_entropy(logits.float(), batch["answers"], reduction="none")
        sums = wrong.new_zeros(len(features)).index_add(0, owner, wrong)
        return self.weights.questions * sums / (len(owner) / len(features))


def _weighted(off: Tensor, weight: Tensor, spread: Tensor) -> Tensor:
    return (off.sum(dim=1) * weight).sum(dim=(1, 2)) / spread
