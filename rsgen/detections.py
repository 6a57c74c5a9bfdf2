"""What a detector says of an image, and the protocol that every detector keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rsgen.geometry import Box, Quad, bounds, quad_from_tuple
from rsgen.images import Pixels
from rsgen.records import ClassTable, Instance

__all__ = ["Detections", "Detector"]


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, best first. Pixels, half-open edges, y down.

    quads: float64 [n, 4, 2], clockwise on screen; the first edge is the front where the
        heading is known. labels: class names [n]. scores: float64 [n] in [0, 1].
    headings: float64 [n] radians, NaN where the class has none or it is not known.
    """

    quads: npt.NDArray[np.float64]
    labels: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    headings: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def none(cls) -> Detections:
        """Nothing found."""
        return cls(np.zeros((0, 4, 2)), (), np.zeros(0), np.zeros(0))

    def chosen(self, keep: npt.NDArray[np.bool_] | Sequence[int]) -> Detections:
        """Some of them, by a bool array or by positions."""
        index = np.flatnonzero(keep) if np.asarray(keep).dtype == bool else np.asarray(keep, int)
        labels = tuple(self.labels[k] for k in index)
        return Detections(self.quads[index], labels, self.scores[index], self.headings[index])

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        return self.chosen(self.scores >= score)

    def quad(self, index: int) -> Quad:
        return quad_from_tuple(self.quads[index])

    def box(self, index: int) -> Box:
        """The upright box around a quad."""
        return bounds(self.quads[index])

    def instances(self) -> tuple[Instance, ...]:
        """As labels, for pictures and writers."""
        found = []
        for k, label in enumerate(self.labels):
            heading = float(self.headings[k])
            found.append(
                Instance(
                    label,
                    self.box(k),
                    self.quad(k),
                    heading_rad=None if np.isnan(heading) else heading,
                    scores={"detection": float(self.scores[k])},
                )
            )
        return tuple(found)


class Detector(Protocol):
    """Anything that finds labelled objects: our judge, a transformers model, an outside worker."""

    @property
    def classes(self) -> ClassTable:
        """What it can find."""
        ...

    def detect(self, images: Pixels) -> list[Detections]:
        """Objects in each of uint8 [N, H, W, 3] RGB images of one size."""
        ...
