"""labelme: what is drawn by hand is read, what is written opens there, bad files are named."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rsgen.errors import DataError
from rsgen.formats import Dataset, read_dataset, write_dataset
from rsgen.formats.labelme import FORMAT
from rsgen.geometry import Box, as_array
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance
from tests.formats_build import (
    CLASSES,
    HEIGHT,
    WIDTH,
    assert_counts_add_up,
    copy_bad,
    disk_mask,
    plane,
    put_image,
    sample_of,
    tank,
    write,
)

BAD_CLASSES = ClassTable.of("plane", "ship")

# rule, failure, place in the message, images kept, labels kept
FAILURES = [
    ("unknown-class", "UnknownClass", "a.json: shapes[1]", 1, 1),
    ("no-class", "UnknownClass", "a.json: shapes[1]", 1, 1),
    ("two-points", "FieldCount", "a.json: shapes[1]", 1, 1),
    ("point", "UnknownShape", "a.json: shapes[1]", 1, 1),
    ("line", "UnknownShape", "a.json: shapes[1]", 1, 1),
    ("one-corner", "FieldCount", "a.json: shapes[1]", 1, 1),
    ("three-corners", "FieldCount", "a.json: shapes[1]", 1, 1),
    ("word-for-number", "NotANumber", "a.json: shapes[1]", 1, 1),
    ("odd-point", "NotANumber", "a.json: shapes[1]", 1, 1),
    ("no-points", "NotANumber", "a.json: shapes[1]", 1, 1),
    ("outside-image", "OutsideImage", "a.json: shapes[1]", 1, 1),
    ("zero-area", "ZeroArea", "a.json: shapes[1]", 1, 1),
    ("thin", "ZeroArea", "a.json: shapes[1]", 1, 1),
    ("self-crossing", "SelfCrossing", "a.json: shapes[1]", 1, 1),
    ("crossed-box", "SelfCrossing", "a.json: shapes[1]", 1, 1),
    ("mask-garbage", "BadMask", "a.json: shapes[1]", 1, 1),
    ("mask-missing", "BadMask", "a.json: shapes[1]", 1, 1),
    ("mask-empty", "ZeroArea", "a.json: shapes[1]", 1, 1),
    ("mask-huge", "TooManyPixels", "a.json: shapes[1]", 1, 1),
    ("mask-outside", "OutsideImage", "a.json: shapes[1]", 1, 1),
    ("mixed-group", "MixedShapes", "a.json: shapes[1]", 1, 1),
    ("wrong-size", "WrongSize", "b.json", 1, 1),
    ("missing-image", "MissingImage", "b.json", 1, 1),
    ("no-image-path", "MissingField", "b.json", 1, 1),
    ("huge-size", "TooManyPixels", "b.json", 1, 1),
    ("fractional-size", "BadSize", "b.json", 1, 1),
    ("path-escape", "PathEscape", "b.json", 1, 1),
    ("absolute-path", "MissingImage", "b.json", 1, 1),
    ("no-shapes", "MissingField", "b.json", 1, 1),
    ("cut-short", "BadJson", "b.json", 1, 1),
    # A second file of an image would win or lose by the order of the names.
    ("duplicate-image", "DuplicateId", "a.json labels the same image, a.png", 1, 1),
]


@pytest.mark.parametrize(
    ("rule", "failure", "place", "images", "labels"), FAILURES, ids=[r[0] for r in FAILURES]
)
def test_a_bad_shape_or_image_is_one_named_failure(
    tmp_path: Path, rule: str, failure: str, place: str, images: int, labels: int
) -> None:
    folder = copy_bad("labelme", rule, tmp_path / "set", ["a.png", "b.png"])
    dataset = read_dataset(folder, format="labelme", classes=BAD_CLASSES)
    assert {f.error for f in dataset.failures} == {failure}
    assert dataset.counts["images_kept"] == images
    assert dataset.counts["labels_kept"] == labels
    assert place in dataset.failures[0].message
    assert "; fix: " in dataset.failures[0].message
    assert str(tmp_path) not in dataset.failures[0].message
    assert_counts_add_up(dataset)


def test_no_file_of_labelme_is_a_data_error(tmp_path: Path) -> None:
    folder = copy_bad("labelme", "empty-set", tmp_path / "set")
    with pytest.raises(DataError, match="empty labelme dataset"):
        read_dataset(folder, format="labelme")


# ---------------------------------------------------------------- reading


def shape(kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": "plane", "points": points, "shape_type": kind, "group_id": None, **more}


def picture(pixels: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def read(folder: Path, *shapes: dict[str, Any], image: str = "a.png", **keys: Any) -> Dataset:
    if not (folder / "a.png").exists():
        put_image(folder / "a.png")
    document = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **keys,
    }
    (folder / "a.json").write_text(json.dumps(document))
    return read_dataset(folder, classes=CLASSES)


def only(dataset: Dataset) -> Instance:
    assert not dataset.failures, dataset.failures
    (sample,) = dataset.records
    (instance,) = sample.layout.instances
    return instance


SQUARE = [[10.0, 8.0], [20.0, 8.0], [20.0, 18.0], [10.0, 18.0]]
RECTANGLES = [
    ("rectangle", [[20.0, 18.0], [10.0, 8.0]]),  # drawn from the bottom right
    ("rectangle", SQUARE),  # X-AnyLabeling writes all four
]


@pytest.mark.parametrize(("kind", "points"), RECTANGLES, ids=["two corners", "four corners"])
def test_a_rectangle_is_a_box_and_no_mask(
    tmp_path: Path, kind: str, points: list[list[float]]
) -> None:
    found = only(read(tmp_path, shape(kind, points)))
    assert (found.box, found.mask, found.quad) == (Box(10, 8, 20, 18), None, None)


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation"])
def test_an_oriented_rectangle_is_a_quad_without_a_front(tmp_path: Path, kind: str) -> None:
    found = only(read(tmp_path, shape(kind, [[30, 10], [40, 20], [30, 30], [20, 20]])))
    assert found.quad == ((30, 10), (40, 20), (30, 30), (20, 20))
    assert found.heading_rad is None, "labelme says nothing of fronts"


def test_a_polygon_is_filled_on_pixel_edges(tmp_path: Path) -> None:
    """Filled like OpenCV does, outline included, it would be 11 x 11."""
    found = only(read(tmp_path, shape("polygon", SQUARE)))
    assert found.mask is not None
    assert (found.mask.box, found.mask.area) == (Box(10, 8, 20, 18), 100)


def test_a_circle_is_drawn_by_its_centre_and_a_point(tmp_path: Path) -> None:
    found = only(read(tmp_path, shape("circle", [[30, 24], [30, 34]])))
    assert found.mask is not None
    assert found.mask.iou(disk_mask(30, 24, 10)) > 0.98


def test_a_mask_lies_at_its_first_point(tmp_path: Path) -> None:
    """labelme's second point is the last pixel, not the edge behind it."""
    pixels = np.zeros((5, 7), np.uint8)
    pixels[1:4, 2:6] = 1
    found = only(read(tmp_path, shape("mask", [[9, 6], [15, 10]], mask=picture(pixels))))
    assert found.mask is not None
    assert (found.mask.box, found.mask.area) == (Box(11, 7, 15, 10), 12)


