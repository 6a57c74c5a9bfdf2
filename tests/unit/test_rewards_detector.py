"""Reward `detector`: hand-made sightings with known worth."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.detections import Detections
from rsgen.errors import DataError, UsageError
from rsgen.geometry import Box, RotatedBox, as_array, box_quad, rotated_box_to_quad
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from rsgen.rewards.base import Made, RewardSetup
from rsgen.rewards.combine import RewardSpec, check_rewards, open_rewards, reward_hashes
from rsgen.rewards.detector import DetectorReward, assign, see
from rsgen.rewards.known import unseen_by_judge
from rsgen.scorers.looking import Eyes, asked_things
from tests.build import CLASSES
from tests.build_judge import save_judges, small_judge

SIDE = 60
SCRIPT = Path(__file__).parents[1] / "outside_worker.py"
AT = (10, 10, 30, 30)
AWAY = (40, 40, 50, 50)


class Known:
    """A detector that knows planes, ships and tanks; it is never asked to look."""

    classes = CLASSES

    def detect(self, images: Any) -> list[Detections]:
        raise AssertionError("sightings are given")


EYES = Eyes(Known())


def found(*rows: tuple[str, float, tuple[float, float, float, float]]) -> Detections:
    """(class, score, box) each, best first."""
    ordered = sorted(rows, key=lambda row: -row[1])
    quads = [as_array(box_quad(Box(*box))) for _, _, box in ordered]
    return Detections(
        np.array(quads).reshape(-1, 4, 2),
        tuple(label for label, *_ in ordered),
        np.array([score for _, score, _ in ordered]),
        np.full(len(ordered), np.nan),
    )


def layout(*things: Instance) -> Layout:
    return Layout(SIDE, SIDE, things)


def thing(label: str, box: tuple[float, float, float, float], **more: Any) -> Instance:
    return Instance(label, Box(*box), **more)


PLANE = thing("plane", AT)


@pytest.mark.parametrize(
    ("seen", "asked", "value"),
    [
        pytest.param([("plane", 0.8, AT)], [PLANE], 1.8, id="found: IoU 1 + confidence"),
        pytest.param([("plane", 0.8, AT)], [thing("airplane", AT)], 1.8, id="by its alias"),
        pytest.param([], [PLANE], 0.0, id="missed: 0"),
        pytest.param([("plane", 0.8, (10, 10, 30, 20))], [PLANE], 1.3, id="half of it: IoU 0.5"),
        pytest.param([("ship", 0.8, AT)], [PLANE], -0.5 * 0.8, id="another class: an extra"),
        pytest.param(
            [("plane", 0.8, (24, 24, 44, 44))], [PLANE], -0.5 * 0.8, id="hardly touching is none"
        ),
        pytest.param([("plane", 0.09, AT)], [PLANE], 0.0, id="under the least confidence"),
        pytest.param(
            [("plane", 0.8, AT), ("ship", 0.6, AWAY)], [PLANE], 1.8 - 0.3, id="one extra object"
        ),
        pytest.param(
            [("plane", 0.8, AT), ("ship", 0.09, AWAY)], [PLANE], 1.8, id="an unsure extra is free"
        ),
        pytest.param(
            [("plane", 0.8, AT), ("plane", 0.6, (10, 10, 30, 26))],
            [PLANE],
            1.8 - 0.3,
            id="a double is an extra",
        ),
        pytest.param(
            [("plane", 0.8, AT)], [PLANE, thing("ship", AWAY)], 0.9, id="a mean, not a sum"
        ),
        pytest.param(
            [("plane", 0.8, AT), ("ship", 0.6, AWAY)],
            [PLANE, PLANE, PLANE],
            (1.8 - 0.3) / 3,
            id="one detection vouches for one object",
        ),
        pytest.param([], [], 0.0, id="empty, and nothing seen"),
        pytest.param([("ship", 0.6, AWAY)], [], -0.3, id="empty, and something seen"),
        pytest.param(
            [("ship", 0.6, AWAY)], [thing("bridge", AWAY)], 0.0, id="on an unknown class: excused"
        ),
        pytest.param(
            [("ship", 0.6, (42, 42, 46, 46))],
            [thing("ship", (35, 35, 55, 55), iscrowd=True)],
            0.0,
            id="in a crowd: excused",
        ),
        pytest.param(
            [], [PLANE, thing("plane", (55, 10, 90, 30))], 0.0, id="its centre lies outside"
        ),
    ],
)
def test_what_a_sighting_is_worth(seen: Any, asked: Sequence[Instance], value: float) -> None:
    options = DetectorReward(extra=0.5)
    assert see(found(*seen), layout(*asked), EYES, options).value(options) == pytest.approx(value)


def test_where_it_is_blind_a_detector_has_no_say() -> None:
    """Catches a layout of unknown objects whose images earn by showing nothing at all."""
    options = DetectorReward()
    sight = see(found(("ship", 0.6, AWAY)), layout(thing("bridge", AT)), EYES, options)
    assert sight.blind and sight.extra == 0.6 and sight.value(options) == 0
    partly = see(found(("ship", 0.6, AWAY)), layout(thing("bridge", AT), PLANE), EYES, options)
    assert not partly.blind and partly.value(options) == pytest.approx(-0.3)


def test_what_cannot_be_asked_about_does_not_thin_the_mean() -> None:
    """Catches a divisor that counts stuff, unknown classes and cut-off objects."""
    outside, unknown = thing("plane", (55, 10, 90, 30)), thing("bridge", AWAY)
    options = DetectorReward()
    sight = see(found(("plane", 0.8, AT)), layout(PLANE, outside, unknown), EYES, options)
    assert sight.objects == 1 and sight.value(options) == pytest.approx(1.8)


def test_pairs_are_the_best_together() -> None:
    """Greedy by confidence, the sure detection takes the object that alone suits the other."""
    left, right = (0, 0, 20, 20), (12, 0, 32, 20)
    sure = ("plane", 0.9, (5, 0, 25, 20))  # IoU 0.6 with the left, 0.48 with the right
    other = ("plane", 0.5, left)  # 1 with the left, a quarter with the right
    _, asked = asked_things(layout(thing("plane", left), thing("plane", right)), EYES)
    pairs = {(m.found, m.asked): m.iou for m in assign(found(sure, other), asked, 0.2)}
    assert pairs == {(0, 1): pytest.approx(13 / 27), (1, 0): pytest.approx(1.0)}


def test_turned_boxes_are_compared_as_polygons() -> None:
    """Two crossed long boxes have nearly the same upright box, and hardly overlap."""
    quad = rotated_box_to_quad(RotatedBox(30, 30, 40, 6, np.pi / 4))
    across = rotated_box_to_quad(RotatedBox(30, 30, 40, 6, -np.pi / 4))
    asked = Instance("ship", None, quad)
    same = replace(found(("ship", 0.8, AT)), quads=as_array(quad)[None])
    crossed = replace(same, quads=as_array(across)[None])
    options = DetectorReward()
    assert see(same, layout(asked), EYES, options).value(options) == pytest.approx(1.8)
    assert see(crossed, layout(asked), EYES, options).iou == 0


def test_the_weight_of_confidence() -> None:
    options = DetectorReward(confidence=5.0)
    sight = see(found(("plane", 0.8, AT)), layout(PLANE), EYES, options)
    assert sight.value(options) == pytest.approx(1 + 5 * 0.8)


# ---------------------------------------------------------------- opened


def worker(mode: str = "good", *more: str) -> str:
    return "command: " + shlex.join([sys.executable, str(SCRIPT), mode, *more])


def picture(*boxes: tuple[int, tuple[int, int, int, int]]) -> np.ndarray:
    """Red is a plane, green a ship."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, (x0, y0, x1, y1) in boxes:
        pixels[y0:y1, x0:x1, channel] = 255
    return pixels


