"""Rewards together: weights, raw terms, controls, ranks, resume; any scorer; filter; pixels."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rsgen import registry
from rsgen.data import TrainingImages
from rsgen.errors import DataError, UsageError
from rsgen.execution import Job, run_stage
from rsgen.images import Pixels
from rsgen.records import Layout, Sample
from rsgen.rewards.base import WARMING, Made, RealImages, RewardSetup
from rsgen.rewards.combine import (
    Rewards,
    RewardSpec,
    check_rewards,
    join_seen,
    open_rewards,
    reward_hashes,
    reward_specs,
)
from rsgen.rewards.margin import margin
from rsgen.rewards.pixels import closeness
from rsgen.rewards.scored import image_scores
from rsgen.rewards.single import VALUE, PerImage
from rsgen.scorers.base import Bound
from tests.build import CLASSES, config, layout, picture, sample, sample_run

SETUP = RewardSetup(CLASSES)


def brightness(made: Made) -> dict[str, Any]:
    """A reward by the mean grey level; black does not apply."""
    mean = made.images.reshape(len(made), -1).mean(axis=1)
    return {VALUE: np.where(mean == 0, np.nan, mean), "half": mean / 2}


def grey(*levels: int | None) -> Made:
    pictures = [None if v is None else np.full((4, 4, 3), v, np.uint8) for v in levels]
    return Made.of(pictures, [Sample(f"s{k}", Layout(4, 4)) for k in range(len(levels))])


def bright(weight: float = 1.0, name: str = "bright") -> tuple[RewardSpec, Any]:
    return RewardSpec("any", weight, name), PerImage(name, brightness, ["half"])


# ---------------------------------------------------------------- the sum


def test_the_sum_is_weighted_and_every_raw_term_is_there() -> None:
    """Catches a term that is logged with its weight, or not at all."""
    rewards = Rewards([bright(2.0), bright(-0.5, "dark")])
    batch = rewards(grey(10, 30), epoch=0)
    assert batch.total.tolist() == [15.0, 45.0] and batch.plain.tolist() == [15.0, 45.0]
    assert {name: rows.tolist() for name, rows in batch.terms.items()} == {
        "bright": [10.0, 30.0], "bright/half": [5.0, 15.0],
        "dark": [10.0, 30.0], "dark/half": [5.0, 15.0],
    }  # fmt: skip
    assert batch.means()["bright"] == 20.0 and batch.counts == {"broken": 0}


def test_what_is_broken_or_does_not_apply_is_zero_and_counted() -> None:
    batch = Rewards([bright()])(grey(10, None, 0, 20, None), epoch=0)
    assert batch.total.tolist() == [10, 0, 0, 20, 0]
    assert batch.counts == {"broken": 2, "bright/not applicable": 1}
    assert np.isnan(batch.terms["bright/half"][[1, 4]]).all()
    every = Rewards([bright()])(grey(None, None), epoch=0)
    assert every.total.tolist() == [0, 0] and every.counts == {"broken": 2}


def test_numbers_that_are_none_never_reach_the_sum() -> None:
    """Catches infinity or NaN of a plug-in that poisons the advantages of a whole batch."""

    class Odd(PerImage):
        def rate(self, *args: Any, **more: Any) -> Any:
            return replace(super().rate(*args, **more), value=np.array([1.0, np.inf, np.nan]))

    batch = Rewards([(RewardSpec("x"), Odd("x", brightness, ["half"]))])(grey(1, 2, 3), epoch=0)
    assert batch.total.tolist() == [1, 0, 0] and batch.counts["x/not finite"] == 2
    endless = PerImage("y", lambda made: {VALUE: np.full(len(made), np.inf)})
    batch = Rewards([(RewardSpec("y"), endless)])(grey(1, 2), epoch=0)
    assert batch.total.tolist() == [0, 0] and batch.counts["y/failed"] == 2


@pytest.mark.parametrize(
    ("weight", "least"),
    [pytest.param(2.0, -3.0, id="the least"), pytest.param(-2.0, 1.0, id="turned round")],
)
def test_a_failure_never_pays(weight: float, least: float) -> None:
    """Catches 0 for what is broken, cannot be looked at or is no number, where others get less.

    Dossier trap 18.
    """

    def odd(made: Made) -> dict[str, Any]:
        levels = made.images[:, 0, 0, 0].astype(float)
        if (levels == 9).any():
            raise DataError("cannot look at this one")
        return {VALUE: np.where(levels == 8, np.inf, levels - 4)}

    rewards = Rewards([(RewardSpec("x", weight), PerImage("x", odd))])
    batch = rewards(grey(1, 9, 5, None, 8), epoch=0)
    assert batch.terms["x"].tolist() == [-3, least, 1, least, least]
    assert batch.total[1] == batch.total.min() == weight * least
    assert batch.counts == {"broken": 1, "x/failed": 2}
    assert (rewards(grey(9, None), epoch=0).total == 0).all()


def test_what_images_share_is_weighted_too() -> None:
    """Warm-up and the error of comparing images with each other reach the rules of safety."""

    class Shared(PerImage):
        def rate(self, seen: Any, readable: Any, *args: Any, **more: Any) -> Any:
            found = super().rate(seen, readable, *args, **more)
            cold = np.array([True, False, False, False])
            return replace(found, error=0.3, noted={**found.noted, WARMING: cold})

    parts = [
        (RewardSpec("x", w, name), Shared("x", brightness, ["half"]))
        for w, name in ((2, "a"), (-1, "b"))
    ]
    batch = Rewards([*parts, bright()])(grey(1, 2, 3, 4), epoch=0)
    assert batch.error == pytest.approx(0.3 * 5**0.5) and batch.warming == 0.25
    assert batch.counts["a/warming"] == 1


def test_controls() -> None:
    """Negated turns the sum round; shuffled deals out the same values, anew each time."""
    made = grey(*range(10, 90, 2))
    negated = Rewards([bright()], "negated")(made, epoch=0)
    assert (negated.total == -negated.plain).all() and negated.plain[0] == 10
    rewards = Rewards([bright()], "shuffled", seed=3)
    first, second = rewards(made, epoch=0), rewards(made, epoch=0)
    assert sorted(first.total) == sorted(first.plain) and (first.total != first.plain).any()
    assert (first.total != second.total).any()
    held = rewards(made, epoch=0, learn=False)
    assert (held.total == held.plain).all()
    again = Rewards([bright()], "shuffled", seed=3)
    assert (again(made, epoch=0).total == first.total).all()
    resumed = Rewards([bright()], "shuffled", seed=3)
    resumed.load_state_dict(again.state_dict())
    assert (resumed(made, epoch=0).total == second.total).all()
    assert "a control, not a result" in rewards.notes[-1]


def test_ranks_see_shares_and_rate_the_whole() -> None:
    """Two ranks that gather what they saw have the totals of one."""
    made = grey(10, 20, None, 40)
    one, other = Rewards([bright()], "shuffled"), Rewards([bright()], "shuffled")
    parts = [one.observe(made.chosen(np.array(p))) for p in ([0, 1], [2, 3])]
    joined = one.rate(join_seen(parts), epoch=0)
    whole = other(made, epoch=0)
    assert (joined.total == whole.total).all() and joined.counts == whole.counts


def test_the_state_of_other_rewards_is_refused() -> None:
    with pytest.raises(DataError, match="the saved rewards differ in other/bank"):
        Rewards([bright()]).load_state_dict({"calls": np.array([1]), "other/bank": np.zeros(3)})


# ---------------------------------------------------------------- by name


def row(reward: str, **more: Any) -> Any:
    return SimpleNamespace(**{"reward": reward, "weight": 1.0, "name": None, "options": {}, **more})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([], "no reward", id="none"),
        pytest.param([row("remask"), row("remask")], "two rewards are called", id="twice"),
        pytest.param([row("remask", weight=0.0)], "weight 0", id="a weight of nothing"),
        pytest.param([row("remask", weight=float("nan"))], "weight nan", id="no weight"),
        pytest.param([row("remask", name="a/b")], "cannot be called 'a/b'", id="a slash"),
        pytest.param([row("detektor")], "did you mean 'detector'", id="a typing error"),
        pytest.param([row("zzz")], "known: detector, distribution, filter", id="unknown"),
        pytest.param([row("remask", options={"back": 1})], "no option 'back'", id="option"),
        pytest.param([row("novelty-hash")], "compares images with others", id="novelty"),
        pytest.param([row("judge")], "no judge was given", id="a scorer without its judge"),
        pytest.param([row("distribution")], "there are none", id="distribution without real"),
        pytest.param([row("filter", options={"join": "max"})], "join is 'max'", id="join"),
        pytest.param([row("filter", options={"cap": 0})], "cap is 0", id="cap"),
        pytest.param([row("pixels", options={"tails": 0.5})], "tails is 0.5", id="tails"),
    ],
)
def test_what_cannot_work_is_refused_first(rows: list[Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_rewards(reward_specs(rows), SETUP)
    assert message in str(caught.value)


def made_of(count: int, *, seed: int = 0) -> Made:
    """Images that show their labels, more or less."""
    pictures = [picture(layout(), seed + k) for k in range(count)]
    return Made.of(pictures, [sample(f"s{k}") for k in range(count)])


def test_any_scorer_is_a_reward() -> None:
    """remask: IoU of the masks that the pixels show, the mean over the things of an image."""
    specs = reward_specs([row("remask", weight=2.0), row("sharpness", name="sharp")])
    check_rewards(specs, SETUP)
    batch = open_rewards(specs, SETUP)(made_of(3), epoch=0)
    assert set(batch.terms) == {"remask", "sharp"}
    assert ((batch.terms["remask"] > 0) & (batch.terms["remask"] <= 1)).all()
    assert batch.total == pytest.approx(2 * batch.terms["remask"] + batch.terms["sharp"])
    alone = open_rewards(specs, SETUP)(made_of(3).chosen(np.array([2])), epoch=0)
    assert alone.total[0] == batch.total[2]


def test_objects_have_their_mean() -> None:
    rows = [np.array([0.2, np.nan, 0.6], np.float32), np.array([np.nan], np.float32)]
    assert image_scores(rows) == pytest.approx([0.4, np.nan], nan_ok=True)


PLUG_IN = """
from dataclasses import dataclass
import numpy as np
from rsgen.rewards.single import VALUE, PerImage

