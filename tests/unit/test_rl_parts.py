"""Parts of rl-tune by themselves: safety rules, the stream of layouts, batches, groups."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import DataError, UsageError
from rsgen.generation.layouts import Item
from rsgen.records import ClassTable
from rsgen.rl.epoch import EpochShape, epoch_shape
from rsgen.rl.layouts import HELD_STREAM, TuningLayouts
from rsgen.rl.loop import Progress, Tuner
from rsgen.rl.pace import RATES, adapted_rate, kept_share
from rsgen.rl.rewarding import group_diversity
from rsgen.rl.safety import EpochFacts, Limits, Watch
from rsgen.rl.selection import Look
from tests.build import CLASSES, instance, layout

LIMITS = Limits(patience=2, kl_max=10.0)


def facts(reward: float = 0.5, **more: Any) -> EpochFacts:
    values: dict[str, Any] = {
        "deviation": 0.01, "diversity": 20.0, "saturated": 0.1, "kl": 1.0, "skipped": 0, **more
    }  # fmt: skip
    return EpochFacts(reward, **values)


def run(rows: list[EpochFacts], limits: Limits = LIMITS) -> list[str | None]:
    """The rule that each epoch breaks; the watch goes through its JSON after each."""
    watch, found = Watch(limits), []
    for row in rows:
        alarm = watch.after(row)
        watch = Watch.from_json(limits, json.loads(json.dumps(watch.to_json())))
        found.append(None if alarm is None else f"{alarm.rule}{'!' if alarm.stop else ''}")
    return found


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([facts(0.5), facts(0.6, held=0.4), facts(0.7, held=0.5)], [None] * 3),
        ([facts(skipped=2), facts(skipped=3)], [None, "not finite!"]),
        ([facts(kl=9.9), facts(kl=10.1)], [None, "KL too far!"]),
        ([facts(kl=math.nan)], ["KL too far!"]),
        (
            [facts(0.5, held=0.5), facts(0.6, held=0.4), facts(0.7, held=0.3)],
            [None, None, "reward is fooled!"],
        ),
        # the held score falls while the reward does: that is no fooled reward
        ([facts(0.5, held=0.5), facts(0.49, held=0.4), facts(0.48, held=0.3)], [None] * 3),
        # an epoch without a look between two with one
        (
            [facts(0.5, held=0.5), facts(0.6), facts(0.62, held=0.4), facts(0.7, held=0.3)],
            [None, None, None, "reward is fooled!"],
        ),
        ([facts(0.5), *[facts(0.45)] * 3], [None, None, None, "collapse"]),
        ([facts(0.5), facts(0.45), facts(0.5), facts(0.45), facts(0.45)], [None] * 5),
        # easy layouts in one epoch: all alike, so its own error is small
        (
            [
                facts(reward, deviation=error)
                for reward, error in ((1.25, 0.11), (0.96, 0.15), (1.3, 0.03), (1.1, 0.12),
                                      (0.96, 0.12), (0.99, 0.12))
            ],
            [None] * 6,
        ),
        ([facts(), facts(diversity=5.9), facts(diversity=5.9)], [None, "collapse", "collapse!"]),
        ([facts(saturated=0.8), facts(saturated=0.81)], [None, "saturated!"]),
        # 0 while a reward warms up, then what the images are worth
        (
            [facts(0.0, saturated=1.0, warming=1.0), *[facts(-3.0)] * 4],
            [None] * 5,
        ),
        ([facts(0.0, saturated=1.0, warming=0.1)], ["saturated!"]),
        ([facts(), facts(diversity=5.9, warming=1.0)], [None, "collapse"]),
        (
            [
                facts(0.0, held=0.5, warming=1.0), facts(-3.0, held=0.4), facts(-2.0, held=0.3),
                facts(-1.0, held=0.2),
            ],
            [None, None, None, "reward is fooled!"],
        ),
        # the best weights of the look before the collapse begin below the best epoch
        (
            [facts(r) for r in (0.3, 0.5, 0.6, 0.4, 0.4, 0.4, 0.35, 0.40, 0.45)],
            [None] * 5 + ["collapse"] + [None] * 3,
        ),
        (
            [facts(r) for r in (0.5, 0.4, 0.4, 0.4, 0.5, 0.4, 0.4, 0.4)],
            [None] * 3 + ["collapse"] + [None] * 3 + ["collapse!"],
        ),
        # a collapsed epoch is no best one, however much it earned
        (
            [facts(0.5), facts(0.9, diversity=5.9), *[facts(0.5)] * 3],
            [None, "collapse", None, None, None],
        ),
        (
            [
                facts(0.5, held=0.5), facts(0.6, held=0.4, diversity=5.9), facts(0.7, held=0.3),
                facts(0.8, held=0.2),
            ],
            [None, "collapse", None, None],
        ),
    ],
    ids=[
        "healthy", "not-finite", "far", "nan", "fooled", "both-fall", "looks-apart", "reward-falls",
        "dips", "easy-layouts", "diversity", "saturated", "warming", "hardly-warming", "warm-alike",
        "warming-look", "recovers", "again", "alike-and-best", "looks-begin-again",
    ],
)  # fmt: skip
def test_each_rule_fires_where_it_should(
    rows: list[EpochFacts], expected: list[str | None]
) -> None:
    """Catches rules that fire on noise, forget over a resume, or stop where half a rate is left."""
    assert run(rows) == expected


def test_a_control_is_ended_by_numbers_alone() -> None:
    """Catches a negated reward whose run is turned back before it shows where it leads."""
    limits = Limits(patience=2, kl_max=10.0, control=True)
    fooled = [facts(0.5, held=0.5), facts(0.6, held=0.4), facts(0.7, held=0.3)]
    assert run(fooled, limits) == [None] * 3
    assert run([facts(0.5), *[facts(0.3)] * 4], limits) == [None] * 5
    assert run([facts(kl=10.1)], limits) == ["KL too far!"]


def test_a_look_without_a_score_blocks_no_later_one() -> None:
    """Catches NaN as the best score: nothing is greater, so the start would be kept for ever."""
    weight = torch.nn.Parameter(torch.zeros(1))
    learner = SimpleNamespace(parameters=lambda: {"w": weight})
    tuner: Any = SimpleNamespace(learner=learner, progress=Progress(0.1), best={})
    kept = []
    for epoch, score in enumerate([math.nan, math.nan, 0.2, 0.1, math.nan, 0.3]):
        Tuner._remember(tuner, Look(score, 0.0, 0.0, "judge A"), epoch)
        kept.append(tuner.progress.best_epoch)
    assert kept == [0, 0, 2, 2, 2, 5] and tuner.progress.best_score == 0.3


@pytest.mark.parametrize(
    ("rate", "moved", "expected"),
    [
        pytest.param(1.0, 0.8, 0.5, id="four times too far: half the rate"),
        pytest.param(1.0, 0.1, 2**0.5, id="half as far as asked"),
        pytest.param(2.0, 0.2, 2.0, id="as asked"),
        pytest.param(1.0, 80.0, 0.5, id="at least half"),
        pytest.param(1.0, 1e-4, 3.0, id="at most three times"),
        pytest.param(1.0, 0.0, 1.0, id="nothing moved: no reason to hurry"),
        pytest.param(1.0, math.nan, 0.5, id="not a number"),
        pytest.param(RATES[1], 1e-4, RATES[1], id="the greatest"),
    ],
)
def test_the_rate_follows_how_far_an_epoch_moved(
    rate: float, moved: float, expected: float
) -> None:
    """Catches a rate that grows without bound where all rewards are alike, and one that jumps."""
    assert adapted_rate(rate, moved, 0.2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("moved", "share"),
    [(0.1, 1.0), (0.3, 1.0), (0.8, 0.5), (math.nan, 0.0), (math.inf, 0.0)],
)
def test_an_epoch_that_went_too_far_keeps_part_of_its_way(moved: float, share: float) -> None:
    """Catches a rate that jumped moving the model five times as far as wanted, and NaN weights."""
    assert kept_share(moved, 0.2) == pytest.approx(share)


# ---------------------------------------------------------------- layouts


class Given:
    """A source of so many layouts, two a scene; every fifth has no thing."""

    notes = ()

    def __init__(self, limit: int | None, bare: bool = False) -> None:
        self.limit, self.bare = limit, bare
        self.classes: ClassTable = CLASSES

    def item(self, number: int) -> Item:
        if number % 7 == 3:
            raise DataError("cannot be planned")
        things = () if self.bare or number % 5 == 4 else (instance("plane", 9, 9, 9, 6),)
        parent = None if self.limit is None else f"scene-{number // 2}"
        return Item(number, layout(things), "given", parent=parent)


def test_held_layouts_are_of_other_scenes_and_never_tuned_on() -> None:
    """Catches a checkpoint that is chosen by what it was tuned on."""
    layouts = TuningLayouts(Given(40), 1, 4)
    taken, cursor = layouts.take(0, 100)
    held = {d.parent for d in layouts.held}
    assert len(layouts.held) == 4 and not held & {d.parent for d in taken}
    assert all(d.layout.instances for d in (*taken, *layouts.held))
    # any way of taking gives one stream, and each pass has its own order
    parts, at = [], 0
    for count in (1, 30, 69):
        some, at = layouts.take(at, count)
        parts += some
    assert (at, [d.number for d in parts]) == (cursor, [d.number for d in taken])
    per_pass = len({d.number for d in taken})
    first, second = taken[:per_pass], taken[per_pass : 2 * per_pass]
    assert {d.number for d in first} == {d.number for d in second}
    assert [d.number for d in first] != [d.number for d in second]
    assert TuningLayouts(Given(40), 2, 4).take(0, 9)[0] != taken[:9]


def test_a_pool_gives_new_layouts_for_both() -> None:
    """Catches held layouts that come up again when a run is long."""
    layouts = TuningLayouts(Given(None), 1, 3)
    assert all(d.number >= HELD_STREAM for d in layouts.held) and len(layouts.held) == 3
    taken, _ = layouts.take(0, 50)
    assert len({d.number for d in taken}) == 50


@pytest.mark.parametrize("source", [Given(40, bare=True), Given(None, bare=True), Given(2)])
def test_too_little_to_tune_on_is_said_at_once(source: Given) -> None:
    """Catches a search without an end, and one scene that is both held back and tuned on."""
    with pytest.raises(DataError, match="no layout to tune on"):
        TuningLayouts(source, 1, 4)


# ---------------------------------------------------------------- batches and groups


@pytest.mark.parametrize(
    ("layouts", "samples", "asked", "count", "expected"),
    [
        (32, 8, None, 1, 16),
        (3, 5, None, 1, 15),
        (17, 1, None, 1, 1),
        (2, 4, 4, 2, 4),
        (5, 6, None, 4, "a multiple of 4 images"),
        (2, 4, 3, 1, "--batch-size 2"),
    ],
)
def test_all_batches_have_one_size(
    layouts: int, samples: int, asked: int | None, count: int, expected: int | str
) -> None:
    """Catches a last batch that is smaller: its ratio would not be 1, and ranks would wait."""
    if isinstance(expected, str):
        with pytest.raises(UsageError) as caught:
            epoch_shape(layouts, samples, asked, count)
        assert expected in str(caught.value)
        return
    shape = epoch_shape(layouts, samples, asked, count)
    assert shape.batch_size == expected
    every = [
        p
        for b in range(shape.batches)
        for r in range(count)
        for p in epoch_shape(layouts, samples, asked, count, r).own(b)
    ]
    assert every == list(range(layouts * samples))


def test_groups_follow_one_another() -> None:
    assert EpochShape(2, 3, 6, 0, 1).groups.tolist() == [0, 0, 0, 1, 1, 1]


def test_diversity_is_within_a_layout() -> None:
    """Catches different layouts that pass for diversity."""
    same = np.zeros((4, 12), dtype=np.float32)
    same[2:] = 100.0
    assert group_diversity(same, [0, 0, 1, 1]) == 0
    same[1] += 4.0
    assert group_diversity(same, [0, 0, 1, 1]) == pytest.approx(2.0)
    assert group_diversity(same, [0, 1, 2, 3]) == 0