def test_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    """An object that another one covers in the middle has two parts."""
    left = shape("polygon", [[2, 2], [8, 2], [8, 8], [2, 8]], group_id=4)
    right = shape("polygon", [[12, 2], [18, 2], [18, 8], [12, 8]], group_id=4)
    dataset = read(tmp_path, left, right, shape("polygon", SQUARE))
    assert dataset.counts["labels_kept"] == 3
    masks = [i.mask.area for i in dataset.records[0].layout.instances if i.mask is not None]
    assert sorted(masks) == [72, 100]


def test_a_group_holds_only_shapes_of_one_class(tmp_path: Path) -> None:
    other = {**shape("polygon", SQUARE, group_id=1), "label": "ship"}
    dataset = read(tmp_path, shape("polygon", SQUARE, group_id=1), other)
    assert {i.label for i in dataset.records[0].layout.instances} == {"plane", "ship"}


def test_a_box_and_an_outline_of_one_group_belong_together(tmp_path: Path) -> None:
    quad = shape("oriented_rectangle", SQUARE, group_id=1, heading=0.0)
    found = only(read(tmp_path, quad, shape("polygon", SQUARE, group_id=1)))
    assert found.quad is not None
    assert found.mask is not None
    assert as_array(found.quad)[:2].tolist() == [[20, 8], [20, 18]], "the front comes first"


