"""What a judge reaches on images it has not seen, in figures and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.detections import Detections
from rsgen.images import Pixels
from rsgen.judge.calibration import expected_error, reliability
from rsgen.judge.model import Judge
from rsgen.judge.network import ANSWERS
from rsgen.judge.objective import ask
from rsgen.judge.targets import objects_of
from rsgen.matching import (
    Asked,
    asked_of,
    coco_precision,
    match_objects,
    oriented_precision,
)
from rsgen.pictures import contact_sheet, draw_layout, write_figure
from rsgen.records import ClassTable, Sample
from rsgen.request import item_seed

__all__ = [
    "Seen",
    "count_rows",
    "judge_report",
    "look",
    "working_threshold",
    "write_pictures",
    "write_reliability",
]

DENSITIES = ((1, 5), (6, 20), (21, 100), (101, 10**9))
OVERLAP = 0.5
PICTURES = 24
MOST_NAMED = 8


@dataclass(frozen=True, eq=False)
class Seen:
    """One image: what was asked for, what was found with raw scores, and the questions' answers.

    logits: float64 [B, 5]. answers: int64 [B], the right ones.
    """

    sample: Sample
    asked: Asked
    found: Detections
    logits: npt.NDArray[np.float64]
    answers: npt.NDArray[np.int64]


def look(
    judge: Judge,
    samples: Iterable[Sample],
    read: Callable[[Sample], Pixels],
    classes: ClassTable,
    seed: int,
) -> list[Seen]:
    """Detections with raw scores, and answers to random questions, one image at a time."""
    names = [h.name for h in judge.card.habits]
    rows = []
    for sample in samples:
        image = read(sample)
        maps = judge.maps(image[None])
        height, width = image.shape[:2]
        rng = np.random.default_rng(item_seed(seed, "judge-questions", sample.id))
        questions = ask(objects_of(sample.layout, classes), width, height, len(names), rng)
        labels = [names[k] for k in questions.things]
        owner = [0] * len(labels)
        logits = judge.question_logits(maps, questions.boxes, owner, labels)
        known = ~np.isnan(logits[:, 0])
        found = judge.inside(judge.raw(maps)[0], width, height)
        asked = asked_of(sample.layout, classes)
        rows.append(Seen(sample, asked, found, logits[known], questions.answers[known]))
    return rows


def hits(seen: Sequence[Seen]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(raw score, whether it is right) of every detection; those of ignored objects left out."""
    scores, right = [], []
    for one in seen:
        good = np.zeros(len(one.found), dtype=bool)
        counted = np.ones(len(one.found), dtype=bool)
        for match in match_objects(one.found, one.asked, OVERLAP):
            good[match.found] = True
            counted[match.found] = not one.asked.ignored[match.asked]
        scores.append(one.found.scores[counted])
        right.append(good[counted])
    if not scores:
        return np.zeros(0), np.zeros(0, dtype=bool)
    return np.concatenate(scores), np.concatenate(right)


def working_threshold(seen: Sequence[Seen]) -> float:
    """The calibrated score above which detections count: the best F1 on these images."""
    scores, right = hits(seen)
    total = sum(int((~one.asked.ignored).sum()) for one in seen)
    if not right.any() or not total:
        return 0.5
    order = np.argsort(-scores, kind="stable")
    good = np.cumsum(right[order])
    f1 = 2 * good / (np.arange(1, len(good) + 1) + total)
    return float(np.clip(scores[order][int(f1.argmax())], 0.05, 0.95))


def count_rows(
    found: Sequence[Detections], asked: Sequence[Asked], threshold: float
) -> dict[str, dict[str, float]]:
    """By number of asked objects: images, mean found / asked, mean |found - asked| / asked."""
    rows: dict[str, dict[str, float]] = {}
    for low, high in DENSITIES:
        ratios = [
            float((ours.scores >= threshold).sum()) / len(theirs)
            for ours, theirs in zip(found, asked, strict=True)
            if low <= len(theirs) <= high
        ]
        if ratios:
            label = f"{low}-{high}" if high < 10**9 else f"over {low - 1}"
            rows[f"{label} objects"] = {
                "images": len(ratios),
                "found/asked": round(float(np.mean(ratios)), 4),
                "count error": round(float(np.mean(np.abs(np.array(ratios) - 1))), 4),
            }
    return rows


