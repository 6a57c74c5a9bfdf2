"""Stuff: the asked ground against a judge that calls every pixel water, counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import UsageError
from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from rsgen.scorers.base import Bound, Rule, make_scorer
from rsgen.scorers.ground import class_ious
from rsgen.scorers.rules import default_rules
from rsgen.screening.tally import Tally
from tests.build_judge import save_judges, small_judge

SIDE = 32
TABLE = ClassTable(
    (
        ObjectClass("plane"),
        ObjectClass("water", ("sea",), "stuff"),
        ObjectClass("road", kind="stuff"),
    )
)


@pytest.fixture(scope="module")
def sees_water(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A train-judge OUT whose judge A says water everywhere."""
    judge = small_judge("reward", TABLE)
    with torch.no_grad():
        judge.network.stuff.weight.zero_()
        judge.network.stuff.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    out = tmp_path_factory.mktemp("judges")
    judge.save(out / "judge_a")
    return str(out)


@pytest.fixture(scope="module")
def random_judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One whose random answers differ from place to place."""
    judge = small_judge("reward", TABLE)
    with torch.no_grad():
        judge.network.stuff.weight -= judge.network.stuff.weight.mean()
        judge.network.stuff.weight.mul_(100)
        judge.network.stuff.bias.zero_()
    out = tmp_path_factory.mktemp("random")
    judge.save(out / "judge_a")
    return str(out)


def area(label: str, x0: int, y0: int, x1: int, y1: int) -> Instance:
    return Instance(label, mask=Mask.from_array(np.ones((y1 - y0, x1 - x0), bool), x0, y0))


def plane(x0: int, y0: int, x1: int, y1: int, **more: Any) -> Instance:
    return Instance("plane", Box(x0, y0, x1, y1), **more)


def scored(name: str, judge: str, *things: Instance, **options: Any) -> list[float]:
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    item = Sample("s", Layout(SIDE, SIDE, things))
    (found,) = make_scorer(name, {"judge": judge, **options}).score(pixels, [item])
    return np.atleast_1d(np.asarray(found, dtype=float)).tolist()


WHOLE, HALF = (0, 0, SIDE, SIDE), (0, 0, SIDE, SIDE // 2)


@pytest.mark.parametrize(
    ("things", "mean", "each"),
    [
        pytest.param([area("water", *WHOLE)], 1.0, [1.0], id="as asked"),
        pytest.param([area("sea", *WHOLE)], 1.0, [1.0], id="by its alias"),
        pytest.param([area("water", *HALF)], 0.5, [0.5], id="twice as much as asked"),
        # water 0.5, road 0: seen nowhere
        pytest.param(
            [area("water", *HALF), area("road", 0, 16, 32, 32)], 0.25, [0.5, 0.0], id="no road"
        ),
        # water is seen and not asked: both are wrong
        pytest.param([area("road", *WHOLE)], 0.0, [0.0], id="another ground"),
        pytest.param(
            [area("water", *HALF), plane(0, 16, 32, 32)], 1.0, [1.0, math.nan],
            id="what lies under an object does not count",
        ),
        pytest.param(
            [area("water", *HALF), plane(0, 16, 32, 32, iscrowd=True)], 1.0, [1.0, math.nan],
            id="nor under a crowd",
        ),
        pytest.param(
            [area("water", *HALF), area("lava", 0, 16, 32, 32)], 1.0, [1.0, math.nan],
            id="nor on a ground that the judge does not know",
        ),
        pytest.param([plane(4, 4, 9, 9)], math.nan, [math.nan], id="no ground is asked"),
        pytest.param([], math.nan, [], id="nothing is asked"),
    ],
)  # fmt: skip
def test_the_ground_is_as_labelled_or_not(
    sees_water: str, things: list[Instance], mean: float, each: list[float]
) -> None:
    """Catches accuracy in place of IoU, ground that is taken from under objects, and a class
    that is seen and not asked for and costs nothing."""
    assert scored("stuff", sees_water, *things) == pytest.approx([mean], nan_ok=True)
    assert scored("stuff-areas", sees_water, *things) == pytest.approx(each, nan_ok=True)


def test_one_class_alone(sees_water: str) -> None:
    things = [area("water", *HALF), area("road", 0, 16, 32, 32)]
    assert scored("stuff", sees_water, *things, of="water") == [0.5]
    assert scored("stuff", sees_water, *things, of="road") == [0.0]
    assert math.isnan(scored("stuff", sees_water, things[0], of="road")[0])


def test_specks_have_no_part_in_the_mean(sees_water: str) -> None:
    """Catches a mean that 5 wrong pixels of a second class halve."""
    things = [area("water", *WHOLE), area("road", 0, 0, 5, 1)]
    assert scored("stuff", sees_water, *things)[0] == pytest.approx(1019 / 1024)
    assert scored("stuff", sees_water, *things, least=0.0)[0] == pytest.approx(1019 / 2048)


def test_ious_by_hand() -> None:
    asked = np.array([[1, 1, 2], [2, 0, -1]])
    seen = np.array([[1, 2, 2], [0, 0, 1]])
    assert class_ious(asked, seen, ("a", "b", "c"), 0.0) == {"a": 1 / 2, "b": 1 / 3}
    assert class_ious(np.full((2, 2), -1), seen[:, :2], ("a",), 0.0) == {}


@pytest.mark.parametrize("name", ["stuff", "stuff-areas"])
def test_scores_do_not_depend_on_the_batch(random_judge: str, name: str) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (5, 4, 4, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
    things = (area("water", *HALF), area("road", 0, 16, 32, 32))
    samples = [Sample(f"{k}", Layout(SIDE, SIDE, things)) for k in range(5)]
    scorer = make_scorer(name, {"judge": random_judge})
    together = scorer.score(pixels, samples)
    alone = [scorer.score(pixels[k : k + 1], [samples[k]])[0] for k in range(5)]
    np.testing.assert_allclose(np.stack(together), np.stack(alone), atol=2 / SIDE**2)
    assert len({str(score) for score in alone}) > 1, "the judge looks at the pixels"


# ---------------------------------------------------------------- who may look


def test_a_judge_without_stuff_is_refused(tmp_path: Path, sees_water: str) -> None:
    """Catches a rule that scores nothing and lets everything pass."""
    blind = str(save_judges(tmp_path, ClassTable.of("plane", "ship")))
    for name in ("stuff", "stuff-areas"):
        with pytest.raises(UsageError, match="no stuff class"):
            make_scorer(name, {"judge": blind}).check()
    with pytest.raises(UsageError, match="knows no stuff class 'lava'"):
        make_scorer("stuff", {"judge": sees_water, "of": "lava"}).check()
    make_scorer("stuff", {"judge": sees_water, "of": "road"}).check()


@pytest.mark.parametrize(
    ("task", "stuff", "there"),
    [("segmentation", True, True), ("segmentation", False, False), ("detection", True, False)],
)
@pytest.mark.parametrize("real", [True, False])
def test_the_ground_is_judged_where_it_is_a_label(
    task: Any, stuff: bool, there: bool, real: bool
) -> None:
    rules = default_rules(real=real, checkpoint=False, judge=True, stuff=stuff, task=task)
    assert ("stuff-areas" in [rule.scorer for rule in rules]) is there


def test_the_report_counts_the_ground() -> None:
    """Catches a rule of stuff that the report says scored nothing: it counts objects alone."""
    water = replace(area("water", *HALF), scores={"stuff-areas": 0.5, "contrast": 9.0})
    item = Sample("s", Layout(SIDE, SIDE, (water, area("road", *HALF), plane(1, 1, 9, 9))))
    levels = {"stuff-areas": "instance"}
    tally = Tally([Rule("stuff-areas", min=0.6)], {"stuff-areas": Bound(0.6)}, levels, str)
    tally.add(replace(item, verdict="drop"))
    assert tally.passed("stuff-areas") == {"water": (1, 0)}
    assert list(tally.objects) == ["plane"], "ground is no object"
