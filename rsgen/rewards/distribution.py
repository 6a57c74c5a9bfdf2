"""Reward `distribution`: as varied as the real images, and as likely among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError, UsageError
from rsgen.images import Pixels
from rsgen.records import ClassTable, Layout
from rsgen.request import item_seed
from rsgen.rewards.base import (
    FAILED,
    WARMING,
    Bools,
    Floats,
    Made,
    Rated,
    RewardSetup,
    Seen,
    State,
)
from rsgen.rewards.encoders import AUTO, Encoder, choose_encoder
from rsgen.rewards.real_bank import RealBank, open_real_bank
from rsgen.rewards.spread import WARM, PointRatings, Spread
from rsgen.scorers.base import is_thing
from rsgen.scorers.clip import crop_of

__all__ = ["Distribution", "DistributionReward"]

NONE = -1  # label of a place that holds no picture
IMAGE = 0  # label of a whole image
CONTEXT, LEAST_PX = 1.4, 16


@dataclass(frozen=True)
class Distribution:
    """OF-Diff's reward, an image; see `spread` for the formula and what differs.

    0 is what a real image is worth. It says nothing of layouts: use it beside a term that does.
    Layouts must come from where the real ones do, or it measures how the layouts differ. 0
    until 4 k images are known; held images are compared among themselves.

    encoder: auto (judge A's features, without a judge the checkpoint's pooled latents), judge,
        latents, or a vision model (folder or hub:ORG/NAME: RemoteCLIP, SigLIP, DINOv2, ...).
    crops: image, or instances: squares around the objects, compared within their class; an
        image has the mean of its objects'. 224-pixel encoders do not see small objects.
    cap: real (no sparser than real ones is worth more), or none as in the paper.
    bank, max_age: generated pictures that are remembered, and for how many epochs: they are
        the others to compare with where those of one epoch are fewer than 4 k.
    """

    encoder: str = AUTO
    pca_dim: int = 32
    k: int = 5
    omega: float = 2.0
    cap: Literal["real", "none"] = "real"
    bank: int = 2048
    max_age: int = 4
    real_bank: int = 4096
    crops: Literal["image", "instances"] = "image"
    most_instances: int = 8
    crop_px: int = 64

    def check(self, setup: RewardSetup) -> None:
        """Refuse what cannot work; loads no weights."""
        for name, allowed in (("cap", ("real", "none")), ("crops", ("image", "instances"))):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"reward distribution: {name} is {getattr(self, name)!r}",
                    hint=f"use {' or '.join(allowed)}",
                )
        least = {"k": 1, "pca_dim": 1, "max_age": 1, "most_instances": 1, "crop_px": 32,
                 "bank": (WARM + 1) * self.k, "real_bank": (WARM + 1) * self.k}  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(
                    f"reward distribution: {name} is {getattr(self, name)}",
                    hint=f"it takes at least {low}",
                )
        if self.omega < 0:
            raise UsageError(
                f"reward distribution: omega is {self.omega}",
                hint="0 asks for variety alone; a penalty for likeness is not offered",
            )
        known = setup.images * self.max_age
        if setup.images and self.crops == "image" and known < WARM * self.k:
            raise UsageError(
                f"reward distribution: {setup.images} images an epoch, remembered for "
                f"{self.max_age} epochs, are {known}, and k {self.k} takes {WARM * self.k}",
                hint="use a larger max_age, a smaller k, or more images an epoch "
                "(rl_tune.layouts, rl_tune.samples)",
            )
        setup.needed_real("distribution")
        choose_encoder(self.encoder, setup).identity()

    def hashes(self, setup: RewardSetup) -> Mapping[str, str]:
        encoder = choose_encoder(self.encoder, setup)
        return {encoder.name: encoder.identity()}

    def open(self, setup: RewardSetup) -> DistributionReward:
        encoder = choose_encoder(self.encoder, setup)
        cutter = _Cutter(self, setup.classes)
        bank = open_real_bank(
            setup.needed_real("distribution"),
            encoder,
            cutter,
            cutter.key(),
            most=self.real_bank,
            dimensions=self.pca_dim,
            least=(WARM + 1) * self.k,
            seed=item_seed(setup.seed, "rl-tune/real", "distribution"),
            cache=setup.cache,
            check_stop=setup.check_stop,
            preview=setup.preview,
        )
        return DistributionReward(self, encoder, cutter, bank, setup.images, setup.preview)


@dataclass(frozen=True)
class _Cutter:
    """The pictures of an image that are encoded, all of one size where they are crops."""

    options: Distribution
    classes: ClassTable

    @property
    def most(self) -> int:
        return 1 if self.options.crops == "image" else self.options.most_instances

    def key(self) -> object:
        if self.options.crops == "image":
            return "image"
        return ["instances", self.most, self.options.crop_px, CONTEXT, list(self.classes.names)]

    def __call__(self, image: Pixels, layout: Layout) -> tuple[list[Pixels], list[int]]:
        if self.options.crops == "image":
            return [image], [IMAGE]
        crops, labels = [], []
        for place in self._places(layout):
            instance = layout.instances[place]
            box = instance.bounds()
            assert box is not None, "chosen by its box"
            crop = crop_of(image, box, CONTEXT, LEAST_PX)
            side = (self.options.crop_px, self.options.crop_px)
            shrinks = crop.shape[0] > side[0]
            mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            crops.append(np.asarray(cv2.resize(crop, side, interpolation=mode), dtype=np.uint8))
            labels.append(self.classes.index(instance.label))
        return crops, labels

    def _places(self, layout: Layout) -> list[int]:
        """Things with an area whose centre is in the image; of many an even draw, always the same.

        The draws of one layout must show the same objects, or they would not compare.
        """
        found = []
        for k, instance in enumerate(layout.instances):
            box = instance.bounds()
            known = self.classes.find(instance.label) is not None
            if not known or not is_thing(instance) or box is None or not box.area > 0:
                continue
            x, y = box.center
            if 0 <= x < layout.width and 0 <= y < layout.height:
                found.append(k)
        if len(found) <= self.most:
            return found
        chosen = np.linspace(0, len(found) - 1, self.most).round().astype(int)
        return [found[k] for k in chosen]


class DistributionReward:
    """Keeps to `Reward`."""

    def __init__(
        self,
        options: Distribution,
        encoder: Encoder,
        cutter: _Cutter,
        bank: RealBank,
        images: int = 0,
        preview: bool = False,
    ) -> None:
        self._encoder, self._cut, self._real = encoder, cutter, bank
        self._fingerprint = bank.fingerprint()
        self._spread = Spread(
            bank.points,
            bank.labels,
            k=options.k,
            omega=options.omega,
            cap=options.cap,
            bank=options.bank,
            max_age=options.max_age,
        )
        self.notes = self._notes(options, images)
        if preview:
            self.notes = (*self.notes, "distribution: a dry run looks at a few real images only")

    def _notes(self, options: Distribution, images: int) -> tuple[str, ...]:
        bank = self._real
        lines = [
            f"distribution: {len(bank.points)} real pictures in {bank.whitening.dimensions} "
            f"dimensions of {self._encoder.name} features"
        ]
        if bank.failed:
            lines.append(f"distribution: {bank.failed} real images could not be read")
        few = sum(count <= options.k for count in self._spread.real_counts().values())
        if few:
            lines.append(
                f"distribution: {few} classes with {options.k} real objects or fewer count 0"
            )
        if options.crops == "image" and 0 < images < WARM * options.k:
            cold = -(-WARM * options.k // images) - 1
            lines.append(
                f"distribution: {images} images an epoch: 0 in the first {cold} epochs, until "
                f"{WARM * options.k} are known"
            )
        return tuple(lines)

    def observe(self, made: Made) -> Seen:
        """points [N, M, d] and labels [N, M] (-1: no picture), M pictures an image at most.

        failed [N]: the encoder gave numbers that are not finite of all of its pictures.
        """
        points = np.zeros((len(made), self._cut.most, self._real.whitening.dimensions))
        labels = np.full((len(made), self._cut.most), NONE, dtype=np.int64)
        pictures, owners = list[Pixels](), list[tuple[int, int]]()
        failed = np.zeros(len(made), dtype=bool)
        for row in np.flatnonzero(~made.broken).tolist():
            some, names = self._cut(made.images[row], made.samples[row].layout)
            pictures += some
            owners += [(row, k) for k in range(len(some))]
            labels[row, : len(names)] = names
        if pictures:
            found = self._encoder.features(pictures)
            for (row, k), vector in zip(owners, found, strict=True):
                if np.isfinite(vector).all():
                    points[row, k] = self._real.whitening(vector)
                else:
                    labels[row, k] = NONE
            shown = sorted({row for row, _ in owners})
            failed[shown] = (labels[shown] == NONE).all(axis=1)
        return {"points": points, "labels": labels, FAILED: failed}

    def rate(
        self, seen: Seen, readable: Bools, groups: npt.NDArray[Any], *, epoch: int, learn: bool
    ) -> Rated:
        held = (seen["labels"] != NONE) & readable[:, None]
        rows = np.nonzero(held)[0]
        points = np.asarray(seen["points"], dtype=np.float64)[held]
        found = self._spread.rate(points, seen["labels"][held], epoch=epoch, learn=learn)
        failed = np.asarray(seen[FAILED], dtype=bool) & readable
        noted = self._noted(found, rows, readable & ~failed, epoch)
        count = len(readable)
        terms = {
            "diversity": _means(found.diversity, rows, count),
            "divergence": _means(found.divergence, rows, count),
            "capped": _means(found.capped, rows, count),
            "within layout": _within(points, rows, groups, count),
        }
        known = np.where(found.warm, found.value, np.nan)
        value = np.nan_to_num(_means(known, rows, count), nan=0.0)
        return Rated(value, terms, {FAILED: failed, **noted}, found.error)

    def _noted(
        self, found: PointRatings, rows: npt.NDArray[np.intp], looked: Bools, epoch: int
    ) -> dict[str, Bools]:
        """An image is cold while none of its pictures has enough others of its label."""
        bare, unmatched = looked.copy(), np.zeros(len(looked), dtype=bool)
        cold = np.zeros(len(looked), dtype=bool)
        bare[rows] = False
        unmatched[rows[~found.matched]] = True
        cold[rows[found.matched]] = True
        cold[rows[found.warm]] = False
        reason = WARMING if self._spread.settling(epoch) else "too few of their kind"
        return {reason: cold, "without objects": bare, "without real objects": unmatched}

    def state_dict(self) -> State:
        return {**self._spread.state_dict(), "real": self._fingerprint}

    def load_state_dict(self, state: State) -> None:
        if not np.array_equal(state["real"], self._fingerprint):
            raise DataError(
                "reward distribution: the real images, or the encoder, give other features than "
                "when the run was started",
                hint="resume with the same --real and --judge on the same kind of machine",
            )
        self._spread.load_state_dict(state)

    def close(self) -> None:
        """Nothing was started."""


def _means(values: Floats, rows: npt.NDArray[np.intp], count: int) -> Floats:
    """The mean of the finite values of each row, float64 [count]; NaN without any."""
    known = np.isfinite(values)
    sums = np.bincount(rows[known], weights=values[known], minlength=count)
    numbers = np.bincount(rows[known], minlength=count)
    found: Floats = np.divide(sums, numbers, out=np.full(count, np.nan), where=numbers > 0)
    return found


def _within(
    points: Floats, rows: npt.NDArray[np.intp], groups: npt.NDArray[Any], count: int
) -> Floats:
    """Mean distance of an image to the other draws of its layout; NaN for a lone one."""
    found = np.full(count, np.nan)
    if not len(points):
        return found
    centres = np.stack([_means(column, rows, count) for column in points.T], axis=1)
    for group in np.unique(groups):
        mine = np.flatnonzero((groups == group) & ~np.isnan(centres).any(axis=1))
        if len(mine) < 2:
            continue
        apart = np.linalg.norm(centres[mine][:, None] - centres[mine][None], axis=2)
        found[mine] = apart.sum(axis=1) / (len(mine) - 1)
    return found
