"""What `extract-masks` works on: labelled images of any format, or samples of earlier runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rsgen.classes import load_class_table, united
from rsgen.config import Config
from rsgen.errors import DataError, UsageError
from rsgen.formats import Dataset, read_dataset
from rsgen.formats.tiling import Window, needs_tiling, plan_tiles
from rsgen.records import ClassTable, Failure, ObjectClass, Sample
from rsgen.request import RunInfo
from rsgen.splits import assign_splits, split_counts
from rsgen.store import SampleRun, open_samples, run_folder

__all__ = ["Item", "Sources", "open_sources"]

AUTO_TILE = 1024


@dataclass(frozen=True)
class Item:
    """One piece of work: a sample, or a window of it. `image` is where its pixels lie."""

    sample: Sample
    image: Path
    window: Window | None = None


@dataclass(frozen=True)
class Sources:
    """All items in order, with what reading the labels said.

    `dropped` are images that could not be used, `bad_labels` single labels (each a named
    failure); `counts` are the readers' counts of read, kept and skipped.
    """

    items: tuple[Item, ...]
    classes: ClassTable
    roots: tuple[Path, ...]
    dropped: tuple[Failure, ...]
    bad_labels: tuple[Failure, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]


def open_sources(info: RunInfo) -> Sources:
    """Read the labels of every input (once a process for the same request)."""
    inputs = tuple((r.name, r.path, r.fingerprint, r.manifest_hash) for r in info.inputs)
    return _open(inputs, info.config.model_dump_json())


@lru_cache(maxsize=2)
def _open(inputs: tuple[tuple[str, str, str, str], ...], config_json: str) -> Sources:
    config = Config.model_validate_json(config_json)
    paths = {
        name: [Path(path) for n, path, *_ in inputs if n == name]
        for name in ("dataset", "images", "labels")
    }
    opened = _open_inputs(paths, config)
    classes = united(o.classes for o in opened)
    names = _prefixes(paths["dataset"]) if len(opened) > 1 else [""]
    pairs = [
        (_named(sample, prefix, classes), _image_path(source, sample))
        for source, prefix in zip(opened, names, strict=False)
        for sample in source
    ]
    roots = _roots(opened)
    if len(opened) > 1:
        common = roots[0]
        pairs = [
            (replace(s, image=Path(os.path.relpath(p, common)).as_posix()), p) for s, p in pairs
        ]
    splits = assign_splits((s for s, _ in pairs), config.seed)
    drawn = any(s.split is None for s, _ in pairs)
    items = [
        item
        for sample, path in pairs
        for item in _windows(replace(sample, split=splits[sample.id]), path, config)
    ]
    datasets = [o for o in opened if isinstance(o, Dataset)]
    dropped, bad_labels = _failures(datasets)
    counts: dict[str, int] = {}
    for dataset in datasets:
        for key, value in dataset.counts.items():
            counts[key] = counts.get(key, 0) + value
    how = "drawn 80/10/10 by parent scene" if drawn else "as given"
    shares = ", ".join(f"{name} {n}" for name, n in split_counts(splits).items())
    notes = [f"splits ({how}): {shares}"]
    for dataset in datasets:
        notes += dataset.notes
    if len(items) > len(pairs):
        notes.append(f"{len(pairs)} scenes were cut into {len(items)} tiles")
    return Sources(
        tuple(items), classes, tuple(roots), dropped, bad_labels, counts, tuple(notes)
    )


def _open_inputs(paths: dict[str, list[Path]], config: Config) -> list[SampleRun | Dataset]:
    datasets, images, labels = paths["dataset"], paths["images"], paths["labels"]
    if not datasets:
        datasets = labels[:1] or images[:1]
    if not datasets:
        raise UsageError(
            "extract-masks needs a dataset", hint="name a folder, a label file or a sample run"
        )
    if len(datasets) > 1 and (images or labels):
        raise UsageError(
            "--images and --labels belong to one dataset, several were given",
            hint="extract each by itself; build-mask-pool and train take several runs",
        )
    settings = config.extract_masks
    table = _wanted_classes(config)
    opened: list[SampleRun | Dataset] = []
    for path in datasets:
        if run_folder(path) is not None:
            opened.append(open_samples(path))
            continue
        opened.append(
            read_dataset(
                path,
                images=images[0] if images else None,
                labels=labels[0] if labels else None,
                format=settings.format,
                classes=table,
                class_map=settings.class_map,
                gsd_m=settings.gsd_m,
            )
        )
    return opened


def _wanted_classes(config: Config) -> ClassTable | None:
    if config.extract_masks.classes is not None:
        return load_class_table(config.extract_masks.classes)
    if config.classes is None:
        return None
    return ClassTable(
        tuple(ObjectClass(c.name, c.aliases, c.kind, c.symmetric) for c in config.classes)
    )


def _prefixes(paths: Sequence[Path]) -> list[str]:
    """Distinct id prefixes of several datasets: their folder names."""
    found: list[str] = []
    for path in paths:
        name, number = path.name, 1
        while f"{name}/" in found:
            number += 1
            name = f"{path.name}-{number}"
        found.append(f"{name}/")
    return found


def _named(sample: Sample, prefix: str, classes: ClassTable) -> Sample:
    """The sample with its id prefixed and its labels spelt as in the table."""
    instances = tuple(
        i if i.label in classes.names else replace(i, label=classes.resolve(i.label).name)
        for i in sample.layout.instances
    )
    parent = sample.provenance.parent
    return replace(
        sample,
        id=prefix + sample.id,
        layout=replace(sample.layout, instances=instances),
        provenance=replace(
            sample.provenance, parent=None if parent is None else prefix + parent
        ),
    )


def _image_path(source: SampleRun | Dataset, sample: Sample) -> Path:
    return source.image_path(sample)


def _roots(opened: Sequence[SampleRun | Dataset]) -> list[Path]:
    """What `Sample.image` is relative to: one source's own roots, or the common folder."""
    each = [o.image_roots if isinstance(o, SampleRun) else [o.root] for o in opened]
    if len(each) == 1:
        return [root.resolve() for root in each[0]]
    return [Path(os.path.commonpath([root.resolve() for roots in each for root in roots]))]


