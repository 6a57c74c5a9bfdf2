"""The faults of benchmarks/faults.py: labels and pixels change exactly as named, and no more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rsgen.geometry import as_array
from rsgen.records import Sample
from rsgen.store import SampleRun, open_samples
from tests.build import BuiltRun, instance, layout, sample, sample_run

FOLDER = Path(__file__).parents[2] / "benchmarks"
LABELS = ["plane", "ship", "storage-tank"]
PIXELS = ("missing", "blur", "black")


@pytest.fixture(scope="module")
def faults() -> Iterator[ModuleType]:
    before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    import faults

    yield faults
    sys.path[:] = before[0]
    for name in {"faults", "sets", "cells"} - before[1]:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SampleRun:
    """Six scenes; the last has no object that could be faulty."""
    rows = [sample(f"scene-{k}.png") for k in range(5)]
    cut = instance("plane", truncated=True)
    small = instance("ship", 50, 50, 4, 3)
    rows.append(sample("scene-5.png", layout([cut, small])))
    built: BuiltRun = sample_run(tmp_path_factory.mktemp("run") / "real", rows)
    return open_samples(built.path)


def planted(faults: ModuleType, run: SampleRun, fault: str, seed: int = 0) -> list[tuple]:  # type: ignore[type-arg]
    """(sample before, its pixels, sample after, its pixels)."""
    found = []
    for one in run.rows(0, 5):
        image = run.read_image(one)
        kept = image.copy()
        rng = np.random.default_rng(seed)
        after = faults.plant(one, image, fault, LABELS, rng)
        assert after is not None
        np.testing.assert_array_equal(image, kept, "the given pixels are left alone")
        found.append((one, image, *after))
    return found


def without_mark(one: Sample) -> Sample:
    things = tuple(
        replace(i, attributes={k: v for k, v in i.attributes.items() if k != "fault"})
        for i in one.layout.instances
    )
    attributes = {k: v for k, v in one.attributes.items() if k != "fault"}
    return replace(one, attributes=attributes, layout=replace(one.layout, instances=things))


@pytest.mark.parametrize("fault", ["wrong class", "moved", "extra", "duplicate"])
def test_faults_of_labels_leave_the_pixels(faults: ModuleType, run: SampleRun, fault: str) -> None:
    for _, image, after, pixels in planted(faults, run, fault):
        np.testing.assert_array_equal(image, pixels)
        assert after.attributes["fault"] == fault


@pytest.mark.parametrize("fault", PIXELS)
def test_faults_of_pixels_leave_the_labels(faults: ModuleType, run: SampleRun, fault: str) -> None:
    for before, image, after, pixels in planted(faults, run, fault):
        assert without_mark(after) == before
        assert pixels.shape == image.shape and pixels.dtype == np.uint8
        assert (pixels != image).any()


@pytest.mark.parametrize("fault", ["wrong class", "moved", "missing"])
def test_one_object_alone_is_faulty_and_says_so(
    faults: ModuleType, run: SampleRun, fault: str
) -> None:
    for before, _, after, _ in planted(faults, run, fault):
        place = faults.planted_object(after)
        pairs = list(zip(before.layout.instances, after.layout.instances, strict=True))
        assert [k for k, (a, b) in enumerate(pairs) if a != b] == [place]
        assert pairs[place][0].label != "water", "stuff is no object"


def test_a_wrong_class_is_another_one_in_the_same_place(faults: ModuleType, run: SampleRun) -> None:
    for before, _, after, _ in planted(faults, run, "wrong class"):
        was, now = (s.layout.instances[faults.planted_object(after)] for s in (before, after))
        assert now.label in LABELS and now.label != was.label and now.heading_rad is None
        assert (now.box, now.quad, now.mask) == (was.box, was.quad, was.mask)


def test_a_moved_object_goes_by_half_of_its_box(faults: ModuleType, run: SampleRun) -> None:
    """Catches a box that goes without its mask, and a move of a whole or no object."""
    for seed in range(6):
        for before, _, after, _ in planted(faults, run, "moved", seed):
            was, now = (s.layout.instances[faults.planted_object(after)] for s in (before, after))
            x, y = now.box.x0 - was.box.x0, now.box.y0 - was.box.y0
            length = np.hypot(x / was.box.width, y / was.box.height)
            assert length == pytest.approx(0.5, abs=0.75 / min(was.box.width, was.box.height))
            assert (now.box.width, now.box.height) == (was.box.width, was.box.height)
            np.testing.assert_allclose(as_array(now.quad), as_array(was.quad) + (x, y))
            assert now.mask == was.mask.shift(int(x), int(y))
            assert now.label == was.label and now.heading_rad == was.heading_rad


def test_an_extra_object_is_seen_and_has_no_label(faults: ModuleType, run: SampleRun) -> None:
    for before, _, after, _ in planted(faults, run, "extra"):
        gone = [i for i in before.layout.instances if i not in after.layout.instances]
        assert len(gone) == 1 == len(before.layout.instances) - len(after.layout.instances)
        assert gone[0].label != "water" and faults.planted_object(after) is None


def test_a_missing_object_is_painted_out_and_nothing_else(
    faults: ModuleType, run: SampleRun
) -> None:
    """Catches a hole that keeps the object's colour, and one that reaches over the picture."""
    for before, image, after, pixels in planted(faults, run, "missing"):
        mask = before.layout.instances[faults.planted_object(after)].mask.to_array(64, 64)
        changed = (image != pixels).any(axis=2)
        assert changed[mask].mean() > 0.9
        near = np.zeros_like(mask)
        rows, columns = np.nonzero(mask)
        for y, x in zip(rows, columns, strict=True):
            near[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
        assert not (changed & ~near).any()


def test_black_is_black_and_blur_keeps_the_mean(faults: ModuleType, run: SampleRun) -> None:
    for _, _, _, pixels in planted(faults, run, "black"):
        assert not pixels.any()
    for _, image, _, pixels in planted(faults, run, "blur"):
        assert pixels.mean() == pytest.approx(image.mean(), abs=2)
        assert (
            np.abs(np.diff(pixels.astype(int), axis=0)).mean()
            < 0.7 * np.abs(np.diff(image.astype(int), axis=0)).mean()
        )


def test_what_cannot_be_faulty_is_left_out(faults: ModuleType, run: SampleRun) -> None:
    """Catches faults on cut, tiny or stuff objects, which no rule is asked to see."""
    (last,) = run.rows(5, 6)
    image, rng = run.read_image(last), np.random.default_rng(0)
    for fault in faults.OBJECT_FAULTS:
        assert faults.plant(last, image, fault, LABELS, rng) is None


@pytest.mark.parametrize("fault", ["moved", "missing", "black", "duplicate"])
def test_a_run_of_faults_can_be_read(
    faults: ModuleType, run: SampleRun, tmp_path: Path, fault: str
) -> None:
    made = open_samples(faults.faulty_run(tmp_path / "faulty", run.path, fault, 4))
    samples = list(made)
    assert sum(s.attributes.get("fault") == fault for s in samples) == 4
    sound = [s for s in samples if "fault" not in s.attributes]
    assert len(sound) == (4 if fault == "duplicate" else 0)
    originals = {s.id: run.read_image(s) for s in run}
    for one in samples:
        same = (made.read_image(one) == originals[one.id.removesuffix(" again")]).all()
        assert same == (fault not in PIXELS)
    assert len({s.id for s in samples}) == len(samples)
