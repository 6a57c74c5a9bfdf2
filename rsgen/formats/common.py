"""What every label format shares: what a format is, and the tally of a read.

A format is one module with one `Format`, and one line in the registry. Its reader turns a
dataset folder into `Dataset`: samples, failures and counts that add up. Its writer is fed one
sample at a time and holds nothing that grows with pixels or labels. `Holds` says what of a
sample comes back when what was written is read: an export is checked against it, and what it
leaves out is told to the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from rsgen.errors import DataError, UsageError
from rsgen.formats.class_map import ClassMap
from rsgen.formats.listing import list_files
from rsgen.images import MAX_PIXELS
from rsgen.legend import Legend
from rsgen.records import INCOMPLETE, ClassTable, Failure, Instance, Layout, Sample

__all__ = [
    "SAMPLE_FIELDS",
    "Dataset",
    "Format",
    "FormatReader",
    "FormatWriter",
    "Found",
    "Holds",
    "Problem",
    "ReadRequest",
    "SafeNames",
    "Source",
    "Tally",
    "WriteOptions",
    "WriteReport",
    "things_only",
    "split_of_path",
    "write_dataset",
]

STAGE = "read"
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


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


@dataclass(frozen=True)
class WriteReport:
    """What a writer put on disk: label files or folders (relative), what it left out, by reason."""

    files: tuple[str, ...]
    images: int
    labels: int
    skipped: dict[str, int]
    notes: tuple[str, ...] = ()


class FormatReader(Protocol):
    def __call__(self, request: ReadRequest) -> Dataset:
        """Read a dataset folder or label file.

        Raises:
            DataError: nothing in it can be read at all.
        """
        ...


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


@dataclass(frozen=True)
class Source:
    """What `--format auto` looks at: a dataset folder or label file, listed once for all."""

    path: Path
    labels: Path | None = None
    _listed: dict[frozenset[str], list[Path]] = field(default_factory=dict, compare=False)

    @property
    def root(self) -> Path:
        """Where labels are: the labels folder or file if given, else the dataset."""
        return self.labels or self.path

    @cached_property
    def base(self) -> Path:
        """The folder that names of files are given relative to."""
        return self.root if self.root.is_dir() else self.root.parent

    def files(self, *suffixes: str) -> list[Path]:
        """Files under `root` with one of the suffixes (lower case, with their dot), sorted.

        A `root` that is a file is listed when its suffix is among them.
        """
        if self.root.is_file():
            return [self.root] if self.root.suffix.lower() in suffixes else []
        key = frozenset(suffixes)
        if key not in self._listed:
            self._listed[key] = list_files(self.root, key)
        return self._listed[key]


@dataclass(frozen=True)
class Found:
    """Why a source is of a format: what in the files says so.

    Formats of one `family` (text, xml, json ...) may claim the same files: the one with most
    `votes` is meant, and one without votes only where nobody else has any. Claims of several
    families are for the user to choose from.
    """

    what: str
    family: str
    votes: int = 1


SAMPLE_FIELDS = frozenset({"attributes", "geo", "gsd_m", "prompt", "provenance", "scene", "scores"})


def things_only(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """What a detection format holds at best: stuff, and what lies outside, is left out."""
    box = instance.bounds()
    if classes.is_stuff(instance.label) or box is None:
        return None
    return None if box.clip(layout.width, layout.height).area <= 0 else instance


@dataclass(frozen=True)
class Holds:
    """What of a sample comes back when a format's files are read.

    instance: (instance, its layout, classes) -> the instance as it comes back, None when it is
        left out. What is None or unset in it is not promised.
    sample: fields beyond image, size and split, of `SAMPLE_FIELDS`.
    attributes: names of image attributes that come back where the field as a whole does not.
    """

    instance: Callable[[Instance, Layout, ClassTable], Instance | None] = things_only
    sample: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Format:
    """One entry of the registry group `formats`.

    files: where labels and images lie in what is written, a line for help and the dataset card.
    read: None for a format that is written only.
    detect: what in a source says that it is of this format; None where it is only read by name.
    make_writer: None for a format that is read only.
    compare: (sample as it should come back, as it does, classes) -> what differs, or None; for
        formats that do not keep single instances. Default: instance by instance.
    check: (folder, images by split, objects) -> None; a second look at what was written, by
        other means than ours. Raises DataError. A format without a reader needs one.
    leaves_out: why a whole sample cannot be written ("without a position on the ground"), or
        None; an export lists such samples.
    """

    name: str
    files: str
    read: FormatReader | None
    make_writer: Callable[[WriteOptions], FormatWriter] | None = None
    detect: Callable[[Source], Found | None] | None = None
    holds: Holds = Holds()
    compare: Callable[[Sample, Sample, ClassTable], str | None] | None = None
    check: Callable[[Path, Mapping[str, int], int], None] | None = None
    leaves_out: Callable[[Sample], str | None] | None = None

    def writer(self, options: WriteOptions | None = None) -> FormatWriter:
        """A new writer.

        Raises:
            UsageError: the format is read only.
        """
        if self.make_writer is None:
            raise UsageError(f"{self.name} is read, not written", hint="choose another --format")
        return self.make_writer(options or WriteOptions())


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
        message = f"{item}: {problem.message}; fix: {problem.fix}"
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


def split_of_path(path: str) -> str | None:
    """train, val or test from a path's folders or file name (`instances_train2017.json`)."""
    parts = PurePosixPath(path).parts
    for part in reversed(parts):
        words = re.split(r"[^a-z]+", PurePosixPath(part).stem.lower())
        whole = SPLITS.get(re.sub(r"\d{4}$", "", part.lower()))
        if whole is not None:
            return whole
        if part is parts[-1] and part.lower().endswith((".json", ".jsonl")):
            found = [SPLITS[w] for w in words if w in SPLITS]
            if found:
                return found[-1]
    return None


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