def judge_report(judge: Judge, seen: Sequence[Seen]) -> dict[str, Any]:
    """Precision, counts, recall and calibration on images that were not learned from."""
    names = [h.name for h in judge.card.habits]
    found = [replace(s.found, scores=judge.card.calibration.scores(s.found.scores)) for s in seen]
    asked = [s.asked for s in seen]
    coco = coco_precision(found, asked, names)
    oriented = oriented_precision(found, asked, names)
    scores, right = hits([replace(s, found=f) for s, f in zip(seen, found, strict=True)])
    bins = reliability(scores, right)
    threshold = judge.card.threshold
    recall = _recall(found, asked, names, threshold)
    counts = {name: sum(a.labels.count(name) for a in asked) for name in names}
    classes = {
        name: {
            "objects": counts[name],
            "AP50": _figure(coco.by_class[name]),
            "oriented AP50": _figure(oriented[name]),
            "recall": _figure(recall[name]),
        }
        for name in names
        if counts[name]
    }
    known = [v for v in oriented.values() if not np.isnan(v)]
    logits = np.concatenate([s.logits for s in seen]) if seen else np.zeros((0, len(ANSWERS)))
    answers = np.concatenate([s.answers for s in seen]) if seen else np.zeros(0, np.int64)
    return {
        "images": len(seen),
        "objects": sum(counts.values()),
        "figures": {
            "AP50": _figure(coco.ap50),
            "AP50-95": _figure(coco.ap),
            "oriented AP50": _figure(float(np.mean(known)) if known else float("nan")),
            "questions right": _figure(_share(logits.argmax(axis=1) == answers)),
            "calibration error": _figure(expected_error(bins)),
        },
        "classes": classes,
        "counts": count_rows(found, asked, threshold),
        "answers": _answers(logits, answers),
        "reliability": bins,
        "threshold": _figure(threshold),
    }


def _figure(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _share(right: npt.NDArray[np.bool_]) -> float:
    return float(right.mean()) if right.size else float("nan")


def _recall(
    found: Sequence[Detections], asked: Sequence[Asked], names: Sequence[str], threshold: float
) -> dict[str, float]:
    total, taken = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for ours, theirs in zip(found, asked, strict=True):
        for label, ignored in zip(theirs.labels, theirs.ignored, strict=True):
            total[label] += not ignored
        for match in match_objects(ours.above(threshold), theirs, OVERLAP):
            if not theirs.ignored[match.asked]:
                taken[theirs.labels[match.asked]] += 1
    return {n: taken[n] / total[n] if total[n] else float("nan") for n in names}


def _answers(
    logits: npt.NDArray[np.float64], answers: npt.NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """By right answer: how many were asked, and the share that was answered so."""
    rows: dict[str, dict[str, float]] = {}
    given = logits.argmax(axis=1)
    for k, name in enumerate(ANSWERS):
        inside = answers == k
        if inside.any():
            share = float((given[inside] == k).mean())
            rows[name] = {"asked": int(inside.sum()), "right": round(share, 4)}
    return rows


def write_pictures(
    judge: Judge, seen: Sequence[Seen], read: Callable[[Sample], Pixels], path: Path
) -> Path:
    """Labels beside detections, the images with the worst counts first."""
    threshold = judge.card.threshold

    def badness(one: Seen) -> float:
        raw = judge.card.calibration.scores(one.found.scores)
        kept = one.found.chosen(raw >= threshold)
        right = len(match_objects(kept, one.asked, OVERLAP))
        return -(len(one.asked) + len(kept) - 2 * right) / (1 + len(one.asked))

    tiles, titles = [], []
    for one in sorted(seen, key=badness)[:PICTURES]:
        image = read(one.sample)
        scores = judge.card.calibration.scores(one.found.scores)
        kept = replace(one.found, scores=scores).above(threshold)
        layout = replace(one.sample.layout, instances=kept.instances())
        # names would cover the objects of a crowd: colours tell its classes
        named = max(len(one.asked), len(kept)) <= MOST_NAMED
        asked = draw_layout(image, one.sample.layout, masks=False, labels=named)
        tiles += [asked, draw_layout(image, layout, labels=named)]
        titles += [f"{len(one.asked)} asked: {one.sample.id}"[:40], f"{len(kept)} found"]
    return contact_sheet(tiles, path, titles=titles, columns=6)


def write_reliability(bins: Sequence[dict[str, float]], path: Path, title: str) -> Path:
    """The reliability diagram as a PNG; same input, same bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), dpi=100)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    scores, right = [b["score"] for b in bins], [b["right"] for b in bins]
    axes.plot(scores, right, marker="o", color="#1f4e8c")
    for row in bins:
        axes.annotate(
            f"{row['count']:.0f}", (row["score"], row["right"]), fontsize=7,
            textcoords="offset points", xytext=(4, -8),
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is right", title=title)
    axes.grid(alpha=0.3)
    return write_figure(figure, path)
