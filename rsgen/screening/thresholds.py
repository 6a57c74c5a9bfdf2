"""OUT/thresholds.json: what a filter run judges by, frozen at its first start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsgen.scorers.base import Bound
from rsgen.screening.promise import GATE, Promise

__all__ = ["THRESHOLDS", "Thresholds", "score_quantiles"]

THRESHOLDS = "thresholds.json"


@dataclass(frozen=True)
class Thresholds:
    """Resolved bounds, and how many real images they and the comparison rest on.

    real_failed: ids of the real images, sorted, that could not be read or scored.
    real_scores: quantiles of their scores by rule, ascending, where real images were scored.
    """

    bounds: Mapping[str, Bound]
    real_count: int
    real_failed: tuple[str, ...] = ()
    promise: Promise | None = None
    real_scores: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def applied(self) -> dict[str, Bound]:
        """The bounds, with that of the promise."""
        own = {} if self.promise is None else {GATE: self.promise.bound}
        return {**self.bounds, **own}

    def to_json(self) -> dict[str, Any]:
        rows: dict[str, dict[str, Any]] = {}
        for name, bound in self.bounds.items():
            rows[name] = {"min": bound.low, "max": bound.high}
            if bound.by_class:
                rows[name]["by_class"] = dict(bound.by_class)
            if bound.high_by_class:
                rows[name]["high_by_class"] = dict(bound.high_by_class)
            if bound.full is not None:
                rows[name]["full"] = bound.full
                rows[name]["full_by_class"] = dict(bound.full_by_class)
        return {
            "rules": rows,
            "real_count": self.real_count,
            "real_failed": list(self.real_failed),
            "promise": None if self.promise is None else self.promise.to_json(),
            "real_scores": dict(self.real_scores),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Thresholds:
        bounds = {
            name: Bound(
                *(b["min"], b["max"], b.get("by_class", {})),
                *(b.get("full"), b.get("full_by_class", {}), b.get("high_by_class", {})),
            )
            for name, b in row["rules"].items()
        }
        promise = row.get("promise")
        return cls(
            bounds,
            int(row["real_count"]),
            tuple(row.get("real_failed", ())),
            None if promise is None else Promise.from_json(promise),
            row.get("real_scores", {}),
        )


def score_quantiles(scores: Mapping[str, list[float]]) -> list[float]:
    """101 quantiles of scores by class, six digits; none without a finite score."""
    every = np.array([value for values in scores.values() for value in values])
    every = every[np.isfinite(every)]
    if not len(every):
        return []
    return [float(f"{q:.6g}") for q in np.quantile(every, np.linspace(0, 1, 101))]
