"""A diffusion model of the real classes, small enough to run in a test: under 1 M weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from rsgen.condition import ConditionEncoding, EncodingName
from rsgen.models.base import ModelCard
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.models.tiny import build_pipeline
from rsgen.prompts import VOCABULARY
from rsgen.records import ClassTable
from tests.build import CLASSES

SIZE = 32


def small_model(seed: int = 0, *, size: int = SIZE) -> StableDiffusion:
    """Random weights, with a control branch that does steer (its zero joints are filled)."""
    model = build_pipeline(
        seed,
        size=size,
        unet_channels=(8, 16, 16),
        vae_channels=(8, 8, 8),
        text_width=16,
        text_layers=1,
        groups=8,
        words=VOCABULARY,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for parameter in model.controlnet.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def card(
    classes: ClassTable = CLASSES, *, condition: EncodingName = "classes", size: int = SIZE
) -> ModelCard:
    """A card as training writes it."""
    encoding = ConditionEncoding.for_classes(condition, classes)
    return ModelCard(
        encoding.name, classes, encoding.slots, image_size=size, gsd_range_m=(0.3, 1.0)
    )


@dataclass(frozen=True)
class SavedModel:
    """A pipeline folder on disk, and the model that it was saved from."""

    path: Path
    model: StableDiffusion


def save_model(
    folder: Path, classes: ClassTable = CLASSES, *, seed: int = 0, size: int = SIZE
) -> SavedModel:
    """Write a small model with its card to a folder."""
    model = small_model(seed, size=size)
    model.save(folder, card(classes, size=size))
    return SavedModel(folder, model)
