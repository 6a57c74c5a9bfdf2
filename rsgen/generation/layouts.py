"""Which layout item k has: planned from a pool, or made of given ones, by (seed, k) alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from rsgen.classes import load_legend, united
from rsgen.errors import DataError, UsageError
from rsgen.generation.matching import PoolScenes
from rsgen.generation.naming import check_class_map, known_classes, model_class
from rsgen.geometry import similarity
from rsgen.layout import PlannedLayout, load_templates, plan_from_layout, plan_from_pool
from rsgen.pool import MaskPool
from rsgen.records import ClassTable, Layout, Sample
from rsgen.request import item_seed
from rsgen.settings import GenerateConfig
from rsgen.splits import assign_splits
from rsgen.store import open_samples, run_folder

__all__ = ["GivenLayouts", "Item", "LayoutSource", "PoolLayouts", "select"]

DEFAULT_COUNT = 64
# Items in a row without a wanted object before a quota is given up.
PATIENCE = 400


@dataclass(frozen=True)
class Item:
    """One image to be: `number` is k; `counts` and `notes` say what planning did.

    `parent` is the real scene whose layout it has (None for a new one), `sources` the real
    samples whose masks it uses.
    """

    number: int
    layout: Layout
    template: str
    split: str = "train"
    parent: str | None = None
    sources: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class LayoutSource(Protocol):
    """A stream of items. `limit` is its length, None where it has no end."""

    @property
    def classes(self) -> ClassTable: ...

    @property
    def limit(self) -> int | None: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def item(self, number: int) -> Item:
        """Item k; the same whenever and wherever it is asked for.

        Raises:
            DataError: this item cannot be planned.
        """
        ...


# ---------------------------------------------------------------- from a pool


class PoolLayouts:
    """New layouts: masks of the pools put down by scene templates."""

    limit: int | None = None

    def __init__(
        self,
        pools: Sequence[Path],
        settings: GenerateConfig,
        model_classes: ClassTable,
        size: int,
        seed: int,
    ) -> None:
        self._pool = _open_pools(pools)
        self._settings, self._size, self._seed = settings, size, seed
        check_class_map(settings.class_map, self._pool.classes, model_classes)
        self.classes = known_classes(self._pool.classes, model_classes, settings.class_map)
        self._templates = load_templates(settings.templates, self.classes)
        unknown = [label for label in self._pool.labels if self.classes.find(label) is None]
        self.notes = (
            (f"the model does not know {', '.join(unknown)}: left out of the layouts",)
            if unknown
            else ()
        )

    def item(self, number: int) -> Item:
        settings = self._settings
        plan = plan_from_pool(
            self._pool,
            self.classes,
            self._templates,
            _generator(self._seed, number),
            (self._size, self._size),
            gsd_m=settings.gsd_m,
            # Sorted: a draw by weights follows their order, and run.json may keep another.
            labels=dict(sorted(settings.per_class.items())) or None,
            empty=settings.empty,
        )
        return _item(number, plan)


def _open_pools(paths: Sequence[Path]) -> MaskPool:
    pools = [MaskPool.load(path) for path in paths]
    return pools[0] if len(pools) == 1 else MaskPool.merge(pools)


# ---------------------------------------------------------------- from given layouts


class GivenLayouts:
    """Layouts of sample runs or labels in any format, `per_layout` items each.

    With pools every label gets another object's mask of its class; without, the given labels
    are used as they are. Larger layouts are cut to the canvas at their own scale, smaller ones
    put in its middle. Layouts of val and test samples are left out unless asked for, since what
    is made of them would teach a learner the answers. Where labels say no split, scenes of the
    pool are train; the rest is drawn as `extract-masks` would, or left out where the pool
    knows other scenes of the same labels.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        pools: Sequence[Path],
        settings: GenerateConfig,
        model_classes: ClassTable,
        size: int,
        seed: int,
        partial: Collection[Path] = (),
        split_seed: int | None = None,
    ) -> None:
        self._settings, self._size, self._seed = settings, size, seed
        self._split_seed = seed if split_seed is None else split_seed
        self._model_classes = model_classes
        self._pool = _open_pools(pools) if pools else None
        self._scenes = None if self._pool is None else PoolScenes(self._pool)
        self._refused = self._failures = self._drawn = self._unknown = 0
        tables, self._samples = [], list[Sample]()
        for path in paths:
            classes, samples = self._read(path, path in partial)
            tables.append(classes)
            self._samples += [s for s in self._with_splits(samples) if self._usable(s)]
        self.classes = united(tables)
        check_class_map(settings.class_map, self.classes, model_classes)
        known_classes(self.classes, model_classes, settings.class_map)
        if not self._samples:
            raise DataError(
                f"no usable layout in {', '.join(map(str, paths))} "
                f"({self._refused} of other splits or dropped)",
                hint="give layouts of the train split, or -s generate.layout_splits=[train,val]",
            )

    def _read(self, path: Path, partial: bool) -> tuple[ClassTable, Sequence[Sample]]:
        if run_folder(path) is not None:
            run = open_samples(path, allow_partial=partial)
            return run.classes, list(run)
        from rsgen.formats import read_dataset

        canvas = (self._settings.size, self._settings.size) if self._settings.size else None
        named = self._settings.classes
        found = read_dataset(
            path,
            require_images=False,
            size=canvas,
            legend=None if named is None else load_legend(named),
        )
        self._failures += len(found.failures)
        return found.classes, found.records

    def _names(self, sample: Sample) -> list[str]:
        """What the pool calls the scene of a sample."""
        return [] if self._scenes is None else self._scenes.names(sample.parent)

    def _with_splits(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Samples with a split each, but for scenes of which nothing says that they are train."""
        bare = [sample for sample in samples if sample.split is None]
        if not bare:
            return samples
        seen = {sample.parent for sample in bare if self._names(sample)}
        splits: Mapping[str, str | None]
        if seen:
            splits = {s.id: "train" if s.parent in seen else None for s in bare}
            self._unknown += sum(split is None for split in splits.values())
        else:
            splits = assign_splits(samples, self._split_seed)
            self._drawn += len(bare)
        return [s if s.split is not None else replace(s, split=splits[s.id]) for s in samples]

    def _usable(self, sample: Sample) -> bool:
        good = sample.verdict != "drop" and sample.split in self._settings.layout_splits
        self._refused += not good
        return good

    @property
    def limit(self) -> int | None:
        return len(self._samples) * self._settings.per_layout

    @cached_property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if self._refused:
            notes.append(f"{self._refused} layouts left out (other splits, or dropped)")
        if self._drawn:
            notes.append(
                f"splits of {self._drawn} layouts drawn 80/10/10 by scene with seed "
                f"{self._split_seed}: "
                "the same as those of extract-masks on the same data with the same seed alone; "
                "give its run as --layouts to be sure"
            )
        if self._unknown:
            notes.append(
                f"{self._unknown} layouts have no split and show scenes that the pool lacks: left "
                "out, they may be val or test; give an extract-masks run as --layouts"
            )
        if self._pool is not None and not any(map(self._names, self._samples)):
            notes.append(
                "the scenes of the layouts cannot be matched with the pool's by name: if they "
                "are the same images, an object may get its own mask again"
            )
        if self._failures:
            notes.append(f"{self._failures} labels or images of the layouts could not be read")
        if self._pool is None:
            notes.append(
                "given layouts are used with their own shapes; add --pool to swap the shapes"
            )
        sides = [(s.layout.width, s.layout.height) for s in self._samples]
        larger = sum(max(side) > self._size for side in sides)
        if larger:
            notes.append(f"{larger} layouts are larger than {self._size} px: cut, not shrunk")
        return tuple(notes)

    def item(self, number: int) -> Item:
        settings = self._settings
        sample = self._samples[number // settings.per_layout]
        rng = _generator(self._seed, number)
        names = self._names(sample)
        if len(names) == 1:  # the name that learners and guards know the scene by
            sample = replace(sample, provenance=replace(sample.provenance, parent=names[0]))
        sample = replace(sample, layout=_on_canvas(sample.layout, self._size, rng))
        self._check_known(sample)
        if bool(rng.random() < settings.empty):
            stuff = tuple(i for i in sample.layout.instances if self.classes.is_stuff(i.label))
            plan = PlannedLayout(
                replace(sample.layout, instances=stuff), "empty", (sample.id,), (), {}
            )
        elif self._pool is None and settings.mode == "resample":
            things = sum(not self.classes.is_stuff(i.label) for i in sample.layout.instances)
            counts = {"placed": things, "same_source": things}
            plan = PlannedLayout(sample.layout, "given", (sample.id,), (), counts)
        else:
            plan = plan_from_layout(
                sample,
                self._pool,
                rng,
                mode=settings.mode,
                allow_same_source=settings.allow_same_source,
                classes=self.classes,
                seen_in=names,
            )
        return replace(_item(number, plan), parent=sample.parent, split=sample.split or "train")

    def _check_known(self, sample: Sample) -> None:
        for instance in sample.layout.instances:
            entry = self.classes.resolve(instance.label)
            if model_class(entry, self._model_classes, self._settings.class_map) is None:
                raise DataError(
                    f"{sample.id}: the model does not know class {instance.label!r}; it knows "
                    f"{', '.join(self._model_classes.names)}",
                    hint="fine-tune the model on this class, or say what the model calls it: "
                    f"--class-map '{instance.label}=ITS'",
                )


def _on_canvas(layout: Layout, size: int, rng: np.random.Generator) -> Layout:
    """A size x size part of the layout at its own scale, around a random object of it."""
    if (layout.width, layout.height) == (size, size):
        return layout
    from rsgen.augment import move_layout  # loads albumentations: seconds, seldom needed

    boxes = [box for i in layout.instances if i.quad is not None and (box := i.bounds())]
    centre = (layout.width / 2, layout.height / 2)
    if boxes:
        centre = boxes[int(rng.integers(len(boxes)))].center
    shift = [
        _shift(extent, size, middle)
        for extent, middle in zip((layout.width, layout.height), centre, strict=True)
    ]
    return move_layout(layout, similarity(shift=(shift[0], shift[1])), size, size)


def _shift(extent: int, size: int, middle: float) -> float:
    if extent <= size:
        return float((size - extent) // 2)
    return -float(int(np.clip(middle - size / 2, 0, extent - size)))


# ---------------------------------------------------------------- shared


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng(item_seed(seed, "layout", str(number)))


def _item(number: int, plan: PlannedLayout) -> Item:
    return Item(number, plan.layout, plan.template, sources=plan.sources, counts=dict(plan.counts))


def select(
    source: LayoutSource, count: int | None, quotas: Mapping[str, int]
) -> tuple[Sequence[int], dict[str, int]]:
    """Numbers of the items to make, and objects still missing by class.

    Without quotas the first `count` items (default: all given layouts, or 64 from a pool).
    With quotas, items of the stream are taken while one of their classes is still wanted, and
    `count` is the most that may be taken.

    Raises:
        UsageError: more items than the layouts give, or an unknown class.
    """
    limit = source.limit
    if not quotas:
        wanted = count if count is not None else (DEFAULT_COUNT if limit is None else limit)
        if limit is not None and wanted > limit:
            raise UsageError(
                f"generate.count {wanted}: the layouts give {limit} images",
                hint="raise --per-layout",
            )
        return range(wanted), {}
    left = {source.classes.resolve(name).name: number for name, number in quotas.items()}
    taken: list[int] = []
    number, idle = 0, 0
    while any(v > 0 for v in left.values()) and idle < PATIENCE:
        if (limit is not None and number >= limit) or (count is not None and len(taken) >= count):
            break
        found = _objects(source, number)
        useful = found is not None and (not found or any(left.get(n, 0) > 0 for n in found))
        if useful:
            taken.append(number)
        idle = 0 if useful and found else idle + 1
        for name in found if useful and found else ():
            left[name] = left.get(name, 0) - 1
        number += 1
    return taken, {name: missing for name, missing in left.items() if missing > 0}


def _objects(source: LayoutSource, number: int) -> list[str] | None:
    """Labels of the things of an item; None where it cannot be planned."""
    try:
        layout = source.item(number).layout
    except DataError:
        return None
    return [i.label for i in layout.instances if not source.classes.is_stuff(i.label)]
