"""Reward `pixels`: pictures that are neither blank nor coloured as no real one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from rsgen.errors import DataError, UsageError
from rsgen.images import Pixels
from rsgen.records import Sample
from rsgen.request import item_seed
from rsgen.rewards.base import Floats, Made, RewardSetup
from rsgen.rewards.single import VALUE, PerImage
from rsgen.scorers.pixels import Integrity, Sharpness

__all__ = ["PixelStatistics", "closeness", "statistics_of"]

NAMES = ("brightness", "contrast", "saturation", "sharpness")
LEAST_REAL = 20


@dataclass(frozen=True)
class PixelStatistics:
    """How healthy the pixels are, in [0, 1], an image: the mean of its terms.

    integrity: as the scorer (1 is no blank). With --real also brightness, contrast, saturation
    and sharpness: 1 where all but `tails` at either end of the real images lie, falling outside
    as a bell curve whose spread is half that range. Inside the range nothing pulls: the reward
    of the real mean would make all images alike. A guard beside other rewards (over-saturation,
    washed-out or gridded images), not an aim.
    """

    tails: float = 0.05
    sample: int = 200

    def check(self, setup: RewardSetup) -> None:
        """Refuse what cannot work."""
        if not 0 <= self.tails < 0.5:
            raise UsageError(
                f"reward pixels: tails is {self.tails}", hint="give a share from 0 to under 0.5"
            )
        if self.sample < LEAST_REAL:
            raise UsageError(
                f"reward pixels: sample is {self.sample}", hint=f"it takes at least {LEAST_REAL}"
            )

    def hashes(self, setup: RewardSetup) -> Mapping[str, str]:
        return {}

    def open(self, setup: RewardSetup) -> PerImage:
        ranges = self._ranges(setup)
        columns = ["integrity", *(NAMES if ranges is not None else ())]
        return PerImage("pixels", partial(_look, ranges), columns, notes=_notes(ranges))

    def _ranges(self, setup: RewardSetup) -> Floats | None:
        """The range of each statistic over real images, float64 [4, 2]; None without any."""
        real = setup.real
        if real is None:
            return None
        seed = item_seed(setup.seed, "rl-tune/real", "pixels")
        rows = []
        for number in real.drawn(self.sample, seed):
            try:
                rows.append(statistics_of(real.view(number)[0]))
            except DataError:
                continue
        if len(rows) < LEAST_REAL:
            return None
        low, high = np.quantile(np.array(rows), [self.tails, 1 - self.tails], axis=0)
        return np.stack([low, high], axis=1)


def _notes(ranges: Floats | None) -> list[str]:
    if ranges is not None:
        return []
    return [f"pixels: integrity alone: without {LEAST_REAL} real images no ranges are known"]


def _look(ranges: Floats | None, made: Made) -> dict[str, Floats]:
    columns = {"integrity": _integrity(made.images, made.samples)}
    if ranges is not None:
        rows = np.array([statistics_of(image) for image in made.images])
        near = closeness(rows, ranges)
        columns |= {name: near[:, k] for k, name in enumerate(NAMES)}
    return {VALUE: np.mean(list(columns.values()), axis=0), **columns}


def _integrity(images: Pixels, samples: Sequence[Sample]) -> Floats:
    return Integrity().score(images, samples).astype(np.float64)


def statistics_of(image: Pixels) -> Floats:
    """Mean and spread of L, mean length of (a, b) in CIELAB, and sharpness; float64 [4]."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float64)
    light, colour = lab[..., 0], np.linalg.norm(lab[..., 1:], axis=-1)
    sharp = float(Sharpness().score(image[None], ())[0])
    return np.array([light.mean(), light.std(), colour.mean(), sharp])


def closeness(rows: Floats, ranges: Floats) -> Floats:
    """1 inside a range [S, 2], exp(-z^2 / 2) at z half ranges outside of it, [N, S]."""
    low, high = ranges[:, 0], ranges[:, 1]
    outside = np.maximum(0, np.maximum(low - rows, rows - high))
    half = np.maximum((high - low) / 2, 1e-6)
    return np.asarray(np.exp(-((outside / half) ** 2) / 2))
