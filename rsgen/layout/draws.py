"""Drawing masks for a layout: which class next, and how large on this canvas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rsgen.layout.ground import Piece
from rsgen.pool import MaskPool, PoolMask
from rsgen.records import ClassTable, normal_name

__all__ = ["Draws", "pool_labels"]

TRIES = 5
FILL = 0.94  # largest extent of an object, share of the canvas' shorter side


def pool_labels(pool: MaskPool, classes: ClassTable) -> dict[str, str]:
    """Thing classes of a table that the pool has masks of: table name -> pool name."""
    found: dict[str, str] = {}
    for label in pool.labels:
        own = pool.classes.resolve(label)
        for name in (own.name, *own.aliases):
            entry = classes.find(name)
            if entry is not None:
                if entry.kind == "thing":
                    found.setdefault(entry.name, label)
                break
    return {name: found[name] for name in classes.names if name in found}


@dataclass
class Draws:
    """Pieces for one layout. `main` are the labels and weights of the template's classes."""

    pool: MaskPool
    names: Mapping[str, str]
    classes: ClassTable
    rng: np.random.Generator
    size: tuple[int, int]
    main: str
    others: Sequence[str] = ()
    mix: float = 0.0
    gsd_m: float | None = None
    jitter: float = 0.0
    fill: float = FILL
    like: float | None = None  # extent along x in source pixels that draws should be near
    notes: dict[str, int] = field(default_factory=dict)

    def scale(self, mask: PoolMask) -> float:
        """Canvas pixels a source pixel: gsd-true where both are known."""
        if self.gsd_m is None or mask.gsd_m is None:
            return 1.0
        return mask.gsd_m / self.gsd_m

    def leader(self) -> PoolMask:
        """A mask of the main class, to set the scale by; fits the canvas where one does."""
        limit = self.fill * min(self.size)
        mask = self.pool.draw(self.names[self.main], self.rng, size_px=self.like)
        for _ in range(TRIES):
            scale = self.scale(mask)
            if max(mask.width_px, mask.height_px) * scale <= limit:
                break
            mask = self.pool.draw(self.names[self.main], self.rng, size_px=limit / scale * 0.7)
        return mask

    def next(self) -> Piece:
        """A piece of the main class, or of one that goes with it."""
        if self.others and self.rng.random() < self.mix:
            return self.piece(self.others[int(self.rng.integers(len(self.others)))])
        return self.piece(self.main, like=self.like)

    def piece(self, label: str, like: float | None = None) -> Piece:
        """A piece of a class whose extent fits the canvas; shrunk (and counted) if none does."""
        limit = self.fill * min(self.size)
        change = 1 + float(self.rng.uniform(-self.jitter, self.jitter))
        mask = self.pool.draw(self.names[label], self.rng, size_px=like)
        for _ in range(TRIES):
            scale = self.scale(mask) * change
            if max(mask.width_px, mask.height_px) * scale <= limit:
                break
            mask = self.pool.draw(self.names[label], self.rng, size_px=limit / scale * 0.6)
        scale = self.scale(mask) * change
        length, width = mask.width_px * scale, mask.height_px * scale
        shrink = min(1.0, limit / max(length, width))
        return Piece(
            label,
            mask,
            length * shrink,
            width * shrink,
            self.classes.resolve(label).symmetric,
            shrink < 1.0,
        )

    def matching(self, labels: Sequence[str]) -> list[str]:
        """Table names, with masks in the pool, that a list of spellings means."""
        wanted = {normal_name(label) for label in labels}
        return [
            name
            for name in self.names
            if not wanted.isdisjoint(
                normal_name(n) for n in (name, *self.classes.resolve(name).aliases)
            )
        ]
