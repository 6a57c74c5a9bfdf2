"""The program `build-mask-pool`: sample runs and pools -> one pool."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.classes import united
from rsgen.errors import DataError, UsageError
from rsgen.mask import Mask
from rsgen.pictures import contact_sheet
from rsgen.pool.canonical import canonical_pose
from rsgen.pool.rules import REFUSALS, refusal, solidity_and_holes
from rsgen.pool.statistics import FEW_SHAPES, class_statistics, sheet_tiles
from rsgen.pool.table import MaskPool, mask_id, merge_rows
from rsgen.records import ClassTable, Instance, Sample, with_instances
from rsgen.reporting import RunSummary
from rsgen.request import InputRef
from rsgen.runs import Job, ProgramRun, check_request, start_program
from rsgen.settings import BuildMaskPoolConfig
from rsgen.store import SampleRun, input_ref, open_samples

__all__ = ["build_mask_pool", "collect", "pool_row"]

DROPPED = "dropped by a filter"
CHECK_EVERY = 256  # samples between looks at stop requests


def pool_row(sample: Sample, instance: Instance, symmetric: bool) -> dict[str, Any] | None:
    """An instance as a row of the pool; None without a mask."""
    pose = canonical_pose(instance, symmetric=symmetric)
    if pose is None:
        return None
    mask = _first_mirror(pose.pixels) if symmetric else Mask.from_array(pose.pixels)
    if mask is None:
        return None
    solidity, _, _ = solidity_and_holes(pose.pixels)
    return {
        "id": mask_id(instance.label, mask.width, mask.height, mask.counts),
        "label": instance.label,
        "width": mask.width,
        "height": mask.height,
        "counts": mask.counts,
        "width_px": round(pose.width_px, 3),
        "height_px": round(pose.height_px, 3),
        "gsd_m": sample.layout.gsd_m,
        "area": mask.area,
        "score": instance.scores.get("mask", 1.0),
        "solidity": round(solidity, 4),
        "pose": pose.pose,
        "origin": instance.origin,
        "sources": sorted({sample.parent, *sample.provenance.sources}),
    }


def _first_mirror(pixels: np.ndarray) -> Mask | None:
    """Of the four mirrorings the one with the smallest code, so that equal shapes meet."""
    turns = (pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1])
    masks = [m for turn in turns if (m := Mask.from_array(turn)) is not None]
    return min(masks, key=lambda m: m.counts, default=None)


def collect(
    samples: Iterable[Sample],
    classes: ClassTable,
    settings: BuildMaskPoolConfig,
    kept: dict[str, dict[str, Any]],
    counts: Counter[str],
) -> Iterator[int]:
    """Add the good masks of the train samples to `kept`; yields 1 after each sample.

    `counts` gains `instances`, `split: NAME` for what may not be learned from, `DROPPED` for
    samples that a filter refused, one entry for each rule broken, `duplicates` and `accepted`;
    they add up to `instances`.
    """
    for sample in samples:
        for instance in sample.layout.instances:
            counts["instances"] += 1
            if sample.split != "train":
                counts[f"split: {sample.split or 'none'}"] += 1
                continue
            if sample.verdict == "drop":
                counts[DROPPED] += 1
                continue
            reason = refusal(instance, sample.layout, classes, settings)
            if reason is not None:
                counts[reason] += 1
                continue
            row = pool_row(sample, instance, classes.resolve(instance.label).symmetric)
            if row is None:
                counts["no mask"] += 1
                continue
            _, joined = merge_rows([row], kept)
            counts["duplicates" if joined else "accepted"] += 1
        yield 1


def _capped(
    rows: dict[str, dict[str, Any]], cap: int, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """At most `cap` rows a class, those with the smallest hash of (seed, id)."""
    by_class: dict[str, list[dict[str, Any]]] = {}
    for row in rows.values():
        by_class.setdefault(row["label"], []).append(row)
    kept: list[dict[str, Any]] = []
    for group in by_class.values():
        if len(group) > cap:
            group.sort(key=lambda r: blake2b(f"{seed}/{r['id']}".encode(), digest_size=8).digest())
            group = group[:cap]
        kept.extend(group)
    return kept, len(rows) - len(kept)


def _open_inputs(paths: list[Path], allow_partial: bool) -> list[SampleRun | MaskPool]:
    opened: list[SampleRun | MaskPool] = []
    for path in paths:
        holds_pool = path.name == "pool.parquet" or (path / "pool.parquet").is_file()
        opened.append(MaskPool.load(path) if holds_pool else open_samples(path, allow_partial))
    return opened


def build_mask_pool(job: Job) -> RunSummary:
    """Build OUT/pool.parquet from sample runs and earlier pools (all of `job.inputs`).

    Raises:
        UsageError: no input. DataError: an input cannot be read, or no mask is left.
    """
    paths = [path for name in sorted(job.inputs) for path in job.paths(name)]
    if not paths:
        raise UsageError("build-mask-pool needs at least one sample run or pool")
    refs = [
        input_ref(name, path, allow_partial=job.allow_partial)
        for name in sorted(job.inputs)
        for path in job.paths(name)
    ]
    opened = _open_inputs(paths, job.allow_partial)
    classes = united(item.classes for item in opened)
    if job.dry_run:
        return _dry_run(job, refs, opened, classes)
    with start_program(job, inputs=refs, classes=classes) as run:
        if run.committed:
            return run.summary()
        kept: dict[str, dict[str, Any]] = {}
        counts: Counter[str] = Counter()
        runs = [item for item in opened if isinstance(item, SampleRun)]
        run.reporter.stage("build-mask-pool", sum(len(r) for r in runs), "sample")
        for item in opened:
            if isinstance(item, MaskPool):
                _add_pool(item, classes, kept, counts)
            else:
                _add_samples(item, classes, run, kept, counts)
        return _commit(run, kept, counts, classes)


def _dry_run(
    job: Job, refs: list[InputRef], opened: list[SampleRun | MaskPool], classes: ClassTable
) -> RunSummary:
    """What would be read; masks are judged by the run itself."""
    check_request(job, inputs=refs)
    runs = [item for item in opened if isinstance(item, SampleRun)]
    pools = [item for item in opened if isinstance(item, MaskPool)]
    counts = {"samples": sum(map(len, runs)), "masks of pools": sum(map(len, pools))}
    return RunSummary(
        job.command,
        str(job.out),
        "dry-run",
        counts=counts,
        notes=(f"classes: {', '.join(classes.names)}",),
    )


def _add_samples(
    source: SampleRun,
    classes: ClassTable,
    run: ProgramRun,
    kept: dict[str, dict[str, Any]],
    counts: Counter[str],
) -> None:
    named = _renamed(source, classes)
    for done, _ in enumerate(collect(named, classes, run.config.build_mask_pool, kept, counts)):
        run.reporter.advance()
        if done % CHECK_EVERY == CHECK_EVERY - 1:
            run.check_stop()


def _renamed(source: SampleRun, classes: ClassTable) -> Iterator[Sample]:
    """Samples whose labels bear the united table's names."""
    names = {c.name: classes.resolve(c.name).name for c in source.classes.classes}
    if all(old == new for old, new in names.items()):
        yield from source
        return
    for sample in source:
        yield with_instances(
            sample,
            [replace(i, label=names.get(i.label, i.label)) for i in sample.layout.instances],
        )


