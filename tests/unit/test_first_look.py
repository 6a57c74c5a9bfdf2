"""init: what is found in a folder, what is advised, and a file that runs as it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rsgen.config import load_config, section_name
from rsgen.errors import DataError
from rsgen.first_look import Advice, Findings, Request, advise, describe, examine, factory_yaml
from rsgen.first_look.findings import ClassFound
from rsgen.images import write_png
from rsgen.registry import BUILT_IN
from tests.build import tree
from tests.raster_build import box_ring, feature, noise, on_map, put_geojson, put_raster

Here = Callable[..., Any]


def image(path: Path, width: int = 160, height: int = 128) -> None:
    """Dark ground with something bright in the middle, of 36 x 16 px."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[height // 2 - 8 : height // 2 + 8, width // 2 - 18 : width // 2 + 18] = 220
    write_png(path, pixels)


def yolo(folder: Path, count: int = 12, names: str = "boat\ncar\n") -> Path:
    """`count` images, each with a boat of 40 x 20 px and a car of 16 x 8 px."""
    for k in range(count):
        image(folder / "images" / f"{k}.png")
        label = folder / "labels" / f"{k}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 0.5 0.5 0.25 0.15625\n1 0.2 0.2 0.1 0.0625\n")
    (folder / "classes.txt").write_text(names)
    return folder


def dota(folder: Path) -> Path:
    for split in ("train", "val"):
        for k in range(6):
            image(folder / split / "images" / f"{split}{k}.png")
            label = folder / split / "labelTxt" / f"{split}{k}.txt"
            label.parent.mkdir(exist_ok=True)
            label.write_text("gsd:0.5\n20 10 40 30 30 40 10 20 plane 0\n9 9 12 9 12 9 x y 0\n")
    return folder


def coco(folder: Path) -> Path:
    image(folder / "pictures" / "a.png")
    ring = [10, 20, 30, 10, 50, 20, 40, 30, 20, 30]
    rows = {
        "images": [{"id": 1, "file_name": "a.png", "width": 160, "height": 128}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 10, 40, 20], "area": 800,
             "segmentation": [ring], "iscrowd": 0}
        ],
        "categories": [{"id": 7, "name": "tennis court: “A”, #1"}],
    }  # fmt: skip
    (folder / "labels.json").write_text(json.dumps(rows))
    return folder


def test_boxes(tmp_path: Path) -> None:
    found = examine(Request(yolo(tmp_path)))
    assert (found.format, found.label_kind, found.images, found.objects) == (
        "yolo",
        "boxes",
        12,
        24,
    )
    boat, car = found.classes
    assert (boat.known_as, car.known_as) == ("ship", "small-vehicle")
    assert (boat.objects, boat.images) == (12, 12) and boat.train == found.splits["train"]
    assert boat.median_px == pytest.approx(np.sqrt(40 * 20), rel=1e-3)
    assert found.sizes == ((160, 128, 12),) and found.least_side == 128
    assert not found.splits_given and sum(found.splits.values()) == 12
    assert found.gsd_from == "guess" and found.gsd_m == pytest.approx(4.6 / 16, abs=0.01)
    assert "car is 16 px" in found.gsd_why


def test_turned_boxes_splits_ground_and_bad_labels(tmp_path: Path) -> None:
    found = examine(Request(dota(tmp_path)))
    assert found.label_kind == "oriented" and found.turned == 12 and found.with_front == 12
    assert found.splits == {"train": 6, "val": 6} and found.splits_given
    assert (found.gsd_m, found.gsd_from) == (0.5, "files")
    assert sum(found.bad.values()) == 12 and "labelTxt" in found.bad_examples[0]
    lines = [line for level, line in describe(found, advise(found)) if level == "warning"]
    assert lines[0].startswith("left out: 12 ") and any("few" in line for line in lines)


