"""What pasting an object into another image takes, wherever it is done."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.records import Layout

__all__ = ["MOST_SCALE", "blend", "feather_reach", "same_scale", "soft_edge"]

MOST_SCALE = 1.25  # of metres a pixel between two images that exchange objects


def same_scale(one: Layout, other: Layout, most: float = MOST_SCALE) -> bool:
    """Whether an object of one image has a likely size in the other; unknown scales agree."""
    if one.gsd_m is None or other.gsd_m is None:
        return True
    return 1 / most <= one.gsd_m / other.gsd_m <= most


def soft_edge(mask: npt.NDArray[Any], sigma: float) -> npt.NDArray[np.float32]:
    """A mask as an opacity in [0, 1], float32 [H, W]: its border blurred by `sigma` pixels."""
    alpha = mask.astype(np.float32)
    if sigma <= 0:
        return alpha
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), sigma), dtype=np.float32)


def feather_reach(sigma: float) -> int:
    """Pixels around a mask that `soft_edge` may change: half of OpenCV's kernel for floats."""
    return 0 if sigma <= 0 else (round(sigma * 8 + 1) | 1) // 2


def blend(
    image: npt.NDArray[np.float32], pixels: npt.NDArray[Any], alpha: npt.NDArray[np.float32]
) -> None:
    """Lay `pixels` over `image`, both [H, W, 3], in place, as opaque as `alpha` [H, W] says."""
    image += alpha[..., None] * (pixels - image)
