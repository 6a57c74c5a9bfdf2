"""The autoencoder task: crops in, the same crops out, a small latent in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsgen.condition import to_model
from rsgen.data import TrainingImages, random_crop
from rsgen.losses import gradient_difference, kl_to_normal
from rsgen.store import item_seed

__all__ = ["AutoencoderObjective", "latent_scale"]


class _AutoencoderLoss(nn.Module):
    """Batch -> float [N]: L1 + squared error + difference of image gradients + small KL."""

    def __init__(self, vae: nn.Module, kl_weight: float, edge_weight: float) -> None:
        super().__init__()
        self.vae: Any = vae
        self.kl_weight, self.edge_weight = kl_weight, edge_weight

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        posterior = self.vae.encode(batch["images"]).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        latents = mean + torch.exp(0.5 * log_variance) * batch["noise"]
        output = self.vae.decode(latents).sample.float()
        difference = output - batch["images"]
        loss = difference.abs().mean(dim=(1, 2, 3)) + difference.square().mean(dim=(1, 2, 3))
        loss = loss + self.edge_weight * gradient_difference(output, batch["images"])
        total: Tensor = loss + self.kl_weight * kl_to_normal(mean, log_variance)
        return total


class AutoencoderObjective:
    """Trains all of `vae`, an AutoencoderKL, on random crops of the training images."""

    def __init__(
        self,
        vae: Any,
        images: TrainingImages,
        *,
        seed: int,
        crop: int,
        kl_weight: float,
        edge_weight: float,
    ) -> None:
        vae.requires_grad_(True)
        self.module = _AutoencoderLoss(vae, kl_weight, edge_weight)
        self.vae, self.images, self.seed, self.crop = vae, images, seed, crop
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.vae.named_parameters())

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """`images` [N, 3, crop, crop] in [-1, 1] and `noise` [N, C, crop/f, crop/f]."""
        crops, noises = [], []
        side = self.crop // self.factor
        for position in range(start, stop):
            rng = np.random.default_rng(item_seed(self.seed, "train", f"{step}/{position}"))
            index = int(rng.integers(len(self.images)))
            layout = self.images.samples[index].layout
            crops.append(random_crop(self.images.image(index), layout, self.crop, rng))
            shape = (self.vae.config.latent_channels, side, side)
            noises.append(rng.standard_normal(shape, dtype=np.float32))
        return {
            "images": to_model(np.stack(crops)).to(device),
            "noise": torch.from_numpy(np.stack(noises)).to(device),
        }


def latent_scale(vae: Any, images: TrainingImages, size: int, count: int = 64) -> float:
    """1 / standard deviation of the latents of some training images: `scaling_factor`."""
    values = []
    for index in np.linspace(0, len(images) - 1, min(count, len(images)), dtype=int):
        image = images.image(int(index))[:size, :size]
        with torch.no_grad():
            pixels = to_model(image[None]).to(next(vae.parameters()))
            values.append(vae.encode(pixels).latent_dist.mean.float().cpu())
    return float(1.0 / torch.cat(values).std())
