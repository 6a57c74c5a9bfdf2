"""Pictures of extracted masks: the worst ones first, and a sheet of whole images."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from rsgen.extraction.base import Pixels
from rsgen.geometry import Box
from rsgen.pictures import PageRow, contact_sheet, draw_layout, write_page
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["MaskReport", "survey", "write_overlay"]

CHIP = 320  # side of a chip on the page in pixels
SHEET_IMAGES = 40
SHEET_TILE = 256
CONTEXT = 1.6  # a chip shows this many times the object's long side


@dataclass
class MaskReport:
    """Numbers by class, and which objects and images to show."""

    rows: dict[str, dict[str, float | int | str]]
    worst: list[tuple[float, str, int]]  # (score, sample id, position), worst first
    shown: list[str] = field(default_factory=list)  # ids spread evenly over the run


def survey(samples: Iterable[Sample], classes: ClassTable, worst: int) -> MaskReport:
    """Walk the samples once: scores and origins by class, and the `worst` lowest scores."""
    scores: dict[str, list[float]] = {}
    origins: dict[str, dict[str, int]] = {}
    heap: list[tuple[float, str, int]] = []
    ids: list[str] = []
    for sample in samples:
        ids.append(sample.id)
        for position, instance in enumerate(sample.layout.instances):
            if classes.is_stuff(instance.label):
                continue
            score = instance.scores.get("mask", 0.0) if instance.mask is not None else 0.0
            origin = instance.origin if instance.mask is not None else "none"
            scores.setdefault(instance.label, []).append(score)
            kinds = origins.setdefault(instance.label, {})
            kinds[origin] = kinds.get(origin, 0) + 1
            # A heap keeps its smallest on top: negate to throw out the best of the worst.
            entry = (-score, sample.id, position)
            if len(heap) < worst:
                heapq.heappush(heap, entry)
            elif heap and entry > heap[0]:
                heapq.heapreplace(heap, entry)
    rows: dict[str, dict[str, float | int | str]] = {
        label: {
            "objects": len(values),
            **dict(sorted(origins[label].items())),
            "fall-backs": f"{origins[label].get('box', 0) / len(values):.1%}",
            "mean score": round(float(np.mean(values)), 3),
        }
        for label, values in sorted(scores.items())
    }
    step = max(1, -(-len(ids) // SHEET_IMAGES))
    ordered = sorted((-score, name, position) for score, name, position in heap)
    return MaskReport(rows, ordered, ids[::step])


def write_overlay(
    out: Path,
    report: MaskReport,
    samples: Iterable[Sample],
    read: Callable[[Sample], Pixels],
) -> dict[str, Path]:
    """OUT/overlay.html (objects, worst first) and OUT/contact_sheet.png (images over the run)."""
    wanted: dict[str, list[tuple[float, int]]] = {}
    for score, name, position in report.worst:
        wanted.setdefault(name, []).append((score, position))
    chips: dict[tuple[str, int], PageRow] = {}
    tiles, titles = list[Pixels](), list[str]()
    shown = set(report.shown)
    for sample in samples:
        if sample.id not in wanted and sample.id not in shown:
            continue
        image = read(sample)
        for score, position in wanted.get(sample.id, []):
            chips[sample.id, position] = _chip(sample, image, position, score)
        if sample.id in shown:
            tiles.append(_window(sample, image))
            titles.append(sample.id)
    rows = [chips[name, position] for _, name, position in report.worst]
    intro = [
        f"{label}: " + ", ".join(f"{key} {value}" for key, value in row.items())
        for label, row in report.rows.items()
    ]
    page, sheet = out / "overlay.html", out / "contact_sheet.png"
    write_page(page, "Masks, lowest score first", rows, intro)
    contact_sheet(tiles, sheet, titles=titles)
    return {"overlay page": page, "contact sheet": sheet}


def _chip(sample: Sample, image: Pixels, position: int, score: float) -> PageRow:
    instance = sample.layout.instances[position]
    lines = (
        f"score {score:.2f}, {instance.origin if instance.mask is not None else 'no mask'}",
        *instance.reasons,
    )
    box = instance.bounds()
    if box is None:
        return PageRow(_fit(image), f"{instance.label} in {sample.id}", lines)
    side = max(16.0, CONTEXT * max(box.width, box.height))
    cx, cy = box.center
    x0, y0 = max(0, int(cx - side / 2)), max(0, int(cy - side / 2))
    crop = image[y0 : y0 + int(side), x0 : x0 + int(side)]
    if crop.size == 0:
        return PageRow(_fit(image), f"{instance.label} in {sample.id}", lines)
    only = _moved(instance, x0, y0)
    height, width = crop.shape[:2]
    scale = max(1, CHIP // max(height, width) // 2)
    drawn = draw_layout(crop, Layout(width, height, (only,)), labels=False, scale=scale)
    plain = np.kron(crop, np.ones((scale, scale, 1), np.uint8))
    both = np.concatenate([plain, drawn], axis=1)
    return PageRow(_fit(both), f"{instance.label} in {sample.id}", lines)


def _moved(instance: Instance, x0: int, y0: int) -> Instance:
    box, quad, mask = instance.box, instance.quad, instance.mask
    (a, b), (c, d), (e, f), (g, h) = quad or ((0.0, 0.0),) * 4
    return replace(
        instance,
        box=None if box is None else Box(box.x0 - x0, box.y0 - y0, box.x1 - x0, box.y1 - y0),
        quad=None
        if quad is None
        else ((a - x0, b - y0), (c - x0, d - y0), (e - x0, f - y0), (g - x0, h - y0)),
        mask=None if mask is None else mask.shift(-x0, -y0),
    )


def _window(sample: Sample, image: Pixels) -> Pixels:
    """Masks drawn on the image, or on the part of a large one that shows most objects."""
    layout = sample.layout
    centres = [b.center for i in layout.instances if i.mask and (b := i.bounds()) is not None]
    x0, y0 = _densest(centres, layout.width, layout.height)
    crop = np.ascontiguousarray(image[y0 : y0 + SHEET_TILE, x0 : x0 + SHEET_TILE])
    moved = tuple(_moved(i, x0, y0) for i in layout.instances)
    part = Layout(crop.shape[1], crop.shape[0], moved)
    return draw_layout(crop, part, quads=False, labels=False)


def _densest(centres: list[tuple[float, float]], width: int, height: int) -> tuple[int, int]:
    """Top left of the tile around the object with the most others near it."""
    if not centres:
        return 0, 0
    points = np.array(centres)
    near = np.abs(points[:, None] - points[None]).max(axis=2) < SHEET_TILE / 2
    x, y = points[int(near.sum(axis=1).argmax())]
    return (
        int(np.clip(x - SHEET_TILE / 2, 0, max(0, width - SHEET_TILE))),
        int(np.clip(y - SHEET_TILE / 2, 0, max(0, height - SHEET_TILE))),
    )


def _fit(image: Pixels) -> Pixels:
    side = max(image.shape[:2])
    if side <= 2 * CHIP:
        return np.ascontiguousarray(image)
    size = (round(image.shape[1] * 2 * CHIP / side), round(image.shape[0] * 2 * CHIP / side))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
