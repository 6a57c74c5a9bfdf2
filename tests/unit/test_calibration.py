"""Calibration: scores come to mean what they say, and keep their order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgen.judge.calibration import (
    Calibration,
    expected_error,
    fit_scores,
    fit_temperature,
    reliability,
)


def overconfident(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores, of which only the square is right."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.05, 1, count)
    return raw, rng.random(count) < raw**2


def test_isotonic_scores_are_nearer_the_truth() -> None:
    """Fitted on one half, measured on the other."""
    raw, right = overconfident(0, 4000)
    knots, values = fit_scores(raw[:2000], right[:2000])
    fitted = Calibration(knots, values)
    before = expected_error(reliability(raw[2000:], right[2000:]))
    after = expected_error(reliability(fitted.scores(raw[2000:]), right[2000:]))
    assert before > 0.1 and after < 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 300))
def test_the_order_of_scores_is_kept(seed: int, count: int) -> None:
    """Catches ties that would change average precision, and scores outside 0 to 1."""
    raw, right = overconfident(seed, count)
    fitted = Calibration(*fit_scores(raw, right))
    line = fitted.scores(np.linspace(0, 1, 500))
    assert (np.diff(line) > 0).all()
    assert line[0] >= 0 and line[-1] <= 1


@pytest.mark.parametrize(
    ("raw", "right"),
    [
        pytest.param(np.full(10, 0.5), np.arange(10) % 2 == 0, id="ten detections"),
        pytest.param(np.linspace(0, 1, 99), np.zeros(99, bool), id="all of them wrong"),
        pytest.param(np.linspace(0, 1, 99), np.ones(99, bool), id="all of them right"),
        pytest.param(np.zeros(0), np.zeros(0, bool), id="none"),
    ],
)
def test_too_little_evidence_changes_nothing(raw: np.ndarray, right: np.ndarray) -> None:
    assert fit_scores(raw, right) == ((), ())
    assert Calibration().scores(raw).tolist() == raw.tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (6000, 5))
    odds = np.exp(logits / temperature)
    odds /= odds.sum(axis=1, keepdims=True)
    answers = np.array([rng.choice(5, p=row) for row in odds])
    assert fit_temperature(logits, answers) == pytest.approx(temperature, rel=0.08)


def test_few_answers_leave_the_temperature() -> None:
    assert fit_temperature(np.zeros((5, 5)), np.zeros(5, np.int64)) == 1.0


def test_a_calibration_survives_json() -> None:
    fitted = Calibration(*fit_scores(*overconfident(2, 200)), 1.7)
    again = Calibration.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted


def test_the_expected_error_by_hand() -> None:
    """Two bins: |0.25 - 0| * 3/4 + |0.85 - 1| * 1/4."""
    scores, right = np.array([0.25, 0.25, 0.25, 0.85]), np.array([False, False, False, True])
    rows = reliability(scores, right)
    assert [row["count"] for row in rows] == [3, 1]
    assert expected_error(rows) == pytest.approx(0.25 * 0.75 + 0.15 * 0.25)
    assert np.isnan(expected_error([]))