def test_shapes(tmp_path: Path) -> None:
    folder = coco(tmp_path)
    found = examine(Request(folder / "labels.json", images=folder / "pictures"))
    assert found.label_kind == "masks" and found.with_shape == 1
    assert advise(found).formats == ("coco", "yolo-seg")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "no labels of a known format"),
        ("no images", "not one usable image"),
        ("bad images", "not one usable image; the first: .*; fix: replace it"),
    ],
)
def test_what_cannot_be_read_is_exit_3(kind: str, said: str, tmp_path: Path) -> None:
    if kind == "no images":
        yolo(tmp_path, 1)
        (tmp_path / "images" / "0.png").unlink()
    if kind == "bad images":
        yolo(tmp_path, 1)
        (tmp_path / "images" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=said) as caught:
        examine(Request(tmp_path))
    assert ("--images" in str(caught.value.hint)) == (kind == "no images")


PLAIN = Findings(
    format="yolo", why="w", images=100, empty_images=0, sizes=((640, 640, 100),), other_sizes=0,
    least_side=640, largest_side=640, objects=300, things=300, with_shape=0, turned=0, with_front=0,
    label_kind="boxes",
    classes=(ClassFound("boat", "thing", False, "ship", 300, 240, 100, 30.0),),
    splits={"train": 80, "val": 10, "test": 10}, splits_given=False, median_px=30.0,
    long_px=40.0, gsd_m=None, gsd_from="unknown", gsd_why="none", bad={}, bad_examples=(),
    notes=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "advised"),
    [
        pytest.param({}, {"size": 128, "steps": 400, "count": 160, "hub_size": 512}, id="plain"),
        pytest.param({"splits": {"train": 5000}}, {"steps": 2000, "count": 500}, id="large set"),
        pytest.param({"splits": {"train": 240}}, {"steps": 600}, id="twenty passes"),
        pytest.param({"long_px": 126.0}, {"size": 192}, id="objects that need room"),
        pytest.param({"long_px": 900.0}, {"size": 256}, id="never beyond what a CPU does"),
        pytest.param({"least_side": 100}, {"size": 96, "hub_size": 64}, id="small images"),
        pytest.param({"largest_side": 1537}, {"tiled": True}, id="large scenes"),
        pytest.param({"largest_side": 1536}, {"tiled": False}, id="just not large"),
        pytest.param({"label_kind": "oriented"}, {"formats": ("coco", "dota", "yolo-obb")},
                     id="oriented"),
        pytest.param({"label_kind": "masks", "classes": (ClassFound("road", "stuff", False, "road",
                      3, 3, 3, None),)}, {"formats": ("coco", "masks")}, id="ground"),
        pytest.param({"median_px": None, "long_px": None, "objects": 0}, {"cells": None},
                     id="no objects"),
    ],
)  # fmt: skip
def test_advice(changed: dict[str, Any], advised: dict[str, Any]) -> None:
    advice = advise(dataclasses.replace(PLAIN, **changed))
    assert {key: getattr(advice, key) for key in advised} == advised
    assert advice.size % 16 == 0 and advice.size <= max(changed.get("least_side", 640), 16)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"splits": {"train": 9}}, "9 images to learn from: few"),
        ({"long_px": 400.0}, "more than the 256 px canvas"),
        ({"median_px": 6.0}, "too small to be painted"),
    ],
)
def test_warnings(changed: dict[str, Any], said: str) -> None:
    assert any(said in line for line in advise(dataclasses.replace(PLAIN, **changed)).warnings)
    assert advise(PLAIN).warnings == ()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("oriented", "83: 79 in turned boxes, 0 with"),
        ("masks", "83: 12 with a shape"),
        ("boxes", "83: all in upright boxes"),
    ],
)
def test_the_count_of_objects_is_one_number(kind: str, said: str) -> None:
    """Catches 'objects  83 79 in turned boxes', which reads as one number."""
    found = dataclasses.replace(
        PLAIN, objects=83, turned=79, with_front=0, with_shape=12, label_kind=kind
    )
    assert any(f"objects  {said}" in line for _, line in describe(found, advise(found)))


