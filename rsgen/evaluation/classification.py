"""Do generated objects look like their class? A classifier trained on one kind of crops and
tested on the other.

Source: the classification accuracy score (CAS) of LostGAN and LayoutDiffusion, as OF-Diff (ICLR
2026) reports it: a classifier trained on generated crops, tested on real ones. Differs in: a
small network from scratch on 64 x 64 crops (oriented box turned upright, 20 % pad) in
place of a ResNet-101; balanced accuracy (mean of classes); both directions; and a ceiling, the
same network trained on as many real crops of a class and tested on the same real ones.
Real training crops are of the train split, real tested ones of the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from rsgen.errors import DataError
from rsgen.evaluation.base import CellResult, Evaluation, Images, figure
from rsgen.evaluation.crops import cut_crops, places_of, spread
from rsgen.images import Pixels
from rsgen.pictures import contact_sheet

__all__ = ["CELL", "ClassificationCell", "CropSet", "train_classifier"]

LEAST = 10  # crops of a class on a side
MOST = 150  # crops of a class that are learned from, and tested
STEPS = 240
BATCH = 48
RATE = 3e-3
MIXING = "generated to real"
BACK = "real to generated"
CEILING = "real to real"


@dataclass(frozen=True, eq=False)
class CropSet:
    """pixels: uint8 [N, S, S, 3]. labels: class of each."""

    pixels: Pixels
    labels: tuple[str, ...]

    def of(self, label: str) -> int:
        return self.labels.count(label)

    def limited(self, most: Mapping[str, int]) -> CropSet:
        """The first so many of each class; classes that are not named are left out."""
        taken: dict[str, int] = {}
        keep = []
        for k, label in enumerate(self.labels):
            taken[label] = taken.get(label, 0) + 1
            if taken[label] <= most.get(label, 0):
                keep.append(k)
        return CropSet(self.pixels[keep], tuple(self.labels[k] for k in keep))


class CropNetwork(nn.Module):
    """uint8 crops as float [N, 3, S, S] -> logits [N, K]. About 0.1 million weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (16, 32, 64, 96):
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        both = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        logits: Tensor = self.head(functional.dropout(both, 0.2, self.training))
        return logits


