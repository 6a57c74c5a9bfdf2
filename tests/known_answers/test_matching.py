"""Average precision against hand arithmetic and pycocotools, overlaps against shapely."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rsgen.detections import Detections
from rsgen.geometry import RotatedBox, rotated_box_to_quad
from rsgen.matching import (
    Asked,
    coco_precision,
    crowd_shares,
    iou_matrix,
    match_objects,
    oriented_precision,
)


def squares(*corners: tuple[float, float], side: float = 10.0) -> np.ndarray:
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
    return np.array([unit + c for c in corners]).reshape(-1, 4, 2)


def found(quads: np.ndarray, scores: list[float], label: str = "ship") -> Detections:
    count = len(scores)
    return Detections(quads, (label,) * count, np.array(scores), np.full(count, np.nan))


def asked(
    quads: np.ndarray,
    label: str = "ship",
    ignored: tuple[int, ...] = (),
    crowd: tuple[int, ...] = (),
) -> Asked:
    marks, crowds = (np.zeros(len(quads), dtype=bool) for _ in range(2))
    marks[[*ignored, *crowd]] = True
    crowds[list(crowd)] = True
    return Asked(quads, (label,) * len(quads), marks, np.full(len(quads), np.nan), 640, 640, crowds)


def test_precision_by_hand() -> None:
    """Two objects; found: right (0.9), false (0.8), right (0.7), so precision 1, 1/2, 2/3.

    VOC12: 0.5 * 1 + 0.5 * 2/3 = 0.8333; VOC07: six points at 1, five at 2/3 = 0.8485.
    """
    truth = [asked(squares((0, 0), (50, 50)))]
    answer = [found(squares((0, 0), (100, 100), (50, 50)), [0.9, 0.8, 0.7])]
    assert oriented_precision(answer, truth, ["ship"])["ship"] == pytest.approx(5 / 6)
    by_points = oriented_precision(answer, truth, ["ship"], form="voc07")["ship"]
    assert by_points == pytest.approx((6 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        pytest.param([found(squares(), [])], [asked(squares((0, 0)))], 0.0, id="nothing found"),
        pytest.param(
            [found(squares((0, 0)), [0.5])], [asked(squares())], math.nan, id="none asked"
        ),
        pytest.param(
            [found(squares((0, 0), (0, 0)), [0.9, 0.8])], [asked(squares((0, 0)))], 1.0,
            id="the second answer to one object is false, after full recall",
        ),
        pytest.param(
            [found(squares((0, 0), (0, 0)), [0.8, 0.9])], [asked(squares((0, 0), (99, 0)))], 0.5,
            id="a double answer takes no second object",
        ),
        pytest.param(
            [found(squares((0, 0), (50, 50)), [0.9, 0.8])],
            [asked(squares((0, 0), (50, 50)), ignored=(0,))], 1.0,
            id="an ignored object is neither hit nor miss",
        ),
        pytest.param(
            [found(np.concatenate([squares((80, 80), (65, 65)), squares((0, 0))]),
                   [0.9, 0.8, 0.7])],
            [asked(np.concatenate([squares((0, 0)), squares((60, 60), side=60.0)]), crowd=(1,))],
            1.0,
            id="any number of answers in a crowd count as nothing",
        ),
        pytest.param(
            [found(np.concatenate([squares((80, 80)), squares((0, 0))]), [0.9, 0.7])],
            [asked(np.concatenate([squares((0, 0)), squares((60, 60), side=60.0)]), ignored=(1,))],
            0.5,
            id="a small box in a large difficult object is a false one",
        ),
        pytest.param(
            [found(squares((4, 0), (6, 0)), [0.9, 0.8])],
            [asked(np.concatenate([squares((6, 0)), squares((0, 0), side=40.0)]), crowd=(1,))],
            1.0,
            id="an object in a crowd is still an object",
        ),
        pytest.param(
            [found(squares((0, 0)), [0.5]), found(squares((9, 9)), [0.9])],
            [asked(squares((0, 0))), asked(squares())], 0.5,
            id="a false answer in an empty image counts",
        ),
    ],
)  # fmt: skip
def test_edges_of_precision(answer: list[Detections], truth: list[Asked], expected: float) -> None:
    """Each row is a case in which home-made precision goes wrong."""
    got = oriented_precision(answer, truth, ["ship"])["ship"]
    assert got == pytest.approx(expected, nan_ok=True)
    assert coco_precision(answer, truth, ["ship"]).ap50 == pytest.approx(
        expected, nan_ok=True, abs=6e-3
    )


def test_531_perfect_answers_score_one() -> None:
    """Catches COCO's limit of 100 detections, and a first label of id 0 that is never matched."""
    corners = [(12.0 * (k % 50), 12.0 * (k // 50)) for k in range(531)]
    quads = squares(*corners)
    result = coco_precision(
        [found(quads, list(np.linspace(0.1, 0.9, 531)))], [asked(quads)], ["ship"]
    )
    assert (result.ap, result.ap50, result.ap75) == pytest.approx((1.0, 1.0, 1.0))
    assert result.most_detections == 531 and result.by_size["small"] == pytest.approx(1.0)
    assert math.isnan(result.by_size["large"])


def test_order_of_images_does_not_matter() -> None:
    truth = [asked(squares((0, 0), (50, 50))), asked(squares((20, 20))), asked(squares())]
    answer = [
        found(squares((1, 0), (52, 50)), [0.9, 0.3]),
        found(squares((90, 90)), [0.6]),
        found(squares((5, 5)), [0.2]),
    ]
    one, other = (coco_precision(answer[::step], truth[::step], ["ship"]) for step in (1, -1))
    assert (one.ap, one.ap50, one.ap75) == (other.ap, other.ap50, other.ap75)
    assert 0 < one.ap50 < 1
    assert oriented_precision(answer[::-1], truth[::-1], ["ship"]) == oriented_precision(
        answer, truth, ["ship"]
    )


def test_a_match_prefers_its_class_and_real_objects() -> None:
    truth = asked(squares((0, 0), (1, 0)), ignored=(0,))
    pairs = match_objects(found(squares((0, 0)), [0.9]), truth)
    assert [p.asked for p in pairs] == [1]
    other = match_objects(found(squares((0, 0)), [0.9], label="plane"), truth)
    assert other == []
    assert len(match_objects(found(squares((0, 0)), [0.9], "plane"), truth, any_class=True)) == 1


def test_a_crowd_takes_all_and_is_no_object() -> None:
    """Three boats in a crowd of boats, one beside it, a plane in it."""
    quads = np.concatenate([squares((0, 0), side=40.0), squares((100, 100))])
    truth = asked(quads, crowd=(0,))
    boats = found(squares((5, 5), (5, 20), (20, 5), (100, 100)), [0.9, 0.8, 0.7, 0.6])
    assert [(p.found, p.asked) for p in match_objects(boats, truth)] == [
        (0, 0), (1, 0), (2, 0), (3, 1),
    ]  # fmt: skip
    assert crowd_shares(boats, truth)[:, 0].tolist() == [1, 1, 1, 0]
    plane = found(squares((5, 5)), [0.9], "plane")
    assert match_objects(plane, truth) == [] and truth.counted == 1
    assert len(match_objects(plane, truth, any_class=True)) == 1


boxes = st.builds(
    RotatedBox,
    cx=st.floats(10, 30), cy=st.floats(10, 30), w=st.floats(4, 30), h=st.floats(2, 20),
    angle_rad=st.floats(-math.pi, math.pi, exclude_max=True),
)  # fmt: skip


@given(st.lists(boxes, max_size=4), st.lists(boxes, max_size=4))
def test_overlaps_are_shapelys(first: list[RotatedBox], second: list[RotatedBox]) -> None:
    """Catches a pair that the spatial index lost, and a transposed matrix."""
    ours = np.array([rotated_box_to_quad(b) for b in first]).reshape(-1, 4, 2)
    theirs = np.array([rotated_box_to_quad(b) for b in second]).reshape(-1, 4, 2)
    matrix = iou_matrix(ours, theirs)
    assert matrix.shape == (len(first), len(second))
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            p, q = shapely.Polygon(a), shapely.Polygon(b)
            assert matrix[i, j] == pytest.approx(p.intersection(q).area / p.union(q).area, abs=1e-9)
