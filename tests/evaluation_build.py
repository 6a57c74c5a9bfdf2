"""Evaluations without run folders: scenes in memory, and a judge that has learned nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsgen.evaluation.base import Evaluation, Images
from rsgen.images import Pixels
from rsgen.judge.calibration import Calibration
from rsgen.judge.decoding import ClassHabits
from rsgen.judge.model import Judge, JudgeCard
from rsgen.judge.network import JudgeNetwork, NetworkShape
from rsgen.records import ClassTable, Layout, Provenance, Sample
from rsgen.reporting import NullReporter
from rsgen.scenes import SCENE_CLASSES, render_scene
from rsgen.settings import EvaluateConfig


@lru_cache(maxsize=512)
def scene(seed: int, side: int, kind: str | None = None) -> tuple[Pixels, Layout]:
    return render_scene(seed, side, scene=kind)


def images_of(
    name: str,
    pairs: Sequence[tuple[Pixels, Layout]],
    *,
    ids: Iterable[str] | None = None,
    **keys: Any,
) -> Images:
    """In-memory images; keys go into every sample."""
    names = list(ids) if ids is not None else [f"{name}-{k:04d}" for k in range(len(pairs))]
    samples = tuple(
        Sample(id=key, layout=layout, image=key, **keys)
        for key, (_, layout) in zip(names, pairs, strict=True)
    )
    pixels = {key: image for key, (image, _) in zip(names, pairs, strict=True)}
    return Images(name, samples, lambda sample: pixels[str(sample.image)])


def scenes(name: str, seeds: Iterable[int], side: int = 128, kind: str | None = None) -> Images:
    synthetic = name == "generated"
    provenance = Provenance("synthetic" if synthetic else "real")
    return images_of(name, [scene(s, side, kind) for s in seeds], provenance=provenance)


def changed(images: Images, change: Callable[[Pixels], Pixels], name: str | None = None) -> Images:
    """The same samples with other pixels."""
    read = images.read
    return replace(images, name=name or images.name, read=lambda sample: change(read(sample)))


def renamed(images: Images, name: str, prefix: str) -> Images:
    """The same pixels under other ids: a set that was copied."""
    samples = tuple(replace(s, id=f"{prefix}{s.id}") for s in images.samples)
    return Images(name, samples, images.read)


def untrained_judge(classes: ClassTable = SCENE_CLASSES, seed: int = 0) -> Judge:
    """A judge whose weights are random: plumbing, no knowledge."""
    things = [entry for entry in classes.classes if entry.kind == "thing"]
    stuff = tuple(entry.name for entry in classes.classes if entry.kind == "stuff")
    shape = NetworkShape(len(things), len(stuff), (8, 12, 16, 20, 24), 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = JudgeNetwork(shape)
    habits = tuple(ClassHabits(entry.name, True, not entry.symmetric) for entry in things)
    card = JudgeCard("evaluation", classes, shape, habits, stuff, Calibration(), 0.5, "0" * 16, 64)
    return Judge(network, card)


def evaluation(
    generated: Images,
    real: Images,
    train: Images,
    work: Path,
    *,
    classes: ClassTable = SCENE_CLASSES,
    judge: Judge | None = None,
    seed: int = 0,
) -> Evaluation:
    return Evaluation(
        generated,
        real,
        train,
        classes,
        judge or untrained_judge(classes),
        EvaluateConfig(),
        seed,
        "cpu",
        work,
        NullReporter(),
        lambda: None,
    )


def shuffled(images: Images, seed: int = 1) -> Images:
    """The same samples in another order."""
    order = np.random.default_rng(seed).permutation(len(images))
    return images.some(order.tolist())
