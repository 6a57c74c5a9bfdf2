"""DOTA read and write: fields, headers, headings, folder layouts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rsgen.formats import read_dataset
from rsgen.formats.common import Problem
from rsgen.formats.dota import DotaWriter, parse_line
from rsgen.geometry import Box
from rsgen.records import Instance
from tests.formats_build import (
    CLASSES,
    assert_counts_add_up,
    by_stem,
    plane,
    put_image,
    sample_of,
    write,
)

CORNERS = (2.0, 0.0, 6.0, 0.0, 6.0, 10.0, 2.0, 10.0)
NUMBERS = "2 0 6.0 0 6 10 2 1e1"

LINES = [
    (f"{NUMBERS} plane 0", ("plane", False)),
    (f"{NUMBERS} plane 1", ("plane", True)),
    (f"{NUMBERS} plane 2", ("plane", True)),  # DOTA's devkit marks truncated ones with 2
    (f"{NUMBERS} plane", ("plane", False)),
    (f"{NUMBERS} small vehicle 1", ("small vehicle", True)),
    (f"  {NUMBERS}\tsmall-vehicle  0 ", ("small-vehicle", False)),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[x[0][len(NUMBERS) :] for x in LINES])
def test_lines_of_nine_and_ten_fields(line: str, expected: tuple[str, bool]) -> None:
    assert parse_line(line) == (CORNERS, *expected)


def test_a_short_line_says_how_many_coordinates_it_has() -> None:
    with pytest.raises(Problem, match="3 of 8 coordinates"):
        parse_line("1 2 3 plane 0")


def _set(folder: Path, text: str, labels: str = "labelTxt", images: str = "images") -> Path:
    (folder / labels).mkdir(parents=True)
    (folder / labels / "P1.txt").write_text(text, encoding="utf-8")
    put_image(folder / images / "P1.png")
    return folder


LAYOUTS = [
    ("labelTxt", "images", None),
    ("annfiles", "images", None),
    ("train/labelTxt", "train/images", "train"),
    ("val/annfiles", "val/images", "val"),
    ("labelTxt-v1.0/train", "images/train", "train"),
    ("train/labelTxt-v1.5/obb", "train/images/obb", "train"),
    ("labelTxt", ".", None),
]


@pytest.mark.parametrize(("labels", "images", "split"), LAYOUTS, ids=[x[0] for x in LAYOUTS])
def test_folder_layouts(tmp_path: Path, labels: str, images: str, split: str | None) -> None:
    dataset = read_dataset(_set(tmp_path, "4 4 20 6 18 16 2 14 plane 0\n", labels, images))
    assert dataset.format == "dota"
    assert [(len(s.layout.instances), s.split) for s in dataset] == [(1, split)]
    assert_counts_add_up(dataset)


def test_headers_are_read_and_an_option_beats_them(tmp_path: Path) -> None:
    text = "\ufeffimagesource:GoogleEarth\ngsd:0.146343590398\n4 4 20 6 18 16 2 14 plane 0\n"
    folder = _set(tmp_path, text)
    sample = read_dataset(folder).records[0]
    assert sample.layout.gsd_m == pytest.approx(0.146343590398)
    assert sample.attributes["imagesource"] == "GoogleEarth"
    assert read_dataset(folder, gsd_m=0.3).records[0].layout.gsd_m == 0.3


@pytest.mark.parametrize("value", ["null", "", "None", "0", "-1", "nan"])
def test_a_meaningless_gsd_is_unknown(tmp_path: Path, value: str) -> None:
    folder = _set(tmp_path, f"gsd:{value}\n4 4 20 6 18 16 2 14 plane 0\n")
    dataset = read_dataset(folder)
    assert dataset.records[0].layout.gsd_m is None
    assert dataset.failures == []


def test_the_first_edge_is_the_front(tmp_path: Path) -> None:
    """The worked case faces up; a turned quad beside it says that the set is oriented."""
    text = "2 0 6 0 6 10 2 10 plane 0\n40 10 50 20 40 30 30 20 plane 0\n"
    found = read_dataset(_set(tmp_path, text)).records[0].layout.instances
    up = next(i for i in found if i.box == Box(2, 0, 6, 10))
    turned = next(i for i in found if i is not up)
    assert up.heading_rad == pytest.approx(-math.pi / 2)
    assert turned.heading_rad == pytest.approx(-math.pi / 4)


def test_corners_against_the_clock_keep_their_front(tmp_path: Path) -> None:
    text = "50 20 40 10 30 20 40 30 plane 0\n"
    found = read_dataset(_set(tmp_path, text)).records[0].layout.instances[0]
    assert found.heading_rad == pytest.approx(-math.pi / 4)
    assert found.quad is not None and found.quad[0] == (40, 10)


def test_an_upright_set_has_boxes_and_no_headings(tmp_path: Path) -> None:
    """A converted box set would otherwise make every plane fly up."""
    folder = _set(tmp_path, "2 0 6 0 6 10 2 10 plane 0\n")
    dataset = read_dataset(folder)
    instance = dataset.records[0].layout.instances[0]
    assert (instance.quad, instance.heading_rad, instance.box) == (None, None, Box(2, 0, 6, 10))
    assert any("upright" in note for note in dataset.notes)
    forced = read_dataset(folder, heading=True).records[0].layout.instances[0]
    assert forced.heading_rad == pytest.approx(-math.pi / 2)


def test_headings_can_be_refused_and_symmetric_classes_have_none(tmp_path: Path) -> None:
    folder = _set(tmp_path, "40 10 50 20 40 30 30 20 plane 0\n10 10 20 12 18 22 8 20 tank 0\n")
    for option, expected in (("auto", [False, True]), (False, [True, True])):
        dataset = read_dataset(folder, classes=CLASSES, heading=option)  # type: ignore[arg-type]
        found = {i.label: i for i in dataset.records[0].layout.instances}
        missing = [found[n].heading_rad is None for n in ("plane", "storage tank")]
        assert missing == expected
        assert all(i.quad is not None for i in found.values())


def test_pairs_are_joined_by_name_not_by_order(tmp_path: Path) -> None:
    """With sorted positions an image without labels would shift all labels after it."""
    for name in ("a", "b", "c"):
        put_image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labelTxt").mkdir()
    (tmp_path / "labelTxt" / "c.txt").write_text("4 4 20 6 18 16 2 14 plane 0\n")
    (tmp_path / "labelTxt" / "a.txt").write_text("")
    dataset = read_dataset(tmp_path)
    assert {k: len(s.layout.instances) for k, s in by_stem(dataset).items()} == {"a": 0, "c": 1}
    assert [f.error for f in dataset.failures] == ["MissingLabels"]


def test_the_label_folder_alone_finds_the_images_beside_it(tmp_path: Path) -> None:
    folder = _set(tmp_path, "4 4 20 6 18 16 2 14 plane 0\n")
    assert [s.id for s in read_dataset(folder / "labelTxt")] == ["images/P1.png"]


def test_labels_and_images_apart_and_sizes_without_images(tmp_path: Path) -> None:
    folder = _set(tmp_path / "set", "4 4 20 6 18 16 2 14 plane 0\n")
    (folder / "images" / "P1.png").rename(tmp_path / "P1.png")
    dataset = read_dataset(folder, images=tmp_path, labels=folder / "labelTxt")
    assert [s.image for s in dataset] == ["P1.png"]
    alone = read_dataset(folder, require_images=False, size=(64, 48))
    assert [(s.id, s.image, s.layout.width) for s in alone] == [("P1", None, 64)]
    unknown = read_dataset(folder, require_images=False)
    assert [f.error for f in unknown.failures] == ["MissingImage"]
    assert "how large" in unknown.failures[0].message


@pytest.mark.parametrize("layout", ["labelTxt", "annfiles"])
def test_every_label_comes_back(tmp_path: Path, layout: str) -> None:
    samples = [
        sample_of(
            "x/one",
            plane(30, 24, 20, 8, 0.6, difficult=True),
            Instance("storage tank", Box(1, 2, 9.25, 9)),
            Instance("water"),
            split="train",
        ),
        sample_of("two", split="val"),
    ]
    report = write(DotaWriter(layout), samples, tmp_path)  # type: ignore[arg-type]
    assert report.skipped == {"stuff class": 1}
    back = read_dataset(tmp_path, classes=CLASSES)
    assert back.failures == []
    found = by_stem(back)
    assert found["two"].split == "val" and found["two"].layout.instances == ()
    assert found["x_one"].layout.gsd_m == (0.5 if layout == "labelTxt" else None)
    oriented, tank = found["x_one"].layout.instances
    assert np.allclose(oriented.quad, samples[0].layout.instances[0].quad, atol=1e-4)
    assert oriented.heading_rad == pytest.approx(0.6, abs=1e-4)
    assert oriented.difficult
    assert (tank.label, tank.box) == ("storage tank", Box(1, 2, 9.25, 9))


def test_class_names_are_written_without_spaces(tmp_path: Path) -> None:
    write(DotaWriter(), [sample_of("a", Instance("storage tank", Box(1, 2, 9, 9)))], tmp_path)
    text = (tmp_path / "train/labelTxt/a.txt").read_text()
    assert text == "imagesource:null\ngsd:0.5\n1 2 9 2 9 9 1 9 storage-tank 0\n"
