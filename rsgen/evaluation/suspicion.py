"""Can a classifier tell generated images from real ones by codec, blur or noise alone?

If it can, a network that is trained on both may learn that trace in place of objects, and
distances of features measure the trace too. Logistic regression on hand-made numbers (see
`traces`), five-fold cross-validation in which all images of a scene are in one fold; the figure
is the area under the ROC curve (AUC), mean of folds: 0.5 is no better than chance, 1 always.
Beside it, the same between random halves of the real images' scenes: what chance gives. Pinned:
the middle square of the smallest side of all images, at most 512 px, from a multiple of 8;
standardised numbers; C = 0.3, classes balanced. Under 200 images on a side a warning stands beside
the figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.evaluation.base import FEW, CellResult, Evaluation, Images, figure
from rsgen.evaluation.traces import GROUPS, traces
from rsgen.images import Pixels
from rsgen.pictures import contact_sheet
from rsgen.records import Sample

__all__ = ["CELL", "SuspicionCell", "TraceSet", "separability"]

FOLDS = 5
REPEATS = 10
LEAST = 10  # images of a side
LARGEST = 512  # px a side that are looked at
SMALLEST = 32
PICTURES = 8
ALL = "all together"
PLAIN = 0.65  # an AUC from which on a trace is worth a note

Columns = Mapping[str, list[int]]


@dataclass(frozen=True, eq=False)
class TraceSet:
    """values: float64 [N, traces]. scenes: the scene of each. samples: where they come from."""

    values: npt.NDArray[np.float64]
    scenes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.scenes)

    def of(self, scenes: set[str]) -> TraceSet:
        keep = [k for k, scene in enumerate(self.scenes) if scene in scenes]
        return TraceSet(
            self.values[keep],
            tuple(self.scenes[k] for k in keep),
            tuple(self.samples[k] for k in keep),
        )


def _columns() -> dict[str, list[int]]:
    """Which numbers belong to which group, and all together."""
    found: dict[str, list[int]] = {ALL: []}
    for group, names in GROUPS.items():
        start = len(found[ALL])
        found[group] = list(range(start, start + len(names)))
        found[ALL] += found[group]
    return found


def separability(
    made: TraceSet, real: TraceSet, columns: Sequence[int], seed: int
) -> tuple[float, npt.NDArray[np.float64]]:
    """(mean AUC of the folds, decision of each image when it was held out).

    NaN where there are too few scenes for two folds. Decisions: float64 [made + real], of
    those of `made` first, larger is more like `made`; NaN where it was never held out.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values = np.concatenate([made.values, real.values])[:, columns]
    truth = np.concatenate([np.ones(len(made)), np.zeros(len(real))])
    scenes = np.array([*made.scenes, *real.scenes])
    decisions = np.full(len(values), np.nan)
    folds = min(FOLDS, len(set(made.scenes)), len(set(real.scenes)))
    if folds < 2:
        return float("nan"), decisions
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    areas = []
    for learn, held in splitter.split(values, truth, scenes):
        if len(set(truth[learn])) < 2:
            continue
        model: Any = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000),
        )
        model.fit(values[learn], truth[learn])
        decisions[held] = model.decision_function(values[held])
        if len(set(truth[held])) == 2:
            areas.append(roc_auc_score(truth[held], decisions[held]))
    return (float(np.mean(areas)) if areas else float("nan")), decisions


def _halves(real: TraceSet, seed: int) -> tuple[TraceSet, TraceSet]:
    """Two halves of a set, no scene in both."""
    scenes = sorted(set(real.scenes))
    order = np.random.default_rng(seed).permutation(len(scenes))
    first, size = set[str](), 0
    for k in order:
        if size * 2 < len(real):
            first.add(scenes[k])
            size += real.scenes.count(scenes[k])
    return real.of(first), real.of(set(scenes) - first)


class SuspicionCell:
    """AUC by group of traces, with what real halves give."""

    name = "suspicion"
    title = "suspicion: are they told by codec, blur or noise alone"

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        side = _side(evaluation)
        made = _measured(evaluation.generated, side, evaluation)
        real = _measured(evaluation.real, side, evaluation)
        columns = _columns()
        seed = evaluation.seed
        found = {name: separability(made, real, chosen, seed) for name, chosen in columns.items()}
        floor = _floor(real, columns, seed)
        table = {
            name: {
                "AUC, generated against real": figure(area),
                "AUC, real halves (mean)": figure(float(np.mean(floor[name]))),
                "AUC, real halves (highest)": figure(float(np.max(floor[name]))),
            }
            for name, (area, _) in found.items()
        }
        single = _single_rows(made, real)
        return CellResult(
            figures={
                **{f"AUC, {name}": figure(area) for name, (area, _) in found.items()},
                "AUC, real halves": table[ALL]["AUC, real halves (mean)"],
            },
            tables={
                f"AUC of {FOLDS} folds by scene, {REPEATS} pairs of real halves": table,
                "single traces (AUC either way), most telling first": single,
            },
            counts={
                "generated images": len(made),
                "real images": len(real),
                "real scenes": len(set(real.scenes)),
                "px a side looked at": side,
            },
            notes=_notes(table, single, made, real),
            pictures=_pictures(evaluation, made, found[ALL][1], folder),
        )


