"""Which samples may be learned from: the one place where splits are made and guarded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

from rsgen.errors import DataError, UsageError
from rsgen.records import Sample

__all__ = ["SPLITS", "assign_splits", "split_counts", "train_only"]

SPLITS = ("train", "val", "test")


def _rank(seed: int, parent: str) -> bytes:
    return blake2b(f"{seed}/split/{parent}".encode(), digest_size=8).digest()


def assign_splits(
    samples: Iterable[Sample],
    seed: int,
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The split of every sample id: given ones are kept, the rest is drawn by parent scene.

    All tiles of a scene share a split. Parents without a given split are ordered by a hash of
    (seed, parent), so the result does not depend on the order of the input, and cut where the
    counts of samples come nearest to `ratios`; with three or more such parents every split
    with a positive ratio gets at least one. `known` (parent -> split) holds parents that an
    earlier run has assigned; they keep their split when a dataset has grown.
    Raises DataError where one scene was given to two splits, UsageError for bad ratios.
    """
    if min(ratios) < 0 or sum(ratios) <= 0:
        raise UsageError(
            f"split ratios {ratios} must be positive or zero, and not all zero",
            hint="use for example 0.8/0.1/0.1",
        )
    fixed: dict[str, str] = dict(known or {})
    members: dict[str, list[str]] = {}
    for sample in samples:
        members.setdefault(sample.parent, []).append(sample.id)
        if sample.split is not None:
            before = fixed.setdefault(sample.parent, sample.split)
            if before != sample.split:
                raise DataError(
                    f"scene {sample.parent!r} lies in split {before!r} and, through "
                    f"{sample.id!r}, in {sample.split!r}",
                    hint="put all tiles of a scene into one split",
                )
    free = sorted((p for p in members if p not in fixed), key=lambda p: (_rank(seed, p), p))
    fixed |= _cut(free, [len(members[p]) for p in free], ratios)
    return {name: fixed[parent] for parent, names in members.items() for name in names}


def _cut(
    parents: list[str], sizes: list[int], ratios: tuple[float, float, float]
) -> dict[str, str]:
    """Consecutive runs of parents, val and test first, each near its share of the samples."""
    share = {name: ratio / sum(ratios) for name, ratio in zip(SPLITS, ratios, strict=True)}
    total, start = sum(sizes), 0
    chosen: dict[str, str] = {}
    for name in ("test", "val"):
        target, taken, stop = share[name] * total, 0, start
        at_least_one = share[name] > 0 and len(parents) >= 3
        while stop < len(parents) and (
            abs(taken + sizes[stop] - target) < abs(taken - target)
            or (at_least_one and stop == start)
        ):
            taken += sizes[stop]
            stop += 1
        chosen |= dict.fromkeys(parents[start:stop], name)
        start = stop
    rest = "train" if share["train"] > 0 else ("val" if share["val"] > 0 else "test")
    return chosen | dict.fromkeys(parents[start:], rest)


def split_counts(splits: Mapping[str, str]) -> dict[str, int]:
    """Samples a split, in the order train, val, test, then other names."""
    names = [*SPLITS, *sorted(set(splits.values()) - set(SPLITS))]
    found = list(splits.values())
    return {name: found.count(name) for name in names if name in found}


def train_only(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples that a learner may see; val, test and unassigned ones are left out."""
    return (sample for sample in samples if sample.split == "train")
