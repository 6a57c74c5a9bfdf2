"""open_clip's weights of a CLIP (a .pt of RemoteCLIP, say) -> a folder of transformers.

The two libraries hold the same network under other names; open_clip keeps the projections to
the common space as [width, D] (transformers: [D, width]) and the queries, keys and values of
an attention in one matrix. Every tensor of the file is used exactly once, or none is.

Source of names: the state dict of open_clip's `CLIP` with a `VisionTransformer`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsgen.devices import memory_error
from rsgen.errors import SetupError, UsageError
from rsgen.hints import check_path
from rsgen.images import sha256_file
from rsgen.models.base import ModelRef
from rsgen.models.choice import tokenizer_files
from rsgen.models.fetch import Unreachable, cached_folder, fetch_model
from rsgen.models.processing import CLIP_MEAN, CLIP_STD, silence_transformers
from rsgen.models.state_files import read_state
from rsgen.models.weight_files import share_weights

__all__ = ["ConvertedClip", "convert_clip"]

HEAD_WIDTH = 64  # of one attention head, in every CLIP of open_clip's and OpenAI's
BICUBIC = 3
RECORD = "conversion.json"
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.")
_BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@dataclass(frozen=True)
class ConvertedClip:
    """What was made, and from what. `tensors` counts those of the file."""

    folder: Path
    source: str
    sha256: str
    tensors: int
    image_size: int
    dimension: int
    quick_gelu: bool

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "folder": str(self.folder),
            "source": self.source,
            "sha256": self.sha256,
            "tensors": self.tensors,
            "image_size": self.image_size,
            "dimension": self.dimension,
            "quick_gelu": self.quick_gelu,
        }


def convert_clip(
    file: Path, tokenizer: str, out: Path, *, quick_gelu: bool = True
) -> ConvertedClip:
    """Write a CLIP folder (safetensors, settings, tokenizer) from open_clip's weights.

    Args:
        file: a state dict, or a training checkpoint with one under `state_dict`.
        tokenizer: a folder or hub:ORG/NAME with CLIP's vocabulary, which the file lacks.
        out: a new folder; it appears only when it is whole.
        quick_gelu: which activation the weights were trained with; the file does not say.
            OpenAI's weights, and what was trained on from them, have it.

    Raises:
        UsageError: a missing file, or `out` exists.
        SetupError: no weights of a CLIP with vision transformer, or another vocabulary.
    """
    if not file.is_file():
        raise UsageError(f"--convert-clip {file}: no such file", hint=check_path(file))
    if out.exists():
        raise UsageError(f"--out {out}: it exists already", hint="name a new folder")
    silence_transformers()
    state = read_state(file)
    count = len(state)
    renamed, sizes = _translated(state, file)
    words = _tokenizer(tokenizer, sizes["text"]["vocab_size"], file)
    sizes["text"] |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    model = _network(renamed, sizes, "quick_gelu" if quick_gelu else "gelu", file)
    made = ConvertedClip(
        out, file.name, sha256_file(file), count, sizes["vision"]["image_size"],
        sizes["dimension"], quick_gelu,
    )  # fmt: skip
    _write(out, model, words, made, tokenizer)
    return made


# ---------------------------------------------------------------- reading


class _Source:
    """Tensors of the file, each to be taken once."""

    def __init__(self, state: Mapping[str, Tensor], file: Path) -> None:
        self._left, self._file = dict(state), file

    def take(self, name: str) -> Tensor:
        if name not in self._left:
            raise SetupError(
                f"{self._file}: it lacks {name}, which a CLIP of open_clip has",
                hint="give the weights of ViT-B-32, ViT-L-14 or another CLIP with a vision "
                "transformer, whole",
            )
        return self._left.pop(name).float()

    def blocks(self, prefix: str) -> int:
        """How many transformer blocks there are under visual. or at the root."""
        matches = (_BLOCK.match(name) for name in self._left)
        numbers = [int(m.group(2)) for m in matches if m and (m.group(1) or "") == prefix]
        return max(numbers, default=-1) + 1

    def check_empty(self) -> None:
        if self._left:
            names = sorted(self._left)
            raise SetupError(
                f"{self._file}: {len(names)} tensors have no place in transformers' CLIP: "
                f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}",
                hint="another kind of model than open_clip's CLIP with a vision transformer; "
                "look for its folder in transformers' layout",
            )


# ---------------------------------------------------------------- names and sizes


def _translated(
    state: Mapping[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by transformers' names, sizes for its configuration)."""
    if any(name.startswith(("visual.layer1.", "visual.attnpool.")) for name in state):
        raise SetupError(
            f"{file}: a CLIP with a ResNet (RN50); transformers has no such network",
            hint="take ViT-B-32 or ViT-L-14",
        )
    source = _Source(state, file)
    made: dict[str, Tensor] = {}
    patches = source.take("visual.conv1.weight")
    made["vision_model.embeddings.patch_embedding.weight"] = patches
    made["vision_model.embeddings.class_embedding"] = source.take("visual.class_embedding")
    places = source.take("visual.positional_embedding")
    made["vision_model.embeddings.position_embedding.weight"] = places
    _norm(source, made, "visual.ln_pre", "vision_model.pre_layrnorm")
    _norm(source, made, "visual.ln_post", "vision_model.post_layernorm")
    made["visual_projection.weight"] = source.take("visual.proj").T.contiguous()
    vision = _encoder(source, made, "visual.", "vision_model", file)

    tokens = source.take("token_embedding.weight")
    made["text_model.embeddings.token_embedding.weight"] = tokens
    order = source.take("positional_embedding")
    made["text_model.embeddings.position_embedding.weight"] = order
    _norm(source, made, "ln_final", "text_model.final_layer_norm")
    projection = source.take("text_projection")
    made["text_projection.weight"] = projection.T.contiguous()
    made["logit_scale"] = source.take("logit_scale").reshape(())
    text = _encoder(source, made, "", "text_model", file)
    source.check_empty()

    side, patch = math.isqrt(len(places) - 1), int(patches.shape[-1])
    if side * side + 1 != len(places):
        raise SetupError(f"{file}: {len(places)} places are not a square of patches and one more")
    dimension = int(projection.shape[-1])
    vision |= {"patch_size": patch, "image_size": side * patch, "projection_dim": dimension}
    text |= {
        "vocab_size": len(tokens),
        "max_position_embeddings": len(order),
        "projection_dim": dimension,
    }
    return made, {"vision": vision, "text": text, "dimension": dimension}


