"""Latents of augmented views: computed once and kept, or made anew for each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from rsgen.augment import AugmentSettings
from rsgen.condition import to_model
from rsgen.data import TrainingImages, View, make_view
from rsgen.images import Pixels
from rsgen.records import Layout
from rsgen.reporting import Reporter
from rsgen.training.session import stop_together

__all__ = ["LatentView", "LatentViews", "encode_pixels"]

PIXEL_BYTES = 2_000_000_000


@dataclass(frozen=True)
class LatentView:
    """Scaled latent float32 [C, h, w], the layout in pixels of the view, and the prompt.

    `pixels` uint8 [H, W, 3] is what was encoded, for those who asked for it.
    """

    latent: npt.NDArray[np.float32]
    layout: Layout
    prompt: str | None
    pixels: Pixels | None = None


def encode_pixels(vae: Any, images: Pixels) -> Tensor:
    """uint8 [N, H, W, 3] -> scaled posterior means float32 [N, C, h, w], on the CPU."""
    parameter = next(vae.parameters())
    with torch.no_grad():
        posterior = vae.encode(to_model(images).to(parameter)).latent_dist
    latents: Tensor = posterior.mean * vae.config.scaling_factor
    return latents.float().cpu()


class LatentViews:
    """Views of training images by (item, view); `views` of each are kept, 0 keeps none.

    With `with_pixels` every view comes with its image: kept up to a byte budget, else made anew.
    """

    def __init__(
        self,
        images: TrainingImages,
        vae: Any,
        *,
        size: int,
        seed: int,
        views: int,
        settings: AugmentSettings,
        with_pixels: bool = False,
        pixel_bytes: int = PIXEL_BYTES,
    ) -> None:
        self.images, self.vae, self.size, self.seed = images, vae, size, seed
        self.views, self.settings, self.with_pixels = views, settings, with_pixels
        self._pixels_left = pixel_bytes if with_pixels else 0
        self._kept: dict[tuple[int, int], LatentView] = {}

    def fill(
        self,
        accelerator: Accelerator,
        store: Path,
        reporter: Reporter,
        check_stop: Callable[[], None],
        batch_size: int = 8,
    ) -> None:
        """Encode every kept view, shared by the ranks; a resumed run reads them from `store`.

        Views are numbered view by view, so that a run's first pass covers all images.
        """
        keys = [(item, v) for v in range(self.views) for item in range(len(self.images))]
        if not keys:
            return
        made = [self._make(*key) for key in keys] if store.is_file() else []
        if made:
            latents = load_file(store)["latents"].numpy()
        else:
            reporter.stage("encoding training images", len(keys), "view")
            share = -(-len(keys) // accelerator.num_processes)
            first = accelerator.process_index * share
            own: list[npt.NDArray[np.float32]] = []
            for start in range(first, first + share, batch_size):
                stop_together(check_stop, accelerator)
                # the last rank repeats views to have as many as the others
                chunk = [keys[k % len(keys)] for k in range(start, start + batch_size)]
                chunk = chunk[: first + share - start]
                views = [self._make(*key) for key in chunk]
                own.append(self._latents(views))
                made += views
                reporter.advance(len(chunk))
            latents = self._gathered(accelerator, np.concatenate(own))[: len(keys)]
            if accelerator.num_processes > 1:
                made = [self._make(*key) for key in keys]
            if accelerator.is_main_process:
                store.parent.mkdir(parents=True, exist_ok=True)
                temporary = store.with_suffix(".tmp")
                save_file({"latents": torch.from_numpy(latents).contiguous()}, temporary)
                temporary.replace(store)
        for key, view, latent in zip(keys, made, latents, strict=True):
            held = view.image.nbytes <= self._pixels_left
            self._pixels_left -= view.image.nbytes if held else 0
            pixels = view.image if held else None
            self._kept[key] = LatentView(latent, view.layout, view.prompt, pixels)

    @staticmethod
    def _gathered(
        accelerator: Accelerator, own: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        if accelerator.num_processes == 1:
            return own
        tensor = torch.from_numpy(own).to(accelerator.device)
        gathered = accelerator.gather(tensor)
        return np.asarray(gathered.cpu().numpy(), dtype=np.float32)

    def get(self, keys: list[tuple[int, int]]) -> list[LatentView]:
        """Views by (item, any whole number): kept ones repeat, others are made anew."""
        if not self.views:
            return self._encode([self._make(*key) for key in keys])
        kept = [(item, number % self.views) for item, number in keys]
        if not self.with_pixels:
            return [self._kept[key] for key in kept]
        return [self._with_pixels(key) for key in kept]

    def look(self, keys: list[tuple[int, int]]) -> list[View]:
        """The same views without their latents: pixels, layouts and prompts."""
        found = []
        for item, number in keys:
            key = (item, number % self.views if self.views else number)
            kept = self._kept.get(key)
            if kept is None or kept.pixels is None:
                found.append(self._make(*key))
            else:
                found.append(View(kept.pixels, kept.layout, kept.prompt))
        return found

    def encode(self, images: Pixels) -> npt.NDArray[np.float32]:
        """uint8 [N, H, W, 3] -> scaled latents float32 [N, C, h, w], kept nowhere."""
        # networks may answer in channels-last order, in which later sums round differently
        return np.ascontiguousarray(encode_pixels(self.vae, images).numpy(), dtype=np.float32)

    def _with_pixels(self, key: tuple[int, int]) -> LatentView:
        view = self._kept[key]
        if view.pixels is not None:
            return view
        return replace(view, pixels=self._make(*key).image)

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
        return [
            LatentView(latent, view.layout, view.prompt, view.image if self.with_pixels else None)
            for latent, view in zip(self._latents(views), views, strict=True)
        ]

    def _latents(self, views: list[View]) -> npt.NDArray[np.float32]:
        return self.encode(np.stack([view.image for view in views]))
