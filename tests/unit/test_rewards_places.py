"""Where in an image a reward comes from: cells worked out by hand, sums, controls, failures."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from rsgen.detections import Detections
from rsgen.errors import DataError
from rsgen.geometry import Box
from rsgen.records import Instance, Layout, Sample
from rsgen.rewards.base import Made, RewardSetup
from rsgen.rewards.combine import Control, Rewards, RewardSpec, join_seen, open_rewards
from rsgen.rewards.detector import DetectorReward, see
from rsgen.rewards.places import SIDE, worth_by_place
from rsgen.rewards.single import PLACES, VALUE, PerImage
from rsgen.scorers.looking import Eyes
from tests.build import CLASSES, water
from tests.unit.test_rewards_detector import (
    AT,
    AWAY,
    EYES,
    PLANE,
    SCRIPT,
    Known,
    found,
    layout,
    picture,
    samples,
    thing,
)

Grid = npt.NDArray[np.float64]
NAN, INF = float("nan"), float("inf")


def painted(*parts: tuple[float, slice, slice]) -> Grid:
    """A grid by hand: (worth, rows, columns) each, added up."""
    grid = np.zeros((SIDE, SIDE))
    for worth, rows, columns in parts:
        grid[rows, columns] += worth
    return grid


# ---------------------------------------------------------------- the grid


@pytest.mark.parametrize(
    ("boxes", "worth", "size", "expected"),
    [
        # 64 px: a cell is 2 px, the margin 2 px
        pytest.param(
            [Box(20, 24, 28, 30)], [0.5], (64, 64), painted((0.5, slice(11, 16), slice(9, 15))),
            id="grown by a quarter: 18..30 x 22..32",
        ),
        pytest.param(
            [Box(21, 24, 29, 30)], [1], (64, 64), painted((1, slice(11, 16), slice(9, 16))),
            id="a cell that is touched in part counts: 19..31",
        ),
        pytest.param(
            [Box(20, 20, 52, 22)], [1], (64, 64), painted((1, slice(6, 15), slice(6, 30))),
            id="the longer side grows both ways: 8 px",
        ),
        pytest.param(
            [Box(20, 20, 22, 22)], [1], (64, 64), painted((1, slice(9, 12), slice(9, 12))),
            id="a small one by the margin: 2 px, not half a one",
        ),
        pytest.param(
            [Box(-6, 50, 2, 62)], [-2], (64, 64), painted((-2, slice(23, 32), slice(0, 3))),
            id="clipped at the left and at the bottom",
        ),
        pytest.param([Box(-10, 10, -4, 14)], [1], (64, 64), painted(), id="left of the frame"),
        pytest.param([Box(70, 10, 74, 14)], [1], (64, 64), painted(), id="right of the frame"),
        pytest.param(
            [Box(65, 10, 69, 14)], [1], (64, 64), painted((1, slice(4, 8), slice(31, 32))),
            id="outside, but what is around it is not",
        ),
        # 128 x 32: cells of 4 x 1 px, the margin 4 px of the longer side
        pytest.param(
            [Box(40, 10, 48, 14)], [1], (128, 32), painted((1, slice(6, 18), slice(9, 13))),
            id="wide frame",
        ),
        pytest.param(
            [Box(10, 40, 14, 48)], [1], (32, 128), painted((1, slice(9, 13), slice(6, 18))),
            id="high frame",
        ),
        pytest.param(
            [Box(20, 24, 28, 30), Box(24, 24, 32, 30)], [0.5, -0.25], (64, 64),
            painted((0.5, slice(11, 16), slice(9, 15)), (-0.25, slice(11, 16), slice(11, 17))),
            id="where two overlap both count",
        ),
        pytest.param(
            [None, Box(4, 4, 12, 12), Box(4, 4, 12, 12), Box(20, 24, 28, 30)],
            [9, NAN, INF, 0.5], (64, 64), painted((0.5, slice(11, 16), slice(9, 15))),
            id="no box, or a worth that is no number: none",
        ),
        pytest.param([], [], (64, 64), painted(), id="no object"),
    ],
)  # fmt: skip
def test_the_cells_around_an_object_hold_its_worth(
    boxes: Sequence[Box | None], worth: Sequence[float], size: tuple[int, int], expected: Grid
) -> None:
    """Catches rows for columns, growth by the wrong side, and a negative start that wraps."""
    grid = worth_by_place(boxes, worth, *size)
    assert grid.dtype == np.float64
    np.testing.assert_allclose(grid, expected, atol=1e-12)


def test_a_worth_without_its_box_is_refused() -> None:
    """Catches a scorer of fewer objects than the layout has: worth that slides to others."""
    with pytest.raises(ValueError):
        worth_by_place([Box(0, 0, 4, 4)], [1.0, 2.0], 64, 64)


# ---------------------------------------------------------------- the sum

LEFT = SIDE // 2  # a reward of the left half; the right half holds 0


def levels(made: Made) -> Grid:
    return np.asarray(made.images[:, 0, 0, 0], dtype=np.float64)


def in_the_left(made: Made) -> dict[str, Any]:
    """The grey level less 4, on the left; 9 cannot be looked at, 8 is endless."""
    level = levels(made)
    if (level == 9).any():
        raise DataError("cannot look at this one")
    grid = np.zeros((len(made), SIDE, SIDE))
    grid[:, :, :LEFT] = (level - 4)[:, None, None]
    return {VALUE: np.where(level == 8, np.inf, level - 4), PLACES: grid}


def everywhere(made: Made) -> dict[str, Any]:
    return {VALUE: levels(made) / 100}


def grey(*given: int | None) -> Made:
    pictures = [None if v is None else np.full((4, 4, 3), v, np.uint8) for v in given]
    return Made.of(pictures, [Sample(f"s{k}", Layout(4, 4)) for k in range(len(given))])


def left(weight: float = 1.0, kind: type[PerImage] = PerImage) -> tuple[RewardSpec, PerImage]:
    return RewardSpec("any", weight, "left"), kind("left", in_the_left, places=True)


def plain(weight: float = 1.0, name: str = "plain") -> tuple[RewardSpec, PerImage]:
    return RewardSpec("any", weight, name), PerImage(name, everywhere)


def told(rewards: Rewards, made: Made, *, learn: bool = True) -> tuple[Grid, Grid, Grid]:
    """Left half [N], right half [N] and total [N]; each half holds one number."""
    batch = rewards(made, epoch=0, learn=learn)
    assert batch.places is not None and batch.places.shape == (len(made), SIDE, SIDE)
    assert batch.places.dtype == np.float64
    halves = batch.places[:, :, :LEFT], batch.places[:, :, LEFT:]
    for half in halves:
        np.testing.assert_array_equal(half, np.broadcast_to(half[:, :1, :1], half.shape))
    return halves[0][:, 0, 0], halves[1][:, 0, 0], batch.total


PARTS: tuple[Callable[[], tuple[RewardSpec, PerImage]], ...] = (
    lambda: left(2.0),
    lambda: plain(-0.5),
    lambda: (replace(left(-3.0)[0], name="again"), left()[1]),
)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_what_tells_no_places_counts_in_each(order: Sequence[int]) -> None:
    """Catches a reward that is dropped, or doubled, before or after the first with places."""
    here, there, total = told(Rewards([PARTS[k]() for k in order]), grey(10, 30, 7))
    value = np.array([10.0, 30.0, 7.0])
    rest = -0.5 * value / 100
    np.testing.assert_allclose(here, (2 - 3) * (value - 4) + rest)
    np.testing.assert_allclose(there, rest)
    np.testing.assert_allclose(here, total)


def test_without_a_reward_that_tells_places_there_are_none() -> None:
    """Catches a grid of equal numbers where there is nothing to tell apart."""
    assert Rewards([plain(), plain(2.0, "more")])(grey(1, 2), epoch=0).places is None


@pytest.mark.parametrize(
    ("weight", "least"),
    [pytest.param(2.0, -3.0, id="the least"), pytest.param(-2.0, 1.0, id="turned round")],
)
def test_a_failure_never_pays_in_any_place(weight: float, least: float) -> None:
    """Catches places of 0 for what is broken, cannot be looked at or is no number."""
    here, there, total = told(Rewards([left(weight), plain()]), grey(1, 9, 5, None, 8))
    rest = np.array([0.01, 0.09, 0.05, 0.0, 0.08])
    np.testing.assert_allclose(here, weight * np.array([-3, least, 1, least, least]) + rest)
    np.testing.assert_allclose(there, weight * np.array([0, least, 0, least, least]) + rest)
    np.testing.assert_allclose(here, total)
    lost = [told(Rewards([left(weight)]), grey(9, None))[k] for k in range(3)]
    np.testing.assert_array_equal(lost, np.zeros((3, 2)))


def test_a_value_that_is_no_number_leaves_no_places() -> None:
    """Catches places of a reward whose value was thrown away."""

    class Odd(PerImage):
        def rate(self, *args: Any, **more: Any) -> Any:
            return replace(super().rate(*args, **more), value=np.array([-2.0, np.inf, np.nan]))

    here, there, total = told(Rewards([left(kind=Odd)]), grey(2, 30, 30))
    assert here.tolist() == [-2, -2, -2] == total.tolist() and there.tolist() == [0, -2, -2]


# ---------------------------------------------------------------- controls, ranks


@pytest.mark.parametrize("control", ["none", "negated", "shuffled"])
def test_a_control_deals_with_places_as_with_the_total(control: Control) -> None:
    """Catches a control whose places teach what its rewards must not, or of another order."""
    made = grey(*range(10, 30))
    rewards = Rewards([left()], control, seed=3)
    value = np.arange(10.0, 30.0) - 4
    orders = []
    for _ in range(3):
        here, there, total = told(rewards, made)
        np.testing.assert_array_equal(here, total)
        assert not there.any()
        orders.append(total.tolist())
    if control == "shuffled":
        assert sorted(orders[0]) == sorted(value) and value.tolist() not in orders
        assert orders[0] != orders[1] != orders[2]
    else:
        assert orders == [((-1 if control == "negated" else 1) * value).tolist()] * 3
    before = rewards.state_dict()["calls"].tolist()
    here, _, total = told(rewards, made, learn=False)
    assert here.tolist() == total.tolist() == value.tolist()
    assert rewards.state_dict()["calls"].tolist() == before


def test_places_are_arrays_of_their_own() -> None:
    """Catches a batch whose places change what a reward, or a second look at it, has."""
    rewards = Rewards([left()])
    seen = rewards.observe(grey(10, 20))
    kept = {name: rows.copy() for name, rows in seen.items()}
    for learn in (True, False):
        batch = rewards.rate(seen, epoch=0, learn=learn)
        assert batch.places is not None
        batch.places[:] = 77
    assert all(np.array_equal(seen[name], kept[name]) for name in seen)


def test_ranks_bring_their_places_together() -> None:
    """Catches places that are seen by one rank alone, or in another order than the values."""
    rewards = Rewards([plain(), left()])
    parts = [rewards.observe(grey(10, None)), rewards.observe(grey(9, 30))]
    joined = rewards.rate(join_seen(parts), epoch=0)
    whole = rewards(grey(10, None, 9, 30), epoch=0)
    assert joined.places is not None and whole.places is not None
    assert np.array_equal(joined.places, whole.places)
    assert np.array_equal(joined.total, whole.total)


# ---------------------------------------------------------------- reward `detector`

# 60 px: a cell is 1.875 px. AT is grown to 5..35, AWAY to 37.5..52.5: no cell is of both.
OF = {AT: slice(2, 19), AWAY: slice(20, 28)}
SHIP = thing("ship", AWAY)


def at(worth: float, away: float = 0.0) -> Grid:
    """What the cells around AT, and around AWAY, hold."""
    return painted((worth, OF[AT], OF[AT]), (away, OF[AWAY], OF[AWAY]))


@pytest.mark.parametrize(
    ("seen", "asked", "here", "away"),
    [
        pytest.param([("plane", 0.8, AT)], [PLANE], 1.8, 0, id="found: IoU 1 + confidence"),
        pytest.param([("plane", 0.8, (10, 10, 30, 20))], [PLANE], 1.3, 0, id="half: where asked"),
        pytest.param([], [PLANE, SHIP], 0, 0, id="missed: 0"),
        pytest.param([("ship", 0.6, AWAY)], [PLANE, SHIP], 0, 0.8, id="one of two"),
        pytest.param(
            [("plane", 0.8, AT), ("ship", 0.6, AWAY)], [SHIP, PLANE], 0.9, 0.8,
            id="each has its own, whatever the order",
        ),
        pytest.param(
            [("plane", 0.8, AT), ("ship", 0.6, AWAY)], [PLANE], 1.8, -0.3, id="an extra one"
        ),
        pytest.param([("ship", 0.8, AT)], [PLANE], -0.4, 0, id="another class in its place"),
        pytest.param(
            [("plane", 0.8, AT), ("ship", 0.8, AT)], [PLANE, SHIP], (1.8 - 0.4) / 2, 0,
            id="found, with an extra on it",
        ),
        pytest.param([("ship", 0.6, AWAY)], [], 0, -0.3, id="nothing asked, something seen"),
        pytest.param(
            [("ship", 0.6, AWAY), ("plane", 0.8, AT)], [PLANE, thing("bridge", AWAY)], 1.8, 0,
            id="on an unknown class: excused",
        ),
        pytest.param([("ship", 0.09, AWAY)], [PLANE], 0, 0, id="an unsure extra is free"),
    ],
)  # fmt: skip
def test_an_object_is_paid_where_it_stands(
    seen: Any, asked: Sequence[Instance], here: float, away: float
) -> None:
    """Catches worth at the place of another object, extras that cost nothing where they are,
    and shares that do not add up to the value."""
    options = DetectorReward(extra=0.5)
    sight = see(found(*seen), layout(*asked), EYES, options)
    np.testing.assert_allclose(sight.places, at(here, away), atol=1e-12)
    assert sight.value(options) == pytest.approx(here + away)


def test_weights_of_a_detector_reach_its_places() -> None:
    """Catches places that count confidence and extras once, whatever the options say."""
    options = DetectorReward(confidence=5.0, extra=2.0)
    sight = see(found(("plane", 0.8, AT), ("ship", 0.6, AWAY)), layout(PLANE), EYES, options)
    np.testing.assert_allclose(sight.places, at(5.0, -1.2), atol=1e-12)


class Says(Known):
    """Answers from a table by the blue of the first pixel."""

    def __init__(self, *answers: Detections) -> None:
        self.answers = answers

    def detect(self, images: Any) -> list[Detections]:
        return [self.answers[image[0, 0, 2]] for image in images]


class Stranger(Says):
    """Is asked about nothing: it knows none of the layout's classes."""

    known = frozenset[str]()


