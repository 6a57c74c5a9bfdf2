"""What `extract-masks` works on: labelled images of any format, or samples of earlier runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rsgen.classes import load_class_table, load_legend, united
from rsgen.config import Config
from rsgen.errors import DataError, UsageError
from rsgen.extraction.corrections import Corrected, correct_samples
from rsgen.formats import READ_KEYS, Dataset, read_dataset
from rsgen.formats.class_map import ClassMap, rename_notes, unused_notes
from rsgen.formats.names import LabelNames, paint_order
from rsgen.formats.tiling import Window, needs_tiling, plan_tiles, tile_id
from rsgen.hints import counted
from rsgen.legend import Legend, LegendRow
from rsgen.records import (
    INCOMPLETE,
    ClassTable,
    Failure,
    ObjectClass,
    Sample,
    lost_share,
    normal_name,
)
from rsgen.request import RunInfo
from rsgen.settings import ExtractMasksConfig
from rsgen.splits import assign_splits, split_counts
from rsgen.store import open_samples, run_folder

__all__ = ["Item", "Sources", "open_sources"]

AUTO_TILE = 1024


@dataclass(frozen=True)
class Item:
    """One piece of work: a sample, or a window of it. `find` says where its pixels lie."""

    sample: Sample
    find: Callable[[Sample], Path]
    window: Window | None = None

    @property
    def id(self) -> str:
        """The sample's, or that of the tile which is cut from it."""
        return tile_id(self.sample, self.window) if self.window else self.sample.id

    @property
    def image(self) -> Path:
        """Where the whole sample's pixels lie.

        Raises:
            DataError: it has no image, or the file is gone.
        """
        return self.find(self.sample)


@dataclass(frozen=True)
class _Source:
    """One input: its samples as it has them, and where `Sample.image` of each is found."""

    samples: Sequence[Sample]
    classes: ClassTable
    roots: tuple[Path, ...]
    find: Callable[[Sample], Path]
    names: ClassMap
    dataset: Dataset | None = None


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
        for name in ("dataset", "images", "labels", "corrections")
    }
    partial = frozenset(path for _, path, _, manifest in inputs if manifest == "partial")
    opened = _open_inputs(paths, config, partial)
    classes = united(o.classes for o in opened)
    names = _prefixes(paths["dataset"]) if len(opened) > 1 else [""]
    pairs = [
        (_named(sample, prefix, classes), source.find)
        for source, prefix in zip(opened, names, strict=False)
        for sample in source.samples
    ]
    fixed: list[Corrected] = []
    for path in paths["corrections"]:
        before = [sample for sample, _ in pairs]
        fixed.append(correct_samples(before, path, classes, config.extract_masks.class_map))
        finders = [find for _, find in pairs]
        pairs = list(zip(fixed[-1].samples, finders, strict=True))
    roots = dict.fromkeys(root.resolve() for o in opened for root in o.roots)
    splits = assign_splits((s for s, _ in pairs), config.seed)
    drawn = any(s.split is None for s, _ in pairs)
    items = [
        item
        for sample, find in pairs
        for item in _windows(replace(sample, split=splits[sample.id]), find, config)
    ]
    datasets = [o.dataset for o in opened if o.dataset is not None]
    dropped, bad_labels = _failures(datasets)
    counts: dict[str, int] = {}
    reads: list[Dataset | Corrected] = [*datasets, *fixed]
    for read in reads:
        for key, value in read.counts.items():
            counts[key] = counts.get(key, 0) + value
    dropped += tuple(failure for corrected in fixed for failure in corrected.failures)
    how = "drawn 80/10/10 by parent scene" if drawn else "as given"
    shares = ", ".join(f"{name} {n}" for name, n in split_counts(splits).items())
    notes = [f"splits ({how}): {shares}"]
    for read in reads:
        notes += read.notes
    notes += _name_notes(opened, classes, config, corrected=bool(fixed))
    notes += _lost_notes([sample for sample, _ in pairs])
    if len(items) > len(pairs):
        notes.append(f"{len(pairs)} scenes were cut into {len(items)} tiles")
    return Sources(tuple(items), classes, tuple(roots), dropped, bad_labels, counts, tuple(notes))


def _name_notes(
    opened: Sequence[_Source], classes: ClassTable, config: Config, corrected: bool
) -> list[str]:
    """What the class map and the table's aliases did; corrections may bring names of their own.

    Raises:
        UsageError: no name of the class map occurs.
    """
    labels: dict[str, int] = {}
    for source in opened:
        for name, count in source.names.labels.items():
            labels[name] = labels.get(name, 0) + count
    unused = [] if corrected else unused_notes(config.extract_masks.class_map, labels)
    return [*unused, *rename_notes((source.names for source in opened), classes)]


