"""Copies and near-duplicates: distance of an image to others, by hash, by latents, or to the k-th
nearest in a judge's eyes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.images import Pixels
from rsgen.records import Sample
from rsgen.scorers.base import FloatArray, Level, Signatures

__all__ = ["HashNovelty", "LatentNovelty", "Likeness", "Novelty", "nearest", "perceptual_hashes"]

HASH_SIDE = 12  # low frequencies a direction; 143 bits without the mean
HASH_BITS = HASH_SIDE * HASH_SIDE - 1
HASH_WORDS = -(-HASH_BITS // 64)
POSES = 8
THUMBNAIL_SIDE = 32
SIGNATURE = np.dtype(
    [
        ("hash", "<u8", (POSES, HASH_WORDS)),
        ("thumbnail", "i1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)),
    ]
)


def perceptual_hashes(image: Pixels) -> npt.NDArray[np.uint64]:
    """Signs of the low cosine frequencies in all eight poses, uint64 [8, words].

    The grey image is shrunk to 64 x 64; row 0 is the image as it is, the others its flips
    and quarter turns: a flip changes the sign of odd frequencies, a transpose swaps them.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small - small.mean())[:HASH_SIDE, :HASH_SIDE]
    odd = (-1.0) ** np.arange(HASH_SIDE)
    poses = []
    for base in (low, low.T):
        for rows in (np.ones(HASH_SIDE), odd):
            for columns in (np.ones(HASH_SIDE), odd):
                poses.append((base * rows[:, None] * columns).ravel()[1:] > 0)
    bits = np.packbits(np.stack(poses), axis=1)
    padded = np.zeros((POSES, HASH_WORDS * 8), dtype=np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view("<u8").astype(np.uint64)


def thumbnail(image: Pixels) -> npt.NDArray[np.int8]:
    """The grey image at 32 x 32 with zero mean, 32 levels a standard deviation, int8."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    side = THUMBNAIL_SIDE
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    spread = max(float(small.std()), 1e-3)
    levels = np.clip(np.round((small - small.mean()) * (32 / spread)), -127, 127)
    return np.asarray(levels, dtype=np.int8)


def correlations(
    thumb: npt.NDArray[np.int8], others: npt.NDArray[np.int8], poses: int
) -> npt.NDArray[np.float64]:
    """Correlation of a thumbnail [S, S] with others [M, S, S], in its best pose, float64 [M].

    Sums are whole numbers, so the result does not depend on what else is compared.
    """
    turned = [t[::r, ::c] for t in (thumb, thumb.T) for r in (1, -1) for c in (1, -1)]
    ours = np.stack([pose.ravel() for pose in turned[:poses]]).astype(np.int64)
    theirs = others.reshape(len(others), -1).astype(np.int64)
    lengths = np.sqrt((ours[0] ** 2).sum() * (theirs**2).sum(axis=1).astype(np.float64))
    best = np.asarray((theirs @ ours.T).max(axis=1), dtype=np.float64)
    return np.asarray(best / np.maximum(lengths, 1.0), dtype=np.float64)


@dataclass(frozen=True)
class HashNovelty:
    """Distance to the nearest reference by perceptual hash, checked on a thumbnail, an image.

    The share of hash bits that differ in the best pose. Low frequencies alone take a boat on
    open water for any other boat there, so pairs under `check` are compared pixel by pixel
    too: the distance is then at least 1 - correlation of their 32 x 32 thumbnails.
    0 is a copy (also mirrored or turned by quarters); JPEG, noise and blur stay under 0.07,
    unrelated images lie over 0.15. `poses: false` compares upright images only.
    """

    level: ClassVar[Level] = "image"
    poses: bool = True
    check: float = 0.25
    references: Signatures | None = field(default=None, repr=False, compare=False)

    def signatures(self, images: Pixels) -> Signatures:
        """Structured [N]: hash uint64 [8, words], thumbnail int8 [32, 32]."""
        found = np.zeros(len(images), dtype=SIGNATURE)
        for k, image in enumerate(images):
            found[k]["hash"] = perceptual_hashes(image)
            found[k]["thumbnail"] = thumbnail(image)
        return found

    def distances(self, signatures: Signatures, references: Signatures) -> FloatArray:
        """float32 [N, M]."""
        best = np.full((len(signatures), len(references)), HASH_BITS, dtype=np.int64)
        upright = np.ascontiguousarray(references["hash"][:, 0])
        poses = POSES if self.poses else 1
        for row in range(len(signatures)):
            for code in signatures[row]["hash"][:poses]:
                differing = np.bitwise_count(upright ^ code).sum(axis=1, dtype=np.int64)
                np.minimum(best[row], differing, out=best[row])
        shares = (best / HASH_BITS).astype(np.float32)
        for row in np.flatnonzero((shares < self.check).any(axis=1)).tolist():
            close = np.flatnonzero(shares[row] < self.check)
            thumbs = references["thumbnail"][close]
            apart = 1 - correlations(signatures[row]["thumbnail"], thumbs, poses)
            shares[row, close] = np.clip(np.maximum(shares[row, close], apart), 0, 1)
        return shares

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        return nearest(self, self.signatures(images), self.references)


@dataclass(frozen=True)
class LatentNovelty:
    """Distance of pooled autoencoder latents to the nearest reference, an image.

    ||a - b|| / (||a|| + ||b||) over latents averaged on a grid x grid lattice: 0 is a copy,
    at most 1. `model` is a checkpoint as on the command line: tiny, a folder, hub:ORG/NAME.
    """

    level: ClassVar[Level] = "image"
    uses_torch: ClassVar[bool] = True
    from_inputs: ClassVar[Mapping[str, str]] = {"model": "checkpoint"}
    model: str = "tiny"
    grid: int = 8
    device: str = "cpu"
    references: Signatures | None = field(default=None, repr=False, compare=False)

    def model_hash(self) -> str:
        from rsgen.models.base import ModelRef, model_folder, model_hash

        return model_hash(model_folder(ModelRef.parse(self.model)))

    def signatures(self, images: Pixels) -> Signatures:
        """float32 [N, C * grid * grid]."""
        return pooled_latents(_autoencoder(self.model, self.device), images, self.grid)

    def distances(self, signatures: Signatures, references: Signatures) -> FloatArray:
        """float32 [N, M]."""
        from rsgen.models.latents import relative_distances

        return relative_distances(signatures, references)

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        return nearest(self, self.signatures(images), self.references)


@dataclass(frozen=True)
class Novelty:
    """How new an image is: distance to its k-th nearest neighbour in a feature space, an image.

    Neighbours are the real images and the earlier ones of the run; the distance is
    ||a - b|| / (||a|| + ||b||): 0 is a copy, at most 1. With k 1 it is the copy audit: bounded by
    a quantile of --real, what is nearer than real images are to one another fails. A larger k
    asks how crowded the place is, whatever a single twin says. NaN with fewer than k others.
    `features`: "judge" (means and spreads of judge A's map: what is in an image and how it looks,
    not where it stands), "latents" (an autoencoder's, on a lattice), or "auto": the judge's where
    there is one.

    Source: k-th neighbour distances as in Loftsgaarden and Quesenberry 1965, "A Nonparametric
    Estimate of a Multivariate Density Function": far is where others are rare.
    """

    level: ClassVar[Level] = "image"
    uses_torch: ClassVar[bool] = True
    from_inputs: ClassVar[Mapping[str, str]] = {"judge": "judge", "model": "checkpoint"}
    k: int = 1
    features: Literal["auto", "judge", "latents"] = "auto"
    judge: str = ""
    model: str = ""
    device: str = "cpu"
    references: Signatures | None = field(default=None, repr=False, compare=False)

    def check(self) -> None:
        """Refuse what cannot work; loads no weights."""
        if self.k < 1:
            raise UsageError(f"scorer novelty: k is {self.k}", hint="use 1 or more neighbours")
        if self.features not in ("auto", "judge", "latents"):
            raise UsageError(
                f"scorer novelty: features is {self.features!r}",
                hint="use auto, judge or latents",
            )
        if not (self.judge if self._eyes == "judge" else self.model):
            raise UsageError(
                "scorer novelty: no judge was given, and no autoencoder",
                hint="add --judge JUDGES, or --checkpoint MODEL",
            )
        self.model_hash()

    @property
    def _eyes(self) -> Literal["judge", "latents"]:
        if self.features == "auto":
            return "judge" if self.judge or not self.model else "latents"
        return self.features

    def model_hash(self) -> str:
        if self._eyes == "judge":
            from rsgen.judge.eyes import JUDGE, EyesRef

            return EyesRef.parse(JUDGE, self.judge).identity("reward")
        return LatentNovelty(self.model).model_hash()

    def signatures(self, images: Pixels) -> Signatures:
        """float32 [N, C]."""
        if self._eyes == "judge":
            from rsgen.scorers.detection import judge_features

            return judge_features(self.judge, images, self.device)
        return LatentNovelty(self.model, device=self.device).signatures(images)

    def distances(self, signatures: Signatures, references: Signatures) -> FloatArray:
        """float32 [N, M]."""
        from rsgen.models.latents import relative_distances

        return relative_distances(signatures, references)

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        return nearest(self, self.signatures(images), self.references)


@dataclass(frozen=True)
class Likeness:
    """How close an image is to the real ones in the judge's eyes, in [0, 1], an image.

    1 - distance to the k-th nearest real image (as `novelty`, of the judge's features): what is
    in an image and how it looks. The run's own images have no part in it. NaN with fewer than k.
    """

    level: ClassVar[Level] = "image"
    uses_torch: ClassVar[bool] = True
    from_inputs: ClassVar[Mapping[str, str]] = {"judge": "judge"}
    only_real: ClassVar[bool] = True
    k: int = 3
    judge: str = ""
    device: str = "cpu"
    references: Signatures | None = field(default=None, repr=False, compare=False)

    def _novelty(self) -> Novelty:
        return Novelty(self.k, "judge", self.judge, device=self.device, references=self.references)

    def check(self) -> None:
        """Refuse what cannot work; loads no weights."""
        self._novelty().check()

    def model_hash(self) -> str:
        return self._novelty().model_hash()

    def signatures(self, images: Pixels) -> Signatures:
        """float32 [N, C]."""
        return self._novelty().signatures(images)

    def distances(self, signatures: Signatures, references: Signatures) -> FloatArray:
        """float32 [N, M]."""
        return self._novelty().distances(signatures, references)

    def as_score(self, distance: float) -> float:
        return 1 - distance

    def score(self, images: Pixels, samples: Sequence[Sample]) -> FloatArray:
        if self.references is None or len(self.references) < self.k:
            return np.full(len(images), np.nan, dtype=np.float32)
        table = self.distances(self.signatures(images), self.references)
        return np.asarray(1 - np.partition(table, self.k - 1, axis=1)[:, self.k - 1])


def nearest(scorer: Any, signatures: Signatures, references: Signatures | None) -> FloatArray:
    """Distance of each image to the nearest (k-th nearest, where the scorer has a `k`) reference
    or earlier one of the batch, float32 [N].

    NaN where there is nothing to compare with.
    """
    count, k = len(signatures), getattr(scorer, "k", 1)
    within = np.asarray(scorer.distances(signatures, signatures), dtype=np.float64)
    table = np.where(np.tri(count, k=-1, dtype=bool), within, np.inf)
    if references is not None and len(references):
        table = np.concatenate([table, scorer.distances(signatures, references)], axis=1)
    if table.shape[1] < k:
        return np.full(count, np.nan, dtype=np.float32)
    best = np.partition(table, k - 1, axis=1)[:, k - 1]
    return np.where(np.isinf(best), np.nan, best).astype(np.float32)


def pooled_latents(model: Any, images: Pixels, grid: int = 8) -> npt.NDArray[np.float32]:
    """Latents of uint8 [N, H, W, 3] averaged to a lattice, float32 [N, C * grid * grid]."""
    import torch

    from rsgen.condition import to_model
    from rsgen.models.latents import pooled

    with torch.inference_mode():
        return pooled(model.encode_images(to_model(images)), grid)


@lru_cache(maxsize=2)
def _autoencoder(model: str, device: str) -> Any:
    from rsgen.models.base import ModelRef, load_model

    return load_model(ModelRef.parse(model), device=device, dtype="fp32")
