"""Ground textures: noise fields coloured as asphalt, concrete, grass, soil and water."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.scenes.shapes import Colour
from rsgen.scenes.style import Style, pick_colour

__all__ = ["fractal", "ground_texture", "ripples"]

Field = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def fractal(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell_px: float,
    octaves: int = 3,
    persistence: float = 0.55,
) -> Field:
    """Smooth noise, float32 [height, width], mean about 0, deviation about 1."""
    total = np.zeros((height, width), dtype=np.float32)
    weight, norm = 1.0, 0.0
    for _ in range(octaves):
        rows, columns = (max(2, round(n / cell_px) + 1) for n in (height, width))
        grid = rng.standard_normal((min(rows, height), min(columns, width)), dtype=np.float32)
        layer: npt.NDArray[Any] = grid
        if grid.shape != total.shape:
            layer = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        total += np.float32(weight) * layer
        norm += weight**2
        weight *= persistence
        cell_px = max(cell_px / 2.7, 1.0)
    return total * np.float32(1.25 / math.sqrt(norm))


def ripples(
    rng: np.random.Generator, height: int, width: int, wave_px: float, angle_rad: float
) -> Field:
    """Wave crests across `angle_rad`: noise stretched along the crests, float32, deviation 1."""
    side = int(math.hypot(height, width)) + 2
    rows, columns = max(2, int(side / max(wave_px, 1.0))), max(2, int(side / (wave_px * 3.5)))
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    layer = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), math.degrees(angle_rad), 1.0)
    turned = cv2.warpAffine(layer, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    top, left = (side - height) // 2, (side - width) // 2
    return np.asarray(turned[top : top + height, left : left + width] * 1.3, dtype=np.float32)


def _mix(height: int, width: int, base: Colour, layers: list[tuple[Field, Colour]]) -> Pixels:
    image = np.empty((height, width, 3), dtype=np.float32)
    image[:] = np.array(base, dtype=np.float32)
    for field, direction in layers:
        for channel in range(3):
            image[..., channel] += field * np.float32(direction[channel])
    return np.clip(image, 0, 255).astype(np.uint8)


def ground_texture(
    name: str,
    rng: np.random.Generator,
    height: int,
    width: int,
    gsd_m: float,
    style: Style,
) -> Pixels:
    """A texture of one material, uint8 [height, width, 3] RGB at output resolution.

    Names: asphalt, concrete, grass, dry, soil, gravel, water.
    """
    base = pick_colour(rng, style.grounds[name], 8.0)
    strength = rng.uniform(0.6, 1.3)

    def field(cell_m: float, octaves: int = 3) -> Field:
        return fractal(rng, height, width, max(cell_m / gsd_m, 1.0), octaves) * np.float32(strength)

    grain = rng.standard_normal((height, width), dtype=np.float32)
    if name == "water":
        return _water(rng, height, width, gsd_m, base)
    if name == "grass":
        dry = pick_colour(rng, style.grounds["dry"])
        toward = (
            (dry[0] - base[0]) * 0.24,
            (dry[1] - base[1]) * 0.24,
            (dry[2] - base[2]) * 0.24,
        )
        layers = [(field(28.0), toward), (field(3.0), (7.0, 7.5, 5.0)), (grain, (4.0, 4.5, 3.5))]
        return _mix(height, width, base, layers)
    if name in ("soil", "dry", "gravel"):
        layers = [(field(24.0), (9.0, 8.5, 8.0)), (field(2.5), (6.0, 5.5, 5.0))]
        return _mix(height, width, base, [*layers, (grain, (4.5, 4.5, 4.5))])
    layers = [(field(30.0), (6.0, 6.0, 5.5)), (field(4.0), (3.5, 3.5, 3.5))]
    stains = np.minimum(field(9.0, 2) + np.float32(0.8), 0)  # oil and tyre marks only darken
    layers.append((stains, (5.0, 5.0, 4.7)))
    return _mix(height, width, base, [*layers, (grain, (2.2, 2.2, 2.2))])


def _water(rng: np.random.Generator, height: int, width: int, gsd_m: float, base: Colour) -> Pixels:
    angle = rng.uniform(0, math.pi)
    rough = rng.uniform(0.5, 2.4)
    swell = ripples(rng, height, width, rng.uniform(4, 10) / gsd_m, angle)
    chop = ripples(rng, height, width, max(rng.uniform(1.0, 2.5) / gsd_m, 1.5), angle)
    depth = fractal(rng, height, width, 60.0 / gsd_m, 2)
    grain = rng.standard_normal((height, width), dtype=np.float32)
    layers = [
        (depth, (4.0, 6.0, 4.5)),
        (swell, (1.2 * rough, 1.4 * rough, 1.4 * rough)),
        (chop, (1.6 * rough, 1.8 * rough, 1.9 * rough)),
        (grain, (1.2, 1.3, 1.4)),
    ]
    if rng.random() < 0.3:  # sun glint on a few crests
        layers.append((np.maximum(chop - 2.0, 0), (38.0, 38.0, 36.0)))
    return _mix(height, width, base, layers)