BOTH = found(("plane", 0.8, AT), ("ship", 0.6, AWAY))  # 1.8 and 1.6, of two
ONE = found(("plane", 0.7, AT))  # 1.7 and 0, of two
NONE = Detections.none()


@pytest.mark.parametrize(
    ("join", "detectors", "expected"),
    [
        pytest.param("mean", (Says(BOTH, NONE), Says(ONE, ONE)),
                     [at(1.75 / 2, 0.8 / 2), at(0.85 / 2)], id="mean"),
        pytest.param("min", (Says(BOTH, NONE), Says(ONE, ONE)), [at(0.85), at(0)], id="least"),
        pytest.param("mean", (Says(BOTH, NONE), Stranger(BOTH, BOTH)), [at(0.9, 0.8), at(0)],
                     id="mean, one blind"),
        pytest.param("min", (Stranger(BOTH, BOTH), Says(BOTH, ONE)), [at(0.9, 0.8), at(0.85)],
                     id="least, one blind"),
        pytest.param("mean", (Stranger(BOTH, ONE), Stranger(BOTH, ONE)), [at(0), at(0)],
                     id="mean, all blind"),
        pytest.param("min", (Stranger(BOTH, ONE),), [at(0), at(0)], id="least, all blind"),
    ],
)  # fmt: skip
def test_the_places_of_several_detectors_are_those_of_the_value(
    join: Literal["mean", "min"], detectors: Sequence[Says], expected: Sequence[Grid]
) -> None:
    """Catches places of all detectors under the value of one, and places of blind ones."""
    reward = DetectorReward(join=join)
    pictures = [picture(), picture()]
    pictures[1][0, 0, 2] = 1
    made = Made.of(pictures, samples(2, PLANE, SHIP))
    columns = reward._look([Eyes(detector) for detector in detectors], made)
    np.testing.assert_allclose(columns[PLACES], expected, atol=1e-12)
    spots = columns[PLACES][:, [OF[AT].start, OF[AWAY].start], [OF[AT].start, OF[AWAY].start]]
    assert columns[VALUE] == pytest.approx(spots.sum(axis=1))


