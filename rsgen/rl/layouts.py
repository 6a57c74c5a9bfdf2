"""Which layouts are tuned on, in which order, and which are held back to choose by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsgen.errors import DataError
from rsgen.generation.layouts import GivenLayouts, LayoutSource, PoolLayouts
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
    the stream follows from (seed, k) alone.
    """

    def __init__(self, source: LayoutSource, seed: int, held: int) -> None:
        self._source, self._seed = source, seed
        self.classes: ClassTable = source.classes
        self.notes = tuple(source.notes)
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
            raise _no_layouts("the layouts that could be held back")
        self._taken = frozenset(d.number for d in self.held)
        self._scenes = frozenset(d.parent for d in self.held if d.parent is not None)
        self.take(0, 1)  # what cannot be tuned on is said before any work

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
                raise _no_layouts(f"{idle} layouts")
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
        """Item k where it can be planned and has a thing to reward; else None."""
        try:
            item = self._source.item(number)
        except DataError:
            return None
        things = any(not self.classes.is_stuff(i.label) for i in item.layout.instances)
        return Drawn(number, item.layout, item.parent) if things else None


def _no_layouts(what: str) -> DataError:
    return DataError(
        f"none of {what} has an object to reward",
        hint="give layouts of the train split with objects of at least two scenes (one is held "
        "back to choose the checkpoint by), or a pool: --pool POOL",
    )


def open_layouts(
    *,
    pools: Sequence[Path],
    layouts: Sequence[Path],
    settings: GenerateConfig,
    model_classes: ClassTable,
    size: int,
    seed: int,
    held: int,
    partial: frozenset[Path] = frozenset(),
) -> TuningLayouts:
    """Layouts of the train split, from labels (with a pool: with its shapes) or from a pool.

    Raises:
        DataError: too few of them have objects.
    """
    if layouts:
        source: LayoutSource = GivenLayouts(
            layouts, pools, settings, model_classes, size, seed, partial
        )
    else:
        source = PoolLayouts(pools, settings, model_classes, size, seed)
    return TuningLayouts(source, seed, held)
