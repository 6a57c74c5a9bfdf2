"""Noise of a camera: how much of it images have, and putting as much into others.

A decoder paints no noise: generated images are told from real ones by that alone, without a look
at what they show. Here the noise of the training images is measured once, and images may get some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.images import Pixels

__all__ = ["SensorNoise", "add_noise", "level", "noise_covariance"]

Covariance = npt.NDArray[np.float64]
BLOCK = 8  # differences a side of a block: 16 px
FLAT = 0.25  # share of blocks that are looked at: the flattest
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def noise_covariance(image: Pixels) -> Covariance:
    """Covariance of the channels' noise in grey levels, float64 [3, 3], of uint8 [H, W, 3] RGB.

    From differences (a - b - c + d) / 2 of 2 x 2 pixels, which keep the variance of white noise and
    cancel slopes, in the flattest quarter of blocks of 16 px. Texture that fine counts as noise.
    Blocks of one colour (no data, clipped) have none to measure and are left out. Zeros under
    16 px a side.

    Source: Immerkaer 1996, "Fast Noise Variance Estimation", for the idea of a difference that
    cancels structure. Differs in: pixels used once, flat blocks alone, and all channels together.
    """
    height, width = (n // (2 * BLOCK) * BLOCK for n in image.shape[:2])
    if not height or not width:
        return np.zeros((3, 3))
    even = image[: 2 * height, : 2 * width].astype(np.float64)
    left = (even[::2, ::2] - even[::2, 1::2] - even[1::2, ::2] + even[1::2, 1::2]) / 2
    blocks = left.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).swapaxes(1, 2)
    blocks = blocks.reshape(-1, BLOCK * BLOCK, 3)
    covariances = np.einsum("bnc,bnd->bcd", blocks, blocks) / BLOCK**2
    energy = np.trace(covariances, axis1=1, axis2=2)
    moved = np.flatnonzero(energy > 0)
    if not len(moved):
        return np.zeros((3, 3))
    flat = moved[np.argsort(energy[moved], kind="stable")][: max(1, int(FLAT * len(moved)))]
    return np.asarray(covariances[flat].mean(axis=0))


def level(covariance: Covariance) -> float:
    """Grey levels: the root of the channels' mean variance."""
    return float(np.sqrt(max(np.trace(covariance) / 3, 0.0)))


@dataclass(frozen=True)
class SensorNoise:
    """The noise of a set of images.

    levels: grey levels at the shares 0, 0.1, 0.25, 0.5, 0.75, 0.9 and 1 of the images, ascending.
    channels: covariance of the three channels, in rows, with a mean variance of 1.
    """

    levels: tuple[float, ...]
    channels: tuple[tuple[float, ...], ...]

    @classmethod
    def measured(cls, images: Iterable[Pixels]) -> SensorNoise | None:
        """Of uint8 [H, W, 3] images; None without any, or without noise in all of them."""
        found = [noise_covariance(image) for image in images]
        total = sum(found, np.zeros((3, 3)))
        if not found or level(total) == 0:
            return None
        levels = np.quantile([level(one) for one in found], SHARES)
        channels = total / (np.trace(total) / 3)
        return cls(
            tuple(round(float(v), 3) for v in levels),
            tuple(tuple(round(float(v), 4) for v in row) for row in channels),
        )

    @classmethod
    def of_level(cls, grey_levels: float) -> SensorNoise:
        """The same for every image, each channel by itself."""
        return cls(
            (grey_levels,) * len(SHARES), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        )

    def draw(self, rng: np.random.Generator) -> Covariance:
        """The covariance of one more image's noise, float64 [3, 3]."""
        grey_levels = float(np.interp(rng.random(), SHARES, self.levels))
        return np.asarray(grey_levels**2 * np.array(self.channels))

    def to_json(self) -> dict[str, Any]:
        return {"levels": list(self.levels), "channels": [list(row) for row in self.channels]}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> SensorNoise:
        levels = tuple(float(v) for v in row["levels"])
        channels = tuple(tuple(float(v) for v in line) for line in row["channels"])
        if len(levels) != len(SHARES) or [len(line) for line in channels] != [3, 3, 3]:
            raise ValueError(f"sensor noise of {len(levels)} levels, {len(channels)} channels")
        return cls(levels, channels)


def add_noise(image: Pixels, wanted: Covariance, rng: np.random.Generator) -> Pixels:
    """uint8 [H, W, 3] with normal noise, so that `wanted` is what it has in all.

    What it has already is left out of what is added; nothing is taken away.
    """
    sizes, axes = np.linalg.eigh(wanted - noise_covariance(image))
    root = axes * np.sqrt(np.maximum(sizes, 0))
    noisy = image + rng.standard_normal(image.shape) @ root.T
    return np.asarray(np.clip(np.rint(noisy), 0, 255), dtype=np.uint8)
