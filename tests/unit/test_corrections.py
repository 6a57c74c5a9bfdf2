"""Corrected labels: which image and object is meant, and what of the old one stays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import DataError, UsageError
from rsgen.execution import run_stage
from rsgen.extraction.base import CORRECTION
from rsgen.extraction.corrections import Corrected, correct_samples
from rsgen.formats import write_dataset
from rsgen.geometry import Box, RotatedBox, as_array, heading_of, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.pool.canonical import FRONT_GUESS
from rsgen.records import (
    INCOMPLETE,
    ClassTable,
    Instance,
    Layout,
    Provenance,
    Sample,
    lost_share,
)
from rsgen.registry import resolve
from rsgen.runs import Job
from rsgen.store import input_ref, open_samples
from tests import build

CLASSES = build.CLASSES
SIZE = 64


def polygon(mask: Mask) -> list[list[float]]:
    return [list(map(float, point)) for point in mask.polygons()[0]]


def shape(label: str, mask_or_points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    points = polygon(mask_or_points) if isinstance(mask_or_points, Mask) else mask_or_points
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def correction(
    folder: Path, name: str, *shapes: dict[str, Any], size: int = SIZE, **more: Any
) -> Path:
    """One labelme file, without its image: a size is all that is needed."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "shapes": list(shapes),
        "imagePath": name,
        "imageHeight": size,
        "imageWidth": size,
        **more,
    }
    number = len(list(folder.glob("*.json")))
    (folder / f"{number}.json").write_text(json.dumps(document))
    return folder


def correct(samples: Sequence[Sample], folder: Path) -> Corrected:
    return correct_samples(samples, folder, CLASSES, {})


def one(samples: Sequence[Sample], folder: Path, label: str) -> Instance:
    """The only object of a class in the only corrected sample."""
    (sample,) = correct(samples, folder).samples
    (found,) = [i for i in sample.layout.instances if i.label == label]
    return found


def disk(cx: float, cy: float, radius: float) -> Mask:
    return build.ellipse_mask(cx, cy, 2 * radius, 2 * radius)


PLANE = build.instance("plane", caption="old", attributes={"event": "none", FRONT_GUESS: "1.0"})
SHIP = build.instance("ship", 44, 40, 26, 9, -2.0, origin="classical")
WATER = build.water()


def scene(*instances: Instance, name: str = "a.png") -> Sample:
    return build.sample(name, build.layout(instances))


# ---------------------------------------------------------------- objects


def test_a_redrawn_mask_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """Score and origin of the old mask would let a rule of the pool drop what a person drew."""
    new = disk(20, 24, 7)
    found = one([scene(PLANE)], correction(tmp_path, "a.png", shape("plane", new)), "plane")
    assert found.mask == new
    assert (found.origin, dict(found.scores)) == (CORRECTION, {"mask": 1.0})
    assert found.box == new.box


def test_what_the_correction_does_not_say_is_carried_over(tmp_path: Path) -> None:
    new = disk(20, 24, 7)
    found = one([scene(PLANE)], correction(tmp_path, "a.png", shape("plane", new)), "plane")
    assert found.heading_rad == PLANE.heading_rad
    assert found.caption == "old"
    assert found.attributes == {"event": "none"}, "a guess from the wrong outline goes"
    assert found.quad is not None
    front = as_array(found.quad)[:2].mean(axis=0) - as_array(found.quad).mean(axis=0)
    assert abs(math.atan2(front[1], front[0]) - 0.3) < math.pi / 4, "fitted along the heading"


def test_what_the_correction_says_wins(tmp_path: Path) -> None:
    more = {"heading": 1.3, "description": "new", "attributes": {"event": "flood"}}
    drawn = shape("plane", disk(20, 24, 7), **more)
    found = one([scene(PLANE)], correction(tmp_path, "a.png", drawn), "plane")
    assert found.heading_rad == pytest.approx(1.3)
    assert found.caption == "new"
    assert found.attributes == {"event": "flood"}


def test_objects_that_are_gone_from_the_file_are_deleted(tmp_path: Path) -> None:
    assert SHIP.mask is not None
    folder = correction(tmp_path, "a.png", shape("ship", SHIP.mask))
    done = correct([scene(WATER, PLANE, SHIP)], folder)
    assert [i.label for i in done.samples[0].layout.instances] == ["water", "ship"]
    assert done.counts["corrections: objects deleted"] == 1
    assert done.counts["corrections: objects untouched"] == 1


