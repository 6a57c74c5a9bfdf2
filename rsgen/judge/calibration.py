"""Scores that mean what they say: a detection of 0.8 is right in 80 of 100 cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Calibration", "expected_error", "fit_scores", "fit_temperature", "reliability"]

BINS = 10
LEAST_PAIRS = 30  # with fewer, isotonic steps follow single detections


@dataclass(frozen=True)
class Calibration:
    """A rising map of raw scores to probabilities, and the temperature of the answers.

    knots, values: the map's corners, linear between them; none leaves scores as they are.
    """

    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    temperature: float = 1.0

    def scores(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Probabilities for raw scores, any shape."""
        if not self.knots:
            return np.asarray(raw, dtype=np.float64)
        return np.interp(raw, self.knots, self.values)

    def to_json(self) -> dict[str, Any]:
        return {
            "knots": list(self.knots),
            "values": list(self.values),
            "temperature": self.temperature,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Calibration:
        return cls(tuple(row["knots"]), tuple(row["values"]), float(row["temperature"]))


def fit_scores(
    raw: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(knots, values) of an isotonic fit of raw scores [n] to whether each was right [n].

    Too few examples, or examples of one kind alone, give no map. The order of scores is kept:
    equal steps get a slight slope, so that ranking by probability is ranking by raw score.
    """
    if len(raw) < LEAST_PAIRS or right.all() or not right.any():
        return (), ()
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    model.fit(raw, right.astype(np.float64))
    knots = np.concatenate([[0.0], model.X_thresholds_, [1.0]])
    values = np.concatenate([[0.0], model.y_thresholds_, [max(model.y_thresholds_[-1], 1e-6)]])
    kept = np.concatenate([[True], np.diff(knots) > 1e-9])
    knots, values = knots[kept], values[kept]
    # A flat stretch would tie what the network told apart.
    values = 0.98 * values + 0.02 * knots
    return tuple(map(float, knots)), tuple(map(float, values))


def fit_temperature(logits: npt.NDArray[np.float64], answers: npt.NDArray[np.int64]) -> float:
    """The temperature that makes answers likeliest, within 0.2 to 5.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    if len(answers) < LEAST_PAIRS:
        return 1.0
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        chosen = scaled[np.arange(len(answers)), answers]
        return float(np.mean(logsumexp(scaled, axis=1) - chosen))

    found = minimize_scalar(loss, bounds=(np.log(0.2), np.log(5.0)), method="bounded")
    return float(np.exp(found.x))


def reliability(
    scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> list[dict[str, float]]:
    """Ten bins of scores: their mean, the share that was right, and how many."""
    rows = []
    place = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    for k in range(BINS):
        inside = place == k
        if inside.any():
            rows.append(
                {
                    "score": float(scores[inside].mean()),
                    "right": float(right[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    return rows


def expected_error(rows: list[dict[str, float]]) -> float:
    """Expected calibration error: |score - right| weighted by the bins' counts."""
    total = sum(row["count"] for row in rows)
    if not total:
        return float("nan")
    return sum(abs(row["score"] - row["right"]) * row["count"] for row in rows) / total
