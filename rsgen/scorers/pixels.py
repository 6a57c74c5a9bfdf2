"""Scorers that look at pixels alone: integrity, sharpness, focus, contrast of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import as_array, box_quad
from rsgen.images import Pixels
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import FloatArray, Level, is_thing

__all__ = ["Contrast", "Focus", "Integrity", "Sharpness", "object_shape"]

Bools = npt.NDArray[np.bool_]
LEAST_WINDOWS = 4  # of an image's windows with structure; fewer say nothing by themselves


@dataclass(frozen=True)
class Integrity:
    """How far an image is from blank, in [0, 1]: 1 healthy, 0 constant or of a wrong size.

    The least of four ratios, each 1 where a photograph stands: grey standard deviation,
    grey entropy, share of pixels that are not the commonest colour, share not clipped.
    """

    level: ClassVar[Level] = "image"
    healthy_std: float = 4.0  # grey levels; a lone ship on a hazy sea has 3 to 4
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
class Focus:
    """How fine the finest structure of an image is, in 1 / pixels, an image: 1 / the blur's width.

    In overlapping windows, the root of half the energy of the Laplacian over that of the
    gradient: blur by a Gaussian of S pixels leaves about 1 / S at most, whatever was there, and
    contrast cancels out. The score is that of the sharpest windows (the quantile `sharpest`), so
    that calm fields do not count; windows with next to no gradient are left out where there are
    others. White noise has 3.4, hard edges 1.4 to 1.8, what is blurred by 1.5 pixels under 0.8.
    Noise that is added after the blur hides it.

    Source: the ratio of the second spectral moments of a random field, as in Longuet-Higgins
    1957, "The statistical analysis of a random, moving surface".
    """

    level: ClassVar[Level] = "image"
    window_px: int = 16
    sharpest: float = 0.95
    floor: float = 1.5  # grey levels a pixel: gradients under it are rounding and JPEG's

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        return np.asarray([self._one(image) for image in images], dtype=np.float32)

    def _one(self, image: Pixels) -> float:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        slopes = [cv2.Sobel(grey, cv2.CV_32F, *way, ksize=1) / 2 for way in ((1, 0), (0, 1))]
        bends = self._windows(np.square(cv2.Laplacian(grey, cv2.CV_32F)))
        steep = self._windows(np.square(slopes[0]) + np.square(slopes[1]))
        ratios = bends / (steep + self.floor**2)
        structured = steep > self.floor**2
        if np.count_nonzero(structured) >= LEAST_WINDOWS:
            ratios = ratios[structured]
        return float(np.sqrt(np.quantile(ratios, self.sharpest) / 2))

    def _windows(self, energy: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Means over windows that overlap by half, float32 [windows]."""
        side = max(1, min(self.window_px, *energy.shape))
        middles = slice(side // 2, None, max(1, side // 2))
        means = cv2.boxFilter(energy, -1, (side, side))
        return np.asarray(means[middles, middles], dtype=np.float32).ravel()


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
        shapes = [object_shape(i, width, height) for i in layout.instances]
        taken = np.zeros((height, width), dtype=bool)
        for shape in shapes:
            if shape is not None:
                taken[shape.window] |= shape.pixels
        if not taken.any():
            return scores
        lab = np.asarray(
            cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), dtype=np.float32
        )
        for k, shape in enumerate(shapes):
            if shape is not None:
                scores[k] = self._separation(lab, shape, taken)
        return scores

    def _separation(self, lab: npt.NDArray[np.float32], shape: Shape, taken: Bools) -> float:
        count = int(shape.pixels.sum())
        if count < self.min_pixels:
            return float("nan")
        reach = max(2, round(self.ring * count**0.5))
        rows, columns = shape.window
        top, left = max(0, rows.start - reach), max(0, columns.start - reach)
        window = slice(top, rows.stop + reach), slice(left, columns.stop + reach)
        blocked, pixels = taken[window], lab[window]
        inside = np.zeros(blocked.shape, dtype=bool)
        inside[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
            shape.pixels
        )
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        around = cv2.dilate(inside.astype(np.uint8), kernel).astype(bool) & ~blocked
        if int(around.sum()) < self.min_pixels:
            return float("nan")
        levels = (np.arange(64) + 0.5) / 64
        ours = np.quantile(pixels[inside], levels, axis=0)
        theirs = np.quantile(pixels[around], levels, axis=0)
        return float(np.linalg.norm(np.abs(ours - theirs).mean(axis=0)))


@dataclass(frozen=True)
class Shape:
    """A thing's pixels: bool [rows, columns] at a window (two slices) of the image."""

    window: tuple[slice, slice]
    pixels: Bools


def object_shape(instance: Instance, width: int, height: int) -> Shape | None:
    """A thing's mask, else its quad, else its box, inside the image; None for stuff or nothing."""
    if not is_thing(instance):
        return None
    mask, box = instance.mask, instance.bounds()
    if mask is None and box is not None:
        corners = as_array(instance.quad or box_quad(box))
        if not np.isfinite(corners).all():
            return None
        mask = Mask.from_polygons([corners], width, height)
    if mask is None:
        return None
    x0, y0 = max(mask.x0, 0), max(mask.y0, 0)
    x1, y1 = min(mask.x0 + mask.width, width), min(mask.y0 + mask.height, height)
    if x1 <= x0 or y1 <= y0:
        return None
    pixels = mask.crop()[y0 - mask.y0 : y1 - mask.y0, x0 - mask.x0 : x1 - mask.x0]
    return Shape((slice(y0, y1), slice(x0, x1)), pixels)
