"""Mask backends, contested pixels, and the extract-masks stage on real folders."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from rsgen.config import load_config
from rsgen.errors import DataError, TooManyFailures, UsageError
from rsgen.execution import run_stage
from rsgen.extraction.base import cut_to_quad, resolve_contested
from rsgen.extraction.box import BoxBackend
from rsgen.extraction.classical import ClassicalBackend
from rsgen.extraction.polygon import PolygonBackend
from rsgen.extraction.shapes import INSET, family_of, templates
from rsgen.extraction.stage import annotate_sample
from rsgen.geometry import Box, RotatedBox, bounds, heading_of, rotated_box_to_quad
from rsgen.images import write_png
from rsgen.mask import Mask
from rsgen.pool.canonical import FRONT_GUESS
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from rsgen.reporting import RunSummary
from rsgen.runs import Job
from rsgen.store import open_samples, read_failures
from tests import build

CLASSES = ClassTable(
    (
        *(ObjectClass(n) for n in ("ship", "plane", "small-vehicle", "thing")),
        ObjectClass("storage-tank", symmetric=True),
        ObjectClass("water", kind="stuff"),
    )
)
Pixels = npt.NDArray[np.uint8]


def ground(height: int = 96, width: int = 96, tone: int = 110, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    return np.clip(noise + tone, 0, 255).astype(np.uint8)


def ship_scene(angle: float = 0.7, length: float = 44.0) -> tuple[Pixels, Mask, Instance]:
    """A bright hull at an angle on dark water, and its label as an upright box."""
    quad = rotated_box_to_quad(RotatedBox(48, 48, length, length / 4, angle))
    hull = np.array([(0.5, 0), (0.2, 0.125), (-0.5, 0.1), (-0.5, -0.1), (0.2, -0.125)]) * length
    c, s = math.cos(angle), math.sin(angle)
    mask = Mask.from_polygons([hull @ np.array([[c, s], [-s, c]]) + 48], 96, 96)
    assert mask is not None
    image = ground(tone=50)
    mask.paint(image, np.array([210, 205, 200], np.uint8))
    return image, mask, Instance("ship", box=mask.box, quad=quad, heading_rad=heading_of(quad))


def upright(instance: Instance) -> Instance:
    return replace(instance, quad=None, heading_rad=None)


def found_mask(instances: list[Instance]) -> Mask:
    assert instances[0].mask is not None
    return instances[0].mask


# ---------------------------------------------------------------- backends


@pytest.mark.parametrize("angle", [0.0, 0.7, 1.57, 2.4, -2.9])
@pytest.mark.parametrize("label", ["upright", "oriented"])
def test_classical_finds_a_hull_at_any_angle(angle: float, label: str) -> None:
    """A mirrored angle (the box alone cannot tell) would give an IoU near 0.4."""
    image, truth, instance = ship_scene(angle)
    given = instance if label == "oriented" else upright(instance)
    made = ClassicalBackend().annotate(image, [given], CLASSES)
    assert found_mask(made).iou(truth) > 0.85
    assert made[0].origin == "classical"
    assert 0.4 < made[0].scores["mask"] <= 1


def test_classical_leaves_the_shadow_out() -> None:
    """A dark disc beside the tank is unlike the ground too, but lies partly outside the box."""
    image = ground()
    y, x = np.mgrid[:96, :96] + 0.5
    tank = (x - 48) ** 2 + (y - 48) ** 2 <= 14**2
    image[(x - 57) ** 2 + (y - 55) ** 2 <= 14**2] = 45
    image[tank] = 220
    truth = Mask.from_array(tank)
    assert truth is not None
    made = ClassicalBackend().annotate(image, [Instance("storage-tank", box=truth.box)], CLASSES)
    assert found_mask(made).iou(truth) > 0.93


def test_classical_guesses_the_front_of_a_hull_from_an_upright_box() -> None:
    image, _, instance = ship_scene(0.7)
    made = ClassicalBackend().annotate(image, [upright(instance)], CLASSES)[0]
    guess = float(made.attributes[FRONT_GUESS])
    assert abs(math.remainder(guess - 0.7, math.pi)) < 0.3
    assert made.heading_rad is None, "a guess is no heading"


def test_classical_falls_back_where_nothing_stands_out() -> None:
    """Featureless ground must not come back as a confident mask."""
    label = Instance("ship", box=Box(30, 30, 70, 46))
    made = ClassicalBackend().annotate(ground(), [label], CLASSES)
    assert made[0].origin == "box"
    assert made[0].reasons[0].startswith("fallback: ")
    assert made[0].scores["mask"] < 0.25
    assert found_mask(made).box.width == pytest.approx(40, abs=2)


def test_an_object_cut_by_the_border_is_not_squeezed_into_its_box() -> None:
    image, truth, _ = ship_scene(0.0, 60.0)
    part = truth.window(40, 0, 56, 96)
    assert part is not None
    made = ClassicalBackend().annotate(
        np.ascontiguousarray(image[:, 40:]), [Instance("ship", box=part.box)], CLASSES
    )
    assert found_mask(made).iou(part) > 0.85


SMALL = [
    Box(10.2, 10.1, 10.9, 10.8),
    Box(5, 5, 6, 9),
    Box(-3, -3, 2, 2),
    Box(94, 94, 99, 99),
    Box(0, 0, 96, 96),
]


@pytest.mark.parametrize("box", SMALL, ids=["part of a pixel", "1x4", "corner", "edge", "all"])
@pytest.mark.parametrize("backend", [ClassicalBackend(), BoxBackend()], ids=["classical", "box"])
def test_tiny_and_cut_boxes_get_a_mask_inside_the_image(box: Box, backend: Any) -> None:
    made = backend.annotate(ground(), [Instance("small-vehicle", box=box)], CLASSES)
    mask = found_mask(made)
    assert mask.area >= 1
    assert mask.x0 >= 0 and mask.y0 >= 0
    assert mask.x0 + mask.width <= 96 and mask.y0 + mask.height <= 96


@pytest.mark.parametrize("backend", [ClassicalBackend(), BoxBackend()], ids=["classical", "box"])
def test_a_label_outside_the_image_has_a_reason_instead_of_a_mask(backend: Any) -> None:
    made = backend.annotate(ground(), [Instance("ship", box=Box(200, 200, 220, 210))], CLASSES)
    assert made[0].mask is None
    assert made[0].reasons == ("no box inside the image",)


def test_given_masks_and_stuff_are_kept() -> None:
    image, truth, instance = ship_scene()
    water = Instance("water", mask=Mask.from_array(np.ones((96, 96), bool)))
    given = replace(instance, mask=truth)
    for backend in ("auto", "classical"):
        made = annotate_sample(image, [water, given], CLASSES, backend)
        assert made[0] == water if backend == "classical" else made[0].mask == water.mask
    made = annotate_sample(image, [water, given], CLASSES, "auto")
    assert (made[1].mask, made[1].origin, made[1].scores["mask"]) == (truth, "polygon", 1.0)


def test_a_named_backend_makes_masks_anew() -> None:
    image, truth, instance = ship_scene()
    wrong = Mask.from_array(np.ones((5, 5), bool))
    made = annotate_sample(image, [replace(instance, mask=wrong)], CLASSES, "classical")
    assert found_mask(made).iou(truth) > 0.85


def test_polygon_says_when_there_is_no_shape() -> None:
    made = PolygonBackend().annotate(ground(), [Instance("ship", box=Box(1, 1, 9, 9))], CLASSES)
    assert made[0].mask is None and made[0].reasons == ("no mask",)


def test_box_is_flagged_and_oriented_labels_cut_it() -> None:
    _, _, instance = ship_scene(0.7)
    made = BoxBackend().annotate(ground(), [instance], CLASSES)[0]
    assert made.origin == "box" and made.reasons and made.mask is not None
    assert instance.quad is not None
    assert cut_to_quad(made.mask, instance.quad) == made.mask


def test_annotate_is_deterministic() -> None:
    image, _, instance = ship_scene()
    first = ClassicalBackend().annotate(image, [upright(instance)], CLASSES)
    assert first == ClassicalBackend().annotate(image, [upright(instance)], CLASSES)


# ---------------------------------------------------------------- contested pixels


def rectangle(x0: int, y0: int, x1: int, y1: int, label: str = "thing") -> Instance:
    mask = Mask.from_array(np.ones((y1 - y0, x1 - x0), bool), x0, y0)
    return Instance(label, box=Box(x0, y0, x1, y1), mask=mask)


def test_contested_pixels_go_to_the_tighter_box() -> None:
    large, small = rectangle(0, 0, 40, 40), rectangle(30, 30, 45, 45)
    made = resolve_contested([large, small], [True, True], CLASSES)
    assert made[1] == small
    assert found_mask(made).area == 1600 - 100


def test_a_given_mask_wins_even_with_the_larger_box() -> None:
    large, small = rectangle(0, 0, 40, 40), rectangle(30, 30, 45, 45)
    made = resolve_contested([large, small], [False, True], CLASSES)
    assert made[0] == large
    assert made[1].mask is not None and made[1].mask.area == 225 - 100


def test_a_mask_that_loses_everything_is_dropped_with_a_reason() -> None:
    outer, inner = rectangle(0, 0, 40, 40), rectangle(10, 10, 20, 20)
    made = resolve_contested([outer, inner], [False, True], CLASSES)
    assert made[1].mask is None and made[1].reasons == ("covered",)


def test_stuff_takes_nothing() -> None:
    water, ship = rectangle(0, 0, 50, 50, "water"), rectangle(10, 10, 30, 20, "ship")
    assert resolve_contested([water, ship], [False, True], CLASSES) == [water, ship]


# ---------------------------------------------------------------- outlines

FAMILIES = [
    ("airplane", "plane"),
    ("Large Vehicle", "large vehicle"),
    ("small_vehicle", "small vehicle"),
    ("cars", "small vehicle"),
    ("oil tanks", "disc"),
    ("storage-tank", "disc"),
    ("swimming pool", "pool"),
    ("tennis-court", "court"),
    ("Cargo Ship", "ship"),
    ("carpet", "blob"),  # a class that only contains the letters of another
    ("cow", "blob"),
]


@pytest.mark.parametrize(("label", "family"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_families_by_name(label: str, family: str) -> None:
    assert family_of(label).name == family


@pytest.mark.parametrize("label", ["plane", "helicopter", "ship", "car", "tank", "court", "cow"])
@pytest.mark.parametrize("pose", ["any", "axes", "front"])
def test_templates_touch_the_four_sides_of_the_box(label: str, pose: str) -> None:
    """An outline inside its box would make every mask too small."""
    found = templates(family_of(label), 0.4, pose, 60)
    low, high = round(INSET * 60), round((1 - INSET) * 60)
    for fill in found.fill:
        rows, columns = np.flatnonzero(fill.max(axis=1) > 0), np.flatnonzero(fill.max(axis=0) > 0)
        assert abs(rows[0] - low) <= 1 and abs(rows[-1] + 1 - high) <= 1
        assert abs(columns[0] - low) <= 1 and abs(columns[-1] + 1 - high) <= 1


# ---------------------------------------------------------------- the stage


def dataset(root: Path, count: int = 4, turn: float = 0.5) -> Path:
    """A YOLO folder of hulls on water; the third image is damaged, one label is bad."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("ship\n")
    for k in range(count):
        image, _, instance = ship_scene(turn * k + turn)
        write_png(root / "images" / f"{k}.png", image)
        box = instance.box
        assert box is not None
        (cx, cy), w, h = box.center, box.width, box.height
        line = f"0 {cx / 96:.6f} {cy / 96:.6f} {w / 96:.6f} {h / 96:.6f}\n"
        (root / "labels" / f"{k}.txt").write_text(line)
    return root


