"""Are the asked objects there? The judge's detections against the labels that were the input.

Source: YOLOScore of OF-Diff (ICLR 2026), section 5: average precision of a detector trained on
real images, on generated ones against their layout. Differs in: judge B in place of a
YOLO, every detection counts, oriented precision beside it, and the same judge's precision on
held real images as the ceiling. Pinned:

- AP, AP50 and AP75 by pycocotools on upright boxes, maxDets the largest number of objects or
  detections in an image; sizes are COCO's (32 and 96 px squared, of the upright box);
- oriented AP50 by IoU of polygons, VOC12 (area) and VOC07 (11 points), mean of classes;
- found is a detection over the judge's own threshold at IoU 0.5; poses are medians over pairs of a
  class at polygon IoU 0.3, axes where labels tell them (poses.py);
- difficult objects are ignored, crowds too and what lies in them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsgen.detections import Detections
from rsgen.evaluation.base import CellResult, Evaluation, Images, figure
from rsgen.evaluation.poses import pose_errors, upright_labels, upright_notes
from rsgen.judge.calibration import reliability
from rsgen.judge.report import Seen, count_rows, hits
from rsgen.matching import (
    Asked,
    CocoPrecision,
    asked_of,
    coco_precision,
    match_objects,
    oriented_precision,
)
from rsgen.pictures import contact_sheet, draw_layout
from rsgen.records import ClassTable

__all__ = [
    "CELL",
    "LayoutCell",
    "Measured",
    "detect_all",
    "known_objects",
    "measure",
]

OVERLAP = 0.5
DENSITIES = ((1, 5), (6, 20), (21, 100), (101, 10**9))
PICTURES = 12
WEAK = 0.5  # AP50 on held real images under which a detector's figures are doubtful
TILE_PX = 256  # smaller images are enlarged by a whole factor
Rows = dict[str, dict[str, float | int | None]]


def detect_all(images: Images, evaluation: Evaluation) -> list[Detections]:
    """The detector's findings in each image."""
    found = []
    for pixels in images.pixels():
        found += evaluation.detector.detect(pixels[None])
        evaluation.check_stop()
    return found


@dataclass(frozen=True)
class Measured:
    """A set's figures: precision in COCO's and VOC's forms, recall, false objects, poses."""

    coco: CocoPrecision
    voc07: float
    voc12: float
    by_class: dict[str, float]
    recognised: float
    right_place: float
    extra: float
    count_error: float
    poses: dict[str, float]


def measure(
    found: Sequence[Detections],
    asked: Sequence[Asked],
    names: Sequence[str],
    threshold: float,
    upright: Collection[str] | None = None,
) -> Measured:
    """Everything but pictures; `upright` as of `pose_errors`.

    recognised: share of asked objects with a detection of their class at IoU 0.5 and at least
    `threshold`. right_place: the same, whatever its class. extra: detections above the
    threshold without an object, an asked object. count_error: mean over images with objects of
    |found - asked| / asked. Difficult objects and crowds, and what is found of them, count in
    none of these.
    """
    sure = [d.above(threshold) for d in found]
    total = sum(a.counted for a in asked)
    named = _taken(sure, asked, any_class=False)
    placed = _taken(sure, asked, any_class=True)
    counts = [_counts(d, a) for d, a in zip(sure, asked, strict=True)]
    extra = sum(count - matched for count, matched in counts)
    ratios = [
        abs(count - a.counted) / a.counted
        for (count, _), a in zip(counts, asked, strict=True)
        if a.counted
    ]
    oriented = oriented_precision(found, asked, names)
    points = oriented_precision(found, asked, names, form="voc07")
    return Measured(
        coco_precision(found, asked, names),
        _mean(points.values()),
        _mean(oriented.values()),
        oriented,
        named / total if total else math.nan,
        placed / total if total else math.nan,
        extra / total if total else math.nan,
        float(np.mean(ratios)) if ratios else math.nan,
        pose_errors(sure, asked, upright),
    )


def _counts(found: Detections, asked: Asked) -> tuple[int, int]:
    """(detections, those with an object of any class); what is found of ignored ones left out."""
    matches = match_objects(found, asked, OVERLAP, any_class=True)
    ignored = sum(bool(asked.ignored[m.asked]) for m in matches)
    return len(found) - ignored, len(matches) - ignored


