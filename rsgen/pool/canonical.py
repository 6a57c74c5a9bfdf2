"""Canonical pose: an instance's mask as it lies in its own rotated box.

The front looks to +x where it is known, else the long side lies along x. The canonical box
[0, w] x [0, h] is tight: the mask touches its four sides, so that mapping that box onto a
label's quad (`geometry.square_to_quad`) puts the mask exactly inside the label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import Quad, RotatedBox, quad_to_rotated_box, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.records import Instance

__all__ = ["FRONT_GUESS", "Canonical", "Pose", "canonical_pose"]

BoolImage = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Pose = Literal["heading", "guess", "long side", "box"]
FRONT_GUESS = "front_guess_rad"  # attribute: where an extraction backend saw the front
TILTS = (-9.0, -6.0, -3.0, 0.0, 3.0, 6.0, 9.0)  # degrees about a guess that are tried
ELONGATED = 1.35  # long side / short side from which a mask's own direction is trusted


@dataclass(frozen=True, slots=True)
class Canonical:
    """A mask in its own frame.

    pixels: bool [h, w], tight. quad: the rectangle in the image that the canonical box comes
    from, its first edge at the canonical x = w. pose: how its direction is known.
    """

    pixels: BoolImage
    quad: Quad
    width_px: float
    height_px: float
    pose: Pose


def canonical_pose(instance: Instance, *, symmetric: bool = False) -> Canonical | None:
    """The instance's mask turned into its own frame at native resolution; None without one.

    The direction is the heading where it is known (never for `symmetric` classes), else that
    of an oriented label, else the mask's own smallest rectangle where it is clearly longer
    than wide, its front where extraction saw it; a compact shape with such a guess is turned
    by it and straightened by its symmetry. What has none of these keeps the image's axes,
    long side on x.
    """
    if instance.mask is None:
        return None
    crop = instance.mask.crop()
    angle, pose, label = _direction(instance, crop, symmetric)
    pixels, box = _turned(crop, (instance.mask.x0, instance.mask.y0), angle, label)
    if pose == "box" and box.h > box.w:
        pixels = np.ascontiguousarray(np.rot90(pixels))
        box = RotatedBox(box.cx, box.cy, box.h, box.w, box.angle_rad + math.pi / 2)
    return Canonical(pixels, rotated_box_to_quad(box), box.w, box.h, pose)


def _direction(
    instance: Instance, crop: BoolImage, symmetric: bool
) -> tuple[float, Pose, RotatedBox | None]:
    """Angle of the canonical x, how it is known, and the label's rotated box at that angle."""
    label = None if instance.quad is None else quad_to_rotated_box(instance.quad)
    if instance.heading_rad is not None and not symmetric:
        heading = instance.heading_rad
        fits = label is not None and abs(math.remainder(label.angle_rad - heading, 2 * math.pi))
        return heading, "heading", label if fits is not False and fits < 1e-3 else None
    guess = None if symmetric else _front_guess(instance)
    if label is not None and abs(math.remainder(label.angle_rad, math.pi / 2)) > 1e-3:
        turn = 0.0 if label.w >= label.h else math.pi / 2
        swapped = (
            label
            if turn == 0.0
            else RotatedBox(label.cx, label.cy, label.h, label.w, label.angle_rad + turn)
        )
        return swapped.angle_rad, "long side", swapped
    (_, _), (w, h), degrees = cv2.minAreaRect(_outline(crop))
    if max(w, h) + 1 >= ELONGATED * (min(w, h) + 1):
        angle = math.radians(degrees) + (0.0 if w >= h else math.pi / 2)
        if guess is None:
            return angle, "long side", None
        return angle + (math.pi if math.cos(angle - guess) < 0 else 0.0), "guess", None
    if guess is not None:
        return _straightened(crop, guess), "guess", None
    return 0.0, "box", None


def _front_guess(instance: Instance) -> float | None:
    text = instance.attributes.get(FRONT_GUESS)
    try:
        angle = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return angle if math.isfinite(angle) else None


