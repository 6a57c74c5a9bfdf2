"""VOC, roLabelImg, DIOR-R and HRSC2016 XML: coordinates by hand, folders, splits, encodings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.classes import load_class_table
from rsgen.errors import DataError
from rsgen.formats import detect, read_dataset
from rsgen.formats.checks import whole_pixels
from rsgen.formats.common import Problem
from rsgen.formats.voc import VocWriter
from rsgen.formats.xml_labels import zero_based
from rsgen.formats.xml_tree import parse_xml
from rsgen.geometry import Box
from rsgen.records import ClassTable, Instance
from tests.formats_build import (
    CLASSES,
    WIDTH,
    assert_counts_add_up,
    by_stem,
    plane,
    put_image,
    sample_of,
    write,
)
from tests.raster_build import NORTH_UP, put_raster

EDGES = ("xmin", "ymin", "xmax", "ymax")
ROTATED = ("cx", "cy", "w", "h", "angle")
CORNERS = tuple(
    f"{axis}_{corner}"
    for corner in ("left_top", "right_top", "right_bottom", "left_bottom")
    for axis in "xy"
)
MBOX = ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")


def numbers(tags: tuple[str, ...], values: tuple[object, ...]) -> str:
    return "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, values, strict=True))


def box(*values: object, name: str = "plane", more: str = "") -> str:
    inside = f"<name>{name}</name><bndbox>{numbers(EDGES, values)}</bndbox>{more}"
    return f"<object>{inside}</object>"


def turned(tags: tuple[str, ...], *values: object, name: str = "plane") -> str:
    inside = f"<type>robndbox</type><name>{name}</name>"
    return f"<object>{inside}<robndbox>{numbers(tags, values)}</robndbox></object>"


def voc(*objects: str, name: str = "a.png", size: str = "") -> str:
    return f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


def put(folder: Path, text: str | bytes, file: str = "Annotations/a.xml", image: str = "") -> Path:
    """A label file with its image (none where `image` is '-')."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if image != "-":
        put_image(folder / (image or f"JPEGImages/{path.stem}.png"))
    return folder


def the_instance(folder: Path, **options: Any) -> Instance:
    dataset = read_dataset(folder, **options)
    assert not dataset.failures
    (found,) = dataset.records[0].layout.instances
    return found


# ---------------------------------------------------------------- VOC

# xmin ymin xmax ymax, base, edges x0 y0 x1 y1
VOC_BOXES = [
    pytest.param((1, 1, 10, 5), "auto", (0, 0, 10, 5), id="the first pixel is 1, the last inside"),
    pytest.param((3, 4, 3, 4), "auto", (2, 3, 3, 4), id="one pixel"),
    pytest.param((64, 48, 64, 48), "auto", (63, 47, 64, 48), id="the last pixel"),
    pytest.param((0, 4, 10, 20), "auto", (0, 4, 10, 20), id="a zero: edges"),
    pytest.param((0, 4, 64, 48), "auto", (0, 4, 64, 48), id="edges up to the border"),
    pytest.param((2.5, 4, 10.5, 20), "auto", (1.5, 3, 10.5, 20), id="fractions"),
    pytest.param((3, 4, 10, 20), 0, (3, 4, 10, 20), id="said to be edges"),
    pytest.param((0, 4, 10, 20), 1, (0, 3, 10, 20), id="said to be pixels: clipped"),
]


@pytest.mark.parametrize(("values", "base", "edges"), VOC_BOXES)
def test_voc_boxes_become_edges(
    tmp_path: Path, values: tuple[float, ...], base: Any, edges: tuple[float, ...]
) -> None:
    found = the_instance(put(tmp_path, voc(box(*values))), voc_base=base)
    assert found == Instance("plane", Box(*edges))


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([], False),
        ([(5, 9)], False),
        ([(0, 9)], True),
        ([(5, 0)], True),
        ([(1, 1), (1, 7), (0, 9)], False),  # one slip among many does not move the set
        ([(0, 0), (1, 7), (0, 9)], True),
        ([(-3, 5)], False),
    ],
)
def test_zeros_decide_what_boxes_count_from(
    starts: list[tuple[float, float]], expected: bool
) -> None:
    assert zero_based([(*start, 20, 20) for start in starts]) is expected