def _norm(source: _Source, made: dict[str, Tensor], theirs: str, ours: str) -> None:
    for part in ("weight", "bias"):
        made[f"{ours}.{part}"] = source.take(f"{theirs}.{part}")


def _encoder(
    source: _Source, made: dict[str, Tensor], prefix: str, ours: str, file: Path
) -> dict[str, Any]:
    """Rename the blocks of one transformer; its sizes."""
    count = source.blocks(prefix)
    width = hidden = 0
    for k in range(max(count, 1)):
        theirs, block = f"{prefix}transformer.resblocks.{k}", f"{ours}.encoder.layers.{k}"
        for part in ("weight", "bias"):
            joined = source.take(f"{theirs}.attn.in_proj_{part}")
            for name, third in zip("qkv", joined.chunk(3), strict=True):
                made[f"{block}.self_attn.{name}_proj.{part}"] = third.contiguous()
        for part, name in _BLOCK_PARTS.items():
            _norm(source, made, f"{theirs}.{part}", f"{block}.{name}")
        hidden, width = made[f"{block}.mlp.fc1.weight"].shape
    if width % HEAD_WIDTH:
        raise SetupError(
            f"{file}: a transformer of width {width}; CLIP's attention heads are {HEAD_WIDTH} wide",
            hint="another network than open_clip's ViT-B-32, ViT-B-16 or ViT-L-14",
        )
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": count,
        "num_attention_heads": width // HEAD_WIDTH,
    }


