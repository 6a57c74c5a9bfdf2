"""Diversity and likeness of points, one by one: OF-Diff's reward in a whitened space.

Source: "Object Fidelity Diffusion for Remote Sensing Image Generation", the reward of its DDPO
stage, KNN - omega * KL. Differs in: as printed both terms are of two images (a KL divergence
between two images is undefined, and the nearest neighbour of an image in its own set is itself),
and estimated for a batch they would give every image the same reward, which teaches nothing.
The reward of one sample is the first variation of the two functionals, -log p for the entropy
and log p / q for the divergence; by nearest neighbours these are

    r_i = min(log rho_k(i), c) - omega (log nu_k(i) - log rho_k(i)) - w

(a dimension; times d it is in nats). Without c its optimum is p ~ q^(omega / (1 + omega)): with
omega 2 the real distribution flattened, of a Gaussian 1.5 times the variance; and far from all
data both distances grow alike, so that to escape pays. With c, the usual log rho_k of as many
real points, nothing is gained by being sparser than real data are: the optimum is close to q.

Distances shrink as more points are known, by log(n) / d only in the limit (in 32 dimensions the
mean of the first two terms falls from 2.0 with 256 points to 1.85 with 1024 where generated
and real points are alike), and otherwise by what the points are: those of one layout lie close
together. So two things are held fixed. Every point is compared with as many others as when
enough were first known: those of its own batch, then the newest of the bank. And w is what a
real point gets among as many real ones, so that 0 is the worth of a real point whatever the
number, and values of other numbers (held images) compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.rewards.base import Bools, Floats, State
from rsgen.rewards.neighbours import log_kth, log_kth_among

__all__ = ["Bank", "PointRatings", "Spread"]

WARM = 4  # times k points are needed before distances say something
LEAST_DRAWS = 4
SHARED = 3.0  # times the error of n single values: of 256 points in 32 dimensions
REAL_POINTS = 4096  # of a label, whose distances to the others say what is usual
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]


class Bank:
    """The last points, first in, first out; those of older epochs leave too."""

    def __init__(self, dimensions: int, capacity: int, max_age: int) -> None:
        self.capacity, self.max_age = capacity, max_age
        self.points: Floats = np.zeros((0, dimensions))
        self.labels: Labels = np.zeros(0, dtype=np.int64)
        self.epochs: Labels = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.points)

    def push(self, points: Floats, labels: Labels, epoch: int) -> None:
        """Add points [n, d]; what is over the capacity, or `max_age` epochs old, is dropped."""
        self._keep(
            np.concatenate([self.points, points]),
            np.concatenate([self.labels, labels]),
            np.concatenate([self.epochs, np.full(len(points), epoch, dtype=np.int64)]),
            epoch,
        )

    def age(self, epoch: int) -> None:
        """Drop what is too old in this epoch."""
        self._keep(self.points, self.labels, self.epochs, epoch)

    def _keep(self, points: Floats, labels: Labels, epochs: Labels, epoch: int) -> None:
        young = np.flatnonzero(epoch - epochs < self.max_age)[-self.capacity :]
        self.points, self.labels, self.epochs = points[young], labels[young], epochs[young]

    def state_dict(self) -> State:
        return {"bank": self.points, "bank_labels": self.labels, "bank_epochs": self.epochs}

    def load_state_dict(self, state: State) -> None:
        points = np.array(state["bank"], dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.points.shape[1]:
            raise DataError(
                f"a bank of {points.shape} where points have {self.points.shape[1]} numbers",
                hint="the real images are others than at the start: give --real as it was",
            )
        self.points = points
        self.labels = np.array(state["bank_labels"], dtype=np.int64)
        self.epochs = np.array(state["bank_epochs"], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class PointRatings:
    """Of each point, float64 [n]: its value and terms; NaN (value: 0) while unknown.

    diversity: log rho + log(n - 1) / d, n the points that it is compared among, itself included.
    divergence: log nu - log rho + log(m / (n - 1)) / d: its mean times d is the estimate of
    `neighbours.divergence`. warm: enough points of its label are known. matched: there are real
    ones of its label. error: standard error of the mean value that all points share, as they are
    each other's neighbours.
    """

    value: Floats
    diversity: Floats
    divergence: Floats
    capped: Floats
    warm: Bools
    matched: Bools
    error: float = 0.0

    @classmethod
    def unknown(cls, count: int) -> PointRatings:
        """Of so many points of which nothing is known yet."""
        nothing, no = np.full(count, np.nan), np.zeros(count, dtype=bool)
        return cls(np.zeros(count), nothing, nothing.copy(), nothing.copy(), no, no.copy())


@dataclass(frozen=True, eq=False)
class Company:
    """Points [n, d] that others are compared with, and the position of each not to be counted."""

    points: Floats
    own: npt.NDArray[np.intp]

    @classmethod
    def of(cls, points: Floats, stored: Floats, others: int, seed: list[int]) -> Company:
        """So many others for each of `points`: first each other, then the last of `stored`.

        Where they are more themselves, a draw of others + 1 of them stands for all, and a point
        that is not drawn leaves out one of these.
        """
        count = len(points)
        if count <= others + 1:
            lacking = others + 1 - count
            older = stored[len(stored) - lacking :]
            return cls(np.concatenate([older, points]), lacking + np.arange(count))
        drawn = np.random.default_rng(seed).permutation(count)[: others + 1]
        own = np.full(count, others)
        own[drawn] = np.arange(others + 1)
        return cls(points[drawn], own)


@dataclass(frozen=True)
class _Usual:
    """Of real points of a label: where diversity is cut off, the value before w, and the standard
    error of its mean over a whole draw.
    """

    cap: float
    worth: float
    error: float


class Spread:
    """Rates points against earlier ones and a fixed set of real ones, label by label.

    real: float64 [m, d] in random order, labels int64 [m]; no point is compared with one of
    another label.
    """

    def __init__(
        self,
        real: Floats,
        labels: Labels,
        *,
        k: int = 5,
        omega: float = 2.0,
        cap: Literal["real", "none"] = "real",
        bank: int = 2048,
        max_age: int = 4,
    ) -> None:
        self.k, self.omega, self.cap = k, omega, cap
        self._real = {int(label): real[labels == label] for label in np.unique(labels)}
        self._usual: dict[tuple[int, int, int], _Usual] = {}
        self._nu: dict[tuple[int, int], Floats] = {}
        self._others: dict[int, int] = {}  # by label: how many a point is compared with
        self._began: int | None = None  # the first epoch that was learned from
        self.bank = Bank(real.shape[1], bank, max_age)

    def rate(
        self, points: Floats, labels: Labels, *, epoch: int, learn: bool = True
    ) -> PointRatings:
        """Rate points [n, d].

        With `learn` among themselves and those of the bank, which they enter. Without, among
        themselves alone, so that the same points have the same ratings whenever they are
        looked at; of fewer than 4 k points, by fewer neighbours.
        """
        found = PointRatings.unknown(len(points))
        errors = list[float]()
        if learn:
            self._began = epoch if self._began is None else self._began
            self.bank.age(epoch)
        for label in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == label)
            real = self._real.get(label)
            found.matched[rows] = real is not None and len(real) > self.k
            if real is not None and found.matched[rows[0]]:
                rate = self._learned if learn else self._measured
                errors.append(len(rows) * rate(found, rows, points[rows], label, epoch))
        if learn:
            self.bank.push(points, labels, epoch)
        return replace(found, error=float(np.linalg.norm(errors)) / max(found.warm.sum(), 1))

    def settling(self, epoch: int) -> bool:
        """Whether the bank still fills up, so that a label that is cold may get warm."""
        return self._began is None or epoch - self._began < self.bank.max_age

    def _learned(
        self, found: PointRatings, rows: Rows, points: Floats, label: int, epoch: int
    ) -> float:
        stored = self.bank.points[self.bank.labels == label]
        known = len(stored) + len(points)
        if known < WARM * self.k:
            return 0.0
        others = min(self._others.setdefault(label, known - 1), known - 1)
        company = Company.of(points, stored, others, [epoch, label])
        return self._rate(found, rows, points, company, label, self.k)

    def _measured(
        self, found: PointRatings, rows: Rows, points: Floats, label: int, epoch: int
    ) -> float:
        if len(points) < 2:
            return 0.0
        k = min(self.k, max(1, len(points) // WARM))
        company = Company(points, np.arange(len(points)))
        return self._rate(found, rows, points, company, label, k)

    def _rate(
        self, found: PointRatings, rows: Rows, points: Floats, company: Company, label: int, k: int
    ) -> float:
        real, count = self._real[label], len(company.points)
        usual = self._usual_of(label, count, k)
        rho = _apart(log_kth(points, company.points, k, company.own), count, points.shape[1])
        nu = _apart(log_kth(points, real, k), len(real) + 1, points.shape[1])
        found.diversity[rows], found.divergence[rows] = rho, nu - rho
        found.capped[rows], found.warm[rows] = rho > usual.cap, True
        found.value[rows] = self._value(rho, nu, usual.cap) - usual.worth
        return usual.error

    def _value(self, rho: Floats, nu: Floats, cap: float) -> Floats:
        return np.asarray(np.minimum(rho, cap) - self.omega * (nu - rho))

    def _usual_of(self, label: int, count: int, k: int) -> _Usual:
        key = (label, count, k)
        if key not in self._usual:
            real = self._real[label]
            d = real.shape[1]
            rho = _apart(log_kth_among(real[:REAL_POINTS], k, count), count, d)
            nu = _apart(self._among_real(label, k)[: rho.size], len(real), d)
            cap = float(np.median(rho)) if self.cap == "real" else np.inf
            values = self._value(rho, nu.reshape(rho.shape), cap)
            self._usual[key] = _Usual(cap, float(values.mean()), _error(values))
        return self._usual[key]

    def _among_real(self, label: int, k: int) -> Floats:
        """log nu_k of the first real points among all others, float64 [at most REAL_POINTS]."""
        if (label, k) not in self._nu:
            real = self._real[label]
            some = real[:REAL_POINTS]
            self._nu[label, k] = log_kth(some, real, k, np.arange(len(some)))
        return self._nu[label, k]

    def real_counts(self) -> Mapping[int, int]:
        """Real points by label."""
        return {label: len(points) for label, points in self._real.items()}

    def state_dict(self) -> State:
        """The bank, and what was settled when it was first full enough."""
        others = sorted(self._others.items())
        began = [] if self._began is None else [self._began]
        return {
            **self.bank.state_dict(),
            "bank_others": np.array(others, dtype=np.int64).reshape(-1, 2),
            "bank_began": np.array(began, dtype=np.int64),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from there.

        Raises:
            DataError: points of other dimensions.
        """
        self.bank.load_state_dict(state)
        self._others = {int(label): int(n) for label, n in np.asarray(state["bank_others"])}
        began = np.asarray(state["bank_began"]).tolist()
        self._began = began[0] if began else None


def _error(rows: Floats) -> float:
    """Standard error of the mean of values [draws, n] over the n of one draw."""
    if len(rows) >= LEAST_DRAWS:
        return float(rows.mean(axis=1).std(ddof=1))
    return float(SHARED * rows.std() / np.sqrt(rows.shape[1]))


def _apart(log_distance: Floats, count: int, d: int) -> Floats:
    """A log distance freed of how many points there are: `count`, with the point itself."""
    return np.asarray(log_distance + np.log(count - 1) / d)