@pytest.mark.parametrize("turn", [0.0, 0.4, -0.5, math.pi / 2])
def test_a_box_turned_by_hand_turns_its_heading(tmp_path: Path, turn: float) -> None:
    """labelme keeps the stored heading when the box is turned: the edge knows better."""
    before = plane(30, 24, 20, 8, 0.3)
    after = plane(30, 24, 20, 8, 0.3 + turn)
    assert before.quad is not None
    assert after.quad is not None
    corners = [list(p) for p in after.quad]
    found = only(read(tmp_path, shape("oriented_rectangle", corners, heading=0.3)))
    wanted = 0.3 + turn if abs(turn) < math.pi / 4 else 0.3  # a quarter turn looks like none
    assert found.heading_rad == pytest.approx(wanted)


def test_flags_description_and_attributes_are_kept(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "flags": {"difficult": True, "checked": True},
        "description": "white, two engines",
        "attributes": {"colour": "white"},
        "truncated": True,
    }
    found = only(read(tmp_path, shape("polygon", SQUARE, **more)))
    assert (found.difficult, found.truncated, found.iscrowd) == (True, True, False)
    assert found.caption == "white, two engines"
    assert found.attributes == {"colour": "white"}


PATHS = [
    ("labels/x.json", "a.png", "images/a.png", "images/a.png"),
    ("labels/x.json", "../images/a.png", "images/a.png", "images/a.png"),
    ("labels/x.json", "..\\images\\a.png", "images/a.png", "images/a.png"),
    ("x.json", "C:\\photos\\a.png", "a.png", "a.png"),
    ("sub/x.json", "/home/me/a.png", "sub/a.png", "sub/a.png"),
]


@pytest.mark.parametrize(("file", "name", "image", "wanted"), PATHS, ids=[p[1] for p in PATHS])
def test_the_image_is_found_where_labelme_says_or_by_its_name(
    tmp_path: Path, file: str, name: str, image: str, wanted: str
) -> None:
    put_image(tmp_path / image)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    document = {"shapes": [shape("polygon", SQUARE)], "imagePath": name, "imageHeight": None}
    (tmp_path / file).write_text(json.dumps(document))
    dataset = read_dataset(tmp_path)
    assert [s.image for s in dataset] == [wanted]


def test_embedded_pixels_do_not_hide_the_format(tmp_path: Path) -> None:
    """imageData of megabytes stands between the keys that tell labelme from other JSON."""
    shapes = [shape("polygon", SQUARE) for _ in range(3)]
    dataset = read(tmp_path, *shapes, imageData="A" * 300_000)
    assert dataset.format == "labelme"
    assert len(dataset.records[0].layout.instances) == 3


def test_other_json_files_are_left_alone_and_said(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "viewer"}')
    dataset = read(tmp_path, shape("polygon", SQUARE))
    assert len(dataset) == 1
    assert any("1 JSON files" in note for note in dataset.notes)


def test_an_image_without_shapes_is_an_empty_image(tmp_path: Path) -> None:
    assert read(tmp_path).records[0].layout.instances == ()


def test_an_id_copied_with_its_file_to_another_image_is_not_believed(tmp_path: Path) -> None:
    """People copy a file to start the next image from it."""
    dataset = read(tmp_path, shape("polygon", SQUARE), sampleId="scenes/other.png")
    assert [s.id for s in dataset] == ["a.png"]


# ---------------------------------------------------------------- writing


