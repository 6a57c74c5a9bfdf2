"""The judge's training batches: class-balanced views, strongly augmented, with their targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rsgen.augment import AugmentSettings
from rsgen.data import TrainingImages, make_view
from rsgen.images import Pixels
from rsgen.judge.network import JudgeNetwork
from rsgen.judge.objective import JudgeLoss, ask
from rsgen.judge.targets import Targets, targets_of
from rsgen.records import ClassTable, Instance, Layout, Sample
from rsgen.store import item_seed

__all__ = ["JudgeObjective", "class_weights", "degrade", "image_weights", "is_turned"]

RARE = 0.3  # a class in fewer than this share of the images is shown more often
MOST_REPEATS = 6.0


def is_turned(samples: Sequence[Sample], classes: ClassTable) -> bool:
    """Whether most things have oriented labels; else turning images would spoil their boxes."""
    things = [i for s in samples for i in s.layout.instances if not classes.is_stuff(i.label)]
    return bool(things) and sum(i.quad is not None for i in things) * 2 > len(things)


def image_weights(samples: Sequence[Sample], classes: ClassTable) -> npt.NDArray[np.float64]:
    """How often each image is drawn, float64 [N], sum 1.

    Source: repeat factor sampling, Gupta et al. 2019, "LVIS", section 4: an image counts as
    its rarest class asks for, sqrt(share / frequency).
    """
    sets = [{classes.resolve(i.label).name for i in s.layout.instances} for s in samples]
    frequency = Counter(name for names in sets for name in names)
    rate = {
        name: min(MOST_REPEATS, max(1.0, (RARE * len(samples) / count) ** 0.5))
        for name, count in frequency.items()
    }
    weights = np.array([max((rate[name] for name in names), default=1.0) for names in sets])
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def class_weights(samples: Sequence[Sample], classes: ClassTable) -> npt.NDArray[np.float32]:
    """How much each thing class counts in the centre loss, float32 [K], 1 for the median one.

    (median objects / objects) ^ 0.5, within 0.3 to 4: a car park must not outvote the trucks.
    """
    counts = {c.name: 0 for c in classes.classes if c.kind == "thing"}
    for sample in samples:
        for instance in sample.layout.instances:
            name = classes.resolve(instance.label).name
            if name in counts:
                counts[name] += 1
    found = np.array(list(counts.values()), dtype=np.float64)
    median = float(np.median(found[found > 0])) if (found > 0).any() else 1.0
    return np.clip(np.sqrt(median / np.maximum(found, 1)), 0.3, 4.0).astype(np.float32)


def degrade(image: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """Blur, noise or JPEG, each sometimes: sharpness alone must not decide what is seen."""
    if rng.random() < 0.3 * strength:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4)), dtype=np.uint8)
    if rng.random() < 0.3 * strength:
        noise = rng.normal(0, rng.uniform(2, 12), size=image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2 * strength:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        image = np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], -1), np.uint8)
    return image


class JudgeObjective:
    """Trains a `JudgeNetwork` on views of `size` pixels."""

    def __init__(
        self,
        network: JudgeNetwork,
        images: TrainingImages,
        stuff_names: Sequence[str],
        *,
        seed: int,
        size: int,
        strength: float,
    ) -> None:
        weights = torch.from_numpy(class_weights(images.samples, images.classes))
        self.module: nn.Module = JudgeLoss(network, class_weights=weights)
        self.network, self.images, self.seed, self.size = network, _quick(images), seed, size
        self._stuff, self._strength = tuple(stuff_names), strength
        self._maker = ThreadPoolExecutor(1, "views")
        self._ahead: dict[tuple[int, int, int], Future[dict[str, npt.NDArray[Any]]]] = {}
        self._weights = image_weights(images.samples, images.classes)
        turns = 180.0 if is_turned(images.samples, images.classes) else 0.0
        self._discrete = AugmentSettings(photometry=strength)
        self._free = AugmentSettings(
            rotate_degrees=turns, scale_range=(0.8, 1.25), photometry=strength
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def view(self, step: int, position: int) -> tuple[Pixels, Layout]:
        """uint8 [size, size, 3] and its layout."""
        rng = np.random.default_rng(item_seed(self.seed, "train-judge", f"{step}/{position}"))
        index = int(rng.choice(len(self._weights), p=self._weights))
        settings = self._free if rng.random() < 0.5 * self._strength else self._discrete
        number = int(rng.integers(1, 2**31))
        made = make_view(self.images, index, number, self.size, self.seed, settings)
        return degrade(made.image, rng, self._strength), made.layout

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """What `JudgeLoss` reads. The next step's batch is made while this one is learned."""
        key = (step, start, stop)
        ready = self._ahead.pop(key, None)
        self._ahead.clear()
        following = (step + 1, start, stop)
        self._ahead[following] = self._maker.submit(self._arrays, *following)
        arrays = self._arrays(*key) if ready is None else ready.result()
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}

    def _arrays(self, step: int, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        things = self.network.shape.things
        pictures: list[Pixels] = []
        targets: list[Targets] = []
        questions = []
        for position in range(start, stop):
            image, layout = self.view(step, position)
            found = targets_of(layout, self.images.classes, self._stuff, things)
            rng = np.random.default_rng(item_seed(self.seed, "questions", f"{step}/{position}"))
            pictures.append(image)
            targets.append(found)
            questions.append(ask(found.objects, self.size, self.size, things, rng))
        owner = np.repeat(np.arange(len(questions)), [len(q.things) for q in questions])
        return {
            "images": np.stack(pictures),
            "heat": np.stack([t.heat for t in targets]),
            "boxes": np.stack([t.boxes for t in targets]),
            "near": np.stack([t.near for t in targets]),
            "stuff": np.stack([t.stuff for t in targets]),
            "owner": owner,
            "questions": np.concatenate([q.boxes for q in questions]),
            "things": np.concatenate([q.things for q in questions]),
            "answers": np.concatenate([q.answers for q in questions]),
        }


def _quick(images: TrainingImages) -> TrainingImages:
    """The same images without the things' masks: warping each would take most of the time."""
    samples = [_without_thing_masks(s, images.classes) for s in images.samples]
    position = {id(sample): k for k, sample in enumerate(samples)}
    return TrainingImages(
        samples, lambda s: images.image(position[id(s)]), images.classes, cache_bytes=0
    )


def _without_thing_masks(sample: Sample, classes: ClassTable) -> Sample:
    def bare(instance: Instance) -> Instance:
        if classes.is_stuff(instance.label) or instance.mask is None:
            return instance
        return replace(instance, box=instance.bounds(), mask=None)

    instances = tuple(bare(i) for i in sample.layout.instances)
    return replace(sample, layout=replace(sample.layout, instances=instances))
