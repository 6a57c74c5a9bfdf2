"""Detections against labels: overlaps, matches, and average precision in its usual forms."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

from rsgen.detections import Detections
from rsgen.geometry import as_array, box_quad
from rsgen.records import ClassTable, Layout

__all__ = [
    "Asked",
    "CocoPrecision",
    "Match",
    "asked_of",
    "coco_precision",
    "crowd_shares",
    "iou_matrix",
    "iou_of_pairs",
    "match_objects",
    "oriented_precision",
]

Floats = npt.NDArray[np.float64]
Shapes = npt.NDArray[np.object_]
SIZES = ("small", "medium", "large")  # COCO's: areas under 32^2, under 96^2, above


@dataclass(frozen=True, eq=False)
class Asked:
    """The things of a layout as they should be found.

    quads: float64 [m, 4, 2], of an upright box its corners. labels: class names. ignored:
    bool [m], difficult objects and crowds: neither a hit nor a miss. headings: float64 [m]
    radians, NaN where unknown. crowd: bool [m], which of the ignored ones are regions of many
    objects; any number of detections may lie in one. None: none of them.
    """

    quads: Floats
    labels: tuple[str, ...]
    ignored: npt.NDArray[np.bool_]
    headings: Floats
    width: int
    height: int
    crowd: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def crowds(self) -> npt.NDArray[np.bool_]:
        """bool [m]."""
        return np.zeros(len(self), dtype=bool) if self.crowd is None else self.crowd

    @property
    def counted(self) -> int:
        """How many are to be found."""
        return int((~self.ignored).sum())

    def chosen(self, places: Sequence[int]) -> Asked:
        """Some of them, by position."""
        index = np.asarray(places, dtype=np.intp)
        return Asked(
            self.quads[index],
            tuple(self.labels[k] for k in index),
            self.ignored[index],
            self.headings[index],
            self.width,
            self.height,
            self.crowds[index],
        )


def asked_of(layout: Layout, classes: ClassTable) -> Asked:
    """The things of a layout; stuff and what has no outline are left out."""
    quads, labels, ignored, headings, crowds = [], [], [], [], []
    for instance in layout.instances:
        box = instance.bounds()
        if box is None or classes.is_stuff(instance.label):
            continue
        quads.append(as_array(instance.quad or box_quad(box)))
        labels.append(classes.resolve(instance.label).name)
        ignored.append(instance.difficult or instance.iscrowd)
        crowds.append(instance.iscrowd)
        headings.append(np.nan if instance.heading_rad is None else instance.heading_rad)
    return Asked(
        np.array(quads, dtype=np.float64).reshape(-1, 4, 2),
        tuple(labels),
        np.array(ignored, dtype=bool),
        np.array(headings, dtype=np.float64),
        layout.width,
        layout.height,
        np.array(crowds, dtype=bool),
    )


def iou_matrix(ours: Floats, theirs: Floats) -> Floats:
    """Intersection over union of quads [n, 4, 2] and [m, 4, 2] as polygons, float64 [n, m]."""
    matrix = np.zeros((len(ours), len(theirs)))
    if matrix.size == 0:
        return matrix
    first, second = shapely.polygons(ours), shapely.polygons(theirs)
    left, right = shapely.STRtree(second).query(first, predicate="intersects")
    matrix[left, right] = iou_of_pairs(first[left], second[right])
    return matrix


def iou_of_pairs(ours: Shapes, theirs: Shapes) -> Floats:
    """Area shared / area covered of two lists of polygons, pair by pair; 0 for no area."""
    common = shapely.area(shapely.intersection(ours, theirs))
    union = shapely.area(ours) + shapely.area(theirs) - common
    shared: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shared


def crowd_shares(found: Detections, asked: Asked) -> Floats:
    """Share of each detection's area that lies in each crowd, float64 [n, m]; 0 for others.

    Source: COCO's evaluation, where a crowd stands for objects that nobody has told apart.
    """
    shares = np.zeros((len(found), len(asked)))
    columns = np.flatnonzero(asked.crowds)
    if not len(found) or not len(columns):
        return shares
    ours, theirs = shapely.polygons(found.quads), shapely.polygons(asked.quads[columns])
    common = shapely.area(shapely.intersection(ours[:, None], theirs[None]))
    area = shapely.area(ours)[:, None]
    shares[:, columns] = np.divide(common, area, out=np.zeros_like(common), where=area > 0)
    return shares


@dataclass(frozen=True)
class Match:
    """A detection and the asked object that it took; positions in their lists.

    iou: with a crowd, the share of the detection that lies in it.
    """

    found: int
    asked: int
    iou: float


def match_objects(
    found: Detections, asked: Asked, threshold: float = 0.5, *, any_class: bool = False
) -> list[Match]:
    """Pairs, best detection first: each takes its most overlapping free object of its class.

    An object that is not ignored is taken before one that is; a crowd takes all that lie in it
    with a share of `threshold` and have no other object. `any_class` lets classes differ.
    """
    crowds = asked.crowds
    overlaps = np.where(crowds, crowd_shares(found, asked), iou_matrix(found.quads, asked.quads))
    free = np.ones(len(asked), dtype=bool)
    names = np.array(asked.labels, dtype=object)
    pairs = []
    for k in np.argsort(-found.scores, kind="stable").tolist():
        fits = free & (overlaps[k] >= threshold)
        if not any_class:
            fits &= names == found.labels[k]
        if not fits.any():
            continue
        wanted = fits & ~asked.ignored
        choice = np.where(wanted if wanted.any() else fits, overlaps[k], -1.0)
        best = int(choice.argmax())
        free[best] = bool(crowds[best])
        pairs.append(Match(k, best, float(overlaps[k, best])))
    return pairs


def oriented_precision(
    found: Sequence[Detections],
    asked: Sequence[Asked],
    names: Sequence[str],
    threshold: float = 0.5,
    form: Literal["voc07", "voc12"] = "voc12",
) -> dict[str, float]:
    """Average precision of each class by polygon IoU; NaN for a class that is not asked for.

    Source: Everingham et al. 2010, "The PASCAL VOC Challenge", section 4.2 (voc07: mean of
    precision at recall 0, 0.1 .. 1; voc12: area under the monotone curve). A detection takes
    its most overlapping object; that object taken already, it is a false one. Overlap of at
    least the threshold counts, as in COCO (VOC's tool asks for more than it). Difficult objects
    are ignored as in VOC, crowds as in COCO: a detection without an object that lies in one
    with a share of `threshold` counts as nothing.
    """
    result = {}
    for name in names:
        scores: list[Floats] = []
        hits: list[npt.NDArray[np.float64]] = []
        total = 0
        for ours, theirs in zip(found, asked, strict=True):
            mine = [k for k, label in enumerate(ours.labels) if label == name]
            wanted = [k for k, label in enumerate(theirs.labels) if label == name]
            total += int((~theirs.ignored[wanted]).sum())
            if not mine:
                continue
            some = ours.chosen(mine)
            scores.append(some.scores)
            hits.append(_voc_hits(some, theirs.chosen(wanted), threshold))
        result[name] = _average_precision(scores, hits, total, form)
    return result


def _voc_hits(found: Detections, asked: Asked, threshold: float) -> npt.NDArray[np.float64]:
    """1 a hit, 0 a false one, NaN a detection of an ignored object; in the given order."""
    hits = np.zeros(len(found))
    if not len(asked):
        return hits
    overlaps = np.where(asked.crowds, -1.0, iou_matrix(found.quads, asked.quads))
    crowded = crowd_shares(found, asked).max(axis=1) >= threshold
    taken = np.zeros(len(asked), dtype=bool)
    for k in np.argsort(-found.scores, kind="stable").tolist():
        best = int(overlaps[k].argmax())
        near = overlaps[k, best] >= threshold
        if near and asked.ignored[best]:
            hits[k] = np.nan
        elif near and not taken[best]:
            taken[best] = True
            hits[k] = 1.0
        elif crowded[k]:
            hits[k] = np.nan
    return hits


def _average_precision(
    scores: Sequence[Floats], hits: Sequence[Floats], total: int, form: str
) -> float:
    if total == 0:
        return float("nan")
    if not scores:
        return 0.0
    every, right = np.concatenate(scores), np.concatenate(hits)
    every, right = every[~np.isnan(right)], right[~np.isnan(right)]
    right = right[np.argsort(-every, kind="stable")]
    good = np.cumsum(right)
    recall = good / total
    precision = good / np.arange(1, len(right) + 1)
    if form == "voc07":
        points = np.linspace(0, 1, 11)
        best = [precision[recall >= p - 1e-12].max(initial=0.0) for p in points]
        return float(np.mean(best))
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((steps * falling).sum())


@dataclass(frozen=True)
class CocoPrecision:
    """COCO's figures for upright boxes; NaN where nothing is asked for.

    ap: mean over IoU 0.5 to 0.95. by_class, by_size: AP50 of each.
    """

    ap: float
    ap50: float
    ap75: float
    by_class: Mapping[str, float]
    by_size: Mapping[str, float]
    most_detections: int


def coco_precision(
    found: Sequence[Detections], asked: Sequence[Asked], names: Sequence[str]
) -> CocoPrecision:
    """pycocotools' evaluation of the upright boxes around quads.

    Every detection counts (maxDets is the largest number in an image): with COCO's limit of
    100 a perfect answer to a dense scene could not reach 1. Difficult objects are ignored by
    IoU; as crowds, which is all that pycocotools reads from a file, they would also forgive any
    box within them.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Evaluator(COCOeval):  # type: ignore[misc, unused-ignore]
        def _prepare(self) -> None:
            super()._prepare()
            for rows in self._gts.values():
                for row in rows:
                    row["ignore"] = int(row["ignore"] or row["difficult"])

    number = {name: k for k, name in enumerate(names, start=1)}
    truth = _coco_truth(asked, number)
    answers = _coco_answers(found, number)
    most = max([1, *(len(d) for d in found), *(len(a) for a in asked)])
    if not truth["annotations"] or not answers:
        nothing = 0.0 if truth["annotations"] else float("nan")
        asked_names = {label for a in asked for label in a.labels}
        by_class = {n: 0.0 if n in asked_names else float("nan") for n in names}
        sizes = dict.fromkeys(SIZES, nothing)
        return CocoPrecision(nothing, nothing, nothing, by_class, sizes, most)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        run = Evaluator(reference, reference.loadRes(answers), "bbox")
        run.params.maxDets = [most]
        run.evaluate()
        run.accumulate()
    # [IoU threshold, recall, class, area range, maxDets]; -1 where nothing is asked for
    precision = np.where(run.eval["precision"] < 0, np.nan, run.eval["precision"])[..., 0]
    half = precision[0]
    return CocoPrecision(
        _mean(precision[:, :, :, 0]),
        _mean(half[:, :, 0]),
        _mean(precision[5][:, :, 0]),
        {name: _mean(half[:, k, 0]) for k, name in enumerate(names)},
        {size: _mean(half[:, :, k]) for k, size in enumerate(SIZES, start=1)},
        most,
    )


def _mean(values: Floats) -> float:
    """The mean of what is asked for; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _upright(quads: Floats) -> Floats:
    """x, y, width and height, float64 [n, 4]."""
    low, high = quads.min(axis=1), quads.max(axis=1)
    return np.concatenate([low, high - low], axis=1)


def _coco_truth(asked: Sequence[Asked], number: Mapping[str, int]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, one in enumerate(asked, start=1):
        boxes = _upright(one.quads) if len(one) else np.zeros((0, 4))
        rows = zip(boxes, one.labels, one.ignored, one.crowds, strict=True)
        for box, label, ignored, crowd in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # an id of 0 reads as "not matched"
                    "image_id": image,
                    "category_id": number[label],
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(crowd),
                    "difficult": int(ignored and not crowd),
                }
            )
    images = [
        {"id": k, "width": one.width, "height": one.height} for k, one in enumerate(asked, start=1)
    ]
    categories = [{"id": k, "name": name} for name, k in number.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco_answers(found: Sequence[Detections], number: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = []
    for image, one in enumerate(found, start=1):
        boxes = _upright(one.quads) if len(one) else np.zeros((0, 4))
        for box, label, score in zip(boxes, one.labels, one.scores, strict=True):
            if label in number:
                rows.append(
                    {
                        "image_id": image,
                        "category_id": number[label],
                        "bbox": box.tolist(),
                        "score": float(score),
                    }
                )
    return rows