def extract(out: Path, *paths: Path, **keys: Any) -> RunSummary:
    settings = [(k.replace("__", "."), v) for k, v in keys.items()]
    config = load_config(settings=settings, environ={})
    return run_stage(Job("extract-masks", config, out, {"dataset": paths}))


def test_stage_on_a_folder(tmp_path: Path) -> None:
    summary = extract(tmp_path / "out", dataset(tmp_path / "data", 10))
    run = open_samples(tmp_path / "out")
    samples = list(run)
    assert summary.counts["samples"] == summary.counts["instances"] == 10
    assert [s.split for s in samples].count("train") == 8
    assert all(i.mask is not None for s in samples for i in s.layout.instances)
    assert all(s.sha256 and s.provenance.kind == "real" for s in samples)
    assert run.read_image(samples[0]).shape == (96, 96, 3)
    assert (tmp_path / "out" / "overlay.html").read_text().count("<figure>") == 10
    assert any(note.startswith("splits (drawn 80/10/10") for note in summary.notes)
    events = (tmp_path / "out" / "events.jsonl").read_text()
    assert "splits (drawn" not in events, "the summary says it; said before it would be twice"


def test_stage_counts_bad_images_and_labels(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", 5)
    damaged = root / "images" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:900])
    with (root / "labels" / "3.txt").open("a") as handle:
        handle.write("0 0.5 nan 0.1 0.1\n")
    with pytest.raises(TooManyFailures):
        extract(tmp_path / "strict", root)
    summary = extract(tmp_path / "out", root, execution__max_failure_rate=0.5)
    rows = list(read_failures(tmp_path / "out"))
    assert summary.counts["samples"] == 4
    assert {r.item.split("/")[-1].split(".")[0] for r in rows} == {"2", "3"}
    assert sum(r.item.endswith("3.txt:2") for r in rows) == 1
    assert summary.counts["labels_read"] == 6 and summary.counts["labels_kept"] == 4