def _side(evaluation: Evaluation) -> int:
    """One side for all: numbers of larger images would differ by their size alone."""
    sides = [
        min(s.layout.width, s.layout.height)
        for images in (evaluation.generated, evaluation.real)
        for s in images.samples
    ]
    fewest = min(len(evaluation.generated), len(evaluation.real))
    side = min([LARGEST, *sides])
    if fewest < LEAST or side < SMALLEST:
        raise DataError(
            f"{len(evaluation.generated)} generated and {len(evaluation.real)} real test images, "
            f"{side} px the smallest side; at least {LEAST} of each and {SMALLEST} px are needed",
            hint="generate more, or give a larger --real",
        )
    return side


def _measured(images: Images, side: int, evaluation: Evaluation) -> TraceSet:
    """Numbers of the middle of each image, ordered by id: folds do not depend on their order."""
    rows = []
    for sample in sorted(images.samples, key=_rank):
        rows.append((traces(_middle(images.read(sample), side)), sample))
        evaluation.check_stop()
    samples = tuple(sample for _, sample in rows)
    return TraceSet(np.stack([row for row, _ in rows]), tuple(s.parent for s in samples), samples)


def _rank(sample: Sample) -> str:
    return hashlib.sha256(sample.id.encode()).hexdigest()


def _middle(image: Pixels, side: int) -> Pixels:
    """The middle, from a multiple of 8: blocks of a codec stay where they are."""
    top, left = ((n - side) // 2 // 8 * 8 for n in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _floor(real: TraceSet, columns: Columns, seed: int) -> dict[str, list[float]]:
    """AUC of pairs of real halves, for each group."""
    found: dict[str, list[float]] = {name: [] for name in columns}
    for k in range(REPEATS):
        one, other = _halves(real, seed + k)
        for name, chosen in columns.items():
            found[name].append(separability(one, other, chosen, seed + k)[0])
    return found


def _single_rows(made: TraceSet, real: TraceSet) -> dict[str, dict[str, float | None]]:
    """What each number alone tells, whichever side has more of it."""
    from sklearn.metrics import roc_auc_score

    truth = np.concatenate([np.ones(len(made)), np.zeros(len(real))])
    rows = {}
    names = [f"{group}: {name}" for group, members in GROUPS.items() for name in members]
    for k, name in enumerate(names):
        values = np.concatenate([made.values[:, k], real.values[:, k]])
        area = float(roc_auc_score(truth, values))
        rows[name] = {
            "AUC": figure(max(area, 1 - area)),
            "generated (median)": figure(float(np.median(made.values[:, k]))),
            "real (median)": figure(float(np.median(real.values[:, k]))),
        }
    return dict(sorted(rows.items(), key=lambda row: -(row[1]["AUC"] or 0.0)))


def _notes(
    table: Mapping[str, Mapping[str, float | None]],
    single: Mapping[str, Mapping[str, float | None]],
    made: TraceSet,
    real: TraceSet,
) -> list[str]:
    notes = []
    row = table[ALL]
    area = row["AUC, generated against real"]
    highest = row["AUC, real halves (highest)"]
    if highest is None:
        notes.append(f"{len(set(real.scenes))} real scenes are too few for halves: no floor")
    if area is not None and area > max(highest or 0.0, PLAIN):
        first = next(iter(single))
        notes.append(
            f"generated images are told from real ones without looking at content (AUC {area}); "
            f"the most telling trace alone is {first} (AUC {single[first]['AUC']})"
        )
        if first.startswith("noise") and _lower(single[first]):
            notes.append(
                "they have less noise than real ones: a decoder paints none; generate with "
                "-s generate.sensor_noise=auto adds what the training images have"
            )
    fewest = min(len(made), len(real))
    if fewest < FEW:
        notes.append(f"{fewest} images on a side: AUC is rough under {FEW}")
    return notes


def _lower(row: Mapping[str, float | None]) -> bool:
    made, real = row["generated (median)"], row["real (median)"]
    return made is not None and real is not None and made < real


def _pictures(
    evaluation: Evaluation,
    made: TraceSet,
    decisions: npt.NDArray[np.float64],
    folder: Path,
) -> dict[str, str]:
    """Generated images that were told most surely, and those that pass for real."""
    known = np.flatnonzero(~np.isnan(decisions[: len(made)]))
    order = known[np.argsort(-decisions[known], kind="stable")].tolist()
    written = {}
    for name, title, chosen in (
        ("told", "generated images that are told most surely", order[:PICTURES]),
        ("pass", "generated images that pass for real ones", order[::-1][:PICTURES]),
    ):
        if chosen:
            tiles = [evaluation.generated.read(made.samples[k]) for k in chosen]
            titles = [f"{decisions[k]:+.1f}" for k in chosen]
            contact_sheet(tiles, folder / f"{name}.png", titles=titles)
            written[title] = f"{name}.png"
    return written


CELL = SuspicionCell()
