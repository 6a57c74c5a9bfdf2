"""Latents of augmented views: computed once and kept, or made anew for each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from rsgen.augment import AugmentSettings
from rsgen.condition import to_model
from rsgen.data import TrainingImages, View, make_view
from rsgen.images import Pixels
from rsgen.records import Layout
from rsgen.reporting import Reporter

__all__ = ["LatentView", "LatentViews", "encode_pixels"]


@dataclass(frozen=True)
class LatentView:
    """Scaled latent float32 [C, h, w], the layout in pixels of the view, and the prompt."""

    latent: npt.NDArray[np.float32]
    layout: Layout
    prompt: str | None


def encode_pixels(vae: AutoencoderKL, images: Pixels) -> Tensor:
    """Posterior means of uint8 [N, H, W, 3], times `scaling_factor`: float32 [N, C, h, w] on CPU."""
    parameter = next(vae.parameters())
    with torch.no_grad():
        posterior = vae.encode(to_model(images).to(parameter)).latent_dist
    return (posterior.mean * vae.config.scaling_factor).float().cpu()


class LatentViews:
    """Views of training images by (item, view); `views` of each are kept, 0 keeps none."""

    def __init__(
        self,
        images: TrainingImages,
        vae: AutoencoderKL,
        *,
        size: int,
        seed: int,
        views: int,
        settings: AugmentSettings,
    ) -> None:
        self.images, self.vae, self.size, self.seed = images, vae, size, seed
        self.views, self.settings = views, settings
        self._kept: dict[tuple[int, int], LatentView] = {}

    def fill(
        self, reporter: Reporter, check_stop: Callable[[], None], batch_size: int = 8
    ) -> None:
        """Encode every kept view, view by view so that an item's pixels are read rarely."""
        wanted = [(item, v) for v in range(self.views) for item in range(len(self.images))]
        reporter.stage("encoding training images", len(wanted), "view")
        for start in range(0, len(wanted), batch_size):
            check_stop()
            keys = wanted[start : start + batch_size]
            self._kept.update(zip(keys, self._encode([self._make(*k) for k in keys]), strict=True))
            reporter.advance(len(keys))

    def get(self, keys: list[tuple[int, int]]) -> list[LatentView]:
        """Views by (item, any whole number): kept ones repeat, others are made anew."""
        if self.views:
            return [self._kept[item, number % self.views] for item, number in keys]
        return self._encode([self._make(*key) for key in keys])

    def real_latents(self) -> Tensor:
        """One latent an item (its first view), float32 [N, C, h, w]."""
        if self.views:
            stack = [self._kept[item, 0].latent for item in range(len(self.images))]
            return torch.from_numpy(np.stack(stack))
        firsts = [self._encode([self._make(item, 0)])[0] for item in range(len(self.images))]
        return torch.from_numpy(np.stack([f.latent for f in firsts]))

    def _make(self, item: int, view: int) -> View:
        return make_view(self.images, item, view, self.size, self.seed, self.settings)

    def _encode(self, views: list[View]) -> list[LatentView]:
        latents = encode_pixels(self.vae, np.stack([view.image for view in views])).numpy()
        return [
            LatentView(latent.copy(), view.layout, view.prompt)
            for latent, view in zip(latents, views, strict=True)
        ]
