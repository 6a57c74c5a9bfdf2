"""Quotas: the most objects of a class, and from a mask, that are kept; the earliest first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rsgen.records import Sample
from rsgen.scorers.base import is_thing
from rsgen.scorers.judging import QUOTA
from rsgen.screening.audit import NameOf

__all__ = ["FROM_POOL", "Quotas", "objects_of", "within_quotas"]

FROM_POOL = "pool:"  # an object's origin, before the mask that the pool gave it


@dataclass(frozen=True)
class Quotas:
    """The most objects by class, by the class table's names, and from each mask of a pool.

    What is counted is a class, or a mask as the origin of its objects names it: pool:ID.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    mask: int | None = None

    def __bool__(self) -> bool:
        return bool(self.classes) or self.mask is not None

    def most(self, counted: str) -> float:
        """inf where there is no quota."""
        if counted.startswith(FROM_POOL) and self.mask is not None:
            return self.mask
        return self.classes.get(counted, math.inf)

    def over(self, adds: Mapping[str, int], used: Mapping[str, int]) -> list[str]:
        """What would be exceeded, as reasons, sorted."""
        found = sorted(name for name, n in adds.items() if used.get(name, 0) + n > self.most(name))
        return [f"{QUOTA} {name} (max {self.most(name)})" for name in found]


def objects_of(sample: Sample, name_of: NameOf, quotas: Quotas) -> Counter[str]:
    """Things that a quota counts, by class and by mask."""
    things = [i for i in sample.layout.instances if is_thing(i)]
    names = Counter(name_of(i.label) for i in things) if quotas.classes else Counter[str]()
    counted = Counter({name: n for name, n in names.items() if name in quotas.classes})
    if quotas.mask is not None:
        counted.update(i.origin for i in things if i.origin.startswith(FROM_POOL))
    return counted


def within_quotas(
    samples: Sequence[Sample], used: Counter[str], quotas: Quotas, name_of: NameOf
) -> list[Sample]:
    """Drop, in order, each sample with which a quota would be exceeded; `used` counts up."""
    judged = []
    for sample in samples:
        if sample.verdict == "keep":
            adds = objects_of(sample, name_of, quotas)
            over = quotas.over(adds, used)
            if over:
                sample = replace(sample, verdict="drop", reasons=(*sample.reasons, *over))
            else:
                used.update(adds)
        judged.append(sample)
    return judged
