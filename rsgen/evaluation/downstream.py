"""Does synthetic data pay? One detector trained on several sets, tested on held real images.

Each set (an arm) is learned from with the same network, steps, batch and views, once a
repetition; arms of one repetition share their initial weights. Arms:

- real: the train split alone, what every other arm is compared with.
- real + synthetic 1:R: R generated images a real one.
- real + copies: as many more images as the largest R, all copies of real ones. At equal steps
  it learns from what `real` learns from: what it differs by is noise.
- real + copy-paste: as many more, train images with objects of other ones pasted on.

Source: the downstream (trainability) metrics of OF-Diff (ICLR 2026), section 5: AP, AP50, AP75 of
a detector trained on real and as many synthetic images, tested on held real ones. Differs in: the
judge's architecture from scratch in place of a detector of unknown kind, several ratios, oriented
AP50 beside them, and two controls (copies, copy-paste) with repetitions.

Precision is as in `layout`: pycocotools on upright boxes with every detection counted, and polygon
IoU in VOC12 form. Intervals are Student's t over repetitions: of weights and views, not of test
images.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.data import TrainingImages
from rsgen.errors import DataError
from rsgen.evaluation.base import FEW, CellResult, Evaluation, figure
from rsgen.evaluation.copy_paste import CopyPaste, Pasted, paint
from rsgen.evaluation.gains import COPIES, DECIDES, REAL, Outcome, gain_tables
from rsgen.evaluation.layout import detect_all
from rsgen.images import Pixels, replace_bytes
from rsgen.judge.calibration import Calibration
from rsgen.judge.decoding import ClassHabits
from rsgen.judge.model import Judge, JudgeCard
from rsgen.matching import asked_of, coco_precision, oriented_precision
from rsgen.records import Sample
from rsgen.reporting import NullReporter
from rsgen.request import item_seed
from rsgen.settings import TrainJudgeConfig
from rsgen.training.detector import (
    Recipe,
    class_habits,
    new_objective,
    optimise,
    stuff_names,
    view_side,
)
from rsgen.training.setup import make_accelerator

__all__ = ["CELL", "Arm", "DownstreamCell"]

BATCH_SIZE = 16
LEAST_IMAGES = 8
PASTED = "real + copy-paste"


@dataclass(frozen=True)
class Arm:
    """A training set: each image with the function that reads it."""

    name: str
    samples: tuple[Sample, ...]
    readers: tuple[Callable[[Sample], Pixels], ...]

    def plus(
        self, name: str, samples: Sequence[Sample], readers: Sequence[Callable[[Sample], Pixels]]
    ) -> Arm:
        """This set and more images."""
        return Arm(name, (*self.samples, *samples), (*self.readers, *readers))

    def images(self, evaluation: Evaluation) -> TrainingImages:
        by_sample = {
            id(sample): reader for sample, reader in zip(self.samples, self.readers, strict=True)
        }
        return TrainingImages(
            self.samples, lambda sample: by_sample[id(sample)](sample), evaluation.classes
        )


class DownstreamCell:
    """Trains the judge's architecture once an arm and repetition; each result is kept."""

    name = "downstream"
    title = "downstream: does a detector gain from the generated images"
    stages = True

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        settings = evaluation.settings
        arms, notes = _arms(evaluation)
        habits = class_habits(evaluation.train.samples, evaluation.classes)
        every = tuple(sample for arm in arms for sample in arm.samples)
        side = view_side(evaluation.judge.card.side, every)
        total = len(arms) * settings.downstream_seeds
        evaluation.reporter.stage("downstream", total, "training")
        found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
        # Repetition by repetition: a run that is stopped early has compared all arms once.
        for repetition in range(settings.downstream_seeds):
            for arm in arms:
                row = _kept(evaluation, arm, repetition, side, habits, folder)
                found[arm.name].append(row)
                evaluation.reporter.advance()
                evaluation.check_stop()
        outcomes = [Outcome(arm.name, len(arm.samples), tuple(found[arm.name])) for arm in arms]
        figures, tables, sentences = gain_tables(outcomes)
        counts = {
            "real train images": len(evaluation.train),
            "real test images": len(evaluation.real),
            "repetitions": settings.downstream_seeds,
            "steps": settings.downstream_steps,
            "batch": BATCH_SIZE,
            "view, px": side,
        }
        return CellResult(
            figures, tables, counts, (*sentences, *notes, *_cautions(len(evaluation.real)))
        )


def _cautions(test_images: int) -> list[str]:
    found = [f"{COPIES} holds nothing new: a gain no larger than its own is chance"]
    if test_images < FEW:
        found.append(
            f"{test_images} real test images: another draw of them would move all figures; the "
            "intervals are of repeated training alone"
        )
    return found


# ---------------------------------------------------------------- the sets


def _arms(evaluation: Evaluation) -> tuple[list[Arm], list[str]]:
    """The sets to compare, and remarks on what could not be done."""
    train, ratios = evaluation.train, sorted(set(evaluation.settings.downstream_ratios))
    if len(train) < LEAST_IMAGES:
        raise DataError(
            f"{len(train)} real train images; a detector needs {LEAST_IMAGES}",
            hint="give --real a run whose train split holds images",
        )
    synthetic, notes = _synthetic(evaluation)
    real = Arm(REAL, train.samples, (train.read,) * len(train))
    arms, extra = [real], 0
    order = _order(evaluation, len(synthetic))
    for ratio in ratios:
        wanted = max(1, round(ratio * len(train)))
        chosen = [synthetic[k] for k in order[:wanted]]
        name = f"real + synthetic 1:{ratio:g}"
        if len(chosen) < wanted:
            notes.append(f"{name}: {len(chosen)} generated images where {wanted} were asked for")
        extra = max(extra, len(chosen))
        if any(len(arm.samples) == len(train) + len(chosen) for arm in arms):
            continue  # the same images as at a smaller ratio
        arms.append(real.plus(name, chosen, (evaluation.generated.read,) * len(chosen)))
    copies = [train.samples[k % len(train)] for k in range(extra)]
    arms.append(real.plus(COPIES, copies, (train.read,) * extra))
    pasting = CopyPaste(train.samples, evaluation.classes, evaluation.seed)
    if pasting:
        planned = [pasting.plan(k) for k in range(extra)]
        readers = [partial(_painted, pasted, train.read) for pasted in planned]
        arms.append(real.plus(PASTED, [pasted.sample for pasted in planned], readers))
    else:
        notes.append(f"{PASTED} is left out: the real images have no masks of whole objects")
    return arms, notes


