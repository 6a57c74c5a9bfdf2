"""What turns pictures into features: judge A, an autoencoder, or a public vision model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.images import Pixels
from rsgen.rewards.base import RewardSetup

__all__ = [
    "AUTO",
    "ClipEncoder",
    "Encoder",
    "JudgeEncoder",
    "LatentEncoder",
    "VisionEncoder",
    "choose_encoder",
]

AUTO = "auto"
JUDGE, LATENTS = "judge", "latents"
BATCH = 16
GRID = 4  # latents are averaged on a lattice of so many cells a side
Features = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Pictures -> vectors. A row does not depend on what else is encoded."""

    @property
    def name(self) -> str: ...

    def identity(self) -> str:
        """The hash of what it looks with; loads no weights."""
        ...

    def features(self, images: Sequence[Pixels]) -> Features:
        """float32 [N, D] of uint8 [H, W, 3] RGB pictures of one size."""
        ...


@dataclass(frozen=True)
class JudgeEncoder:
    """Means and spreads of judge A's feature map: what is there and how it looks, not where."""

    judge: str
    device: str
    name: str = JUDGE

    def identity(self) -> str:
        from rsgen.judge.eyes import EyesRef

        return EyesRef.parse(JUDGE, self.judge).identity("reward")

    def features(self, images: Sequence[Pixels]) -> Features:
        from rsgen.scorers.detection import judge_features

        return _in_batches(lambda batch: judge_features(self.judge, batch, self.device), images)


@dataclass(frozen=True)
class LatentEncoder:
    """Latents of a checkpoint's autoencoder, averaged on a lattice."""

    model: str
    device: str
    name: str = LATENTS

    def identity(self) -> str:
        from rsgen.scorers.novelty import LatentNovelty

        return f"{LatentNovelty(self.model).model_hash()}/{GRID}"

    def features(self, images: Sequence[Pixels]) -> Features:
        from rsgen.scorers.novelty import LatentNovelty

        eyes = LatentNovelty(self.model, GRID, self.device)
        return _in_batches(lambda batch: np.asarray(eyes.signatures(batch), np.float32), images)


@dataclass(frozen=True)
class ClipEncoder:
    """The image vectors of CLIP, RemoteCLIP, GeoRSCLIP or SigLIP (a folder or hub:ORG/NAME)."""

    model: str
    device: str
    name: str = "clip"

    def identity(self) -> str:
        from rsgen.models.clip import clip_folder, clip_hash

        return clip_hash(clip_folder(self.model))

    def features(self, images: Sequence[Pixels]) -> Features:
        size = 1 if self.device == "cpu" else BATCH
        return np.asarray(_clip(self.model, self.device).embed_images(list(images), size))


@dataclass(frozen=True)
class VisionEncoder:
    """The pooled output of another vision model of transformers (DINOv2, ViT), or Inception."""

    model: str
    device: str
    name: str = "vision"

    def identity(self) -> str:
        from rsgen.images import sha256_file
        from rsgen.models.base import ModelRef, model_folder, model_hash
        from rsgen.request import digest

        folder = model_folder(ModelRef.parse(self.model))
        prepared = folder / "preprocessor_config.json"
        return digest([model_hash(folder), sha256_file(prepared) if prepared.is_file() else None])

    def features(self, images: Sequence[Pixels]) -> Features:
        network = _vision(self.model, self.device)
        return _in_batches(lambda batch: np.asarray(network.features(batch), np.float32), images)


@lru_cache(maxsize=1)
def _vision(model: str, device: str) -> Any:
    from rsgen.evaluation.features import public_features
    from rsgen.models.base import ModelRef, model_folder

    return public_features(model_folder(ModelRef.parse(model)), device)


@lru_cache(maxsize=1)
def _clip(model: str, device: str) -> Any:
    from rsgen.models.clip import Clip

    return Clip.load(model, device)


def _in_batches(encode: Any, images: Sequence[Pixels]) -> Features:
    parts = [
        encode(np.stack(images[start : start + BATCH])) for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def choose_encoder(name: str, setup: RewardSetup) -> Encoder:
    """The encoder of that name: auto (the judge's, else latents), judge, latents, or a model.

    Raises:
        UsageError: it has nothing to look with. SetupError: the model is out of reach.
    """
    if name == AUTO:
        name = JUDGE if setup.judge else LATENTS
    if name == JUDGE:
        if not setup.judge:
            raise UsageError(
                "reward distribution: encoder judge, and no judge was given",
                hint="add --judge JUDGES, or use encoder: latents",
            )
        return JudgeEncoder(setup.judge, setup.device)
    if name == LATENTS:
        if not setup.checkpoint:
            raise UsageError(
                "reward distribution: no encoder: neither a judge nor an autoencoder was given",
                hint="add --judge JUDGES, or the option encoder: FOLDER or hub:ORG/NAME",
            )
        return LatentEncoder(setup.checkpoint, setup.device)
    return _public(name, setup.device)


def _public(model: str, device: str) -> Encoder:
    """Of CLIP's kin the projected vectors, of others the pooled output."""
    from rsgen.models.base import ModelRef, model_folder
    from rsgen.models.clip import CLIP_FAMILIES

    path = model_folder(ModelRef.parse(model)) / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"reward distribution: encoder {model} is no vision model ({error})",
            hint="give judge, latents, or a model such as hub:openai/clip-vit-large-patch14",
        ) from error
    return (ClipEncoder if kind in CLIP_FAMILIES else VisionEncoder)(model, device)
