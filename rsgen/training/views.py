"""Training views of a detector: one warp an image, and its objects moved as rows of numbers.

What is the same in every view of an image (its objects as rows, its stuff as a map) is made
once. A part of a view that lies outside its image is plain, and nothing is asked there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.data import TrainingImages
from rsgen.geometry import Affine, compose, similarity
from rsgen.images import Pixels
from rsgen.judge.network import GROUND_STRIDE
from rsgen.judge.targets import Canvas, Objects, ground_of, move_objects, objects_of

__all__ = ["Picture", "Views", "degrade", "relight"]

SCALES = (0.8, 1.3)
FOCUS_CHANCE = 0.7
UNKNOWN = 255
NOISE_SIDE = 512


@dataclass(frozen=True, eq=False)
class Picture:
    """A view: uint8 [size, size, 3], its objects, and the stuff of its cells, int64 [h, w]."""

    image: Pixels
    objects: Objects
    ground: npt.NDArray[np.int64]


class Views:
    """Random views of `size` pixels.

    Args:
        turns: whether an image may be turned by any angle; else by quarters alone.
        strength: of augmentation, from 0 (mirrored and quarter-turned crops) to 1.
    """

    def __init__(
        self,
        images: TrainingImages,
        stuff_names: Sequence[str],
        size: int,
        *,
        turns: bool,
        strength: float,
    ) -> None:
        self.images, self.size = images, size
        self._stuff, self._turns, self._strength = tuple(stuff_names), turns, strength
        self._objects = [objects_of(s.layout, images.classes) for s in images.samples]
        self._ground: dict[int, npt.NDArray[np.uint8]] = {}
        noise = np.random.default_rng(0).normal(0, 32, (NOISE_SIDE, NOISE_SIDE, 3))
        self._noise = np.clip(np.rint(noise), -127, 127).astype(np.int16)

    def view(self, index: int, rng: np.random.Generator) -> Picture:
        """A view of image number `index`; everything random comes from `rng`."""
        image = self.images.image(index)
        source = Canvas(image.shape[1], image.shape[0])
        found = self._objects[index]
        matrix = self._matrix(found, source, rng)
        grey = int(rng.integers(60, 160))
        pixels = _warped(image, matrix, self.size, cv2.INTER_LINEAR, (grey, grey, grey))
        moved = move_objects(found, matrix, source, Canvas(self.size, self.size))
        ground = self._ground_cells(index, matrix)
        pixels = relight(pixels, rng, self._strength)
        return Picture(degrade(pixels, rng, self._strength, self._noise), moved, ground)

    def _matrix(self, found: Objects, source: Canvas, rng: np.random.Generator) -> Affine:
        """Half of the views are turned and scaled freely, all are mirrored and quarter-turned."""
        scale, angle = 1.0, 0.0
        if rng.random() < 0.5 * self._strength:
            scale = float(rng.uniform(*SCALES))
            angle = float(rng.uniform(-math.pi, math.pi)) if self._turns else 0.0
        x, y = self._middle(found, source, scale, angle, rng)
        half = self.size / 2
        turned = similarity(scale, angle, (half - x, half - y), (x, y))
        return compose(_symmetry(int(rng.integers(8)), self.size), turned)

    def _middle(
        self,
        found: Objects,
        source: Canvas,
        scale: float,
        angle: float,
        rng: np.random.Generator,
    ) -> tuple[float, float]:
        """The point of the image that comes to the view's middle; often near an object.

        The view stays inside the image where it fits; whole pixels where nothing is scaled.
        """
        place = rng.uniform((0.0, 0.0), (source.width, source.height))
        if len(found) and rng.random() < FOCUS_CHANCE:
            # half of the time a class first: in a crowd of cars the lorry is looked at as well
            if rng.random() < 0.5:
                some = np.flatnonzero(found.things == rng.choice(np.unique(found.things)))
            else:
                some = np.arange(len(found))
            place = found.boxes[int(rng.choice(some)), :2].astype(np.float64)
            place = place + rng.uniform(-0.35, 0.35, size=2) * self.size / scale
        spread = (abs(math.cos(angle)) + abs(math.sin(angle))) * self.size / scale / 2
        middle = []
        for value, side in zip(place.tolist(), (source.width, source.height), strict=True):
            low, high = min(spread, side / 2), max(side - spread, side / 2)
            middle.append(min(max(value, low), high))
        x, y = middle
        if scale == 1.0 and angle == 0.0:
            offset = self.size / 2
            x, y = round(x - offset) + offset, round(y - offset) + offset
        return x, y

    def _ground_cells(self, index: int, matrix: Affine) -> npt.NDArray[np.int64]:
        """The stuff at the middle of each cell, int64: -1 outside of the image."""
        cells = self.size // GROUND_STRIDE
        if not self._stuff:
            return np.zeros((cells, cells), dtype=np.int64)
        if index not in self._ground:
            sample = self.images.samples[index]
            self._ground[index] = ground_of(sample.layout, self.images.classes, self._stuff)
        shrunk = compose(similarity(1 / GROUND_STRIDE), matrix)
        border = (UNKNOWN, UNKNOWN, UNKNOWN)
        seen = _warped(self._ground[index], shrunk, cells, cv2.INTER_NEAREST, border)
        wide = seen.astype(np.int64)
        wide[wide == UNKNOWN] = -1
        return wide


def _symmetry(number: int, size: int) -> Affine:
    """One of the eight ways to lay a square onto itself."""
    quarter, mirrored = number % 4, number >= 4
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter]
    linear = np.array([[cos, -sin], [sin, cos]], dtype=np.float64)
    if mirrored:
        linear = linear @ np.diag([-1.0, 1.0])
    middle = np.full(2, size / 2)
    return np.concatenate([linear, (middle - linear @ middle)[:, None]], axis=1)


def _warped(
    image: Pixels, matrix: Affine, side: int, mode: int, border: tuple[int, int, int]
) -> Pixels:
    """Pixels through an affine of half-open coordinates."""
    half = similarity(shift=(0.5, 0.5))
    centred = compose(similarity(shift=(-0.5, -0.5)), compose(matrix, half))
    warped = cv2.warpAffine(
        image, centred, (side, side), flags=mode, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )
    return np.asarray(warped, dtype=np.uint8)


def relight(image: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """Other light, contrast, gamma, tint and saturation, each sometimes; one table a channel."""
    if strength <= 0:
        return image
    tone = np.arange(256, dtype=np.float64) / 255
    if rng.random() < 0.4:
        tone = tone ** math.exp(rng.uniform(-0.25, 0.25) * strength)
    if rng.random() < 0.6:
        gain, shift = rng.uniform(-0.2, 0.2, size=2) * strength
        tone = (tone - 0.5) * (1 + gain) + 0.5 + shift
    tint = rng.uniform(-0.06, 0.06, size=3) * strength * (rng.random() < 0.4)
    table = np.clip(tone[:, None] * (1 + tint) * 255, 0, 255).round().astype(np.uint8)
    image = np.asarray(cv2.LUT(image, table[None]), dtype=np.uint8)
    if rng.random() < 0.3:
        keep = 1 + rng.uniform(-0.4, 0.3) * strength
        grey = np.full((3, 3), (1 - keep) / 3)
        image = np.asarray(cv2.transform(image, grey + np.eye(3) * keep), dtype=np.uint8)
    return image


def degrade(
    image: Pixels, rng: np.random.Generator, strength: float, noise: npt.NDArray[np.int16]
) -> Pixels:
    """Blur, noise or JPEG, each sometimes: sharpness alone must not decide what is seen.

    noise: int16 [side, side, 3], larger than the image or cut from several places; spread 32.
    """
    if rng.random() < 0.3 * strength:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4)), dtype=np.uint8)
    if rng.random() < 0.3 * strength:
        grain = _grain(noise, image.shape[0], image.shape[1], rng)
        spread = float(rng.uniform(2, 12))
        image = cv2.addWeighted(
            image.astype(np.int16), 1.0, grain, spread / 32, 0.0, dtype=cv2.CV_8U
        ).astype(np.uint8, copy=False)
    if rng.random() < 0.2 * strength:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        image = np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], -1), np.uint8)
    return image


def _grain(
    noise: npt.NDArray[np.int16], height: int, width: int, rng: np.random.Generator
) -> npt.NDArray[np.int16]:
    """A random part of the noise, repeated where the image is larger."""
    y, x = rng.integers(0, noise.shape[:2])
    rows = (np.arange(height) + y) % noise.shape[0]
    columns = (np.arange(width) + x) % noise.shape[1]
    return np.ascontiguousarray(noise[rows][:, columns])
