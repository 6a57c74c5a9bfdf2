"""How near generated images lie to training images, in pooled latents of the own autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rsgen.models.latents import pooled, relative_distances

__all__ = ["NearestReport", "nearest_training_images"]

ALARM_PERCENTILE = 1.0
CHUNK = 256


@dataclass(frozen=True)
class NearestReport:
    """Distances of generated images to their nearest training image, as the filter takes them.

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


def nearest_training_images(generated: Tensor, training: Tensor) -> NearestReport:
    """Compare latents [N, C, h, w] of generated images with those of the training images."""
    reals = pooled(training)
    table = relative_distances(pooled(generated), reals)
    bound = 0.0
    if len(reals) > 1:
        own: list[float] = []
        for start in range(0, len(reals), CHUNK):
            others = relative_distances(reals[start : start + CHUNK], reals)
            rows = np.arange(len(others))
            others[rows, start + rows] = np.inf
            own += others.min(axis=1).tolist()
        bound = float(np.percentile(own, ALARM_PERCENTILE))
    return NearestReport(
        tuple(table.min(axis=1).tolist()), tuple(table.argmin(axis=1).tolist()), bound
    )
