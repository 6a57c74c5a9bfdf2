"""Precision of several training sets, repeated: means, intervals, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsgen.evaluation.base import Value, figure

__all__ = ["COPIES", "DECIDES", "MEASURES", "REAL", "Outcome", "Spread", "gain_tables",
           "mean_interval", "verdict"]  # fmt: skip

REAL, COPIES = "real", "real + copies"
DECIDES = "oriented AP50"
MEASURES = (DECIDES, "AP", "AP50", "AP75")
BY_CLASS = (DECIDES, "AP50")


@dataclass(frozen=True)
class Outcome:
    """A training set, how many images it has, and a row of precision each repetition."""

    name: str
    images: int
    rows: tuple[Mapping[str, Any], ...]

    def values(self, measure: str) -> list[float]:
        return [_number(row[measure]) for row in self.rows]

    def of_class(self, name: str, measure: str) -> list[float]:
        return [_number(row["classes"][name][measure]) for row in self.rows]


@dataclass(frozen=True)
class Spread:
    """A mean with its 95% interval; NaN bounds from a single value."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float]) -> Spread:
    """Student's t interval of the mean, 95%; values that are NaN are left out."""
    known = np.array([v for v in values if not math.isnan(v)])
    if not len(known):
        return Spread(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    if len(known) == 1:
        return Spread(mean, math.nan, math.nan, 1)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Spread(mean, mean - half, mean + half, len(known))


def verdict(name: str, difference: Spread) -> str:
    """What a difference to `real` means, in words."""
    change = f"{abs(difference.mean):.3f} {'higher' if difference.mean >= 0 else 'lower'}"
    if difference.count == 0:
        return f"{name}: nothing to compare"
    text = f"{name}: {DECIDES} is {change} than with real images alone"
    if difference.count == 1:
        return f"{text}; one repetition, so chance cannot be told from gain"
    shown = f"95% interval {difference.low:+.3f} to {difference.high:+.3f}, n={difference.count}"
    if difference.low > 0:
        return f"{text} ({shown}): it pays"
    if difference.high < 0:
        return f"{text} ({shown}): it harms"
    return f"{text} ({shown}): no difference that these repetitions can show"


def gain_tables(
    outcomes: Sequence[Outcome],
) -> tuple[dict[str, Value], dict[str, dict[str, dict[str, Value]]], list[str]]:
    """(figures, tables, a sentence each set) of outcomes with the same repetitions.

    The first outcome is what the others are compared with, repetition by repetition.
    """
    base = outcomes[0]
    figures: dict[str, Value] = {}
    table: dict[str, dict[str, Value]] = {}
    sentences = []
    for outcome in outcomes:
        row: dict[str, Value] = {"train images": outcome.images, "n": len(outcome.rows)}
        for measure in MEASURES:
            value = mean_interval(outcome.values(measure))
            gain = _gain(outcome.values(measure), base.values(measure))
            row |= {measure: figure(value.mean), f"{measure} +-": figure(value.high - value.mean)}
            if outcome is not base:
                row[f"{measure}, to {base.name}"] = figure(gain.mean)
                if measure in BY_CLASS:
                    row[f"{measure}, low"] = figure(gain.low)
                    row[f"{measure}, high"] = figure(gain.high)
        table[outcome.name] = row
        first = mean_interval(outcome.values(DECIDES))
        figures[f"{DECIDES}, {outcome.name}"] = figure(first.mean)
        if outcome is not base:
            gain = _gain(outcome.values(DECIDES), base.values(DECIDES))
            sentences.append(verdict(outcome.name, gain))
    tables = {
        "on held real images: mean, 95% interval, difference to real": table,
        **{f"{measure} by class": _by_class(outcomes, measure) for measure in BY_CLASS},
    }
    return figures, tables, sentences


def _gain(values: Sequence[float], base: Sequence[float]) -> Spread:
    return mean_interval([v - b for v, b in zip(values, base, strict=True)])


def _by_class(outcomes: Sequence[Outcome], measure: str) -> dict[str, dict[str, Value]]:
    """Class -> set -> mean over repetitions; classes that no test image holds are left out."""
    rows: dict[str, dict[str, Value]] = {}
    for name in outcomes[0].rows[0]["classes"]:
        means = {o.name: mean_interval(o.of_class(name, measure)).mean for o in outcomes}
        if not all(math.isnan(v) for v in means.values()):
            rows[name] = {label: figure(v) for label, v in means.items()}
    return rows


def _number(value: float | None) -> float:
    return math.nan if value is None else value
