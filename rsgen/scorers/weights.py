"""Policy `weight`: how much an image and each of its objects count, in [0, 1].

The weight of a score is (score - low) / (full - low), cut to [0, 1]: `low` is the rule's bound,
`full` lies above it; with quantiles both are quantiles of the real images' scores. The weight of
an object is the product over the object rules of this policy; that of an image the product over
the image rules times the mean of its objects' weights. What no such rule scores has no weight and
counts fully.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rsgen.records import WEIGHT, Sample, with_instances
from rsgen.scorers.base import Bound, Rule

__all__ = ["rounded", "sample_weight", "weighted", "weights_of", "without_weight"]


def sample_weight(sample: Sample) -> float:
    """The weight that a filter gave an image; 1 without one."""
    return float(sample.scores.get(WEIGHT, 1.0))


def without_weight(scores: Mapping[str, float]) -> Mapping[str, float]:
    if WEIGHT not in scores:
        return scores
    return {name: score for name, score in scores.items() if name != WEIGHT}


def rounded(score: float) -> float:
    """Six significant digits: what is stored is what is compared with a bound."""
    return float(f"{score:.6g}")


def weighted(
    sample: Sample,
    rules: Sequence[Rule],
    bounds: Mapping[str, Bound],
    levels: Mapping[str, str],
    name_of: Callable[[str], str] = str,
) -> Sample:
    """The sample with the weights that the rules of policy `weight` give; others are left out."""
    mine = [rule for rule in rules if rule.policy == "weight"]
    if not mine:
        return sample
    instances, total, count = [], 0.0, 0
    for instance in sample.layout.instances:
        scores, weight = dict(without_weight(instance.scores)), None
        for rule in mine:
            if levels[rule.name] == "instance" and rule.name in scores:
                bound = bounds[rule.name]
                own = bound.of(name_of(instance.label)) if bound.differs else bound
                weight = (1.0 if weight is None else weight) * own.weight(scores[rule.name])
        if weight is not None:
            scores[WEIGHT] = rounded(weight)
            total, count = total + scores[WEIGHT], count + 1
        instances.append(replace(instance, scores=scores))
    factors = [
        bounds[rule.name].weight(sample.scores[rule.name])
        for rule in mine
        if levels[rule.name] == "image" and rule.name in sample.scores
    ]
    factors += [total / count] if count else []
    scores = dict(without_weight(sample.scores))
    if factors:
        weight = 1.0
        for factor in factors:
            weight *= factor
        scores[WEIGHT] = rounded(weight)
    return replace(with_instances(sample, instances), scores=scores)


def weights_of(
    values: npt.NDArray[np.float64], low: npt.NDArray[np.float64], full: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """`Bound.weight` of scores [N] with their own bounds [N]; NaN stays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.clip((values - low) / (full - low), 0.0, 1.0)
    step = np.where(np.isnan(values), np.nan, (values >= low).astype(np.float64))
    return np.where(full <= low, step, rising)
