"""What the filter's rules catch: planted faults, every rule on, each one off, each one alone.

    python benchmarks/r_filter.py --work r-filter-bench
    python benchmarks/r_filter.py --work r-filter-bench --airports DIR --ships DIR --hit-uav DIR

Faults (`faults.py`) are planted in held images, one in each: `--count` scenes of seeds that
judge A has not learned from, or as many 128 px windows of the test split as a real folder has (one
window is one image). As many other clean images (scenes of the same seed, windows of the val
split) are what copies are looked for in (--real), and calibrate.

Each set is scored by `rsgen filter` with the rules of the presets (detection, segmentation,
classification) and judge A; verdicts are then made from the stored scores by the functions
that `--rescore none` uses. In every row but "as it comes" the bounds of its rules are set so that
of the clean images at most `--false` are rejected and of their objects at most as many marked.
Rules with a fixed bound in the preset keep it. All others of objects are given the same share of
the clean objects to cut off, the largest that keeps to it and rejects at most half of those images;
then all others of images the largest share that the rest allows. "as it comes" has the quantiles of
the preset, over the same clean images.

- caught: the image is rejected, or the planted object is marked (an export leaves it out or says
  difficult). Of an extra object there is no label that could be marked.
- false images, false objects: of clean test images, which set no bound.
- alone: one rule. off: all of the preset but one.
- clip is not measured: it needs weights that are not part of rsgen.

The table "speed" is of `rsgen filter` (detection preset) against the judge's bare network on the
same images, in the same batches, in images a second of CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, add_options, add_set_options, call, given_sets, run_cells
from faults import FAULTS, faulty_run, planted_object
from sets import judges, labelled, scenes, windows, write_run

from rsgen.errors import UsageError
from rsgen.judge.model import load_judge
from rsgen.registry import resolve
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.rules import Task, default_rules
from rsgen.screening.columns import Columns
from rsgen.screening.rethreshold import Judged, judge_columns
from rsgen.store import open_samples

SIZE = 128
WINDOWS = {"val": 40, "test": 40}
TASKS: tuple[Task, ...] = ("detection", "segmentation", "classification")
NO_BOUND = -1e9
BATCH = 16  # of filter
COLUMNS = ("false images", "false objects", *FAULTS, "images")
SPEED = ("filter, images a second", "network, images a second", "ratio", "images")
Floats = np.ndarray[Any, np.dtype[np.float64]]


def preset(task: Task) -> list[Rule]:
    """The rules of a task with real images and a judge.

    Raises:
        UsageError: one has an upper bound: only lower ones are set here.
    """
    rules = default_rules(real=True, checkpoint=False, judge=True, task=task)
    for rule in rules:
        if rule.max is not None or rule.upper is not None:
            raise UsageError(
                f"rule {rule.name} of preset {task} has an upper bound",
                hint="teach _bounds to cut off great scores too",
            )
    return rules


def every_rule() -> list[Rule]:
    """Those of all presets, each once."""
    return list({rule.name: rule for task in TASKS for rule in preset(task)}.values())


# ---------------------------------------------------------------- what is measured on


@dataclass(frozen=True)
class Ground:
    """Clean and faulty images of a set, and their scores; made when a cell asks for them."""

    name: str
    seed: int
    options: argparse.Namespace
    given: Path | None = None
    faults: tuple[str, ...] = FAULTS

    @property
    def folder(self) -> Path:
        return Path(self.options.work / self.name / f"seed-{self.seed}-{self.options.count}")

    @cached_property
    def judge(self) -> Path:
        options = self.options
        if self.given is not None:
            run = self.whole
        elif options.judges is not None:
            run = self.folder
        else:
            run = scenes(options.work, 900, 600, 256)
        how = (options.judges, run, options.judge_steps, options.threads, "reward")
        return judges(options.work, self.name, *how)

    @cached_property
    def whole(self) -> Path:
        assert self.given is not None, "a real folder"
        return labelled(self.options.work, self.name, self.given)

    @cached_property
    def clean(self) -> Path:
        """The images that bounds are set on."""
        return self._part("clean", 0, "val")

    @cached_property
    def test(self) -> Path:
        """The images that faults are planted in."""
        return self._part("test", 1, "test")

    def _part(self, name: str, half: int, split: str) -> Path:
        count = self.options.count
        if self.given is None:
            made = open_samples(scenes(self.options.work, 940 + self.seed, 2 * count))
            samples = made.rows(half * count, (half + 1) * count)
        else:
            made = open_samples(windows(self.folder.parent / "windows", self.whole, SIZE, WINDOWS))
            samples = [s for s in made if s.split == split][:count]
        of = f"{name} {count}"
        return write_run(self.folder / name, lambda: samples, made.classes, [made], of)

    def scored(self, name: str) -> Path:
        """The filter run over the clean images, the test images, or those with a fault."""
        slug = name.replace(" ", "-")
        run = {"clean": lambda: self.clean, "test": lambda: self.test}.get(
            name, lambda: faulty_run(self.folder / f"with-{slug}", self.test, name, self.count)
        )()
        return self.filtered(self.folder / f"scored-{slug}-{self.options.judge_steps}", run)

    @property
    def count(self) -> int:
        return int(self.options.count)

    def filtered(self, out: Path, run: Path, rules: Sequence[Rule] | None = None) -> Path:
        """Scores of all rules, no bound: every image is kept."""
        options = self.options
        rows = ", ".join(
            f"{{scorer: {r.scorer}, name: {r.name}, min: {NO_BOUND}, options: {dict(r.options)}}}"
            for r in (every_rule() if rules is None else rules)
        )
        settings = (
            f"filter.rules=[{rows}]",
            "filter.real_sample=1",
            f"execution.threads={options.threads}",
            f"execution.device={options.device}",
        )
        return call("filter", out, {"run": run, "real": self.clean, "judge": self.judge}, settings)


@dataclass(frozen=True)
class Set:
    """A scored run as columns, with what was planted where."""

    columns: Columns
    faulty: tuple[bool, ...]  # by image
    objects: tuple[int | None, ...]  # by image: the position of the planted object in `columns`


@lru_cache(maxsize=24)
def opened(path: Path) -> Set:
    run = open_samples(path)
    samples = list(run)
    columns = Columns(run.table(0, len(run)))
    starts = np.cumsum(columns.counts) - columns.counts
    objects = []
    for sample, start in zip(samples, starts.tolist(), strict=True):
        place = planted_object(sample)
        objects.append(None if place is None else start + place)
    return Set(columns, tuple("fault" in s.attributes for s in samples), tuple(objects))


# ---------------------------------------------------------------- bounds and verdicts


@dataclass(frozen=True)
class Variant:
    """A row of the table: some rules, with bounds set for it or those of the preset."""

    name: str
    rules: tuple[Rule, ...]
    as_it_comes: bool = False

    def bounds(self, clean: Columns, most: float) -> dict[str, Bound]:
        if self.as_it_comes:
            return {rule.name: _preset_bound(rule, clean) for rule in self.rules}
        free = [rule for rule in self.rules if rule.quantile is not None]
        of_objects = [r for r in free if levels_of([r])[r.name] == "instance"]
        of_images = [r for r in free if r not in of_objects]
        half = most / 2 if of_images else most
        found = {rule.name: Bound(rule.min, rule.max) for rule in self.rules}
        found |= {rule.name: Bound(None, rule.max) for rule in free}
        found |= self._widest(clean, found, of_objects, (half, most))
        return found | self._widest(clean, found, of_images, (most, most))

    def _widest(
        self,
        clean: Columns,
        others: Mapping[str, Bound],
        rules: Sequence[Rule],
        most: tuple[float, float],
    ) -> dict[str, Bound]:
        """Bounds of some rules beside the others' that cut off most, within rates of both kinds."""
        low, high = 0.0, 0.5
        for _ in range(14):
            share = (low + high) / 2
            rates = false_rates(clean, self.rules, {**others, **_bounds(clean, rules, share)})
            fits = rates[0] <= most[0] and rates[1] <= most[1]
            low, high = (share, high) if fits else (low, share)
        return _bounds(clean, rules, low)