def test_the_base_is_one_for_the_whole_set_and_told(tmp_path: Path) -> None:
    put(tmp_path, voc(box(0, 4, 10, 20)))
    put(tmp_path, voc(box(5, 5, 10, 20)), "Annotations/b.xml")
    dataset = read_dataset(tmp_path)
    assert by_stem(dataset)["b"].layout.instances[0].box == Box(5, 5, 10, 20)
    assert any("boxes start at 0" in note for note in dataset.notes)


MARKS = [
    pytest.param("<difficult>1</difficult>", {"difficult": True}, id="difficult"),
    pytest.param("<truncated>1</truncated>", {"truncated": True}, id="truncated"),
    pytest.param("<occluded>1</occluded>", {"attributes": {"occluded": "1"}}, id="occluded"),
    pytest.param("<difficult>true</difficult>", {"difficult": True}, id="a word"),
    pytest.param("<difficult/><truncated>Unspecified</truncated>", {}, id="nothing said"),
    pytest.param("<pose>Left</pose>", {}, id="pose is not carried"),
    # VOC's people have heads and hands with boxes of their own.
    pytest.param(
        f"<part><name>head</name><bndbox>{numbers(EDGES, (2, 2, 4, 4))}</bndbox></part>",
        {},
        id="parts are no objects",
    ),
]


@pytest.mark.parametrize(("more", "fields"), MARKS)
def test_marks_and_parts(tmp_path: Path, more: str, fields: dict[str, Any]) -> None:
    found = the_instance(put(tmp_path, voc(box(3, 3, 10, 10, more=more))))
    assert found == Instance("plane", Box(2, 2, 10, 10), **fields)


def test_a_part_before_the_box_is_not_taken_for_it(tmp_path: Path) -> None:
    part = f"<part><name>head</name><bndbox>{numbers(EDGES, (2, 2, 4, 4))}</bndbox></part>"
    text = (
        f"<object>{part}<name>plane</name><bndbox>{numbers(EDGES, (3, 3, 9, 9))}</bndbox></object>"
    )
    assert the_instance(put(tmp_path, voc(text))).box == Box(2, 2, 9, 9)


def test_tags_and_names_in_any_case(tmp_path: Path) -> None:
    text = voc(box(3, 3, 10, 10, name="Storage_Tank")).replace("bndbox", "BndBox")
    assert the_instance(put(tmp_path, text), classes=CLASSES).label == "storage tank"


def test_an_object_over_the_border_is_cut_and_marked(tmp_path: Path) -> None:
    found = the_instance(put(tmp_path, voc(box(40, 10, 80, 20))))
    assert (found.box, found.truncated) == (Box(39, 9, WIDTH, 20), True)


SIZES = [
    pytest.param("<size><width>64</width><height>48</height></size>", "", id="right"),
    pytest.param("", "", id="none"),
    pytest.param("<size><width>0</width><height>0</height></size>", "0 x 0", id="zeros"),
]


@pytest.mark.parametrize(("size", "note"), SIZES)
def test_a_size_of_zeros_says_nothing(tmp_path: Path, size: str, note: str) -> None:
    dataset = read_dataset(put(tmp_path, voc(box(3, 3, 10, 10), size=size)))
    assert (dataset.records[0].layout.width, dataset.records[0].layout.height) == (64, 48)
    assert any(note in text for text in dataset.notes)


def test_without_images_the_declared_size_counts(tmp_path: Path) -> None:
    size = "<size><width>90</width><height>70</height></size>"
    put(tmp_path, voc(box(3, 3, 80, 60), size=size), image="-")
    dataset = read_dataset(tmp_path, require_images=False)
    assert [(s.id, s.layout.width, s.layout.height) for s in dataset] == [("a", 90, 70)]