def test_classes_without_objects_take_one_line() -> None:
    """Catches 60 lines of nothing for a table of 66 classes."""
    more = [ClassFound(f"c{k}", "thing", False, None, 0, 0, 0, None) for k in range(40)]
    found = dataclasses.replace(PLAIN, classes=(*PLAIN.classes, *more))
    lines = [line for _, line in describe(found, advise(found))]
    assert any("boat  300 in 100 images" in line for line in lines)
    (rest,) = [line for line in lines if "c0" in line]
    assert rest.strip() == "no object of 40 classes: c0, c1, c2, c3, c4, c5, c6, c7, ..."
    assert len(checked(factory_yaml(Request(Path("x")), found, advise(found)))["classes"]) == 41


def checked(text: str) -> dict[str, Any]:
    """The file as YAML, every stage's section held against the settings."""
    data = dict(yaml.safe_load(text))
    for entry in data["stages"].values():
        assert entry["command"] in {*BUILT_IN["stages"], *BUILT_IN["programs"]}
        shared = {k: v for k, v in data.items() if k != "stages"}
        load_config([shared, {section_name(entry["command"]): entry.get("config")}], environ={})
    assert all(line.isprintable() for line in text.splitlines())
    return data


ODD = ["null", "a: b", "#1", "- x", "two\nlines", "“ü”", "'", '"', "yes", "1e3", "\u2028x", "*a"]


@pytest.mark.parametrize("name", ODD)
def test_any_name_survives(name: str) -> None:
    """Catches names that YAML reads as something else, and comments that end early."""
    classes = (dataclasses.replace(PLAIN.classes[0], name=name),)
    found = dataclasses.replace(PLAIN, classes=classes, why=name, notes=(name,), gsd_why=name)
    request = Request(Path(f"d {name}"), Path(name), class_map={name: "x", "y": name})
    data = checked(factory_yaml(request, found, advise(found)))
    assert data["classes"][0]["name"] == name
    masks = data["stages"]["masks"]
    assert masks["inputs"] == {"dataset": f"d {name}", "images": name}
    assert masks["config"]["class_map"] == {name: "x", "y": name}


@pytest.mark.parametrize("gsd", ["files", "guess", "given", "unknown"])
@pytest.mark.parametrize("kind", ["boxes", "oriented", "masks"])
def test_every_variant_is_valid(gsd: str, kind: str) -> None:
    metres = None if gsd == "unknown" else 0.5
    found = dataclasses.replace(PLAIN, gsd_from=gsd, gsd_m=metres, label_kind=kind)
    data = checked(factory_yaml(Request(Path("ships")), found, advise(found)))
    off = [name for name, stage in data["stages"].items() if not stage.get("enabled", True)]
    assert off == ["judges", "tuned"]
    kept = [name for name in data["stages"] if name not in off]
    assert kept == ["masks", "pool", "model", "images", "kept", "set"]
    assert data["stages"]["masks"]["config"].get("gsd_m") == (0.5 if gsd == "given" else None)
    model = data["stages"]["model"]["config"]
    assert (model["unet"], model["lr"], model["base"]) == ("full", 2e-4, "tiny")


def test_comments_that_wait_to_be_used_are_valid_too() -> None:
    """Uncommenting a line that is a key must give a file that loads."""
    found = dataclasses.replace(PLAIN, gsd_m=0.5, gsd_from="guess")
    text = factory_yaml(Request(Path("ships")), found, advise(found))
    waiting = [k for k, line in enumerate(text.splitlines()) if line.lstrip().startswith(("# gsd_m",
               "# empty:", "# per_class:", "# config:", "# class_map:"))]  # fmt: skip
    assert len(waiting) == 5
    for k in waiting:
        lines = text.splitlines()
        lines[k] = lines[k].replace("# ", "", 1)
        checked("\n".join(lines))


