"""From the drawn canvas to the picture that a satellite would send down."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.scenes.ground import fractal
from rsgen.scenes.style import Style

__all__ = ["expose"]

Pixels = npt.NDArray[np.uint8]


def expose(image: Pixels, rng: np.random.Generator, style: Style, gsd_m: float) -> Pixels:
    """Unevenness, haze, tone, blur, sharpening and noise on uint8 [H, W, 3], same shape out."""
    height, width = image.shape[:2]
    picture = image.astype(np.float32)
    uneven = fractal(rng, height, width, 40.0 / gsd_m, 2) * 0.018
    uneven += rng.standard_normal((height, width), dtype=np.float32) * 0.012
    picture *= (1.0 + uneven)[..., None]
    haze = rng.uniform(*style.haze)
    warmth = rng.uniform(*style.warmth)
    contrast = rng.uniform(*style.contrast)
    gains = np.array([1 + warmth, 1 + rng.uniform(-0.02, 0.02), 1 - warmth], dtype=np.float32)
    veil = np.array([186.0, 194.0, 204.0], dtype=np.float32)
    picture = picture * (gains * (1 - haze)) + veil * haze
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + (picture - grey) * np.float32(rng.uniform(*style.saturation))
    middle = np.float32(104.0)
    picture = (picture - middle) * np.float32(contrast) + middle * np.float32(
        rng.uniform(0.88, 1.1)
    )
    picture = cv2.GaussianBlur(picture, (5, 5), rng.uniform(*style.blur_px))
    if rng.random() < 0.5:  # pan-sharpened products carry halos
        soft = cv2.GaussianBlur(picture, (7, 7), 1.2)
        picture += (picture - soft) * np.float32(rng.uniform(0.15, 0.5))
    sigma = rng.uniform(*style.noise)
    shared = rng.standard_normal((height, width, 1), dtype=np.float32)
    own = rng.standard_normal((height, width, 3), dtype=np.float32)
    picture += (shared * 0.8 + own * 0.5) * np.float32(sigma)
    return np.asarray(np.clip(picture + 0.5, 0, 255), dtype=np.uint8)
