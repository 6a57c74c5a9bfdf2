"""EarthSynth-180K: both row kinds of train.jsonl, index masks, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsgen.classes import load_class_table
from rsgen.errors import DataError
from rsgen.formats import detect, read_dataset
from rsgen.formats.earthsynth import FORMAT
from rsgen.formats.earthsynth_write import EarthSynthWriter
from rsgen.formats.holding import as_held, losses
from rsgen.records import ClassTable, Instance, ObjectClass
from tests.formats_build import (
    CLASSES,
    HEIGHT,
    WIDTH,
    assert_counts_add_up,
    by_stem,
    disk_mask,
    plane,
    put_image,
    sample_of,
    tank,
    write,
)

STEM = "DG_629683_0"


def put_mask(path: Path, value_of_disk: int = 25, road: int = 4) -> None:
    """A storage tank (25) and a road (4), as the data set has them: the value is the index."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[30:36] = road
    disk_mask(20, 14, 8).paint(values, value_of_disk)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def upstream_rows() -> list[dict[str, Any]]:
    """Rows as the category tool writes them: paths from where it was started."""
    start = "./data/EarthSynth-180K/train"
    views = [f"{STEM}_storage_tank", f"{STEM}_road"]
    full = {
        "file_name": f"{start}/images/{STEM}.png",
        "mask_name": f"{start}/masks/{STEM}.png",
        "text": "A satellite image of road, storage tank",
        "category_masks": [f"{start}/category_masks/{v}.png" for v in views],
    }
    singles = [
        {
            "file_name": f"{start}/category_images/{view}.png",
            "mask_name": f"{start}/category_masks/{view}.png",
            "text": f"A satellite image of {view.removeprefix(STEM + '_').replace('_', ' ')}",
        }
        for view in views
    ]
    return [full, *singles]