def test_ground_alone_is_painted_from_its_own_layouts() -> None:
    """Catches a pool stage that ends in `no usable shape`."""
    road = ClassFound("road", "stuff", False, "road", 3, 3, 3, None)
    found = dataclasses.replace(
        PLAIN, classes=(road,), things=0, label_kind="masks", median_px=None, long_px=None
    )
    stages = checked(factory_yaml(Request(Path("x")), found, advise(found)))["stages"]
    assert "pool" not in stages
    assert stages["images"]["inputs"] == {"checkpoint": "model", "layouts": "masks"}


def test_nothing_labelled_is_exit_3_after_the_findings(tmp_path: Path, cli_here: Here) -> None:
    yolo(tmp_path / "set", 3)
    for path in (tmp_path / "set" / "labels").iterdir():
        path.write_text("")
    done = cli_here("init", "set")
    assert done.code == 3 and "images   3 of" in done.err and "no object is labelled" in done.err
    assert done.out == ""


def test_a_table_that_ships_with_rsgen(tmp_path: Path) -> None:
    folder = yolo(tmp_path, names="ship\nsmall-vehicle\n")
    request = Request(folder, classes="dota-v1.0", gsd_m=0.3)
    found = examine(request)
    data = checked(factory_yaml(request, found, advise(found)))
    assert data["stages"]["masks"]["config"]["classes"] == "dota-v1.0" and "classes" not in data


def test_the_command_writes_stdout_alone_and_the_file_runs(
    tmp_path: Path, cli_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo(tmp_path / "my set")
    before = tree(tmp_path)
    done = cli_here("init", "my set")
    assert done.code == 0 and "format   yolo" in done.err and tree(tmp_path) == before, done
    assert cli_here("init", "my set").out == done.out, "the same folder, the same file"
    (tmp_path / "factory.yaml").write_text(done.out)
    dry = cli_here("run", "factory.yaml", "--work", "w", "--dry-run")
    assert dry.code == 0 and "extract-masks my set" in dry.out, dry
    first = cli_here("run", "factory.yaml", "--work", "w", "--until", "pool",
                     "-s", "execution.workers=1")  # fmt: skip
    assert first.code == 0, first
    rows = cli_here("init", "my set", "--json").json
    assert rows["found"]["objects"] == 24 and rows["pipeline"] == done.out and rows["schema"] == 1
    assert set(rows["advice"]) == {field.name for field in dataclasses.fields(Advice)}


def test_labels_that_need_a_word_more(tmp_path: Path, cli_here: Here) -> None:
    """Catches an error of a reader whose fix init does not take, and a file that lost it."""
    put_raster(tmp_path / "set" / "a.tif", noise(3, 96, 128))
    put_geojson(
        tmp_path / "set" / "roofs.geojson",
        [feature(on_map(box_ring(x, 20, x + 16, 40)), floors=x) for x in (10, 50, 90)],
    )
    told = cli_here("init", "set")
    assert told.code == 3 and "-s extract_masks.label_name=NAME" in told.err
    done = cli_here("init", "set", "-s", "extract_masks.label_name=null island")
    assert done.code == 0, done
    data = checked(done.out)
    assert data["stages"]["masks"]["config"]["label_name"] == "null island"
    assert [row["name"] for row in data["classes"]] == ["null island"]
    bad = cli_here("init", "set", "-s", "train.lr=1")
    assert bad.code == 2 and "extract_masks.label_key" in bad.err
    worse = cli_here("init", "set", "-s", "extract_masks.voc_base=3")
    assert worse.code == 2 and "voc_base" in worse.err


def test_help_teaches(cli_here: Here) -> None:
    text = cli_here("init", "--help").out
    assert "> factory.yaml" in text and "--class-map" in text
    missing = cli_here("init", "nowhere")
    assert missing.code == 3 and "nowhere" in missing.err and missing.out == ""