def levels_of(rules: Sequence[Rule]) -> dict[str, str]:
    return {rule.name: resolve("scorers", rule.scorer).level for rule in rules}


def judged(columns: Columns, rules: Sequence[Rule], bounds: Mapping[str, Bound]) -> Judged:
    return judge_columns(columns, rules, bounds, levels_of(rules), str)


def _bounds(clean: Columns, rules: Sequence[Rule], share: float) -> dict[str, Bound]:
    """Each rule's bound, under which so large a share of clean images, or of objects, lies."""
    found = {}
    for rule in rules:
        of_image = levels_of([rule])[rule.name] == "image"
        values = columns_of(clean, rule.name, of_image=of_image)
        known = values[~np.isnan(values)]
        low = float(np.quantile(known, share, method="lower")) if known.size else None
        if low is not None and rule.at_most is not None:
            low = min(low, rule.at_most)
        found[rule.name] = Bound(low, rule.max)
    return found


def columns_of(columns: Columns, name: str, *, of_image: bool) -> Floats:
    """A rule's scores, by image or by object."""
    return columns.values(name) if of_image else columns.object_values(name)


def _preset_bound(rule: Rule, clean: Columns) -> Bound:
    if levels_of([rule])[rule.name] == "image":
        return rule.bound({"": clean.values(rule.name).tolist()})
    values, scores = clean.object_values(rule.name), {}
    for number, label in enumerate(clean.labels):
        scores[label] = values[clean.label_numbers == number].tolist()
    return rule.bound(scores)


