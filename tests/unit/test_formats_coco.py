"""COCO read and write: layouts of folders, masks of every kind, ids, oriented boxes, streaming."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rsgen.errors import DataError, UsageError
from rsgen.formats import read_dataset
from rsgen.formats.coco_write import CategoryIds, CocoWriter
from rsgen.geometry import Box, quad_iou
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, Sample
from tests.formats_build import (
    CLASSES,
    assert_counts_add_up,
    by_stem,
    disk_mask,
    plane,
    put_image,
    sample_of,
    tank,
    write,
)


def document(**annotation: Any) -> dict[str, Any]:
    """One 64 x 48 image with one annotation."""
    record = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 8, 20, 16], **annotation}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [{k: v for k, v in record.items() if v is not None}],
        "categories": [{"id": 1, "name": "plane"}],
    }


def save(
    folder: Path, content: dict[str, Any], name: str = "annotations/instances_train.json"
) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


PLACES = [
    # json, image, what the id must be
    ("annotations/instances_train.json", "images/train/a.png", "images/train/a.png"),
    ("annotations/instances_train.json", "train/a.png", "train/a.png"),
    ("annotations/instances_val2017.json", "val2017/a.png", "val2017/a.png"),
    ("annotations/instances_val2017.json", "images/val2017/a.png", "images/val2017/a.png"),
    ("annotations/all.json", "images/a.png", "images/a.png"),
    ("train/_annotations.coco.json", "train/a.png", "train/a.png"),  # Roboflow
    ("annotations.json", "a.png", "a.png"),
]


@pytest.mark.parametrize(("json_name", "image", "sample_id"), PLACES, ids=[p[1] for p in PLACES])
def test_images_are_found_where_tools_put_them(
    tmp_path: Path, json_name: str, image: str, sample_id: str
) -> None:
    save(tmp_path, document(), json_name)
    put_image(tmp_path / image)
    dataset = read_dataset(tmp_path)
    assert [(s.id, s.image) for s in dataset] == [(sample_id, sample_id)]
    assert dataset.image_path(dataset.records[0]).is_file()
    wanted = next((w for w in ("train", "val") if w in json_name), None)
    assert dataset.records[0].split == wanted


def test_images_and_json_may_lie_apart(tmp_path: Path) -> None:
    file = save(tmp_path / "labels", document(), "my.json")
    put_image(tmp_path / "pictures" / "a.png")
    dataset = read_dataset(file, images=tmp_path / "pictures")
    assert [s.id for s in dataset] == ["a.png"]
    assert dataset.root == tmp_path / "pictures"


def test_labels_alone_are_enough_when_no_image_is_needed(tmp_path: Path) -> None:
    dataset = read_dataset(save(tmp_path, document()), require_images=False)
    assert [(s.id, s.image, s.layout.width) for s in dataset] == [("a.png", None, 64)]
    with pytest.raises(DataError, match="without an image"):
        dataset.image_path(dataset.records[0])


def test_images_without_annotations_are_kept(tmp_path: Path) -> None:
    content = document()
    content["images"].append({"id": 2, "file_name": "empty.png", "width": 64, "height": 48})
    put_image(tmp_path / "images" / "a.png")
    put_image(tmp_path / "images" / "empty.png")
    save(tmp_path, content)
    assert [len(s.layout.instances) for s in read_dataset(tmp_path)] == [1, 0]


DIALECT = [
    # bbox of cx cy w h angle -> corners by hand, clockwise on screen
    pytest.param([30, 20, 20, 8, 0], [(40, 16), (40, 24), (20, 24), (20, 16)], id="upright"),
    pytest.param(
        [30, 20, 20, 8, math.pi / 2], [(34, 30), (26, 30), (26, 10), (34, 10)], id="quarter turn"
    ),
]


@pytest.mark.parametrize(("bbox", "corners"), DIALECT)
def test_the_dialect_of_hit_uav(
    tmp_path: Path, bbox: list[float], corners: list[tuple[float, float]]
) -> None:
    """Keys `annotation`, `category`, `filename`; five numbers are a rotated box in radians."""
    written = {
        "images": [{"id": 0, "width": 64, "height": 48, "filename": "a.png"}],
        "annotation": [
            {"id": 0, "image_id": 0, "category_id": 1, "bbox": bbox, "difficult": True},
            {"id": 1, "image_id": 0, "category_id": 0, "bbox": [4, 4, 10, 6]},
        ],
        "category": [{"id": 0, "name": "Person"}, {"id": 1, "name": "Car"}],
    }
    (tmp_path / "rotate.json").write_text(json.dumps(written))
    put_image(tmp_path / "images" / "a.png")
    dataset = read_dataset(tmp_path)
    assert (dataset.format, dataset.failures) == ("coco", [])
    found = {i.label: i for i in dataset.records[0].layout.instances}
    assert np.allclose(found["Car"].quad, corners)
    assert found["Car"].heading_rad is None and found["Car"].difficult
    assert found["Person"].box == Box(4, 4, 14, 10) and found["Person"].quad is None


def test_captions_beside_instances_are_left_alone(tmp_path: Path) -> None:
    save(tmp_path, document())
    save(tmp_path, {"images": [], "annotations": []}, "annotations/captions_train.json")
    assert read_dataset(tmp_path, require_images=False).counts["labels_kept"] == 1


ring = disk_mask(20, 16, 8, hole=4)


def uncompressed(mask: Mask) -> dict[str, Any]:
    flat = mask.to_array(64, 48).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return {"size": [48, 64], "counts": runs.tolist()}


SEGMENTATIONS = [
    # A pixel more or less at a border would be a frame shift of half a pixel.
    ("triangle", [[10, 8, 30, 8, 10, 24]], None),
    ("two-parts", [[10, 8, 14, 8, 14, 12, 10, 12], [20, 8, 30, 8, 30, 24]], None),
    # Overlapping parts are a union; even-odd over all parts would punch a hole.
    ("overlapping-parts", [[10, 8, 20, 8, 20, 18, 10, 18], [15, 8, 25, 8, 25, 18, 15, 18]], 150),
    ("compressed", ring.to_coco(64, 48), ring.area),
    ("uncompressed", uncompressed(ring), ring.area),
    ("from-first-pixel", {"size": [48, 64], "counts": [0, 48, 3024]}, 48),
]


@pytest.mark.parametrize(
    ("segmentation", "area"), [s[1:] for s in SEGMENTATIONS], ids=[s[0] for s in SEGMENTATIONS]
)
def test_masks_equal_those_of_pycocotools(
    tmp_path: Path, segmentation: Any, area: int | None
) -> None:
    save(tmp_path, document(segmentation=segmentation, bbox=None))
    mask = read_dataset(tmp_path, require_images=False).records[0].layout.instances[0].mask
    assert mask is not None
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, 48, 64)
        code = coco_mask.merge(code) if isinstance(code, list) else code
    else:
        code = segmentation
    expected = coco_mask.decode(code).astype(bool)
    found = mask.to_array(64, 48)
    slack = 0 if area is not None else 8  # pixels on a slanted edge may go either way
    assert int((found ^ expected).sum()) <= slack
    if area is not None:
        assert mask.area == area


def test_crowds_stay_crowds(tmp_path: Path) -> None:
    crowd = Instance("ship", ring.box, mask=ring, iscrowd=True)
    write(CocoWriter(), [sample_of("a", crowd)], tmp_path)
    record = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert record["annotations"][0]["iscrowd"] == 1
    assert isinstance(record["annotations"][0]["segmentation"], dict)
    assert read_dataset(tmp_path).records[0].layout.instances[0].iscrowd


def test_a_segmentation_that_repeats_its_box_is_no_mask(tmp_path: Path) -> None:
    """Converters write the box's corners as a polygon: read as a mask, every plane is a brick."""
    save(tmp_path, document(segmentation=[[10, 8, 30, 8, 30, 24, 10, 24]]))
    dataset = read_dataset(tmp_path, require_images=False)
    assert dataset.records[0].layout.instances[0].mask is None
    assert any("no mask" in note for note in dataset.notes)