@dataclass(frozen=True)
class Red:
    scale: float = 1.0

    def check(self, setup): ...

    def hashes(self, setup):
        return {"made-up": "1234"}

    def open(self, setup):
        return PerImage("red", lambda m: {VALUE: m.images[..., 0].mean((1, 2)) * self.scale})
"""


def test_plug_ins_by_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "red_reward.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)

    def found(group: str) -> list[EntryPoint]:
        return [EntryPoint("red", "red_reward:Red", group)] if group == "rsgen.rewards" else []

    monkeypatch.setattr(registry, "entry_points", found)
    specs = reward_specs([row("red", options={"scale": 0.5})])
    check_rewards(specs, SETUP)
    assert reward_hashes(specs, SETUP) == {"red/made-up": "1234"}
    assert open_rewards(specs, SETUP)(grey(10, 20), epoch=0).total.tolist() == [5, 10]
    with pytest.raises(UsageError, match="'red' has no option 'size'; it has: scale"):
        check_rewards([RewardSpec("red", options={"size": 1})], SETUP)
    sys.modules.pop("red_reward", None)


# ---------------------------------------------------------------- filter


@pytest.mark.parametrize(
    ("score", "bound", "unit", "value"),
    [
        pytest.param(0.6, Bound(low=0.5), 0.4, 0.25, id="over a least score"),
        pytest.param(0.4, Bound(low=0.5), 0.4, -0.25, id="under it"),
        pytest.param(3.0, Bound(low=0.5), 0.4, 1.0, id="far over: cut off"),
        pytest.param(-3.0, Bound(low=0.5), 0.4, -1.0, id="far under: cut off"),
        pytest.param(4.0, Bound(low=3.0), 0.0, 1 / 3, id="without real scores: by the bound"),
        pytest.param(0.25, Bound(low=0.0), 0.0, 0.25, id="a bound of 0"),
        pytest.param(0.4, Bound(high=0.5), 0.4, 0.25, id="under a greatest score"),
        pytest.param(0.45, Bound(0.4, 0.5), 0.1, 0.5, id="between two"),
        pytest.param(0.7, Bound(), 0.1, 1.0, id="no bound"),
        pytest.param(float("nan"), Bound(low=0.5), 0.1, float("nan"), id="does not apply"),
    ],
)
def test_margins_by_hand(score: float, bound: Bound, unit: float, value: float) -> None:
    assert margin(score, bound, unit) == pytest.approx(value, nan_ok=True)


def test_a_filter_run_brings_its_rules_and_thresholds(tmp_path: Path) -> None:
    """Catches thresholds of another run, and a copy rule that compares images of a batch."""
    run = sample_run(tmp_path / "run", command="generate").path
    rules = [
        {"scorer": "integrity", "min": 0.5},
        {"scorer": "contrast", "name": "seen", "min": 20.0},
        {"scorer": "novelty-hash", "min": 0.1},
    ]
    run_stage(Job("filter", config(**{"filter.rules": rules}), tmp_path / "kept", {"run": [run]}))
    specs = reward_specs([row("filter", options={"run": str(tmp_path / "kept")})])
    check_rewards(specs, SETUP)
    assert list(reward_hashes(specs, SETUP)) == ["filter/thresholds"]
    rewards = open_rewards(specs, SETUP)
    assert "left out, as they compare images: novelty-hash" in rewards.notes[-1]
    blank = replace(made_of(2), images=np.zeros((2, 64, 64, 3), np.uint8))
    good, bad = rewards(made_of(2), epoch=0), rewards(blank, epoch=0)
    assert set(good.terms) == {"filter", "filter/integrity", "filter/seen"}
    assert (good.total > 0).all() and bad.total == pytest.approx([-1, -1])
    both = (good.terms["filter/integrity"] + good.terms["filter/seen"]) / 2
    assert good.total == pytest.approx(both)
    least = reward_specs([row("filter", options={"run": str(tmp_path / "kept"), "join": "min"})])
    worst = open_rewards(least, SETUP)(made_of(2), epoch=0).total
    assert worst == pytest.approx(np.minimum(*(good.terms[f"filter/{n}"] for n in ("integrity", "seen"))))  # fmt: skip  # noqa: E501
    with pytest.raises(UsageError, match="a run of generate"):
        check_rewards([RewardSpec("filter", options={"run": str(run)})], SETUP)


def real_images(count: int = 30) -> RealImages:
    def view(number: int) -> tuple[Pixels, Layout]:
        return picture(layout(), 100 + number), layout()

    return RealImages(count, view, "test")


def test_without_a_filter_run_real_images_set_the_bounds(tmp_path: Path) -> None:
    """They are scored once: the second opening reads them from the cache."""
    counted: list[int] = []
    view = real_images().view

    def looked(number: int) -> tuple[Pixels, Layout]:
        counted.append(number)
        return view(number)

    real = replace(real_images(), view=looked)
    setup = RewardSetup(CLASSES, real=real, cache=tmp_path)
    specs = [RewardSpec("filter", options={"sample": 20})]
    check_rewards(specs, setup)
    first = open_rewards(specs, setup)(made_of(3), epoch=0)
    assert len(counted) == 20 and len(list(tmp_path.iterdir())) == 1
    second = open_rewards(specs, setup)(made_of(3), epoch=0)
    assert len(counted) == 20 and (first.total == second.total).all()
    assert (first.total > 0).all()  # images as the real ones pass their rules


# ---------------------------------------------------------------- pixels


def test_inside_the_real_range_nothing_pulls() -> None:
    rows = np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 8.0]])
    ranges = np.array([[1.0, 3.0], [4.0, 6.0]])
    near = closeness(rows, ranges)
    assert near[:2].tolist() == [[1, 1], [1, 1]]
    assert near[2] == pytest.approx([1, np.exp(-2)])  # 2 half ranges outside


def test_over_saturated_pictures_are_worth_less() -> None:
    """Catches the reward that cannot see what reward hacking does first."""
    setup = RewardSetup(CLASSES, real=real_images(40))
    rewards = open_rewards([RewardSpec("pixels", options={"sample": 40})], setup)
    usual = made_of(2, seed=500)
    garish = usual.images.copy()
    garish[..., 0], garish[..., 1] = 255, garish[..., 1] // 3
    batch, odd = rewards(usual, epoch=0), rewards(replace(usual, images=garish), epoch=0)
    assert (batch.total > 0.95).all() and (odd.total < batch.total - 0.2).all()
    assert (odd.terms["pixels/saturation"] < 0.01).all()
    bare = open_rewards([RewardSpec("pixels")], SETUP)
    assert set(bare(usual, epoch=0).terms) == {"pixels", "pixels/integrity"}
    assert "integrity alone" in bare.notes[0]


# ---------------------------------------------------------------- real images


def test_real_views_are_of_the_size_that_is_made() -> None:
    """Large images are cut at their own resolution, small ones enlarged whole."""
    big, small = layout(size=(96, 96)), layout(size=(32, 32), instances=())
    pictures = {"big": picture(big), "small": picture(small)}
    samples = [Sample("big", big, image="b"), Sample("small", small, image="s")]
    images = TrainingImages(samples, lambda s: pictures[s.id], CLASSES)
    real = RealImages.of(images, 64, 0, "run")
    assert real.count % 2 == 0 and real.identity.startswith("run/64/0/")
    (cut, of_cut), (whole, of_whole) = real.view(0), real.view(1)
    assert cut.shape == whole.shape == (64, 64, 3)
    assert (of_cut.width, of_whole.width) == (64, 64)
    window = np.lib.stride_tricks.sliding_window_view(pictures["big"], (64, 64, 3))
    assert (window == cut).all(axis=(3, 4, 5)).any()
    assert (real.view(0)[0] == cut).all()
    order = real.drawn(10**6, 1)
    assert sorted(order) == list(range(real.count)) and real.drawn(3, 1) == order[:3]


def test_what_does_not_belong_together_is_a_bug() -> None:
    with pytest.raises(ValueError, match="1 pictures of 2 samples"):
        Made.of([None], [sample("a"), sample("b")])
