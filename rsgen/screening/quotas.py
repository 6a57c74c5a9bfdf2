"""Quotas: the most objects of a class that are kept, the earliest first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rsgen.records import Sample
from rsgen.scorers.base import is_thing
from rsgen.scorers.judging import QUOTA
from rsgen.screening.audit import NameOf

__all__ = ["objects_of", "within_quotas"]


def objects_of(sample: Sample, name_of: NameOf) -> Counter[str]:
    """Things by class."""
    return Counter(name_of(i.label) for i in sample.layout.instances if is_thing(i))


def within_quotas(
    samples: Sequence[Sample], used: Counter[str], quotas: Mapping[str, int], name_of: NameOf
) -> list[Sample]:
    """Drop, in order, each sample with which a class would exceed its quota; `used` counts up."""
    judged = []
    for sample in samples:
        if sample.verdict == "keep":
            adds = objects_of(sample, name_of)
            over = [c for c, n in sorted(adds.items()) if used[c] + n > quotas.get(c, math.inf)]
            if over:
                reasons = tuple(f"{QUOTA} {c} (max {quotas[c]})" for c in over)
                sample = replace(sample, verdict="drop", reasons=(*sample.reasons, *reasons))
            else:
                used.update(adds)
        judged.append(sample)
    return judged