def test_a_mended_image_has_no_lost_labels_any_more(tmp_path: Path) -> None:
    """Catches training leaving out an image whose labels a person has completed."""
    old = replace(scene(), attributes={INCOMPLETE: "1/1 ZeroArea", "season": "dry"})
    same = correct([old], correction(tmp_path / "same", "a.png"))
    assert same.samples == [old], "nobody has mended it"
    fixed = correction(tmp_path / "fixed", "a.png", shape("ship", disk(20, 20, 6)))
    (mended,) = correct([old], fixed).samples
    assert mended.attributes == {"season": "dry"} and lost_share(mended) == 0


def test_an_added_object_gets_an_oriented_box_where_others_have_one(tmp_path: Path) -> None:
    hull = Mask.from_polygons(
        [as_array(rotated_box_to_quad(RotatedBox(45, 15, 24, 7, 0.6)))], SIZE, SIZE
    )
    assert hull is not None
    assert PLANE.mask is not None
    shapes = (shape("plane", PLANE.mask), shape("ship", hull))
    folder = correction(tmp_path, "a.png", *shapes)
    found = one([scene(PLANE)], folder, "ship")
    assert (found.heading_rad, found.origin) == (None, CORRECTION)
    assert found.quad is not None
    edges = np.hypot(*(as_array(found.quad) - np.roll(as_array(found.quad), 1, axis=0)).T)
    assert sorted(edges)[0] == pytest.approx(7, abs=2), "an upright box would be 17 wide"
    upright = replace(PLANE, quad=None, heading_rad=None)
    assert one([scene(upright)], folder, "ship").quad is None


def test_a_relabelled_object_keeps_its_mask_to_the_pixel(tmp_path: Path) -> None:
    assert PLANE.mask is not None
    old = replace(PLANE, origin="classical")
    found = one([scene(old)], correction(tmp_path, "a.png", shape("ship", old.mask)), "ship")
    assert found.mask == old.mask
    assert (found.heading_rad, found.origin) == (old.heading_rad, "classical")
    assert found.caption is None, "the words were about a plane"


def test_a_relabelled_typical_outline_is_made_anew(tmp_path: Path) -> None:
    """It is the outline of the class that the object is not."""
    old = replace(PLANE, origin="box", scores={"mask": 0.2}, reasons=("typical outline",))
    found = one([scene(old)], correction(tmp_path, "a.png", shape("ship", old.mask)), "ship")
    assert (found.mask, found.origin, found.reasons) == (None, "annotation", ())


def test_a_symmetric_class_has_no_heading(tmp_path: Path) -> None:
    folder = correction(tmp_path, "a.png", shape("storage-tank", PLANE.mask))
    assert one([scene(PLANE)], folder, "storage-tank").heading_rad is None


def test_a_corrected_box_waits_for_its_mask(tmp_path: Path) -> None:
    """The old mask belongs to the box that was wrong."""
    drawn = shape("plane", [[8.0, 14.0], [30.0, 36.0]], "rectangle")
    found = one([scene(PLANE)], correction(tmp_path, "a.png", drawn), "plane")
    assert (found.box, found.mask, found.quad) == (Box(8, 14, 30, 36), None, None)
    assert (found.heading_rad, dict(found.scores)) == (None, {})


def test_a_corrected_oriented_box_faces_the_way_the_old_one_did(tmp_path: Path) -> None:
    turned = rotated_box_to_quad(RotatedBox(21, 24, 12, 22, 0.5 + math.pi / 2))
    drawn = shape("plane", [list(p) for p in turned], "oriented_rectangle")
    found = one([scene(PLANE)], correction(tmp_path, "a.png", drawn), "plane")
    assert found.mask is None
    assert found.heading_rad == pytest.approx(0.5), "as it was turned by hand"
    assert found.quad is not None
    assert heading_of(found.quad) == pytest.approx(0.5)


def test_a_mask_drawn_for_a_bad_one_is_the_same_object(tmp_path: Path) -> None:
    """A sliver of a mask has a small IoU with the outline of its object; their boxes agree."""
    assert PLANE.mask is not None
    pixels = PLANE.mask.to_array(SIZE, SIZE)
    pixels[:, ::3] = pixels[1::2] = False
    old = replace(PLANE, mask=Mask.from_array(pixels))
    found = one([scene(old)], correction(tmp_path, "a.png", shape("plane", PLANE.mask)), "plane")
    assert found.heading_rad == PLANE.heading_rad
    assert found.mask == PLANE.mask


