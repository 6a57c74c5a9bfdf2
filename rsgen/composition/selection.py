"""Which images of a batch exchange objects: three dimensions, then greedy matching.

Semantic: a class in common, or a pair of classes that is allowed. Layout: foregrounds that
hardly overlap and together fill neither nothing nor everything. Pixel: alike in brightness,
contrast and colour, and of one ground sampling distance. EarthSynth names three dimensions and
publishes none of them: this is a reconstruction, see the package.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.composition.labels import STAND_IN, Owners, owners
from rsgen.composition.paste import same_scale
from rsgen.images import Pixels
from rsgen.records import ClassTable, Instance, Layout

__all__ = [
    "Candidate",
    "Pair",
    "SelectionSettings",
    "can_give",
    "given_classes",
    "look_at",
    "match",
    "named_pairs",
    "rate_pair",
    "seen_together",
]

GREY = 3.0  # mean difference of an image's channels, in levels, below which it has no colour

ClassPair = frozenset[str]


@dataclass(frozen=True)
class SelectionSettings:
    """Bounds of a pair, and how much each dimension counts among those within them.

    `foreground` are the least and the greatest share of the image that both foregrounds fill
    together, `radiometry` the greatest distance of `Candidate.levels` over all 256 levels.
    """

    pairs: frozenset[ClassPair] = frozenset()
    overlap: float = 0.05
    foreground: tuple[float, float] = (0.002, 0.9)
    radiometry: float = 0.15
    scale: float = 1.25
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stuff: bool = False


@dataclass(frozen=True)
class Candidate:
    """An image as a partner.

    `source` is what it is a view of. `classes` are the names that its foreground shows,
    `givers` the positions by class of objects that it can give away. `levels` are the means
    and standard deviations of its channels, float64 [2, 3], in grey levels.
    """

    image: Pixels
    layout: Layout
    source: str
    owners: Owners = field(repr=False)
    foreground: npt.NDArray[np.bool_] = field(repr=False)
    classes: frozenset[str]
    givers: dict[str, tuple[int, ...]]
    levels: npt.NDArray[np.float64]
    grey: bool


@dataclass(frozen=True)
class Pair:
    """Two positions among candidates, first < second, and how well they go together, in [0, 1]."""

    first: int
    second: int
    score: float


def can_give(instance: Instance) -> bool:
    """Whether its mask is its own shape: a filled box would take the ground along."""
    return instance.mask is not None and instance.origin != STAND_IN


def look_at(
    image: Pixels, layout: Layout, source: str, classes: ClassTable, stuff: bool = False
) -> Candidate:
    """An image, uint8 [H, W, 3], as a partner; with `stuff` its stuff is foreground too."""
    seen = owners(layout, classes)
    counted = np.array(
        [False, *(stuff or not classes.is_stuff(i.label) for i in layout.instances)], dtype=bool
    )
    foreground = counted[seen]
    shown = sorted(int(k) - 1 for k in np.unique(seen[foreground]))
    names = {k: classes.resolve(layout.instances[k].label).name for k in shown}
    givers: dict[str, tuple[int, ...]] = {}
    for k, name in names.items():
        if can_give(layout.instances[k]):
            givers[name] = (*givers.get(name, ()), k)
    mean, deviation = cv2.meanStdDev(image)
    colour = float((image.max(axis=-1) - image.min(axis=-1)).mean())
    return Candidate(
        image,
        layout,
        source,
        seen,
        foreground,
        frozenset(names.values()),
        givers,
        np.stack([mean.ravel(), deviation.ravel()]),
        colour < GREY,
    )


def given_classes(donor: Candidate, base: Candidate, pairs: frozenset[ClassPair]) -> set[str]:
    """Classes whose objects go from donor to base: those that both show, and allowed pairs."""
    return {
        name
        for name in donor.givers
        if name in base.classes or any(frozenset((name, other)) in pairs for other in base.classes)
    }


def rate_pair(one: Candidate, other: Candidate, settings: SelectionSettings) -> float | str:
    """How well two images go together, in [0, 1], or which dimension keeps them apart.

    The mean, by `settings.weights`, of: the share of their classes that they have in common;
    1 - overlap / its bound; 1 - radiometric distance / its bound.
    """
    if one.source == other.source:
        return "source"
    if not (given_classes(one, other, settings.pairs) or given_classes(other, one, settings.pairs)):
        return "semantic"
    overlap = _overlap(one, other, settings.foreground)
    if overlap is None or overlap > settings.overlap:
        return "layout"
    distance = float(np.abs(one.levels - other.levels).mean()) / 255
    if (
        distance > settings.radiometry
        or one.grey != other.grey
        or not same_scale(one.layout, other.layout, settings.scale)
    ):
        return "pixel"
    common = len(one.classes & other.classes) / len(one.classes | other.classes)
    terms = (common, _room(overlap, settings.overlap), _room(distance, settings.radiometry))
    total = sum(settings.weights)
    if total <= 0:
        return 1.0
    return sum(w * t for w, t in zip(settings.weights, terms, strict=True)) / total


def _overlap(one: Candidate, other: Candidate, bounds: tuple[float, float]) -> float | None:
    """IoU of the foregrounds; None where both together fill too little or too much."""
    if one.foreground.shape != other.foreground.shape:
        return None
    union = int((one.foreground | other.foreground).sum())
    if union == 0 or not bounds[0] <= union / one.foreground.size <= bounds[1]:
        return None
    return int((one.foreground & other.foreground).sum()) / union


def _room(value: float, bound: float) -> float:
    return 1 - value / bound if bound > 0 else 1.0


def match(
    candidates: Sequence[Candidate], settings: SelectionSettings
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs without a common image, the best first, and how many pairs each dimension refused.

    Also refused, as "left", are those whose images had gone to better pairs.

    Greedy: the best pair of all, then the best of the images that are left, and so on. Pairs
    that go equally well are taken in the order of their positions.
    """
    feasible: list[Pair] = []
    refused: dict[str, int] = {}
    for first, second in combinations(range(len(candidates)), 2):
        found = rate_pair(candidates[first], candidates[second], settings)
        if isinstance(found, str):
            refused[found] = refused.get(found, 0) + 1
        else:
            feasible.append(Pair(first, second, found))
    chosen: list[Pair] = []
    taken: set[int] = set()
    for pair in sorted(feasible, key=lambda p: (-p.score, p.first, p.second)):
        if pair.first not in taken and pair.second not in taken:
            chosen.append(pair)
            taken |= {pair.first, pair.second}
    refused["left"] = len(feasible) - len(chosen)
    return chosen, refused


def seen_together(
    layouts: Iterable[Layout], classes: ClassTable, stuff: bool = False
) -> frozenset[ClassPair]:
    """Pairs of different classes that stand in one layout together somewhere."""
    found: set[ClassPair] = set()
    for layout in layouts:
        entries = {classes.resolve(label) for label in {i.label for i in layout.instances}}
        names = sorted(e.name for e in entries if stuff or e.kind == "thing")
        found |= {frozenset(pair) for pair in combinations(names, 2)}
    return frozenset(found)


def named_pairs(texts: Collection[str], classes: ClassTable) -> frozenset[ClassPair]:
    """`ship+harbor` -> a pair of class names. Raises ValueError, and DataError for a class."""
    found = []
    for text in texts:
        one, sign, other = text.partition("+")
        if not sign or not one.strip() or not other.strip():
            raise ValueError(f"{text!r} is no pair of classes")
        found.append(frozenset(classes.resolve(name.strip()).name for name in (one, other)))
    return frozenset(found)