def test_rows_of_a_detector_keep_their_places() -> None:
    """Catches rows that move up where an image is broken, through the reward as it is opened."""
    ship = {"label": "ship", "score": 0.6, "box": list(AWAY)}
    words = [sys.executable, str(SCRIPT), "says", json.dumps({"detections": [ship]})]
    options = {"detectors": ["command: " + shlex.join(words)]}
    rewards = open_rewards([RewardSpec("detector", 2.0, options=options)], RewardSetup(CLASSES))
    batch = rewards(Made.of([None, picture()], samples(2, PLANE, SHIP)), epoch=0)
    rewards.close()
    assert batch.places is not None
    np.testing.assert_allclose(batch.places, [at(0), at(0, 1.6)], atol=1e-12)
    assert batch.total == pytest.approx([0, 1.6])


# ---------------------------------------------------------------- scorers of objects


def test_a_scorer_of_objects_pays_each_in_its_place() -> None:
    """Catches the mean in every place, a divisor that counts what does not apply, and scores
    that are dealt to other objects."""
    ground = water((60, 60))
    rewards = open_rewards([RewardSpec("contrast")], RewardSetup(CLASSES))
    pictures = [picture((0, AT)), picture((0, AT), (1, AWAY)), picture()]
    batch = rewards(Made.of(pictures, samples(3, ground, SHIP, PLANE)), epoch=0)
    assert batch.places is not None
    spots = [(OF[box].start, OF[box].stop - 1) for box in (AT, AWAY)]
    for image, places in enumerate(batch.places):
        here, away = (places[k[0], k[0]] for k in spots)
        np.testing.assert_allclose(places, at(here, away), atol=1e-12)
        assert here + away == pytest.approx(batch.total[image])
    assert batch.places[0, 2, 2] > 0 and batch.places[0, 20, 20] < batch.places[1, 20, 20]


def test_a_scorer_of_images_tells_no_places() -> None:
    """Catches a column that is asked of what does not give it."""
    rewards = open_rewards([RewardSpec("integrity")], RewardSetup(CLASSES))
    assert rewards(Made.of([picture()], samples(1, PLANE)), epoch=0).places is None


@pytest.mark.parametrize("corner", [math.nan, math.inf, -math.inf])
def test_a_box_that_is_not_finite_is_nowhere(corner: float) -> None:
    """Catches one broken label that makes all of its batch count as failed."""
    boxes = [Box(0, 0, corner, 9), Box(10, 10, 20, 20)]
    found = worth_by_place(boxes, [1.0, 2.0], 64, 64)
    np.testing.assert_array_equal(found, worth_by_place(boxes[1:], [2.0], 64, 64))
