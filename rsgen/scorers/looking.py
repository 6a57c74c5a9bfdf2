"""Who looks, and at what: a detector with its last answers, and the objects it is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rsgen.detections import Detections, Detector
from rsgen.geometry import as_array, box_quad
from rsgen.images import Pixels
from rsgen.judge.eyes import EyesRef
from rsgen.matching import Asked
from rsgen.records import ClassTable, Instance, Layout
from rsgen.scorers.base import is_thing

if TYPE_CHECKING:
    from rsgen.judge.network import Maps

__all__ = ["Eyes", "asked_things", "open_eyes", "other_outlines"]


class Eyes:
    """A detector with its answers to the last batch: rules of one run ask the same of it."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        things = frozenset(c.name for c in detector.classes.classes if c.kind == "thing")
        self.known: frozenset[str] = getattr(detector, "known", things)
        self._last: tuple[bytes, list[Detections], Maps | None] | None = None

    def look(self, images: Pixels) -> tuple[list[Detections], Maps | None]:
        """Detections of each image, and a judge's maps of them."""
        key = blake2b(repr(images.shape).encode() + images.tobytes(), digest_size=16).digest()
        if self._last is None or self._last[0] != key:
            from rsgen.judge.model import Judge

            if isinstance(self.detector, Judge):
                maps = self.detector.maps(images)
                self._last = (key, self.detector.detect_in(maps, images.shape[1:3]), maps)
            else:
                self._last = (key, self.detector.detect(images), None)
        return self._last[1], self._last[2]


@lru_cache(maxsize=4)
def open_eyes(
    reference: EyesRef, classes: ClassTable | None, device: str, time_limit_s: float
) -> Eyes:
    """The detector for rewards and filters; opened once a process."""
    return Eyes(reference.open(classes, "reward", device, time_limit_s))


def asked_things(layout: Layout, eyes: Eyes) -> tuple[list[int], Asked]:
    """Positions of the objects that the detector can be asked about, and what is asked."""
    places, quads, labels = list[int](), [], []
    for k, instance in enumerate(layout.instances):
        entry = eyes.detector.classes.find(instance.label)
        corners = _corners(instance)
        if entry is None or entry.name not in eyes.known or corners is None:
            continue
        x, y = corners.mean(axis=0)
        if 0 <= x < layout.width and 0 <= y < layout.height:
            places.append(k)
            quads.append(corners)
            labels.append(entry.name)
    count = len(places)
    every = np.array(quads, dtype=np.float64).reshape(-1, 4, 2)
    none, unknown = np.zeros(count, dtype=bool), np.full(count, np.nan)
    asked = Asked(every, tuple(labels), none, unknown, layout.width, layout.height)
    return places, asked


def _corners(instance: Instance) -> npt.NDArray[np.float64] | None:
    """[4, 2] of a thing with an area; None for stuff and crowds."""
    box = instance.bounds()
    if not is_thing(instance) or box is None or not box.area > 0:
        return None
    corners = as_array(instance.quad or box_quad(box))
    return corners if np.isfinite(corners).all() else None


def other_outlines(layout: Layout, places: Sequence[int]) -> npt.NDArray[np.float64]:
    """Outlines of the things that are not asked about, [m, 4, 2]; stuff is ground."""
    asked = set(places)
    quads = []
    for k, instance in enumerate(layout.instances):
        box = instance.bounds()
        outlined = instance.box is not None or instance.quad is not None
        if k in asked or box is None or not outlined or not box.area > 0:
            continue
        quads.append(as_array(instance.quad or box_quad(box)))
    return np.array(quads, dtype=np.float64).reshape(-1, 4, 2)
