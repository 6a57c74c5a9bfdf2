"""Labels that a person has corrected, put in the place of those that were read.

An image that stands in the corrections gets the labels of the correction, all of them: what is
not there any more was deleted. Images that do not stand in them are left exactly as they are.
What becomes of each object of a corrected image: corrected_objects.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rsgen.errors import DataError
from rsgen.extraction.corrected_objects import correct_layout
from rsgen.formats import Dataset, Format, SafeNames, read_dataset
from rsgen.formats.common import SPLITS, Problem
from rsgen.formats.files import names_images, names_labels
from rsgen.records import (
    INCOMPLETE,
    ClassTable,
    Failure,
    Sample,
    with_instances,
)
from rsgen.registry import resolve

__all__ = ["Corrected", "correct_samples"]

STAGE = "corrections"
NAMED = 5  # problems listed in a message


@dataclass(frozen=True)
class Corrected:
    """The samples in their order, what became of them, and corrections that fit none."""

    samples: list[Sample]
    failures: tuple[Failure, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...]


def correct_samples(
    samples: Sequence[Sample], folder: Path, classes: ClassTable, class_map: Mapping[str, str]
) -> Corrected:
    """Put the corrections of a folder or file (labelme, COCO or any other format) in place.

    Raises:
        DataError: nothing can be read, no labels of objects, a label among them cannot be used
            (all are named), an image stands twice, or none of the images is among the samples.
    """
    fixed = read_dataset(folder, classes=classes, class_map=class_map, require_images=False)
    _refuse_bad_labels(fixed, folder)
    chosen: Format = resolve("formats", fixed.format)
    if not chosen.objects:
        raise DataError(
            f"{folder}: {fixed.format} says nothing of objects, so that all would be deleted",
            hint="give the folder of the corrected labelme or COCO files",
        )
    empty = [s.id for s in fixed if not s.layout.instances]
    if chosen.bare_is_empty and empty:
        raise DataError(
            f"{folder}: {empty[0]} has no labels, and {fixed.format} does not tell an image "
            "without objects from one that nobody looked at",
            hint="leave such images out, or give the corrections as labelme or COCO files",
        )
    holds = chosen.holds
    places, failures = _placed(fixed, samples, folder)
    failures = [*(replace(f, stage=STAGE) for f in fixed.failures), *failures]
    oriented = any(i.quad is not None for s in samples for i in s.layout.instances)
    counts: Counter[str] = Counter()
    result = list(samples)
    for position, correction in places.items():
        old = samples[position]
        layout, changes = correct_layout(old.layout, correction.layout, classes, holds, oriented)
        counts["corrections: images"] += 1
        counts.update({f"corrections: objects {what}": n for what, n in changes.items()})
        if layout is not old.layout:
            counts["corrections: images changed"] += 1
            # Who has mended the labels has seen which ones were lost on reading.
            whole = {k: v for k, v in old.attributes.items() if k != INCOMPLETE}
            result[position] = replace(with_instances(old, layout.instances), attributes=whole)
    note = f"corrections ({fixed.format}): " + ", ".join(
        f"{n} {name.removeprefix('corrections: ')}" for name, n in counts.items()
    )
    if failures:
        note += f"; {len(failures)} could not be used: failures/00000.jsonl"
    return Corrected(result, tuple(failures), dict(sorted(counts.items())), (note,))


def _refuse_bad_labels(fixed: Dataset, folder: Path) -> None:
    """A label that cannot be read would look like a deleted object."""
    of_images = {
        key.removeprefix("images_skipped."): count
        for key, count in fixed.counts.items()
        if key.startswith("images_skipped.")
    }
    bad = [f for f in fixed.failures if f.error == "DuplicateId"]
    if not bad and len(fixed.failures) > sum(of_images.values()):
        bad = [f for f in fixed.failures if f.error not in of_images] or fixed.failures
    if bad:
        more = f"\n  and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        new = "; a class that is new: one name a line in new.txt, and add --classes new.txt"
        raise DataError(
            f"{folder}: {len(bad)} corrections cannot be used:\n  "
            + "\n  ".join(f.message for f in bad[:NAMED])
            + more,
            hint="mend them and run the same line again; nothing was changed"
            + (new if any(f.error == "UnknownClass" for f in bad) else ""),
        )


# ---------------------------------------------------------------- which image is meant


def _key(name: str) -> tuple[str, ...]:
    """A path without its image suffix and without folders that say images, labels or a split."""
    stem = re.sub(r"\.(png|jpe?g|tiff?|bmp|webp|gif|jp2)(?=#|$)", "", name, flags=re.IGNORECASE)
    parts = PurePosixPath(stem).parts
    kept = [p for p in parts[:-1] if not (names_images(p) or names_labels(p) or p in SPLITS)]
    return (*kept, *parts[-1:])


class _Index:
    """Samples by id, by image path, and by the name that an export gives their image."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._ids = {sample.id: k for k, sample in enumerate(samples)}
        self._whole: dict[tuple[str, ...], set[int]] = {}
        self._tails: dict[tuple[str, ...], set[int]] = {}
        for k, sample in enumerate(samples):
            exported = SafeNames().name(sample.id, "")
            for key in {_key(n) for n in (sample.id, sample.image, exported) if n}:
                self._whole.setdefault(key, set()).add(k)
                for start in range(len(key)):
                    self._tails.setdefault(key[start:], set()).add(k)

    def find(self, correction: Sample) -> set[int]:
        """Positions that may be meant: by id alone, else where one path ends in the other."""
        if correction.id in self._ids:
            return {self._ids[correction.id]}
        key = _key(correction.id)
        if key in self._whole:
            return self._whole[key]
        longer = [self._whole.get(key[start:], set()) for start in range(1, len(key))]
        return self._tails.get(key, set()).union(*longer)


def _placed(
    fixed: Dataset, samples: Sequence[Sample], folder: Path
) -> tuple[dict[int, Sample], list[Failure]]:
    """(position of a sample -> its correction, corrections that fit none)."""
    index, places, failures = _Index(samples), dict[int, Sample](), list[Failure]()
    for correction in fixed:
        try:
            position = _position(index.find(correction), correction, samples)
        except Problem as problem:
            text = f"{correction.id}: {problem.message}; fix: {problem.fix}"
            failures.append(Failure(correction.id, STAGE, problem.name, text))
            continue
        if position in places:
            raise DataError(
                f"{folder}: {places[position].id} and {correction.id} both correct the image "
                f"{samples[position].id}",
                hint="keep one of the two",
            )
        places[position] = correction
    if not places:
        first = f"; the first: {failures[0].message}" if failures else ""
        raise DataError(
            f"{folder}: none of {len(fixed)} corrected images is among the {len(samples)} of the "
            f"data set{first}",
            hint="give extract-masks the run or data set that the corrections were made for",
        )
    return places, failures


def _position(found: set[int], correction: Sample, samples: Sequence[Sample]) -> int:
    if not found:
        raise Problem(
            "UnknownImage",
            "no image of the data set has this name",
            "name it like the image's file, or its id in the run",
        )
    if len(found) > 1:
        named = ", ".join(sorted(samples[k].id for k in found)[:NAMED])
        raise Problem("AmbiguousImage", f"it may mean {named}", "name it with its folder")
    position = next(iter(found))
    ours, theirs = samples[position].layout, correction.layout
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        raise Problem(
            "WrongSize",
            f"drawn on {theirs.width} x {theirs.height} pixels, {samples[position].id} has "
            f"{ours.width} x {ours.height}",
            "correct the image (or tile) as it is in the run",
        )
    return position
