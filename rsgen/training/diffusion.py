"""The diffusion tasks: a UNet on text (base), and a ControlNet beside it (controlnet)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsgen.losses import min_snr_weight, object_weights, weighted_error
from rsgen.records import ClassTable, Layout
from rsgen.store import item_seed
from rsgen.training.latents import LatentViews

__all__ = ["DiffusionObjective", "DiffusionSettings", "Encoder", "draw_timesteps"]

Encoder = Callable[[Layout], np.ndarray]


@dataclass(frozen=True)
class DiffusionSettings:
    """How a training pair becomes a loss."""

    seed: int
    size: int
    caption_dropout: float
    hint_dropout: float
    object_weight: float
    timesteps: str  # "uniform" | "logit-normal"
    snr_gamma: float | None


class _DiffusionLoss(nn.Module):
    """Batch -> float [N]: weighted error of the predicted noise or velocity."""

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        controlnet: nn.Module | None,
        noise_schedule: Any,
        snr_gamma: float | None,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.controlnet = unet, text_encoder, controlnet
        self.noise_schedule, self.snr_gamma = noise_schedule, snr_gamma
        self.learns_text = any(p.requires_grad for p in text_encoder.parameters())

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        schedule = self.noise_schedule
        latents, noise, steps = batch["latents"], batch["noise"], batch["timesteps"]
        noisy = schedule.add_noise(latents, noise, steps)
        with torch.set_grad_enabled(self.learns_text and torch.is_grad_enabled()):
            text = self.text_encoder(batch["tokens"])[0]
        down, middle = None, None
        if self.controlnet is not None:
            down, middle = self.controlnet(
                noisy, steps, text, controlnet_cond=batch["condition"], return_dict=False
            )
        prediction = self.unet(
            noisy,
            steps,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        kind = str(schedule.config.prediction_type)
        target = noise if kind == "epsilon" else schedule.get_velocity(latents, noise, steps)
        loss = weighted_error(prediction, target, batch["weights"])
        if self.snr_gamma is not None:
            alphas = schedule.alphas_cumprod.to(steps.device)
            loss = loss * min_snr_weight(alphas, steps, self.snr_gamma, kind)
        return loss


class DiffusionObjective:
    """Draws pairs and levels for each step; learns whatever has `requires_grad` set."""

    def __init__(
        self,
        views: LatentViews,
        classes: ClassTable,
        settings: DiffusionSettings,
        *,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenize: Callable[[Sequence[str]], Tensor],
        controlnet: nn.Module | None,
        noise_schedule: Any,
        encode: Encoder | None,
        prompt: Callable[[Layout], str],
    ) -> None:
        self.views, self.classes, self.settings = views, classes, settings
        self.tokenize, self.encode, self.prompt = tokenize, encode, prompt
        self.schedule_length = int(noise_schedule.config.num_train_timesteps)
        self.module = _DiffusionLoss(
            unet, text_encoder, controlnet, noise_schedule, settings.snr_gamma
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """latents, noise [N, C, h, w], timesteps [N], tokens, condition [N, K, H, W], weights."""
        settings, items = self.settings, len(self.views.images)
        draws = [
            np.random.default_rng(item_seed(settings.seed, "train", f"{step}/{position}"))
            for position in range(start, stop)
        ]
        keys = [(int(rng.integers(items)), int(rng.integers(2**31))) for rng in draws]
        views = self.views.get(keys)
        latents = np.stack([view.latent for view in views])
        noise = np.stack([rng.standard_normal(latents.shape[1:], np.float32) for rng in draws])
        steps = [draw_timesteps(rng, settings.timesteps, self.schedule_length) for rng in draws]
        texts = []
        for rng, view in zip(draws, views, strict=True):
            text = view.prompt if view.prompt is not None else self.prompt(view.layout)
            texts.append("" if rng.random() < settings.caption_dropout else text)
        factor = settings.size // latents.shape[-1]
        weights = [
            object_weights(view.layout, self.classes, settings.object_weight, factor)
            for view in views
        ]
        batch = {
            "latents": torch.from_numpy(latents).to(device),
            "noise": torch.from_numpy(noise).to(device),
            "timesteps": torch.tensor(steps, device=device),
            "tokens": self.tokenize(texts).to(device),
            "weights": torch.from_numpy(np.stack(weights))[:, None].to(device),
        }
        if self.encode is not None:
            conditions = []
            for rng, view in zip(draws, views, strict=True):
                encoded = self.encode(view.layout)
                dropped = rng.random() < settings.hint_dropout
                conditions.append(np.zeros_like(encoded) if dropped else encoded)
            batch["condition"] = torch.from_numpy(np.stack(conditions)).to(device)
        return batch


def draw_timesteps(rng: np.random.Generator, kind: str, length: int) -> int:
    """One noise level in [0, length): uniform, or dense in the middle (logit-normal).

    Source: Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3.1.
    """
    if kind == "uniform":
        return int(rng.integers(length))
    share = 1 / (1 + np.exp(-rng.standard_normal()))
    return min(int(share * length), length - 1)
