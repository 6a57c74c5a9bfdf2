"""Policy `weight` over the columns of a part: what `weights.weighted` gives each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rsgen.records import WEIGHT
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.weights import rounded, weights_of, without_weight
from rsgen.screening.audit import NameOf
from rsgen.screening.columns import Columns, Floats, Scores

__all__ = ["weigh_columns"]


def weigh_columns(
    columns: Columns,
    rules: Sequence[Rule],
    bounds: Mapping[str, Bound],
    levels: Mapping[str, str],
    name_of: NameOf,
) -> tuple[list[Scores], list[Scores]] | None:
    """Scores of samples [N] and of objects [M] with new weights, older ones left out.

    None where they stay as they are: no rule gives weights, and none came with them.
    """
    mine = [rule for rule in rules if rule.policy == "weight"]
    everyone = (columns.scores, columns.object_scores)
    if not mine and not any(WEIGHT in scores for rows in everyone for scores in rows):
        return None
    images = np.full(len(columns), np.nan)
    objects = np.full(len(columns.object_scores), np.nan)
    for rule in mine:
        bound = bounds[rule.name]
        if levels[rule.name] == "instance":
            objects = _times(objects, _object_weights(columns, rule.name, bound, name_of))
        else:
            values = columns.values(rule.name)
            low, full = (np.full(len(values), end) for end in (bound.low, bound.full))
            images = _times(images, weights_of(values, low, full))
    found = [_stored(rows, w) for rows, w in zip(everyone, (images, objects), strict=True)]
    there = ~np.isnan(objects)
    if there.any():
        stored = np.array([scores.get(WEIGHT, 0.0) for scores in found[1]])
        owners = columns.owners[there]
        count = np.bincount(owners, minlength=len(columns))
        total = np.bincount(owners, weights=stored[there], minlength=len(columns))
        means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        found[0] = _stored(columns.scores, _times(images, means))
    return found[0], found[1]


def _object_weights(columns: Columns, rule: str, bound: Bound, name_of: NameOf) -> Floats:
    values, labels = columns.object_values(rule), columns.label_numbers
    owns = [bound] * len(columns.labels)
    if bound.differs:
        for number in np.unique(labels[~np.isnan(values)]).tolist():
            owns[number] = bound.of(name_of(columns.labels[number]))
    ends = np.array([[own.low, own.full] for own in owns], dtype=np.float64).reshape(-1, 2)
    return weights_of(values, ends[labels, 0], ends[labels, 1])


def _times(weights: Floats, factors: Floats) -> Floats:
    """The product of those that are there, NaN where neither is."""
    product = np.where(np.isnan(weights), factors, weights * factors)
    return np.where(np.isnan(factors), weights, product)


def _stored(rows: Sequence[Scores], weights: Floats) -> list[Scores]:
    return [
        without_weight(scores)
        if weight != weight
        else {**without_weight(scores), WEIGHT: rounded(weight)}
        for scores, weight in zip(rows, weights.tolist(), strict=True)
    ]