def test_stage_takes_a_sample_run(tmp_path: Path) -> None:
    """Boxes, masks, splits and prompts of an earlier run survive; images are found there."""
    given = [build.sample(f"s{k}", split="val" if k == 1 else "train") for k in range(3)]
    built = build.sample_run(tmp_path / "in", given)
    extract(tmp_path / "out", built.path)
    run = open_samples(tmp_path / "out")
    for before, after in zip(built.samples, run, strict=True):
        assert after.split == before.split and after.prompt == before.prompt
        assert [i.mask for i in after.layout.instances] == [i.mask for i in before.layout.instances]
        assert run.image_path(after) == built.path / str(before.image)


def test_stage_cuts_large_scenes_and_keeps_tiles_in_one_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("ship\n")
    image, _, instance = ship_scene()
    large = np.tile(image, (2, 3, 1))
    write_png(root / "images" / "big.png", large)
    assert instance.box is not None
    lines = [
        f"0 {(instance.box.center[0] + 96 * c) / 288} {(instance.box.center[1] + 96 * r) / 192} "
        f"{instance.box.width / 288} {instance.box.height / 192}"
        for r in range(2)
        for c in range(3)
    ]
    (root / "labels" / "big.txt").write_text("\n".join(lines))
    keys: dict[str, Any] = {"extract_masks__tile": 96, "extract_masks__tile_gap": 0}
    summary = extract(tmp_path / "out", root, **keys)
    samples = list(open_samples(tmp_path / "out"))
    assert len(samples) == 6 and len({s.split for s in samples}) == 1
    assert {s.parent for s in samples} == {"images/big.png"}
    assert samples[4].id == "images/big.png#96,96"
    assert all(s.image and (tmp_path / "out" / s.image).is_file() for s in samples)
    assert summary.counts["instances"] == 6
    assert any("1 scenes were cut into 6 tiles" in note for note in summary.notes)


