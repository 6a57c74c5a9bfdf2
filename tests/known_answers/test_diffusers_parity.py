"""A checkpoint paints the same picture in diffusers' own pipeline as here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.condition import encode, from_model
from rsgen.execution import run_stage
from rsgen.models.base import load_model
from rsgen.models.sampling import SamplingSettings, draw_noise
from rsgen.models.sampling import sample as denoise
from rsgen.runs import Job
from rsgen.store import open_samples
from tests.build import CLASSES, config, layout, sample, sample_run
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
        got = denoise(
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


def test_the_generate_command_paints_what_the_pipeline_paints(
    opened: tuple[Path, Any], tmp_path: Path
) -> None:
    """From a record alone: its prompt, seed and layout make its PNG again in diffusers.

    Catches a condition, prompt or noise that is not the one that the record tells of.
    """
    folder, pipeline = opened
    run = sample_run(tmp_path / "real", [sample("a.png", layout(size=(SIZE, SIZE)))])
    settings = config(
        **{"generate.layout_guidance": 1.0, "generate.text_guidance": 1.5, "generate.steps": 5}
    )
    inputs = {"checkpoint": [folder], "layouts": [run.path]}
    run_stage(Job("generate", settings, tmp_path / "out", inputs))
    made_run = open_samples(tmp_path / "out")
    (made,) = list(made_run)
    card = load_model(folder).card
    assert card is not None and made.provenance.seed is not None
    condition = encode(made.layout, (SIZE, SIZE), card.encoding(), card.classes)
    picture = pipeline(
        made.prompt,
        image=torch.from_numpy(condition)[None],
        latents=draw_noise([made.provenance.seed], (4, SIZE // 4, SIZE // 4)),
        num_inference_steps=5,
        guidance_scale=1.5,
        output_type="np",
    ).images[0]
    assert np.abs(made_run.read_image(made).astype(float) - picture * 255).max() <= 1.0