def _taken(found: Sequence[Detections], asked: Sequence[Asked], *, any_class: bool) -> int:
    return sum(
        not truth.ignored[match.asked]
        for ours, truth in zip(found, asked, strict=True)
        for match in match_objects(ours, truth, OVERLAP, any_class=any_class)
    )


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


class LayoutCell:
    """Layout fidelity, beside the ceiling of held real images."""

    name = "layout"
    title = "layout: are the asked objects there"

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        names = list(evaluation.visible.names)
        threshold = evaluation.threshold
        sets = {}
        for images in (evaluation.generated, evaluation.real):
            asked = [known_objects(asked_of(s.layout, evaluation.classes), evaluation.visible)
                     for s in images.samples]  # fmt: skip
            sets[images.name] = (detect_all(images, evaluation), asked)
        labels = {name: asked for name, (_, asked) in sets.items()}
        upright = {name: upright_labels(asked) for name, asked in labels.items()}
        # of the real ones too: the judge has learned its angles from such labels
        no_axis = {"real": upright["real"], "generated": frozenset().union(*upright.values())}
        measured = {
            name: measure(found, asked, names, threshold, no_axis[name])
            for name, (found, asked) in sets.items()
        }
        made, real = measured["generated"], measured["real"]
        found, asked = sets["generated"]
        pictures = _pictures(evaluation, found, asked, folder)
        return CellResult(
            figures={
                "AP50": figure(made.coco.ap50),
                "AP50 of held real images": figure(real.coco.ap50),
                "ratio to real": figure(
                    made.coco.ap50 / real.coco.ap50 if real.coco.ap50 else math.nan
                ),
                "recognised in the right class": figure(made.recognised),
                "recognised, held real images": figure(real.recognised),
                "extra objects, an asked one": figure(made.extra),
                "count error": figure(made.count_error),
                **{key: figure(value) for key, value in made.poses.items()},
            },
            tables={
                "precision": {k: _precision_row(m) for k, m in measured.items()},
                "by class (AP50, oriented AP50)": _class_rows(made, real, names, asked),
                "by density, generated": {
                    k: dict(v) for k, v in count_rows(found, asked, threshold).items()
                },
                "by density, held real images": {
                    k: dict(v) for k, v in count_rows(*sets["real"], threshold).items()
                },
                "by density, precision": _both(
                    _density_rows(found, asked, names), _density_rows(*sets["real"], names)
                ),
                "poses": {
                    k: {n: figure(v) for n, v in m.poses.items()} for k, m in measured.items()
                },
                **{
                    f"the judge's scores, {images.name} images": _score_rows(
                        images, *sets[images.name]
                    )
                    for images in (evaluation.generated, evaluation.real)
                },
            },
            counts={
                "generated images": len(evaluation.generated),
                "generated objects": sum(len(a) for a in asked),
                "real images": len(evaluation.real),
                "real objects": sum(len(a) for a in sets["real"][1]),
                "most detections counted in an image": made.coco.most_detections,
            },
            notes=(*_weak(real.coco.ap50), *upright_notes(labels), *_notes(evaluation, names)),
            pictures=pictures,
        )


def known_objects(asked: Asked, classes: ClassTable) -> Asked:
    """The objects under the judge's names; those that it does not know are left out."""
    entries = [classes.find(label) for label in asked.labels]
    keep = [k for k, entry in enumerate(entries) if entry is not None and entry.kind == "thing"]
    names = tuple(entries[k].name for k in keep)  # type: ignore[union-attr]
    return replace(asked.chosen(keep), labels=names)


def _weak(reached: float) -> tuple[str, ...]:
    """What is said of a detector that misses real objects too."""
    if math.isnan(reached) or reached >= WEAK:
        return ()
    return (
        f"the judge reaches AP50 {reached:.3g} on held real images: it sees too little to say "
        "much; compare with that, not with 1, or train it longer",
    )


def _notes(evaluation: Evaluation, names: Sequence[str]) -> tuple[str, ...]:
    unknown = sorted(
        {
            i.label
            for s in evaluation.generated.samples
            for i in s.layout.instances
            if not evaluation.classes.is_stuff(i.label) and evaluation.visible.find(i.label) is None
        }
    )
    if not unknown:
        return ()
    return (f"the judge knows {', '.join(names)}; not measured: {', '.join(unknown)}",)


