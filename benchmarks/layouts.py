"""Layouts a second: planned from a pool, made of given layouts, and encoded as conditions.

Give a mask pool (OUT of build-mask-pool) and, for the last rows, a sample run; without a pool
one is made from procedural scenes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from rsgen.condition import ConditionEncoding, encode
from rsgen.layout import load_templates, plan_from_layout, plan_from_pool
from rsgen.pool import MaskPool
from rsgen.pool.build import pool_row
from rsgen.records import ClassTable, Layout, Sample
from rsgen.scenes import SCENE_CLASSES, SCENE_TYPES, render_scene
from rsgen.store import open_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", nargs="?", type=Path, help="a mask pool (default: of scenes)")
    parser.add_argument("--samples", type=Path, help="a sample run whose layouts are reused")
    parser.add_argument("--size", type=int, default=128, help="side in pixels")
    parser.add_argument("--count", type=int, default=100, help="layouts a row")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    samples, classes = _samples(arguments.samples, arguments.size)
    pool = MaskPool.load(arguments.pool) if arguments.pool else _pool(samples)
    size = (arguments.size, arguments.size)

    planned: list[Layout] = []
    for template in load_templates((), pool.classes):
        _row(
            template.name,
            arguments.count,
            lambda k, t=template: planned.append(
                plan_from_pool(pool, pool.classes, [t], np.random.default_rng(k), size).layout
            ),
        )
    for mode in ("resample", "perturb"):
        _row(
            f"{mode} a given layout",
            arguments.count,
            lambda k, m=mode: plan_from_layout(
                samples[k % len(samples)],
                pool,
                np.random.default_rng(k),
                mode=m,
                classes=classes,
            ),
        )
    encoding = ConditionEncoding.for_classes("classes", pool.classes)
    _row(
        "encode (35 channels)",
        len(planned),
        lambda k: encode(planned[k], size, encoding, pool.classes),
    )
    objects = np.mean([sum(i.quad is not None for i in p.instances) for p in planned])
    print(f"{arguments.size} px, {objects:.1f} objects a layout, one core")


def _row(name: str, count: int, work: Callable[[int], object]) -> None:
    start = time.process_time()
    for k in range(count):
        work(k)
    print(f"{name:24s} {count / (time.process_time() - start):8.1f} a second")


def _samples(path: Path | None, size: int) -> tuple[list[Sample], ClassTable]:
    if path is not None:
        run = open_samples(path)
        return list(run), run.classes
    scenes = (
        render_scene(k, max(size, 192), scene=SCENE_TYPES[k % len(SCENE_TYPES)])[1]
        for k in range(60)
    )
    return [Sample(f"scene-{k}", layout) for k, layout in enumerate(scenes)], SCENE_CLASSES


def _pool(samples: list[Sample]) -> MaskPool:
    """Masks of whole objects of the scenes."""
    rows = {}
    for sample in samples:
        for instance in sample.layout.instances:
            entry = SCENE_CLASSES.resolve(instance.label)
            if (
                entry.kind == "thing"
                and not instance.truncated
                and not instance.attributes.get("occluded")
            ):
                row = pool_row(sample, instance, entry.symmetric)
                if row is not None and row["area"] >= 24:
                    rows[row["id"]] = row
    return MaskPool.of_rows(rows.values(), SCENE_CLASSES)


if __name__ == "__main__":
    main()