def test_small_loops_are_filled_and_said(tmp_path: Path) -> None:
    outline = [10, 8, 30, 8, 30, 24, 9.5, 23.5, 10.5, 24]
    save(tmp_path, document(segmentation=[outline]))
    dataset = read_dataset(tmp_path, require_images=False)
    assert dataset.records[0].layout.instances[0].mask is not None
    assert any("small loops" in note for note in dataset.notes)


def test_every_kind_of_label_comes_back(tmp_path: Path) -> None:
    """Write, read: labels, masks with holes and parts, headings, flags, splits, gsd."""
    parts = Mask.from_array(
        disk_mask(10, 10, 5).to_array(64, 48) | disk_mask(50, 30, 5).to_array(64, 48)
    )
    square = Mask.from_array(np.ones((6, 6), dtype=bool), 5, 30)
    assert parts is not None and square is not None
    samples = [
        sample_of(
            "train/a",
            plane(30, 24, 20, 8, 0.6, difficult=True),
            plane(40, 20, 12, 6, -2.5, mask=square),
            tank(20, 16, 8, hole=4),
            Instance("ship", parts.box, mask=parts),
            Instance("ship", Box(1, 2, 9, 9), truncated=True),
            split="train",
        ),
        sample_of("val/a", split="val"),
    ]
    report = write(CocoWriter(), samples, tmp_path)
    assert report.labels == 5
    back = read_dataset(tmp_path)
    assert_counts_add_up(back)
    assert back.failures == []
    found = by_stem(back)
    assert found["val_a"].split == "val" and found["val_a"].layout.instances == ()
    assert found["train_a"].layout.gsd_m == 0.5
    wanted = {(i.label, i.truncated, i.difficult): i for i in samples[0].layout.instances[:4]}
    for instance in found["train_a"].layout.instances:
        source = wanted.get((instance.label, instance.truncated, instance.difficult))
        if source is None:
            continue
        assert instance.mask == source.mask
        if source.quad is not None:
            assert instance.quad is not None
            assert np.allclose(instance.quad, source.quad, atol=1e-4)
            assert instance.heading_rad == pytest.approx(source.heading_rad, abs=1e-5)


