"""Feature networks for distances: the judge's own maps, FID's Inception, or a vision model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rsgen.errors import SetupError, UsageError
from rsgen.evaluation.base import Evaluation
from rsgen.images import Pixels
from rsgen.judge.model import Judge
from rsgen.models.base import ModelRef, model_folder
from rsgen.models.inception import MODEL_TYPE, Inception, load_inception

__all__ = [
    "FeatureNetwork",
    "InceptionFeatures",
    "JudgeFeatures",
    "VisionFeatures",
    "open_features",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class FeatureNetwork(Protocol):
    """Images -> one vector each. `name` is what figures are called by."""

    @property
    def name(self) -> str: ...

    def features(self, images: Pixels) -> npt.NDArray[np.float32]:
        """float32 [N, D] of uint8 [N, H, W, 3] RGB."""
        ...


@dataclass(frozen=True)
class JudgeFeatures:
    """Means and spreads of the judge's feature map."""

    judge: Judge
    name: str = "judge"

    def features(self, images: Pixels) -> npt.NDArray[np.float32]:
        return self.judge.features(images)


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2,048 pooled features that FID and KID are defined on, at 299 px as in TensorFlow 1."""

    network: Inception
    device: str
    name: str = "Inception"

    @torch.no_grad()
    def features(self, images: Pixels) -> npt.NDArray[np.float32]:
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        found = self.network(pixels.to(self.device))
        return np.asarray(found.cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True)
class VisionFeatures:
    """The pooled output of a vision model; CLIP's projected image embedding.

    Both edges are resized to the model's side with bicubic filtering, as CMMD's protocol does.
    """

    model: Any
    name: str
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str

    @torch.no_grad()
    def features(self, images: Pixels) -> npt.NDArray[np.float32]:
        method = Image.Resampling.BICUBIC
        resized = [np.asarray(Image.fromarray(i).resize((self.side, self.side), method))
                   for i in images]  # fmt: skip
        values = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        pixels = ((values - mean) / std).to(self.device)
        output = self.model(pixel_values=pixels)
        pooled = getattr(output, "image_embeds", None)
        if pooled is None:
            pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            pooled = output.last_hidden_state.flatten(2).mean(dim=-1)
        return np.asarray(pooled.flatten(1).float().cpu().numpy(), dtype=np.float32)


def open_features(evaluation: Evaluation) -> FeatureNetwork:
    """The network that `evaluate.features` names.

    Raises:
        UsageError: no vision model. SetupError: files are missing or cannot be loaded.
    """
    wanted = evaluation.settings.features
    if wanted == "judge":
        return JudgeFeatures(evaluation.judge)
    return public_features(model_folder(ModelRef.parse(wanted)), evaluation.device)


def public_features(folder: Path, device: str) -> FeatureNetwork:
    """FID's Inception or a vision model of transformers from its folder (safetensors)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"evaluate.features {folder}: no vision model ({error})",
            hint="give judge, or a folder or hub model of transformers such as "
            "hub:openai/clip-vit-large-patch14-336",
        ) from error
    kind = str(config.get("model_type", ""))
    if kind == MODEL_TYPE:
        return InceptionFeatures(load_inception(folder, device), device)
    clip = kind.startswith("clip")
    model = _loaded(folder, clip, device)
    prepared = _prepared(folder)
    side = int(_side(prepared) or _side(config.get("vision_config", config)) or 224)
    mean, std = (CLIP_MEAN, CLIP_STD) if clip else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return VisionFeatures(
        model,
        "CLIP" if clip else kind or "vision",
        side,
        tuple(prepared.get("image_mean", mean)),
        tuple(prepared.get("image_std", std)),
        device,
    )


def _loaded(folder: Path, clip: bool, device: str) -> Any:
    import transformers

    loader: Any = transformers.CLIPVisionModelWithProjection if clip else transformers.AutoModel
    try:
        model = loader.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except Exception as error:  # transformers raises a dozen kinds over a bad folder
        raise SetupError(
            f"{folder}: not a vision model that can be loaded ({type(error).__name__}: "
            f"{(str(error) or '-').splitlines()[0]})",
            hint="download it again, with its safetensors",
        ) from error
    return model.to(device).eval().requires_grad_(False)


def _prepared(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _side(row: Any) -> int | None:
    """The input's side in a preprocessor's or a network's configuration."""
    if not isinstance(row, dict):
        return None
    for key in ("crop_size", "size", "image_size"):
        value = row.get(key)
        if isinstance(value, dict):
            value = value.get("height") or value.get("shortest_edge")
        if isinstance(value, int):
            return value
    return None
