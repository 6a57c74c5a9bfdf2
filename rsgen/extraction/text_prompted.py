"""Backend `worker`: masks by a program of the user's, prompted with class names and boxes.

A question is one JSON line, an image at a time:

    {"image": "/path/to.png", "width": 800, "height": 600, "classes": ["plane", "ship"],
     "objects": [{"label": "ship", "box": [x0, y0, x1, y1], "quad": [[x, y], ...]}, ...]}

`quad` (4 corners, its first edge the object's front) only where the label is oriented; pixels,
half-open edges. The answer is one JSON line:

    {"masks": [{"label": "ship", "score": 0.9, "rle": {"size": [600, 800], "counts": "..."}}]}

`rle` is COCO's run-length code at the image's size, compressed or a list of runs. A mask with
`"index": k` is that of `objects[k]` alone; one with a `"box"` is an object that the program has
found, and goes to the label of its class that it fits best; one with neither shows all there is
of its class, and is cut into instances (`semantic`). {"error": "text"} says that this image
cannot be looked at. What is empty, poor or missing is made by `classical`, and says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.errors import DataError
from rsgen.extraction.backends import BackendSetup
from rsgen.extraction.base import Pixels
from rsgen.extraction.semantic import Region, instances_from_regions, surround
from rsgen.formats.checks import check_rle
from rsgen.formats.dataset import Problem
from rsgen.geometry import Box, box_iou
from rsgen.images import write_png
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance
from rsgen.workers.process import Worker

__all__ = ["WorkerBackend"]

LEAST_IOU = 0.3  # of a found object's box and a label's
EXAMPLE = '{"masks": [{"label": NAME, "score": 0.9, "rle": {"size": [H, W], "counts": "..."}}]}'


@dataclass(frozen=True, slots=True)
class _Row:
    """One mask of an answer. `mask` None: empty; `number`: of the object in the question."""

    label: str
    mask: Mask | None
    score: float
    number: int | None
    box: Box | None


class WorkerBackend:
    """Every thing without a mask gets one, given masks and stuff stay."""

    name = "worker"
    runs_command = True
    instead = "classical"  # for an image that the program has no usable answer for

    def __init__(self, command: str, time_limit_s: float = 300.0) -> None:
        self._worker = Worker(command, time_limit_s)

    @classmethod
    def open(cls, setup: BackendSetup) -> WorkerBackend:
        """The program starts with the first question.

        Raises:
            UsageError, SetupError: the command cannot be split, or names no program.
        """
        return cls(setup.settings.command or "", setup.settings.command_limit_s)

    def close(self) -> None:
        """End the program."""
        self._worker.close()

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """Masks for instances without one; scores as in `semantic`.

        Raises:
            DataError: the program died twice over this image, was silent for too long, or
            talks nonsense. SetupError: it cannot be started, or dies over every image.
        """
        height, width = image.shape[:2]
        asked = [
            k
            for k, i in enumerate(known)
            if i.mask is None
            and not labels.is_stuff(i.label)
            and surround(i, width, height) is not None
        ]
        objects = [known[k] for k in asked]
        rows = self._answer(image, objects, labels) if objects else []
        found = dict(zip(asked, _regions(objects, rows, (width, height)), strict=True))
        answered = {row.label for row in rows}
        doubts = {
            k: "no mask of the answer fits the label"
            for k in asked
            if found[k] is None and known[k].label in answered
        }
        regions = [found.get(k) for k in range(len(known))]
        return instances_from_regions(image, known, regions, labels, self.name, doubts)

    def _answer(self, image: Pixels, objects: Sequence[Instance], labels: ClassTable) -> list[_Row]:
        names = [n for n in labels.names if n in {o.label for o in objects}]
        with tempfile.TemporaryDirectory(prefix="rsgen-worker-") as folder:
            path = Path(folder) / "image.png"
            write_png(path, image)
            question = {
                "image": str(path),
                "width": image.shape[1],
                "height": image.shape[0],
                "classes": names,
                "objects": [_object(o) for o in objects],
            }
            answer = self._worker.ask(question)
        try:
            return _parsed(answer, objects, labels, (image.shape[1], image.shape[0]))
        except _Nonsense as error:
            raise DataError(
                f"worker {self._worker.name!r}: {error}",
                hint=f"answer with {EXAMPLE}; names: {', '.join(names)}",
            ) from error


class _Nonsense(Exception):
    """What is wrong with an answer."""


def _object(instance: Instance) -> dict[str, Any]:
    box = instance.bounds()
    assert box is not None, "only labels inside the image are asked for"
    row: dict[str, Any] = {"label": instance.label, "box": [box.x0, box.y0, box.x1, box.y1]}
    if instance.quad is not None:
        row["quad"] = [list(corner) for corner in instance.quad]
    return row


def _parsed(
    answer: Any, objects: Sequence[Instance], labels: ClassTable, image: tuple[int, int]
) -> list[_Row]:
    if isinstance(answer, Mapping) and "error" in answer:
        raise _Nonsense(str(answer["error"])[:500])
    rows = answer.get("masks") if isinstance(answer, Mapping) else None
    if not isinstance(rows, list):
        raise _Nonsense(f"no list of masks in {str(answer)[:120]!r}")
    found = []
    for k, row in enumerate(rows):
        try:
            found.append(_row(row, objects, labels, image))
        except _Nonsense as error:
            raise _Nonsense(f"mask {k} ({str(row)[:120]}) {error}") from error
    numbers = [row.number for row in found if row.number is not None]
    if len(set(numbers)) < len(numbers):
        raise _Nonsense(f"two masks for one object (index {numbers})")
    return found


def _row(row: Any, objects: Sequence[Instance], labels: ClassTable, image: tuple[int, int]) -> _Row:
    if not isinstance(row, Mapping):
        raise _Nonsense("is no object")
    entry = labels.find(str(row.get("label")))
    if entry is None or entry.name not in {o.label for o in objects}:
        raise _Nonsense("has a label that was not asked for")
    number, score = row.get("index"), row.get("score")
    if number is not None:
        if isinstance(number, bool) or not isinstance(number, int):
            raise _Nonsense("has an index that is no whole number")
        if not 0 <= number < len(objects):
            raise _Nonsense(f"has an index outside 0..{len(objects) - 1}")
        if objects[number].label != entry.name:
            raise _Nonsense(f"is of another class than object {number}, {objects[number].label}")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise _Nonsense("has no score from 0 to 1")
    if not isinstance(row.get("rle"), Mapping):
        raise _Nonsense("has no rle")
    return _Row(entry.name, _mask(row["rle"], image), float(score), number, _box(row.get("box")))


def _mask(rle: Mapping[str, Any], image: tuple[int, int]) -> Mask | None:
    try:
        return check_rle(rle, *image)
    except Problem as problem:
        if problem.name == "ZeroArea":
            return None
        raise _Nonsense(f"is not usable: {problem.message}; {problem.fix}") from problem


def _box(given: Any) -> Box | None:
    if given is None:
        return None
    try:
        values = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _Nonsense("has a box that is not [x0, y0, x1, y1]") from error
    if values.shape != (4,) or not np.isfinite(values).all() or (values[2:] <= values[:2]).any():
        raise _Nonsense("has a box that is not [x0, y0, x1, y1]")
    return Box(*map(float, values))


def _regions(
    objects: Sequence[Instance], rows: Sequence[_Row], image: tuple[int, int]
) -> list[Region | None]:
    """For each object the map of its own mask, else of its class, else None."""
    own = {row.number: row for row in rows if row.number is not None}
    free = [row for row in rows if row.number is None]
    own.update(_fitting(objects, [row for row in free if row.box is not None], own))
    maps = dict[str, Region]()
    for label in {row.label for row in free if row.box is None}:
        maps[label] = _class_map([r for r in free if r.box is None and r.label == label], image)
    return [
        _own_map(instance, own[k], image) if k in own else maps.get(instance.label)
        for k, instance in enumerate(objects)
    ]


def _fitting(
    objects: Sequence[Instance], rows: Sequence[_Row], taken: Collection[int]
) -> dict[int, _Row]:
    """Found objects for labels of their class, the best overlap of boxes first."""
    pairs = [
        (box_iou(box, row.box), k, n)
        for k, instance in enumerate(objects)
        for n, row in enumerate(rows)
        if k not in taken and row.label == instance.label
        if row.box is not None and (box := instance.bounds()) is not None
    ]
    chosen, used = dict[int, _Row](), set[int]()
    for iou, k, n in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        if iou >= LEAST_IOU and k not in chosen and n not in used:
            chosen[k] = rows[n]
            used.add(n)
    return chosen


def _class_map(rows: Sequence[_Row], image: tuple[int, int]) -> Region:
    """All masks of a class together; each pixel has the score of its best."""
    best = max(row.score for row in rows)
    values = np.zeros((image[1], image[0]), dtype=np.float32)
    for row in sorted(rows, key=lambda row: row.score):
        if row.mask is not None:
            row.mask.paint(values, row.score / best if best else 0.0)
    return Region(values, certainty=best)


def _own_map(instance: Instance, row: _Row, image: tuple[int, int]) -> Region | None:
    area = surround(instance, *image)
    if area is None:
        return None
    x0, y0, x1, y1 = area
    values = np.zeros((y1 - y0, x1 - x0), dtype=np.float32)
    if row.mask is not None:
        row.mask.shift(-x0, -y0).paint(values, 1.0)
    return Region(values, x0, y0, certainty=row.score, alone=True)