def _input(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_classifier(crops: CropSet, names: Sequence[str], seed: int) -> CropNetwork:
    """A network that learned the classes `names`, on the CPU; the same crops give the same one.

    Batches hold as many of each class, turned over at random, with random tint and contrast.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CropNetwork(len(names)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        rng = np.random.default_rng(seed)
        labels = np.array([names.index(label) for label in crops.labels])
        members = [np.flatnonzero(labels == k) for k in range(len(names))]
        for _ in range(STEPS):
            kinds = rng.integers(len(names), size=BATCH)
            chosen = [int(rng.choice(members[k])) for k in kinds]
            x = _input(_varied(crops.pixels[chosen], rng))
            logits = network(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits, torch.from_numpy(kinds), label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()  # type: ignore[no-any-return]


def _varied(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Flips along both axes, gain and offset a channel: poses and exposures that labels allow."""
    turned = [p[:: 1 - 2 * int(a), :: 1 - 2 * int(b)] for p, a, b in
              zip(pixels, rng.random(len(pixels)) < 0.5, rng.random(len(pixels)) < 0.5,
                  strict=True)]  # fmt: skip
    gain = rng.uniform(0.8, 1.25, (len(pixels), 1, 1, 3))
    offset = rng.uniform(-20, 20, (len(pixels), 1, 1, 3))
    values = (np.stack(turned) - 128.0) * gain + 128 + offset
    return np.clip(values, 0, 255).astype(np.uint8)


@torch.no_grad()
def classify(network: CropNetwork, pixels: Pixels) -> npt.NDArray[np.int64]:
    """Position of the class of each crop, int64 [N]; crop by crop, so that batches are nothing."""
    found = []
    for crop in pixels:
        logits = network(_input(crop[None]).contiguous(memory_format=torch.channels_last))
        found.append(int(logits.argmax(dim=1)))
    return np.array(found, dtype=np.int64)


def recalls(
    found: npt.NDArray[np.int64], labels: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """Share of each class that was named right."""
    truth = np.array([names.index(label) for label in labels])
    return {name: float((found[truth == k] == k).mean()) for k, name in enumerate(names)}


class ClassificationCell:
    """CAS in both directions, with its ceiling."""

    name = "classification"
    title = "classification: do objects look like their class"

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        made = _crops(evaluation.generated, evaluation)
        real = _crops(evaluation.real, evaluation)
        train = _crops(evaluation.train, evaluation)
        names, left_out = _shared(made, real, train)
        if len(names) < 2:
            raise DataError(
                f"fewer than two classes have {LEAST} crops each among generated, real test and "
                f"real train images ({'; '.join(left_out) or 'no objects'})",
                hint="generate more images, or give a larger --real",
            )
        learned = {n: min(made.of(n), train.of(n), MOST) for n in names}
        tested = dict.fromkeys(names, MOST)
        seed = evaluation.seed
        ours = train_classifier(made.limited(learned), names, seed)
        evaluation.check_stop()
        theirs = train_classifier(train.limited(learned), names, seed)
        evaluation.check_stop()
        made, real = made.limited(tested), real.limited(tested)
        answers = {
            MIXING: (classify(ours, real.pixels), real),
            BACK: (classify(theirs, made.pixels), made),
            CEILING: (classify(theirs, real.pixels), real),
        }
        shares = {k: recalls(found, crops.labels, names) for k, (found, crops) in answers.items()}
        means = {k: float(np.mean(list(v.values()))) for k, v in shares.items()}
        return CellResult(
            figures={
                "balanced accuracy, trained on generated, tested on real": figure(means[MIXING]),
                "balanced accuracy, trained on real, tested on generated": figure(means[BACK]),
                "balanced accuracy, real to real": figure(means[CEILING]),
                "chance": figure(1 / len(names)),
            },
            tables={
                "accuracy by class": {
                    name: {
                        "crops learned": learned[name],
                        "real tested": real.of(name),
                        "generated tested": made.of(name),
                        **{kind: figure(row[name]) for kind, row in shares.items()},
                    }
                    for name in names
                }
            },
            counts={
                "classes": len(names),
                "crops learned from": sum(learned.values()),
                "real crops tested": len(real.labels),
                "generated crops tested": len(made.labels),
            },
            notes=[f"left out, fewer than {LEAST} crops: {'; '.join(left_out)}"]
            if left_out
            else [],
            pictures=_pictures(answers[BACK][0], made, names, folder),
        )


def _crops(images: Images, evaluation: Evaluation) -> CropSet:
    """At most 150 crops of a class, in an order that does not depend on the samples' order."""
    places = spread(places_of(images, evaluation.classes, evaluation.seed), MOST)
    crops = list(cut_crops(images, places))
    evaluation.check_stop()
    pixels = np.stack([c.pixels for c in crops]) if crops else np.zeros((0, 64, 64, 3), np.uint8)
    return CropSet(pixels, tuple(c.place.label for c in crops))


def _shared(made: CropSet, real: CropSet, train: CropSet) -> tuple[list[str], list[str]]:
    """Classes with enough crops everywhere, and for the others how many they have."""
    sets = {"generated": made, "real test": real, "real train": train}
    names, left_out = [], []
    for label in sorted({label for crops in sets.values() for label in crops.labels}):
        counts = {name: crops.of(label) for name, crops in sets.items()}
        if min(counts.values()) >= LEAST:
            names.append(label)
        else:
            text = ", ".join(f"{count} {name}" for name, count in counts.items())
            left_out.append(f"{label} ({text})")
    return names, left_out


def _pictures(
    found: npt.NDArray[np.int64], made: CropSet, names: Sequence[str], folder: Path
) -> dict[str, str]:
    """Generated crops that a classifier of real ones took for another class."""
    truth = np.array([names.index(label) for label in made.labels])
    wrong = np.flatnonzero(found != truth)[:32]
    if not len(wrong):
        return {}
    titles = [f"{made.labels[k]} as {names[found[k]]}" for k in wrong]
    contact_sheet([made.pixels[k].repeat(2, 0).repeat(2, 1) for k in wrong], folder / "wrong.png",
                  titles=titles)  # fmt: skip
    return {"generated objects taken for another class": "wrong.png"}


CELL = ClassificationCell()
