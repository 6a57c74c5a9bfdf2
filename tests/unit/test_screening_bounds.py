"""Bounds on label precision: by hand, and by simulation with prevalence and domain shift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rsgen.screening.bounds import (
    estimate_threshold,
    learn_threshold,
    least_audited,
    p_value,
    precision_floor,
)

GRID = np.arange(20) / 20


def test_how_many_must_be_audited_by_hand() -> None:
    """0.95^44 is over 0.1 and 0.95^45 under it: catches an off-by-one and a two-sided bound."""
    assert 0.95**45 < 0.1 < 0.95**44
    assert least_audited(0.95, 0.9) == 45
    assert least_audited(0.95, 0.9, wrong=1) == 77
    assert least_audited(0.9, 0.95) == 29
    assert precision_floor(45, 45, 0.9) == pytest.approx(0.1 ** (1 / 45))
    assert precision_floor(45, 45, 0.9) >= 0.95 > precision_floor(44, 44, 0.9)


@pytest.mark.parametrize("right", [0, 3, 17, 39, 40])
def test_the_floor_is_that_of_the_library(right: int) -> None:
    interval = binomtest(right, 40, alternative="greater").proportion_ci(0.9, "exact")
    assert precision_floor(right, 40, 0.9) == pytest.approx(interval.low)


def test_floor_and_test_agree() -> None:
    """Rejecting "not precise enough" and a floor above the promise are one thing."""
    for audited in (20, 60, 120):
        for right in range(audited + 1):
            rejected = p_value(right, audited, 0.95) <= 0.1
            assert rejected == (precision_floor(right, audited, 0.9) >= 0.95 - 1e-12)


@pytest.mark.parametrize(
    ("audited", "wrong", "met"),
    [(44, 0, False), (45, 0, True), (76, 1, False), (77, 1, True), (60, 5, False)],
)
def test_what_cannot_be_met_is_refused(audited: int, wrong: int, met: bool) -> None:
    right = np.arange(audited) >= wrong
    ones = np.ones(audited)
    found = learn_threshold(ones, right, ones, GRID[:1], 0.95, 0.9)
    assert (found is not None) == met
    if found is not None:
        assert (found.audited, found.right) == (audited, audited - wrong)


def test_the_laxest_of_the_certified_and_no_further_than_the_first_failure() -> None:
    """Faults lie under 0.5; a lucky stretch further down must not be jumped to."""
    scores = np.linspace(0, 1, 400, endpoint=False)
    right = (scores >= 0.5) | (scores < 0.2)
    found = learn_threshold(scores, right, scores, GRID, 0.95, 0.9)
    assert found is not None and found.threshold == 0.5 and found.right == found.audited == 200


def _scores(rng: np.random.Generator, right: np.ndarray, shift: float) -> np.ndarray:
    """Scores in [0, 1]; the shift moves those of wrong labels up, where right ones lie."""
    raw = rng.normal(np.where(right, 1.0, -1.0 + shift), 1.0)
    return np.asarray(1 / (1 + np.exp(-raw)))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0], ids=["as real", "shifted", "blind"])
@pytest.mark.parametrize("prevalence", [0.6, 0.85, 0.94, 0.955])
def test_the_promise_holds_in_the_promised_share_of_trials(prevalence: float, shift: float) -> None:
    """Whatever the scores are worth, and however rare right labels are. A refusal claims nothing.

    The audit is drawn without replacement; the claim is about everything that is kept.
    """
    rng = np.random.default_rng([int(1000 * prevalence), int(10 * shift)])
    held = claimed = 0
    for _ in range(200):
        right = rng.random(2000) < prevalence
        scores = _scores(rng, right, shift)
        drawn = rng.choice(2000, 150, replace=False)
        found = learn_threshold(scores[drawn], right[drawn], scores, GRID, 0.95, 0.9)
        claimed += found is not None
        held += found is None or right[scores >= found.threshold].mean() >= 0.95
    assert held >= 180
    if prevalence > 0.8 and shift == 0.0:
        assert claimed > 60  # a bound that never claims anything would hold too


def test_the_estimate_finds_the_mixture_where_its_assumption_is_true() -> None:
    rng = np.random.default_rng(3)
    labels = rng.random(20000) < 0.7
    every = _scores(rng, labels, 0.0)
    right = _scores(rng, np.ones(5000, bool), 0.0)
    wrong = _scores(rng, np.zeros(5000, bool), 0.0)
    found = estimate_threshold(every, right, wrong, GRID, 0.95)
    assert found is not None and found.prevalence == pytest.approx(0.7, abs=0.03)
    assert labels[every >= found.threshold].mean() >= 0.94
    assert estimate_threshold(every, right, right, GRID, 0.95) is None  # blind scores
