"""A checkpoint paints the same picture in diffusers' own pipeline as here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.condition import encode, from_model
from rsgen.models.base import load_model
from rsgen.models.sampling import SamplingSettings, draw_noise, sample
from tests.build import CLASSES, layout
from tests.build_models import SIZE, save_model

PROMPT = "A satellite image of plane, ship, storage tank, water"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    from diffusers import StableDiffusionControlNetPipeline

    folder = save_model(tmp_path_factory.mktemp("parity") / "model").path
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return folder, pipeline


@pytest.mark.parametrize("guidance", [1.0, 1.5, 4.0])
def test_latents_and_pixels_equal_those_of_the_pipeline(
    guidance: float, opened: tuple[Path, Any]
) -> None:
    """Same latents, float condition of the exact size, guidance and DDIM steps.

    Catches another tokenisation, another order of the guidance branches, other timesteps, a
    second scaling of latents, and rounding on the way to uint8.
    """
    folder, pipeline = opened
    model = load_model(folder)
    assert model.card is not None
    canvas = layout(size=(SIZE, SIZE))
    row = encode(canvas, (SIZE, SIZE), model.card.encoding(), CLASSES)
    condition = torch.from_numpy(np.stack([row, row[..., ::-1].copy()]))
    noise = draw_noise([1, 2], (4, SIZE // 4, SIZE // 4))
    shared = {
        "prompt": [PROMPT, "a ship"],
        "image": condition,
        "num_inference_steps": 10,
        "guidance_scale": guidance,
    }
    expected = pipeline(**shared, latents=noise.clone(), output_type="latent").images
    pictures = pipeline(**shared, latents=noise.clone(), output_type="np").images
    with torch.no_grad():
        got = sample(
            model,
            noise=noise,
            text=model.encode_prompts([PROMPT, "a ship"]),
            negative=model.encode_prompts(["", ""]),
            condition=condition,
            settings=SamplingSettings(steps=10, text_guidance=guidance),
        )
        painted = from_model(model.decode_latents(got))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert np.abs(painted.astype(float) - pictures * 255).max() <= 1.0
