"""New thresholds for a filtered run (`rsgen filter OLD --rescore none --out NEW`), images a second.

    python benchmarks/rethreshold.py
    python benchmarks/rethreshold.py --count 100000 --old-path 10000

OLD is written here, by the store's own writer: samples with 1 to 9 objects, masks, boxes, and the
scores of six rules, a tenth of which fail. The command reads no pixels for its verdicts; its
report shows some 130 pictures, so all samples share `--pictures` small images. The old path
builds every sample as an object, as a run that scores pixels does; it is measured on
the first `--old-path` samples of an OLD of its own, in the same process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsgen.config import load_config, parse_pairs
from rsgen.execution import run_stage
from rsgen.filter import FilterStage
from rsgen.geometry import Box
from rsgen.images import sha256_file, write_png
from rsgen.job import Job
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, Provenance, Sample
from rsgen.request import Plan, RunInfo, request_fingerprint, request_keys
from rsgen.runs import commit, run_json_bytes
from rsgen.scorers.judging import rounded
from rsgen.store import open_samples, part_counts, part_path, write_part

SIZE, SHARD = 256, 1024
CLASSES = ClassTable.of("plane", "ship", "small-vehicle", "storage-tank", "tennis-court")
RULES = (
    "{scorer: integrity, min: 0.5}",
    "{scorer: label-geometry, min: 0.3, tolerate: 0.2}",
    "{scorer: contrast, min: 4.0, tolerate: 0.3}",
    "{scorer: novelty-hash, min: 0.1}",
    "{scorer: novelty-hash, name: judge-image, min: 0.1}",
    "{scorer: contrast, name: judge, min: 0.2, tolerate: 0.5, policy: difficult}",
)
OBJECT_SCORES = (("label-geometry", 1.0, 0.1), ("contrast", 14.0, 7.0), ("judge", 0.7, 0.3))
IMAGE_SCORES = (("integrity", 1.0, 0.1), ("novelty-hash", 0.3, 0.1), ("judge-image", 0.6, 0.3))


def samples(count: int, pictures: int, seed: int = 0) -> Iterator[Sample]:
    """Filtered samples as the command leaves them, but for verdicts, which it makes anew."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        things = [_thing(rng) for _ in range(int(rng.integers(1, 10)))]
        scores = {n: rounded(max(0.0, rng.normal(mean, std))) for n, mean, std in IMAGE_SCORES}
        worst = {n: min(t.scores[n] for t in things) for n, _, _ in OBJECT_SCORES}
        yield Sample(
            f"0123abcd-{number:06d}",
            Layout(SIZE, SIZE, tuple(things), 0.5, "harbour"),
            f"images/{number % pictures:05d}.png",
            prompt="A satellite image of a harbour",
            split="train",
            provenance=Provenance("synthetic", "0123abcd", seed=int(rng.integers(2**40))),
            scores={**scores, **worst},
            verdict="keep",
        )


def _thing(rng: np.random.Generator) -> Instance:
    width, height = (int(v) for v in rng.integers(6, 40, 2))
    x, y = (int(v) for v in rng.integers(0, SIZE - 40, 2))
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows + 0.5) / height - 0.5) ** 2 + ((columns + 0.5) / width - 0.5) ** 2 <= 0.25
    mask = Mask.from_array(inside, x, y)
    scores = {n: rounded(max(0.0, rng.normal(mean, std))) for n, mean, std in OBJECT_SCORES}
    label = CLASSES.names[int(rng.integers(len(CLASSES.names)))]
    box = Box(x, y, x + width, y + height)
    return Instance(label, box, mask=mask, scores=scores, origin="pool:plane/17")


def filtered_run(out: Path, count: int, pictures: int) -> Path:
    """A committed filter run of `count` samples."""
    rng = np.random.default_rng(1)
    for number in range(pictures):
        image = rng.integers(0, 255, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
        write_png(out / f"images/{number:05d}.png", image.repeat(8, 0).repeat(8, 1))
    config = load_config()
    plan = Plan(0, (), 16, "fp32", "cpu", 1).extended(count, SHARD)
    keys = request_keys("filter", config, (), {}, {})
    info = RunInfo("filter", config, out, request_fingerprint(keys), (), CLASSES, (), {}, plan, {})
    (out / "run.json").write_bytes(run_json_bytes(info))
    rows, parts = samples(count, pictures), []
    for index, (start, stop) in enumerate(plan.shards):
        write_part(out, index, [next(rows) for _ in range(start, stop)], [], {})
        path = part_path(out, index)
        parts.append({"name": path.name, "rows": part_counts(path)[0], "sha256": sha256_file(path)})
    commit(info, parts=parts, counts={"samples": count}, artifacts={}, exit_code=0)
    return out


def measure(old: Path, new: Path) -> tuple[float, float]:
    """(seconds, seconds of CPU) of the command."""
    settings = ["filter.rescore=none", f"filter.rules=[{', '.join(RULES)}]"]
    job = Job("filter", load_config(settings=parse_pairs(settings)), new, {"run": [old]})
    started, used = time.monotonic(), time.process_time()
    run_stage(job)
    return time.monotonic() - started, time.process_time() - used


def same_rows(one: Path, other: Path) -> bool:
    """Whether two runs hold the same samples."""
    return all(a == b for a, b in zip(open_samples(one), open_samples(other), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="samples")
    parser.add_argument("--old-path", type=int, default=10_000, help="samples for the old path")
    parser.add_argument("--pictures", type=int, default=16, help="images that they share")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        warm = filtered_run(work / "warm", 64, options.pictures)
        measure(warm, work / "warm-new")  # imports and caches
        few = filtered_run(work / "few", options.old_path, options.pictures)
        many = filtered_run(work / "many", options.count, options.pictures)
        FilterStage.by_columns = False
        old_wall, old = measure(few, work / "few-old-path")
        FilterStage.by_columns = True
        measure(few, work / "few-new-path")
        new_wall, new = measure(many, work / "many-new")
        same = same_rows(work / "few-old-path", work / "few-new-path")
    print(f"{options.count} samples: {new_wall:.1f} s, {new:.1f} s of CPU")
    print(f"images a second of CPU: {options.count / new:.0f}")
    print(f"old path, {options.old_path} samples: {old_wall:.1f} s, {old:.1f} s of CPU")
    ratio = (old / options.old_path) / (new / options.count)
    print(f"old path / new path, CPU a sample: {ratio:.1f}; the same rows: {same}")


if __name__ == "__main__":
    main()
