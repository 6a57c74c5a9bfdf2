"""Layout fidelity of hand-made detections, and the cell on images that a fake eye sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsgen.detections import Detections
from rsgen.evaluation import layout
from rsgen.evaluation.fidelity import CELL as FIDELITY
from rsgen.evaluation.fidelity import few, halves, side_of
from rsgen.evaluation.layout import measure
from rsgen.evaluation.poses import pose_errors, upright_labels, upright_notes
from rsgen.geometry import Box, box_quad, heading_of, quad_from_tuple
from rsgen.matching import Asked, asked_of
from rsgen.records import ClassTable, Instance, Layout
from tests import build
from tests.evaluation_build import evaluation, scenes, shuffled, untrained_judge

CLASSES = build.CLASSES
NAMES = ("plane", "ship", "storage-tank")


def things(*parts: tuple[str, float, float, float]) -> Asked:
    """Objects (label, x, y, heading) of 20 x 12 pixels."""
    found = [build.instance(n, x, y, 20, 12, h, size=(256, 256)) for n, x, y, h in parts]
    return asked_of(Layout(256, 256, tuple(found)), CLASSES)


SCENE = things(("plane", 40, 40, 0.3), ("ship", 120, 60, -2.0), ("storage-tank", 80, 160, 0.0))


def seen(asked: Asked, score: float = 0.9) -> Detections:
    """What a perfect eye would find."""
    return Detections(
        asked.quads.copy(), asked.labels, np.full(len(asked), score), asked.headings.copy()
    )


def moved(found: Detections, dx: float) -> Detections:
    return replace(found, quads=found.quads + (dx, 0.0))


def turned(found: Detections) -> Detections:
    """Half a turn: the other end is the front."""
    return replace(
        found,
        quads=found.quads[:, [2, 3, 0, 1]],
        headings=np.angle(np.exp(1j * (found.headings + math.pi))),
    )


def test_perfect_detections_give_the_best_of_all_figures() -> None:
    found = measure([seen(SCENE)], [SCENE], NAMES, 0.5)
    assert (found.coco.ap, found.coco.ap50, found.coco.ap75) == pytest.approx((1, 1, 1))
    assert (found.voc07, found.voc12) == pytest.approx((1, 1))
    assert found.recognised == found.right_place == 1.0
    assert found.extra == found.count_error == 0.0
    assert found.poses["centre error, px (median)"] == pytest.approx(0, abs=1e-9)
    assert found.poses["headings right, share"] == 1.0


def test_144_perfect_detections_count_all() -> None:
    """COCO's limit of 100 detections would give two thirds."""
    grid = [("ship", 12.0 + 10 * (k % 24), 12.0 + 10 * (k // 24), 0.0) for k in range(144)]
    dense = [build.instance(n, x, y, 8, 5, h, size=(256, 256)) for n, x, y, h in grid]
    asked = asked_of(Layout(256, 256, tuple(dense)), CLASSES)
    found = measure([seen(asked)], [asked], NAMES, 0.5)
    assert found.coco.ap == pytest.approx(1.0)
    assert found.coco.most_detections == 144
    assert found.by_class["ship"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda d: turned(d), {"headings right, share": 0.0, "axis error, degrees (median)": 0.0}),
        (lambda d: moved(d, 3.0), {"centre error, px (median)": 3.0, "headings right, share": 1}),
    ],
    ids=["half a turn", "three pixels"],
)
def test_poses_of_matched_objects(change: object, wanted: dict[str, float]) -> None:
    """Headings compared modulo half a turn would call a flipped ship right."""
    poses = pose_errors([change(seen(SCENE))], [SCENE])  # type: ignore[operator]
    for name, value in wanted.items():
        assert poses[name] == pytest.approx(value, abs=1e-6), name


def test_a_heading_that_is_unknown_is_not_counted() -> None:
    nothing = replace(SCENE, headings=np.full(3, np.nan))
    assert math.isnan(pose_errors([seen(nothing)], [SCENE])["headings right, share"])


def boxed(asked: Asked, *labels: str) -> Asked:
    """The same with some classes labelled by upright boxes, as VOC and plain COCO have them."""
    upright = np.array([n in labels for n in asked.labels])[:, None, None]
    low, high = asked.quads.min(axis=1), asked.quads.max(axis=1)
    corners = [low, np.stack([high[:, 0], low[:, 1]], axis=1), high]
    corners.append(np.stack([low[:, 0], high[:, 1]], axis=1))
    return replace(asked, quads=np.where(upright, np.stack(corners, axis=1), asked.quads))


OBLIQUE = things(("plane", 40, 40, 0.2), ("plane", 90, 40, 1.4), ("ship", 160, 60, 0.6))
AXIS = "axis error, degrees (median)"


def test_the_axis_of_upright_labels_is_not_measured() -> None:
    """Catches 35 degrees of error between a turned plane and the box that it was labelled with."""
    real = boxed(OBLIQUE, "plane")
    assert upright_labels([OBLIQUE]) == set()
    assert upright_labels([real]) == {"plane"}
    assert upright_labels([boxed(OBLIQUE, "plane", "ship")]) == {"plane", "ship"}
    found = seen(OBLIQUE)
    astray = replace(found, quads=np.concatenate([real.quads[:2], found.quads[2:]]))
    # planes by 0.2 and 1.4 rad from upright and lying boxes, the ship not at all
    median = math.degrees(math.pi / 2 - 1.4)
    assert pose_errors([astray], [OBLIQUE])[AXIS] == pytest.approx(median, abs=0.1)
    assert pose_errors([astray], [real])[AXIS] == pytest.approx(0, abs=1e-6)
    assert pose_errors([astray], [OBLIQUE], {"plane"})[AXIS] == pytest.approx(0, abs=1e-6)
    assert math.isnan(pose_errors([astray], [OBLIQUE], {"plane", "ship"})[AXIS])
    tank = build.instance("storage-tank", 80, 160, 12, 12, 0.0, size=(256, 256))
    round_one = asked_of(Layout(256, 256, (tank,)), CLASSES)  # no axis that could be measured
    (note,) = upright_notes({"real": [real, round_one], "generated": [OBLIQUE]})
    assert note.endswith("not measured for plane, labelled with upright boxes in real images")


def test_one_oblique_label_of_a_hundred_is_a_slip() -> None:
    lying = [boxed(OBLIQUE, "plane", "ship")] * 60
    assert upright_labels([*lying, OBLIQUE]) == {"plane", "ship"}
    assert upright_labels([*lying[:30], OBLIQUE]) == set()


def test_wrong_classes_are_in_place_but_not_recognised() -> None:
    swapped = replace(seen(SCENE), labels=("ship", "plane", "storage-tank"))
    found = measure([swapped], [SCENE], NAMES, 0.5)
    assert found.right_place == 1.0
    assert found.recognised == pytest.approx(1 / 3)
    assert found.extra == 0.0


def test_missing_and_extra_objects() -> None:
    """Two of three found, two more in empty places: one count too many."""
    away = things(("plane", 200, 200, 0.0), ("ship", 220, 30, 0.0))
    ours = seen(SCENE).chosen([0, 2])
    both = Detections(
        np.concatenate([ours.quads, away.quads]),
        (*ours.labels, *away.labels),
        np.full(4, 0.8),
        np.concatenate([ours.headings, away.headings]),
    )
    found = measure([both], [SCENE], NAMES, 0.5)
    assert found.recognised == pytest.approx(2 / 3)
    assert found.extra == pytest.approx(2 / 3)
    assert found.count_error == pytest.approx(1 / 3)
    unsure = measure([replace(both, scores=np.full(4, 0.4))], [SCENE], NAMES, 0.5)
    assert unsure.recognised == 0.0 and unsure.coco.ap50 > 0


def test_ignored_objects_are_neither_hits_nor_misses() -> None:
    difficult = replace(SCENE, ignored=np.array([True, False, False]))
    for found in (seen(SCENE), seen(SCENE).chosen([1, 2])):
        result = measure([found], [difficult], NAMES, 0.5)
        assert result.recognised == 1.0
        assert result.extra == 0.0
        assert result.coco.ap50 == pytest.approx(1)


def test_an_image_without_objects() -> None:
    empty = asked_of(Layout(256, 256), CLASSES)
    found = measure([seen(SCENE), Detections.none()], [SCENE, empty], NAMES, 0.5)
    assert found.coco.ap50 == pytest.approx(1) and found.count_error == 0.0
    nothing = measure([Detections.none()], [empty], NAMES, 0.5)
    assert math.isnan(nothing.recognised) and math.isnan(nothing.coco.ap50)


class Eye:
    """A judge that sees in an image what its label says, a few pixels off."""

    def __init__(self, classes: ClassTable, names: Sequence[str], labels: dict[bytes, Asked]):
        from rsgen.judge.decoding import ClassHabits

        card = untrained_judge(classes).card
        habits = tuple(ClassHabits(name, True, True) for name in names)
        self.card = replace(card, habits=habits)
        self.classes = classes
        self.labels = labels

    def detect(self, images: np.ndarray) -> list[Detections]:
        return [moved(seen(self.labels[image.tobytes()]), 1.0) for image in images]


def test_the_cell_puts_generated_beside_real_and_names_unknown_classes(tmp_path: Path) -> None:
    made, real = scenes("generated", range(4), 96), scenes("real", range(10, 14), 96)
    run = evaluation(made, real, real, tmp_path)
    known = [c for c in run.classes.classes if c.kind == "thing" and c.name != "plane"]
    table = ClassTable(tuple(known))
    labels = {
        images.read(s).tobytes(): layout.known_objects(asked_of(s.layout, run.classes), table)
        for images in (made, real)
        for s in images.samples
    }
    eye = Eye(table, table.names, labels)
    result = layout.CELL.compute(replace(run, judge=eye), tmp_path)  # type: ignore[arg-type]
    assert result.figures["centre error, px (median)"] == pytest.approx(1.0)
    assert result.figures["recognised in the right class"] > 0.9  # type: ignore[operator]
    assert result.counts["generated images"] == 4
    assert (tmp_path / "worst.png").is_file()
    assert not any("sees too little" in note for note in result.notes)
    blind = layout.CELL.compute(replace(run, judge=untrained_judge(table)), tmp_path)
    assert any("sees too little" in note for note in blind.notes)
    if any(i.label == "plane" for s in made.samples for i in s.layout.instances):
        assert any("plane" in note for note in result.notes)
    again = layout.CELL.compute(
        replace(run, judge=eye, generated=shuffled(made)),
        tmp_path,  # type: ignore[arg-type]
    )
    assert again.figures == result.figures


def test_headings_follow_the_first_edge() -> None:
    """The frame that all heading figures rest on."""
    quad = box_quad(Box(0, 0, 10, 20))
    assert heading_of(quad) == pytest.approx(-math.pi / 2)
    found = Instance("ship", quad=quad_from_tuple(np.roll(np.array(quad), -1, axis=0)))
    assert found.quad is not None and heading_of(found.quad) == pytest.approx(0)


def test_halves_are_disjoint() -> None:
    left, right = halves(20, 8, np.random.default_rng(0))
    assert len(left) == len(right) == 8
    assert not set(left) & set(right)


@pytest.mark.parametrize(
    ("made", "real", "side", "warns"),
    [(300, 300, 150, True), (200, 400, 200, False), (64, 1000, 64, True), (1000, 17, 8, True)],
    ids=["half of the real ones", "enough", "all generated ones", "an odd number"],
)
def test_the_warning_is_of_the_images_a_side(made: int, real: int, side: int, warns: bool) -> None:
    """300 images of each set are 150 in every distance; counting the sets hides that."""
    assert side_of(made, real) == side
    assert bool(few(side, made, real)) is warns


def test_fidelity_has_a_floor_and_no_order(tmp_path: Path) -> None:
    """Draws by position would change with the order of samples."""
    made, real = scenes("generated", range(16), 64), scenes("real", range(40, 56), 64)
    run = evaluation(made, real, real, tmp_path)
    one = FIDELITY.compute(run, tmp_path)
    assert {"FD-judge", "KD-judge", "FD-judge, real to real"} <= set(one.figures)
    assert one.counts["a side"] == 8
    assert any("rough" in note for note in one.notes)
    other = FIDELITY.compute(replace(run, generated=shuffled(made), real=shuffled(real)), tmp_path)
    assert other.figures == one.figures
