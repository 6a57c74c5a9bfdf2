"""Building a mask pool from many masks: seconds and memory (aim: 100k in 2 minutes, 1 GB).

python benchmarks/pool.py --count 100000
python benchmarks/pool.py --data RUN       (a committed sample run)
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from rsgen.config import load_config
from rsgen.geometry import RotatedBox, bounds, heading_of, rotated_box_to_quad
from rsgen.images import sha256_file
from rsgen.mask import Mask
from rsgen.pool import MaskPool, build_mask_pool
from rsgen.records import ClassTable, Instance, Layout, Sample
from rsgen.request import Plan, RunInfo
from rsgen.runs import Job, commit, run_json_bytes
from rsgen.store import part_counts, part_path, write_part

PER_SAMPLE = 50
SHARD = 50
SIDE = 1024
CLASSES = ClassTable.of("ship", "plane", "small-vehicle", "storage-tank")


def some_sample(index: int) -> Sample:
    """Objects of 10-60 px with ragged outlines, all different."""
    rng = np.random.default_rng(index)
    instances = []
    for k in range(PER_SAMPLE):
        length = float(rng.uniform(10, 60))
        box = RotatedBox(
            *rng.uniform(80, SIDE - 80, 2).tolist(),
            length,
            length / float(rng.uniform(1.1, 4)),
            float(rng.uniform(-np.pi, np.pi)),
        )
        quad = rotated_box_to_quad(box)
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        radius = 0.5 * rng.uniform(0.8, 1.0, 24)
        unit = np.stack([radius * np.cos(angle) * box.w, radius * np.sin(angle) * box.h], axis=1)
        c, s = np.cos(box.angle_rad), np.sin(box.angle_rad)
        points = unit @ np.array([[c, s], [-s, c]]) + (box.cx, box.cy)
        mask = Mask.from_polygons([points], SIDE, SIDE)
        label = CLASSES.names[k % len(CLASSES.names)]
        instances.append(Instance(label, bounds(quad), quad, mask, heading_of(quad)))
    return Sample(f"scene-{index}.png", Layout(SIDE, SIDE, tuple(instances), 0.5), split="train")


def write_run(out: Path, count: int) -> None:
    """A committed sample run without images."""
    samples = -(-count // PER_SAMPLE)
    plan = Plan(0, (), 1, "fp32", "cpu", 1).extended(samples, SHARD)
    info = RunInfo(
        "extract-masks", load_config(environ={}), out, "0" * 32, (), CLASSES, (), {}, plan
    )
    out.mkdir(parents=True)
    (out / "run.json").write_bytes(run_json_bytes(info))
    parts = []
    for index, (start, stop) in enumerate(plan.shards):
        write_part(out, index, [some_sample(k) for k in range(start, stop)], [], {})
        path = part_path(out, index)
        parts.append({"name": path.name, "rows": part_counts(path)[0], "sha256": sha256_file(path)})
    commit(info, parts=parts, counts={}, artifacts={}, exit_code=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a committed sample run")
    parser.add_argument("--count", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = args.data
        if run is None:
            run = Path(folder) / "run"
            write_run(run, args.count)
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        settings = [("build_mask_pool.max_per_class", 1_000_000)]
        job = Job(
            "build-mask-pool",
            load_config(settings=settings, environ={}),
            Path(folder) / "pool",
            {"run": [run]},
        )
        summary = build_mask_pool(job)
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{summary.counts['instances']} instances -> {summary.counts['masks']} masks")
        print(f"build: {wall:.1f} s wall, {processor:.1f} s of one core")
        print(f"peak memory {after.ru_maxrss / 1024:.0f} MB")
        start = time.perf_counter()
        pool = MaskPool.load(Path(folder) / "pool")
        print(f"load: {time.perf_counter() - start:.2f} s")
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        for k in range(1000):
            pool.draw(pool.labels[k % len(pool.labels)], rng, size_px=30.0, aspect=2.0)
        print(f"draw: {time.perf_counter() - start:.2f} ms each")


if __name__ == "__main__":
    main()
