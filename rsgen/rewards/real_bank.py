"""Features of real images, made once and kept on disk beside the run."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError, UsageError
from rsgen.images import Pixels, replace_bytes
from rsgen.records import Layout
from rsgen.request import digest
from rsgen.rewards.base import Floats, RealImages
from rsgen.rewards.encoders import BATCH, Encoder
from rsgen.rewards.neighbours import Whitening

__all__ = ["Cutter", "RealBank", "open_real_bank"]

SCHEMA = 1
GROUP = 64  # real images in memory at once
Labels = npt.NDArray[np.int64]
Cutter = Callable[[Pixels, Layout], tuple[list[Pixels], list[int]]]
"""Image and layout -> the pictures to encode, and the label that each has."""


@dataclass(frozen=True, eq=False)
class RealBank:
    """Whitened features of real pictures, float64 [m, d] in random order, and their labels.

    failed: how many images could not be read or encoded.
    """

    points: Floats
    labels: Labels
    whitening: Whitening
    failed: int = 0

    def fingerprint(self) -> npt.NDArray[np.uint8]:
        """16 bytes over all that ratings rest on: a resume needs the same bank."""
        state = hashlib.blake2b(digest_size=16)
        for array in (self.points, self.labels, self.whitening.mean, self.whitening.axes):
            state.update(np.ascontiguousarray(array).tobytes())
        return np.frombuffer(state.digest(), dtype=np.uint8)

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            points=self.points,
            labels=self.labels,
            mean=self.whitening.mean,
            axes=self.whitening.axes,
            failed=np.array(self.failed),
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> RealBank | None:
        """None where there is no such file, or a damaged one."""
        try:
            data = io.BytesIO(path.read_bytes())  # of a damaged file numpy would leave a handle
            with np.load(data, allow_pickle=False) as stored:
                whitening = Whitening(stored["mean"], stored["axes"])
                return cls(stored["points"], stored["labels"], whitening, int(stored["failed"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def open_real_bank(
    real: RealImages,
    encoder: Encoder,
    cut: Cutter,
    cut_key: object,
    *,
    most: int,
    dimensions: int,
    least: int,
    seed: int,
    cache: Path | None,
    check_stop: Callable[[], None] = lambda: None,
    preview: bool = False,
) -> RealBank:
    """The bank from the cache folder, or made and put there.

    Args:
        cut_key: JSON that tells this cut from another; the file is named by it, by the encoder's
            hash and by what identifies the real images.
        most: real images at most, a fair draw. least: pictures below which nothing can be said.
        check_stop: called before each batch that is encoded. preview: no more pictures than will
            do are looked at, and nothing is written.

    Raises:
        UsageError: too few pictures. Stopped: `check_stop` raised it. Errors of the encoder.
    """
    key = digest([SCHEMA, real.identity, encoder.identity(), cut_key, most, dimensions, seed])
    path = None if cache is None else cache / f"real-{key}.npz"
    found = None if path is None else RealBank.read(path)
    if found is not None:
        return found
    numbers, enough = real.drawn(most, seed), max(least, GROUP) if preview else None
    bank = _made(real, encoder, cut, numbers, dimensions, least, enough, check_stop)
    if path is not None and not preview:
        replace_bytes(path, bank.to_bytes())
    return bank


def _made(
    real: RealImages,
    encoder: Encoder,
    cut: Cutter,
    numbers: Sequence[int],
    dimensions: int,
    least: int,
    enough: int | None,
    check_stop: Callable[[], None],
) -> RealBank:
    features, labels = list[npt.NDArray[np.float32]](), list[int]()
    failed = 0
    for start in range(0, len(numbers), GROUP):
        pictures, names = list[Pixels](), list[int]()
        for number in numbers[start : start + GROUP]:
            try:
                some, own = cut(*real.view(number))
            except DataError:
                failed += 1
                continue
            pictures += some
            names += own
        if pictures:
            rows = _encoded(encoder, pictures, check_stop)
            good = np.asarray(np.isfinite(rows).all(axis=1))
            features.append(rows[good])
            labels += [name for name, ok in zip(names, good, strict=True) if ok]
        if enough is not None and len(labels) >= enough:
            break
    count = len(labels)
    if count < least:
        raise UsageError(
            f"reward distribution: {count} real pictures (of {len(numbers)} images, {failed} of "
            f"them unreadable), and it takes at least {least}",
            hint="give a larger --real, or a smaller k",
        )
    every = np.concatenate(features)
    whitening = Whitening.fit(every, dimensions)
    return RealBank(whitening(every), np.array(labels, dtype=np.int64), whitening, failed)


def _encoded(
    encoder: Encoder, pictures: Sequence[Pixels], check_stop: Callable[[], None]
) -> npt.NDArray[np.float32]:
    """Features of pictures, in the encoders' own batches."""
    rows = []
    for start in range(0, len(pictures), BATCH):
        check_stop()
        rows.append(encoder.features(pictures[start : start + BATCH]))
    return np.concatenate(rows)
