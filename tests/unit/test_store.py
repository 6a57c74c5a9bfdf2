"""The run directory: what is written is read back, damage is named, inputs are identified."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rsgen.errors import DataError
from rsgen.records import Failure
from rsgen.request import RunInfo
from rsgen.store import (
    input_ref,
    open_samples,
    part_counts,
    part_path,
    read_failures,
    read_part,
    run_folder,
    write_part,
)
from tests.build import BuiltRun, full_sample, picture, sample, sample_run


@pytest.fixture
def run(tmp_path: Path) -> BuiltRun:
    """Six samples in two parts of four and two."""
    return sample_run(tmp_path / "run")


def test_samples_come_back_in_order(run: BuiltRun) -> None:
    opened = open_samples(run.path)
    assert list(opened) == list(run.samples)
    assert len(opened) == 6
    assert opened.info == RunInfo.load(run.path)
    assert opened.classes.names[0] == "plane"


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 6), (3, 5), (4, 4), (5, 99), (0, 1), (6, 9)], ids=str
)
def test_rows_across_parts(run: BuiltRun, start: int, stop: int) -> None:
    """Catches off-by-one at part borders."""
    assert open_samples(run.path).rows(start, stop) == list(run.samples[start:stop])


def test_pixels_come_back(run: BuiltRun) -> None:
    opened = open_samples(run.path)
    item = run.samples[5]
    np.testing.assert_array_equal(opened.read_image(item), picture(item.layout, 5))


@pytest.mark.parametrize("inside", [".", "parts", "images/00000/000000.png", "manifest.json"])
def test_a_thing_inside_out_means_out(run: BuiltRun, inside: str) -> None:
    assert len(open_samples(run.path / inside)) == 6


def test_a_relative_path_from_inside_means_out(
    run: BuiltRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a search upwards that stops at '.'."""
    monkeypatch.chdir(run.path / "images" / "00000")
    assert run_folder(Path()) is not None
    assert len(open_samples(Path("000000.png"))) == 6


def test_an_uncommitted_run_is_refused_unless_asked_for(tmp_path: Path) -> None:
    out = sample_run(tmp_path / "half", committed=False).path
    for look in (open_samples, lambda p: input_ref("run", p)):
        with pytest.raises(DataError, match="not complete") as caught:
            look(out)
        assert "--allow-partial" in str(caught.value)
    assert len(open_samples(out, allow_partial=True)) == 6
    assert input_ref("run", out, allow_partial=True).manifest_hash == "partial"


def test_what_holds_no_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run directory"):
        open_samples(tmp_path)
    out = sample_run(tmp_path / "model", command="train").path
    with pytest.raises(DataError, match="a train run holds no samples"):
        open_samples(out)


@pytest.mark.parametrize("how", ["removed", "cut", "emptied", "replaced"])
def test_damaged_parts_are_data_errors(run: BuiltRun, how: str) -> None:
    """Catches arrow exceptions (exit 1), and part files that were changed after the commit."""
    path = part_path(run.path, 1)
    if how == "removed":
        path.unlink()
    elif how == "replaced":
        shutil.copy(part_path(run.path, 0), path)
    else:
        path.write_bytes(path.read_bytes()[: 40 if how == "cut" else 0])
    with pytest.raises(DataError, match=r"00001\.parquet"):
        list(open_samples(run.path))


def test_a_missing_image_names_the_sample_and_where_it_was_sought(run: BuiltRun) -> None:
    opened = open_samples(run.path)
    opened.image_path(run.samples[0]).unlink()
    with pytest.raises(DataError, match=r"scene-0\.png.*not found under"):
        opened.read_image(run.samples[0])
    with pytest.raises(DataError, match="no image"):
        opened.image_path(sample(image=None))


def test_part_holds_rows_failures_and_counts(tmp_path: Path) -> None:
    failures = [Failure("a.png", "extract-masks", "DataError", "trüncated\nfile")]
    write_part(tmp_path, 3, [full_sample()], failures, {"instances": 3})
    assert part_counts(part_path(tmp_path, 3))[:3] == (1, 1, {"instances": 3})
    assert list(read_failures(tmp_path)) == failures
    write_part(tmp_path, 3, [full_sample()], [], {"instances": 3})
    assert list(read_failures(tmp_path)) == [], "a shard done again drops its old failures"
    assert part_counts(part_path(tmp_path, 3)) == (1, 0, {"instances": 3}, 0)


