"""A dataset that was read: samples, failures, and counts that add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rsgen.errors import DataError
from rsgen.formats.class_map import ClassMap
from rsgen.images import MAX_PIXELS
from rsgen.legend import Legend
from rsgen.records import INCOMPLETE, ClassTable, Failure, Sample

__all__ = ["Dataset", "Problem", "ReadRequest", "Tally"]

STAGE = "read"
LONGEST = 2000  # characters of a failure's place and of its message


class Problem(Exception):
    """One label or image that cannot be used: the failure's name, what is wrong, the fix.

    `unseen`: without the label nothing is missing that the picture shows or that was wanted.
    """

    def __init__(self, name: str, message: str, fix: str, *, unseen: bool = False) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.fix = fix
        self.unseen = unseen


@dataclass(frozen=True)
class ReadRequest:
    """What `read_dataset` was asked for; paths are as the user gave them.

    `heading`: whether the first edge of an oriented box says where its front is; "auto"
    leaves it to the format. `size`: (width, height) for labels whose image is absent.
    `legend`: what the pixels of semantic masks mean; `min_area_px`: least pixels of an object
    in them.
    `label_key`: the property of vector labels that names the class (None: found by itself);
    `label_name`: the class of features that name none.
    `voc_base`: whether boxes in XML count edges from 0 or pixels from 1 (auto: by their zeros).
    """

    path: Path
    images: Path | None = None
    labels: Path | None = None
    classes: ClassTable | None = None
    class_map: ClassMap = field(default_factory=ClassMap)
    gsd_m: float | None = None
    require_images: bool = True
    heading: bool | Literal["auto"] = "auto"
    size: tuple[int, int] | None = None
    max_pixels: int = MAX_PIXELS
    legend: Legend | None = None
    min_area_px: int = 16
    label_key: str | None = None
    label_name: str | None = None
    voc_base: Literal["auto", 0, 1] = "auto"


@dataclass(frozen=True)
class Dataset:
    """A dataset that was read; no pixels, sizes come from image headers.

    `sample.image` is relative to `root`. `counts` holds images_read, images_kept, labels_read,
    labels_kept and one `images_skipped.NAME` / `labels_skipped.NAME` a kind of failure; kept
    and skipped add up to read.
    """

    format: str
    root: Path
    classes: ClassTable
    records: list[Sample]
    failures: list[Failure]
    counts: dict[str, int]
    notes: list[str]
    names: ClassMap = field(default_factory=ClassMap)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.records)

    def image_path(self, sample: Sample) -> Path:
        """Where a sample's image lies on disk."""
        if sample.image is None:
            raise DataError(
                f"{sample.id}: the labels were read without an image",
                hint="read the dataset with its images (--images DIR)",
            )
        return self.root / sample.image


def _cut(text: str) -> str:
    """A text for a failure's row: damaged files have names and values of any length."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class Tally:
    """Collects samples, failures and counts while reading; every label ends in one count."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: list[Sample] = []
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self._counts = dict.fromkeys(("images_read", "images_kept", "labels_read"), 0)
        self._counts["labels_kept"] = 0
        self._ids: set[str] = set()
        self._remarks: dict[str, int] = {}
        self._lost: dict[str, int] = {}  # labels of the image being read, by failure

    def _count(self, key: str, amount: int = 1) -> None:
        self._counts[key] = self._counts.get(key, 0) + amount

    def _fail(self, item: str, problem: Problem) -> None:
        item, text = _cut(item), _cut(problem.message)
        message = f"{item}: {text}; fix: {problem.fix}"
        self.failures.append(Failure(item, STAGE, problem.name, message))

    def label_failed(
        self, item: str, problem: Problem, labels: int = 1, *, of_image: bool = True
    ) -> None:
        """A label (or a whole label file) is skipped; `item` is file:line or file:id.

        The image that is kept next has lost it, unless it is of no image (`of_image` False).
        """
        if of_image and not problem.unseen:
            self._lost[problem.name] = self._lost.get(problem.name, 0) + labels
        self._count("labels_read", labels)
        self._count(f"labels_skipped.{problem.name}", labels)
        self._fail(item, problem)

    def image_failed(self, item: str, problem: Problem, labels: int = 0) -> None:
        """An image is skipped together with its labels."""
        self._lost.clear()
        self._count("images_read")
        self._count(f"images_skipped.{problem.name}")
        if labels:
            self._count("labels_read", labels)
            self._count(f"labels_skipped.{problem.name}", labels)
        self._fail(item, problem)

    def keep(self, sample: Sample, labels: int | None = None) -> None:
        """An image with its good labels; a second sample of one id is a failure.

        `labels` is how many went in, where several (of a stuff class) became one instance. An
        image that has lost labels says so in its attributes (see `records.lost_share`).
        """
        labels = len(sample.layout.instances) if labels is None else labels
        if sample.id in self._ids:
            problem = Problem(
                "DuplicateId",
                f"a second image of the id {sample.id!r}",
                "give every image its own name",
            )
            self.image_failed(sample.id, problem, labels)
            return
        self._ids.add(sample.id)
        if self._lost:
            lost = sum(self._lost.values())
            text = f"{lost}/{lost + labels} {' '.join(sorted(self._lost))}"
            sample = replace(sample, attributes={**sample.attributes, INCOMPLETE: text})
            self._lost.clear()
        self.records.append(sample)
        self._count("images_read")
        self._count("images_kept")
        self._count("labels_read", labels)
        self._count("labels_kept", labels)

    def remark(self, text: str, times: int = 1) -> None:
        """A repair that is no failure, counted in the notes: 'text (N times)'."""
        if times:
            self._remarks[text] = self._remarks.get(text, 0) + times

    def dataset(self, name: str, classes: ClassTable) -> Dataset:
        """The result.

        Raises:
            DataError: there was no image record at all.
        """
        if self._counts["images_read"] == 0 and self._counts["labels_read"] == 0:
            raise DataError(
                f"{self.root}: an empty {name} dataset, no image and no label",
                hint="check the path, --images and --labels",
            )
        repairs = [f"{text} ({count} times)" for text, count in self._remarks.items()]
        counts = dict(sorted(self._counts.items()))
        return Dataset(
            name, self.root, classes, self.records, self.failures, counts, self.notes + repairs
        )
