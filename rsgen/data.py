"""Training data: which samples may be learned from, their pixels, and augmented views.

A view is one image of the model's size with its layout, cut at native ground sampling
distance. Everything random follows from (seed, item, view).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rsgen.augment import Augmenter, AugmentSettings
from rsgen.composition.labels import one_class, owners
from rsgen.errors import DataError
from rsgen.images import Pixels
from rsgen.records import ClassTable, Layout, Sample, lost_share
from rsgen.shape_augment import turn_shapes
from rsgen.splits import train_only
from rsgen.store import SampleRun, item_seed

__all__ = [
    "CategorySettings",
    "TrainingImages",
    "View",
    "automatic_views",
    "category_view",
    "class_rarity",
    "image_weights",
    "make_view",
    "median_object_px",
]

CACHE_BYTES = 2_000_000_000
MOST_VIEWS = 16


@dataclass(frozen=True)
class View:
    """uint8 [size, size, 3] RGB, its layout in the same frame, and the prompt."""

    image: Pixels
    layout: Layout
    prompt: str | None


class TrainingImages:
    """Samples with pixels that may be learned from, decoded images kept up to a byte budget."""

    def __init__(
        self,
        samples: Sequence[Sample],
        read: Callable[[Sample], Pixels],
        classes: ClassTable,
        refused: int = 0,
        incomplete: int = 0,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.samples = list(samples)
        self.classes = classes
        self.refused, self.incomplete = refused, incomplete
        self._read, self._left = read, cache_bytes
        self._kept: dict[int, Pixels] = {}

    @classmethod
    def from_runs(
        cls,
        runs: Iterable[SampleRun],
        classes: ClassTable,
        max_lost_labels: float = 1.0,
        section: str = "train",
    ) -> TrainingImages:
        """The train samples of some runs; others are counted as refused.

        Images that lost a larger share of their labels on reading than `max_lost_labels` are
        counted as incomplete: they show objects that their layout lacks. `section` of the
        settings is where a user raises that limit.

        Raises:
            DataError: no train sample has an image, or all are incomplete.
        """
        opened = list(runs)
        samples: list[Sample] = []
        owners: list[SampleRun] = []
        total = 0
        for run in opened:
            rows = list(run)
            total += len(rows)
            usable = [s for s in train_only(rows) if s.image is not None and s.verdict != "drop"]
            samples += usable
            owners += [run] * len(usable)
        if not samples:
            raise DataError(
                f"none of {total} samples is a training image "
                "(split train, with an image, not dropped by a filter)",
                hint="give a run of extract-masks or scenes whose split is not all val and test",
            )
        complete = [lost_share(sample) <= max_lost_labels for sample in samples]
        if not any(complete):
            raise DataError(
                f"each of {len(samples)} training images lost more than {max_lost_labels:.0%} of "
                "its labels when they were read",
                hint="mend the labels (failures/labels.jsonl of extract-masks lists them), or "
                f"learn from these images too: -s {section}.max_lost_labels=1",
            )
        incomplete = len(samples) - sum(complete)
        owners = [run for run, whole in zip(owners, complete, strict=True) if whole]
        samples = [sample for sample, whole in zip(samples, complete, strict=True) if whole]
        by_sample = {id(sample): run for sample, run in zip(samples, owners, strict=True)}
        return cls(
            samples,
            lambda sample: by_sample[id(sample)].read_image(sample),
            classes,
            refused=total - len(samples) - incomplete,
            incomplete=incomplete,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> Pixels:
        """uint8 [H, W, 3] RGB."""
        kept = self._kept.get(index)
        if kept is None:
            kept = self._read(self.samples[index])
            if kept.nbytes <= self._left:
                self._left -= kept.nbytes
                self._kept[index] = kept
        return kept

    def check_size(self, size: int) -> None:
        """Raise DataError where an image is smaller than the model's side."""
        small = [s for s in self.samples if min(s.layout.width, s.layout.height) < size]
        if small:
            first = small[0]
            raise DataError(
                f"{len(small)} of {len(self)} images are smaller than {size} px, first "
                f"{first.id} with {first.layout.width} x {first.layout.height}",
                hint=f"train at a smaller side: --size {_fitting_size(small)}",
            )