# ---------------------------------------------------------------- the parts of the folder


def _tokenizer(reference: str, rows: int, file: Path) -> Any:
    """CLIP's tokenizer, checked against the embedding of the file."""
    from transformers import CLIPTokenizer

    ref = ModelRef.parse(reference)
    if ref.kind == "embedded":
        raise UsageError("--tokenizer tiny: its words are not CLIP's", hint=_HINT)
    if ref.kind == "hub":
        folder = _hub_tokenizer(ref)
    else:
        folder = Path(ref.location).expanduser()
    whole = (folder / "tokenizer.json").is_file()
    if not whole and not all((folder / n).is_file() for n in ("vocab.json", "merges.txt")):
        raise UsageError(
            f"--tokenizer {reference}: no vocab.json and merges.txt, and no tokenizer.json there",
            hint=_HINT,
        )
    kind: Any = CLIPTokenizer
    try:
        found = kind.from_pretrained(folder, local_files_only=True)
        ids = found(["a"])["input_ids"][0]
    except Exception as error:  # transformers raises a dozen kinds over a bad folder
        raise SetupError(
            f"--tokenizer {reference}: it cannot be loaded ({type(error).__name__}: {error})",
            hint=_HINT,
        ) from error
    ends = (found.bos_token_id, found.eos_token_id)
    # open_clip reads a text's vector at its largest number, which has to be the end's.
    if len(found) != rows or (ids[0], ids[-1]) != ends or ends[1] != rows - 1:
        raise SetupError(
            f"--tokenizer {reference}: {len(found)} entries, a text ends with {ids[-1]}; the "
            f"weights in {file} have {rows} entries, and a text ends with {rows - 1}",
            hint=_HINT,
        )
    return found


def _hub_tokenizer(ref: ModelRef) -> Path:
    """The tokenizer's files alone; without a network what the cache has."""
    given = (ref.location, ref.revision, ref.subfolder)
    try:
        return fetch_model(*given, verify=False, choose=tokenizer_files).folder
    except Unreachable:
        cached = cached_folder(*given)
        if cached is None:
            raise
        return cached


_HINT = "give --tokenizer hub:openai/clip-vit-base-patch32, or a folder of its vocabulary"


def _network(
    tensors: Mapping[str, Tensor], sizes: Mapping[str, Any], activation: str, file: Path
) -> Any:
    from transformers import CLIPConfig, CLIPModel

    kind: Any = CLIPConfig
    config = kind(
        text_config={**sizes["text"], "hidden_act": activation},
        vision_config={**sizes["vision"], "hidden_act": activation},
        projection_dim=sizes["dimension"],
    )
    network: Any = CLIPModel
    try:
        with torch.device("meta"):
            model = network(config)
        model.load_state_dict(dict(tensors), strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        raise memory_error(error) or SetupError(
            f"{file}: its tensors do not fit together ({str(error).splitlines()[-1].strip()})",
            hint="download it again",
        ) from error
    return model


def _write(out: Path, model: Any, words: Any, made: ConvertedClip, tokenizer: str) -> None:
    """All files into a folder beside, which then takes its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.rsgen-part-{os.getpid()}")
    side = made.image_size
    prepared = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "do_convert_rgb": True,
    }
    record = {**made.to_json(), "folder": None, "layout": "open_clip", "tokenizer": tokenizer}
    record = {key: value for key, value in record.items() if value is not None}
    if ModelRef.parse(tokenizer).kind != "hub":
        record["tokenizer"] = Path(tokenizer).name
    try:
        model.save_pretrained(part)
        words.save_pretrained(part)
        for name, row in (("preprocessor_config.json", prepared), (RECORD, record)):
            (part / name).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        share_weights(part)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
