"""Which layouts are tuned on, in which order, and which are held back to choose by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsgen.errors import DataError
from rsgen.generation.layouts import GivenLayouts, LayoutSource, PoolLayouts
from rsgen.generation.naming import Renaming
from rsgen.records import ClassTable, Layout, Provenance, Sample
from rsgen.request import item_seed
from rsgen.settings import GenerateConfig

__all__ = ["Drawn", "TuningLayouts", "open_layouts"]

HELD_SHARE = 0.2
HELD_STREAM = 10_000_000  # numbers of a pool's held layouts: no run tunes on so many
PATIENCE = 64  # layouts in a row that cannot be used


@dataclass(frozen=True)
class Drawn:
    """A layout of the stream; `number` names it, `parent` is its scene (None: a new one)."""

    number: int
    layout: Layout
    parent: str | None = None

    def sample(self, name: str, prompt: str) -> Sample:
        """The layout as a sample of a generated image, for rewards and judges."""
        provenance = Provenance(kind="synthetic", parent=self.parent)
        return Sample(name, self.layout, prompt=prompt, split="train", provenance=provenance)


class TuningLayouts:
    """A stream of layouts with objects, and held ones of other scenes that are never in it.

    From a pool every layout is new. Given ones are dealt in a new order each pass. Place k of
    the stream follows from (seed, k) alone. `renaming`: classes get the model's names, which
    rewards and judges know, since nothing that is painted here is written with its labels.
    """

    def __init__(
        self, source: LayoutSource, seed: int, held: int, renaming: Renaming | None = None
    ) -> None:
        self._source, self._seed = source, seed
        self._renaming = renaming or Renaming(source.classes, source.classes, {})
        self._seen = set[int]()
        self._bare = set[int]()
        self._refused: dict[int, DataError] = {}
        self._limit = source.limit
        order: Iterable[int] = range(HELD_STREAM, HELD_STREAM + PATIENCE * held)
        if self._limit is not None:
            order = self._order("held")
            held = min(held, max(1, round(HELD_SHARE * self._limit)))
        self.held: list[Drawn] = []
        for number in order:
            drawn = self._usable(number)
            if drawn is not None:
                self.held.append(drawn)
            if len(self.held) == held:
                break
        if not self.held:
            raise self._nothing_left()
        self._taken = frozenset(d.number for d in self.held)
        self._scenes = frozenset(d.parent for d in self.held if d.parent is not None)
        self.take(0, 1)  # what cannot be tuned on is said before any work

    @property
    def classes(self) -> ClassTable:
        """What the labels are of."""
        return self._renaming.classes

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know; how many cannot be used is known of those met so far."""
        notes = tuple(self._source.notes)
        if not self._refused:
            return notes
        first = next(iter(self._refused.values()))
        why = first.message if first.hint is None else f"{first.message} ({first.hint})"
        return (
            *notes,
            f"{len(self._refused)} of the first {len(self._seen)} layouts cannot be used and are "
            f"left out; of one of them: {why}",
        )

    def take(self, cursor: int, count: int) -> tuple[list[Drawn], int]:
        """The next `count` layouts from a place in the stream, and the place after them.

        Raises:
            DataError: no layout with objects comes.
        """
        found: list[Drawn] = []
        patience = max(PATIENCE, self._limit or 0)
        idle = 0
        while len(found) < count:
            drawn = self._at(cursor)
            cursor += 1
            idle = 0 if drawn is not None else idle + 1
            if drawn is not None:
                found.append(drawn)
            elif idle > patience:
                raise self._nothing_left()
        return found, cursor

    def named(self, number: int) -> Drawn:
        """The layout of that number, which `take` gave before."""
        drawn = self._usable(number)
        assert drawn is not None, number
        return drawn

    def _at(self, place: int) -> Drawn | None:
        if self._limit is None:
            return self._usable(place)
        turn, position = divmod(place, self._limit)
        number = int(self._order(f"turn {turn}")[position])
        drawn = None if number in self._taken else self._usable(number)
        return None if drawn is None or drawn.parent in self._scenes else drawn

    def _order(self, name: str) -> list[int]:
        rng = np.random.default_rng(item_seed(self._seed, "rl-tune-order", name))
        order: list[int] = rng.permutation(self._limit or 0).tolist()
        return order

    def _usable(self, number: int) -> Drawn | None:
        """Item k where it can be planned and has a thing to reward; else None, and counted."""
        self._seen.add(number)
        try:
            item = self._source.item(number)
        except DataError as error:
            self._refused.setdefault(number, error)
            return None
        known = self._source.classes
        if all(known.is_stuff(i.label) for i in item.layout.instances):
            self._bare.add(number)
            return None
        return Drawn(number, self._renaming(item.layout), item.parent)

    def _nothing_left(self) -> DataError:
        """What became of all layouts that were met."""
        found = [f"of {len(self._seen)} layouts"]
        if self._refused:
            first = next(iter(self._refused.values()))
            found.append(f"{len(self._refused)} cannot be used (the first: {first.message})")
        if self._bare:
            found.append(f"{len(self._bare)} have no object to reward")
        if self.held:
            found.append("the others show the scenes that are held back to choose by")
        hint = (
            "give layouts of the train split with objects of at least two scenes (one is held "
            "back to choose the checkpoint by), or a pool: --pool POOL"
        )
        if len(self._refused) > len(self._bare) and first.hint is not None:
            hint = first.hint
        return DataError(f"no layout to tune on: {', '.join(found)}", hint=hint)


def open_layouts(
    *,
    pools: Sequence[Path],
    layouts: Sequence[Path],
    settings: GenerateConfig,
    model_classes: ClassTable,
    size: int,
    seed: int,
    held: int,
    class_map: Mapping[str, str],
    partial: frozenset[Path] = frozenset(),
) -> TuningLayouts:
    """Layouts of the train split, from labels (with a pool: with its shapes) or from a pool.

    Raises:
        DataError: too few of them have objects that the model knows. UsageError: `class_map`
            names a class that is not there.
    """
    settings = settings.model_copy(update={"class_map": dict(class_map)})
    if layouts:
        source: LayoutSource = GivenLayouts(
            layouts, pools, settings, model_classes, size, seed, partial
        )
    else:
        source = PoolLayouts(pools, settings, model_classes, size, seed)
    return TuningLayouts(source, seed, held, Renaming.of(source.classes, model_classes, class_map))
