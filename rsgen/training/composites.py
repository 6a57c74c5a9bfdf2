"""Composites of a training run (`train.batch: cf-comp`): who may meet whom, and when.

The samples of a run have numbers, step after step. Partners are sought within groups of so many
numbers, which are the same however the batch is cut: a batch of one image has partners among the
images of the steps before and after it, and the number of ranks changes nothing. A composite
goes to the batch of its base. It is made of pixels and encoded there: kept latents of the real
images stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsgen.composition.composing import Composite, Group, compose_group
from rsgen.composition.selection import (
    Candidate,
    SelectionSettings,
    can_give,
    look_at,
    named_pairs,
    seen_together,
)
from rsgen.data import TrainingImages
from rsgen.errors import DataError, UsageError
from rsgen.images import Pixels
from rsgen.pictures import contact_sheet, draw_layout
from rsgen.records import ClassTable, Layout, Sample
from rsgen.settings import TrainConfig
from rsgen.store import item_seed

__all__ = [
    "CompositeSettings",
    "Composites",
    "Member",
    "check_partners",
    "composite_settings",
    "draw_composites",
    "most_composites",
]

LEAST_GROUP = 8
EXAMPLES, EXAMPLE_GROUPS = 16, 8
KEPT_GROUPS = 2
LEGIBLE = 6  # names on a small picture


@dataclass(frozen=True)
class CompositeSettings:
    """How many composites, among whom, and their bounds."""

    seed: int
    batch_size: int  # of all ranks
    samples_a_step: int  # of all batches that are accumulated
    group: int
    rate: float
    replace: bool
    feather: float
    selection: SelectionSettings


@dataclass(frozen=True)
class Member:
    """A drawn sample: pixels uint8 [H, W, 3], its labels, and the image that it is a view of."""

    image: Pixels
    layout: Layout
    source: str


class Composites:
    """The composite of each sample's number, if it has one; groups are made once."""

    def __init__(
        self,
        classes: ClassTable,
        settings: CompositeSettings,
        members: Callable[[Sequence[int]], list[Member]],
        made: Callable[[Group], None],
    ) -> None:
        """`members` draws samples by their numbers; `made` hears of each new group."""
        self.classes, self.settings, self._members, self._made = classes, settings, members, made
        self._groups: dict[int, Group] = {}

    def of(self, number: int) -> Composite | None:
        """A pure function of the number."""
        group, position = divmod(number, self.settings.group)
        if group not in self._groups:
            while (
                len(self._groups) >= KEPT_GROUPS + self.settings.batch_size // self.settings.group
            ):
                self._groups.pop(next(iter(self._groups)))
            self._groups[group] = self._composed(group, self._candidates(group))
            self._made(self._groups[group])
        return self._groups[group].composites.get(position)

    def samples_of(self, start: int, stop: int) -> int:
        """Samples in a batch of these numbers, with composites."""
        if self.settings.replace:
            return stop - start
        return stop - start + sum(self.of(number) is not None for number in range(start, stop))

    def examples(self, count: int) -> list[tuple[Candidate, Candidate, Composite]]:
        """Base, donor and composite of the first composites of a run, at most `count`."""
        found: list[tuple[Candidate, Candidate, Composite]] = []
        for group in range(EXAMPLE_GROUPS):
            candidates = self._candidates(group)
            made = self._composed(group, candidates).composites.values()
            found += [(candidates[one.base], candidates[one.donor], one) for one in made]
            if len(found) >= count:
                break
        return found[:count]

    def _candidates(self, group: int) -> list[Candidate]:
        first, stuff = group * self.settings.group, self.settings.selection.stuff
        return [
            look_at(member.image, member.layout, member.source, self.classes, stuff)
            for member in self._members(range(first, first + self.settings.group))
        ]

    def _composed(self, group: int, candidates: Sequence[Candidate]) -> Group:
        settings = self.settings
        rng = np.random.default_rng(item_seed(settings.seed, "cf-comp", str(group)))
        return compose_group(candidates, settings.selection, settings.rate, settings.feather, rng)


