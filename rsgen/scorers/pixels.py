"""Scorers that look at pixels alone: integrity, sharpness, contrast of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import Box, as_array, fill_polygon
from rsgen.images import Pixels
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import FloatArray, Level, is_thing

__all__ = ["Contrast", "Integrity", "Sharpness", "object_pixels"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Integrity:
    """How far an image is from blank, in [0, 1]: 1 healthy, 0 constant or of a wrong size.

    The least of four ratios, each 1 where a photograph stands: grey standard deviation,
    grey entropy, share of pixels that are not the commonest colour, share not clipped.
    """

    level: ClassVar[Level] = "image"
    healthy_std: float = 8.0  # grey levels; open water still has 3 to 6
    healthy_entropy: float = 3.0  # bits of the 256-bin grey histogram
    healthy_variety: float = 0.2  # share of pixels that differ from the commonest colour
    healthy_unclipped: float = 0.4  # share of pixels that are neither black nor white

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        scores = [self._one(image, s.layout) for image, s in zip(images, samples, strict=True)]
        return np.asarray(scores, dtype=np.float32)

    def _one(self, image: Pixels, layout: Layout) -> float:
        if image.shape[:2] != (layout.height, layout.width):
            return 0.0
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        share = np.bincount(grey.ravel(), minlength=256) / grey.size
        entropy = -float(np.sum(share[share > 0] * np.log2(share[share > 0])))
        colour = image.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        commonest = np.unique(colour, return_counts=True)[1].max() / colour.size
        clipped = float(np.mean((image.max(axis=2) <= 2) | (image.min(axis=2) >= 253)))
        return min(
            1.0,
            float(grey.std()) / self.healthy_std,
            entropy / self.healthy_entropy,
            float(1 - commonest) / self.healthy_variety,
            (1 - clipped) / self.healthy_unclipped,
        )


@dataclass(frozen=True)
class Sharpness:
    """log2(1 + variance of the Laplacian of the grey image); doubles of detail count one."""

    level: ClassVar[Level] = "image"

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
        spread = [float(cv2.Laplacian(grey, cv2.CV_32F).var()) for grey in greys]
        return np.asarray(np.log2(1 + np.asarray(spread)), dtype=np.float32)


@dataclass(frozen=True)
class Contrast:
    """How an object's colours differ from those around it, in CIELAB units, an instance.

    The 1-Wasserstein distance between the pixel distributions of the object and of a ring
    around it, a channel (it compares sorted values, so a black and white object on grey
    counts although the means agree), joined over L, a, b by root of squares. 2 is barely
    visible, 10 is plain. NaN for stuff, crowds and objects under `min_pixels`.
    """

    level: ClassVar[Level] = "instance"
    ring: float = 0.4  # ring width / sqrt(object area)
    min_pixels: int = 6

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        return [self._one(image, s.layout) for image, s in zip(images, samples, strict=True)]

    def _one(self, image: Pixels, layout: Layout) -> FloatArray:
        height, width = image.shape[:2]
        scores = np.full(len(layout.instances), np.nan, dtype=np.float32)
        shapes = [object_pixels(i, width, height) for i in layout.instances]
        taken = np.zeros((height, width), dtype=bool)
        for shape in shapes:
            if shape is not None:
                taken |= shape
        lab = np.asarray(
            cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32
        )
        for k, shape in enumerate(shapes):
            if shape is not None:
                scores[k] = self._separation(lab, shape, taken)
        return scores

    def _separation(self, lab: npt.NDArray[np.float32], shape: Bools, taken: Bools) -> float:
        rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
        count = int(shape.sum())
        if count < self.min_pixels:
            return float("nan")
        reach = max(2, round(self.ring * count**0.5))
        window = (
            slice(max(0, int(rows[0]) - reach), int(rows[-1]) + 1 + reach),
            slice(max(0, int(columns[0]) - reach), int(columns[-1]) + 1 + reach),
        )
        inside, blocked, pixels = shape[window], taken[window], lab[window]
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        around = cv2.dilate(inside.astype(np.uint8), kernel).astype(bool) & ~blocked
        if int(around.sum()) < self.min_pixels:
            return float("nan")
        levels = (np.arange(64) + 0.5) / 64
        ours = np.quantile(pixels[inside], levels, axis=0)
        theirs = np.quantile(pixels[around], levels, axis=0)
        return float(np.linalg.norm(np.abs(ours - theirs).mean(axis=0)))


def object_pixels(instance: Instance, width: int, height: int) -> Bools | None:
    """A thing's pixels, bool [height, width]: its mask, else its quad, else its box."""
    if not is_thing(instance):
        return None
    if instance.mask is not None:
        return instance.mask.to_array(width, height)
    if instance.quad is not None:
        return fill_polygon([as_array(instance.quad)], height, width)
    box = (instance.box or Box(0, 0, 0, 0)).clip(width, height)
    pixels = np.zeros((height, width), dtype=bool)
    pixels[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = True
    return pixels
