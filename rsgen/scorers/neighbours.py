"""Who an image is compared with: the real images, and the earlier ones of its own run.

Item k looks at items before k only, so a verdict does not depend on what comes later, on the
order in which shards are done, or on who does them. Signatures are kept beside the parts;
a missing one is computed again from the pixels, whoever needs it, and a shard that is scored
again replaces its own: an image that failed may have been mended since.
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
from rsgen.records import Sample
from rsgen.scorers.base import FloatArray, NoveltyScorer, Signatures
from rsgen.scorers.judging import Scored, with_score

__all__ = [
    "References",
    "SignatureStore",
    "compare",
    "own_distances",
    "put_all",
    "references_of",
    "stored_or_made",
    "without_signature",
]

CHUNK = 4096


@dataclass(frozen=True)
class References:
    """Signatures [M, ...], the ids they belong to, and keys that tell equal ids apart."""

    ids: tuple[str, ...]
    signatures: Signatures
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def references_of(scored: Sequence[Scored], rule: str) -> References:
    """The signatures that a rule's scorer made; images that failed are left out."""
    found = [(s.sample, s.signatures[rule]) for s in scored if rule in s.signatures]
    signatures = np.stack([code for _, code in found]) if found else np.zeros((0, 1))
    ids = tuple(sample.id for sample, _ in found)
    return References(ids, signatures, tuple(_key(sample) for sample, _ in found))


def _key(sample: Sample) -> str:
    """Which image it is: two runs may use one id for two images."""
    return f"{sample.id} {sample.sha256}"


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
                    keys = tuple(str(name) for name in stored["keys"])
                    self._memory[rule, key] = References(ids, stored["signatures"], keys)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                return None
        return self._memory[rule, key]

    def put(self, rule: str, key: str, references: References) -> None:
        self._memory[rule, key] = references
        buffer = io.BytesIO()
        ids = np.asarray(references.ids, dtype=np.str_)
        keys = np.asarray(references.keys, dtype=np.str_)
        np.savez(buffer, signatures=references.signatures, ids=ids, keys=keys)
        replace_bytes(self._folder / f"{rule}-{key}.npz", buffer.getvalue())


def compare(
    scored: Sequence[Scored], rule: str, scorer: NoveltyScorer, others: Iterable[References]
) -> None:
    """Give each image its distance to the nearest other one or earlier one of `scored`; to the
    k-th nearest, where the scorer has a `k`; `as_score` of it, where it has one.

    One of `only_real` is not compared with images of `scored`.

    An image is not compared with itself (a real run filtered against itself). Where there are
    fewer than k to compare with, there is no score.
    """
    present = [s for s in scored if rule in s.signatures]
    if not present:
        return
    own = references_of(present, rule)
    best = np.full((len(present), getattr(scorer, "k", 1)), np.inf)
    like = [""] * len(present)
    references = _joined(others)
    for start in range(0, len(references), CHUNK):
        part = slice(start, start + CHUNK)
        codes = references.signatures[part]
        table = scorer.distances(own.signatures, codes)
        chunk = References(references.ids[part], codes, references.keys[part])
        _take_nearest(best, like, table, own, chunk)
    if not getattr(scorer, "only_real", False):
        table = scorer.distances(own.signatures, own.signatures)
        table = np.where(np.tri(len(own), k=-1, dtype=bool), table, np.inf)
        _take_nearest(best, like, table, own, own)
    for item, far, name in zip(present, best[:, -1].tolist(), like, strict=True):
        score = _score_of(scorer, far) if math.isfinite(far) else math.nan
        item.sample = with_score(item.sample, rule, score)
        item.nearest[rule] = name


def _score_of(scorer: NoveltyScorer, distance: float) -> float:
    return float(getattr(scorer, "as_score", float)(distance))


def _joined(parts: Iterable[References]) -> References:
    found = [part for part in parts if len(part)]
    if not found:
        return References((), np.zeros((0, 1)))
    return References(
        tuple(name for part in found for name in part.ids),
        np.concatenate([part.signatures for part in found]),
        tuple(key for part in found for key in part.keys),
    )


def _take_nearest(
    best: npt.NDArray[np.float64],
    like: list[str],
    table: npt.NDArray[np.floating],
    own: References,
    others: References,
) -> None:
    """Lower `best` [N, k], ascending, and name the nearest, from distances [N, M]; ties go to the
    first seen."""
    places = {key: k for k, key in enumerate(others.keys)}
    table = np.array(table, dtype=np.float64)
    for row, key in enumerate(own.keys):
        if key in places:
            table[row, places[key]] = np.inf
    nearest = table.argmin(axis=1)
    for row, column in enumerate(nearest):
        if table[row, column] < best[row, 0]:
            like[row] = others.ids[int(column)]
    k = best.shape[1]
    best[:] = np.sort(np.concatenate([best, table], axis=1), axis=1)[:, :k]


def own_distances(references: References, scorer: NoveltyScorer) -> FloatArray:
    """Score of each reference: distance to the nearest other one (the k-th nearest, where the
    scorer has a `k`; `as_score` of it), float32 [M]; NaN where there are fewer others."""
    count, k = len(references), getattr(scorer, "k", 1)
    best = np.full(count, np.nan, dtype=np.float32)
    if count < k + 1:
        return best
    for start in range(0, count, 64):
        rows = np.arange(start, min(start + 64, count))
        table = scorer.distances(references.signatures[rows], references.signatures)
        table[np.arange(len(rows)), rows] = np.inf
        far = np.partition(table, k - 1, axis=1)[:, k - 1]
        best[rows] = [_score_of(scorer, distance) for distance in far.tolist()]
    return best


def put_all(
    store: SignatureStore, rules: Sequence[str], key: str, scored: Sequence[Scored]
) -> None:
    """Store the signatures of a range for every rule, over any that an earlier start left."""
    for rule in rules:
        store.put(rule, key, references_of(scored, rule))


def without_signature(samples: Iterable[Sample], references: References) -> set[str]:
    """Ids of the samples that failed and so have no part in the comparison."""
    have = set(references.keys)
    return {sample.id for sample in samples if _key(sample) not in have}


def stored_or_made(
    store: SignatureStore, rules: Sequence[str], key: str, make: Callable[[], Sequence[Scored]]
) -> dict[str, References]:
    """The signatures of a range for every rule, computed in one pass where any is missing."""
    found = {rule: store.get(rule, key) for rule in rules}
    if any(references is None for references in found.values()):
        scored = make()
        put_all(store, rules, key, scored)
    return {rule: store.get(rule, key) or References((), np.zeros((0, 1))) for rule in rules}
