"""Bounds on the precision of kept labels: exact ones from an audit, an estimate without.

Pure functions of counts and scores; nothing here reads a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, betaincinv

__all__ = [
    "Estimate",
    "Learned",
    "estimate_threshold",
    "learn_threshold",
    "least_audited",
    "p_value",
    "precision_floor",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def precision_floor(right: int, audited: int, confidence: float) -> float:
    """The one-sided lower bound of a share, in [0, 1], from `right` of `audited`.

    Source: Clopper and Pearson 1934, "The Use of Confidence or Fiducial Limits Illustrated in
    the Case of the Binomial". Exact: it covers at least as often as promised.
    """
    if not 0 <= right <= audited:
        raise ValueError(f"{right} right of {audited} audited")
    if right == 0:
        return 0.0
    return float(betaincinv(right, audited - right + 1, 1 - confidence))


def least_audited(precision: float, confidence: float, wrong: int = 0) -> int:
    """How many must be audited, `wrong` of them wrong, for the floor to reach `precision`.

    0.95 at 0.9: 45 without a fault (0.95^45 < 0.1 < 0.95^44), 77 with one.
    """
    count = wrong + 1
    while p_value(count - wrong, count, precision) > 1 - confidence:
        count += 1
    return count


def p_value(right: int, audited: int, precision: float) -> float:
    """P(at least `right` of `audited` are right), were the precision no more than `precision`.

    Of a sample without replacement this is an upper bound: it spreads less than a binomial.
    """
    return float(bdtrc(right - 1, audited, precision)) if right > 0 else 1.0


@dataclass(frozen=True)
class Learned:
    """A threshold that was certified: what was audited at or above it, and how much was right."""

    threshold: float
    audited: int
    right: int


def learn_threshold(
    scores: Floats,
    right: Bools,
    population: Floats,
    thresholds: Floats,
    precision: float,
    confidence: float,
) -> Learned | None:
    """The laxest threshold at which the kept are right with at least `precision`.

    With probability `confidence` over the draw of the audit, what is kept of the population at
    the returned threshold is that precise; None where no threshold can be certified.

    Source: Angelopoulos et al. 2021, "Learn then Test", section on fixed sequence testing: the
    hypotheses "not precise enough at t" are tested from strict to lax, each at level
    1 - confidence, up to the first that is not rejected. Where the sequence starts is read from
    the population's scores, never from the audit: the strictest threshold at which the
    audit is expected to hold enough items to allow one fault; else none; else the laxest.

    Args:
        scores, right: float64 and bool [n], a simple random sample of the population, audited.
        population: float64 [N], the scores of all.
        thresholds: float64 [T] ascending, chosen without a look at the verdicts.
    """
    share = np.array([np.mean(population >= t) for t in thresholds])
    first = 0
    for wrong in (1, 0):
        enough = share * len(scores) >= least_audited(precision, confidence, wrong)
        if enough.any():
            first = int(np.flatnonzero(enough)[-1])
            break
    found: Learned | None = None
    for threshold in thresholds[first::-1]:
        kept = scores >= threshold
        audited, good = int(kept.sum()), int(right[kept].sum())
        if audited == 0 or p_value(good, audited, precision) > 1 - confidence:
            break
        found = Learned(float(threshold), audited, good)
    return found


@dataclass(frozen=True)
class Estimate:
    """A guessed threshold: the precision expected at it, and the share of right labels."""

    threshold: float
    precision: float
    prevalence: float


def estimate_threshold(
    population: Floats, right: Floats, wrong: Floats, thresholds: Floats, precision: float
) -> Estimate | None:
    """The laxest threshold at which `precision` is expected; an estimate, no bound.

    The population's score distribution is read as a mixture of that of labels known to be right
    and of that of planted faults, fitted by least squares over the thresholds. Faults of
    generated images are others than planted ones: only an audit can promise.

    Source: Forman 2008, "Quantifying counts and costs via classification", the mixture model.

    Args:
        population, right, wrong: float64 scores of the set, of right labels, of planted faults.
        thresholds: float64 [T] ascending.
    """
    every, good, bad = (
        np.array([np.mean(values >= t) for t in thresholds])
        for values in (population, right, wrong)
    )
    spread = good - bad
    weight = float(spread @ spread)
    if weight == 0:
        return None
    prevalence = float(np.clip((every - bad) @ spread / weight, 0, 1))
    hits, misses = prevalence * good, (1 - prevalence) * bad
    total = hits + misses
    expected = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    fits = np.flatnonzero(expected >= precision)
    if not len(fits):
        return None
    first = int(fits[0])
    return Estimate(float(thresholds[first]), float(expected[first]), prevalence)
