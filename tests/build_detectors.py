"""Detectors of transformers' real classes, small, with random weights, as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

_logging: Any = logging
_logging.disable_progress_bar()

WORDS = ("an", "aerial", "photo", "of", "a", "plane", "ship", "storage", "tank", "harbour", ".")


def _resnet(**keys: Any) -> Any:
    from transformers import ResNetConfig

    kind: Any = ResNetConfig
    return kind(**keys)


def _saved(kind: Any, config: Any, folder: Path, processor: Any) -> Path:
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = kind(config).eval()
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def yolos(folder: Path, names: tuple[str, ...]) -> Path:
    from transformers import YolosConfig, YolosForObjectDetection
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=[64, 96], patch_size=16, num_detection_tokens=12, initializer_range=0.5,
        id2label=dict(enumerate(names)), label2id={n: k for k, n in enumerate(names)},
    )  # fmt: skip
    size = {"shortest_edge": 64, "longest_edge": 96}
    return _saved(YolosForObjectDetection, config, folder, YolosImageProcessorPil(size=size))


def detr(folder: Path, names: tuple[str, ...]) -> Path:
    """With a ResNet of transformers itself: its usual backbone needs another package."""
    from transformers import DetrConfig, DetrForObjectDetection
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

    backbone = _resnet(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    kind: Any = DetrConfig
    config = kind(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=10, init_std=0.5,
        id2label=dict(enumerate(names)), label2id={n: k for k, n in enumerate(names)},
    )  # fmt: skip
    size = {"shortest_edge": 64, "longest_edge": 128}
    return _saved(DetrForObjectDetection, config, folder, DetrImageProcessorPil(size=size))


def owlvit(folder: Path, second: bool = False) -> Path:
    """OWL-ViT, or OWLv2, with a tokenizer of a few words."""
    if second:
        from transformers import Owlv2Config as Config
        from transformers import Owlv2ForObjectDetection as Kind
        from transformers.models.owlv2.image_processing_pil_owlv2 import (
            Owlv2ImageProcessorPil as Processor,
        )
    else:
        from transformers import OwlViTConfig as Config  # type: ignore[assignment]
        from transformers import OwlViTForObjectDetection as Kind  # type: ignore[assignment]
        from transformers.models.owlvit.image_processing_pil_owlvit import (  # type: ignore[assignment]
            OwlViTImageProcessorPil as Processor,
        )
    layers = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "initializer_range": 0.5,
    }  # fmt: skip
    config = Config(
        text_config={**layers, "vocab_size": 64, "max_position_embeddings": 16,
                     "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config={**layers, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    _tokenizer(folder, "CLIPTokenizer")
    side = {"height": 64, "width": 64}
    return _saved(Kind, config, folder, Processor(size=side))


def grounding_dino(folder: Path) -> Path:
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
    )
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    backbone = _resnet(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    kind: Any = GroundingDinoConfig
    config = kind(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False,
        text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=9,
        fusion_droppath=0.0, max_text_len=64,
    )  # fmt: skip
    _tokenizer(folder, "BertTokenizer")
    size = {"shortest_edge": 64, "longest_edge": 128}
    processor = GroundingDinoImageProcessorPil(size=size)
    return _saved(GroundingDinoForObjectDetection, config, folder, processor)


def _tokenizer(folder: Path, kind: str) -> None:
    """A word-level tokenizer of one of the two families."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = {word: k for k, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    kinds: Any = PreTrainedTokenizerFast
    fast = kinds(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_input_names=names if kind == "BertTokenizer" else names[::2],
    )  # fmt: skip
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class":
                                "PreTrainedTokenizerFast"}))  # fmt: skip