def samples(count: int, *things: Instance) -> list[Sample]:
    return [Sample(f"s{k}", layout(*things)) for k in range(count)]


def test_images_are_seen_one_by_one_and_broken_ones_count_nothing() -> None:
    """Catches rows that move up where an image is left out."""
    setup = RewardSetup(CLASSES)
    specs = [RewardSpec("detector", options={"detectors": [worker()]})]
    check_rewards(specs, setup)
    rewards = open_rewards(specs, setup)
    made = Made.of([picture((0, AT)), None, picture(), picture((0, AT), (1, AWAY))],
                   samples(4, PLANE))  # fmt: skip
    batch = rewards(made, epoch=0)
    assert batch.total == pytest.approx([1.9, 0, 0, 1.9 - 0.45])
    assert batch.counts == {"broken": 1}
    assert batch.terms["detector/iou"] == pytest.approx([1, np.nan, 0, 1], nan_ok=True)
    assert batch.terms["detector/extra"] == pytest.approx([0, np.nan, 0, 0.9], nan_ok=True)
    assert batch.means()["detector/found"] == pytest.approx(2 / 3)
    alone = rewards(made.chosen(np.array([3])), epoch=0)
    assert alone.total == pytest.approx(batch.total[3:])
    empty = rewards(Made.of([picture()], samples(1)), epoch=0)
    assert empty.total.tolist() == [0] and empty.means()["detector"] == 0
    assert empty.counts == {"broken": 0, "detector/without objects": 1}


