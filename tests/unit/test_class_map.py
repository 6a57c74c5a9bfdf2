"""Class names on reading: what a map names in vain, what was renamed, and what was lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsgen.config import load_config
from rsgen.data import TrainingImages
from rsgen.errors import DataError, UsageError
from rsgen.execution import run_stage
from rsgen.formats import read_dataset
from rsgen.formats.class_map import ClassMap, rename_notes, unused_notes
from rsgen.records import INCOMPLETE, ClassTable, lost_share
from rsgen.reporting import RunSummary
from rsgen.runs import Job
from rsgen.store import open_samples
from tests import build
from tests.formats_build import put_image

GOOD = "10 10 30 10 30 20 10 20 {} 0\n"


def dota(root: Path, **labels: str) -> Path:
    """A DOTA folder: image name -> the text of its label file."""
    for name, text in labels.items():
        put_image(root / "images" / f"{name}.png")
        (root / "labelTxt").mkdir(exist_ok=True)
        (root / "labelTxt" / f"{name}.txt").write_text(text)
    return root


def coco(root: Path, categories: list[str], used: list[int]) -> Path:
    put_image(root / "images" / "a.png")
    document = {
        "images": [{"id": 1, "file_name": "images/a.png", "width": 64, "height": 48}],
        "categories": [{"id": k, "name": n} for k, n in enumerate(categories, start=1)],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": c, "bbox": [4, 4, 20, 10]}
            for k, c in enumerate(used)
        ],
    }
    (root / "labels.json").write_text(json.dumps(document))
    return root


def extract(out: Path, *paths: Path, **keys: Any) -> RunSummary:
    settings = [(f"extract_masks.{k}", v) for k, v in keys.items()]
    config = load_config(settings=[*settings, ("extract_masks.backend", "box")], environ={})
    return run_stage(Job("extract-masks", config, out, {"dataset": paths}))


def notes_on(summary: RunSummary, word: str) -> list[str]:
    return [note for note in summary.notes if word in note]


def test_a_name_that_occurs_nowhere_is_named(tmp_path: Path) -> None:
    """Catches a mistyped --class-map that maps nothing and says nothing."""
    root = dota(tmp_path / "set", a=GOOD.format("airplane") * 3 + GOOD.format("ship"))
    with pytest.raises(UsageError, match=r"airplan \(did you mean airplane\?\), zebra") as caught:
        extract(tmp_path / "out", root, class_map={"airplan": "plane", "zebra": "horse"})
    assert caught.value.hint == "names there are airplane (3), ship (1)"
    assert not (tmp_path / "out").exists()
    done = extract(tmp_path / "out", root, class_map={"airplane": "plane", "zebra": "horse"})
    assert notes_on(done, "zebra") == [
        "--class-map: zebra occurs nowhere in the labels; names there are airplane (3), ship (1)"
    ]


def test_a_name_in_one_of_two_sets_is_enough(tmp_path: Path) -> None:
    """Catches a check of each data set by itself."""
    first = dota(tmp_path / "a", a=GOOD.format("airplane"))
    second = coco(tmp_path / "b", ["boat", "tank"], [1])
    done = extract(tmp_path / "out", first, second, class_map={"Airplane": "plane", "tank": "t"})
    assert not notes_on(done, "nowhere"), "declared without a label counts as known"
    assert notes_on(done, "renamed") == ["1 label renamed: airplane -> plane (1, --class-map)"]


def test_made_up_yolo_names_are_mapped_by_their_index(tmp_path: Path) -> None:
    put_image(tmp_path / "set" / "images" / "a.png")
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n")
    done = extract(tmp_path / "out", tmp_path / "set", class_map={"0": "ship"})
    assert not notes_on(done, "nowhere")
    assert open_samples(tmp_path / "out").classes.names == ("ship", "class-1")


def test_a_run_is_mapped_by_its_names_and_aliases(tmp_path: Path) -> None:
    run = build.sample_run(tmp_path / "in", [build.sample("s")])
    done = extract(tmp_path / "out", run.path, class_map={"airplane": "aircraft"})
    assert notes_on(done, "renamed") == ["1 label renamed: plane -> aircraft (1, --class-map)"]
    with pytest.raises(UsageError, match="car occurs nowhere"):
        extract(tmp_path / "out2", run.path, class_map={"car": "vehicle"})


def test_labels_renamed_by_an_alias_are_counted(tmp_path: Path) -> None:
    """Catches boats that become ships in silence; another spelling is the same name."""
    text = GOOD.format("boat") * 2 + GOOD.format("PLANE") + GOOD.format("airliner")
    table = tmp_path / "classes.yaml"
    table.write_text("classes: [{name: plane}, {name: ship, aliases: [boat]}]\n")
    done = extract(
        tmp_path / "out",
        dota(tmp_path / "set", a=text),
        classes=str(table),
        class_map={"airliner": "plane"},
    )
    assert notes_on(done, "renamed") == [
        "3 labels renamed: airliner -> plane (1, --class-map), "
        "boat -> ship (2, alias of the class table)"
    ]


def test_notes_alone() -> None:
    assert unused_notes({"a": "b"}, {}) == [], "a format that counts no names is not judged"
    assert unused_notes({}, {"a": 1}) == []
    assert rename_notes([ClassMap()], ClassTable.of("a")) == []


# ---------------------------------------------------------------- incomplete images

BAD = {
    "not a number": "10 10 x 10 30 20 10 20 ship 0\n",
    "not finite": "10 10 nan 10 30 20 10 20 ship 0\n",
    "no area": "10 10 10 10 10 10 10 10 ship 0\n",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_an_image_that_lost_labels_says_so(bad: str, tmp_path: Path) -> None:
    """Catches half-labelled images that look whole; only the image with the bad line is."""
    root = dota(
        tmp_path / "set",
        a=GOOD.format("ship"),
        b=GOOD.format("ship") * 2 + bad,
        c=GOOD.format("ship"),
    )
    found = {s.id[-5]: s for s in read_dataset(root)}
    assert [lost_share(found[name]) for name in "abc"] == [0, pytest.approx(1 / 3), 0]
    assert found["b"].attributes[INCOMPLETE].startswith("1/3 ")


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        (GOOD.format("ship") + "90 90 99 90 99 99 90 99 ship 0\n", None),
        (GOOD.format("ship") + GOOD.format("car"), ClassTable.of("ship")),
    ],
    ids=["outside the image", "a class that was not asked for"],
)
def test_a_label_that_the_picture_does_not_miss_is_not_lost(
    text: str, classes: ClassTable | None, tmp_path: Path
) -> None:
    """Catches a whole set refused because --classes takes some of its classes."""
    (sample,) = read_dataset(dota(tmp_path / "set", a=text), classes=classes)
    assert lost_share(sample) == 0


def test_a_bad_annotation_of_no_image_spoils_none(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", ["ship"], [1, 1])
    document = json.loads((root / "labels.json").read_text())
    document["annotations"] += [
        {"id": 0, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 10]},
        {"id": 8, "category_id": 1, "bbox": [4, 4, 20, 10]},
        {"id": 9, "image_id": 7, "category_id": 1, "bbox": [4, 4, 20, 10]},
    ]
    (root / "labels.json").write_text(json.dumps(document))
    (sample,) = read_dataset(root)
    assert lost_share(sample) == 0
    document["annotations"][1]["bbox"] = [4, 4, 0, 10]
    (root / "labels.json").write_text(json.dumps(document))
    (sample,) = read_dataset(root)
    assert lost_share(sample) == 0.5


def test_training_leaves_half_labelled_images_out(tmp_path: Path) -> None:
    lost = {INCOMPLETE: "1/5 FieldCount"}
    few = {INCOMPLETE: "1/10 FieldCount"}
    rows = [
        build.sample("a.png"),
        build.sample("b.png", attributes=lost),
        build.sample("c.png", attributes=few),
    ]
    run = open_samples(build.sample_run(tmp_path / "run", rows).path)
    images = TrainingImages.from_runs([run], run.classes, 0.1)
    assert [s.id for s in images.samples] == ["a.png", "c.png"]
    assert (images.incomplete, images.refused) == (1, 0)
    assert len(TrainingImages.from_runs([run], run.classes, 1.0)) == 3
    bad = open_samples(build.sample_run(tmp_path / "bad", rows[1:2]).path)
    with pytest.raises(DataError, match="more than 10% of its labels"):
        TrainingImages.from_runs([bad], bad.classes, 0.1)


def test_extraction_keeps_and_counts_them(tmp_path: Path) -> None:
    root = dota(tmp_path / "set", a=GOOD.format("ship") + BAD["not finite"], b=GOOD.format("ship"))
    done = extract(tmp_path / "out", root)
    assert done.counts["samples"] == 2
    assert notes_on(done, "1 image lost some of the labels")
    assert sorted(lost_share(s) for s in open_samples(tmp_path / "out")) == [0, 0.5]
