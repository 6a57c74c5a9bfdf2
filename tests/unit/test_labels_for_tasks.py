"""Labels for three tasks: class lists of images, one box an object, masks of what is left of it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import DataError, UsageError
from rsgen.execution import Job, run_stage
from rsgen.export import export
from rsgen.formats import read_dataset
from rsgen.formats.class_list import ClassListWriter, check_lists
from rsgen.geometry import Box
from rsgen.images import sha256_file, write_png
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, Sample
from tests.build import CLASSES, config, picture, sample_run


def build(out: Path, *samples: Sample) -> Path:
    """A generate run whose images lie in it."""
    rows = []
    for k, item in enumerate(samples):
        path = out / f"images/{k}.png"
        write_png(path, picture(item.layout, k))
        rows.append(replace(item, image=f"images/{k}.png", sha256=sha256_file(path)))
    return sample_run(out, rows, command="generate", images=False).path


def exported(out: Path, run: Path, formats: str) -> Path:
    keys = {"export.format": formats.split(","), "export.split": "1/0/0"}
    export(Job("export", config(**keys), out, {"run": [run], "real": []}))
    return out / "dataset"


# ---------------------------------------------------------------- classification


def boxed(label: str, x0: float, **more: Any) -> Instance:
    return Instance(label, Box(x0, 8, x0 + 10, 18), **more)


def lists(folder: Path) -> list[dict[str, str]]:
    with (folder / "class-list/train.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_class_list_of_what_a_filter_keeps(tmp_path: Path) -> None:
    """Catches a dropped image or object in the lists, labels by alias, and images without any."""
    sea = Instance("water", mask=Mask.from_array(np.ones((20, 64), bool), 0, 44))
    marked = boxed("ship", 40, scores={"judge": 0.1}, reasons=("judge 0.1 (min 0.5) -> drop",))
    samples = [
        Sample(
            "a", Layout(64, 64, (boxed("airplane", 8), boxed("plane", 24), sea)), verdict="keep"
        ),
        Sample("b", Layout(64, 64, (boxed("plane", 8), marked)), verdict="keep"),
        Sample("c", Layout(64, 64, (boxed("ship", 8),)), verdict="drop", reasons=("focus 0.1",)),
        Sample("d", Layout(64, 64), verdict="keep"),
    ]
    run = build(tmp_path / "run", *samples)
    kept = tmp_path / "kept"
    inputs = {"run": [run]}
    keys: dict[str, Any] = {
        "filter.task": "classification",
        "filter.rules": [{"scorer": "foreground", "min": 0.0}],
    }
    run_stage(Job("filter", config(**keys), kept, inputs))
    folder = exported(tmp_path / "of-filter", kept, "class-list")
    assert [row["classes"] for row in lists(folder)] == ["plane;water", "plane", "ship", ""]
    folder = exported(tmp_path / "of-run", run, "class-list")
    rows = lists(folder)
    assert [row["classes"] for row in rows] == ["plane;water", "plane", ""]
    assert [(row["plane"], row["ship"], row["storage-tank"], row["water"]) for row in rows] == [
        ("2", "0", "0", "1"),
        ("1", "0", "0", "0"),
        ("0", "0", "0", "0"),
    ]
    assert all((folder / "class-list" / row["image"]).is_file() for row in rows)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (("plane;water", "plane"), "classes 'plane', its columns say"),
        (("images/train", "images/gone"), "there is no images/gone"),
        ((",2,", ",7,"), "8 objects are counted, expected 3"),
    ],
)
def test_a_damaged_list_is_found(tmp_path: Path, damage: tuple[str, str], message: str) -> None:
    """Catches a check that looks at nothing: no reader looks at this format."""
    writer = ClassListWriter()
    writer.open(tmp_path, CLASSES, ["train"])
    sea = Instance("water", mask=Mask.from_array(np.ones((20, 64), bool)))
    item = Sample("a", Layout(64, 64, (boxed("plane", 8), boxed("plane", 24), sea)))
    (tmp_path / writer.image_path("a.png", "train", item)).write_bytes(b"")
    writer.add(item, "a.png", "train")
    writer.close()
    check_lists(tmp_path, {"train": 1}, 3)
    path = tmp_path / "train.csv"
    path.write_text(path.read_text().replace(*damage))
    with pytest.raises(DataError) as error:
        check_lists(tmp_path, {"train": 1}, 3)
    assert message in error.value.message


def test_a_name_that_the_list_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a class is called 'a;b'"):
        ClassListWriter().open(tmp_path, ClassTable.of("a;b"), ["train"])


# ---------------------------------------------------------------- detection and segmentation


def cut_in_two() -> Sample:
    """A plane of which something hides the middle, beside another that touches it."""
    halves = np.ones((10, 30), bool)
    halves[:, 12:18] = False
    cut = Instance("plane", Box(4, 8, 34, 18), mask=Mask.from_array(halves, 4, 8))
    near = Instance(
        "plane", Box(34, 8, 44, 18), mask=Mask.from_array(np.ones((10, 10), bool), 34, 8)
    )
    return Sample("a", Layout(64, 64, (cut, near)), verdict="keep")


@pytest.mark.parametrize("name", ["coco", "dota", "yolo", "yolo-obb", "yolo-seg", "voc", "jsonl"])
def test_one_object_is_one_box_however_many_pieces_show(tmp_path: Path, name: str) -> None:
    """Catches boxes from components: two for a plane that is cut, one for planes that touch."""
    folder = exported(tmp_path / "set", build(tmp_path / "run", cut_in_two()), name)
    (read,) = read_dataset(folder / name, format=name, classes=CLASSES)
    boxes = sorted((b.x0, b.x1) for i in read.layout.instances if (b := i.bounds()))
    assert np.allclose(boxes, [(4, 34), (34, 44)], atol=0.51)


def test_coco_keeps_the_pieces_in_one_annotation(tmp_path: Path) -> None:
    folder = exported(tmp_path / "set", build(tmp_path / "run", cut_in_two()), "coco")
    rows = json.loads((folder / "coco/annotations/instances_train.json").read_text())
    found = {tuple(row["bbox"]): row["area"] for row in rows["annotations"]}
    assert found == {(4, 8, 30, 10): 240, (34, 8, 10, 10): 100}
