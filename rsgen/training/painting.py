"""Pictures of given layouts from a model in training, with few steps and fixed noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rsgen.condition import ConditionEncoding, encode, from_model
from rsgen.images import Pixels
from rsgen.models.sampling import SamplingSettings, draw_noise, sample
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.prompts import DEFAULT_TEMPLATE, make_prompt
from rsgen.records import ClassTable, Layout
from rsgen.request import item_seed

__all__ = ["paint"]

BATCH = 8


def paint(
    model: StableDiffusion,
    layouts: Sequence[Layout],
    encoding: ConditionEncoding | None,
    classes: ClassTable,
    size: int,
    seed: int,
    settings: SamplingSettings | None = None,
    template: str = DEFAULT_TEMPLATE,
) -> list[Pixels]:
    """One uint8 [size, size, 3] a layout; without an encoding the layout enters as words only.

    Picture k depends on (seed, k) and its layout. Guidance is off unless settings say so.
    """
    settings = settings or SamplingSettings(text_guidance=1.0)
    pictures: list[Pixels] = []
    side = size // model.factor
    for start in range(0, len(layouts), BATCH):
        chunk = layouts[start : start + BATCH]
        seeds = [item_seed(seed, "validation", str(start + k)) for k in range(len(chunk))]
        condition = None
        if encoding is not None:
            hints = [encode(layout, (size, size), encoding, classes) for layout in chunk]
            condition = torch.from_numpy(np.stack(hints))
        with torch.no_grad():
            prompts = [make_prompt(layout, classes, template=template) for layout in chunk]
            latents = sample(
                model,
                noise=draw_noise(seeds, (model.latent_channels, side, side)),
                text=model.encode_prompts(prompts),
                negative=model.encode_prompts([""] * len(chunk)),
                condition=condition,
                settings=settings,
            )
            pictures += list(from_model(model.decode_latents(latents)))
    return pictures
