"""CLIP, SigLIP and CLIPSeg of transformers' real classes, small, random weights, as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

_logging: Any = logging
_logging.disable_progress_bar()

SIDE, PATCH, LIMIT = 32, 8, 48
MERGES = ("s h", "sh i", "shi p</w>", "p l", "a n", "pl an", "plan e</w>", "o f</w>")


def clip_words(folder: Path, *, whole: bool = False) -> Path:
    """CLIP's tokenizer with eight merges: vocab.json and merges.txt, or tokenizer.json."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    entries = [*letters, *(letter + "</w>" for letter in letters)]
    entries += ["".join(pair.split()) for pair in MERGES]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {entry: k for k, entry in enumerate(entries)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    if whole:
        kind: Any = CLIPTokenizer
        kind.from_pretrained(folder).save_pretrained(folder)
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
    return folder


def word_count() -> int:
    return 2 * 256 + len(MERGES) + 2


def _text(**more: Any) -> dict[str, Any]:
    entries = word_count()
    return {
        "vocab_size": entries, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 1, "max_position_embeddings": LIMIT, "bos_token_id": entries - 2,
        "eos_token_id": entries - 1, "initializer_factor": 3.0, **more,
    }  # fmt: skip


def _vision(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
        "initializer_factor": 3.0, **more,
    }  # fmt: skip


def clip_model(activation: str = "quick_gelu") -> Any:
    """Every tensor is random, also biases and norms, so that a swap of two shows."""
    from transformers import CLIPConfig, CLIPModel

    kind: Any = CLIPConfig
    config = kind(
        text_config=_text(projection_dim=24, hidden_act=activation),
        vision_config=_vision(projection_dim=24, hidden_act=activation),
        projection_dim=24,
    )
    return shaken(CLIPModel, config)


def shaken(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if tensor.ndim == 1:
                    tensor += 0.2 * torch.randn_like(tensor)
                if name == "logit_scale":
                    tensor.fill_(3.0)
    return model


def clip(folder: Path, activation: str = "quick_gelu") -> Path:
    """A folder as on the hub."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    clip_model(activation).save_pretrained(folder)
    kind: Any = CLIPImageProcessorPil
    size, cut = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    kind(size=size, crop_size=cut).save_pretrained(folder)
    return clip_words(folder)


def siglip(folder: Path) -> Path:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    layers = {"intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    kind: Any = SiglipConfig
    config = kind(
        text_config={**layers, "hidden_size": 32, "vocab_size": word_count(),
                     "max_position_embeddings": LIMIT, "projection_size": 32},
        vision_config={**layers, "hidden_size": 32, "image_size": SIDE, "patch_size": PATCH},
    )  # fmt: skip
    shaken(SiglipModel, config).save_pretrained(folder)
    processor: Any = SiglipImageProcessorPil
    processor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    clip_words(folder, whole=True)
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings))
    return folder


def as_open_clip(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a transformers CLIP by open_clip's names; written from its model's code."""
    theirs = model.state_dict()
    made: dict[str, torch.Tensor] = {
        "logit_scale": theirs["logit_scale"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T,
        "visual.proj": theirs["visual_projection.weight"].T,
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": theirs["vision_model.embeddings.position_embedding.weight"],
    }
    for end in ("weight", "bias"):
        made[f"ln_final.{end}"] = theirs[f"text_model.final_layer_norm.{end}"]
        made[f"visual.ln_pre.{end}"] = theirs[f"vision_model.pre_layrnorm.{end}"]
        made[f"visual.ln_post.{end}"] = theirs[f"vision_model.post_layernorm.{end}"]
        for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
            depth = getattr(model.config, tower.replace("model", "config")).num_hidden_layers
            for k in range(depth):
                old, new = f"{tower}.encoder.layers.{k}", f"{prefix}transformer.resblocks.{k}"
                qkv = [theirs[f"{old}.self_attn.{c}_proj.{end}"] for c in "qkv"]
                made[f"{new}.attn.in_proj_{end}"] = torch.cat(qkv)
                made[f"{new}.attn.out_proj.{end}"] = theirs[f"{old}.self_attn.out_proj.{end}"]
                made[f"{new}.ln_1.{end}"] = theirs[f"{old}.layer_norm1.{end}"]
                made[f"{new}.ln_2.{end}"] = theirs[f"{old}.layer_norm2.{end}"]
                made[f"{new}.mlp.c_fc.{end}"] = theirs[f"{old}.mlp.fc1.{end}"]
                made[f"{new}.mlp.c_proj.{end}"] = theirs[f"{old}.mlp.fc2.{end}"]
    return {name: tensor.clone().contiguous() for name, tensor in made.items()}


def clipseg_model(side: int = 64) -> Any:
    """A CLIPSegForImageSegmentation; its maps have the input's size."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    kind: Any = CLIPSegConfig
    config = kind(
        text_config=_text(hidden_size=32, num_attention_heads=2, initializer_factor=1.0),
        vision_config=_vision(hidden_size=32, intermediate_size=64, patch_size=4, image_size=side,
                              num_hidden_layers=2, initializer_factor=1.0),
        projection_dim=16, extract_layers=[0, 1], reduce_dim=16, decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )  # fmt: skip
    return shaken(CLIPSegForImageSegmentation, config)


def clipseg(folder: Path, model: Any = None, side: int = 64) -> Path:
    """A folder as on the hub: its image processor is ViT's."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    (clipseg_model(side) if model is None else model).save_pretrained(folder)
    processor: Any = ViTImageProcessorPil
    size = {"height": side, "width": side}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor(size=size, image_mean=mean, image_std=std).save_pretrained(folder)
    return clip_words(folder)


def seeing_clipseg(steps: int = 120) -> Any:
    """A CLIPSeg that shows bright objects to whatever text; taught at its own input size, by
    the definition of its frame: none of rsgen's cropping and placing takes part."""
    import numpy as np

    from tests import build_sam

    rng = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        model = clipseg_model(build_sam.SIDE)
        torch.manual_seed(0)
        optimiser = torch.optim.AdamW(model.parameters(), 6e-3)
        model.train()
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 6e-3 * min(1.0, (step + 1) / 10) * (1 - step / steps)
            pixels, _, truth = build_sam._lesson(rng, 8)
            texts = torch.randn(len(pixels), 16)
            found = model(pixel_values=pixels, conditional_embeddings=texts)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                found.logits, truth[:, 0].to(found.logits)
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval().requires_grad_(False)
