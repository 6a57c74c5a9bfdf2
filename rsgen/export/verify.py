"""Reading an export back through the readers, and comparing it with what was to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from rsgen.errors import DataError
from rsgen.formats import Dataset, Format, read_dataset
from rsgen.formats.holding import as_held, difference
from rsgen.records import ClassTable, Sample
from rsgen.registry import resolve

__all__ = ["Expected", "check_format", "refuse_empty", "why_left_out"]

Expected = tuple[str, str, Sample]  # file name of the image, split, the sample as written


def why_left_out(chosen: Format, sample: Sample) -> str | None:
    """Why a format cannot hold a sample at all; None where it can."""
    return None if chosen.leaves_out is None else chosen.leaves_out(sample)


def refuse_empty(formats: Iterable[str], samples: Iterable[Sample]) -> None:
    """Look at samples until each format has one that it can hold.

    Raises:
        DataError: a format can hold not one of them.
    """
    chosen: list[Format] = [resolve("formats", name) for name in formats]
    reasons: dict[str, dict[str, None]] = {f.name: {} for f in chosen if f.leaves_out is not None}
    open_formats = [f for f in chosen if f.leaves_out is not None]
    count = 0
    for sample in samples if open_formats else ():
        count += 1
        open_formats = [f for f in open_formats if why_left_out(f, sample) is not None]
        if not open_formats:
            return
        for entry in open_formats:
            reasons[entry.name][str(why_left_out(entry, sample))] = None
    for entry in open_formats:
        raise DataError(
            f"{entry.name}: all {count} images are {' or '.join(reasons[entry.name])}",
            hint="leave the format out, or export samples that it can hold",
        )


def check_format(
    folder: Path, name: str, classes: ClassTable, expected: Iterable[Expected], splits: set[str]
) -> Counter[str]:
    """Read one written format back and compare every image; returns objects by class.

    A format's own second look (`Format.check`) follows. One that is written only is judged by
    that alone.

    Raises:
        DataError: an unreadable item, a missing image, or labels that differ.
    """
    chosen: Format = resolve("formats", name)
    found = None
    if chosen.read is not None:
        # A first edge is the front as it was written: `auto` would guess it from the whole set.
        dataset = read_dataset(folder, format=name, classes=classes, min_area_px=1, heading=True)
        if dataset.failures:
            raise _failed(
                name,
                f"{len(dataset.failures)} items cannot be read back, the first: "
                f"{dataset.failures[0].message}",
            )
        found = _by_file(dataset, splits)
    images, objects = Counter[str](), Counter[str]()
    compare = chosen.compare or difference
    for file_name, split, sample in expected:
        if why_left_out(chosen, sample) is not None:
            continue
        wanted = as_held(sample, classes, chosen)
        images[split] += 1
        objects.update(classes.resolve(i.label).name for i in wanted.layout.instances)
        if found is None:
            continue
        # Most formats keep images in images/SPLIT, so the file name and split are the key.
        read = found.pop((split, PurePosixPath(file_name).stem), None)
        if read is None:
            raise _failed(name, f"image {file_name} of split {split} is not read back")
        text = compare(wanted, read, classes)
        if text is not None:
            raise _failed(f"{name}: {split}/{file_name}", text)
    if found:
        raise _failed(name, f"{len(found)} more images than written, such as {next(iter(found))}")
    _second_look(chosen, folder, images, objects)
    return objects


def _second_look(chosen: Format, folder: Path, images: Counter[str], objects: Counter[str]) -> None:
    if chosen.check is None:
        return
    try:
        chosen.check(folder, images, objects.total())
    except DataError as error:
        raise _failed(chosen.name, error.message) from error


def _failed(name: str, text: str) -> DataError:
    return DataError(
        f"export check of {name} failed: {text}",
        hint="nothing was published; look at OUT/.dataset.tmp, and mend the labels named here",
    )


def _by_file(dataset: Dataset, splits: set[str]) -> dict[tuple[str, str], Sample]:
    """Samples by (split, file stem); with a single split a format may leave it unsaid."""
    only = next(iter(splits)) if len(splits) == 1 else None
    found = {}
    for sample in dataset:
        key = (sample.split or only or "", PurePosixPath(sample.image or sample.id).stem)
        if key in found:
            raise _failed(dataset.format, f"two images {key}")
        found[key] = sample
    return found