def _painted(pasted: Pasted, read: Callable[[Sample], Pixels], _: Sample) -> Pixels:
    return paint(pasted, read)


def _synthetic(evaluation: Evaluation) -> tuple[list[Sample], list[str]]:
    """Generated images that a detector may learn from: none that comes from a test image."""
    held = {s.id for s in evaluation.real.samples} | {s.parent for s in evaluation.real.samples}

    def leaks(sample: Sample) -> bool:
        origins = {sample.id, sample.parent, *sample.provenance.sources}
        return bool(held & (origins | {source.split("#", 1)[0] for source in origins}))

    clean = [s for s in evaluation.generated.samples if not leaks(s)]
    dropped = len(evaluation.generated) - len(clean)
    if not clean:
        raise DataError(
            f"all {dropped} generated images use labels of real test images",
            hint="generate from train layouts or from a pool",
        )
    notes = []
    if dropped:
        notes.append(f"{dropped} generated images are left out: they use labels of test images")
    return clean, notes


def _order(evaluation: Evaluation, count: int) -> list[int]:
    """A fixed draw, so that a smaller ratio's images are among a larger one's."""
    seed = item_seed(evaluation.seed, "downstream", "synthetic")
    return [int(k) for k in np.random.default_rng(seed).permutation(count)]


# ---------------------------------------------------------------- one training


def _kept(
    evaluation: Evaluation,
    arm: Arm,
    repetition: int,
    side: int,
    habits: Sequence[ClassHabits],
    folder: Path,
) -> dict[str, Any]:
    """The result of one training, from its file when it is there."""
    slug = arm.name.replace(" + ", "-").replace(" ", "-").replace(":", "-")
    path = folder / f"{slug}-{repetition}.json"
    state = folder / "state" / path.stem
    if path.is_file():
        shutil.rmtree(state, ignore_errors=True)  # left by a kill after the result
        done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return done
    started = time.monotonic()
    detector, loss = _trained(evaluation, arm, repetition, side, habits, state)
    row = {**_tested(evaluation, detector, habits), "loss": loss}
    text = json.dumps(row, indent=1, sort_keys=True) + "\n"
    replace_bytes(path, text.encode("utf-8"))
    shutil.rmtree(state, ignore_errors=True)
    shown = "-" if row[DECIDES] is None else f"{row[DECIDES]:.4f}"
    evaluation.reporter.note(
        f"{arm.name}, repetition {repetition + 1}: {DECIDES} {shown}, "
        f"{time.monotonic() - started:.0f} s"
    )
    return row


def _trained(
    evaluation: Evaluation,
    arm: Arm,
    repetition: int,
    side: int,
    habits: Sequence[ClassHabits],
    state: Path,
) -> tuple[Judge, float]:
    """The detector of one arm, with the judge's recipe; and its last loss."""
    recipe = _recipe(evaluation, repetition, side)
    images = arm.images(evaluation)
    # The same name in all arms: the same initial weights.
    objective = new_objective(images, len(habits), recipe, "downstream")
    accelerator = make_accelerator(evaluation.device, "fp32")
    history = optimise(
        objective, recipe, accelerator, state, NullReporter(), evaluation.check_stop, arm.name
    )
    network = objective.network
    card = JudgeCard(
        "evaluation", evaluation.classes, network.shape, tuple(habits),
        stuff_names(evaluation.classes), Calibration(), 0.5, "", side,
    )  # fmt: skip
    last = history[-max(1, len(history) // 10) :]
    return Judge(network, card, accelerator.device), float(np.mean(last))


def _recipe(evaluation: Evaluation, repetition: int, side: int) -> Recipe:
    usual = TrainJudgeConfig()
    return Recipe(
        evaluation.settings.downstream_steps,
        BATCH_SIZE,
        side,
        usual.lr,
        usual.augment,
        usual.checkpoint_every,
        item_seed(evaluation.seed, "downstream", str(repetition)),
    )


def _tested(
    evaluation: Evaluation, detector: Judge, habits: Sequence[ClassHabits]
) -> dict[str, Any]:
    """Precision on the held real images, in all and by class."""
    names = [h.name for h in habits]
    found = detect_all(evaluation.real, replace(evaluation, judge=detector))
    asked = [asked_of(s.layout, evaluation.classes) for s in evaluation.real.samples]
    coco = coco_precision(found, asked, names)
    oriented = oriented_precision(found, asked, names)
    known = [v for v in oriented.values() if not math.isnan(v)]
    return {
        "AP": figure(coco.ap),
        "AP50": figure(coco.ap50),
        "AP75": figure(coco.ap75),
        "oriented AP50": figure(float(np.mean(known)) if known else math.nan),
        "classes": {
            name: {"AP50": figure(coco.by_class[name]), "oriented AP50": figure(oriented[name])}
            for name in names
        },
    }


CELL = DownstreamCell()