def _fitting_size(samples: Sequence[Sample]) -> int:
    side = min(min(s.layout.width, s.layout.height) for s in samples)
    return max(32, side // 32 * 32)


def automatic_views(samples: Sequence[Sample], size: int, flips: bool) -> int:
    """Cached views an image: enough crops to cover the median image, and a mirrored one."""
    areas = [s.layout.width * s.layout.height for s in samples]
    cover = round(float(np.median(areas)) / size**2)
    return int(np.clip(max(cover, 2 if flips else 1), 1, MOST_VIEWS))


def median_object_px(samples: Sequence[Sample]) -> float | None:
    """Median of sqrt(box area) over all boxed instances, in pixels; None without any."""
    sides = [
        float(np.sqrt(max(box.area, 0.0)))
        for sample in samples
        for instance in sample.layout.instances
        if (box := instance.bounds()) is not None
    ]
    return float(np.median(sides)) if sides else None


def make_view(
    images: TrainingImages,
    index: int,
    view: int,
    size: int,
    seed: int,
    settings: AugmentSettings,
) -> View:
    """View number `view` of an item; view 0 of an image of the model's size is the image itself."""
    sample = images.samples[index]
    image = images.image(index)
    rng = np.random.default_rng(item_seed(seed, "view", f"{sample.id}/{view}"))
    exact = image.shape[0] == size and image.shape[1] == size
    if view == 0 and exact:
        return View(image, sample.layout, sample.prompt)
    if not exact:
        settings = replace(settings, focus=focus_point(sample.layout, rng))
    moved, layout = Augmenter(settings, size)(image, sample.layout, rng)
    if settings.turned_shapes > 0:
        moved, layout = turn_shapes(moved, layout, images.classes, settings.turned_shapes, rng)
    return View(moved, layout, sample.prompt)


@dataclass(frozen=True)
class CategorySettings:
    """Single-category views: the same pixels, the labels and the prompt of one class alone.

    `weight` is how often each of them is drawn for once that the whole view is: with 1 an image
    of K classes counts as K + 1 rows, as in EarthSynth-180K. Classes of which fewer than
    `least_px` pixels are seen have none.
    """

    weight: float = 0.0
    least_px: int = 16


def category_view(
    layout: Layout,
    classes: ClassTable,
    settings: CategorySettings,
    rarity: Mapping[str, float],
    rng: np.random.Generator,
) -> tuple[Layout, str] | None:
    """The labels of one drawn class and its name, or None: the whole view is meant.

    Classes are drawn by their `rarity`. An image without labels, or of small ones alone, has
    its whole view only.
    """
    seen = np.bincount(owners(layout, classes).ravel(), minlength=len(layout.instances) + 1)
    pixels: dict[str, int] = {}
    for instance, count in zip(layout.instances, seen[1:], strict=True):
        name = classes.resolve(instance.label).name
        pixels[name] = pixels.get(name, 0) + int(count)
    names = [n for n in classes.names if pixels.get(n, 0) >= settings.least_px]
    single = settings.weight * len(names)
    if rng.random() >= single / (1 + single):
        return None
    shares = np.cumsum([rarity.get(name, 1.0) for name in names])
    drawn = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
    name = names[min(drawn, len(names) - 1)]
    return one_class(layout, classes, name), name


def class_rarity(
    samples: Sequence[Sample], classes: ClassTable, balance: float
) -> dict[str, float]:
    """(images of the most common class / images of a class) ** balance, by class, at least 1.

    Only classes that some image shows. With 0 all are 1; 0.5 goes by the square root, as
    repeat-factor sampling does (Gupta et al. 2019, "LVIS", section 4.1); 1 evens out wholly.
    """
    counts: dict[str, int] = {}
    for sample in samples:
        for name in {classes.resolve(i.label).name for i in sample.layout.instances}:
            counts[name] = counts.get(name, 0) + 1
    most = max(counts.values(), default=1)
    return {name: (most / counts[name]) ** balance for name in classes.names if name in counts}


def image_weights(
    samples: Sequence[Sample], classes: ClassTable, rarity: Mapping[str, float]
) -> npt.NDArray[np.float64]:
    """How often each image is drawn, relative: as its rarest class asks, 1 without labels; [N].

    Source: Gupta et al. 2019, "LVIS", section 4.1 (the image's factor is its greatest class
    factor); differs in: images are drawn in proportion instead of repeated.
    """
    return np.array(
        [
            max(
                (rarity[classes.resolve(i.label).name] for i in sample.layout.instances),
                default=1.0,
            )
            for sample in samples
        ],
        dtype=np.float64,
    )


def focus_point(
    layout: Layout, rng: np.random.Generator, chance: float = 0.7
) -> tuple[float, float] | None:
    """The centre of a random object that a crop should hold, or None for anywhere."""
    boxes = [b for i in layout.instances if (b := i.bounds()) is not None]
    if not boxes or rng.random() >= chance:
        return None
    return boxes[int(rng.integers(len(boxes)))].center


def random_crop(
    image: Pixels, layout: Layout, side: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """uint8 [side, side, 3], half of the time around an object; mirrored and turned at random."""
    height, width = image.shape[:2]
    point = focus_point(layout, rng, 0.5)
    if point is None:
        point = (rng.uniform(0, width), rng.uniform(0, height))
    shift = rng.uniform(-side / 4, side / 4, size=2)
    x = int(np.clip(point[0] + shift[0] - side / 2, 0, width - side))
    y = int(np.clip(point[1] + shift[1] - side / 2, 0, height - side))
    crop = np.rot90(image[y : y + side, x : x + side], int(rng.integers(4)))
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)