@pytest.mark.parametrize(("join", "value"), [("mean", (1.9 - 0.3) / 2), ("min", -0.3)])
def test_several_detectors_count_by_mean_or_least(join: str, value: float) -> None:
    """The second one sees a ship, surely enough, in whatever it is shown."""
    ship = json.dumps({"detections": [{"label": "ship", "score": 0.6, "box": list(AT)}]})
    options = {"detectors": [worker(), worker("says", ship)], "join": join}
    rewards = open_rewards([RewardSpec("detector", options=options)], RewardSetup(CLASSES))
    batch = rewards(Made.of([picture((0, AT))], samples(1, PLANE)), epoch=0)
    assert batch.total == pytest.approx([value])
    assert batch.terms["detector/iou 1"] == 1 and batch.terms["detector/iou 2"] == 0
    assert batch.terms["detector/extra 2"] == pytest.approx([0.6])


@pytest.mark.parametrize("join", ["mean", "min"])
def test_of_several_detectors_those_that_are_blind_have_no_say(tmp_path: Path, join: str) -> None:
    options = {"detectors": [worker(), "judge"], "join": join}
    bridges = ClassTable((ObjectClass("bridge"),))
    setup = RewardSetup(CLASSES, judge=str(save_judges(tmp_path, bridges)))
    rewards = open_rewards([RewardSpec("detector", options=options)], setup)
    batch = rewards(Made.of([picture((0, AT))], samples(1, PLANE)), epoch=0)
    assert batch.total == pytest.approx([1.9])


def test_a_judge_is_judge_a_alone(tmp_path: Path) -> None:
    """Catches a reward by the judge that measures."""
    judges = save_judges(tmp_path)
    made = Made.of([picture((0, AT))] * 2, samples(2, PLANE))
    setup = RewardSetup(CLASSES, judge=str(judges))
    specs = [RewardSpec("detector")]
    check_rewards(specs, setup)
    hashes = reward_hashes(specs, setup)
    assert list(hashes) == ["detector/judge"] and len(hashes["detector/judge"]) == 40
    batch = open_rewards(specs, setup)(made, epoch=0)
    assert batch.total.shape == (2,) and batch.total[0] == batch.total[1]
    with pytest.raises(UsageError, match="judge for evaluation, asked for reward"):
        check_rewards(specs, RewardSetup(CLASSES, judge=str(judges / "judge_b")))
    small_judge("evaluation").save(tmp_path / "b" / "judge_b")
    with pytest.raises(DataError, match="no judge for reward"):
        check_rewards(specs, RewardSetup(CLASSES, judge=str(tmp_path / "b")))


def test_a_judge_of_other_classes_is_refused(tmp_path: Path) -> None:
    """Catches a run whose reward is 0 whatever is painted, found out after an epoch."""
    judges = str(save_judges(tmp_path))
    specs = [RewardSpec("detector")]
    known = RewardSetup(CLASSES, judge=judges, asked=("airplane", "bridge"))
    check_rewards(specs, known)
    assert unseen_by_judge(tmp_path, "reward", known.asked) == ("bridge",)
    with pytest.raises(UsageError, match=r"knows plane, .* ask for bridge, dam: it can see"):
        check_rewards(specs, replace(known, asked=("dam", "bridge")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "no judge was given", id="nobody to look"),
        pytest.param({"detectors": []}, "detectors is", id="no detector"),
        pytest.param({"detectors": [worker(), worker()]}, "each once", id="one twice"),
        pytest.param({"join": "max"}, "join is 'max'", id="join"),
        pytest.param({"extra": -1.0}, "extra is -1", id="paid for extras"),
        pytest.param({"lambda": 1}, "no option 'lambda'", id="unknown option"),
    ],
)
def test_what_cannot_work_is_refused_first(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_rewards([RewardSpec("detector", options=options)], RewardSetup(CLASSES))
    assert message in str(caught.value)


def test_a_detector_that_fails_at_one_image_costs_that_image(tmp_path: Path) -> None:
    """Catches a batch that is lost for one image, and a failure that nobody hears of."""

    class Blinks(Known):
        def detect(self, images: Any) -> list[Detections]:
            if (images[:, 0, 0, 2] == 7).any():
                raise DataError("cannot look at this one")
            return [found(("plane", 0.9, AT)) for _ in images]

    reward = DetectorReward()
    opened = reward.open(RewardSetup(CLASSES, judge=str(save_judges(tmp_path))))
    opened._look.args[0][0] = Eyes(Blinks())  # type: ignore[attr-defined]
    odd = picture((0, AT))
    odd[0, 0, 2] = 7
    made = Made.of([picture((0, AT)), odd, picture((0, AT))], samples(3, PLANE))
    seen = opened.observe(made)
    rated = opened.rate(seen, ~made.broken, made.groups, epoch=0, learn=True)
    assert rated.value == pytest.approx([1.9, 0, 1.9])
    assert rated.noted["failed"].tolist() == [False, True, False]
    assert "cannot look at this one" in opened.notes[0]
    with pytest.raises(DataError, match="all 4 images"):
        opened.observe(Made.of([odd] * 4, samples(4, PLANE)))