def test_written_fields_are_what_coco_tools_expect(tmp_path: Path) -> None:
    samples = [sample_of("a", plane(30, 24, 20, 8, 0.6), tank(20, 16, 8, hole=4), tank(50, 30, 6))]
    write(CocoWriter(), samples, tmp_path)
    content = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert [c["id"] for c in content["categories"]] == [1, 2, 3], "ids count from 1, no water"
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    assert content["images"][0]["id"] == 1
    oriented, holed, whole = content["annotations"]
    assert oriented["obb"] == pytest.approx([30, 24, 20, 8, 0.6])
    assert oriented["heading"] == pytest.approx(0.6)
    assert len(oriented["segmentation"][0]) == 8
    assert oriented["area"] == pytest.approx(160)
    assert isinstance(holed["segmentation"], dict), "a polygon would fill the hole"
    assert holed["area"] == samples[0].layout.instances[1].mask.area  # type: ignore[union-attr]
    assert isinstance(whole["segmentation"], list)
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_upright_obb_keeps_its_rectangular_mask(tmp_path: Path) -> None:
    """Four points in `segmentation` mean the label's corners; a square mask must not look so."""
    square = Mask.from_array(np.ones((6, 6), dtype=bool), 5, 30)
    assert square is not None
    samples = [
        sample_of(
            "a", plane(8, 33, 6, 6, 0.0, mask=square), Instance("ship", square.box, mask=square)
        )
    ]
    write(CocoWriter(), samples, tmp_path)
    assert [i.mask for i in read_dataset(tmp_path).records[0].layout.instances] == [square, square]


