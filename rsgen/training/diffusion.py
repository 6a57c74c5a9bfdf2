"""The plain diffusion tasks: a UNet on text (base), and a ControlNet beside it (controlnet)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rsgen.losses import level_weights, painting_error, prediction_target
from rsgen.training.pairs import TrainingPairs
from rsgen.training.tally import Tally

__all__ = ["DiffusionObjective"]


class DiffusionLoss(nn.Module):
    """Batch -> float [N]: weighted error of the predicted noise or velocity, and the local one."""

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        controlnet: nn.Module | None,
        noise_schedule: Any,
        snr_gamma: float | None,
        local_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.controlnet = unet, text_encoder, controlnet
        self.noise_schedule, self.snr_gamma = noise_schedule, snr_gamma
        self.local_weight = local_weight
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
        target = prediction_target(schedule, latents, noise, steps)
        loss = painting_error(prediction, target, batch, self.local_weight)
        return loss * level_weights(schedule, steps, self.snr_gamma, loss.dtype)


class DiffusionObjective:
    """One loss a step; learns whatever has `requires_grad` set."""

    def __init__(
        self,
        pairs: TrainingPairs,
        *,
        unet: nn.Module,
        text_encoder: nn.Module,
        controlnet: nn.Module | None,
        noise_schedule: Any,
        snr_gamma: float | None,
        local_weight: float = 0.0,
    ) -> None:
        self.pairs = pairs
        self.module = DiffusionLoss(
            unet, text_encoder, controlnet, noise_schedule, snr_gamma, local_weight
        )

    @property
    def tally(self) -> Tally | None:
        return self.pairs.tally

    def parameters(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        return self.pairs.batch(step, start, stop, device)
