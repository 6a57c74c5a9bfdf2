"""Every format of the registry gives back what it was given, or the user is told what is lost.

Rows come from the registry, so that a new format is covered as soon as it is registered.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from rsgen.export.verify import Expected, check_format
from rsgen.formats import SafeNames, WriteReport, read_dataset
from rsgen.formats.common import Format
from rsgen.formats.holding import INSTANCE_WORDS, SAMPLE_WORDS, as_held, losses
from rsgen.geometry import Box
from rsgen.records import ClassTable, Instance, Sample
from rsgen.registry import names, resolve
from tests.format_layouts import SPLITS, sample_sets
from tests.formats_build import assert_counts_add_up, put_image

FORMATS: dict[str, Format] = {name: resolve("formats", name) for name in names("formats")}
WRITTEN = [name for name, entry in FORMATS.items() if entry.make_writer is not None]
READ_BACK = [name for name in WRITTEN if FORMATS[name].read is not None]

# Writers flush every file to the disk, which is most of the time where there is one.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}
searching = settings.get_current_profile_name() == "search"


def few(count: int) -> settings:
    """`count` examples in the default suite, many when searching."""
    return settings(max_examples=60 * count if searching else count, **SETTINGS)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Written:
    """A set on disk: what was written, under which names, and what the writer said."""

    folder: Path
    expected: list[Expected]
    left_out: int
    report: WriteReport


def write_set(name: str, classes: ClassTable, samples: Sequence[Sample], out: Path) -> Written:
    """Write as an export does: images first, samples that the format cannot hold left out."""
    entry = FORMATS[name]
    writer = entry.writer()
    file_names, expected, left_out = SafeNames(), [], 0
    writer.open(out, classes, SPLITS)
    for sample in samples:
        split = sample.split or "train"
        if entry.leaves_out is not None and entry.leaves_out(sample) is not None:
            left_out += 1
            continue
        file_name = file_names.name(sample.id, ".png")
        target = out / writer.image_path(file_name, split, sample)
        if not writer.places_images:
            target = out.parent / "loose" / file_name
        put_image(target, sample.layout.width, sample.layout.height)
        writer.add(sample, file_name, split, target)
        expected.append((file_name, split, sample))
    return Written(out, expected, left_out, writer.close())


def read_set(
    name: str, classes: ClassTable, written: Written, *, heading: bool | Literal["auto"] = "auto"
) -> dict[tuple[str, str], Sample]:
    """The samples by (split, stem), as the reader gives them; nothing may fail."""
    dataset = read_dataset(
        written.folder, format=name, classes=classes, min_area_px=1, heading=heading
    )
    assert dataset.failures == []
    assert_counts_add_up(dataset)
    only = {split for _, split, _ in written.expected}
    lone = next(iter(only)) if len(only) == 1 else ""
    found = {(s.split or lone, PurePosixPath(s.image or s.id).stem): s for s in dataset}
    assert set(found) == {(split, Path(file).stem) for file, split, _ in written.expected}
    return found


# ---------------------------------------------------------------- what is lost, looked at anew

OF_FIELDS = {*INSTANCE_WORDS.values(), *SAMPLE_WORDS.values()}  # the rest is of whole objects


def is_set(record: Any, field: str) -> bool:
    value = getattr(record, field)
    return value is not None and value is not False and value != {}


def owner(sample: Sample, field: str) -> Any:
    return sample.layout if field in ("gsd_m", "scene") else sample


def pairs_of(ours: Sequence[Instance], theirs: Sequence[Instance]) -> list[tuple[int, int]]:
    """Who came back as whom: nearest boxes of one class, then most fields alike."""
    cost = np.array([[distance(a, b) for b in theirs] for a in ours])
    rows, columns = linear_sum_assignment(cost.reshape(len(ours), len(theirs)))
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def distance(a: Instance, b: Instance) -> float:
    one, other = a.bounds(), b.bounds()
    assert one is not None and other is not None
    far = max(abs(u - v) for u, v in zip(corners(one), corners(other), strict=True))
    alike = sum(is_set(a, field) == is_set(b, field) for field in INSTANCE_WORDS)
    return far + 1e5 * (a.label != b.label) - 1e-3 * alike - 0.1 * (a.mask == b.mask)


def corners(box: Box) -> tuple[float, float, float, float]:
    return (box.x0, box.y0, box.x1, box.y1)


def lost_of(wanted: Sample, read: Sample, classes: ClassTable, chosen: Format) -> Counter[str]:
    """What of the fields of a sample, and of its objects that the format holds, did not return."""
    lost: Counter[str] = Counter()
    for field, words in SAMPLE_WORDS.items():
        a, b = (getattr(owner(sample, field), field) for sample in (wanted, read))
        if field == "attributes":
            lost[words] += not a.items() <= b.items()
        else:
            lost[words] += a is not None and a != {} and b in (None, {})
    kept, held = [], []
    for one in wanted.layout.instances:
        found = chosen.holds.instance(one, wanted.layout, classes)
        if found is not None:
            kept.append(one)
            held.append(found)
    pairs = pairs_of(held, read.layout.instances)
    for field, words in INSTANCE_WORDS.items():
        if len(pairs) == len(kept):
            lost[words] += sum(
                is_set(kept[i], field) and not is_set(read.layout.instances[j], field)
                for i, j in pairs
            )
        elif not any(is_set(one, field) for one in read.layout.instances):
            lost[words] += sum(is_set(one, field) for one in kept)
    return +lost


def check_values(wanted: Sample, read: Sample, chosen: Format) -> None:
    """Fields of the image that a format says it holds have the value that was written."""
    for field in chosen.holds.sample:
        a, b = (getattr(owner(sample, field), field) for sample in (wanted, read))
        if field == "gsd_m":
            assert a is None or math.isclose(a, b, rel_tol=1e-6)
        elif field == "geo":
            assert a is None or np.allclose(a.affine, b.affine, rtol=1e-9, atol=1e-12)
        elif chosen.compare is None:  # else it compares them itself
            assert a == b, field


@pytest.mark.parametrize("name", WRITTEN)
@few(6)
@given(made=sample_sets())
def test_what_is_written_comes_back(name: str, made: tuple[ClassTable, list[Sample]]) -> None:
    """The export's own check passes on anything that a sample may hold: it would stop a run."""
    classes, samples = made
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        written = write_set(name, classes, samples, Path(folder) / "set")
        if not written.expected:
            return
        splits = {split for _, split, _ in written.expected}
        check_format(written.folder, name, classes, written.expected, splits)


