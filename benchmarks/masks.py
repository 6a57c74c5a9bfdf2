"""How well a mask backend recovers exact masks from boxes alone, on rendered scenes.

    python benchmarks/masks.py --count 200 --style alt
    python benchmarks/masks.py --data RUN            (samples with true masks: scenes OUT)

Every thing instance counts, fall-backs included; they are also shown apart. `--labels quad`
hands over oriented boxes with headings instead of upright ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsgen.extraction.base import MaskBackend, Pixels
from rsgen.records import ClassTable, Instance, Layout
from rsgen.registry import resolve


def scenes(args: argparse.Namespace) -> tuple[ClassTable, Iterator[tuple[Pixels, Layout]]]:
    if args.data is not None:
        from rsgen.store import open_samples

        run = open_samples(args.data)
        return run.classes, ((run.read_image(s), s.layout) for s in run)
    from rsgen.scenes import SCENE_CLASSES, SCENE_TYPES, render_scene

    seeds = range(args.seed, args.seed + args.count)
    return SCENE_CLASSES, (
        render_scene(s, args.size, scene=SCENE_TYPES[s % len(SCENE_TYPES)], style=args.style)
        for s in seeds
    )


def bare(instance: Instance, labels: str) -> Instance:
    """The label without its mask: upright box, or quad and heading."""
    if labels == "quad":
        return replace(instance, mask=None, scores={})
    return replace(instance, mask=None, quad=None, heading_rad=None, scores={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a sample run with true masks")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=5000)
    parser.add_argument("--style", default="alt")
    parser.add_argument("--labels", choices=["box", "quad"], default="box")
    parser.add_argument("--backend", default="classical")
    args = parser.parse_args()
    backend: MaskBackend = resolve("mask_backends", args.backend)()
    classes, pairs = scenes(args)
    rows: list[tuple[str, float, bool, float, float]] = []
    spent = 0.0
    for image, layout in pairs:
        things = [i for i in layout.instances if i.mask and not classes.is_stuff(i.label)]
        start = time.perf_counter()
        found = backend.annotate(image, [bare(i, args.labels) for i in things], classes)
        spent += time.perf_counter() - start
        for truth, made in zip(things, found, strict=True):
            iou = 0.0 if made.mask is None or truth.mask is None else truth.mask.iou(made.mask)
            size = max(truth.mask.width, truth.mask.height) if truth.mask else 0
            fell = made.origin == "box"
            rows.append((truth.label, iou, fell, made.scores.get("mask", 0.0), size))
    report(rows, spent)


def report(rows: list[tuple[str, float, bool, float, float]], spent: float) -> None:
    print(f"{'class':20} {'n':>6} {'IoU':>6} {'>=0.6':>6} {'own':>6} {'fallback':>9} {'IoU':>6}")
    for label in [*sorted({r[0] for r in rows}), "all"]:
        group = [r for r in rows if label in ("all", r[0])]
        iou = np.array([r[1] for r in group])
        fell = np.array([r[2] for r in group])
        own = f"{iou[~fell].mean():6.3f}" if (~fell).any() else "     -"
        other = f"{iou[fell].mean():6.3f}" if fell.any() else "     -"
        print(
            f"{label:20} {len(group):6d} {iou.mean():6.3f} {(iou >= 0.6).mean():6.1%} {own}"
            f" {fell.mean():9.1%} {other}"
        )
    iou, score, size = (np.array([r[k] for r in rows]) for k in (1, 3, 4))
    print("\nmean IoU by long side: ", end="")
    for low, high in ((0, 8), (8, 16), (16, 32), (32, 64), (64, 10_000)):
        pick = (size >= low) & (size < high)
        if pick.any():
            print(f"{low}-{high} px {iou[pick].mean():.3f} ({pick.sum()})", end="  ")
    print(f"\nrank correlation of score and IoU {_rank_correlation(score, iou):.2f}")
    print(f"mean of class means {np.mean([_mean(rows, c) for c in {r[0] for r in rows}]):.3f}")
    print(f"{1000 * spent / max(1, len(rows)):.2f} ms an instance, {len(rows)} instances")


def _mean(rows: list[tuple[str, float, bool, float, float]], label: str) -> float:
    return float(np.mean([r[1] for r in rows if r[0] == label]))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    main()
