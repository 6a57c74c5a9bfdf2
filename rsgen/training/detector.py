"""Training one detector from scratch: the judge's recipe, for judges and downstream tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from rsgen.data import TrainingImages
from rsgen.errors import DataError
from rsgen.judge.decoding import ClassHabits
from rsgen.judge.network import JudgeNetwork, NetworkShape, in_channels_last, to_input
from rsgen.records import ClassTable, Sample
from rsgen.reporting import Reporter
from rsgen.request import item_seed
from rsgen.training.judging import JudgeObjective, is_turned
from rsgen.training.loop import LoopSettings, fit
from rsgen.training.plan import measure

__all__ = ["Recipe", "class_habits", "new_objective", "optimise", "stuff_names", "view_side"]

STATISTICS_BATCHES = 16


@dataclass(frozen=True)
class Recipe:
    """How a detector learns. `side` of views in pixels; `augment` from 0 to 1."""

    steps: int
    batch_size: int
    side: int
    lr: float
    augment: float
    checkpoint_every: int
    seed: int


def class_habits(samples: Sequence[Sample], classes: ClassTable) -> tuple[ClassHabits, ...]:
    """Whether each thing class is labelled by turned boxes, with a known front, mostly.

    Raises DataError without a thing class.
    """
    found = {c.name: [0, 0, 0] for c in classes.classes if c.kind == "thing"}
    for sample in samples:
        for instance in sample.layout.instances:
            row = found.get(classes.resolve(instance.label).name)
            if row is not None:
                row[0] += 1
                row[1] += instance.quad is not None
                row[2] += instance.quad is not None and instance.heading_rad is not None
    if not found:
        raise DataError("the run has no thing class", hint="a judge finds things, not stuff")
    all_turned = is_turned(samples, classes)
    return tuple(
        ClassHabits(
            name, 2 * turned > total if total else all_turned, 2 * headed > total > 0, total
        )
        for name, (total, turned, headed) in found.items()
    )


def stuff_names(classes: ClassTable) -> tuple[str, ...]:
    """The stuff classes, in table order."""
    return tuple(c.name for c in classes.classes if c.kind == "stuff")


def view_side(wanted: int, samples: Sequence[Sample]) -> int:
    """The largest side of views, a multiple of 32, that `wanted` and all images allow.

    Raises DataError where an image is smaller than 32 pixels.
    """
    least = min(min(s.layout.width, s.layout.height) for s in samples)
    side = min(wanted, least) // 32 * 32
    if side < 32:
        raise DataError(
            f"an image has a side of {least} pixels, a judge needs 32",
            hint="leave such images out of the run",
        )
    return side


def new_objective(images: TrainingImages, things: int, recipe: Recipe, name: str) -> JudgeObjective:
    """A fresh network and its task. `name` and the seed decide weights and views."""
    stuff = stuff_names(images.classes)
    torch.manual_seed(item_seed(recipe.seed, "train-judge", name) % 2**31)
    network = in_channels_last(JudgeNetwork(NetworkShape(things, len(stuff))))
    return JudgeObjective(
        network,
        images,
        stuff,
        seed=item_seed(recipe.seed, "train-judge", f"{name}/views"),
        size=recipe.side,
        strength=recipe.augment,
    )


def optimise(
    objective: JudgeObjective,
    recipe: Recipe,
    accelerator: Accelerator,
    state: Path,
    reporter: Reporter,
    check_stop: Callable[[], None],
    name: str,
) -> Sequence[float]:
    """Learn, going on from `state`; the network then holds the averaged weights, ready to look.

    Returns the loss of every step. Raises DataError where the loss is not a number; Stopped.
    """
    loop = LoopSettings(
        max_steps=recipe.steps,
        batch_size=recipe.batch_size,
        accumulate=1,
        lr=recipe.lr,
        warmup_steps=min(50, recipe.steps // 5),
        schedule="cosine",
        lr_floor=0.02,
        weight_decay=0.01,
        clip_norm=20.0,
        ema_decay=max(0.0, min(0.998, 1 - 4 / recipe.steps)),
        checkpoint_every=recipe.checkpoint_every,
        validate_every=0,
        seed=recipe.seed,
    )
    estimate = measure(objective, accelerator, recipe.batch_size, 1)
    reporter.note(f"{name}: {estimate.text(recipe.steps)}")
    result = fit(objective, loop, accelerator, state, reporter, check_stop)
    if result.restored_step is not None:
        raise DataError(
            f"{name}: the loss was not a number after step {result.restored_step}",
            hint="use a smaller --lr in another --out",
        )
    if result.average is not None:
        result.average.copy_to(list(objective.parameters().values()))
    _renew_statistics(objective, recipe, accelerator.device, check_stop)
    return result.history


@torch.no_grad()
def _renew_statistics(
    objective: JudgeObjective,
    recipe: Recipe,
    device: torch.device,
    check_stop: Callable[[], None],
) -> None:
    """Means and variances of the averaged weights, over fixed batches.

    They are no part of the training state: training uses each batch's own.
    """
    network = objective.network
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    for k in range(min(STATISTICS_BATCHES, recipe.steps)):
        batch = objective.batch(recipe.steps + k, 0, recipe.batch_size, device)
        network(to_input(batch["images"]).contiguous(memory_format=torch.channels_last))
        check_stop()
    network.eval()
