"""Composed images of a group: matched pairs exchange objects, pixels and labels together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rsgen.composition.labels import composed_layout
from rsgen.composition.paste import blend, soft_edge
from rsgen.composition.selection import Candidate, SelectionSettings, given_classes, match
from rsgen.images import Pixels
from rsgen.records import Layout

__all__ = ["Composite", "Group", "compose", "compose_group"]


@dataclass(frozen=True)
class Composite:
    """`base` with objects of `donor` (positions in their group); `region` is where they lie.

    image uint8 [H, W, 3], region bool [H, W], labels in the same frame.
    """

    image: Pixels
    layout: Layout
    region: npt.NDArray[np.bool_] = field(repr=False)
    base: int
    donor: int


@dataclass(frozen=True)
class Group:
    """Composites of a group by the position of their base; pairs that were matched or refused."""

    composites: dict[int, Composite]
    matched: int
    refused: dict[str, int]


def compose(
    base: Candidate, donor: Candidate, labels: Collection[str], feather: float = 0.0
) -> tuple[Pixels, Layout, npt.NDArray[np.bool_]] | None:
    """The base with the donor's objects of some classes, at the same coordinates.

    Copied is what is seen of them, by their masks. `feather` blurs the border of the pixels by
    that sigma, never the labels; without it no pixel outside the masks differs from the base.
    None where nothing would be copied.
    """
    chosen = [k for name in labels for k in donor.givers.get(name, ())]
    found = composed_layout(base.layout, donor.layout, chosen, (base.owners, donor.owners))
    if found is None:
        return None
    layout, region = found
    if feather <= 0:
        return np.where(region[..., None], donor.image, base.image), layout, region
    image = base.image.astype(np.float32)
    blend(image, donor.image, soft_edge(region, feather))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), layout, region


def compose_group(
    candidates: Sequence[Candidate],
    settings: SelectionSettings,
    rate: float,
    feather: float,
    rng: np.random.Generator,
) -> Group:
    """At most `rate` composites an image of the group, the best pairs first, both directions.

    Where one more composite is due and a pair would give two, the direction is drawn.
    """
    due = round(rate * len(candidates))
    if due == 0:
        return Group({}, 0, {})
    pairs, refused = match(candidates, settings)
    made: dict[int, Composite] = {}
    for pair in pairs:
        ways = [(pair.first, pair.second), (pair.second, pair.first)]
        if rng.random() < 0.5:
            ways.reverse()
        for base, donor in ways:
            if len(made) == due:
                return Group(made, len(pairs), refused)
            one, other = candidates[base], candidates[donor]
            labels = sorted(given_classes(other, one, settings.pairs))
            found = compose(one, other, labels, feather)
            if found is not None:
                made[base] = Composite(*found, base, donor)
    return Group(made, len(pairs), refused)