PLACES = [
    # label file, filename element, image, sample
    pytest.param("Annotations/a.xml", "a.png", "JPEGImages/a.png", id="VOC"),
    pytest.param("Annotations/a.xml", "", "images/a.png", id="no filename"),
    pytest.param("a.xml", "elsewhere.png", "a.png", id="its own name goes before filename"),
    pytest.param("xml/7.xml", "deep\\a.png", "images/a.png", id="filename where no name fits"),
    pytest.param("xml/7.xml", "a", "images/a.png", id="filename without suffix"),
    pytest.param(
        "Annotations/Oriented Bounding Boxes/a.xml", "a", "JPEGImages-trainval/a.png", id="DIOR"
    ),
    pytest.param("labels/train/a.xml", "a.png", "images/train/a.png", id="split folders"),
]


@pytest.mark.parametrize(("file", "name", "image"), PLACES)
def test_label_files_find_their_image(tmp_path: Path, file: str, name: str, image: str) -> None:
    dataset = read_dataset(put(tmp_path, voc(box(3, 3, 10, 10), name=name), file, image))
    assert [s.image for s in dataset] == [image]
    assert dataset.records[0].split == ("train" if "train/" in image else None)
    assert any("names another image" in n for n in dataset.notes) == (name == "elsewhere.png")
    assert_counts_add_up(dataset)


def test_a_filename_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    put_image(tmp_path / "secret.png")
    folder = put(tmp_path / "set", voc(box(3, 3, 10, 10), name="../secret.png"), image="-")
    put_image(folder / "JPEGImages/b.png")
    dataset = read_dataset(folder)
    assert {f.error for f in dataset.failures} == {"MissingImage", "MissingLabels"}


LISTS = [
    pytest.param({"Main/train": "a\nb\n", "Main/val": "c\n"}, ["train", "train", "val"], id="VOC"),
    pytest.param({"train": "a.png\n", "test": "b\r\nc\n"}, ["train", "test", "test"], id="HRSC"),
    pytest.param({"Main/trainval": "a\nb\n", "Main/test": "c"}, ["train", "train", "test"],
                 id="trainval alone"),
    pytest.param({"Main/trainval": "a\nb\n", "Main/train": "a", "Main/val": "b"},
                 ["train", "val", None], id="trainval beside both"),
    pytest.param({"Main/plane_train": "a 1\nb -1\n", "Main/val": "c"}, [None, None, "val"],
                 id="a list of one class is no split"),
    pytest.param({"Segmentation/train": "a\n", "Main/val": "b\n"}, [None, "val", None],
                 id="another task"),
    pytest.param({"Main/train": "a\nb\nc\n", "Main/test": "b\n"}, ["train", "test", "train"],
                 id="the part held out wins"),
]  # fmt: skip


@pytest.mark.parametrize(("lists", "splits"), LISTS)
def test_image_sets_give_the_splits(
    tmp_path: Path, lists: dict[str, str], splits: list[str | None]
) -> None:
    for stem in "abc":
        put(tmp_path, voc(box(3, 3, 10, 10)), f"Annotations/{stem}.xml")
    for name, text in lists.items():
        path = tmp_path / "ImageSets" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for options in ({}, {"labels": tmp_path / "Annotations"}):
        dataset = read_dataset(tmp_path, **options)
        found = by_stem(dataset)
        assert [found[stem].split for stem in "abc"] == splits
        held_out = "b" in lists.get("Main/train", "") and "b" in lists.get("Main/test", "")
        assert any("several splits" in note for note in dataset.notes) == held_out