def test_two_datasets_of_one_name_stay_apart(tmp_path: Path) -> None:
    """Equal file names of two folders must not become one id or one image."""
    first = dataset(tmp_path / "a" / "set", 2)
    second = dataset(tmp_path / "b" / "set", 2, turn=0.9)
    extract(tmp_path / "out", first, second)
    run = open_samples(tmp_path / "out")
    samples = list(run)
    assert [s.id for s in samples] == [
        f"{name}/images/{k}.png" for name in ("set", "set-2") for k in range(2)
    ]
    assert [run.image_path(s) for s in samples] == [
        root / f"images/{k}.png" for root in (first, second) for k in range(2)
    ]


def test_no_path_of_the_machine_enters_the_parts(tmp_path: Path) -> None:
    """The same data sets elsewhere must give the same parts, also when they lie far apart."""
    for place in ("here", "far/away"):
        root = tmp_path / place
        first = dataset(root / "a" / "set", 2)
        extract(root / "out", first, dataset(root / "b" / "c" / "other", 2, turn=0.9))
    one, two = (build.data_of(tmp_path / place / "out") for place in ("here", "far/away"))
    assert one == two
    assert {s.image for s in open_samples(tmp_path / "here" / "out")} == {
        "images/0.png", "images/1.png"
    }  # fmt: skip


def test_of_several_runs_only_the_last_may_grow(tmp_path: Path) -> None:
    """A longer first run moves the items of the second: some would be lost, others doubled."""

    def scenes(name: str, count: int) -> Path:
        given = [build.sample(f"{name}{k}") for k in range(count)]
        return build.sample_run(tmp_path / name, given, shard_size=1).path

    first, second = scenes("a", 2), scenes("b", 2)
    keys: dict[str, Any] = {"execution__shard_size": 1}
    extract(tmp_path / "out", first, second, **keys)
    scenes("b", 3)
    extract(tmp_path / "out", first, second, **keys)
    found = [s.id for s in open_samples(tmp_path / "out")]
    assert found == ["a/a0", "a/a1", "b/b0", "b/b1", "b/b2"]
    scenes("a", 3)
    with pytest.raises(UsageError, match=r"input dataset .*/a has grown .*/b comes after it"):
        extract(tmp_path / "out", first, second, **keys)


def test_a_partial_run_is_taken_when_it_is_asked_for(tmp_path: Path) -> None:
    run = build.sample_run(tmp_path / "in", committed=False)
    config = load_config(environ={})
    job = Job("extract-masks", config, tmp_path / "out", {"dataset": [run.path]})
    with pytest.raises(DataError, match="--allow-partial"):
        run_stage(job)
    assert run_stage(replace(job, allow_partial=True)).counts["samples"] == len(run.samples)