def draw_composites(composites: Composites, path: Path) -> Path | None:
    """A contact sheet of a run's first composites: base, donor, composite, and its labels.

    None where none can be made of them.
    """
    tiles, titles = list[Pixels](), list[str]()
    for base, donor, one in composites.examples(EXAMPLES):
        tiles += [
            draw_layout(base.image, base.layout, labels=False),
            draw_layout(donor.image, donor.layout, labels=False),
            one.image,
            draw_layout(one.image, one.layout, labels=len(one.layout.instances) <= LEGIBLE),
        ]
        titles += [f"base {base.source}", f"donor {donor.source}", "composite", "its labels"]
    return contact_sheet(tiles, path, titles=titles, columns=8) if tiles else None


def composite_settings(
    settings: TrainConfig,
    samples: Sequence[Sample],
    classes: ClassTable,
    *,
    seed: int,
    batch_size: int,
) -> CompositeSettings | None:
    """What a run composes; None for plain batches. `batch_size` counts all ranks."""
    if settings.batch == "plain":
        return None
    asked = settings.cf_comp
    return CompositeSettings(
        seed,
        batch_size,
        batch_size * settings.accumulate,
        group_size(settings, batch_size),
        asked.rate,
        asked.replace,
        asked.feather_px,
        selection_settings(settings, samples, classes),
    )


def selection_settings(
    settings: TrainConfig, samples: Sequence[Sample], classes: ClassTable
) -> SelectionSettings:
    """The bounds of a pair. Raises UsageError, and DataError for an unknown class."""
    asked = settings.cf_comp
    if asked.foreground[0] > asked.foreground[1]:
        raise UsageError(
            f"train.cf_comp.foreground is {list(asked.foreground)}: its least share is the greater",
            hint="give the least share first, as -s train.cf_comp.foreground=[0.002,0.9]",
        )
    stuff = settings.foreground == "all"
    if asked.class_pairs == "shared":
        pairs: frozenset[frozenset[str]] = frozenset()
    elif asked.class_pairs == "seen":
        pairs = seen_together((s.layout for s in samples), classes, stuff)
    else:
        try:
            pairs = named_pairs(asked.class_pairs, classes)
        except ValueError as error:
            raise UsageError(
                f"train.cf_comp.class_pairs: {error}",
                hint="join two classes by +, as -s 'train.cf_comp.class_pairs=[ship+harbor]'",
            ) from error
    return SelectionSettings(
        pairs,
        asked.max_overlap,
        asked.foreground,
        asked.max_radiometry,
        asked.max_scale,
        asked.weights,
        stuff,
    )


def group_size(settings: TrainConfig, batch_size: int) -> int:
    asked = settings.cf_comp.group
    return max(LEAST_GROUP, batch_size) if asked == "auto" else asked


def most_composites(settings: TrainConfig, batch_size: int, share: int) -> int:
    """Composites that may join `share` samples of a batch at most."""
    if settings.batch == "plain" or settings.cf_comp.replace:
        return 0
    return min(share, round(settings.cf_comp.rate * group_size(settings, batch_size)))


def check_partners(images: TrainingImages, settings: TrainConfig) -> None:
    """Raise DataError where no two images of a run could ever exchange an object.

    Also UsageError where the bounds of `train.cf_comp` mean nothing.
    """
    if settings.batch == "plain":
        return
    selection_settings(settings, images.samples, images.classes)
    if len(images) < 2:
        raise DataError(
            "train.batch=cf-comp composes two images, and the run has one for training",
            hint="add images, or leave train.batch out",
        )
    stuff = settings.foreground == "all"
    for sample in images.samples:
        for instance in sample.layout.instances:
            if can_give(instance) and (stuff or not images.classes.is_stuff(instance.label)):
                return
    raise DataError(
        f"train.batch=cf-comp copies objects by their masks, and in {len(images)} training images "
        "no object has one of its own",
        hint="make masks with extract-masks; where every class is stuff (roads, water): "
        "-s train.foreground=all",
    )
