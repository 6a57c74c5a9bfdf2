"""SAM and SAM 2 of the real classes, small enough for a test, with fixed random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 64  # input pixels a side; masks come on a grid of SIDE / 4
WIDTH = 16


def sam_model() -> Any:
    from transformers.models.sam.configuration_sam import SamConfig
    from transformers.models.sam.modeling_sam import SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": WIDTH,
            "output_channels": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [0],
            "num_pos_feats": WIDTH // 2,
            "mlp_dim": 2 * WIDTH,
        },
        prompt_encoder_config={
            "hidden_size": WIDTH,
            "image_size": SIDE,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 2 * WIDTH,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
        },
    )
    return _seeded(SamModel, config)


def _sam2_parts() -> dict[str, Any]:
    quarter = SIDE // 4
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [SIDE, SIDE],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 4, 4, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [2, 2],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[quarter >> k] * 2 for k in range(3)],
            "fpn_hidden_size": WIDTH,
        },
        "prompt_encoder_config": {
            "hidden_size": WIDTH,
            "image_size": SIDE,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "mlp_dim": 2 * WIDTH,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": WIDTH,
        },
    }


def sam2_model() -> Any:
    from transformers.models.sam2.configuration_sam2 import Sam2Config
    from transformers.models.sam2.modeling_sam2 import Sam2Model

    return _seeded(Sam2Model, Sam2Config(**_sam2_parts()))


def _seeded(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def save_sam(folder: Path, family: str) -> Path:
    """A folder as on the hub: config.json, model.safetensors, preprocessor_config.json."""
    model = {"sam": sam_model, "sam2": sam2_model}[family]()
    model.save_pretrained(folder)
    size = {"longest_edge": SIDE} if family == "sam" else {"height": SIDE, "width": SIDE}
    processor = {
        "size": size,
        "do_pad": family == "sam",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
