"""How well a model paints the layouts that it is given, on held procedural scenes.

    python benchmarks/tiny.py --count 200 --picture docs/tiny.png

For each held layout the model paints one picture. Reported are:
- adherence: the share of things whose mask, extracted again from the picture by the classical
  backend (a fall-back counts as a miss), has IoU >= 0.6 with the layout's mask. The rendered
  scenes of the same layouts stand beside it (what the extraction itself can reach), and the
  render of another layout (what the boxes alone give away).
- own render: how often a picture is nearer to the render of its own layout than to the render
  of another one, in pooled latents of the model's autoencoder (0.5 is chance).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rsgen.condition import ConditionEncoding, palette_png
from rsgen.extraction.classical import ClassicalBackend
from rsgen.images import Pixels
from rsgen.models.base import load_model
from rsgen.models.sampling import SamplingSettings
from rsgen.models.stable_diffusion import StableDiffusion, silence_libraries
from rsgen.pictures import contact_sheet
from rsgen.records import ClassTable, Layout
from rsgen.request import item_seed
from rsgen.scenes import SCENE_CLASSES, SCENE_TYPES, render_scene
from rsgen.training.latents import encode_pixels
from rsgen.training.neighbours import pooled
from rsgen.training.painting import paint

LEAST_IOU = 0.6
SHOWN = 16


def held_scenes(seed: int, count: int, size: int) -> tuple[list[Pixels], list[Layout]]:
    """Renders and layouts of seeds that no training set uses, all scene types in turn."""
    pairs = [
        render_scene(
            item_seed(seed, "benchmark", str(k)), size, scene=SCENE_TYPES[k % len(SCENE_TYPES)]
        )
        for k in range(count)
    ]
    return [image for image, _ in pairs], [layout for _, layout in pairs]


def adherence(
    images: Sequence[Pixels], layouts: Sequence[Layout], classes: ClassTable
) -> dict[str, tuple[int, int]]:
    """(things found again, things) by class, from upright boxes and pixels alone."""
    backend = ClassicalBackend()
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for image, layout in zip(images, layouts, strict=True):
        things = [
            i for i in layout.instances if i.mask is not None and not classes.is_stuff(i.label)
        ]
        # an oriented box would tell the backend most of the shape that it is to find
        bare = [replace(i, mask=None, quad=None, heading_rad=None, reasons=()) for i in things]
        for truth, found in zip(things, backend.annotate(image, bare, classes), strict=True):
            counts[truth.label][1] += 1
            fell_back = any(reason.startswith("fallback") for reason in found.reasons)
            if found.mask is None or truth.mask is None or fell_back:
                continue
            counts[truth.label][0] += found.mask.iou(truth.mask) >= LEAST_IOU
    return {name: (hits, total) for name, (hits, total) in sorted(counts.items())}


def nearer_to_own(
    model: StableDiffusion, generated: Sequence[Pixels], renders: Sequence[Pixels]
) -> tuple[float, float]:
    """(share of pairs in which the own render is nearer, share where it is the nearest)."""
    points = [
        pooled(torch.cat([encode_pixels(model.vae, np.stack(part)) for part in chunks(images)]))
        for images in (generated, renders)
    ]
    distances = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    own = np.diag(distances)
    others = distances + np.diag(np.full(len(own), np.inf))
    pairs = (own[:, None] < others).sum() - len(own)
    return float(pairs / (len(own) * (len(own) - 1))), float((own < others.min(axis=1)).mean())


def chunks(images: Sequence[Pixels], size: int = 16) -> list[Sequence[Pixels]]:
    return [images[k : k + size] for k in range(0, len(images), size)]


def write_picture(
    path: Path, layouts: Sequence[Layout], generated: Sequence[Pixels], renders: Sequence[Pixels]
) -> None:
    """condition | generated | rendered, four layouts a row."""
    tiles: list[Pixels] = []
    for layout, picture, render in zip(layouts, generated, renders, strict=True):
        tiles += [palette_png(layout, SCENE_CLASSES), picture, render]
    titles = ["condition", "generated", "rendered"] * len(layouts)
    contact_sheet(tiles, path, titles=titles, columns=12)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny", help="tiny, or the OUT of rsgen train")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--text-guidance", type=float, default=1.75)
    parser.add_argument("--layout-guidance", type=float, default=1.75)
    parser.add_argument("--picture", type=Path, help="write condition | generated | rendered")
    parser.add_argument("--json", type=Path, help="write the numbers")
    options = parser.parse_args()
    silence_libraries()
    torch.set_num_threads(1)
    model = load_model(options.model)
    if not isinstance(model, StableDiffusion) or model.card is None:
        raise SystemExit(f"{options.model}: not a model that rsgen trained")
    encoding = ConditionEncoding(model.card.condition, model.card.slots)  # type: ignore[arg-type]
    size = model.image_size
    renders, layouts = held_scenes(options.seed, options.count, size)
    started = time.monotonic()
    settings = SamplingSettings(
        steps=options.steps,
        text_guidance=options.text_guidance,
        layout_guidance=options.layout_guidance,
    )
    generated = paint(model, layouts, encoding, SCENE_CLASSES, size, options.seed, settings)
    rate = len(layouts) / (time.monotonic() - started)
    found = {
        "generated": adherence(generated, layouts, SCENE_CLASSES),
        "rendered": adherence(renders, layouts, SCENE_CLASSES),
        "another's": adherence([*renders[1:], renders[0]], layouts, SCENE_CLASSES),
    }
    pairs, nearest = nearer_to_own(model, generated, renders)
    print(f"{options.count} held layouts, {size} px, {options.steps} steps, {platform.processor()}")
    print(f"{'class':20} {'things':>7}" + "".join(f" {kind:>10}" for kind in found))
    for name, (_, total) in found["generated"].items():
        cells = [f" {rows[name][0] / total:10.2f}" for rows in found.values()]
        print(f"{name:20} {total:7d}" + "".join(cells))
    shares = {
        kind: sum(h for h, _ in rows.values()) / max(1, sum(t for _, t in rows.values()))
        for kind, rows in found.items()
    }
    total = sum(t for _, t in found["generated"].values())
    print(f"{'all':20} {total:7d}" + "".join(f" {share:10.2f}" for share in shares.values()))
    print(f"nearer to its own render than to another: {pairs:.3f} of pairs, nearest: {nearest:.3f}")
    print(f"{rate:.2f} images a second, one thread")
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        write_picture(options.picture, layouts[:SHOWN], generated[:SHOWN], renders[:SHOWN])
    if options.json:
        rows = {
            "count": options.count,
            "steps": options.steps,
            "text_guidance": options.text_guidance,
            "adherence": shares,
            "by_class": found,
            "nearer_to_own_render": pairs,
            "own_render_is_nearest": nearest,
        }
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
