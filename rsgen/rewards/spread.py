"""Diversity and likeness of points, one by one: OF-Diff's reward in a whitened space.

Source: "Object Fidelity Diffusion for Remote Sensing Image Generation", the reward of its DDPO
stage, KNN - omega * KL. Differs in: as printed both terms are of two images (a KL divergence
between two images is undefined, and the nearest neighbour of an image in its own set is itself),
and estimated for a batch they would give every image the same reward, which teaches nothing.
The reward of one sample is the first variation of the two functionals, -log p for the entropy
and log p / q for the divergence; by nearest neighbours these are

    r_i = min(log rho_k(i), c) - omega (log nu_k(i) - log rho_k(i))

(a dimension; times d it is in nats). Without c its optimum is p ~ q^(omega / (1 + omega)): with
omega 2 the real distribution flattened, of a Gaussian 1.5 times the variance; and far from all
data both distances grow alike, so that to escape pays. With c, the usual log rho_k of as many
real points, nothing is gained by being sparser than real data are: the optimum is close to q.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.rewards.base import Bools, Floats, State
from rsgen.rewards.neighbours import log_kth, usual_log_kth

__all__ = ["Bank", "PointRatings", "Spread"]

WARM = 4  # times k points are needed before distances say something
Labels = npt.NDArray[np.int64]


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
    """Of each point, float64 [n]: its value, log rho, log nu - log rho; NaN while unknown.

    warm: enough points of its label are known. matched: there are real ones of its label.
    """

    value: Floats
    diversity: Floats
    divergence: Floats
    capped: Floats
    warm: Bools
    matched: Bools


class Spread:
    """Rates points against a bank of earlier ones and a fixed set of real ones, label by label.

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
        self._caps: dict[tuple[int, int], float] = {}
        self.bank = Bank(real.shape[1], bank, max_age)

    def rate(
        self, points: Floats, labels: Labels, *, epoch: int, learn: bool = True
    ) -> PointRatings:
        """Rate points [n, d] among themselves and those of the bank; `learn` puts them there."""
        self.bank.age(epoch)
        every = np.concatenate([self.bank.points, points])
        names = np.concatenate([self.bank.labels, labels])
        found = PointRatings(
            value=np.zeros(len(points)),
            diversity=np.full(len(points), np.nan),
            divergence=np.full(len(points), np.nan),
            capped=np.full(len(points), np.nan),
            warm=np.zeros(len(points), dtype=bool),
            matched=np.zeros(len(points), dtype=bool),
        )
        for label in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == label)
            peers = np.flatnonzero(names == label)
            own = np.searchsorted(peers, rows + len(self.bank))
            self._rate_label(found, rows, points[rows], every[peers], own, label)
        if learn:
            self.bank.push(points, labels, epoch)
        return found

    def _rate_label(
        self,
        found: PointRatings,
        rows: npt.NDArray[np.intp],
        points: Floats,
        peers: Floats,
        own: npt.NDArray[np.intp],
        label: int,
    ) -> None:
        real = self._real.get(label)
        found.matched[rows] = real is not None and len(real) > self.k
        found.warm[rows] = len(peers) >= WARM * self.k
        if real is None or not found.matched[rows[0]] or not found.warm[rows[0]]:
            return
        rho = log_kth(points, peers, self.k, own)
        divergence = log_kth(points, real, self.k) - rho
        limit = self._limit(label, real, len(peers)) if self.cap == "real" else np.inf
        found.diversity[rows], found.divergence[rows] = rho, divergence
        found.capped[rows] = rho > limit
        found.value[rows] = np.minimum(rho, limit) - self.omega * divergence

    def _limit(self, label: int, real: Floats, count: int) -> float:
        key = (label, count)
        if key not in self._caps:
            self._caps[key] = usual_log_kth(real, self.k, count)
        return self._caps[key]

    def real_counts(self) -> Mapping[int, int]:
        """Real points by label."""
        return {label: len(points) for label, points in self._real.items()}
