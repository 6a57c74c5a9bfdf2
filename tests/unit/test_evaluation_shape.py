"""Crops, edge metrics and the shape cell, against scipy, scikit-image and hand cases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist, directed_hausdorff
from skimage.metrics import structural_similarity

from rsgen.evaluation import crops as cropping
from rsgen.evaluation import shape
from rsgen.evaluation.crops import SIDE, crop_image, crop_mask, cut_crops, places_of, pose_of
from rsgen.geometry import Box
from rsgen.records import ClassTable, Instance, Layout, Provenance
from tests import build
from tests.evaluation_build import changed, evaluation, images_of, scenes, shuffled

CLASSES = build.CLASSES


def arrow(heading: float, size: int = 96) -> tuple[np.ndarray, Instance]:
    """A bar whose front half is red and whose left side (seen forward) is brighter."""
    found = build.instance(cx=48, cy=44, length=40, across=20, heading_rad=heading,
                           size=(size, size))  # fmt: skip
    y, x = np.mgrid[0:size, 0:size] + 0.5
    along = (x - 48) * math.cos(heading) + (y - 44) * math.sin(heading)
    across = -(x - 48) * math.sin(heading) + (y - 44) * math.cos(heading)
    image = np.zeros((size, size, 3), dtype=np.uint8)
    bar = (abs(along) <= 20) & (abs(across) <= 10)
    image[bar & (along > 0), 0] = 200
    image[bar & (across > 0), 1] = 200
    return image, found


@pytest.mark.parametrize("heading", [0.0, 0.7, 2.0, -1.5, math.pi / 2], ids=str)
def test_crops_turn_objects_upright_front_to_the_right(heading: float) -> None:
    """A turn by the wrong sign, or half a turn, would put the red front elsewhere."""
    image, found = arrow(heading)
    pose = pose_of(found)
    assert pose is not None
    crop = crop_image(image, pose)
    assert crop.shape == (SIDE, SIDE, 3)
    inner = slice(int(SIDE * 0.25), int(SIDE * 0.75))
    assert crop[inner, 40:50, 0].mean() > 150 > 50 > crop[inner, 14:24, 0].mean()
    assert crop[38:48, inner, 1].mean() > 150 > 50 > crop[16:26, inner, 1].mean()


def test_crops_have_a_fifth_of_the_box_around_it() -> None:
    """Padding by a fifth of the whole, or at one end, gives other shares."""
    _, found = arrow(0.4)
    pose = pose_of(found)
    assert pose is not None and found.mask is not None
    mask = crop_mask(found.mask, Layout(96, 96), pose)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    wanted = SIDE * 0.2 / 1.4
    for first, last in ((rows[0], rows[-1]), (columns[0], columns[-1])):
        assert first == pytest.approx(wanted, abs=1.6)
        assert SIDE - 1 - last == pytest.approx(wanted, abs=1.6)


def test_upright_labels_lie_along_their_long_side() -> None:
    tall = Instance("ship", box=Box(10, 10, 20, 50))
    pose = pose_of(tall)
    assert pose is not None
    assert (pose.w, pose.h) == (40, 10)
    assert abs(math.cos(pose.angle_rad)) < 1e-9
    flat = pose_of(Instance("ship", box=Box(10, 10, 50, 20)))
    assert flat is not None and flat.angle_rad == 0.0 and (flat.cx, flat.cy) == (30, 15)


def test_objects_that_cannot_be_compared_are_left_out() -> None:
    good = build.instance()
    layout = Layout(64, 64, (
        good,
        replace(good, difficult=True),
        replace(good, iscrowd=True),
        Instance("water", box=Box(0, 0, 64, 64)),
        Instance("ship", box=Box(3, 3, 8, 30)),
        Instance("ship", box=Box(-15, 0, 15, 20)),
        Instance("ship"),
        replace(build.instance(cx=2.0), box=Box(0, 10, 14, 40)),
    ))  # fmt: skip
    images = images_of("real", [(np.zeros((64, 64, 3), np.uint8), layout)])
    found = places_of(images, CLASSES, 0)
    assert [place.instance for place in found] == [good]


def test_the_order_of_objects_is_the_seeds_not_the_samples() -> None:
    images = scenes("real", range(4), 96)
    table = evaluation(images, images, images, Path()).classes
    one = [p.key for p in places_of(images, table, 3)]
    assert one == [p.key for p in places_of(shuffled(images), table, 3)]
    assert one != [p.key for p in places_of(images, table, 4)]
    places = places_of(images, table, 3)
    cut = list(cut_crops(images, places))
    assert [c.place.key for c in cut] == one
    assert len(cropping.spread(places, 1)) == len({p.label for p in places})


def hand(points: list[tuple[int, int]]) -> np.ndarray:
    edges = np.zeros((16, 16), dtype=bool)
    for row, column in points:
        edges[row, column] = True
    return edges


def test_edge_metrics_of_a_hand_case() -> None:
    """Two points each, one shared, the others 3 and 4 pixels away: 5 by Pythagoras."""
    values = shape.compare_edges(hand([(0, 0), (8, 8)]), hand([(0, 0), (11, 12)]))
    assert values is not None
    assert values["IoU"] == pytest.approx(1 / 3)
    assert values["Dice"] == pytest.approx(1 / 2)
    assert values["Chamfer px"] == pytest.approx(2.5)
    assert values["Hausdorff px"] == pytest.approx(5.0)


@pytest.mark.parametrize("seed", range(4), ids=str)
def test_edge_metrics_agree_with_other_libraries(seed: int) -> None:
    """Distances by brute force, SSIM by scikit-image: swapped arguments would differ."""
    rng = np.random.default_rng(seed)
    a, b = rng.random((64, 64)) < 0.02, rng.random((64, 64)) < 0.05
    values = shape.compare_edges(a, b)
    assert values is not None
    pa, pb = np.argwhere(a), np.argwhere(b)
    between = cdist(pa, pb)
    wanted = (between.min(axis=1).mean() + between.min(axis=0).mean()) / 2
    assert values["Chamfer px"] == pytest.approx(wanted)
    both = max(directed_hausdorff(pa, pb)[0], directed_hausdorff(pb, pa)[0])
    assert values["Hausdorff px"] == pytest.approx(both)
    ssim = structural_similarity(a.astype(float), b.astype(float), data_range=1.0, win_size=7)
    assert values["SSIM"] == pytest.approx(ssim)
    assert values["Dice"] == pytest.approx(2 * values["IoU"] / (1 + values["IoU"]))


def test_empty_edges() -> None:
    some = hand([(3, 3)])
    assert shape.compare_edges(some, hand([])) is None
    values = shape.compare_edges(hand([]), some)
    assert values is not None
    assert (values["IoU"], values["Dice"]) == (0.0, 0.0)
    assert values["Chamfer px"] == values["Hausdorff px"] == pytest.approx(16 * math.sqrt(2))
    same = shape.compare_edges(some, some)
    assert same == {"IoU": 1, "Dice": 1, "Chamfer px": 0, "Hausdorff px": 0, "SSIM": 1}


def painted(shift: float = 0.0, kind: str = "real", **keys: object) -> tuple[np.ndarray, Layout]:
    """White objects on dark ground, drawn `shift` pixels beside their labels."""
    image = np.full((64, 64, 3), 30, dtype=np.uint8)
    things = []
    for cx, cy, turn in ((18, 20, 0.3), (44, 22, 1.4), (30, 48, -0.6)):
        thing = build.instance(cx=cx, cy=cy, length=20, across=11, heading_rad=turn)
        drawn = build.instance(cx=cx + shift, cy=cy, length=20, across=11, heading_rad=turn)
        assert drawn.mask is not None
        drawn.mask.paint(image, 220)
        things.append(replace(thing, **keys))  # type: ignore[arg-type]
    return image, Layout(64, 64, tuple(things))


def test_shapes_that_were_drawn_as_asked_beat_moved_ones(tmp_path: Path) -> None:
    """Masks and crops in two frames, or figures without direction, would not order these."""
    real = images_of("real", [painted()])
    results = {}
    for shift in (0.0, 3.0):
        made = images_of("generated", [painted(shift)], provenance=Provenance("synthetic"))
        results[shift] = shape.CELL.compute(
            evaluation(made, real, real, tmp_path, classes=CLASSES), tmp_path
        )
    exact, moved = results[0.0].figures, results[3.0].figures
    assert exact["IoU, asked outline"] > 0.45 > 0.3 > moved["IoU, asked outline"]
    assert exact["Chamfer px, asked outline"] < 0.6 < 2 < moved["Chamfer px, asked outline"]
    assert exact["IoU, asked outline"] == exact["IoU, real images and their outlines"]
    assert (tmp_path / "worst.png").is_file() and (tmp_path / "best.png").is_file()


@pytest.mark.parametrize(
    ("origin", "other_mask", "row"),
    [
        ("annotation", False, shape.LEAKED),
        ("pool:7", False, shape.LEAKED),
        ("pool:7", True, shape.TWIN),
    ],
    ids=["the labels themselves", "its own mask by way of a pool", "another object's mask"],
)
def test_a_twin_whose_mask_was_the_input_is_marked(
    origin: str, other_mask: bool, row: str, tmp_path: Path
) -> None:
    """Without the guard, a layout's own masks would pass as agreement with unseen images."""
    real = images_of("real", [painted()], ids=["a/b.png"])
    keys = {"origin": origin}
    if other_mask:
        keys["mask"] = build.ellipse_mask(18, 20, 18, 9)  # type: ignore[assignment]
    made = images_of("generated", [painted(0.0, **keys)], provenance=Provenance(
        "synthetic", parent="a/b.png", sources=("a/b.png", "c.png")))  # fmt: skip
    result = shape.CELL.compute(evaluation(made, real, real, tmp_path, classes=CLASSES), tmp_path)
    table = next(iter(result.tables.values()))
    others = {shape.TWIN, shape.LEAKED} - {row}
    assert table[row]["objects"] == 3
    assert table[row]["IoU"] == 1.0
    assert [table[other]["objects"] for other in others] == [0]
    assert any("tells nothing" in note for note in result.notes) == (row == shape.LEAKED)