def _add_pool(
    pool: MaskPool,
    classes: ClassTable,
    kept: dict[str, dict[str, Any]],
    counts: Counter[str],
) -> None:
    for row in pool.table.to_pylist():
        label = classes.resolve(row["label"]).name
        if label != row["label"]:
            row["label"] = label
            row["id"] = mask_id(label, row["width"], row["height"], row["counts"])
        _, joined = merge_rows([row], kept)
        counts["instances"] += 1
        counts["duplicates" if joined else "accepted"] += 1


def _commit(
    run: ProgramRun,
    kept: dict[str, dict[str, Any]],
    counts: Counter[str],
    classes: ClassTable,
) -> RunSummary:
    seed = run.config.seed
    rows, over = _capped(kept, run.config.build_mask_pool.max_per_class, seed)
    if not rows:
        reasons = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if n)
        raise DataError(
            f"no mask is left for the pool ({reasons or 'no instances'})",
            hint="look at the masks (extract-masks writes overlay.html), or lower "
            "-s build_mask_pool.min_score and min_area_px",
        )
    pool = MaskPool.of_rows(rows, classes)
    kept.clear()
    rows.clear()
    gc.collect()
    tables = {label: class_statistics(pool, label, seed) for label in pool.labels}
    tiles, titles = sheet_tiles(pool, 16, seed)
    artifacts = {
        "pool": pool.save(run.path / "pool.parquet"),
        "contact sheet": contact_sheet(
            tiles, run.path / "contact_sheet.png", titles=titles, columns=16
        ),
    }
    few = [
        f"{label} {row['effective shapes']}"
        for label, row in tables.items()
        if float(row["effective shapes"]) < FEW_SHAPES
    ]
    notes = [
        f"fewer than {FEW_SHAPES} effective shapes, so generated objects will look alike: "
        + ", ".join(few)
    ] * bool(few)
    ordered = {
        "instances": counts["instances"],
        "masks": len(pool),
        "over the cap": over,
        "duplicates": counts["duplicates"],
        **{k: counts[k] for k in sorted(counts) if k.startswith("split: ")},
        **{name: counts[name] for name in (DROPPED, *REFUSALS) if counts[name]},
    }
    return run.commit(counts=ordered, artifacts=artifacts, tables=tables, notes=notes)