def _straightened(crop: BoolImage, angle: float) -> float:
    """The angle near a guess about which the mask is most like its mirror image."""

    def symmetry(degrees: float) -> float:
        pixels, _ = _turned(crop, (0, 0), angle + math.radians(degrees), None)
        mirror = pixels[::-1]
        return float((pixels & mirror).sum() / (pixels | mirror).sum()) - abs(degrees) * 1e-3

    return angle + math.radians(max(TILTS, key=symmetry))


def _outline(crop: BoolImage) -> npt.NDArray[np.float32]:
    """First and last set pixel centres of each row, float32 [N, 2]: their hull is the mask's."""
    rows = np.flatnonzero(crop.any(axis=1))
    first = crop[rows].argmax(axis=1)
    last = crop.shape[1] - 1 - crop[rows, ::-1].argmax(axis=1)
    xs, ys = np.concatenate([first, last]), np.concatenate([rows, rows])
    return (np.stack([xs, ys], axis=1) + 0.5).astype(np.float32)


def _turned(
    crop: BoolImage, origin: tuple[int, int], angle: float, label: RotatedBox | None
) -> tuple[BoolImage, RotatedBox]:
    """The mask sampled along and across `angle`, and the tight box it came from.

    The box is the label's where the mask fills that to the pixel. Else it spans the extreme
    pixel centres plus half a pixel: corners of turned pixels are steps of the raster.
    """
    c, s = math.cos(angle), math.sin(angle)
    points = _outline(crop).astype(np.float64)
    along, across = points @ (c, s), points @ (-s, c)
    low = np.array([along.min() - 0.5, across.min() - 0.5])
    high = np.array([along.max() + 0.5, across.max() + 0.5])
    if label is not None:
        x, y = label.cx - origin[0], label.cy - origin[1]
        middle = np.array([x * c + y * s, y * c - x * s])
        half = np.array([label.w, label.h]) / 2
        if max(np.abs(middle - half - low).max(), np.abs(middle + half - high).max()) < 1.0:
            pixels = _sampled(crop, middle - half, middle + half, c, s)
            if all(side.any() for side in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])):
                return pixels, label
    pixels = _sampled(crop, low, high, c, s)
    tight = Mask.from_array(pixels)
    if tight is None:
        height, width = crop.shape
        x, y = origin[0] + width / 2, origin[1] + height / 2
        return crop, RotatedBox(x, y, float(width), float(height), 0.0)
    step = (high - low) / pixels.shape[::-1]
    pixels = pixels[tight.y0 : tight.y0 + tight.height, tight.x0 : tight.x0 + tight.width]
    size = step * (tight.width, tight.height)
    middle = low + step * (tight.x0, tight.y0) + size / 2
    x, y = middle[0] * c - middle[1] * s, middle[0] * s + middle[1] * c
    return pixels, RotatedBox(
        origin[0] + float(x), origin[1] + float(y), float(size[0]), float(size[1]), angle
    )


def _sampled(crop: BoolImage, low: Vector, high: Vector, c: float, s: float) -> BoolImage:
    """Nearest pixels on a turned grid from `low` to `high` (turned frame), spacing <= 1."""
    width, height = np.maximum(1, np.ceil(high - low - 1e-6)).astype(int).tolist()
    u = low[0] + (np.arange(width) + 0.5) * ((high[0] - low[0]) / width)
    v = (low[1] + (np.arange(height) + 0.5) * ((high[1] - low[1]) / height))[:, None]
    columns = np.floor(u * c - v * s + 1e-9).astype(int)
    rows = np.floor(u * s + v * c + 1e-9).astype(int)
    inside = (columns >= 0) & (columns < crop.shape[1]) & (rows >= 0) & (rows < crop.shape[0])
    pixels = np.zeros((height, width), dtype=bool)
    pixels[inside] = crop[rows[inside], columns[inside]]
    return pixels