@pytest.mark.parametrize("name", READ_BACK)
@few(6)
@given(made=sample_sets())
def test_the_list_of_losses_is_what_changed(
    name: str, made: tuple[ClassTable, list[Sample]]
) -> None:
    """A loss that is not listed surprises the user; one that is listed and did not happen too.

    A heading may be there for those alone who say that the first edge is the front.
    """
    classes, samples = made
    chosen = FORMATS[name]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        written = write_set(name, classes, samples, Path(folder) / "set")
        if not written.expected:
            return
        plain = read_set(name, classes, written)
        facing = read_set(name, classes, written, heading=True)
    for file_name, split, sample in written.expected:
        key = (split, PurePosixPath(file_name).stem)
        check_losses(chosen, classes, sample, plain[key], facing[key], written.report)


def check_losses(
    chosen: Format,
    classes: ClassTable,
    sample: Sample,
    plain: Sample,
    facing: Sample,
    report: WriteReport,
) -> None:
    told = losses(sample, classes, chosen)
    held = as_held(sample, classes, chosen).layout.instances
    whole = sum(count for words, count in told.items() if words not in OF_FIELDS)
    assert whole == len(sample.layout.instances) - len(held)
    assert chosen.compare is not None or len(plain.layout.instances) == len(held)
    if len(plain.layout.instances) < len(held):
        assert report.notes, "objects that come back merged are told"
    check_values(sample, plain, chosen)
    most = lost_of(sample, plain, classes, chosen)
    least = lost_of(sample, facing, classes, chosen)
    for words in OF_FIELDS:
        assert least[words] <= told[words], f"{words}: {least[words]} lost, told {told[words]}"
        # Whose marks these are is not known; that an object is cut is seen again by its corners, a
        # box among turned ones comes back with a front (DOTA cannot say that there is none),
        # and texts that a writer makes up may be those that it was given.
        few_back = len(plain.layout.instances) != len(held)
        again = {INSTANCE_WORDS["truncated"], INSTANCE_WORDS["heading_rad"]}
        again |= set() if chosen.compare is None else {SAMPLE_WORDS["attributes"]}
        if not few_back and words not in again:
            assert told[words] <= most[words], f"{words}: told {told[words]}, lost {most[words]}"


@pytest.mark.parametrize("name", READ_BACK)
@few(4)
@given(made=sample_sets(), other=st.sampled_from(READ_BACK))
def test_read_in_one_format_it_is_written_in_another(
    name: str, made: tuple[ClassTable, list[Sample]], other: str
) -> None:
    """What a reader makes of its files is whole enough for every writer, and losses are told."""
    classes, samples = made
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        first = write_set(name, classes, samples, Path(folder) / "first")
        if not first.expected:
            return
        read = list(read_set(name, classes, first).values())
        again = write_set(other, classes, read, Path(folder) / "second" / "set")
        if not again.expected:
            return
        splits = {split for _, split, _ in again.expected}
        check_format(again.folder, other, classes, again.expected, splits)
        plain = read_set(other, classes, again)
        facing = read_set(other, classes, again, heading=True)
    for file_name, split, sample in again.expected:
        key = (split, PurePosixPath(file_name).stem)
        check_losses(FORMATS[other], classes, sample, plain[key], facing[key], again.report)