def test_what_was_written_opens_in_labelme(tmp_path: Path) -> None:
    """Its reader wants these keys, a path relative to the file, and pixels or that path."""
    sample = sample_of("a", plane(30, 24, 20, 9, 0.6), tank(12, 20, 8), split="train")
    write(FORMAT.writer(), [sample], tmp_path)
    record = json.loads((tmp_path / "train" / "a.json").read_text())
    assert {"version", "flags", "shapes", "imagePath", "imageData"} <= set(record)
    assert (tmp_path / "train" / record["imagePath"]).is_file()
    assert (record["imageHeight"], record["imageWidth"]) == (HEIGHT, WIDTH)
    for row in record["shapes"]:
        assert {"label", "points", "group_id", "shape_type", "flags"} <= set(row)
    assert (tmp_path / "labels.txt").read_text().split("\n")[:2] == ["plane", "storage tank"]


def test_masks_are_drawn_with_few_points_and_hardly_change(tmp_path: Path) -> None:
    """Pixel stairs of a disk have 60 corners: nobody can correct those by hand."""
    sample = sample_of("a", tank(24, 24, 15), split="train")
    write(FORMAT.writer(), [sample], tmp_path)
    (row,) = json.loads((tmp_path / "train" / "a.json").read_text())["shapes"]
    assert len(row["points"]) <= 16
    canvas = Image.new("1", (WIDTH * 4, HEIGHT * 4))
    ImageDraw.Draw(canvas).polygon([(x * 4, y * 4) for x, y in row["points"]], fill=1)
    drawn = np.asarray(canvas)[2::4, 2::4]
    mask = Mask.from_array(drawn)
    assert mask is not None
    assert mask.iou(disk_mask(24, 24, 15)) > 0.9


def two_parts() -> Instance:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[10:20, 10:20] = pixels[10:20, 30:44] = True
    mask = Mask.from_array(pixels)
    assert mask is not None
    return Instance("ship", mask.box, mask=mask)


ROUND_TRIP = [
    ("disk", tank(24, 24, 15)),
    ("ring", tank(24, 24, 15, 6)),
    ("small", tank(24, 24, 1.4)),
    ("parts", two_parts()),
    ("quad", plane(30, 24, 20, 9, 0.6, caption="x", attributes={"a": "b"}, difficult=True)),
    ("box", Instance("ship", Box(3.25, 4, 20.5, 15), iscrowd=True)),
]


@pytest.mark.parametrize("instance", [i for _, i in ROUND_TRIP], ids=[n for n, _ in ROUND_TRIP])
def test_what_is_read_back_is_what_the_format_says_it_holds(
    tmp_path: Path, instance: Instance
) -> None:
    sample = sample_of("a", instance, split="val")
    write(FORMAT.writer(), [sample], tmp_path)
    dataset = read_dataset(tmp_path, classes=CLASSES)
    held = FORMAT.holds.instance(instance, sample.layout, CLASSES)
    assert held is not None
    found = only(dataset)
    assert (found.mask, found.caption, found.attributes) == (
        held.mask,
        held.caption,
        held.attributes,
    )
    assert (found.difficult, found.iscrowd) == (held.difficult, held.iscrowd)
    if held.quad is not None:
        assert found.quad is not None
        assert as_array(found.quad) == pytest.approx(as_array(held.quad))
        assert found.heading_rad == pytest.approx(held.heading_rad)
    if instance.mask is not None:
        assert held.mask is not None
        assert held.mask.iou(instance.mask) >= 0.85
    assert dataset.records[0].layout.gsd_m == 0.5


def test_ids_survive_file_names(tmp_path: Path) -> None:
    """A tile's id has characters that no file name should have."""
    sample = sample_of("north/a.png#0,512", tank(24, 24, 9), split="train")
    write_dataset(
        FORMAT.writer(),
        [sample],
        CLASSES,
        tmp_path,
        copy_image=lambda s, path: put_image(path),
    )
    assert (tmp_path / "train" / "north_a_0_512.json").is_file()
    (read_back,) = read_dataset(tmp_path).records
    assert read_back.id == "north/a.png#0,512"
    assert read_back.parent == "north/a.png", "tiles of a scene share a split"
