"""Streamed writing: what a writer does, is told, and reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rsgen.errors import UsageError
from rsgen.records import ClassTable, Sample

__all__ = ["FormatWriter", "SafeNames", "WriteOptions", "WriteReport", "write_dataset"]


@dataclass(frozen=True)
class WriteReport:
    """What a writer put on disk: label files or folders (relative), what it left out, by reason."""

    files: tuple[str, ...]
    images: int
    labels: int
    skipped: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WriteOptions:
    """What a writer may be told; each format takes the fields that concern it."""

    category_ids: str = "start=1"
    samples_per_shard: int = 1000


class FormatWriter(Protocol):
    """Streamed writing: `open`, then one `add` a sample, then `close` (or `abort` after an error).

    The caller puts the coded image at `out_dir / image_path(...)` before it calls `add`, and
    hands its path over as `image` (None: labels alone are written). Where `places_images` is
    False the image lies elsewhere, and `add` takes its bytes from there. `image_name` is a file
    name without folders, distinct by stem (see `SafeNames`).
    """

    name: str
    places_images: bool

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None: ...

    def image_path(self, image_name: str, split: str, sample: Sample) -> str: ...

    def add(
        self, sample: Sample, image_name: str, split: str, image: Path | None = None
    ) -> None: ...

    def close(self) -> WriteReport: ...

    def abort(self) -> None:
        """Let go of open files and remove temporary ones; what was finished stays."""
        ...


class SafeNames:
    """Distinct file names for any sample ids: plain ASCII, no folders, distinct by stem."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def name(self, sample_id: str, suffix: str) -> str:
        """A name such as `train_a-0_512.png`; the same ids in the same order give the same names.

        `suffix` has its dot. The last suffix of the id is dropped when it is an image's.
        """
        stem = re.sub(r"\.(png|jpe?g|tiff?|bmp|webp)(?=#|$)", "", sample_id, flags=re.IGNORECASE)
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[-100:] or "image"
        chosen, number = stem, 1
        while chosen.lower() in self._used:
            number += 1
            chosen = f"{stem}-{number}"
        self._used.add(chosen.lower())
        return chosen + suffix


def write_dataset(
    writer: FormatWriter,
    samples: Iterable[Sample],
    classes: ClassTable,
    out_dir: Path,
    *,
    splits: Sequence[str] = ("train",),
    suffix: str = ".png",
    copy_image: Callable[[Sample, Path], None] | None = None,
) -> WriteReport:
    """Write samples in one go; a sample's split is its own, or the first of `splits`.

    `copy_image(sample, path)` puts the image in place; without it labels alone are written.

    Raises:
        UsageError: a sample's split is not among `splits`.
    """
    names = SafeNames()
    try:
        writer.open(out_dir, classes, splits)
        for sample in samples:
            split = sample.split or splits[0]
            if split not in splits:
                raise UsageError(
                    f"{sample.id} is in split {split!r}, not among {', '.join(splits)}",
                    hint="name every split of the samples",
                )
            name = names.name(sample.id, suffix)
            target = None
            if copy_image is not None:
                target = out_dir / writer.image_path(name, split, sample)
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_image(sample, target)
            writer.add(sample, name, split, target)
        return writer.close()
    except BaseException:
        writer.abort()
        raise