def test_category_ids_start_and_from_file(tmp_path: Path) -> None:
    other = save(
        tmp_path,
        {
            "categories": [
                {"id": 7, "name": "Boat"},
                {"id": 3, "name": "airplane"},
                {"id": 9, "name": "tank"},
            ]
        },
        "other.json",
    )
    assert CategoryIds.parse("start=0").assign(CLASSES) == {
        "plane": 0,
        "storage tank": 1,
        "ship": 2,
    }
    found = CategoryIds.parse(f"from={other}").assign(CLASSES)
    assert found == {"plane": 3, "storage tank": 9, "ship": 7}, "names meet through aliases"
    with pytest.raises(UsageError, match="not understood"):
        CategoryIds.parse("first=1")
    with pytest.raises(DataError, match="no category 'helicopter'"):
        CategoryIds.parse(f"from={other}").assign(ClassTable.of("helicopter"))
    with pytest.raises(DataError, match="no COCO categories"):
        CategoryIds.parse(f"from={tmp_path / 'gone.json'}")


def test_labels_over_the_border_are_clipped_and_flagged(tmp_path: Path) -> None:
    save(tmp_path, document(bbox=[50, 40, 30, 30]))
    found = read_dataset(tmp_path, require_images=False).records[0].layout.instances[0]
    assert found.box == Box(50, 40, 64, 48)
    assert found.truncated


def test_stuff_is_one_mask_a_class_and_first(tmp_path: Path) -> None:
    content = document()
    content["categories"].append({"id": 2, "name": "water", "isthing": 0})
    for number, x in ((2, 0), (3, 30)):
        outline = [x, 0, x + 10, 0, x + 10, 20, x, 20, x, 10]
        content["annotations"].append(
            {"id": number, "image_id": 1, "category_id": 2, "segmentation": [outline]}
        )
    save(tmp_path, content)
    dataset = read_dataset(tmp_path, require_images=False)
    water, thing = dataset.records[0].layout.instances
    assert (water.label, water.box, thing.label) == ("water", None, "plane")
    assert water.mask is not None and water.mask.area == 400
    assert dataset.counts["labels_read"] == dataset.counts["labels_kept"] == 3
    write(CocoWriter(), [], tmp_path / "out")


def test_heading_worked_case(tmp_path: Path) -> None:
    """The quad (2,0)(6,0)(6,10)(2,10) faces up: heading -pi/2."""
    quad = ((2.0, 0.0), (6.0, 0.0), (6.0, 10.0), (2.0, 10.0))
    instance = Instance("plane", Box(2, 0, 6, 10), quad, heading_rad=-math.pi / 2)
    write(CocoWriter(), [sample_of("a", instance)], tmp_path)
    record = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert record["annotations"][0]["obb"] == pytest.approx([4, 5, 10, 4, -math.pi / 2], abs=1e-6)
    back = read_dataset(tmp_path).records[0].layout.instances[0]
    assert back.quad is not None and quad_iou(back.quad, quad) == pytest.approx(1)
    assert back.quad == quad


def test_writing_takes_flat_memory(tmp_path: Path) -> None:
    """Annotations are spooled: ten times the images must not take ten times the memory."""
    box = Instance("ship", Box(1, 2, 9, 9))
    many = tuple(box for _ in range(20))

    def peak(count: int) -> int:
        writer = CocoWriter()
        tracemalloc.start()
        writer.open(tmp_path / str(count), CLASSES, ["train"])
        for k in range(count):
            writer.add(Sample(str(k), Layout(64, 48, many)), f"{k}.png", "train")
        writer.close()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(1000) < peak(100) + 200_000