def _precision_row(one: Measured) -> dict[str, float | None]:
    return {
        "AP": figure(one.coco.ap),
        "AP50": figure(one.coco.ap50),
        "AP75": figure(one.coco.ap75),
        "oriented AP50 (VOC12)": figure(one.voc12),
        "oriented AP50 (VOC07)": figure(one.voc07),
        **{f"AP50 {size}": figure(value) for size, value in one.coco.by_size.items()},
        "recognised": figure(one.recognised),
        "in place, any class": figure(one.right_place),
    }


def _class_rows(
    made: Measured, real: Measured, names: Sequence[str], asked: Sequence[Asked]
) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {
            "objects": sum(a.labels.count(name) for a in asked),
            "AP50": figure(made.coco.by_class[name]),
            "oriented AP50": figure(made.by_class[name]),
            "AP50 of held real": figure(real.coco.by_class[name]),
        }
        for name in names
    }


def _density_rows(
    found: Sequence[Detections], asked: Sequence[Asked], names: Sequence[str]
) -> dict[str, dict[str, float | int | None]]:
    rows: dict[str, dict[str, float | int | None]] = {}
    for low, high in DENSITIES:
        chosen = [k for k, a in enumerate(asked) if low <= len(a) <= high]
        if chosen:
            label = f"{low}-{high} objects" if high < 10**9 else f"over {low - 1} objects"
            part = coco_precision([found[k] for k in chosen], [asked[k] for k in chosen], names)
            rows[label] = {"images": len(chosen), "AP50": figure(part.ap50)}
    return rows


def _both(made: Rows, real: Rows) -> Rows:
    """Columns of held real images beside those of generated ones."""
    return {
        label: made.get(label, {})
        | {f"{column}, held real": value for column, value in real.get(label, {}).items()}
        for label in {**made, **real}
    }


def _score_rows(
    images: Images, found: Sequence[Detections], asked: Sequence[Asked]
) -> dict[str, dict[str, float | int | None]]:
    """The share of detections that are right, by score: 0.8 should be right 8 times of 10."""
    logits, answers = np.zeros((0, 0)), np.zeros(0, dtype=np.int64)
    rows = zip(images.samples, asked, found, strict=True)
    scores, right = hits([Seen(sample, a, d, logits, answers) for sample, a, d in rows])
    return {
        f"about {row['score']:.2f}": {
            "score": figure(row["score"]),
            "right": figure(row["right"]),
            "count": int(row["count"]),
        }
        for row in reliability(scores, right)
    }


def _pictures(
    evaluation: Evaluation, found: Sequence[Detections], asked: Sequence[Asked], folder: Path
) -> dict[str, str]:
    """Best and worst images: the asked layout beside what the judge saw."""
    threshold = evaluation.threshold

    def wrong(k: int) -> float:
        sure = found[k].above(threshold)
        matches = match_objects(sure, asked[k], OVERLAP)
        ignored = sum(bool(asked[k].ignored[m.asked]) for m in matches)
        right = len(matches) - ignored
        return (asked[k].counted + len(sure) - ignored - 2 * right) / (1 + asked[k].counted)

    with_objects = [k for k, a in enumerate(asked) if len(a)]
    order = sorted(with_objects, key=wrong)
    made = {}
    for title, chosen in (("worst", order[::-1][:PICTURES]), ("best", order[:PICTURES])):
        tiles, titles = [], []
        for k in chosen:
            sample = evaluation.generated.samples[k]
            image = evaluation.generated.read(sample)
            sure = found[k].above(threshold)
            boxes = replace(sample.layout, instances=sure.instances())
            scale = max(1, TILE_PX // image.shape[1])
            tiles += [draw_layout(image, layout, masks=False, scale=scale)
                      for layout in (sample.layout, boxes)]  # fmt: skip
            titles += [f"asked: {len(asked[k])}", f"seen: {len(sure)}"]
        contact_sheet(tiles, folder / f"{title}.png", titles=titles, columns=6)
        made[f"{title}: asked beside seen"] = f"{title}.png"
    return made


CELL = LayoutCell()
