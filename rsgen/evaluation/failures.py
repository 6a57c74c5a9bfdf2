"""The four failures that OF-Diff names, one line each, beside the same figure of real images.

Source: OF-Diff (ICLR 2026), section 1 names control leakage, structural distortion, dense
generation collapse and feature mismatch; it gives no measure of them. Pinned here:

- control leakage: share of the judge's detection scores (all detections, also unsure ones)
  whose centre lies outside every asked box, grown to 1.3 times its sides; and detections above
  the judge's threshold outside, an asked object. Real images have some too: what labels
  left out, and what the judge imagines.
- structural distortion: IoU of the asked mask and the mask that the classical backend finds
  anew in the pixels, given the label's box; 0 where it fell back on the box, since that would
  repeat the label. The mean of class means, over classes that both sets have. Objects whose
  asked mask is a box are left out, and real objects whose mask came from a backend: it would
  be compared with itself.
- dense collapse: asked objects with a detection of any class at IoU 0.5, in the images with
  most objects, against those with few.
- feature mismatch: kernel distance of judge features at equal N, the mean of ten draws, and
  what two halves of the real images give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsgen.detections import Detections
from rsgen.evaluation.base import CellResult, Evaluation, Images, figure
from rsgen.evaluation.distances import kernel_distance
from rsgen.evaluation.features import JudgeFeatures
from rsgen.evaluation.fidelity import LEAST, both_features, draws, few, side_of
from rsgen.evaluation.layout import DENSITIES, OVERLAP, detect_all
from rsgen.matching import Asked, asked_of, match_objects
from rsgen.records import Layout
from rsgen.registry import names
from rsgen.scorers.remask import Remask

__all__ = ["CELL", "FailuresCell", "Leakage", "leakage", "reextracted"]

GROWN = 1.3
MOST = 1000  # objects whose masks are found anew: whole images, at random but always the same
FROM_PIXELS = frozenset(names("mask_backends")) - {"polygon"}  # masks that a backend made


@dataclass(frozen=True)
class Leakage:
    """energy: share of all detection scores outside asked boxes. extra: sure detections outside,
    an asked object."""

    energy: float
    extra: float


def leakage(found: Sequence[Detections], asked: Sequence[Asked], threshold: float) -> Leakage:
    """Of a whole set; NaN where nothing is detected, or nothing asked."""
    total = outside = 0.0
    extra = 0
    for ours, theirs in zip(found, asked, strict=True):
        away = ~_inside(ours, theirs)
        total += float(ours.scores.sum())
        outside += float(ours.scores[away].sum())
        extra += int((ours.scores[away] >= threshold).sum())
    objects = sum(len(a) for a in asked)
    return Leakage(
        outside / total if total else float("nan"), extra / objects if objects else float("nan")
    )


def _inside(found: Detections, asked: Asked) -> npt.NDArray[np.bool_]:
    """Whether the centre of each detection lies in a grown asked box, bool [n]."""
    import shapely

    if not len(found) or not len(asked):
        return np.zeros(len(found), dtype=bool)
    middle = asked.quads.mean(axis=1, keepdims=True)
    grown = shapely.polygons(middle + (asked.quads - middle) * GROWN)
    points = shapely.points(found.quads.mean(axis=1))
    hits, _ = shapely.STRtree(grown).query(points, predicate="intersects")
    inside = np.zeros(len(found), dtype=bool)
    inside[hits] = True
    return inside


@dataclass(frozen=True, eq=False)
class Reextracted:
    """by_class: IoU of each object of a class; 0 where the backend fell back."""

    by_class: Mapping[str, list[float]]

    @property
    def ious(self) -> npt.NDArray[np.float64]:
        return np.array([v for row in self.by_class.values() for v in row], dtype=np.float64)

    def mean(self, labels: Collection[str]) -> float:
        """The mean of class means; NaN without objects."""
        means = [
            np.mean(self.by_class[label]) for label in sorted(labels) if label in self.by_class
        ]
        return float(np.mean(means)) if means else float("nan")

    def seen(self) -> npt.NDArray[np.float64]:
        """Those that the backend did not fall back on."""
        return self.ious[self.ious > 0]


def reextracted(images: Images, evaluation: Evaluation, *, skip: frozenset[str]) -> Reextracted:
    """IoU of given masks and those found anew; objects of some origins are left out."""
    scorer = Remask()
    found: dict[str, list[float]] = {}
    count = 0
    for sample in sorted(images.samples, key=lambda s: hashlib.sha256(s.id.encode()).hexdigest()):
        if count >= MOST:
            break
        counted = [
            i.origin not in skip and not evaluation.classes.is_stuff(i.label) and not i.truncated
            for i in sample.layout.instances
        ]
        if not any(counted):
            continue
        (scores,) = scorer.score(images.read(sample)[None], [sample])
        for instance, wanted, score in zip(sample.layout.instances, counted, scores, strict=True):
            if wanted and not np.isnan(score):
                label = evaluation.classes.resolve(instance.label).name
                found.setdefault(label, []).append(float(score))
                count += 1
        evaluation.check_stop()
    return Reextracted(found)


def density_rows(
    found: Sequence[Detections], asked: Sequence[Asked], threshold: float
) -> dict[str, dict[str, float | int | None]]:
    """Found share of asked objects, of images with so many objects."""
    rows: dict[str, dict[str, float | int | None]] = {}
    for low, high in DENSITIES:
        chosen = [k for k, a in enumerate(asked) if low <= len(a) <= high]
        if not chosen:
            continue
        total = sum(int((~asked[k].ignored).sum()) for k in chosen)
        hits = sum(
            not asked[k].ignored[match.asked]
            for k in chosen
            for match in match_objects(found[k].above(threshold), asked[k], OVERLAP, any_class=True)
        )
        label = f"{low}-{high} objects" if high < 10**9 else f"over {low - 1} objects"
        rows[label] = {
            "images": len(chosen),
            "asked": total,
            "found": figure(hits / total if total else float("nan")),
        }
    return rows


class FailuresCell:
    """Control leakage, structural distortion, dense collapse, feature mismatch."""

    name = "failures"
    title = "failures: the four that OF-Diff names"

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        threshold = evaluation.threshold
        leaks, dense = {}, {}
        for images in (evaluation.generated, evaluation.real):
            found = detect_all(images, evaluation)
            every = [asked_of(s.layout, evaluation.classes) for s in images.samples]
            known = [
                asked_of(_known(s.layout, evaluation), evaluation.classes) for s in images.samples
            ]
            leaks[images.name] = leakage(found, every, threshold)
            dense[images.name] = density_rows(found, known, threshold)
        masks = {
            "generated": reextracted(evaluation.generated, evaluation, skip=frozenset({"box"})),
            "real": reextracted(evaluation.real, evaluation, skip=FROM_PIXELS),
        }
        made, real = masks["generated"], masks["real"]
        common = set(made.by_class) & (set(real.by_class) or set(made.by_class))
        distance, floor, side = _mismatch(evaluation)
        bucket = next((k for k in reversed(list(dense["generated"])) if k in dense["real"]), None)
        lines = {
            "control leakage": _line(
                leaks["generated"].energy, leaks["real"].energy, "lower",
                "share of detection scores outside asked boxes",
            ),
            "structural distortion": _line(
                made.mean(common), real.mean(common), "higher",
                "IoU of asked masks and those found anew (fallbacks 0), mean of common classes",
            ),
            "dense collapse": _line(
                _found(dense["generated"], bucket), _found(dense["real"], bucket), "higher",
                f"asked objects found, images of {bucket or 'no common density'}",
            ),
            "feature mismatch": _line(
                distance, floor, "lower", f"KD-judge at N = {side} a side",
            ),
        }  # fmt: skip
        return CellResult(
            figures=_figures(lines),
            tables={
                "one line each": lines,
                "control leakage: sure detections outside, an asked object": {
                    name: {"extra": figure(one.extra)} for name, one in leaks.items()
                },
                "structural distortion by class": _mask_rows(masks),
                "dense collapse: asked objects found": _density_table(dense),
            },
            counts={
                "generated images": len(evaluation.generated),
                "real images": len(evaluation.real),
                "generated masks found anew": len(masks["generated"].ious),
                "of them fallbacks": int((masks["generated"].ious == 0).sum()),
                "real masks found anew": len(masks["real"].ious),
            },
            notes=_notes(masks, bucket, side, evaluation),
        )


def _known(layout: Layout, evaluation: Evaluation) -> Layout:
    """The objects of classes that the judge knows: others cannot be found."""
    kept = []
    for instance in layout.instances:
        if evaluation.visible.find(instance.label) is not None:
            kept.append(instance)
    return replace(layout, instances=tuple(kept))


def _mismatch(evaluation: Evaluation) -> tuple[float, float, int]:
    """(kernel distance to real, between real halves, images a side); NaN with too few."""
    count = side_of(len(evaluation.generated), len(evaluation.real))
    if count < LEAST:
        return float("nan"), float("nan"), count
    made, real = both_features(evaluation, JudgeFeatures(evaluation.judge))
    distances, floors = [], []
    for ours, theirs, others in draws(made, real, evaluation.seed):
        distances.append(kernel_distance(ours, theirs))
        floors.append(kernel_distance(others, theirs))
    return float(np.mean(distances)), float(np.mean(floors)), count


def _line(
    made: float, real: float, better: str, meaning: str
) -> dict[str, float | int | str | None]:
    return {"generated": figure(made), "real": figure(real), "better": better, "what": meaning}


def _figures(
    lines: Mapping[str, Mapping[str, float | int | str | None]],
) -> dict[str, float | int | str | None]:
    return {
        f"{name}{suffix}": line[column]
        for name, line in lines.items()
        for suffix, column in (("", "generated"), (", real", "real"))
    }


def _found(rows: Mapping[str, Mapping[str, float | int | None]], bucket: str | None) -> float:
    value = None if bucket is None else rows[bucket]["found"]
    return float("nan") if value is None else float(value)


def _mask_rows(
    masks: Mapping[str, Reextracted],
) -> dict[str, dict[str, float | int | None]]:
    rows: dict[str, dict[str, float | int | None]] = {}
    made, real = masks["generated"], masks["real"]
    for label in sorted(made.by_class):
        ours, theirs = made.by_class[label], real.by_class.get(label, [])
        rows[label] = {
            "objects": len(ours),
            "fallbacks": sum(v == 0 for v in ours),
            "IoU": figure(float(np.mean(ours))),
            "IoU of real objects": figure(float(np.mean(theirs)) if theirs else float("nan")),
        }
    seen = [one.seen() for one in (made, real)]
    rows["without fallbacks"] = {
        "objects": len(seen[0]),
        "IoU": figure(float(seen[0].mean()) if len(seen[0]) else float("nan")),
        "IoU of real objects": figure(float(seen[1].mean()) if len(seen[1]) else float("nan")),
    }
    return rows


def _density_table(
    dense: Mapping[str, Mapping[str, Mapping[str, float | int | None]]],
) -> dict[str, dict[str, float | int | None]]:
    rows: dict[str, dict[str, float | int | None]] = {}
    for low, high in DENSITIES:
        label = f"{low}-{high} objects" if high < 10**9 else f"over {low - 1} objects"
        columns = {
            f"{column}, {name}": part[label][column]
            for name, part in dense.items()
            if label in part
            for column in ("images", "asked", "found")
        }
        if columns:
            rows[label] = columns
    return rows


def _notes(
    masks: Mapping[str, Reextracted], bucket: str | None, side: int, evaluation: Evaluation
) -> list[str]:
    notes = []
    if not len(masks["real"].ious):
        notes.append("masks of held real objects came from a backend: no ceiling for masks")
    if bucket is None:
        notes.append("generated and real images have no density in common: dense collapse unknown")
    if side < LEAST:
        notes.append(
            f"feature mismatch needs {LEAST} generated and {2 * LEAST} real images: not measured"
        )
    else:
        rough = few(side, len(evaluation.generated), len(evaluation.real))
        notes += [f"feature mismatch: {note}" for note in rough]
    return notes


CELL = FailuresCell()
