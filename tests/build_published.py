"""A Stable Diffusion 1.5 pipeline and a ControlNet of diffusers' real classes, small, as folders.

Every kind of block, four levels in UNet and autoencoder, epsilon targets, byte-pair words, a
PNDM schedule and a mention of a safety checker, as in the published folder; few channels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from tests.build_clip import LIMIT, clip_words, word_count

SIDE = 64
WIDTH = 16  # of the text encoder's states
CHANNELS = (8, 8, 16, 16)


def unet(width: int = WIDTH, channels: tuple[int, ...] = CHANNELS) -> Any:
    kind: Any = UNet2DConditionModel
    return kind(
        sample_size=SIDE // 8,
        block_out_channels=channels,
        layers_per_block=2,
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def base(folder: Path) -> Path:
    """The pipeline's folder. Its index names a safety checker that nobody ever needs."""
    torch.manual_seed(0)
    unet().save_pretrained(folder / "unet")
    vae: Any = AutoencoderKL
    vae(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
    ).save_pretrained(folder / "vae")
    text: Any = CLIPTextConfig
    words = word_count()
    CLIPTextModel(
        text(
            vocab_size=words,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LIMIT,
            bos_token_id=words - 2,
            eos_token_id=words - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    clip_words(folder / "tokenizer")
    notes = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LIMIT}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(notes))
    schedule: Any = PNDMScheduler
    schedule(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def controlnet(width: int = WIDTH, channels: tuple[int, ...] = CHANNELS, hint: int = 3) -> Any:
    """A ControlNet that steers: its zero joints are filled."""
    torch.manual_seed(1)
    network = ControlNetModel.from_unet(unet(width, channels), conditioning_channels=hint)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()
