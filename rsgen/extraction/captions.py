"""Captions of objects: of a class's candidate phrases the one that a CLIP model finds nearest.

RemoteCLIP and its kin compare pictures with texts and write none; so a caption is a choice
among given phrases (`phrases`). Its `scores["caption"]` is how far the best one is ahead of
the next: the difference of their probabilities under a softmax over the class's phrases, with
the model's own scale; 0 is a guess. Captions that a label has already are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rsgen.extraction.base import Pixels
from rsgen.extraction.crops import CONTEXT
from rsgen.extraction.phrases import PhraseBook, load_phrases
from rsgen.models.clip import Clip, clip_folder, clip_hash
from rsgen.records import ClassTable, Instance
from rsgen.request import digest
from rsgen.settings import ExtractMasksConfig

__all__ = ["Captioner", "caption_hashes", "object_picture"]

LEAST_SIDE = 6.0  # pixels of an object's longest side: below it there is nothing to describe
Vectors = npt.NDArray[np.float32]


def caption_hashes(settings: ExtractMasksConfig) -> dict[str, str]:
    """What captions depend on: the model, and what the phrases say.

    Raises:
        UsageError, SetupError: no such model or phrases.
    """
    assert settings.captions is not None, "asked where captions are on"
    book = load_phrases(settings.phrases)
    words = {"words": dict(book.words), "classes": dict(book.classes)}
    said = [book.templates, book.phrases, words]
    return {"captions": digest([clip_hash(clip_folder(settings.captions)), said])}


class Captioner:
    """A CLIP model with the vectors of every class's phrases, made when a class first comes."""

    def __init__(self, clip: Clip, book: PhraseBook, batch_size: int = 16) -> None:
        self._clip, self._book, self._batch_size = clip, book, batch_size
        self._read: dict[str, tuple[tuple[str, ...], Vectors]] = {}

    @classmethod
    def open(
        cls,
        settings: ExtractMasksConfig,
        labels: ClassTable,
        device: str = "cpu",
        dtype: str = "fp32",
        batch_size: int = 16,
    ) -> Captioner:
        """With the model and the phrases of the settings, checked for every class.

        Raises:
            UsageError, SetupError: no such model or phrases, or a phrase that is too long.
        """
        assert settings.captions is not None, "asked where captions are on"
        clip = Clip.load(clip_folder(settings.captions), device, dtype)
        book = load_phrases(settings.phrases)
        for entry in labels.classes:
            if entry.kind == "thing":
                clip.check_texts(book.texts(entry.name, labels))
        return cls(clip, book, batch_size)

    def captioned(
        self, image: Pixels, instances: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """The instances, things without a caption with one where their picture allows it.

        image: uint8 [H, W, 3] RGB. Of one image all objects are looked at together, so that
        what comes out does not depend on the images around it.
        """
        views = {
            k: view
            for k, instance in enumerate(instances)
            if instance.caption is None
            and not labels.is_stuff(instance.label)
            and (view := object_picture(image, instance)) is not None
        }
        seen = self._clip.embed_images(list(views.values()), self._batch_size)
        result = list(instances)
        for k, vector in zip(views, seen, strict=True):
            phrases, read = self._phrases(instances[k].label, labels)
            phrase, margin = best_phrase(self._clip.scale * (read @ vector), phrases)
            scores = {**instances[k].scores, "caption": round(margin, 4)}
            result[k] = replace(instances[k], caption=phrase, scores=scores)
        return result

    def _phrases(self, label: str, labels: ClassTable) -> tuple[tuple[str, ...], Vectors]:
        """Phrases of a class and their unit vectors [n, D], averaged over the templates."""
        name = labels.resolve(label).name
        if name not in self._read:
            phrases = self._book.candidates(name, labels)
            total = np.zeros((len(phrases), self._clip.dimension), dtype=np.float32)
            texts = self._book.texts(name, labels)
            for start in range(0, len(texts), len(phrases)):
                total += self._clip.embed_texts(texts[start : start + len(phrases)])
            lengths = np.linalg.norm(total, axis=1, keepdims=True)
            self._read[name] = phrases, total / np.maximum(lengths, np.float32(1e-12))
        return self._read[name]


def best_phrase(logits: Vectors, phrases: Sequence[str]) -> tuple[str, float]:
    """(the phrase of the largest logit, its lead in probability); a lone one leads by nothing."""
    odds = np.exp(logits.astype(np.float64) - logits.max())
    odds /= odds.sum()
    order = np.argsort(-odds, kind="stable")
    lead = float(odds[order[0]] - odds[order[1]]) if len(order) > 1 else 0.0
    return phrases[int(order[0])], lead


def object_picture(image: Pixels, instance: Instance) -> Pixels | None:
    """A square picture of an object with its surround, uint8 [S, S, 3].

    It is moved to lie inside the image; where the image is too small for that, the rest is of
    the picture's mean colour. None where the object is outside the image, or very small.
    """
    box = instance.bounds()
    height, width = image.shape[:2]
    if box is None or box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
        return None
    inside = box.clip(width, height)
    longest = max(inside.width, inside.height)
    if longest < LEAST_SIDE:
        return None
    side = math.ceil(longest * (1 + 2 * CONTEXT))
    x0, across = _window(inside.x0, inside.x1, side, width)
    y0, down = _window(inside.y0, inside.y1, side, height)
    part = image[y0 : y0 + down, x0 : x0 + across]
    if (down, across) == (side, side):
        return part
    mean = part.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    picture = np.broadcast_to(mean, (side, side, 3)).copy()
    top, left = (side - down) // 2, (side - across) // 2
    picture[top : top + down, left : left + across] = part
    return picture


def _window(low: float, high: float, side: int, limit: int) -> tuple[int, int]:
    """(start, length) of a window around [low, high], inside [0, limit]."""
    length = min(side, limit)
    return min(max(round((low + high - length) / 2), 0), limit - length), length
