"""Detectors of transformers: trained ones (DETR's family, YOLOS ...) and zero-shot ones.

Images are resized and normalised here as the model's own folder says (torchvision is not
needed); boxes are upright. A zero-shot model (OWL-ViT, OWLv2, Grounding DINO) is asked for
every thing class by name; of a trained one those classes are used that the class table knows
by name or alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from rsgen.detections import Detections
from rsgen.devices import memory_error
from rsgen.errors import SetupError, UsageError
from rsgen.images import Pixels
from rsgen.judge.decoding import suppress
from rsgen.models.base import ModelRef, model_folder
from rsgen.models.processing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    processor_settings,
    silence_transformers,
)
from rsgen.models.whole import load_whole
from rsgen.records import ClassTable

__all__ = ["Preparation", "PretrainedDetector"]

LEAST_SCORE = 0.05
OVERLAP = 0.6  # of two boxes of one class that share more than this (IoU) the better one stays
SOFTMAX = frozenset({"detr", "yolos", "table-transformer"})  # the last of their classes is "none"
BY_PHRASE = frozenset({"owlvit", "owlv2"})
BY_TOKEN = frozenset({"grounding-dino", "mm-grounding-dino"})
PHRASE = "an aerial photo of a {}"
PHRASE_TOKENS = 16
CLASSES_A_TEXT = 40  # Grounding DINO reads 256 tokens at once
GREY = 128
DETECTORS = (
    "give a detector of transformers (DETR's family, YOLOS), or a zero-shot one (OWL-ViT, OWLv2, "
    "Grounding DINO)"
)


@dataclass(frozen=True)
class Preparation:
    """How a model wants its pixels.

    exact: (height, width) of the input, whatever the image's shape; else `shortest` and
    `longest` bound its edges and the shape is kept. square: padded to a square by grey on the
    right and at the bottom first (OWLv2). step: sides are multiples of it (YOLOS's patches).
    """

    exact: tuple[int, int] | None
    shortest: int = 800
    longest: int = 1333
    square: bool = False
    step: int = 1
    resample: int = Image.Resampling.BILINEAR
    factor: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def read(cls, settings: Mapping[str, Any], family: str) -> Preparation:
        """From the image processor's settings."""
        size = settings.get("size")
        exact, edges = None, {"shortest_edge": 800, "longest_edge": 1333}
        if isinstance(size, int | float) and family not in BY_PHRASE:
            edges = {"shortest_edge": int(size), "longest_edge": settings.get("max_size") or 1333}
        elif isinstance(size, int | float):
            exact = (int(size), int(size))
        elif isinstance(size, list | tuple):
            exact = (int(size[0]), int(size[1]))
        elif isinstance(size, Mapping) and size.get("height"):
            exact = (int(size["height"]), int(size["width"]))
        elif isinstance(size, Mapping):
            edges = {k: v for k, v in size.items() if v}
        longest = int(edges.get("longest_edge", 1333))
        rescale, normalise = settings.get("do_rescale", True), settings.get("do_normalize", True)
        return cls(
            exact,
            int(edges.get("shortest_edge", longest)),
            longest,
            family == "owlv2",
            16 if family == "yolos" else 1,
            int(settings.get("resample", Image.Resampling.BILINEAR)),
            float(settings.get("rescale_factor", 1 / 255)) if rescale else 1.0,
            tuple(settings.get("image_mean") or IMAGENET_MEAN) if normalise else (0.0,) * 3,
            tuple(settings.get("image_std") or IMAGENET_STD) if normalise else (1.0,) * 3,
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the input for an image."""
        if self.exact is not None:
            return self.exact
        low, high = min(height, width), max(height, width)
        short, wanted = float(self.shortest), self.shortest
        if high / low * short > self.longest:
            short = self.longest * low / high
            wanted = round(short)
        other = int(short * high / low + 1e-6)  # cut off, as these models were trained with
        step = self.step
        sides = (max(step, wanted // step * step), max(step, other // step * step))
        return sides if height <= width else sides[::-1]

    def pixels(self, image: Pixels) -> Tensor:
        """uint8 [H, W, 3] -> float32 [1, 3, h, w]."""
        if self.square:
            height, width = image.shape[:2]
            side = max(height, width)
            canvas = np.full((side, side, 3), GREY, dtype=np.uint8)
            canvas[:height, :width] = image
            image = canvas
        height, width = self.input_size(*image.shape[:2])
        picture = Image.fromarray(np.ascontiguousarray(image))
        resized = picture.resize((width, height), Image.Resampling(self.resample))
        values = np.asarray(resized, dtype=np.float32) * np.float32(self.factor)
        mean, std = (np.array(numbers, dtype=np.float32) for numbers in (self.mean, self.std))
        return torch.from_numpy(((values - mean) / std).transpose(2, 0, 1)[None].copy())

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in image pixels that relative boxes refer to."""
        return (max(height, width),) * 2 if self.square else (height, width)


@dataclass(frozen=True, eq=False)
class _Question:
    """One call's texts (none for a trained detector), and the logits that mean each class."""

    texts: Mapping[str, Tensor]
    columns: tuple[tuple[str, tuple[int, ...]], ...]


class PretrainedDetector:
    """Keeps to `Detector`. `known`: the thing classes that it can find."""

    def __init__(
        self,
        model: Any,
        family: str,
        preparation: Preparation,
        questions: Sequence[_Question],
        classes: ClassTable,
        device: str,
    ) -> None:
        self.classes = classes
        self.known = frozenset(name for q in questions for name, _ in q.columns)
        self._model, self._family, self._preparation = model, family, preparation
        self._questions, self._device = questions, device

    @classmethod
    def load(cls, reference: str, classes: ClassTable, device: str = "cpu") -> PretrainedDetector:
        """Open a folder or hub:ORG/NAME; safetensors alone.

        Raises:
            SetupError: no such model, or a family that rsgen does not know how to ask.
            UsageError: it knows none of the thing classes.
        """
        folder = model_folder(ModelRef.parse(reference))
        silence_transformers()
        model, family = _load_model(folder, device)
        if family in BY_PHRASE | BY_TOKEN:
            questions = _zero_shot_questions(folder, family, classes)
        else:
            questions = [_trained_question(model.config.id2label, classes, reference)]
        preparation = Preparation.read(processor_settings(folder), family)
        return cls(model, family, preparation, questions, classes, device)

    @property
    def input_side(self) -> int:
        """The shortest side of what the network gets, in pixels."""
        return min(self._preparation.exact or (self._preparation.shortest,))

    def detect(self, images: Pixels) -> list[Detections]:
        """Objects in each of uint8 [N, H, W, 3] RGB images, best first.

        Raises:
            OutOfMemory: an image does not fit the device.
        """
        try:
            with torch.inference_mode():
                return [self._one(image) for image in images]
        except (RuntimeError, MemoryError) as error:
            raise (memory_error(error) or error) from error

    def _one(self, image: Pixels) -> Detections:
        height, width = image.shape[:2]
        pixels = self._preparation.pixels(image).to(self._device)
        boxes, labels, scores = [], list[str](), []
        for question in self._questions:
            texts = {name: tensor.to(self._device) for name, tensor in question.texts.items()}
            found = self._model(pixel_values=pixels, **texts)
            odds = self._odds(found.logits[0].float())
            parts = [odds[:, list(places)].max(dim=1).values for _, places in question.columns]
            best, which = torch.stack(parts, dim=1).max(dim=1)
            keep = best >= LEAST_SCORE
            boxes.append(found.pred_boxes[0].float()[keep].double().cpu().numpy())
            scores.append(best[keep].double().cpu().numpy())
            labels += [question.columns[k][0] for k in which[keep].tolist()]
        quads = _quads(np.concatenate(boxes), self._preparation.frame(height, width))
        return _best(quads, labels, np.concatenate(scores), (height, width))

    def _odds(self, logits: Tensor) -> Tensor:
        """Probability of each class or token, from logits [Q, K] (or K + 1)."""
        if self._family in SOFTMAX:
            return logits.softmax(dim=-1)[:, :-1]
        return logits.sigmoid()


# ---------------------------------------------------------------- opening


def _load_model(folder: Path, device: str) -> tuple[Any, str]:
    """(the model, its family by the name that transformers gives it)."""
    from transformers import (
        AutoConfig,
        AutoModelForObjectDetection,
        AutoModelForZeroShotObjectDetection,
    )

    try:
        family = str(AutoConfig.from_pretrained(folder, local_files_only=True).model_type)
    except Exception as error:  # transformers raises a dozen kinds over a bad folder
        raise SetupError(
            f"{folder}: not a detector that can be loaded "
            f"({type(error).__name__}: {(str(error) or '-').splitlines()[0]})",
            hint=DETECTORS,
        ) from error
    zero_shot = family in BY_PHRASE | BY_TOKEN
    kind: Any = AutoModelForZeroShotObjectDetection if zero_shot else AutoModelForObjectDetection
    return load_whole(kind, folder, f"{family} detector", device, hint=DETECTORS), family


def _things(classes: ClassTable) -> list[str]:
    return [c.name for c in classes.classes if c.kind == "thing"]


def _trained_question(names: Mapping[int, str], classes: ClassTable, reference: str) -> _Question:
    """The model's own classes that the table knows, by name or alias."""
    columns: dict[str, tuple[int, ...]] = {}
    for place, name in sorted(names.items()):
        entry = classes.find(str(name))
        if entry is not None and entry.kind == "thing":
            columns[entry.name] = (*columns.get(entry.name, ()), int(place))
    if not columns:
        theirs = [str(name) for _, name in sorted(names.items())]
        raise UsageError(
            f"detector {reference}: it finds {', '.join(theirs[:12])}"
            f"{', ...' if len(theirs) > 12 else ''}; none of these is a class here "
            f"({', '.join(_things(classes))})",
            hint="add its names as aliases of your classes, or take a zero-shot detector",
        )
    return _Question({}, tuple(columns.items()))


def _zero_shot_questions(folder: Path, family: str, classes: ClassTable) -> list[_Question]:
    from transformers import AutoTokenizer

    names = _things(classes)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise SetupError(
            f"{folder}: its tokenizer cannot be loaded ({type(error).__name__}: {error})",
            hint="download the folder again, with tokenizer files",
        ) from error
    if family in BY_PHRASE:
        return [_by_phrase(tokenizer, names)]
    groups = [names[k : k + CLASSES_A_TEXT] for k in range(0, len(names), CLASSES_A_TEXT)]
    return [_by_token(tokenizer, group) for group in groups]


def _spoken(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").lower()


def _by_phrase(tokenizer: Any, names: Sequence[str]) -> _Question:
    """One text a class: the model gives a logit for each."""
    phrases = [PHRASE.format(_spoken(name)) for name in names]
    made = tokenizer(
        phrases,
        padding="max_length",
        max_length=PHRASE_TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    texts = {key: made[key] for key in ("input_ids", "attention_mask")}
    return _Question(texts, tuple((name, (k,)) for k, name in enumerate(names)))


def _by_token(tokenizer: Any, names: Sequence[str]) -> _Question:
    """One text of all classes, "plane. storage tank.": the model gives a logit for each token."""
    text, spans = "", []
    for name in names:
        start = len(text)
        text += _spoken(name)
        spans.append((start, len(text)))
        text += ". "
    made = tokenizer(text.strip(), return_tensors="pt", return_offsets_mapping=True)
    offsets = made.pop("offset_mapping")[0].tolist()
    columns = []
    for name, (start, stop) in zip(names, spans, strict=True):
        inside = [k for k, (a, b) in enumerate(offsets) if start <= a < b <= stop]
        columns.append((name, tuple(inside)))
    return _Question(dict(made), tuple(columns))


# ---------------------------------------------------------------- boxes


def _quads(boxes: npt.NDArray[np.float64], frame: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Relative centre, width and height [n, 4] -> corners in pixels [n, 4, 2]."""
    scaled = boxes * np.array([frame[1], frame[0], frame[1], frame[0]])
    low, high = scaled[:, :2] - scaled[:, 2:] / 2, scaled[:, :2] + scaled[:, 2:] / 2
    (x0, y0), (x1, y1) = low.T, high.T
    xs, ys = np.stack([x0, x1, x1, x0], axis=1), np.stack([y0, y0, y1, y1], axis=1)
    return np.stack([xs, ys], axis=2)


def _best(
    quads: npt.NDArray[np.float64],
    labels: Sequence[str],
    scores: npt.NDArray[np.float64],
    size: tuple[int, int],
) -> Detections:
    """Best first, inside the image, without near copies of one class."""
    limits = np.array([size[1], size[0]], dtype=np.float64)
    quads = np.clip(quads, 0, limits)
    sides = quads[:, 2] - quads[:, 0]
    real = np.flatnonzero((sides > 0).all(axis=1))
    order = real[np.argsort(-scores[real], kind="stable")]
    names = np.array(labels, dtype=object)
    kept = []
    for name in dict.fromkeys(labels):
        own = order[names[order] == name]
        kept += own[suppress(quads[own], OVERLAP)].tolist()
    kept.sort(key=lambda k: (-scores[k], k))
    every = Detections(quads, tuple(labels), scores, np.full(len(labels), np.nan))
    return every.chosen(kept)