def put_set(folder: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    train = folder / "train"
    put_image(train / f"images/{STEM}.png")
    put_mask(train / f"masks/{STEM}.png")
    for name, disk, road in (("storage_tank", 25, 0), ("road", 0, 4)):
        put_image(train / f"category_images/{STEM}_{name}.png")
        put_mask(train / f"category_masks/{STEM}_{name}.png", disk, road)
    lines = [json.dumps(row) for row in (upstream_rows() if rows is None else rows)]
    (train / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.mark.parametrize("inside", [False, True], ids=["folder", "its train folder"])
def test_both_row_kinds_are_one_image(tmp_path: Path, inside: bool) -> None:
    """The single rows show the same pixels: as samples of their own they would leak between
    splits, and teach a detector that unlabelled objects are background."""
    folder = put_set(tmp_path / "set") / ("train" if inside else "")
    assert detect(folder).format == "earthsynth-180k"
    dataset = read_dataset(folder)
    (sample,) = dataset.records
    assert sample.image == ("" if inside else "train/") + f"images/{STEM}.png"
    assert sample.prompt == "A satellite image of road, storage tank"
    assert sample.attributes == {
        "prompt of road": "A satellite image of road",
        "prompt of storage tank": "A satellite image of storage tank",
    }
    assert sample.split == "train"
    assert [i.label for i in sample.layout.instances] == ["road", "storage tank"]
    road, disk = sample.layout.instances
    assert road.box is None
    assert disk.mask == disk_mask(20, 14, 8)
    assert any("single-category rows" in note and "(2 times)" in note for note in dataset.notes)
    assert dataset.classes == load_class_table("earthsynth-67")
    assert_counts_add_up(dataset)


def test_rows_that_the_tool_wrote_twice_are_read_once(tmp_path: Path) -> None:
    dataset = read_dataset(put_set(tmp_path, [*upstream_rows(), *upstream_rows()]))
    assert len(dataset) == 1
    assert not dataset.failures
    assert any("stand there twice" in note and "(3 times)" in note for note in dataset.notes)


def test_a_single_row_without_its_image_row_is_a_sample(tmp_path: Path) -> None:
    dataset = read_dataset(put_set(tmp_path, upstream_rows()[1:]))
    assert [s.layout.instances[0].label for s in dataset] == ["storage tank", "road"]
    assert {s.parent for s in dataset} == {f"images/{STEM}"}  # they share a split
    assert [s.prompt for s in dataset] == [r["text"] for r in upstream_rows()[1:]]


def test_an_rgb_mask_of_grey_indices(tmp_path: Path) -> None:
    """The demo's control image: (25, 25, 25) is class 25."""
    folder = put_set(tmp_path)
    path = folder / f"train/masks/{STEM}.png"
    values = np.asarray(Image.open(path))
    Image.fromarray(np.dstack([values] * 3)).save(path)
    (sample,) = read_dataset(folder).records
    assert [i.label for i in sample.layout.instances] == ["road", "storage tank"]


def test_labels_meet_a_table_by_alias(tmp_path: Path) -> None:
    table = ClassTable((ObjectClass("oil-tank", symmetric=True), ObjectClass("street", ("road",))))
    dataset = read_dataset(put_set(tmp_path), classes=table)
    assert sorted(i.label for i in dataset.records[0].layout.instances) == ["oil-tank", "street"]
    assert not dataset.failures


def _row(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        row = {**upstream_rows()[0], **changes}
        row = {k: v for k, v in row.items() if v is not None}
        with (folder / "train/train.jsonl").open("a") as handle:
            handle.write(json.dumps(row) + "\n")

    return spoil


def _line(data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "train/train.jsonl"
        path.write_bytes(path.read_bytes() + data + b"\n")

    return spoil


def _other_mask(values: np.ndarray) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        put_image(folder / "train/images/b.png")
        Image.fromarray(values).save(folder / "train/masks/b.png")
        _row(file_name="images/b.png", mask_name="masks/b.png", category_masks=[])(folder)

    return spoil


BAD = {
    "cut short": (_line(b'{"file_name": "images/b.png", "mask'), "BadJson", "train.jsonl:4"),
    "not utf-8": (_line(b'{"text": "\xe9"}'), "BadJson", "train.jsonl:4"),
    "a list": (_line(b"[1, 2]"), "BadJson", "train.jsonl:4"),
    "deep": (_line(b"[" * 100_000), "BadJson", "train.jsonl:4"),
    "no mask name": (_row(mask_name=None), "MissingField", "no 'mask_name'"),
    "number for a path": (_row(file_name=3), "MissingField", "no 'file_name'"),
    "views": (_row(category_masks="x", mask_name="masks/b.png"), "BadRecord", "category_masks"),
    "no image": (
        _row(file_name="images/gone.png", mask_name="masks/b.png"), "MissingImage", "gone.png",
    ),
    "no mask": (_row(mask_name="masks/gone.png"), "MissingMask", "masks/gone.png"),
    "escape": (_row(file_name="../../secret.png"), "PathEscape", "secret.png"),
    "absolute": (_row(file_name="/etc/secret.png"), "PathEscape", "secret.png"),
    "hidden escape": (_row(file_name="images/../../../x.png"), "PathEscape", "x.png"),
    "value 67": (
        _other_mask(np.full((HEIGHT, WIDTH), 67, np.uint8)), "UnknownValue", "67 (3072 pixels)",
    ),
    "another size": (_other_mask(np.ones((8, 8), np.uint8)), "WrongSize", "8 x 8"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_row_fails_alone(tmp_path: Path, rule: str) -> None:
    folder = put_set(tmp_path / "set")
    spoil, error, text = BAD[rule]
    spoil(folder)
    dataset = read_dataset(folder)
    assert [f.error for f in dataset.failures] == [error]
    assert text in dataset.failures[0].message
    assert str(tmp_path) not in dataset.failures[0].message
    assert len(dataset) == 1
    assert_counts_add_up(dataset)


def test_no_rows_file(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.png")
    with pytest.raises(DataError, match=r"no \.jsonl file"):
        read_dataset(tmp_path, format="earthsynth-180k")


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    water = Instance("water", mask=disk_mask(40, 30, 16))
    samples = [
        sample_of("a", water, plane(20, 20, 16, 8, 0.4), tank(50, 12, 8, 4)),
        sample_of("b", plane(20, 40, 20, 9, 2.0), split="val"),
        sample_of("c"),
    ]
    report = write(EarthSynthWriter(), samples, tmp_path)
    assert report.files == ("train/train.jsonl", "val/val.jsonl")
    rows = [json.loads(t) for t in (tmp_path / "train/train.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "file_name": "images/a.png",
        "mask_name": "masks/a.png",
        "text": "A satellite image of water, plane, storage tank",
        "category_masks": [
            "category_masks/a_water.png",
            "category_masks/a_plane.png",
            "category_masks/a_storage_tank.png",
        ],
    }
    assert rows[3]["text"] == "A satellite image of storage tank"
    with Image.open(tmp_path / "train/masks/a.png") as image:
        assert image.mode == "L"
        assert set(np.unique(np.asarray(image))) == {0, 6, 16, 25}
    with Image.open(tmp_path / "train" / rows[3]["mask_name"]) as image:
        assert set(np.unique(np.asarray(image))) == {0, 25}
    dataset = read_dataset(tmp_path, classes=CLASSES)
    assert not dataset.failures
    read = by_stem(dataset)
    assert {name: s.split for name, s in read.items()} == {"a": "train", "b": "val", "c": "train"}
    assert FORMAT.compare is not None
    for sample in samples:
        held = as_held(sample, CLASSES, FORMAT)
        assert FORMAT.compare(held, read[sample.id], CLASSES) is None
    assert FORMAT.compare(as_held(samples[0], CLASSES, FORMAT), read["b"], CLASSES) is not None


def test_classes_that_it_does_not_have_are_listed(tmp_path: Path) -> None:
    classes = ClassTable((*CLASSES.classes, ObjectClass("volcano")))
    sample = sample_of("a", Instance("volcano", tank(20, 20, 6).box), tank(50, 12, 8))
    writer = EarthSynthWriter()
    writer.open(tmp_path, classes, ("train",))
    put_image(tmp_path / writer.image_path("a.png", "train", sample))
    writer.add(sample, "a.png", "train")
    report = writer.close()
    assert report.skipped == {"of volcano (no class of EarthSynth-67)": 1}
    assert losses(sample, classes, FORMAT)["objects of classes that it does not have"] == 1
    dataset = read_dataset(tmp_path, classes=classes)
    assert [i.label for i in dataset.records[0].layout.instances] == ["storage tank"]
