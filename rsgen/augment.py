"""Augmentation that keeps image, masks and labels together.

albumentations does photometry, crops, flips, quarter turns and the transpose; free rotation
and scaling go through one matrix of geometry.py for image, masks and corners. Whatever moved
the pixels is known as one affine, and boxes, quads and headings follow that affine exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as alb

from rsgen.geometry import (
    Affine,
    Box,
    Quad,
    apply_affine,
    bounds,
    box_quad,
    clockwise,
    compose,
    quad_from_tuple,
    similarity,
    wrap_angle,
)
from rsgen.images import Pixels
from rsgen.mask import Mask
from rsgen.records import Instance, Layout

__all__ = ["AugmentSettings", "Augmenter", "move_instance", "move_layout", "warp", "warp_mask"]

BoolImage = npt.NDArray[np.bool_]
Moved = tuple[Pixels, Layout]


@dataclass(frozen=True)
class AugmentSettings:
    """What may change. `focus` is an (x, y) point that the crop holds, None for anywhere.

    `turned_shapes` is the share of objects that shape_augment.py turns by themselves.
    """

    flips: bool = True
    rotate_degrees: float = 0.0
    scale_range: tuple[float, float] = (1.0, 1.0)
    photometry: float = 0.0
    focus: tuple[float, float] | None = None
    turned_shapes: float = 0.0


class Augmenter:
    """(image, layout, rng) -> a size x size image and its layout."""

    def __init__(self, settings: AugmentSettings, size: int) -> None:
        self.settings, self.size = settings, size

    def __call__(self, image: Pixels, layout: Layout, rng: np.random.Generator) -> Moved:
        """Image uint8 [H, W, 3], at least `size` on both sides; the layout is in its frame."""
        free = self.settings.rotate_degrees > 0 or self.settings.scale_range != (1.0, 1.0)
        if free:
            matrix = self._free_matrix(image.shape[1], image.shape[0], rng)
            layout = move_layout(layout, matrix, self.size, self.size)
            image = warp(image, matrix, self.size, self.size, cv2.INTER_LINEAR)
        return self._discrete(image, layout, rng)

    def _free_matrix(self, width: int, height: int, rng: np.random.Generator) -> Affine:
        """Turn and scale about a point so that the window stays inside the image."""
        angle = math.radians(float(rng.uniform(-1, 1)) * self.settings.rotate_degrees)
        scale = float(rng.uniform(*self.settings.scale_range))
        spread = self.size * (abs(math.cos(angle)) + abs(math.sin(angle)))
        scale = max(scale, spread / min(width, height))
        half = spread / scale / 2
        wanted = self.settings.focus or (rng.uniform(0, width), rng.uniform(0, height))
        x = float(np.clip(wanted[0], half, width - half))
        y = float(np.clip(wanted[1], half, height - half))
        centre = self.size / 2
        return similarity(scale, angle, (centre - x, centre - y), (x, y))

    def _discrete(self, image: Pixels, layout: Layout, rng: np.random.Generator) -> Moved:
        window = self._window(image.shape[1], image.shape[0], rng)
        visible = [i for i in layout.instances if _touches(i, window)]
        steps: list[alb.BasicTransform] = [
            alb.Crop(int(window.x0), int(window.y0), int(window.x1), int(window.y1))
        ]
        if self.settings.flips:
            steps += [
                alb.HorizontalFlip(p=0.5),
                alb.VerticalFlip(p=0.5),
                alb.RandomRotate90(p=0.5),
                alb.Transpose(p=0.5),
            ]
        steps += _photometry(self.settings.photometry)
        transform = alb.Compose(
            steps,
            keypoint_params=alb.KeypointParams(format="xy", remove_invisible=False),
            seed=int(rng.integers(2**31)),
        )
        height, width = image.shape[:2]
        masks = [
            i.mask.to_array(width, height).astype(np.uint8) for i in visible if i.mask is not None
        ]
        # albumentations' keypoints are pixel-centred: a half-open corner x is x - 0.5 there
        corners = np.array([[0.0, 0.0], [width, 0.0], [0.0, height]]) - 0.5
        given = {"image": image, "keypoints": corners}
        result = transform(**given, masks=masks) if masks else transform(**given)
        moved_corners = np.asarray(result["keypoints"], dtype=np.float64)[:, :2] + 0.5
        matrix = _exact_affine(moved_corners, width, height)
        arrays = iter(result["masks"] if masks else ())
        instances = []
        for instance in visible:
            array = np.asarray(next(arrays)) > 0 if instance.mask is not None else None
            moved = move_instance(instance, matrix, array, self.size, self.size)
            if moved is not None:
                instances.append(moved)
        return np.ascontiguousarray(result["image"]), replace(
            layout, width=self.size, height=self.size, instances=tuple(instances)
        )

    def _window(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """A size x size window of whole pixels inside the image, around the focus if given."""
        room_x, room_y = width - self.size, height - self.size
        if self.settings.focus is None or (room_x == 0 and room_y == 0):
            x, y = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
        else:
            shift = rng.uniform(-0.35, 0.35, size=2) * self.size
            x = int(np.clip(self.settings.focus[0] + shift[0] - self.size / 2, 0, room_x))
            y = int(np.clip(self.settings.focus[1] + shift[1] - self.size / 2, 0, room_y))
        return Box(x, y, x + self.size, y + self.size)


def warp(image: Pixels, matrix: Affine, width: int, height: int, mode: int) -> Pixels:
    """Pixels through an affine of half-open coordinates; outside parts are mirrored."""
    half = similarity(shift=(0.5, 0.5))
    centred = compose(similarity(shift=(-0.5, -0.5)), compose(matrix, half))
    shrink = math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    if shrink < 0.75 and mode == cv2.INTER_LINEAR:
        # sampling below half a pixel's width aliases: blur first by the usual sigma
        sigma = 0.5 * math.sqrt(1 / shrink**2 - 1)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
    return np.asarray(
        cv2.warpAffine(
            image, centred, (width, height), flags=mode, borderMode=cv2.BORDER_REFLECT_101
        ),
        dtype=np.uint8,
    )


def move_layout(layout: Layout, matrix: Affine, width: int, height: int) -> Layout:
    """The layout through an affine onto a canvas of another size; gsd follows the scale.

    Masks are resampled (linear, cut at one half); what falls outside is dropped.
    """
    window = Box(0, 0, width, height)
    instances = []
    for instance in layout.instances:
        box = instance.bounds()
        if box is None or _outside(bounds(apply_affine(matrix, box_quad(box))), window):
            continue
        array = None
        if instance.mask is not None:
            array = warp_mask(instance.mask, matrix, width, height)
        moved = move_instance(instance, matrix, array, width, height)
        if moved is not None:
            instances.append(moved)
    scale = math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    gsd_m = None if layout.gsd_m is None else layout.gsd_m / scale
    return replace(layout, width=width, height=height, instances=tuple(instances), gsd_m=gsd_m)


def warp_mask(mask: Mask, matrix: Affine, width: int, height: int) -> BoolImage:
    """A mask through an affine, bool [height, width]: linear, cut at one half."""
    crop = np.pad(mask.crop().astype(np.uint8) * 255, 1)
    from_crop = compose(matrix, similarity(shift=(mask.x0 - 1, mask.y0 - 1)))
    half = similarity(shift=(0.5, 0.5))
    centred = compose(similarity(shift=(-0.5, -0.5)), compose(from_crop, half))
    warped = cv2.warpAffine(crop, centred, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(warped >= 128, dtype=bool)


def move_instance(
    instance: Instance, matrix: Affine, array: BoolImage | None, width: int, height: int
) -> Instance | None:
    """An instance through an affine; `array` is its moved mask on the canvas, bool [H, W].

    The quad may reach outside, box and mask are cut; None where nothing is left inside.
    """
    mask = None if array is None else Mask.from_array(array)
    if instance.mask is not None and mask is None:
        return None
    quad = instance.quad
    mirrored = float(np.linalg.det(matrix[:, :2])) < 0
    if quad is not None:
        moved = quad_from_tuple(apply_affine(matrix, quad))
        quad = clockwise(moved) if mirrored else moved
    full = _moved_bounds(instance, matrix, quad, mask)
    box = None if full is None else full.clip(width, height)
    if box is not None and box.area <= 0:
        return None
    cut = full is not None and _reaches_out(full, width, height)
    heading = instance.heading_rad
    if heading is not None:
        along = matrix[:, :2] @ np.array([math.cos(heading), math.sin(heading)])
        heading = wrap_angle(math.atan2(along[1], along[0]))
    return replace(
        instance,
        box=box if instance.box is not None else None,
        quad=quad,
        mask=mask,
        heading_rad=heading,
        truncated=instance.truncated or cut,
    )


def _moved_bounds(
    instance: Instance, matrix: Affine, quad: Quad | None, mask: Mask | None
) -> Box | None:
    """The uncut box after the move: exact where axes stay axes, else the tightest known."""
    original = instance.bounds()
    if original is None:
        return None
    axes_kept = bool(np.all(np.isclose(matrix[:, :2], 0) | np.isclose(matrix[::-1, :2], 0)))
    moved = bounds(apply_affine(matrix, box_quad(original)))
    if axes_kept:
        return moved
    if quad is not None:
        return bounds(quad)
    return moved if mask is None else mask.box


def _reaches_out(box: Box, width: int, height: int) -> bool:
    tolerance = 1e-6
    return (
        box.x0 < -tolerance
        or box.y0 < -tolerance
        or box.x1 > width + tolerance
        or box.y1 > height + tolerance
    )


def _outside(box: Box, window: Box) -> bool:
    return box.x1 <= window.x0 or box.x0 >= window.x1 or box.y1 <= window.y0 or box.y0 >= window.y1


def _touches(instance: Instance, window: Box) -> bool:
    box = instance.bounds() if instance.mask is None else instance.mask.box
    return box is not None and not _outside(box, window)


def _exact_affine(corners: npt.NDArray[np.float64], width: int, height: int) -> Affine:
    """The signed permutation and whole shift that moved (0, 0), (width, 0), (0, height).

    Keypoints come back as float32; rounding recovers the exact values.
    """
    origin = corners[0]
    linear = np.stack([(corners[1] - origin) / width, (corners[2] - origin) / height], axis=1)
    return np.concatenate([np.rint(linear), np.rint(origin)[:, None]], axis=1)


def _photometry(strength: float) -> Sequence[alb.BasicTransform]:
    """Mild light and colour changes: the generator learns to paint whatever it is shown."""
    if strength <= 0:
        return []
    light, hue = 0.2 * strength, 8 * strength
    return [
        alb.RandomBrightnessContrast(light, light, p=0.5),
        alb.HueSaturationValue(hue, 2 * hue, hue, p=0.3),
        alb.RandomGamma((int(100 - 20 * strength), int(100 + 20 * strength)), p=0.3),
    ]