def test_neighbours_are_not_mixed_up(tmp_path: Path) -> None:
    """Two ships side by side: each keeps its own caption when both outlines grow a little."""
    ships = [
        build.instance("ship", 30, 20 + 9 * k, 30, 6, 0.0, caption=f"ship {k}") for k in range(3)
    ]
    shapes = []
    for k in (2, 0, 1):
        wider = rotated_box_to_quad(RotatedBox(30, 20 + 9 * k, 32, 8, 0.0))
        shapes.append(shape("ship", [list(p) for p in wider]))
    (sample,) = correct([scene(*ships)], correction(tmp_path, "a.png", *shapes)).samples
    found = {i.caption: i.mask.box.y0 for i in sample.layout.instances if i.mask is not None}
    assert found == {"ship 0": 16, "ship 1": 25, "ship 2": 34}


def test_stuff_changes_only_where_the_correction_has_it(tmp_path: Path) -> None:
    """Detection formats do not hold stuff: its absence must not delete it."""
    assert WATER.mask is not None
    unsaid = correct([scene(WATER, PLANE)], correction(tmp_path / "1", "a.png"))
    assert [i.label for i in unsaid.samples[0].layout.instances] == ["water"]
    pond = disk(30, 50, 6)
    said = correct([scene(WATER)], correction(tmp_path / "2", "a.png", shape("water", pond)))
    (water,) = said.samples[0].layout.instances
    assert (water.mask, water.box) == (pond, None)


# ---------------------------------------------------------------- there and back


def exported(kind: str, samples: Sequence[Sample], folder: Path) -> Path:
    def put(sample: Sample, path: Path) -> None:
        build.write_png(path, build.picture(sample.layout))

    written = [replace(s, layout=drawable(s.layout)) for s in samples]
    writer = resolve("formats", kind).writer()
    write_dataset(writer, written, CLASSES, folder, splits=("train", "val"), copy_image=put)
    return folder


def drawable(layout: Layout) -> Layout:
    return replace(layout, instances=tuple(i for i in layout.instances if i.label != "water"))


