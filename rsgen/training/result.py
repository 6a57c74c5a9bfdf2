"""The folder that a training run leaves: a diffusers pipeline, its card, and how to open it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rsgen.models.base import ModelCard
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.prompts import DEFAULT_TEMPLATE, make_prompt

__all__ = ["write_checkpoint"]

README = """# {title}

Trained by rsgen: task `{task}`, {steps} steps on {images} images, base `{base}`.
Condition: `{condition}`, {size} px. Classes: {classes}.

{snippet}
{licence}"""

CONTROLNET_SNIPPET = """Paint layouts with it:

    rsgen generate FOLDER --layouts LABELS --out OUT

or open it in diffusers, which paints what `rsgen generate --text-guidance {guidance}
--layout-guidance 1` paints from the same noise; the condition is a float tensor of exactly
{size} x {size} pixels:

```python
import torch
from diffusers import StableDiffusionControlNetPipeline
from rsgen.condition import ConditionEncoding, encode
from rsgen.models.base import read_card

pipeline = StableDiffusionControlNetPipeline.from_pretrained(FOLDER)
card = read_card(FOLDER)  # rsgen.json: encoding, class table, slots
encoding = ConditionEncoding(card.condition, card.slots)
condition = encode(layout, ({size}, {size}), encoding, card.classes)
image = pipeline(
    {prompt!r},
    image=torch.from_numpy(condition)[None],  # float32 [1, {channels}, {size}, {size}] in [0, 1]
    num_inference_steps=20,
    guidance_scale={guidance},
).images[0]
```
"""

BASE_SNIPPET = """A base without a layout branch; give it one with

    rsgen train RUN --base FOLDER --out OUT

or open it in diffusers:

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
image = pipeline({prompt!r}, num_inference_steps=20).images[0]
```
"""


def write_checkpoint(model: StableDiffusion, card: ModelCard, folder: Path) -> Path:
    """Write networks, card and README to a temporary folder, then rename it into place."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    if temporary.is_dir():
        shutil.rmtree(temporary)
    model.save(temporary, card)
    (temporary / "README.md").write_text(_readme(model, card), encoding="utf-8")
    if folder.is_dir():  # left by a run that was killed before its commit
        shutil.rmtree(folder)
    temporary.replace(folder)
    return folder


def _readme(model: StableDiffusion, card: ModelCard) -> str:
    names = card.classes.names
    template = DEFAULT_TEMPLATE if card.prompt is None else card.prompt
    prompt = make_prompt(names[:1], card.classes, template=template, lower=True)
    snippet = BASE_SNIPPET if model.controlnet is None else CONTROLNET_SNIPPET
    licence = "".join(f"\nLicence of the base: {line}\n" for line in card.licence)
    return README.format(
        title="A layout-to-image model" if model.controlnet is not None else "A base model",
        task=card.training.get("task"),
        steps=card.training.get("steps"),
        images=card.training.get("images"),
        base=card.base,
        condition=card.condition,
        size=card.image_size,
        classes=", ".join(names),
        snippet=snippet.format(
            size=card.image_size,
            prompt=prompt,
            channels=model.condition_channels,
            guidance=1.5 if prompt else 1,
        ),
        licence=licence,
    )