def test_train_images_are_never_a_reference(tmp_path: Path) -> None:
    train = images_of("real train", [painted()], ids=["a/b.png"])
    real = images_of("real", [painted()], ids=["other.png"])
    made = images_of("generated", [painted()], provenance=Provenance(
        "synthetic", parent="a/b.png", sources=("a/b.png",)))  # fmt: skip
    result = shape.CELL.compute(evaluation(made, real, train, tmp_path, classes=CLASSES), tmp_path)
    table = next(iter(result.tables.values()))
    assert table[shape.TWIN]["objects"] == table[shape.LEAKED]["objects"] == 0
    assert any("layout_splits=[test]" in note for note in result.notes)


def test_the_shape_of_a_box_is_no_shape(tmp_path: Path) -> None:
    """Boxes that a backend fell back to would be compared with objects."""
    from rsgen.errors import DataError

    boxes = images_of("generated", [painted(0.0, origin="box")])
    with pytest.raises(DataError, match="mask"):
        shape.CELL.compute(evaluation(boxes, boxes, boxes, tmp_path, classes=CLASSES), tmp_path)


def test_shape_does_not_depend_on_the_order_of_images(tmp_path: Path) -> None:
    made, real = scenes("generated", range(6), 96), scenes("real", range(20, 26), 96)
    one = shape.CELL.compute(evaluation(made, real, real, tmp_path), tmp_path)
    other = shape.CELL.compute(evaluation(shuffled(made), shuffled(real), real, tmp_path), tmp_path)
    assert one == other
    blurred = changed(made, lambda image: image // 4 * 4)
    assert shape.CELL.compute(evaluation(blurred, real, real, tmp_path), tmp_path) != one


def test_classes_weigh_the_same_in_the_headline(tmp_path: Path) -> None:
    """A set with more of an easy class would look better than the real images."""
    table = ClassTable(CLASSES.classes)
    image, layout = painted()
    hard = tuple(replace(i, label="ship") for i in layout.instances[:1])
    real = images_of("real", [(image, replace(layout, instances=(*layout.instances[1:], *hard)))])
    blank = np.full_like(image, 30)
    made = images_of(
        "generated",
        [(image, layout), (blank, replace(layout, instances=hard))],
    )
    result = shape.CELL.compute(evaluation(made, real, real, tmp_path, classes=table), tmp_path)
    by_class = result.tables["by class, asked outline"]
    mean = (by_class["plane"]["IoU"] + by_class["ship"]["IoU"]) / 2  # type: ignore[operator]
    assert result.figures["IoU, asked outline"] == pytest.approx(mean, rel=1e-3)
    assert by_class["ship"]["IoU"] == 0.0
