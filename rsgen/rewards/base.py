"""What a reward looks at, what it gives back, and the protocols that rewards keep to.

A reward works in two steps. `observe` looks at each image by itself, through networks; `rate`
turns the rows of all images (of every rank) into values, in numpy alone, and keeps what it must
remember. So ranks agree on their banks, and looking may run beside the next rollout.

A kind of reward is a frozen dataclass whose fields are its options, found by name in the
registry group `rewards` (entry points: rsgen.rewards). Rewards of plug-ins keep to `RewardKind`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.images import Pixels
from rsgen.records import ClassTable, Layout, Sample

if TYPE_CHECKING:
    from rsgen.data import TrainingImages

__all__ = [
    "FAILED",
    "WARMING",
    "Bools",
    "Floats",
    "Made",
    "Rated",
    "RealImages",
    "Reward",
    "RewardBatch",
    "RewardKind",
    "RewardSetup",
    "Seen",
    "State",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Seen = dict[str, npt.NDArray[Any]]
"""Rows of what was seen: [N, ...] of a fixed width, one an image; plain numbers, no objects."""
State = dict[str, npt.NDArray[Any]]
FAILED = "failed"  # noted of rows that could not be looked at
WARMING = "warming"  # noted of rows whose worth cannot be told yet


@dataclass(frozen=True, eq=False)
class Made:
    """Generated images with what was asked of them.

    images: uint8 [N, H, W, 3] RGB, the pixels that `generate` would write. samples: N, whose
    layouts were asked for. groups: int64 [N], which layout each is a draw of. broken: bool [N],
    the decoder's numbers were not finite; such an image counts as nothing.
    """

    images: Pixels
    samples: tuple[Sample, ...]
    groups: npt.NDArray[np.int64]
    broken: Bools

    def __len__(self) -> int:
        return len(self.samples)

    @classmethod
    def of(
        cls,
        pictures: Sequence[Pixels | None],
        samples: Sequence[Sample],
        groups: Sequence[int] | None = None,
    ) -> Made:
        """From pictures uint8 [H, W, 3] of one size; None is one that is not finite.

        Raises:
            ValueError: other numbers of pictures, samples and groups.
        """
        numbers = range(len(samples)) if groups is None else groups
        if not len(pictures) == len(samples) == len(numbers):
            raise ValueError(
                f"{len(pictures)} pictures of {len(samples)} samples in {len(numbers)} groups"
            )
        broken = np.array([picture is None for picture in pictures], dtype=bool)
        whole = next((picture for picture in pictures if picture is not None), None)
        if whole is None:
            sizes = [(s.layout.height, s.layout.width, 3) for s in samples[:1]]
            blank = np.zeros(sizes[0] if sizes else (1, 1, 3), dtype=np.uint8)
        else:
            blank = np.zeros_like(whole)
        rows = [blank if picture is None else picture for picture in pictures]
        images = np.stack(rows) if rows else np.zeros((0, *blank.shape), dtype=np.uint8)
        return cls(images, tuple(samples), np.array(numbers, dtype=np.int64), broken)

    def chosen(self, places: npt.NDArray[np.intp]) -> Made:
        """Some of them, by position."""
        samples = tuple(self.samples[k] for k in places)
        return Made(self.images[places], samples, self.groups[places], self.broken[places])


@dataclass(frozen=True, eq=False)
class Rated:
    """One reward's answer, unweighted: finite values float64 [N], raw terms, and what to count.

    A raw term may be NaN where it does not apply. `noted`: rows that the counts are taken of;
    whatever value those under FAILED have, they get the least. `error`: standard error of the mean
    value beyond that of single images, where images are compared with each other. `places`: where
    it came from, finite float64 [N, SIDE, SIDE] of `rewards.places`; None: a matter of all places.
    """

    value: Floats
    terms: Mapping[str, Floats] = field(default_factory=dict)
    noted: Mapping[str, Bools] = field(default_factory=dict)
    error: float = 0.0
    places: Floats | None = None


@dataclass(frozen=True, eq=False)
class RewardBatch:
    """What a batch is worth, float64 [N] each.

    total: what is learned from, control included. plain: the weighted sum before the control.
    terms: raw, unweighted: each reward's value by its name, and `name/term`; NaN where one does
    not apply. counts: how many images were broken, could not be looked at, and the like.
    warming: share of the images that some reward cannot tell the worth of yet. error: of the
    mean, beyond that of single images. places: what each place of an image is learned from,
    control included, [N, SIDE, SIDE] of `rewards.places`; None where no reward tells places apart.
    """

    total: Floats
    plain: Floats
    terms: Mapping[str, Floats]
    counts: Mapping[str, int]
    warming: float = 0.0
    error: float = 0.0
    places: Floats | None = None

    def means(self) -> dict[str, float]:
        """The mean of each term over the images that it applies to; NaN without any."""
        found = {}
        for name, values in self.terms.items():
            known = values[~np.isnan(values)]
            found[name] = float(known.mean()) if known.size else float("nan")
        return found


class Reward(Protocol):
    """An opened reward."""

    def observe(self, made: Made) -> Seen:
        """What is seen in each image by itself: no row depends on the others.

        Broken images are given too; their rows are not read.
        """
        ...

    def rate(self, seen: Seen, readable: Bools, groups: Any, *, epoch: int, learn: bool) -> Rated:
        """Values of the whole batch. Rows that are not readable get whatever, and are no news.

        Args:
            learn: whether this batch enters what the reward remembers.
        """
        ...

    def state_dict(self) -> State:
        """What it remembers, as arrays."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Go on from there.

        Raises:
            DataError: it was remembered of something else.
        """
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, once."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


class RewardKind(Protocol):
    """The options of a reward, before anything is opened."""

    def check(self, setup: RewardSetup) -> None:
        """Refuse what cannot work, before any work; loads no weights.

        Raises:
            UsageError, DataError, SetupError.
        """
        ...

    def hashes(self, setup: RewardSetup) -> Mapping[str, str]:
        """What it looks with, by name: enters the request."""
        ...

    def open(self, setup: RewardSetup) -> Reward:
        """The reward, ready to look."""
        ...


# ---------------------------------------------------------------- what there is


@dataclass(frozen=True, eq=False)
class RealImages:
    """Real images as the generated ones are: of their size, at their resolution.

    view: number -> uint8 [H, W, 3] RGB and its layout in that frame. identity: tells this set
    from any other; it names what is cached of it.
    """

    count: int
    view: Callable[[int], tuple[Pixels, Layout]]
    identity: str

    @classmethod
    def of(cls, images: TrainingImages, size: int, seed: int, identity: str) -> RealImages:
        """Views of training images, as many as cover them; neither turned nor recoloured.

        An image with a side under `size` pixels is enlarged whole.
        """
        from rsgen.data import automatic_views, make_view

        views = automatic_views(images.samples, size, flips=False)

        def view(number: int) -> tuple[Pixels, Layout]:
            from rsgen.augment import AugmentSettings

            place = number % len(images)
            layout = images.samples[place].layout
            if min(layout.width, layout.height) < size:
                return _enlarged(images.image(place), layout, size)
            settings = AugmentSettings(flips=False)
            found = make_view(images, place, number // len(images), size, seed, settings)
            return found.image, found.layout

        return cls(len(images) * views, view, f"{identity}/{size}/{seed}/{views}")

    def samples(self, numbers: Sequence[int]) -> list[tuple[Pixels, Sample]]:
        """Some of them as samples, with ids of their numbers."""
        found = []
        for number in numbers:
            pixels, layout = self.view(number)
            found.append((pixels, Sample(f"real-{number:06d}", layout)))
        return found

    def drawn(self, most: int, seed: int) -> list[int]:
        """Numbers of at most so many of them, a fair draw in its random order."""
        order = np.random.default_rng(seed).permutation(self.count)
        return [int(number) for number in order[:most]]


def _enlarged(image: Pixels, layout: Layout, size: int) -> tuple[Pixels, Layout]:
    from rsgen.augment import move_layout, warp

    scale = np.array([[size / layout.width, 0, 0], [0, size / layout.height, 0]], dtype=np.float64)
    import cv2

    moved = warp(image, scale, size, size, cv2.INTER_LINEAR)
    return moved, move_layout(layout, scale, size, size)


@dataclass(frozen=True, eq=False)
class RewardSetup:
    """What there is to look with.

    judge: a train-judge OUT (its judge A is opened, never B). checkpoint: the model that tuning
    starts from, whose autoencoder is an encoder. cache: a folder for features of real images.
    real_options: settings of the extract-masks run that made the real set, by dotted key.
    check_stop: raises Stopped where that was asked for; called while real images are looked at.
    preview: a dry run: as few real images as will do, for what a reward costs an image.
    asked: the thing classes that layouts ask for, as they name them; images: images of an
    epoch; empty and 0 where that is not known.
    """

    classes: ClassTable
    judge: str = ""
    checkpoint: str = ""
    clip: str = ""
    real: RealImages | None = None
    real_options: Mapping[str, Any] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    images: int = 0
    device: str = "cpu"
    seed: int = 0
    cache: Path | None = None
    check_stop: Callable[[], None] = lambda: None
    preview: bool = False

    def path(self, name: str) -> str:
        """The input of that name, as scorers ask for it; empty where it was not given."""
        return str({"judge": self.judge, "checkpoint": self.checkpoint, "clip": self.clip}[name])

    def needed_real(self, name: str) -> RealImages:
        """The real images.

        Raises:
            UsageError: there are none.
        """
        if self.real is None or not self.real.count:
            raise UsageError(
                f"reward {name}: compares with real images, and there are none",
                hint="add --real RUN",
            )
        return self.real
