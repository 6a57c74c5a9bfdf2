"""How much a pool holds: shapes that really differ, sizes, and a sheet to look at."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.pool.table import MaskPool, PoolMask

__all__ = ["FEW_SHAPES", "class_statistics", "effective_shapes", "sheet_tiles"]

FEW_SHAPES = 20
GRID = 16
SAME = 0.9  # IoU on the grid from which two shapes count as one
SAMPLE = 400  # masks of a class that are compared


def shape_grid(mask: PoolMask) -> npt.NDArray[np.bool_]:
    """The shape alone, stretched to bool [GRID, GRID]."""
    pixels = mask.pixels.astype(np.float32)
    small = cv2.resize(pixels, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(small >= 0.5)


def effective_shapes(masks: list[PoolMask]) -> float:
    """exp of the entropy of shape clusters: N equal shapes count 1, N different ones N.

    A mask joins the first earlier shape that it overlaps with IoU >= 0.9 after both were
    stretched to one size and whose aspect is within 15 %.
    """
    leaders, aspects, counts = list[npt.NDArray[np.float32]](), list[float](), list[int]()
    for mask in masks:
        grid = shape_grid(mask).ravel().astype(np.float32)
        aspect = math.log(mask.aspect)
        if leaders:
            stack = np.stack(leaders)
            both = stack @ grid
            union = stack.sum(axis=1) + grid.sum() - both
            near = (both >= SAME * union) & (np.abs(np.array(aspects) - aspect) < 0.15)
            if near.any():
                counts[int(np.argmax(near))] += 1
                continue
        leaders.append(grid)
        aspects.append(aspect)
        counts.append(1)
    share = np.array(counts, dtype=np.float64) / max(1, sum(counts))
    return float(np.exp(-(share * np.log(share)).sum())) if counts else 0.0


def class_statistics(pool: MaskPool, label: str, seed: int) -> dict[str, float | int | str]:
    """Masks, sources, effective shapes (of a sample of 400), median size and poses."""
    masks = some_masks(pool, label, SAMPLE, seed)
    lengths = [m.length_m for m in masks if m.length_m is not None]
    known = {pose: sum(m.pose == pose for m in masks) for pose in ("heading", "guess")}
    return {
        "masks": pool.count(label),
        "sources": len({s for m in masks for s in m.sources}),
        "effective shapes": round(effective_shapes(masks), 1),
        "median length px": round(float(np.median([m.width_px for m in masks])), 1),
        "median width px": round(float(np.median([m.height_px for m in masks])), 1),
        "median length m": round(float(np.median(lengths)), 1) if lengths else "unknown",
        "heading known": f"{known['heading'] / len(masks):.0%}",
        "heading guessed": f"{known['guess'] / len(masks):.0%}",
        "median score": round(float(np.median([m.score for m in masks])), 2),
    }


def some_masks(pool: MaskPool, label: str, count: int, seed: int) -> list[PoolMask]:
    """At most `count` masks of a class, a fair draw by seed."""
    rows = np.flatnonzero(np.array(pool.table.column("label").to_pylist()) == label)
    if len(rows) > count:
        rows = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
    return [pool.get(int(row)) for row in rows]


def sheet_tiles(
    pool: MaskPool, per_class: int, seed: int, side: int = 64
) -> tuple[list[npt.NDArray[np.uint8]], list[str]]:
    """Masks of each class as white on dark uint8 [side, side, 3] tiles, with titles.

    Every class fills a row of `per_class` tiles, with empty ones where it has fewer masks.
    """
    tiles, titles = list[npt.NDArray[np.uint8]](), list[str]()
    for label in pool.labels:
        for mask in some_masks(pool, label, per_class, seed):
            tiles.append(_tile(mask, side))
            titles.append(f"{label} {mask.width_px:.0f}x{mask.height_px:.0f}")
        blank = -len(tiles) % per_class
        tiles += [np.full((side, side, 3), 32, dtype=np.uint8)] * blank
        titles += [""] * blank
    return tiles, titles


def _tile(mask: PoolMask, side: int) -> npt.NDArray[np.uint8]:
    height, width = mask.pixels.shape
    scale = (side - 8) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(mask.pixels.astype(np.uint8) * 255, size, interpolation=method)
    tile = np.full((side, side, 3), 40, dtype=np.uint8)
    y, x = (side - size[1]) // 2, (side - size[0]) // 2
    tile[y : y + size[1], x : x + size[0]] = np.maximum(small[..., None], 40)
    return tile
