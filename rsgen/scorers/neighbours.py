"""Who an image is compared with: the real images, and the earlier ones of its own run.

Item k looks at items before k only, so a verdict does not depend on what comes later, on the
order in which shards are done, or on who does them. Signatures are kept beside the parts;
a missing one is computed again from the pixels, whoever needs it.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsgen.images import replace_bytes
from rsgen.scorers.base import FloatArray, NoveltyScorer, Signatures
from rsgen.scorers.judging import Scored, with_score

__all__ = ["References", "SignatureStore", "compare", "own_distances", "references_of"]

CHUNK = 4096


@dataclass(frozen=True)
class References:
    """Signatures [M, ...] and the ids they belong to."""

    ids: tuple[str, ...]
    signatures: Signatures

    def __len__(self) -> int:
        return len(self.ids)


def references_of(scored: Sequence[Scored], rule: str) -> References:
    """The signatures that a rule's scorer made; images that failed are left out."""
    found = [(s.sample.id, s.signatures[rule]) for s in scored if rule in s.signatures]
    signatures = np.stack([code for _, code in found]) if found else np.zeros((0, 1))
    return References(tuple(name for name, _ in found), signatures)


class SignatureStore:
    """OUT/state/signatures: one file a rule and range of items, written whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory: dict[tuple[str, str], References] = {}

    def get(self, rule: str, key: str) -> References | None:
        """Signatures stored earlier, by this process or another; None when absent or damaged."""
        if (rule, key) not in self._memory:
            path = self._folder / f"{rule}-{key}.npz"
            try:
                with np.load(path, allow_pickle=False) as stored:
                    ids = tuple(str(name) for name in stored["ids"])
                    self._memory[rule, key] = References(ids, stored["signatures"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                return None
        return self._memory[rule, key]

    def put(self, rule: str, key: str, references: References) -> None:
        self._memory[rule, key] = references
        buffer = io.BytesIO()
        ids = np.asarray(references.ids, dtype=np.str_)
        np.savez(buffer, ids=ids, signatures=references.signatures)
        replace_bytes(self._folder / f"{rule}-{key}.npz", buffer.getvalue())


def compare(
    scored: Sequence[Scored], rule: str, scorer: NoveltyScorer, others: Iterable[References]
) -> None:
    """Give each image its distance to the nearest other one or earlier one of `scored`.

    An image is not compared with a reference of its own id (a real run filtered against
    itself). Where there is nothing to compare with, there is no score.
    """
    present = [s for s in scored if rule in s.signatures]
    if not present:
        return
    own = references_of(present, rule)
    best = np.full(len(present), np.inf)
    like = [""] * len(present)
    references = _joined(others)
    for start in range(0, len(references), CHUNK):
        part = slice(start, start + CHUNK)
        table = scorer.distances(own.signatures, references.signatures[part])
        _take_nearest(best, like, table, own.ids, references.ids[part])
    table = scorer.distances(own.signatures, own.signatures)
    table = np.where(np.tri(len(own), k=-1, dtype=bool), table, np.inf)
    _take_nearest(best, like, table, own.ids, own.ids)
    for item, score, name in zip(present, best.tolist(), like, strict=True):
        item.sample = with_score(item.sample, rule, score if math.isfinite(score) else math.nan)
        item.nearest[rule] = name


def _joined(parts: Iterable[References]) -> References:
    found = [part for part in parts if len(part)]
    if not found:
        return References((), np.zeros((0, 1)))
    ids = tuple(name for part in found for name in part.ids)
    return References(ids, np.concatenate([part.signatures for part in found]))


def _take_nearest(
    best: npt.NDArray[np.float64],
    like: list[str],
    table: npt.NDArray[np.floating],
    own_ids: Sequence[str],
    ids: Sequence[str],
) -> None:
    """Lower `best` [N] and name the nearest, from distances [N, M]; ties go to the first seen."""
    places = {name: k for k, name in enumerate(ids)}
    table = np.array(table, dtype=np.float64)
    for row, name in enumerate(own_ids):
        if name in places:
            table[row, places[name]] = np.inf
    nearest = table.argmin(axis=1)
    for row, column in enumerate(nearest):
        if table[row, column] < best[row]:
            best[row] = table[row, column]
            like[row] = ids[int(column)]


def own_distances(references: References, scorer: NoveltyScorer) -> FloatArray:
    """Distance of each reference to the nearest other one, float32 [M]; NaN for a lone one."""
    count = len(references)
    best = np.full(count, np.nan, dtype=np.float32)
    if count < 2:
        return best
    for start in range(0, count, 64):
        rows = np.arange(start, min(start + 64, count))
        table = scorer.distances(references.signatures[rows], references.signatures)
        table[np.arange(len(rows)), rows] = np.inf
        best[rows] = table.min(axis=1)
    return best


def stored_or_made(
    store: SignatureStore, rules: Sequence[str], key: str, make: Callable[[], Sequence[Scored]]
) -> dict[str, References]:
    """The signatures of a range for every rule, computed in one pass where any is missing."""
    found = {rule: store.get(rule, key) for rule in rules}
    if any(references is None for references in found.values()):
        scored = make()
        for rule in rules:
            store.put(rule, key, references_of(scored, rule))
    return {rule: store.get(rule, key) or References((), np.zeros((0, 1))) for rule in rules}