def _lost_notes(samples: Sequence[Sample]) -> list[str]:
    lost = sum(lost_share(sample) > 0 for sample in samples)
    if not lost:
        return []
    return [
        f"{counted(lost, 'image')} lost some of the labels on reading (attribute {INCOMPLETE}): "
        "train leaves out those that lost more than train.max_lost_labels"
    ]


def _open_inputs(
    paths: dict[str, list[Path]], config: Config, partial: frozenset[str]
) -> list[_Source]:
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
    table, legend = _wanted_classes(config)
    opened: list[_Source] = []
    for path in datasets:
        if run_folder(path) is not None:
            more = table if paths["corrections"] else None
            opened.append(_run_source(path, str(path) in partial, settings, more))
            continue
        found = read_dataset(
            path,
            images=images[0] if images else None,
            labels=labels[0] if labels else None,
            format=settings.format,
            classes=table,
            class_map=settings.class_map,
            gsd_m=settings.gsd_m,
            legend=legend,
            **{key: getattr(settings, key) for key in READ_KEYS},
        )
        opened.append(
            _Source(
                found.records,
                found.classes,
                (found.root,),
                found.image_path,
                found.names,
                found,
            )
        )
    return opened


def _run_source(
    path: Path, partial: bool, settings: ExtractMasksConfig, more: ClassTable | None
) -> _Source:
    """The samples of an earlier run, with classes renamed and gsd set as asked for.

    `more` are classes that its corrections may name beside those of the run.
    """
    given = {
        "--format": settings.format != "auto",
        "--classes": settings.classes is not None and more is None,
    }
    wrong = " and ".join(name for name, is_given in given.items() if is_given)
    if wrong:
        raise UsageError(
            f"{wrong}: {path} is a sample run, which has its format and class table",
            hint=f"leave {wrong} out; --class-map renames classes of a run",
        )
    run = open_samples(path, allow_partial=partial)
    classes, names = _renamed(run.classes, settings.class_map)
    classes = classes if more is None else united((classes, more))
    seen = ClassMap({**settings.class_map, **names})
    for entry in run.classes.classes:
        for name in (entry.name, *entry.aliases):
            seen.saw(name, 0)
    samples = []
    for sample in run:
        for instance in sample.layout.instances:
            seen.saw(instance.label)
            own = run.classes.resolve(instance.label).name
            seen.became[instance.label] = names.get(own, own)
        samples.append(_adapted(sample, run.classes, classes, names, settings.gsd_m))
    return _Source(samples, classes, tuple(run.image_roots), run.image_path, seen)


def _renamed(table: ClassTable, class_map: dict[str, str]) -> tuple[ClassTable, dict[str, str]]:
    """(the table under its new names, old name -> new name); classes of one name are joined."""
    wanted = {normal_name(old): new for old, new in class_map.items()}
    targets = {
        entry.name: next(
            (wanted[n] for n in map(normal_name, (entry.name, *entry.aliases)) if n in wanted),
            entry.name,
        )
        for entry in table.classes
    }
    entries = [replace(entry, name=targets[entry.name]) for entry in table.classes]
    classes = united(ClassTable((entry,)) for entry in entries)
    return classes, {old: classes.resolve(new).name for old, new in targets.items() if old != new}


def _adapted(
    sample: Sample,
    own: ClassTable,
    classes: ClassTable,
    names: dict[str, str],
    gsd_m: float | None,
) -> Sample:
    layout = sample.layout
    if gsd_m is not None:
        layout = replace(layout, gsd_m=gsd_m)
    if names:
        instances = [
            replace(i, label=names.get(own.resolve(i.label).name, i.label))
            for i in layout.instances
        ]
        layout = replace(layout, instances=paint_order(instances, LabelNames(classes, {})))
    return replace(sample, layout=layout)


def _wanted_classes(config: Config) -> tuple[ClassTable | None, Legend | None]:
    """The class table asked for, and what pixels of masks mean in it."""
    named = config.extract_masks.classes
    if named is not None:
        return load_class_table(named), load_legend(named)
    if config.classes is None:
        return None, None
    rows: list[LegendRow] = [
        (ObjectClass(c.name, c.aliases, c.kind, c.symmetric), c.value, c.color)
        for c in config.classes
    ]
    return ClassTable(tuple(entry for entry, _, _ in rows)), Legend.of(rows)


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
        provenance=replace(sample.provenance, parent=None if parent is None else prefix + parent),
    )


def _windows(sample: Sample, find: Callable[[Sample], Path], config: Config) -> Iterable[Item]:
    settings = config.extract_masks
    if settings.tile == "none":
        return [Item(sample, find)]
    side = AUTO_TILE if settings.tile == "auto" else settings.tile
    layout = sample.layout
    if not needs_tiling(layout.width, layout.height, side):
        return [Item(sample, find)]
    gap = min(settings.tile_gap, side // 2)  # small tiles must not step by single pixels
    return [
        Item(sample, find, window) for window in plan_tiles(layout.width, layout.height, side, gap)
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
