"""SAM and SAM 2 of the real classes, small enough for a test: random weights, or taught to see."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers.utils import logging

from rsgen.geometry import Array

_logging: Any = logging
_logging.disable_progress_bar()

SIDE = 64  # input pixels a side
WIDTH = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Family = Literal["sam", "sam2"]
DARK, BRIGHT = 50, 215  # grey of ground and objects that a taught model tells apart

_PROMPTS = {"hidden_size": WIDTH, "image_size": SIDE, "mask_input_channels": 4}
_DECODER = {
    "hidden_size": WIDTH,
    "mlp_dim": 2 * WIDTH,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": WIDTH,
}


def sam_model(patch: int = 16) -> Any:
    """A SamModel; its masks come on a grid of 4 * SIDE / patch cells a side."""
    from transformers.models.sam.configuration_sam import SamConfig
    from transformers.models.sam.modeling_sam import SamModel

    vision = {
        "hidden_size": WIDTH,
        "output_channels": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": patch,
        "window_size": 0,
        "global_attn_indexes": [0],
        "num_pos_feats": WIDTH // 2,
        "mlp_dim": 2 * WIDTH,
        "initializer_range": 0.02,
    }
    prompts = {**_PROMPTS, "patch_size": patch}
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_DECODER
    )
    return _seeded(SamModel, config)


def sam2_config(kind: Any = None) -> Any:
    """A Sam2Config (or another kind with the same image part) of the same size."""
    from transformers.models.sam2.configuration_sam2 import Sam2Config

    quarter = SIDE // 4
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[quarter >> k] * 2 for k in range(3)],
        "fpn_hidden_size": WIDTH,
    }
    return (kind or Sam2Config)(
        vision_config=vision,
        prompt_encoder_config={**_PROMPTS, "patch_size": 16},
        mask_decoder_config=_DECODER,
    )


def sam2_model() -> Any:
    from transformers.models.sam2.modeling_sam2 import Sam2Model

    return _seeded(Sam2Model, sam2_config())


def _seeded(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def save_sam(folder: Path, family: Family, model: Any = None) -> Path:
    """A folder as on the hub: config.json, model.safetensors, preprocessor_config.json."""
    if model is None:
        model = sam_model() if family == "sam" else sam2_model()
    model.save_pretrained(folder)
    size = {"longest_edge": SIDE} if family == "sam" else {"height": SIDE, "width": SIDE}
    processor = {
        "size": size,
        "do_pad": family == "sam",
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 2,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def ellipse(size: tuple[int, int], cx: float, cy: float, a: float, b: float, angle: float) -> Array:
    """How far each pixel centre of a (width, height) canvas lies inside (1) or outside (0 ..)."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    c, s = math.cos(angle), math.sin(angle)
    along, across = c * (x - cx) + s * (y - cy), -s * (x - cx) + c * (y - cy)
    return np.asarray(2 - (along / a) ** 2 - (across / b) ** 2)


@cache
def seeing_sam() -> Any:
    """A SamModel that finds bright ellipses; taught once a process, in a few seconds."""
    with torch.random.fork_rng(devices=[]):
        return taught(sam_model(patch=4), steps=80)


def taught(model: Any, steps: int, seed: int = 0) -> Any:
    """Teach a model to find the one bright ellipse of an input, by the definition of SAM's frame.

    Inputs, boxes and masks are made at the network's own input size: nothing of rsgen's
    cropping, resizing and placing takes part, so a taught model can judge those.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), 6e-3)
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 6e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        pixels, boxes, truth = _lesson(rng, 6)
        found = model(pixel_values=pixels, input_boxes=boxes, multimask_output=True)
        logits = found.pred_masks
        wanted = torch.nn.functional.adaptive_avg_pool2d(truth, logits.shape[-1])
        if wanted.shape[-1] > SIDE:
            raise ValueError("the mask grid is finer than the input")
        wanted = wanted[:, None].expand_as(logits)
        shares = logits.sigmoid()
        dice = 1 - (2 * (shares * wanted).sum((-1, -2)) + 1) / ((shares + wanted).sum((-1, -2)) + 1)
        fit = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        loss = fit + dice.mean() + 0.1 * (found.iou_scores - 0.9).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def _lesson(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, ...]:
    """Inputs [N, 3, S, S], boxes [N, 1, 4] as pixel numbers, and masks [N, 1, S, S]."""
    grey = np.empty((count, SIDE, SIDE), np.float32)
    boxes, truth = np.empty((count, 1, 4), np.float32), np.empty((count, 1, SIDE, SIDE), np.float32)
    for k in range(count):
        long = rng.uniform(0.1, 0.3) * SIDE
        cx, cy = rng.uniform(0.2, 0.8, 2) * SIDE
        angle, across = rng.uniform(0, math.pi), long * rng.uniform(0.35, 0.9)
        inside = ellipse((SIDE, SIDE), cx, cy, long, across, angle) >= 1
        grey[k] = np.where(inside, BRIGHT, DARK) + rng.normal(0, 5, (SIDE, SIDE))
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        boxes[k], truth[k] = np.array(edges) - 0.5, inside
    pixels = (grey[:, None] / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    return (
        torch.from_numpy(pixels.astype(np.float32)),
        torch.from_numpy(boxes),
        torch.from_numpy(truth),
    )