KINDS = ["labelme", "coco", "jsonl", "dota", "yolo-obb", "yolo-seg"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_that_nobody_touched_changes_nothing(tmp_path: Path, kind: str) -> None:
    """Simplified outlines, rounded corners, formats without masks: none of it is a correction."""
    samples = [
        build.sample("x/a.png"),
        build.sample("y/a.png#64,0", provenance=Provenance("real", parent="y/a.png")),
        build.sample("b.tif", split="val"),
    ]
    done = correct(samples, exported(kind, samples, tmp_path))
    assert done.samples == samples
    assert all(new is old for new, old in zip(done.samples, samples, strict=True))
    assert done.counts == {
        "corrections: images": 3,
        "corrections: objects untouched": 9,
    }


def edit(folder: Path, stem: str, change: Callable[[dict[str, Any]], None]) -> None:
    (path,) = folder.rglob(f"{stem}.json")
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_only_what_was_edited_changes(tmp_path: Path) -> None:
    samples = [build.sample("a.png"), build.sample("b.png")]
    folder = exported("labelme", samples, tmp_path)

    def move(document: dict[str, Any]) -> None:
        row = next(s for s in document["shapes"] if s["label"] == "ship")
        row["points"] = [[x + 2, y] for x, y in row["points"]]

    edit(folder, "b", move)
    done = correct(samples, folder)
    assert done.samples[0] is samples[0]
    before = {i.label: i for i in samples[1].layout.instances}
    after = {i.label: i for i in done.samples[1].layout.instances}
    assert {k for k in before if before[k] != after[k]} == {"ship"}
    assert after["ship"].origin == CORRECTION


def test_a_flag_set_in_the_tool_leaves_the_mask_alone(tmp_path: Path) -> None:
    samples = [build.sample("a.png")]
    folder = exported("labelme", samples, tmp_path)

    def flag(document: dict[str, Any]) -> None:
        for row in document["shapes"]:
            row["flags"] = {"difficult": row["label"] == "plane"}

    edit(folder, "a", flag)
    done = correct(samples, folder)
    before = {i.label: i for i in samples[0].layout.instances}
    after = {i.label: i for i in done.samples[0].layout.instances}
    assert after["plane"] == replace(before["plane"], difficult=True)
    assert done.counts["corrections: objects marked"] == 1


# ---------------------------------------------------------------- images

IMAGES = [
    ("a run's id", "x/a.png#64,0", None),
    ("the file in the run", "images/00000/tile-000001.png", None),
    ("its name alone", "tile-000001.png", None),
    ("exported, as jpg", "images/train/x_a_64_0.jpg", None),
    ("from labelme's key", "x_a_64_0.png", "x/a.png#64,0"),
]


@pytest.mark.parametrize(("name", "stored"), [i[1:] for i in IMAGES], ids=[i[0] for i in IMAGES])
def test_an_image_is_found_by(tmp_path: Path, name: str, stored: str | None) -> None:
    samples = [
        build.sample("x/a.png#0,0", image="images/00000/tile-000000.png"),
        build.sample("x/a.png#64,0", image="images/00000/tile-000001.png"),
    ]
    more = {} if stored is None else {"sampleId": stored}
    done = correct(samples, correction(tmp_path, name, **more))
    assert done.samples[0] is samples[0]
    assert [i.label for i in done.samples[1].layout.instances] == ["water"]


MISSED = [
    ("unknown", "c.png", {}, "UnknownImage", "no image of the data set"),
    ("other folder", "site2/b.png", {}, "UnknownImage", "no image of the data set"),
    ("two of a name", "a.png", {}, "AmbiguousImage", "site1/a.png, site3/a.png"),
    ("size", "site1/b.png", {"size": 65}, "WrongSize", "65 x 65 pixels, site1/b.png has 64 x 64"),
]


@pytest.mark.parametrize(
    ("name", "more", "error", "text"), [m[1:] for m in MISSED], ids=[m[0] for m in MISSED]
)
def test_a_correction_that_fits_no_image_is_a_named_failure(
    tmp_path: Path, name: str, more: dict[str, Any], error: str, text: str
) -> None:
    """Put on the likeliest image it would replace labels that nobody looked at."""
    samples = [build.sample(n) for n in ("site1/a.png", "site1/b.png", "site3/a.png", "good.png")]
    correction(tmp_path, "good.png")
    done = correct(samples, correction(tmp_path, name, **more))
    (failure,) = done.failures
    assert (failure.error, failure.stage) == (error, "corrections")
    assert text in failure.message
    assert all(new is old for new, old in zip(done.samples[:3], samples[:3], strict=True))


def test_an_image_corrected_twice_names_both(tmp_path: Path) -> None:
    samples = [build.sample("x/a.png")]
    folder = correction(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"a\.png and x/a\.png both correct the image x/a\.png"):
        correct(samples, correction(folder, "x/a.png"))


def test_two_files_of_one_image_name_both(tmp_path: Path) -> None:
    folder = correction(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"1\.json: 0\.json labels the same image"):
        correct([build.sample("a.png")], correction(folder, "a.png"))


def test_a_misspelt_class_stops_before_it_deletes_an_object(tmp_path: Path) -> None:
    folder = correction(tmp_path, "a.png", shape("plnae", PLANE.mask))
    with pytest.raises(DataError, match=r"unknown class 'plnae'; known: plane, ship") as caught:
        correct([scene(PLANE)], folder)
    assert "mend them" in (caught.value.hint or "")


def test_classes_go_through_aliases_and_the_map(tmp_path: Path) -> None:
    folder = correction(
        tmp_path, "a.png", shape("airplane", disk(12, 12, 6)), shape("vessel", disk(40, 40, 8))
    )
    done = correct_samples([scene()], folder, CLASSES, {"vessel": "ship"})
    assert {i.label for i in done.samples[0].layout.instances} == {"plane", "ship"}


def test_no_image_of_the_set_is_exit_3(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 corrected images is among the 1") as caught:
        correct([scene()], correction(tmp_path, "elsewhere.png"))
    assert caught.value.exit_code == 3


def test_a_folder_without_labels_of_objects_deletes_nothing(tmp_path: Path) -> None:
    """Catches a set of class folders taken for images of which every object was deleted."""
    for name in ("harbour/a.png", "farm/b.png"):
        build.write_png(tmp_path / name, np.zeros((SIZE, SIZE, 3), np.uint8))
    with pytest.raises(DataError, match="imagefolder says nothing of objects"):
        correct([scene(SHIP, name="harbour/a.png")], tmp_path)


def test_yolo_images_without_labels_delete_nothing(tmp_path: Path) -> None:
    """Catches an image that was only copied beside the corrected ones, and lost its objects."""
    for name in ("a", "b"):
        build.write_png(tmp_path / f"{name}.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("ship\n")
    with pytest.raises(DataError, match=r"b.png has no labels, and yolo does not tell"):
        correct([scene(SHIP), scene(SHIP, name="b.png")], tmp_path)


def test_a_damaged_file_leaves_its_image_as_it_was(tmp_path: Path) -> None:
    folder = correction(tmp_path, "a.png")
    build.write_png(folder / "b.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    (folder / "b.json").write_text('{"shapes": [')
    samples = [build.sample("a.png"), build.sample("b.png")]
    done = correct(samples, folder)
    assert [f.error for f in done.failures] == ["BadJson"]
    assert done.samples[1] is samples[1]


# ---------------------------------------------------------------- the stage


def job(inputs: dict[str, list[Path]], out: Path, **keys: Any) -> Job:
    return Job("extract-masks", build.config(**keys), out, inputs=inputs)


@pytest.mark.parametrize("backend", ["auto", "classical", "box", "polygon"])
def test_no_backend_touches_a_corrected_mask(tmp_path: Path, backend: str) -> None:
    """A backend that is named makes masks anew, also in a later run over the corrected one."""
    run = build.sample_run(tmp_path / "masks", [build.sample("a.png"), build.sample("b.png")])
    new = disk(20, 24, 5)
    drawn = [shape("plane", new), shape("ship", [[30.0, 30.0], [58.0, 52.0]], "rectangle")]
    folder = correction(tmp_path / "fixed", "a.png", *drawn)
    inputs = {"dataset": [run.path], "corrections": [folder]}
    keys = {"extract_masks.backend": backend}
    run_stage(job(inputs, tmp_path / "one", **keys))
    run_stage(job({"dataset": [tmp_path / "one"]}, tmp_path / "two", **keys))
    for out in (tmp_path / "one", tmp_path / "two"):
        by_label = {i.label: i for i in next(iter(open_samples(out))).layout.instances}
        assert set(by_label) == {"water", "plane", "ship"}
        assert by_label["plane"].mask == new
        assert by_label["plane"].origin == CORRECTION
        assert by_label["plane"].scores["mask"] == 1.0
        ship = by_label["ship"]
        assert (ship.mask is None) == (backend == "polygon")
        assert ship.origin != CORRECTION, "its mask is nobody's but the backend's"


def test_masks_of_an_earlier_run_keep_their_origin(tmp_path: Path) -> None:
    """A typical outline (origin box) that came back as 'polygon' would enter the pool."""
    sample = scene(replace(PLANE, origin="box", scores={"mask": 0.2}), SHIP)
    run = build.sample_run(tmp_path / "masks", [sample])
    run_stage(job({"dataset": [run.path]}, tmp_path / "again"))
    (again,) = open_samples(tmp_path / "again")
    assert again.layout == run.samples[0].layout


def test_corrections_inside_an_export_count_by_their_bytes(tmp_path: Path) -> None:
    """They are edited in place: by the export's own fingerprint the second round is a no-op."""
    run = build.sample_run(tmp_path / "masks", [build.sample("a.png")])
    folder = correction(tmp_path / "masks" / "dataset" / "labelme", "a.png")
    before = input_ref("corrections", folder)
    inputs = {"dataset": [run.path], "corrections": [folder]}
    run_stage(job(inputs, tmp_path / "out"))
    edit(folder, "0", lambda document: document["shapes"].append(shape("ship", disk(9, 9, 5))))
    assert input_ref("corrections", folder).fingerprint != before.fingerprint
    with pytest.raises(UsageError, match=r"input corrections\[0\]"):
        run_stage(job(inputs, tmp_path / "out"))


def test_corrections_of_a_scene_come_before_its_tiles(tmp_path: Path) -> None:
    big = 160
    hull = rotated_box_to_quad(RotatedBox(120, 40, 30, 10, 0.0))
    layout = Layout(big, big, (Instance("ship", Box(100, 30, 140, 50)),))
    folder = tmp_path / "raw"
    writer = resolve("formats", "coco").writer()
    write_dataset(
        writer,
        [Sample("a", layout, split="train")],
        ClassTable.of("plane", "ship"),
        folder,
        copy_image=lambda s, path: build.write_png(path, build.picture(s.layout)),
    )
    drawn = shape("ship", [list(p) for p in hull])
    fixed = correction(tmp_path / "fixed", "a.png", drawn, size=big)
    inputs = {"dataset": [folder], "corrections": [fixed]}
    keys = {"extract_masks.tile": 80, "extract_masks.tile_gap": 16}
    run_stage(job(inputs, tmp_path / "out", **keys))
    found = [i for s in open_samples(tmp_path / "out") for i in s.layout.instances]
    assert found
    assert {i.origin for i in found} == {CORRECTION}
