"""The architecture of the embedded model: Stable Diffusion's classes at 1 % of the size.

128 px images in 32 x 32 latents of 4 channels. The UNet attends to text on the two lower
levels; one block a level keeps a training step near a quarter of a second an image on a core.
As fp16 files: UNet 12.8 MB, ControlNet 6 MB, autoencoder 3.4 MB, text encoder under 1 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.models.tokenizer import closed_tokenizer
from rsgen.prompts import VOCABULARY

__all__ = ["CONDITION_CHANNELS", "build_pipeline", "build_tiny"]

CONDITION_CHANNELS = 35
FACTOR = 4


def build_tiny(seed: int = 0, *, size: int = 128) -> StableDiffusion:
    """The embedded model with random weights: deterministic by seed, no card yet.

    The autoencoder's `scaling_factor` is 1 until it has been trained.
    """
    return build_pipeline(
        seed,
        size=size,
        unet_channels=(64, 96, 144),
        vae_channels=(32, 64, 96),
        text_width=96,
        text_layers=2,
        groups=16,
    )


def build_pipeline(
    seed: int,
    *,
    size: int,
    unet_channels: tuple[int, ...],
    vae_channels: tuple[int, int, int],
    text_width: int,
    text_layers: int,
    groups: int,
    words: Sequence[str] = VOCABULARY,
) -> StableDiffusion:
    """A pipeline of this shape at any width; channels are multiples of `groups`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = closed_tokenizer(words)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text_width,
                intermediate_size=2 * text_width,
                num_hidden_layers=text_layers,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                projection_dim=text_width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = _unet(size // FACTOR, unet_channels, text_width, groups)
        vae = _autoencoder(size, vae_channels)
        controlnet = ControlNetModel.from_unet(
            unet,
            conditioning_channels=CONDITION_CHANNELS,
            conditioning_embedding_out_channels=(16, 32, 64),
        )
    return StableDiffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=schedule(),
        controlnet=controlnet,
    )


def schedule() -> Any:
    """Cosine levels with velocity targets; sampling starts at the noisiest level."""
    return DDIMScheduler(  # type: ignore[no-untyped-call]
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,  # unused with trailing spacing; 0 makes diffusers warn
    )


def _unet(latent_size: int, channels: tuple[int, ...], text_width: int, groups: int) -> Any:
    lower = len(channels) - 1
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=latent_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * lower),
        up_block_types=(*["CrossAttnUpBlock2D"] * lower, "UpBlock2D"),
        cross_attention_dim=text_width,
        # diffusers reads this as the number of heads.
        attention_head_dim=4,
        norm_num_groups=groups,
    )


def _autoencoder(size: int, channels: tuple[int, int, int]) -> Any:
    return AutoencoderKL(  # type: ignore[no-untyped-call]
        in_channels=3,
        out_channels=3,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16 if all(c % 16 == 0 for c in channels) else 8,
        sample_size=size,
        scaling_factor=1.0,
    )
