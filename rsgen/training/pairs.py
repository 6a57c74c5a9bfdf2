"""What the diffusion tasks learn from: image, layout, text, noise and level of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rsgen.losses import object_weights
from rsgen.records import ClassTable, Layout
from rsgen.store import item_seed
from rsgen.training.latents import LatentViews

__all__ = ["Encoder", "PairSettings", "TrainingPairs", "draw_timesteps"]

Encoder = Callable[[Layout], np.ndarray]


@dataclass(frozen=True)
class PairSettings:
    """How training pairs are drawn."""

    seed: int
    size: int
    caption_dropout: float
    hint_dropout: float
    object_weight: float
    timesteps: str  # "uniform" | "logit-normal"
    own_prompts: bool = True  # a sample's own goes before that of its layout


class TrainingPairs:
    """Draws the batch of a step; everything random follows from (seed, step, position)."""

    def __init__(
        self,
        views: LatentViews,
        classes: ClassTable,
        settings: PairSettings,
        *,
        tokenize: Callable[[Sequence[str]], Tensor],
        prompt: Callable[[Layout], str],
        encode: Encoder | None,
        levels: int,
    ) -> None:
        """`encode` gives a layout's condition, None for a model without one.

        `levels` is the length of the noise schedule.
        """
        self.views, self.classes, self.settings = views, classes, settings
        self.tokenize, self.prompt, self.encode, self.levels = tokenize, prompt, encode, levels

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """Samples start..stop of a step, a pure function of its arguments.

        latents and noise [N, C, h, w], timesteps [N], tokens [N, L], weights [N, 1, h, w] of
        mean 1. With an encoder also condition [N, K, H, W] in [0, 1] and kept [N]: 0 where the
        condition was dropped, else 1. With views that keep pixels also image [N, 3, H, W] in
        [0, 1].
        """
        settings, items = self.settings, len(self.views.images)
        draws = [
            np.random.default_rng(item_seed(settings.seed, "train", f"{step}/{position}"))
            for position in range(start, stop)
        ]
        keys = [(int(rng.integers(items)), int(rng.integers(2**31))) for rng in draws]
        views = self.views.get(keys)
        latents = np.stack([view.latent for view in views])
        noise = np.stack([rng.standard_normal(latents.shape[1:], np.float32) for rng in draws])
        steps = [draw_timesteps(rng, settings.timesteps, self.levels) for rng in draws]
        texts = []
        for rng, view in zip(draws, views, strict=True):
            own = view.prompt if settings.own_prompts else None
            text = own if own is not None else self.prompt(view.layout)
            texts.append("" if rng.random() < settings.caption_dropout else text)
        factor = settings.size // latents.shape[-1]
        weights = [
            object_weights(view.layout, self.classes, settings.object_weight, factor)
            for view in views
        ]
        batch = {
            "latents": torch.from_numpy(latents),
            "noise": torch.from_numpy(noise),
            "timesteps": torch.tensor(steps),
            "tokens": self.tokenize(texts),
            "weights": torch.from_numpy(np.stack(weights))[:, None],
        }
        if self.encode is not None:
            kept = [rng.random() >= settings.hint_dropout for rng in draws]
            conditions = [
                encoded if keep else np.zeros_like(encoded)
                for keep, encoded in zip(kept, (self.encode(v.layout) for v in views), strict=True)
            ]
            batch["condition"] = torch.from_numpy(np.stack(conditions))
            batch["kept"] = torch.tensor(kept, dtype=torch.float32)
        pixels = [view.pixels for view in views if view.pixels is not None]
        if pixels:
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            batch["image"] = images.to(torch.float32).div_(255).contiguous()
        return {name: tensor.to(device) for name, tensor in batch.items()}


def draw_timesteps(rng: np.random.Generator, kind: str, length: int) -> int:
    """One noise level in [0, length): uniform, or dense in the middle (logit-normal).

    Source: Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3.1.
    """
    if kind == "uniform":
        return int(rng.integers(length))
    share = 1 / (1 + np.exp(-rng.standard_normal()))
    return min(int(share * length), length - 1)
