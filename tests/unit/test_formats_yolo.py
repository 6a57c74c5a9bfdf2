"""YOLO read and write: boxes, oriented boxes, segments; names from three places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from rsgen.formats import read_dataset
from rsgen.formats.yolo_write import YoloWriter
from rsgen.geometry import Box, as_array, polygon_area, quad_iou
from rsgen.mask import Mask
from rsgen.records import Instance
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

OBB = "0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n"


def _set(folder: Path, text: str, names: dict[str, str], labels: str = "labels") -> Path:
    (folder / labels).mkdir(parents=True)
    (folder / labels / "a.txt").write_text(text)
    for name, content in names.items():
        (folder / name).write_text(content)
    put_image(folder / labels.replace("labels", "images") / "a.png")
    return folder


NAMES = [
    ("list", {"data.yaml": "names: [plane, ship]\n"}),
    ("mapping", {"data.yaml": "names:\n  0: plane\n  1: ship\n"}),
    ("any-yaml", {"dota8.yaml": "path: ../elsewhere\nnames:\n  0: plane\n  1: ship\n"}),
    ("classes.txt", {"classes.txt": "plane\nship\n\n"}),
    ("beside-labels", {"labels/classes.txt": "plane\nship\n"}),
    ("other-yaml-too", {"conf.yaml": "lr: 1\n", "data.yaml": "names: [plane, ship]\n"}),
]


@pytest.mark.parametrize("names", [n[1] for n in NAMES], ids=[n[0] for n in NAMES])
def test_class_names_come_from_the_folder(tmp_path: Path, names: dict[str, str]) -> None:
    dataset = read_dataset(_set(tmp_path, "1 0.5 0.5 0.25 0.5\n", names))
    assert dataset.classes.names == ("plane", "ship")
    instance = dataset.records[0].layout.instances[0]
    assert (instance.label, instance.box) == ("ship", Box(24, 12, 40, 36))


def test_without_names_the_table_or_made_up_ones_are_used(tmp_path: Path) -> None:
    folder = _set(tmp_path, "1 0.5 0.5 0.25 0.5\n", {})
    dataset = read_dataset(folder)
    assert dataset.records[0].layout.instances[0].label == "class-1"
    assert any("--classes" in note for note in dataset.notes)
    given = read_dataset(folder, classes=CLASSES).records[0].layout.instances[0]
    assert given.label == "storage tank"
    mapped = read_dataset(folder, class_map={"1": "ship"}).records[0].layout.instances[0]
    assert mapped.label == "ship"


KINDS = [
    ("yolo", "0 0.5 0.5 0.25 0.5\n"),
    ("yolo-obb", OBB),
    ("yolo-seg", "0 0.25 0.25 0.5 0.25 0.5 0.75\n"),
    ("yolo-seg", "0 0.25 0.25 0.5 0.25 0.5 0.75\n" + OBB),  # a four-point outline among others
]


@pytest.mark.parametrize(("kind", "text"), KINDS, ids=["box", "obb", "segments", "mixed"])
def test_the_kind_is_told_by_the_numbers_a_line(tmp_path: Path, kind: str, text: str) -> None:
    dataset = read_dataset(_set(tmp_path, text, {"classes.txt": "plane\n"}))
    assert dataset.format == kind
    for instance in dataset.records[0].layout.instances:
        assert (instance.mask is not None) == (kind == "yolo-seg")
        assert (instance.quad is not None) == (kind == "yolo-obb")
    assert any("classes.txt" in note for note in dataset.notes), "it must say what it found"


BOX = "0 0.5 0.5 0.25 0.5\n"
MERGED = "0 0.5 0.5 0.25 0.50 0.5 0.5 0.25 0.5\n"  # two boxes whose line end is lost
ODD_LINES = [
    pytest.param("yolo", BOX * 2 + MERGED, 2, 3, id="two boxes on a line"),
    pytest.param("yolo-obb", OBB * 12 + BOX, 12, 13, id="half an oriented box"),
    pytest.param("yolo-obb", OBB * 12 + OBB.rstrip() + OBB[1:], 12, 13, id="two oriented boxes"),
]


@pytest.mark.parametrize(("kind", "text", "objects", "line"), ODD_LINES)
def test_an_odd_line_does_not_decide_what_the_set_is(
    tmp_path: Path, kind: str, text: str, objects: int, line: int
) -> None:
    """Catches one bad line that turns every box of a set into an outline."""
    dataset = read_dataset(_set(tmp_path, text, {"classes.txt": "plane\n"}))
    assert dataset.format == kind and len(dataset.records[0].layout.instances) == objects
    (failure,) = dataset.failures
    assert failure.error == "FieldCount" and f"labels/a.txt:{line}" in failure.message
    assert "yolo-seg" in failure.message


def test_a_heading_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    folder = _set(tmp_path, OBB, {"classes.txt": "plane\n"})
    assert read_dataset(folder).records[0].layout.instances[0].heading_rad is None
    asked = read_dataset(folder, heading=True).records[0].layout.instances[0]
    assert asked.heading_rad == pytest.approx(-np.pi / 2)


@pytest.mark.parametrize(
    ("labels", "split"),
    [("labels/val", "val"), ("train/labels", "train"), ("valid/labels", "val"), ("labels", None)],
)
def test_splits_come_from_folders(tmp_path: Path, labels: str, split: str | None) -> None:
    dataset = read_dataset(_set(tmp_path, OBB, {"classes.txt": "plane\n"}, labels))
    assert [s.split for s in dataset] == [split]


def test_splits_come_from_data_yaml_too(tmp_path: Path) -> None:
    names = {"data.yaml": "val: ../images/north\nnames: [plane]\n"}
    dataset = read_dataset(_set(tmp_path, OBB, names, "labels/north"))
    assert [s.split for s in dataset] == ["val"]


def test_images_without_a_label_file_are_background(tmp_path: Path) -> None:
    folder = _set(tmp_path, OBB, {"classes.txt": "plane\n"})
    put_image(folder / "images" / "field.png")
    dataset = read_dataset(folder)
    assert len(by_stem(dataset)["field"].layout.instances) == 0
    assert any("without a label file" in note for note in dataset.notes)
    assert_counts_add_up(dataset)


def test_previews_beside_the_images_are_no_background(tmp_path: Path) -> None:
    """Pictures with drawn boxes, read as empty images, would teach that boats are water."""
    folder = _set(tmp_path, OBB, {"classes.txt": "plane\n"})
    put_image(folder / "previews" / "a.png")
    dataset = read_dataset(folder)
    assert [s.id for s in dataset] == ["images/a.png"]
    assert any("1 images outside" in note for note in dataset.notes)


def _samples() -> list:
    both = Mask.from_array(
        disk_mask(12, 12, 6, hole=3).to_array(WIDTH, HEIGHT)
        | disk_mask(50, 30, 7).to_array(WIDTH, HEIGHT)
    )
    assert both is not None
    return [
        sample_of(
            "train/a",
            plane(30, 24, 20, 8, 0.6),
            tank(20, 16, 8, hole=4),
            Instance("ship", both.box, mask=both),
            Instance("water", mask=disk_mask(30, 30, 5)),
            split="train",
        ),
        sample_of("b", split="val"),
    ]


@pytest.mark.parametrize("kind", ["yolo", "yolo-obb", "yolo-seg"])
def test_every_label_comes_back(tmp_path: Path, kind: str) -> None:
    samples = _samples()
    report = write(YoloWriter(kind), samples, tmp_path)  # type: ignore[arg-type]
    assert (report.labels, report.skipped) == (3, {"stuff class": 1})
    names = yaml.safe_load((tmp_path / "data.yaml").read_text())["names"]
    assert names == {0: "plane", 1: "storage tank", 2: "ship"}, "things only, from 0"

    back = read_dataset(tmp_path, heading=True)
    assert back.format == kind
    assert back.failures == []
    assert [s.split for s in by_stem(back).values()] == ["train", "val"]
    found = {i.label: i for i in by_stem(back)["train_a"].layout.instances}
    for source in samples[0].layout.instances[:3]:
        instance = found[source.label]
        assert np.allclose(
            [instance.box.x0, instance.box.y1], [source.box.x0, source.box.y1], atol=1e-4
        )
        if kind == "yolo-seg" and source.mask is not None:
            assert instance.mask == source.mask, "parts and holes survive the single outline"
        if kind == "yolo-obb" and source.quad is not None:
            assert np.allclose(instance.quad, source.quad, atol=1e-4)
            assert instance.heading_rad == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.8, 2.0, -1.2])
def test_oriented_boxes_over_the_border_are_cut_to_it(tmp_path: Path, angle: float) -> None:
    """Corners outside [0, 1] are dropped by common loaders, together with the object."""
    source = plane(58, 6, 30, 14, angle)
    write(YoloWriter("yolo-obb"), [sample_of("a", source)], tmp_path)
    values = np.array((tmp_path / "labels/train/a.txt").read_text().split()[1:], dtype=float)
    assert values.min() >= 0 and values.max() <= 1
    corners = values.reshape(4, 2) * (WIDTH, HEIGHT)
    assert polygon_area(corners) > 0, "clockwise on screen"
    instance = read_dataset(tmp_path, heading=True).records[0].layout.instances[0]
    assert instance.quad is not None and source.quad is not None
    assert np.cos(instance.heading_rad - angle) > 0.5, "the front stays the front"
    inside = np.clip(as_array(source.quad), 0, (WIDTH, HEIGHT))
    assert quad_iou(instance.quad, tuple(map(tuple, inside))) > 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(("splits", "told"), [(["train"], True), (["train", "val"], False)])
def test_a_set_without_val_says_that_ultralytics_wants_one(
    tmp_path: Path, splits: list[str], told: bool
) -> None:
    writer = YoloWriter("yolo")
    writer.open(tmp_path, CLASSES, splits)
    assert any("has no val" in note for note in writer.close().notes) == told