def false_rates(
    columns: Columns, rules: Sequence[Rule], bounds: Mapping[str, Bound]
) -> tuple[float, float]:
    """(share of images rejected, share of things marked)."""
    found = judged(columns, rules, bounds)
    things = max(int(columns.things.sum()), 1)
    return 1 - float(found.kept.mean()), len(found.object_reasons) / things


def caught(held: Set, rules: Sequence[Rule], bounds: Mapping[str, Bound]) -> float | None:
    """The share of faulty images that are rejected, or whose planted object is marked."""
    found = judged(held.columns, rules, bounds)
    hits = [
        verdict == "drop" or place in found.object_reasons
        for verdict, place, faulty in zip(found.verdicts, held.objects, held.faulty, strict=True)
        if faulty
    ]
    return float(np.mean(hits)) if hits else None


def variants() -> list[Variant]:
    found = []
    for task in TASKS:
        found.append(Variant(f"{task}: all on", tuple(preset(task))))
    mine = preset("detection")
    found.append(Variant("detection: as it comes", tuple(mine), as_it_comes=True))
    for rule in mine:
        rest = tuple(other for other in mine if other is not rule)
        found.append(Variant(f"detection: {rule.name} off", rest))
    found += [Variant(f"{rule.name} alone", (rule,)) for rule in every_rule()]
    return found


def compute(ground: Ground, variant: Variant) -> dict[str, float | None]:
    """The figures of a row."""
    clean = opened(ground.scored("clean")).columns
    bounds = variant.bounds(clean, ground.options.false)
    test = opened(ground.scored("test")).columns
    images, objects = false_rates(test, variant.rules, bounds)
    found: dict[str, float | None] = {"false images": images, "false objects": objects}
    for fault in FAULTS:
        if fault in ground.faults:
            found[fault] = caught(opened(ground.scored(fault)), variant.rules, bounds)
    return {**found, "images": float(len(test))}


# ---------------------------------------------------------------- speed


def speed(ground: Ground) -> dict[str, float | None]:
    """CPU of a filter run and of the network alone, over the first test images."""
    few = open_samples(ground.test).rows(0, min(ground.count, 200))
    source = open_samples(ground.test)
    name = f"speed-{len(few)}"
    run = write_run(ground.folder / name, lambda: few, source.classes, [source], name)
    judge = load_judge(ground.judge, "reward", device=ground.options.device)
    images = np.stack([source.read_image(sample) for sample in few])
    batches = [images[k : k + BATCH] for k in range(0, len(images), BATCH)]
    judge.maps(batches[0])
    network = _seconds(lambda: [judge.maps(batch) for batch in batches])
    before = len(list(ground.folder.glob(f"{name}-out-*")))
    # a filter run that was killed is another one's: its time would be less
    out = ground.folder / f"{name}-out-{before}"
    whole = _seconds(lambda: ground.filtered(out, run, preset("detection")))
    return {
        "filter, images a second": len(few) / whole,
        "network, images a second": len(few) / network,
        "ratio": whole / network,
        "images": float(len(few)),
    }


def _seconds(do: Callable[[], object]) -> float:
    started = time.process_time()
    do()
    return time.process_time() - started


def request(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells depend on."""
    keys = ("count", "judge_steps", "false")
    return {key: getattr(options, key) for key in keys} | {"bounds": "objects, then images"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    add_set_options(parser)
    parser.add_argument("--hit-uav", type=Path, help="labelled folder, or extract-masks OUT")
    parser.add_argument("--count", type=int, default=500, help="images of each fault")
    parser.add_argument("--false", type=float, default=0.05, help="clean images rejected at most")
    options = parser.parse_args()
    one_class = tuple(fault for fault in FAULTS if fault != "wrong class")
    grounds = [Ground("scenes", seed, options) for seed in range(options.seeds)]
    for name, given in given_sets(options).items():
        grounds.insert(1, Ground(name, 0, options, given, one_class))
    if options.hit_uav is not None:
        grounds.insert(1, Ground("hit-uav", 0, options, options.hit_uav, ("wrong class",)))
    cells = [
        Cell(ground.name, variant.name, ground.seed, _of(ground, variant), _row(ground, variant))
        for ground in grounds
        for variant in variants()
    ]
    print("clip: not measured (it needs weights that are not part of rsgen)")
    run_cells(cells, options, COLUMNS, "share of planted faults that is caught")
    quick = [
        Cell("speed", g.name, g.seed, request(options), lambda g=g: speed(g))  # type: ignore[misc]
        for g in grounds
        if g.seed == 0
    ]
    run_cells(quick, options, SPEED, "the filter against the bare network")


def _row(ground: Ground, variant: Variant) -> Callable[[], dict[str, float | None]]:
    return lambda: compute(ground, variant)


def _of(ground: Ground, variant: Variant) -> dict[str, Any]:
    rules = [
        [r.name, r.scorer, r.min, r.quantile, r.at_most, r.tolerate, r.max, dict(r.options)]
        for r in variant.rules
    ]
    return {**request(ground.options), "rules": rules}


if __name__ == "__main__":
    main()
