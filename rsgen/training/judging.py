"""The judge's training batches: class-balanced views, strongly augmented, with their targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rsgen.data import TrainingImages
from rsgen.images import Pixels
from rsgen.judge.network import JudgeNetwork
from rsgen.judge.objective import JudgeLoss, ask
from rsgen.judge.targets import Targets, painted
from rsgen.records import ClassTable, Sample
from rsgen.store import item_seed
from rsgen.training.views import Picture, Views

__all__ = ["JudgeObjective", "class_weights", "image_weights", "is_turned"]

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
    """How much each thing class counts, centres and boxes, float32 [K], 1 for the median one.

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
        self._class_weights = class_weights(images.samples, images.classes)
        self.module: nn.Module = JudgeLoss(
            network, class_weights=torch.from_numpy(self._class_weights)
        )
        self.network, self.images, self.seed, self.size = network, images, seed, size
        self._views = Views(
            images,
            stuff_names,
            size,
            turns=is_turned(images.samples, images.classes),
            strength=strength,
        )
        self._has_stuff = bool(stuff_names)
        self._maker = ThreadPoolExecutor(1, "views")
        self._ahead: dict[tuple[int, int, int], Future[dict[str, npt.NDArray[Any]]]] = {}
        self._weights = image_weights(images.samples, images.classes)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def view(self, step: int, position: int) -> Picture:
        """The view at a place of a step's batch."""
        rng = np.random.default_rng(item_seed(self.seed, "train-judge", f"{step}/{position}"))
        return self._views.view(int(rng.choice(len(self._weights), p=self._weights)), rng)

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
            seen = self.view(step, position)
            found = painted(seen.objects, seen.ground, things, self._has_stuff, self._class_weights)
            rng = np.random.default_rng(item_seed(self.seed, "questions", f"{step}/{position}"))
            pictures.append(seen.image)
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
