"""Memory of a training step of Stable Diffusion 1.5 by what learns: counted, not measured.

    python benchmarks/memory.py
    python benchmarks/memory.py --batch 4 --size 512 --dtype bf16

Networks of its configuration are built on meta tensors (shapes and number types without values),
a whole step runs on them, and the bytes that live at once are added up (rsgen/training/memory.py
says what is left out). No weights and no GPU are needed. `fits` compares with a card's memory less
1 GB for the driver, workspaces and fragments.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rsgen.condition import CONDITION_CHANNELS
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.training.memory import MODES, StepShape, count_memory

CARD = 24 * 2**30
SPARE = 10**9


def stable_diffusion_15(condition_channels: int = CONDITION_CHANNELS) -> StableDiffusion:
    """Its networks without weights, with a layout branch of that many channels."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(  # type: ignore[no-untyped-call]
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        )
        vae = AutoencoderKL(  # type: ignore[no-untyped-call]
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
            )
        )
        controlnet = ControlNetModel.from_unet(
            unet, conditioning_channels=condition_channels, load_weights_from_unet=False
        )
    schedule = DDPMScheduler(  # type: ignore[no-untyped-call]
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    return StableDiffusion(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        scheduler=schedule,
        controlnet=controlnet,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2, help="images at once")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--average", action="store_true", help="with a moving average (EMA)")
    options = parser.parse_args()
    model = stable_diffusion_15()
    print(
        f"SD 1.5, {options.size} px, {options.batch} images at once, {options.dtype}, "
        f"{'with' if options.average else 'no'} EMA; GB = 1e9 bytes, counted on meta tensors\n\n"
        "| method | learns | weights that learn, M | weights | gradients | AdamW | EMA "
        "| passes | update | all | without checkpointing | fits 24 GB |\n" + "|---" * 12 + "|"
    )
    for method, modes in MODES.items():
        for mode in modes:
            started = time.monotonic()
            shape = StepShape(
                method, options.batch, options.size, options.dtype, True, options.average
            )
            found = count_memory(model, mode, shape)
            without = count_memory(model, mode, replace(shape, checkpointing=False))
            cells = (
                found.weights,
                found.gradients,
                found.moments,
                found.average,
                found.working,
                found.update,
                found.total,
                without.total,
            )
            numbers = " | ".join(f"{value / 1e9:.1f}" for value in cells)
            fits = " / ".join("yes" if m.total <= CARD - SPARE else "no" for m in (found, without))
            name = "ControlNet" if mode == "frozen" else f"ControlNet + {mode}"
            print(f"| {method} | {name} | {found.learning / 1e6:.0f} | {numbers} | {fits} |")
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
