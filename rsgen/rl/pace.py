"""How fast a model is moved: the rate that follows from what an epoch did, and beta's target."""

from __future__ import annotations

import math

from rsgen.settings import RlTuneConfig

__all__ = ["RATES", "adapted_rate", "kept_share", "moved_nats", "step_nats", "target_of"]

RATES = (1 / 64, 64.0)  # of the rate that a run begins with
STEP_NATS = 0.05
LEAST_MOVED = 1e-9  # nats a step: rounding
TOO_FAR = 1.5  # times what was wanted


def adapted_rate(rate: float, moved: float, target: float) -> float:
    """The rate with which an epoch that moved `moved` nats would have moved `target`.

    Nats go with the square of the rate, and faster where low-rank layers still are near nothing.
    At most three times and at least half of what it was, and in RATES; where nothing moved (all
    rewards of a layout alike), it stays.
    """
    if moved < LEAST_MOVED:
        return rate
    change = math.sqrt(target / moved) if math.isfinite(moved) else 0.0
    return min(max(rate * min(max(change, 0.5), 3.0), RATES[0]), RATES[1])


def kept_share(moved: float, target: float) -> float:
    """How much of its way an epoch keeps that moved `moved` nats: all, or as far as `target`.

    Nats go with the square of the way. None of a way that is no number.
    """
    if not math.isfinite(moved):
        return 0.0
    return math.sqrt(target / moved) if moved > TOO_FAR * target else 1.0


def target_of(settings: RlTuneConfig, numbers: int) -> float | None:
    """The divergence that beta adapts to, in nats a step; None where beta stays."""
    asked = settings.kl_target
    if asked == "none":
        return None
    return moved_nats(0.1, numbers) if asked == "auto" else asked


def step_nats(settings: RlTuneConfig) -> float:
    """How far one epoch should move the model with lr auto, in nats a step."""
    return settings.step_nats or STEP_NATS


def moved_nats(share: float, numbers: int) -> float:
    """Divergence of a step whose mean has moved by a share of what it draws, everywhere."""
    return numbers * 0.5 * share**2