def _windows(sample: Sample, image: Path, config: Config) -> Iterable[Item]:
    settings = config.extract_masks
    if settings.tile == "none":
        return [Item(sample, image)]
    side = AUTO_TILE if settings.tile == "auto" else settings.tile
    layout = sample.layout
    if not needs_tiling(layout.width, layout.height, side):
        return [Item(sample, image)]
    gap = min(settings.tile_gap, side - 1)
    return [
        Item(sample, image, window)
        for window in plan_tiles(layout.width, layout.height, side, gap)
    ]


def _failures(datasets: Sequence[Dataset]) -> tuple[tuple[Failure, ...], tuple[Failure, ...]]:
    """(images that could not be used, single bad labels), told apart by the readers' counts."""
    dropped, bad_labels = list[Failure](), list[Failure]()
    for dataset in datasets:
        names = {
            key.split(".", 1)[1] for key in dataset.counts if key.startswith("images_skipped.")
        }
        for failure in dataset.failures:
            (dropped if failure.error in names else bad_labels).append(failure)
    return tuple(dropped), tuple(bad_labels)


def check_size(item: Item, height: int, width: int) -> None:
    """Raise DataError when the pixels are not of the size that the labels were read with."""
    layout = item.sample.layout
    if (width, height) != (layout.width, layout.height):
        raise DataError(
            f"{item.sample.id}: the image is {width} x {height}, its labels are for "
            f"{layout.width} x {layout.height}",
            hint="the file changed while the run was going, or its header lies: replace it",
        )
