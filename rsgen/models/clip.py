"""CLIP and SigLIP of transformers: pictures and texts in, unit vectors of one space out.

A text and a picture that fit each other have a large scalar product. Neither kind of model
writes texts: it can rank the ones that it is given. No torchvision, safetensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rsgen.devices import memory_error
from rsgen.errors import SetupError, UsageError
from rsgen.images import Pixels, sha256_file
from rsgen.models.base import ModelRef, model_folder, model_hash
from rsgen.models.processing import PixelPreparation
from rsgen.models.whole import load_whole
from rsgen.request import digest

__all__ = ["CLIP_FAMILIES", "Clip", "clip_folder", "clip_hash", "load_tokenizer"]

CLIP_FAMILIES = ("clip", "siglip")
EXAMPLE = "hub:openai/clip-vit-large-patch14"
HALF = (0.5, 0.5, 0.5)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
READ_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
Vectors = npt.NDArray[np.float32]


def clip_folder(model: str) -> Path:
    """The local folder of a CLIP or SigLIP reference.

    Raises:
        UsageError: no such folder, or another kind of model.
        SetupError: out of reach, incomplete, or only pickle weights.
    """
    path = Path(model).expanduser()
    if path.is_file() and path.suffix in (".pt", ".pth"):
        raise SetupError(
            f"{path}: open_clip's weights; rsgen reads safetensors only",
            hint=f"convert it once: rsgen doctor --convert-clip {path} "
            "--tokenizer hub:openai/clip-vit-base-patch32 --out FOLDER",
        )
    folder = model_folder(ModelRef.parse(model))
    _family(folder)
    return folder


def _family(folder: Path) -> str:
    path = folder / "config.json"
    if (folder / "model_index.json").is_file():
        raise UsageError(f"model {folder}: a diffusion pipeline, no CLIP", hint=f"give {EXAMPLE}")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise SetupError(f"{path}: not readable ({error})", hint="download it again") from error
    if kind not in CLIP_FAMILIES:
        raise UsageError(
            f"model {folder}: its config.json says {kind!r}; texts and pictures are compared by "
            f"{' and '.join(CLIP_FAMILIES)}",
            hint=f"give {EXAMPLE}, or a folder of such a model",
        )
    return str(kind)


def clip_hash(folder: Path) -> str:
    """32 hex digits over the weights, and over how pixels and texts are prepared for them."""
    files = [folder / name for name in READ_FILES]
    prepared = [[p.name, sha256_file(p)] for p in files if p.is_file()]
    return digest([model_hash(folder), prepared])


class Clip:
    """A loaded model. `dimension` D of its vectors; `token_limit` of a text, ends included.

    `scale` is what scalar products are multiplied by before a softmax over texts.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preparation: PixelPreparation,
        family: str,
        device: str,
        dtype: str,
    ) -> None:
        self.preparation = preparation
        self.family = family
        self.scale = float(model.logit_scale.exp())
        self.token_limit = int(model.config.text_config.max_position_embeddings)
        self._model, self._tokenizer = model, tokenizer
        self._device, self._dtype = device, DTYPES[dtype]

    @classmethod
    def load(cls, reference: str | Path, device: str = "cpu", dtype: str = "fp32") -> Clip:
        """Open a folder or hub:ORG/NAME.

        Raises:
            UsageError, SetupError: see `clip_folder`; or files that do not make such a model.
            OutOfMemory: it does not fit the device.
        """
        folder = clip_folder(str(reference))
        family = _family(folder)
        model = load_whole(_model_class(family), folder, family, device)
        tokenizer = load_tokenizer(folder)
        side = int(model.config.vision_config.image_size)
        usual = (
            PixelPreparation((side, side), (side, side), keep_aspect=True)
            if family == "clip"
            else PixelPreparation((side, side), mean=HALF, std=HALF)
        )
        preparation = PixelPreparation.read(folder, usual)
        if preparation.input_size != (side, side):
            raise SetupError(
                f"{folder}: its preprocessor makes {preparation.input_size}, the network takes "
                f"{side} x {side}",
                hint="the folder mixes files of two models: download it again",
            )
        words, rows = len(tokenizer), int(model.config.text_config.vocab_size)
        if words > rows:
            raise SetupError(
                f"{folder}: its tokenizer has {words} entries, the network {rows}",
                hint="the folder mixes files of two models: download it again",
            )
        return cls(model, tokenizer, preparation, family, device, dtype)

    @property
    def dimension(self) -> int:
        config = self._model.config
        return int(
            config.projection_dim if self.family == "clip" else config.vision_config.hidden_size
        )

    def embed_images(self, images: Sequence[Pixels], batch_size: int = 16) -> Vectors:
        """Unit vectors float32 [N, D] of uint8 [H, W, 3] RGB pictures, each of its own size.

        Raises:
            OutOfMemory: a batch does not fit.
        """
        found = [np.zeros((0, self.dimension), dtype=np.float32)]
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            pixels = np.stack([self.preparation.pixels(image) for image in batch])
            found.append(self._unit("get_image_features", pixel_values=torch.from_numpy(pixels)))
        return np.concatenate(found)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> Vectors:
        """Unit vectors float32 [N, D].

        Raises:
            UsageError: a text of more tokens than the model reads.
            OutOfMemory: a batch does not fit.
        """
        self.check_texts(texts)
        found = [np.zeros((0, self.dimension), dtype=np.float32)]
        filling: dict[str, Any] = {"padding": True}
        if self.family == "siglip":  # trained on texts filled up, it looks at the filling too
            filling = {"padding": "max_length", "max_length": self.token_limit}
        for start in range(0, len(texts), batch_size):
            made = self._tokenizer(
                list(texts[start : start + batch_size]),
                return_tensors="pt",
                **filling,
            )
            keys = ("input_ids",) if self.family == "siglip" else ("input_ids", "attention_mask")
            found.append(self._unit("get_text_features", **{key: made[key] for key in keys}))
        return np.concatenate(found)

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuse what the model would read only the beginning of.

        Raises:
            UsageError: a text of more tokens than the model reads.
        """
        if not texts:
            return
        for text, tokens in zip(texts, self._tokenizer(list(texts))["input_ids"], strict=True):
            if len(tokens) > self.token_limit:
                raise UsageError(
                    f"text {text[:60]!r}... has {len(tokens)} tokens, the model reads "
                    f"{self.token_limit}",
                    hint="shorten it",
                )

    def _unit(self, method: str, **inputs: Tensor) -> Vectors:
        low = self._dtype != torch.float32
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device, dtype=self._dtype, enabled=low),
            ):
                given = {name: tensor.to(self._device) for name, tensor in inputs.items()}
                found = getattr(self._model, method)(**given)
            vectors = (found if isinstance(found, Tensor) else found.pooler_output).float()
            unit = torch.nn.functional.normalize(vectors, dim=-1)
            return np.asarray(unit.cpu().numpy(), dtype=np.float32)
        except (RuntimeError, MemoryError) as error:
            raise (memory_error(error) or error) from error


def _model_class(family: str) -> Any:
    from transformers import CLIPModel, SiglipModel

    return CLIPModel if family == "clip" else SiglipModel


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder of CLIP's kin.

    Raises:
        SetupError: it has none, or one that cannot be loaded.
    """
    from transformers import AutoTokenizer

    if not any((folder / n).is_file() for n in ("tokenizer.json", "vocab.json", "spiece.model")):
        raise SetupError(  # transformers would make an empty one
            f"{folder}: it has no tokenizer (tokenizer.json, or vocab.json and merges.txt)",
            hint="download the folder again, with tokenizer files",
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise SetupError(
            f"{folder}: its tokenizer cannot be loaded ({type(error).__name__}: {error})",
            hint="download the folder again, with tokenizer files",
        ) from error
    return tokenizer