def test_the_same_part_has_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_part(tmp_path / folder, 0, [full_sample(), sample()], [], {"b": 1, "a": 2})
    assert part_path(tmp_path / "a", 0).read_bytes() == part_path(tmp_path / "b", 0).read_bytes()


def test_a_damaged_part_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 nothing")
    for read in (read_part, part_counts):
        with pytest.raises(DataError, match=r"x\.parquet.*damaged") as caught:
            read(path)
        assert caught.value.hint


# ---------------------------------------------------------------- identity of inputs


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw data set: one image and one label file."""
    folder = tmp_path / "raw"
    (folder / "labels").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"image bytes")
    (folder / "labels" / "a.txt").write_text("0 0 1 0 1 1 0 1 ship 0\n")
    return folder


def test_a_raw_input_is_its_content_wherever_it_lies(raw: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(raw, copied)
    os.utime(copied / "a.png", (1, 1))
    (copied / ".DS_Store").write_bytes(b"x")
    one, two = input_ref("dataset", raw), input_ref("dataset", copied)
    assert one.fingerprint == two.fingerprint
    assert one.path != two.path


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "b.png").write_bytes(b"new"),
        lambda f: (f / "a.png").write_bytes(b"other length"),
        lambda f: (f / "a.png").rename(f / "c.png"),
        lambda f: (f / "labels" / "a.txt").write_text("0 0 1 0 1 1 0 1 boat 0\n"),
    ],
    ids=["new file", "image changed", "renamed", "label changed, same length"],
)
def test_a_changed_raw_input_is_another_input(raw: Path, change: object) -> None:
    """Catches a corrected label of the same length taken for the old one: a stale no-op."""
    before = input_ref("dataset", raw).fingerprint
    change(raw)  # type: ignore[operator]
    assert input_ref("dataset", raw).fingerprint != before


def test_a_single_file_counts_by_its_bytes(raw: Path) -> None:
    path = raw / "labels" / "a.txt"
    before = input_ref("labels", path)
    path.write_text("0 0 1 0 1 1 0 1 boat 0\n")
    assert input_ref("labels", path).fingerprint != before.fingerprint
    with pytest.raises(DataError, match=r"labels: .*nowhere does not exist"):
        input_ref("labels", raw / "nowhere")


def test_a_run_as_input_is_its_fingerprint_and_manifest(run: BuiltRun) -> None:
    ref = input_ref("run", run.path / "parts")
    assert ref.fingerprint == RunInfo.load(run.path).fingerprint
    (run.path / "manifest.json").write_text((run.path / "manifest.json").read_text() + "\n")
    assert input_ref("run", run.path).manifest_hash != ref.manifest_hash


def test_a_pipelines_folder_above_is_not_the_run(run: BuiltRun, raw: Path, tmp_path: Path) -> None:
    """Catches a raw data set under a work folder taken for that work folder."""
    (tmp_path / "run.json").write_text('{"schema": 1, "stages": {}}')
    assert run_folder(raw) is None
    assert run_folder(run.path / "parts") == run.path


def test_a_sample_with_a_failed_scorer_counts_as_one_item(tmp_path: Path) -> None:
    """Catches 31 items for 30 samples: the failing one has a row and a failure."""
    kept = full_sample()
    failures = [
        Failure(kept.id, "filter", "DataError", "scorer"),
        Failure("gone.png", "filter", "DataError", "unreadable"),
    ]
    write_part(tmp_path, 0, [kept], failures, {})
    assert part_counts(part_path(tmp_path, 0)) == (1, 2, {}, 1)


@pytest.mark.parametrize(
    ("inside", "is_run"),
    [("", True), ("images/00000", True), ("dataset", True), ("dataset/masks", False),
     ("dataset/coco/annotations", False)],
)  # fmt: skip
def test_what_an_export_wrote_is_labels_and_no_run(
    tmp_path: Path, inside: str, is_run: bool
) -> None:
    """`extract-masks OUT/dataset/FORMAT` was refused: the export's run holds no samples."""
    out = sample_run(tmp_path / "run").path
    (out / inside).mkdir(parents=True, exist_ok=True)
    assert run_folder(out / inside) == (out if is_run else None)
