"""How near generated images lie to training images, in pooled latents of the own autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn.functional as functional
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

__all__ = ["NearestReport", "nearest_training_images", "pooled"]

POOLED_SIDE = 8
ALARM_PERCENTILE = 1.0


@dataclass(frozen=True)
class NearestReport:
    """Distances of generated images to their nearest training image.

    `bound` is the 1st percentile of the distances from each training image to the nearest
    other one; anything nearer is likely a copy.
    """

    distances: tuple[float, ...]
    nearest: tuple[int, ...]
    bound: float

    @property
    def copies(self) -> list[int]:
        """Positions of generated images that are nearer than the bound."""
        return [k for k, distance in enumerate(self.distances) if distance < self.bound]


def pooled(latents: Tensor) -> npt.NDArray[np.float32]:
    """Latents [N, C, h, w] averaged to 8 x 8 cells and flattened, float32 [N, C * 64]."""
    cells = functional.adaptive_avg_pool2d(latents.float(), POOLED_SIDE)
    return np.asarray(cells.flatten(1).cpu().numpy(), dtype=np.float32)


def nearest_training_images(generated: Tensor, training: Tensor) -> NearestReport:
    """Compare latents [N, C, h, w] of generated images with those of the training images."""
    reals = pooled(training)
    index = NearestNeighbors(algorithm="brute").fit(reals)
    distances, places = index.kneighbors(pooled(generated), n_neighbors=1)
    bound = 0.0
    if len(reals) > 1:
        own = index.kneighbors(reals, n_neighbors=2)[0][:, 1]
        bound = float(np.percentile(own, ALARM_PERCENTILE))
    return NearestReport(
        tuple(float(d) for d in distances[:, 0]), tuple(int(p) for p in places[:, 0]), bound
    )
