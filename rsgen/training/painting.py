"""Pictures of given layouts from a model in training, with few steps and fixed noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler

from rsgen.condition import ConditionEncoding, encode, from_model
from rsgen.images import Pixels
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.prompts import make_prompt
from rsgen.records import ClassTable, Layout
from rsgen.request import item_seed

__all__ = ["paint"]
BATCH = 8
STEPS = 20


def paint(
    model: StableDiffusion,
    layouts: Sequence[Layout],
    encoding: ConditionEncoding | None,
    classes: ClassTable,
    size: int,
    seed: int,
) -> list[Pixels]:
    """uint8 [size, size, 3] a layout, without guidance: what the weights alone can do."""
    pictures: list[Pixels] = []
    for start in range(0, len(layouts), BATCH):
        chunk = layouts[start : start + BATCH]
        pictures += list(_paint_batch(model, chunk, encoding, classes, size, seed + start))
    return pictures


@torch.no_grad()
def _paint_batch(
    model: StableDiffusion,
    layouts: Sequence[Layout],
    encoding: ConditionEncoding | None,
    classes: ClassTable,
    size: int,
    seed: int,
) -> Pixels:
    side = size // model.factor
    shape = (model.latent_channels, side, side)
    rngs = [
        np.random.default_rng(item_seed(seed, "validation", str(k))) for k in range(len(layouts))
    ]
    noise = np.stack([rng.standard_normal(shape, np.float32) for rng in rngs])
    latents = torch.from_numpy(noise).to(model.device)
    text = model.encode_prompts([make_prompt(layout, classes) for layout in layouts])
    condition = None
    if encoding is not None:
        hints = [encode(layout, (size, size), encoding, classes) for layout in layouts]
        condition = torch.from_numpy(np.stack(hints)).to(model.device)
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(STEPS)
    for timestep in scheduler.timesteps:
        residuals = None
        if condition is not None:
            residuals = model.control(latents, timestep, text, condition)
        prediction = model.predict(latents, timestep, text, residuals)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    return from_model(model.decode_latents(latents))
