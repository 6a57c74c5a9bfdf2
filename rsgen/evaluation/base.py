"""What every metric of `evaluate` is given, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rsgen.detections import Detector
from rsgen.images import Pixels
from rsgen.judge.model import Judge
from rsgen.records import ClassTable, Sample
from rsgen.reporting import Reporter
from rsgen.settings import EvaluateConfig

__all__ = ["Cell", "CellResult", "Evaluation", "Images", "figure"]

FEW = 200
OTHERS_THRESHOLD = 0.5  # of a detector that nobody has calibrated
Value = float | int | str | None


@dataclass(frozen=True)
class Images:
    """Samples with pixels. `name` is what tables call them."""

    name: str
    samples: tuple[Sample, ...]
    read: Callable[[Sample], Pixels]

    def __len__(self) -> int:
        return len(self.samples)

    def pixels(self) -> Iterator[Pixels]:
        """uint8 [H, W, 3] RGB of each, in order."""
        return (self.read(sample) for sample in self.samples)

    def ordered(self) -> Images:
        """The samples by id: draws from them do not depend on the order they came in."""
        return replace(self, samples=tuple(sorted(self.samples, key=lambda s: s.id)))

    def some(self, indices: Sequence[int]) -> Images:
        """Those at some positions."""
        return Images(self.name, tuple(self.samples[k] for k in indices), self.read)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: generated images against held real ones, through judge B's eyes.

    real: the test split of --real. train: its train split, for what must be learned or must
    not have been copied; never a reference. work: OUT, each cell's folder is work/cells/NAME.
    eyes: another detector that looks for objects in the judge's place.
    """

    generated: Images
    real: Images
    train: Images
    classes: ClassTable
    judge: Judge
    settings: EvaluateConfig
    seed: int
    device: str
    work: Path
    reporter: Reporter
    check_stop: Callable[[], None]
    eyes: Detector | None = None

    @property
    def detector(self) -> Detector:
        """Who looks for objects."""
        return self.eyes or self.judge

    @property
    def visible(self) -> ClassTable:
        """The thing classes that the detector can find; others cannot be missed."""
        things = tuple(c for c in self.detector.classes.classes if c.kind == "thing")
        known = getattr(self.detector, "known", None)
        return ClassTable(things if known is None else tuple(c for c in things if c.name in known))

    @property
    def threshold(self) -> float:
        """The score above which a detection counts as found; a judge's is its own."""
        return OTHERS_THRESHOLD if self.eyes else self.judge.card.threshold


@dataclass(frozen=True)
class CellResult:
    """A metric's answer. NaN is written as None: nothing to measure.

    figures: headline numbers by name. tables: table -> row -> column -> value. counts: how
    many images (or objects) are behind the figures. pictures: title -> file in the folder.
    """

    figures: Mapping[str, Value]
    tables: Mapping[str, Mapping[str, Mapping[str, Value]]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "figures": dict(self.figures),
            "tables": {t: {r: dict(c) for r, c in rows.items()} for t, rows in self.tables.items()},
            "counts": dict(self.counts),
            "notes": list(self.notes),
            "pictures": dict(self.pictures),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> CellResult:
        return cls(row["figures"], row["tables"], row["counts"], row["notes"], row["pictures"])


class Cell(Protocol):
    """One question; registry group `metrics`. Deterministic by the evaluation's seed.

    One that reports progress as a stage of its own says so by `stages = True`.
    """

    name: str
    title: str

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        """The answer; pictures are written into `folder`, which exists.

        Raises:
            DataError: it cannot be asked of these images (too few, no masks ...).
        """
        ...


def figure(value: float, digits: int = 4) -> float | None:
    """A number for a report: rounded to significant digits, None where it is not one."""
    if math.isnan(value) or math.isinf(value):
        return None
    return float(f"{value:.{digits}g}")