def test_a_run_can_be_renamed_and_given_a_gsd(tmp_path: Path) -> None:
    """Catches --class-map and --gsd that are read and forgotten."""
    run = build.sample_run(tmp_path / "in", [build.sample("s")])
    keys = {"class_map": {"airplane": "aircraft", "boat": "aircraft"}, "gsd_m": 2.0}
    extract(tmp_path / "out", run.path, **{f"extract_masks__{k}": v for k, v in keys.items()})
    made = open_samples(tmp_path / "out")
    (sample,) = made
    assert made.classes.names == ("aircraft", "storage-tank", "water")
    assert sorted(i.label for i in sample.layout.instances) == [
        "aircraft", "aircraft", "storage-tank", "water"
    ]  # fmt: skip
    assert sample.layout.gsd_m == 2.0


@pytest.mark.parametrize(("key", "value"), [("format", "coco"), ("classes", "dota-v1.0")])
def test_options_that_a_run_cannot_take_are_refused(tmp_path: Path, key: str, value: str) -> None:
    run = build.sample_run(tmp_path / "in", [build.sample("s")])
    with pytest.raises(UsageError, match=f"--{key}: .*sample run"):
        extract(tmp_path / "out", run.path, **{f"extract_masks__{key}": value})


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device", "x"), MemoryError()],
    ids=["full disk", "no memory"],
)
def test_what_the_machine_lacks_is_no_fault_of_an_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A full disk must not become a failure row: the part would say that the shard is done."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("rsgen.extraction.stage.annotate_sample", fail)
    with pytest.raises(type(error)):
        extract(tmp_path / "out", dataset(tmp_path / "data", 2))
    assert not list((tmp_path / "out" / "parts").glob("*"))


def test_failures_are_told_when_no_image_is_left(tmp_path: Path) -> None:
    """Without an item there is no shard, and what the reader found wrong would be lost."""
    root = dataset(tmp_path / "data", 2)
    for image in (root / "images").iterdir():
        image.write_bytes(image.read_bytes()[:900])
    with pytest.raises(DataError, match="no image could be used") as caught:
        extract(tmp_path / "out", root)
    assert str(tmp_path / "out" / "failures") in str(caught.value)
    assert "TruncatedImage (2), first: labels/0.txt: the image file ends" in str(caught.value)
    rows = list(read_failures(tmp_path / "out"))
    assert sorted(r.item for r in rows) == ["labels/0.txt", "labels/1.txt"]


def test_shard_size_does_not_change_the_result(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", 5)
    for size in (1, 64):
        extract(tmp_path / str(size), root, execution__shard_size=size)
    first, second = (list(open_samples(tmp_path / str(size))) for size in (1, 64))
    assert [s.layout for s in first] == [s.layout for s in second]
    assert [s.split for s in first] == [s.split for s in second]


def test_unknown_backend_is_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="clasical"):
        extract(tmp_path / "out", dataset(tmp_path / "data", 1), extract_masks__backend="clasical")


def test_changed_pixels_are_a_failure_not_a_wrong_mask() -> None:
    from rsgen.extraction.sources import Item, check_size

    item = Item(Sample("a", Layout(10, 20)), lambda sample: Path("a.png"))
    with pytest.raises(DataError, match="30 x 20"):
        check_size(item, 20, 30)


def test_masks_stay_inside_upright_boxes() -> None:
    image, _, instance = ship_scene(0.4)
    other = Instance("ship", box=Box(2, 2, 20, 9))
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    for made in ClassicalBackend().annotate(image, [upright(instance), other], CLASSES):
        assert made.mask is not None and made.box is not None
        inside = made.mask.box
        outline = bounds(np.array([(made.box.x0, made.box.y0), (made.box.x1, made.box.y1)]))
        assert inside.x0 >= outline.x0 - 1 and inside.x1 <= outline.x1 + 1
        assert inside.y0 >= outline.y0 - 1 and inside.y1 <= outline.y1 + 1


@pytest.mark.parametrize("label", ["plane", "ship", "storage-tank"])
def test_an_image_of_one_colour_gets_outlines(label: str) -> None:
    """A contrast of -1e-7 by rounding made a complex score, and the image a failure."""
    known = [Instance(label, Box(40, 10, 60, 30))]
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    (found,) = annotate_sample(pixels, known, ClassTable.of(label), "classical")
    assert found.mask is not None and 0 <= found.scores["mask"] < 0.1
    assert found.origin == "box" and "contrast" in found.reasons[0]
