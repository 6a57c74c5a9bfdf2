"""A world that a detector learns in seconds: bright arrows, bars and discs on dark noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.geometry import heading_of
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Provenance, Sample
from tests.build import CLASSES, BuiltRun, instance, sample_run

__all__ = ["SIDE", "blurred", "paint", "samples", "scene", "shifted", "toy_run"]

SIDE = 64
COLORS = {"plane": (230, 60, 50), "ship": (60, 220, 90), "storage-tank": (240, 240, 240)}
FRONT = (255, 230, 0)


def _object(label: str, x: float, y: float, heading: float, scale: float) -> Instance:
    length, across = {"plane": (18, 10), "ship": (22, 7), "storage-tank": (12, 12)}[label]
    found = instance(label, x, y, length * scale, across * scale, heading, size=(SIDE, SIDE))
    if label == "storage-tank":
        yy, xx = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        disc = Mask.from_array((xx - x) ** 2 + (yy - y) ** 2 <= (length * scale / 2) ** 2)
        return replace(found, mask=disc)
    return found


def scene(rng: np.random.Generator, most: int = 4) -> Layout:
    """One to `most` objects that do not touch."""
    placed: list[tuple[float, float]] = []
    instances = []
    for _ in range(int(rng.integers(1, most + 1)) * 8):
        x, y = rng.uniform(14, SIDE - 14, 2)
        if any((x - a) ** 2 + (y - b) ** 2 < 26**2 for a, b in placed) or len(placed) >= most:
            continue
        placed.append((x, y))
        label = str(rng.choice(list(COLORS)))
        turn, scale = float(rng.uniform(-3.1, 3.1)), float(rng.uniform(0.9, 1.15))
        instances.append(_object(label, x, y, turn, scale))
    return Layout(SIDE, SIDE, tuple(instances), gsd_m=0.5)


def paint(of: Layout, seed: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]: each class in its colour, the front third of planes and ships yellow."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(20, 70, (of.height, of.width, 3), dtype=np.uint8)
    yy, xx = np.mgrid[0 : of.height, 0 : of.width] + 0.5
    for item in of.instances:
        if item.mask is None or item.quad is None:
            continue
        area = item.mask.to_array(of.width, of.height)
        pixels[area] = COLORS[item.label]
        if item.heading_rad is not None:
            angle, centre = heading_of(item.quad), np.mean(item.quad, axis=0)
            along = (xx - centre[0]) * np.cos(angle) + (yy - centre[1]) * np.sin(angle)
            pixels[area & (along > 3)] = FRONT
    return pixels


def blurred(of: Layout, seed: int) -> npt.NDArray[np.uint8]:
    """Objects smeared out of recognition."""
    smeared = cv2.GaussianBlur(paint(of, seed), (0, 0), 9.0)
    return np.asarray(smeared, dtype=np.uint8)


def shifted(of: Layout, seed: int) -> npt.NDArray[np.uint8]:
    """Sharp objects where nobody asked for them: half of the canvas away."""
    return np.ascontiguousarray(np.roll(paint(of, seed), (SIDE // 2, SIDE // 3), axis=(0, 1)))


def samples(count: int, seed: int, split: str, name: str = "scene") -> list[Sample]:
    """Scenes of one split; as `name` "made" they are generated ones."""
    rng = np.random.default_rng(seed)
    kind = Provenance("synthetic" if name == "made" else "real")
    return [
        Sample(
            f"{name}-{split}-{k:03d}.png", scene(rng), image="later.png", split=split,
            prompt="a toy", provenance=kind,
        )
        for k in range(count)
    ]  # fmt: skip


def toy_run(out: Path, every: Sequence[Sample], *, look: str = "paint", **keys: Any) -> BuiltRun:
    """A committed run; `look`: paint, blurred or shifted."""
    painter = {"paint": paint, "blurred": blurred, "shifted": shifted}[look]
    return sample_run(out, every, classes=CLASSES, shard_size=50, paint=painter, **keys)