def test_xml_of_other_kinds_is_left_alone(tmp_path: Path) -> None:
    """GDAL's sidecars and metadata are no labels: they once failed as images without a file."""
    put(tmp_path, voc(box(3, 3, 10, 10)))
    (tmp_path / "JPEGImages" / "a.png.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "metadata.xml").write_text("<metadata/>")
    dataset = read_dataset(tmp_path)
    assert not dataset.failures
    assert "1 XML files without <annotation> left alone" in dataset.notes


def test_one_label_file_does_not_ask_for_those_of_other_images(tmp_path: Path) -> None:
    put(tmp_path, voc(box(3, 3, 10, 10)))
    put_image(tmp_path / "JPEGImages" / "b.png")
    file = tmp_path / "Annotations" / "a.xml"
    for path, options in ((tmp_path, {"labels": file}), (file, {"images": tmp_path})):
        dataset = read_dataset(path, **options)  # type: ignore[arg-type]
        assert [s.image for s in dataset] == ["JPEGImages/a.png"]
        assert not dataset.failures


def test_a_geotiff_keeps_its_place_on_the_ground(tmp_path: Path) -> None:
    put(tmp_path, voc(box(3, 3, 10, 10), name="a.tif"), "a.xml", image="-")
    put_raster(tmp_path / "a.tif", np.zeros((3, 48, 64), np.uint8))
    (sample,) = read_dataset(tmp_path, format="voc")
    assert sample.geo is not None and sample.geo.affine == tuple(NORTH_UP)[:6]
    assert sample.layout.gsd_m is not None
    assert sample.layout.instances[0].box == Box(2, 2, 10, 10)


def test_an_image_without_objects_is_kept(tmp_path: Path) -> None:
    dataset = read_dataset(put(tmp_path, voc()))
    assert [len(s.layout.instances) for s in dataset] == [0]
    assert dataset.format == "voc"


# ---------------------------------------------------------------- encodings and attacks

TEXT = voc(box(3, 3, 10, 10, name="gr\u00fcn \u98de\u673a"))
ENCODINGS = [
    pytest.param(TEXT.encode(), id="utf-8"),
    pytest.param(TEXT.encode("utf-8-sig"), id="byte-order mark"),
    pytest.param(TEXT.encode("utf-16"), id="utf-16"),
    pytest.param(f'<?xml version="1.0" encoding="utf-16"?>{TEXT}'.encode("utf-16"), id="both"),
    pytest.param(f'<?xml version="1.0" encoding="utf-16"?>{TEXT}'.encode(), id="said, not done"),
    pytest.param(
        f"<?xml version='1.0' encoding='GB18030'?>\n{TEXT}".encode("gb18030"), id="declared"
    ),
    pytest.param(f'<?xml version="1.0"?>\n<!-- {"x" * 300} -->{TEXT}'.encode(), id="comment"),
    pytest.param(TEXT.replace("飞", "&#x98de;").encode(), id="character reference"),
    pytest.param(TEXT.replace("gr\u00fcn 飞机", "<![CDATA[grün 飞机]]>").encode(), id="cdata"),
]


@pytest.mark.parametrize("data", ENCODINGS)
def test_encodings(tmp_path: Path, data: bytes) -> None:
    assert the_instance(put(tmp_path, data)).label == "gr\u00fcn \u98de\u673a"


def test_lines_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<annotation>\n\n  <object>\n    <name> plane </name></object></annotation>")
    node = parse_xml(path).find("object")
    assert node is not None
    assert (node.line, node.value("name")) == (3, "plane")


ATTACKS = [
    pytest.param('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>', id="file"),
    pytest.param('<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><a/>', id="outer document type"),
    pytest.param('<!DOCTYPE a [<!ENTITY % p "x">]><a/>', id="parameter entity"),
    pytest.param(f'<!DOCTYPE a [<!ENTITY x "{"y" * 9999}">]><a>{"&x;" * 9999}</a>', id="quadratic"),
    pytest.param("<a>&x;</a>", id="unknown entity"),
    pytest.param("<a>" * 100_000, id="deep"),
    pytest.param("<a>" + "<b/>" * 300_001 + "</a>", id="wide"),
    pytest.param(f"<a {'b=1 ' * 300_000}/>", id="attributes"),
    pytest.param(f"<a>{' ' * (17 << 20)}</a>", id="large"),
    pytest.param("<a>\0</a>", id="a zero byte"),
    pytest.param("<a/><a/>", id="two roots"),
]


@pytest.mark.parametrize("text", ATTACKS)
def test_what_expands_or_reaches_out_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(Problem) as caught:
        parse_xml(path)
    assert caught.value.name == "BadXml"
    assert caught.value.fix


# ---------------------------------------------------------------- oriented boxes

R = 1 / math.sqrt(2)
# cx cy w h angle -> corners, by hand: x right, y down, the angle turns clockwise on screen
ROTATED_BOXES = [
    pytest.param((30, 20, 20, 8, 0), [(20, 16), (40, 16), (40, 24), (20, 24)], id="upright"),
    pytest.param(
        (30, 20, 20, 8, math.pi / 2), [(26, 10), (34, 10), (34, 30), (26, 30)], id="quarter"
    ),
    # w runs to the lower right: its ends are (30 + 10R, 20 + 10R) and the opposite
    pytest.param(
        (30, 20, 20, 8, math.pi / 4),
        [(30 - 6 * R, 20 - 14 * R), (30 + 14 * R, 20 + 6 * R),
         (30 + 6 * R, 20 + 14 * R), (30 - 14 * R, 20 - 6 * R)],
        id="to the lower right",
    ),
    pytest.param(
        (30, 20, 20, 8, 3 * math.pi / 4),
        [(30 - 14 * R, 20 + 6 * R), (30 + 6 * R, 20 - 14 * R),
         (30 + 14 * R, 20 - 6 * R), (30 - 6 * R, 20 + 14 * R)],
        id="to the upper right",
    ),
]  # fmt: skip


def same_corners(quad: Any, expected: list[tuple[float, float]]) -> bool:
    """Whether a quad has these corners in this order round, whichever comes first."""
    turns = [[*expected[k:], *expected[:k]] for k in range(4)]
    return any(
        all(math.dist(p, q) < 1e-9 for p, q in zip(quad, turn, strict=True)) for turn in turns
    )


@pytest.mark.parametrize(("values", "corners"), ROTATED_BOXES)
@pytest.mark.parametrize("kind", ["rolabelimg", "dior-r"])
def test_rotated_boxes_turn_clockwise_on_screen(
    tmp_path: Path, kind: str, values: tuple[float, ...], corners: list[tuple[float, float]]
) -> None:
    """Catches an angle taken the other way round, or from the box's height."""
    folder = put(tmp_path, voc(turned(ROTATED, *values)))
    assert detect(folder).format == "rolabelimg"
    found = the_instance(folder, format=kind)
    assert same_corners(found.quad, corners)
    assert found.heading_rad is None
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    assert found.box is not None
    edges = (found.box.x0, found.box.y0, found.box.x1, found.box.y1)
    assert edges == pytest.approx((min(xs), min(ys), max(xs), max(ys)))


QUAD = (4, 4, 20, 6, 18, 16, 2, 14)


@pytest.mark.parametrize(
    ("values", "corners"),
    [
        pytest.param(QUAD, [(4, 4), (20, 6), (18, 16), (2, 14)], id="clockwise"),
        pytest.param((4, 4, 2, 14, 18, 16, 20, 6), [(2, 14), (4, 4), (20, 6), (18, 16)],
                     id="counter-clockwise is turned round"),
    ],
)  # fmt: skip
def test_dior_r_corners(
    tmp_path: Path, values: tuple[float, ...], corners: list[tuple[float, float]]
) -> None:
    folder = put(tmp_path, voc(turned(CORNERS, *values)))
    assert detect(folder).format == "dior-r"
    found = the_instance(folder)
    assert same_corners(found.quad, corners)
    assert (found.heading_rad, found.box) == (None, Box(2, 4, 20, 16))


@pytest.mark.parametrize(("heading", "expected"), [("auto", None), (False, None), (True, True)])
def test_a_front_is_the_first_edge_only_when_asked(
    tmp_path: Path, heading: Any, expected: object
) -> None:
    folder = put(tmp_path, voc(turned(CORNERS, *QUAD)))
    found = the_instance(folder, heading=heading)
    # from the centre (11, 10) to the middle (12, 5) of the first edge: upward
    angle = math.atan2(-5, 1) if expected else None
    assert found.heading_rad == (angle if angle is None else pytest.approx(angle))


def _both_kinds(folder: Path) -> Path:
    """The same two images labelled in two folders, one of upright boxes, one of oriented."""
    for stem in "ab":
        upright = voc(box(5, 5, 20, 15)) if stem == "a" else voc()
        oriented = voc(turned(CORNERS, *QUAD)) if stem == "a" else voc()
        put(folder, upright, f"Annotations/Horizontal Bounding Boxes/{stem}.xml")
        put(folder, oriented, f"Annotations/Oriented Bounding Boxes/{stem}.xml")
    return folder


@pytest.mark.parametrize(
    ("kind", "oriented"), [("auto", True), ("dior-r", True), ("voc", False)]
)  # fmt: skip
def test_of_two_folders_a_format_reads_its_own(tmp_path: Path, kind: str, oriented: bool) -> None:
    """Catches every label file of the second folder failing as a duplicate."""
    dataset = read_dataset(_both_kinds(tmp_path), format=kind)
    assert not dataset.failures
    assert dataset.format == ("dior-r" if oriented else "voc")
    (found,) = by_stem(dataset)["a"].layout.instances
    assert (found.quad is not None) == oriented
    assert any("left alone" in note for note in dataset.notes)
    assert len(dataset) == 2


def test_upright_and_oriented_boxes_in_one_file(tmp_path: Path) -> None:
    """roLabelImg lets both stand side by side."""
    folder = put(tmp_path, voc(box(5, 5, 20, 15), turned(ROTATED, 30, 30, 10, 6, 0.4)))
    dataset = read_dataset(folder)
    assert dataset.format == "rolabelimg"
    quads = [i.quad is not None for i in dataset.records[0].layout.instances]
    assert sorted(quads) == [False, True]


# ---------------------------------------------------------------- HRSC2016


def ship(
    *values: object, bow: tuple[object, object] | None = None, class_id: str = "100000013"
) -> str:
    front = "" if bow is None else numbers(("header_x", "header_y"), bow)
    return (
        f"<HRSC_Object><Class_ID>{class_id}</Class_ID><truncated>1</truncated>"
        f"<difficult>0</difficult>{numbers(MBOX, values)}{front}</HRSC_Object>"
    )


def hrsc(*objects: str, gsd: str = "1.07") -> str:
    return (
        f"<HRSC_Image><Img_FileName>a</Img_FileName><Img_FileFmt>bmp</Img_FileFmt>"
        f"<Img_Resolution>{gsd}</Img_Resolution><Img_SizeWidth>64</Img_SizeWidth>"
        f"<Img_SizeHeight>48</Img_SizeHeight><HRSC_Objects>{''.join(objects)}</HRSC_Objects>"
        "</HRSC_Image>"
    )


def put_ship(folder: Path, *objects: str, gsd: str = "1.07") -> Path:
    put(
        folder,
        hrsc(*objects, gsd=gsd),
        "FullDataSet/Annotations/a.xml",
        "FullDataSet/AllImages/a.bmp",
    )
    return folder


BOWS = [
    # angle, bow -> heading; w is the long side
    pytest.param((30, 20, 20, 6, 0.0), (39, 20), 0.0, id="along w"),
    pytest.param((30, 20, 20, 6, 0.0), (21, 21), -math.pi, id="against w"),
    pytest.param((30, 20, 20, 6, -0.3), (40, 17), -0.3, id="turned"),
    pytest.param((30, 20, 20, 6, -0.3), (20, 23), math.pi - 0.3, id="turned, against"),
    pytest.param((30, 20, 6, 20, 0.0), (30, 29), math.pi / 2, id="h is the long side, down"),
    pytest.param((30, 20, 6, 20, 0.0), (31, 11), -math.pi / 2, id="h is the long side, up"),
    pytest.param((30, 20, 20, 6, 0.2), (0, 0), None, id="not marked"),
    pytest.param((30, 20, 20, 6, 0.2), None, None, id="absent"),
    pytest.param((30, 20, 20, 6, 0.2), (30, 20), None, id="at the centre"),
    pytest.param((30, 20, 20, 6, 0.2), (500, 20), None, id="far away"),
]


@pytest.mark.parametrize(("values", "bow", "heading"), BOWS)
def test_the_bow_gives_the_heading(
    tmp_path: Path, values: tuple[float, ...], bow: Any, heading: float | None
) -> None:
    found = the_instance(put_ship(tmp_path, ship(*values, bow=bow)))
    if heading is None or found.heading_rad is None:
        assert found.heading_rad is heading
    else:
        assert math.remainder(found.heading_rad - heading, 2 * math.pi) == pytest.approx(0)
        (x1, y1), (x2, y2), *_ = found.quad or ()
        front = math.atan2((y1 + y2) / 2 - values[1], (x1 + x2) / 2 - values[0])
        assert math.remainder(front - heading, 2 * math.pi) == pytest.approx(0)
        assert -math.pi <= found.heading_rad < math.pi
    assert (found.label, found.truncated) == ("ship", True)


def test_the_published_example(tmp_path: Path) -> None:
    """The first object of the data set's own page: the bow lies where w ends."""
    values = (582.9349, 353.2006, 778.1303, 174.2541, -0.2144308)
    text = hrsc(ship(*values, bow=(964, 290)))
    text = text.replace("<Img_SizeWidth>64", "<Img_SizeWidth>1172")
    text = text.replace("<Img_SizeHeight>48", "<Img_SizeHeight>753")
    put(tmp_path, text, image="-")
    dataset = read_dataset(tmp_path, require_images=False)
    assert dataset.format == "hrsc2016"
    (sample,) = dataset
    (found,) = sample.layout.instances
    assert found.heading_rad == pytest.approx(-0.2144308)
    assert sample.layout.gsd_m == 1.07
    assert found.quad is not None
    middle = [(a + b) / 2 for a, b in zip(found.quad[0], found.quad[1], strict=True)]
    assert math.dist(middle, (964, 290)) < 25


CLASS_IDS = [
    pytest.param(None, {}, "100000005", "ship", id="no table: one class"),
    pytest.param("hrsc2016", {}, "100000005", "ship", id="the table of one class"),
    pytest.param("hrsc2016-types", {}, "100000005", "Nimitz", id="the table of types"),
    pytest.param("hrsc2016-types", {}, "100000099", "ship", id="a type that it does not list"),
    pytest.param(None, {"100000005": "carrier"}, "100000005", "carrier", id="class map"),
    pytest.param("dota-v1.0", {}, "100000005", "ship", id="another set's table"),
]


@pytest.mark.parametrize(("table", "renamed", "class_id", "label"), CLASS_IDS)
def test_class_ids(
    tmp_path: Path, table: str | None, renamed: dict[str, str], class_id: str, label: str
) -> None:
    folder = put_ship(tmp_path, ship(30, 20, 20, 6, 0.2, class_id=class_id))
    classes = None if table is None else load_class_table(table)
    assert the_instance(folder, classes=classes, class_map=renamed).label == label


@pytest.mark.parametrize("gsd", ["", "0", "unknown", "-1", "nan"])
def test_a_resolution_that_is_none(tmp_path: Path, gsd: str) -> None:
    folder = put_ship(tmp_path, ship(30, 20, 20, 6, 0.2), gsd=gsd)
    assert read_dataset(folder).records[0].layout.gsd_m is None


# ---------------------------------------------------------------- writing


def test_what_a_voc_file_looks_like(tmp_path: Path) -> None:
    """Pinned, since other people's readers take it apart."""
    thing = Instance("storage tank", Box(0, 4, 10, 20), truncated=True)
    write(VocWriter(), [sample_of("a", thing, split="val")], tmp_path)
    assert (tmp_path / "Annotations/a.xml").read_text() == (
        "<annotation>\n"
        "  <folder>JPEGImages</folder>\n"
        "  <filename>a.png</filename>\n"
        "  <source>\n"
        "    <database>Unknown</database>\n"
        "  </source>\n"
        "  <size>\n"
        "    <width>64</width>\n"
        "    <height>48</height>\n"
        "    <depth>3</depth>\n"
        "  </size>\n"
        "  <gsd_m>0.5</gsd_m>\n"
        "  <segmented>0</segmented>\n"
        "  <object>\n"
        "    <name>storage tank</name>\n"
        "    <pose>Unspecified</pose>\n"
        "    <truncated>1</truncated>\n"
        "    <difficult>0</difficult>\n"
        "    <bndbox>\n"
        "      <xmin>1</xmin>\n"
        "      <ymin>5</ymin>\n"
        "      <xmax>10</xmax>\n"
        "      <ymax>20</ymax>\n"
        "    </bndbox>\n"
        "  </object>\n"
        "</annotation>\n"
    )
    assert (tmp_path / "ImageSets/Main/val.txt").read_text() == "a\n"
    assert (tmp_path / "ImageSets/Main/train.txt").read_text() == ""
    assert (tmp_path / "JPEGImages/a.png").is_file()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param((0, 0, 64, 48), (0, 0, 64, 48), id="the whole image"),
        pytest.param((1.4, 1.5, 9.6, 9.5), (1, 2, 10, 10), id="to the nearest edge"),
        pytest.param((5.1, 5.1, 5.4, 5.4), (5, 5, 6, 6), id="never empty"),
        pytest.param((63.7, 47.7, 64, 48), (63, 47, 64, 48), id="never outside"),
        pytest.param((0, 0, 0.2, 0.2), (0, 0, 1, 1), id="nor before"),
    ],
)
def test_boxes_are_moved_onto_whole_pixels(
    given: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    assert whole_pixels(Box(*given), 64, 48) == Box(*expected)


def test_moved_boxes_are_told(tmp_path: Path) -> None:
    things = (Instance("plane", Box(4, 4, 10, 10)), Instance("plane", Box(4.5, 4, 10, 10)))
    report = write(VocWriter(), [sample_of("a", *things)], tmp_path)
    assert report.notes == ("1 boxes were moved onto whole pixels",)
    assert (report.images, report.labels) == (1, 2)


def test_names_that_xml_would_take_apart(tmp_path: Path) -> None:
    table = ClassTable.of("a <b> & \"c\" 'd'", "飞机")
    things = [Instance(name, Box(4, 4, 10, 10 + k)) for k, name in enumerate(table.names)]
    writer = VocWriter()
    writer.open(tmp_path, table, ["train"])
    put_image(tmp_path / writer.image_path("a.png", "train", sample_of("a")))
    writer.add(sample_of("a", *things), "a.png", "train")
    writer.close()
    found = read_dataset(tmp_path, classes=table).records[0].layout.instances
    assert {i.label for i in found} == set(table.names)


def test_dior_r_keeps_the_first_edge(tmp_path: Path) -> None:
    """A heading is no field of DIOR-R; the order of the corners still carries it."""
    from rsgen.registry import resolve

    write(
        resolve("formats", "dior-r").writer(), [sample_of("a", plane(30, 24, 20, 8, 2.5))], tmp_path
    )
    found = the_instance(tmp_path, heading=True)
    assert found.heading_rad == pytest.approx(2.5, abs=1e-4)


def test_a_set_of_xml_that_holds_no_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<metadata/>")
    with pytest.raises(DataError, match="no labels of a known format"):
        read_dataset(tmp_path)
