"""Loose labels made tight by a detector of transformers that is asked for the class by name.

The labels are known, so a detector (Grounding DINO, OWL-ViT, DETR ...) is not asked what is
there but how large it is: a box that was drawn with a wide margin prompts SAM badly. Windows
around the labels are searched (`crops`). A detection of a label's class takes part where most
of it lies in the label and it covers a fair part of the label; pairs are made one to one, by
the largest sum of IoU. An upright box is tightened to the part of its detection inside it, for
the prompt alone: the label itself stays. An oriented label is tight by its quad: what is found
there is only counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from rsgen.detections import Detections
from rsgen.extraction.base import Pixels
from rsgen.extraction.crops import Crop, plan_crops
from rsgen.extraction.patch import Frame, frame_of_label
from rsgen.geometry import Box
from rsgen.records import ClassTable, Instance

__all__ = ["Detector", "Grounding", "Seen", "match_boxes"]

LEAST_SCORE = 0.1
MIN_INSIDE = 0.75  # share of a detection that lies in the label
MIN_SHARE = 0.2  # share of the label that it covers


class Detector(Protocol):
    """`PretrainedDetector`, or anything that finds boxes."""

    @property
    def input_side(self) -> int: ...

    def detect(self, images: Pixels) -> list[Detections]: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What the detector says of one label: its certainty, and the frame to prompt with."""

    score: float
    frame: Frame


@dataclass(frozen=True)
class Grounding:
    """A detector and how large objects are shown to it (`extract_masks.object_px`)."""

    detector: Detector
    object_px: int

    def look(
        self,
        image: Pixels,
        known: Sequence[Instance],
        frames: Mapping[int, Frame],
        labels: ClassTable,
    ) -> dict[int, Seen]:
        """What is found of the labels `frames` (by their number in `known`).

        image: uint8 [H, W, 3]; coordinates are its pixels.
        """
        height, width = image.shape[:2]
        numbers = list(frames)
        boxes = [_inside(known[k], width, height) for k in numbers]
        found: dict[int, Seen] = {}
        side = self.detector.input_side
        for crop in plan_crops(boxes, width, height, side, self.object_px):
            window = image[crop.y0 : crop.y0 + crop.height, crop.x0 : crop.x0 + crop.width]
            (made,) = self.detector.detect(np.ascontiguousarray(window)[None])
            members = [(numbers[m], boxes[m]) for m in crop.members]
            for k, box, score in self._matched(
                made.above(LEAST_SCORE), crop, members, known, labels
            ):
                found[k] = Seen(score, self._tight(known[k], box, frames[k], (width, height)))
        return found

    @staticmethod
    def _matched(
        made: Detections,
        crop: Crop,
        members: Sequence[tuple[int, Box]],
        known: Sequence[Instance],
        labels: ClassTable,
    ) -> list[tuple[int, Box, float]]:
        """(label, detection in image pixels, its score), class by class."""
        result = []
        names = [labels.resolve(known[k].label).name for k, _ in members]
        for name in dict.fromkeys(names):
            own = [member for member, n in zip(members, names, strict=True) if n == name]
            theirs = [k for k, label in enumerate(made.labels) if label == name]
            boxes = [_moved(made.box(k), crop) for k in theirs]
            for a, b in match_boxes([box for _, box in own], boxes):
                result.append((own[a][0], boxes[b], float(made.scores[theirs[b]])))
        return result

    @staticmethod
    def _tight(instance: Instance, box: Box, frame: Frame, image: tuple[int, int]) -> Frame:
        if instance.quad is not None:
            return frame
        label = _inside(instance, *image)
        smaller = replace(instance, box=_common(label, box))
        found = frame_of_label(smaller, *image)
        return frame if found is None else found[0]


def match_boxes(labels: Sequence[Box], detections: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs (label, detection) of one class, one to one, with the largest sum of IoU.

    Only detections that lie mostly in the label and cover a fair part of it.
    """
    if not labels or not detections:
        return []
    gain = np.zeros((len(labels), len(detections)))
    for a, label in enumerate(labels):
        for b, box in enumerate(detections):
            common = _common(label, box).area
            if common >= MIN_INSIDE * box.area and common >= MIN_SHARE * label.area > 0:
                gain[a, b] = common / (label.area + box.area - common)
    rows, columns = linear_sum_assignment(-gain)
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if gain[a, b] > 0]


def _inside(instance: Instance, width: int, height: int) -> Box:
    box = instance.bounds()
    assert box is not None, "a label with a frame has a box"
    return box.clip(width, height)


def _moved(box: Box, crop: Crop) -> Box:
    return Box(box.x0 + crop.x0, box.y0 + crop.y0, box.x1 + crop.x0, box.y1 + crop.y0)


def _common(a: Box, b: Box) -> Box:
    x0, y0 = max(a.x0, b.x0), max(a.y0, b.y0)
    return Box(x0, y0, max(x0, min(a.x1, b.x1)), max(y0, min(a.y1, b.y1)))
