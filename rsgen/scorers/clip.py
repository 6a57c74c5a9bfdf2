"""Scorers that compare pictures with words: CLIP and its kin (RemoteCLIP, GeoRSCLIP, SigLIP).

Similarities of two models have different ranges: bound them by quantiles of --real. Texts are
embedded once a process. Scores are rounded to what batches and machines agree on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.geometry import Box
from rsgen.images import Pixels
from rsgen.prompts import spaced
from rsgen.records import ClassTable, Instance, Sample
from rsgen.scorers.base import FloatArray, Level, is_thing

if TYPE_CHECKING:
    from rsgen.models.clip import Clip

__all__ = ["ClipImage", "ClipObjects", "crop_of"]

DIGITS = 4
TEMPLATE = "a satellite image of {}"
Vectors = npt.NDArray[np.float32]


@lru_cache(maxsize=1)
def _open(model: str, device: str) -> Clip:
    from rsgen.models.clip import Clip

    return Clip.load(model, device)


@lru_cache(maxsize=64)
def _texts(model: str, device: str, texts: tuple[str, ...]) -> Vectors:
    return _open(model, device).embed_texts(texts)


def _images(model: str, device: str, images: Sequence[Pixels]) -> Vectors:
    """On a CPU one by one: nothing is gained by batches, and no result depends on them."""
    return _open(model, device).embed_images(images, 1 if device == "cpu" else 16)


def _hash(model: str, device: str) -> str:
    from rsgen.models.clip import clip_folder, clip_hash

    return clip_hash(clip_folder(model))


def _check(name: str, model: str, template: str, look: str) -> None:
    """Refuse what cannot work, before any work; loads no weights."""
    if not model:
        raise UsageError(
            f"scorer {name}: no model",
            hint="add --clip FOLDER or hub:ORG/NAME (CLIP, RemoteCLIP, GeoRSCLIP, SigLIP)",
        )
    if template.count("{}") != 1:
        raise UsageError(
            f"scorer {name}: template {template!r} has no single place {{}} for the class",
            hint=f"write it like {TEMPLATE!r}",
        )
    if look not in ("cosine", "margin"):
        raise UsageError(f"scorer {name}: look is {look!r}", hint="use cosine or margin")
    from rsgen.models.clip import clip_folder

    clip_folder(model)


def _prompts(classes: ClassTable, template: str) -> dict[str, str]:
    """A text for each class of the table."""
    return {entry.name: template.format(spaced(entry.name)) for entry in classes.classes}


def _rounded(value: float) -> float:
    return round(value, DIGITS)


@dataclass(frozen=True)
class ClipImage:
    """How well an image fits the words for its classes, an image.

    look "cosine": of the image and the text that names all its classes, in the table's order.
    "margin": the least cosine with the text of a class that is there, less the greatest with
    that of one that is not; in [-2, 2], over 0 when every class that is there ranks before all
    others. NaN without labelled classes, and for a margin where no class is absent.
    """

    level: ClassVar[Level] = "image"
    uses_torch: ClassVar[bool] = True
    from_inputs: ClassVar[Mapping[str, str]] = {"model": "clip"}
    look: Literal["cosine", "margin"] = "cosine"
    template: str = TEMPLATE
    model: str = ""
    device: str = "cpu"
    classes: ClassTable | None = field(default=None, repr=False, compare=False)

    def check(self) -> None:
        _check("clip", self.model, self.template, self.look)

    def model_hash(self) -> str:
        return _hash(self.model, self.device)

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        seen = _images(self.model, self.device, list(images))
        scores = [self._one(v, s) for v, s in zip(seen, samples, strict=True)]
        return np.asarray(scores, dtype=np.float32)

    def _one(self, seen: Vectors, sample: Sample) -> float:
        classes = self.classes or _own_classes(sample)
        entries = (classes.find(i.label) for i in sample.layout.instances)
        there = {entry.name for entry in entries if entry is not None}
        if not there:
            return math.nan
        ordered = [name for name in classes.names if name in there]
        if self.look == "cosine":
            text = self.template.format(", ".join(spaced(name) for name in ordered))
            return _rounded(float(seen @ _texts(self.model, self.device, (text,))[0]))
        prompts = _prompts(classes, self.template)
        likeness = seen @ _texts(self.model, self.device, tuple(prompts.values())).T
        present = np.array([name in there for name in prompts])
        if present.all():
            return math.nan
        return _rounded(float(likeness[present].min() - likeness[~present].max()))


@dataclass(frozen=True)
class ClipObjects:
    """How well the picture of an object fits the words for its class, an instance.

    The picture is a square of `context` times the object's long side, at least `least_px`, kept
    inside the image. look "margin": cosine with its own class less the greatest with another
    of the table; over 0 where its class ranks first. "cosine": the first of the two, which a
    table of one class takes for both. NaN for stuff, crowds and unknown classes.
    """

    level: ClassVar[Level] = "instance"
    uses_torch: ClassVar[bool] = True
    from_inputs: ClassVar[Mapping[str, str]] = {"model": "clip"}
    look: Literal["cosine", "margin"] = "margin"
    template: str = TEMPLATE
    context: float = 1.4
    least_px: int = 64
    model: str = ""
    device: str = "cpu"
    classes: ClassTable | None = field(default=None, repr=False, compare=False)

    def check(self) -> None:
        _check("clip-objects", self.model, self.template, self.look)

    def model_hash(self) -> str:
        return _hash(self.model, self.device)

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        rows = zip(images, samples, strict=True)
        return [self._one(image, sample) for image, sample in rows]

    def _one(self, image: Pixels, sample: Sample) -> FloatArray:
        classes = self.classes or _own_classes(sample)
        things = tuple(c for c in classes.classes if c.kind == "thing")
        prompts = _prompts(ClassTable(things), self.template)
        place = {name: k for k, name in enumerate(prompts)}
        scores = np.full(len(sample.layout.instances), np.nan, dtype=np.float32)
        crops, owners = [], []
        for k, instance in enumerate(sample.layout.instances):
            entry = classes.find(instance.label)
            box = instance.bounds()
            if entry is None or entry.name not in place or not _placed(instance, box):
                continue
            assert box is not None, "placed"
            crops.append(crop_of(image, box, self.context, self.least_px))
            owners.append((k, place[entry.name]))
        if not crops:
            return scores
        words = _texts(self.model, self.device, tuple(prompts.values()))
        likeness = _images(self.model, self.device, crops) @ words.T
        for (k, own), row in zip(owners, likeness, strict=True):
            others = np.delete(row, own)
            base = others.max() if self.look == "margin" and len(others) else 0.0
            scores[k] = _rounded(float(row[own] - base))
        return scores


def _placed(instance: Instance, box: Box | None) -> bool:
    return is_thing(instance) and box is not None and box.area > 0


def _own_classes(sample: Sample) -> ClassTable:
    return ClassTable.of(*dict.fromkeys(i.label for i in sample.layout.instances))


def crop_of(image: Pixels, box: Box, context: float, least_px: int) -> Pixels:
    """The square around a box, moved into the image; smaller only where the image is."""
    height, width = image.shape[:2]
    side = round(max(least_px, context * max(box.x1 - box.x0, box.y1 - box.y0)))
    x0 = _start((box.x0 + box.x1) / 2, side, width)
    y0 = _start((box.y0 + box.y1) / 2, side, height)
    return np.ascontiguousarray(image[y0 : y0 + side, x0 : x0 + side])


def _start(centre: float, side: int, size: int) -> int:
    return int(np.clip(round(centre - side / 2), 0, max(0, size - side)))
