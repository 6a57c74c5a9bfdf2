"""Scorers, rules and verdicts: what each must tell apart, and what must not be punished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from rsgen.errors import DataError, SetupError, UsageError
from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import Bound, Rule, is_novelty, make_scorer
from rsgen.scorers.geometry import LabelGeometry
from rsgen.scorers.judging import Scored, failed_rules, judge, score_samples, without_verdict
from rsgen.scorers.neighbours import References, compare, own_distances
from rsgen.scorers.novelty import HashNovelty, Novelty
from rsgen.scorers.pixels import Contrast, Integrity, Sharpness
from tests.build import instance, layout, picture, sample, water


def scene(seed: int, side: int = 96) -> np.ndarray:
    """Smooth random structure with fine noise: a stand-in for an aerial photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 220, (8, 8, 3)).astype(np.float32)
    big = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(big + rng.normal(0, 4, big.shape), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("bound", "score", "passes"),
    [
        pytest.param(Bound(0.5), 0.5, True, id="equal to the lower bound passes"),
        pytest.param(Bound(0.5), 0.49, False, id="below"),
        pytest.param(Bound(None, 2.0), 2.1, False, id="above the upper bound"),
        pytest.param(Bound(0.5, 2.0), math.nan, True, id="NaN does not apply, so it passes"),
    ],
)
def test_bound(bound: Bound, score: float, passes: bool) -> None:
    assert bound.passes(score) is passes


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        pytest.param({}, "no bound", id="a rule that can never fail"),
        pytest.param({"min": 0.1, "quantile": 0.1}, "both", id="two lower bounds"),
    ],
)
def test_rule_refuses(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Rule("contrast", **keys)


def test_quantile_ignores_scores_that_do_not_apply() -> None:
    scores = np.array([math.nan, 1.0, 2.0, 3.0, math.nan])
    assert Rule("contrast", quantile=0.5).bound({"": scores.tolist()}) == Bound(2.0, None)
    with pytest.raises(UsageError, match="none applies"):
        Rule("contrast", quantile=0.5).bound({"plane": [math.nan]})


def test_unknown_scorer_and_option_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'contrast'"):
        make_scorer("contrst", {})
    with pytest.raises(UsageError, match="did you mean 'ring'"):
        make_scorer("contrast", {"rings": 0.2})
    assert make_scorer("contrast", {"ring": 0.2}).ring == 0.2


# ---------------------------------------------------------------- pixels


def blank(kind: str) -> np.ndarray:
    image = scene(1)
    if kind == "constant":
        image[:] = 90
    elif kind == "black with a corner":
        image[:] = 0
        image[:8, :8] = 200
    elif kind == "mostly no data":
        image[:90] = (0, 0, 0)
    elif kind == "two colours":
        image[:] = 60
        image[::2] = 70
    return image


@pytest.mark.parametrize(
    "kind", ["constant", "black with a corner", "mostly no data", "two colours"]
)
def test_integrity_finds_blank_images(kind: str) -> None:
    score = Integrity().score(blank(kind)[None], [sample(of=layout((), size=(96, 96)))])
    assert score[0] < 0.5


def test_integrity_spares_photographs_and_catches_wrong_sizes() -> None:
    calm = cv2.GaussianBlur(scene(2), (0, 0), 2) // 4 + 60  # low contrast water
    images = np.stack([scene(3), calm])
    right, wrong = sample(of=layout((), size=(96, 96))), sample(of=layout((), size=(96, 95)))
    assert (Integrity().score(images, [right, right]) >= 0.5).all()
    assert Integrity().score(images[:1], [wrong])[0] == 0


def test_sharpness_orders_blur() -> None:
    images = np.stack([cv2.GaussianBlur(scene(4), (0, 0), s) if s else scene(4) for s in (0, 1, 3)])
    scores = Sharpness().score(images, [sample()] * 3)
    assert scores[0] > scores[1] > scores[2]


def painted(inside: np.ndarray | int) -> tuple[np.ndarray, Sample]:
    """A 12 x 12 object on grey noise; `inside` fills it."""
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(128, 2, (48, 48, 3)), 0, 255).astype(np.uint8)
    image[16:28, 16:28] = inside if isinstance(inside, int) else inside[..., None]
    mask = Mask.from_array(np.ones((12, 12), bool), 16, 16)
    thing = Instance("plane", box=Box(16, 16, 28, 28), mask=mask)
    return image, sample(of=Layout(48, 48, (thing,)))


def test_contrast_tells_visible_from_hidden() -> None:
    rng = np.random.default_rng(1)
    two_tone = np.where(np.arange(12)[:, None] < 6, 68, 188) * np.ones((12, 12), int)
    cases = {
        "hidden": np.clip(rng.normal(128, 2, (12, 12)), 0, 255).astype(np.uint8),
        "brighter": 170,
        # its mean equals the surround's: a comparison of means would miss it
        "two tone": two_tone.astype(np.uint8),
    }
    scores = {}
    for name, inside in cases.items():
        image, item = painted(inside)
        scores[name] = float(Contrast().score(image[None], [item])[0][0])
    assert scores["hidden"] < 2
    assert scores["brighter"] > 10
    assert scores["two tone"] > 10


def test_contrast_does_not_apply_to_stuff_crowds_and_specks() -> None:
    things = (water(), instance(iscrowd=True), instance("plane", 50, 50, 2, 2), instance("ship"))
    item = sample(of=layout(things))
    scores = Contrast().score(picture(item.layout)[None], [item])[0]
    assert np.isnan(scores[:3]).all()
    assert np.isfinite(scores[3])


def test_contrast_uses_quad_or_box_where_there_is_no_mask() -> None:
    whole = instance("plane", heading_rad=0.4)
    item = sample(of=layout((whole,)))
    image = picture(item.layout)[None]
    by_mask = Contrast().score(image, [item])[0][0]
    bare = replace(item, layout=layout((replace(whole, mask=None),)))
    assert Contrast().score(image, [bare])[0][0] == pytest.approx(by_mask, rel=0.05)


# ---------------------------------------------------------------- label geometry


def shifted_mask(dx: int) -> Instance:
    whole = instance("plane", 30, 30, heading_rad=0.0)
    assert whole.mask is not None
    return replace(whole, mask=whole.mask.shift(dx, 0))


@pytest.mark.parametrize(
    ("thing", "low", "high"),
    [
        pytest.param(instance(), 0.85, 1.0, id="a sound label"),
        pytest.param(instance("ship", 30, 30, 30, 3, 0.7), 0.6, 1.0, id="thin and turned is sound"),
        pytest.param(instance("plane", 0, 30), 0.3, 0.6, id="half outside"),
        pytest.param(instance("plane", 0, 30, truncated=True), 0.8, 1.0, id="cut on purpose"),
        pytest.param(instance("plane", 200, 30), 0.0, 0.0, id="all outside"),
        pytest.param(shifted_mask(12), 0.0, 0.5, id="mask beside its box"),
        pytest.param(Instance("plane", box=Box(5, 5, 6, 6)), 0.2, 0.3, id="a speck"),
        pytest.param(Instance("plane", box=Box(5, 5, 5, 9)), 0.0, 0.0, id="no area"),
        pytest.param(Instance("plane", box=Box(5, 5, math.nan, 9)), 0.0, 0.0, id="NaN corner"),
        pytest.param(
            Instance("plane", quad=((0, 0), (9, 9), (9, 0), (0, 9))), 0.0, 0.0, id="a bow tie"
        ),
    ],
)
def test_label_geometry(thing: Instance, low: float, high: float) -> None:
    score = LabelGeometry().layout_scores(layout((thing,)))[0]
    assert low <= score <= high


def test_label_geometry_counts_cover_between_things_only() -> None:
    ship = instance("ship", 40, 40, 20, 8, 0.0)
    above = instance("plane", 40, 40, 20, 8, 0.0)
    scores = LabelGeometry().layout_scores(layout((water(), ship)))
    assert np.isnan(scores[0])  # stuff is no object
    assert scores[1] > 0.9  # a ship on water is not covered
    assert (LabelGeometry().layout_scores(layout((ship, above))) < 0.1).all()


# ---------------------------------------------------------------- novelty


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a[:, ::-1], id="mirrored"),
        pytest.param(lambda a: a[::-1], id="upside down"),
        pytest.param(lambda a: np.rot90(a), id="quarter turn"),
        pytest.param(lambda a: np.rot90(a, 3)[::-1], id="turned and mirrored"),
        pytest.param(lambda a: cv2.GaussianBlur(a, (0, 0), 1.5), id="blurred"),
        pytest.param(lambda a: np.clip(a * 1.1 + 6.0, 0, 255).astype(np.uint8), id="brighter"),
    ],
)
def test_hash_knows_a_copy(change: Any) -> None:
    scorer, image = HashNovelty(), scene(5)
    copy = np.ascontiguousarray(change(image))
    codes = scorer.signatures(np.stack([image, copy, scene(6)]))
    distances = scorer.distances(codes[1:2], codes)
    assert distances[0, 0] < 0.08
    assert distances[0, 2] > 0.2


def test_hash_without_poses_compares_upright_only() -> None:
    images = np.stack([scene(5), scene(5)[:, ::-1]])
    codes = HashNovelty().signatures(images)
    assert HashNovelty(poses=False).distances(codes[:1], codes[1:])[0, 0] > 0.2


def scored_images(*images: np.ndarray) -> list[Scored]:
    codes = HashNovelty().signatures(np.stack(images))
    return [Scored(sample(f"i{k}"), signatures={"n": code}) for k, code in enumerate(codes)]


def test_only_the_later_of_two_copies_is_a_duplicate() -> None:
    items = scored_images(scene(1), scene(2), scene(1))
    compare(items, "n", HashNovelty(), [])
    assert "n" not in items[0].sample.scores  # nothing before it: does not apply
    assert items[1].sample.scores["n"] > 0.2
    assert items[2].sample.scores["n"] == 0
    assert items[2].nearest["n"] == "i0"


def test_an_image_is_no_copy_of_itself_in_the_reference() -> None:
    items = scored_images(scene(1))
    codes = HashNovelty().signatures(np.stack([scene(1), scene(2)]))
    compare(items, "n", HashNovelty(), [References(("i0", "other"), codes, ("i0 None", "o x"))])
    assert items[0].sample.scores["n"] > 0.2
    assert items[0].nearest["n"] == "other"


def test_own_distances_leave_the_image_itself_out() -> None:
    codes = HashNovelty().signatures(np.stack([scene(1), scene(2), scene(1)]))
    distances = own_distances(References(("a", "b", "c"), codes), HashNovelty())
    assert distances[0] == distances[2] == 0
    assert distances[1] > 0.2
    assert np.isnan(own_distances(References(("a",), codes[:1]), HashNovelty())).all()


@pytest.mark.parametrize("k", [1, 3], ids=str)
def test_neighbours_are_those_of_scikit_learn(k: int) -> None:
    """Among the real ones and the earlier ones, in two lists: a k-th nearest of one list alone, or
    one that counts the image itself, differs."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(30, 6))
    scorer = Novelty(k=k, model="unused")

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b)))

    real = References(tuple("abcdefghij"), codes[:10], tuple("abcdefghij"))
    early = References(tuple("klmno"), codes[10:15], tuple("klmno"))
    items = [Scored(sample(f"i{n}"), signatures={"n": code}) for n, code in enumerate(codes[15:])]
    compare(items, "n", scorer, [real, early])
    for n, item in enumerate(items):
        others = NearestNeighbors(n_neighbors=k, metric=apart).fit(codes[: 15 + n])
        distances, _ = others.kneighbors(codes[15 + n : 16 + n])
        assert item.sample.scores["n"] == pytest.approx(distances[0, -1], abs=2e-5)
    own = NearestNeighbors(n_neighbors=k + 1, metric=apart).fit(codes).kneighbors(codes)[0]
    every = References(tuple(map(str, range(30))), codes)
    assert own_distances(every, scorer) == pytest.approx(own[:, -1], abs=2e-5)
    few = References(tuple(map(str, range(k))), codes[:k])
    assert np.isnan(own_distances(few, scorer)).all()
    alone = [Scored(sample(f"i{n}"), signatures={"n": codes[n]}) for n in range(k)]
    compare(alone, "n", scorer, [])
    assert not any("n" in item.sample.scores for item in alone)


def test_scorers_that_compare_are_recognised() -> None:
    assert is_novelty(HashNovelty()) and is_novelty(Novelty())
    assert not is_novelty(Contrast())


# ---------------------------------------------------------------- batches and verdicts


@dataclass(frozen=True)
class Fragile:
    """Fails on one sample, with the error given."""

    error: Exception
    bad: str = "b"
    level: ClassVar[str] = "image"

    def score(self, images: Any, samples: Sequence[Sample]) -> Any:
        if any(s.id == self.bad for s in samples):
            raise self.error
        return np.full(len(samples), 0.5, np.float32)


def test_a_failing_scorer_fails_its_sample_alone() -> None:
    names = ["a", "b", "c"]
    items = score_samples(
        [sample(n) for n in names],
        {"f": Fragile(ValueError("odd"))},
        lambda s: scene(0),
        batch_size=3,
    )
    assert [i.failed for i in items] == [{}, {"f": "ValueError: odd"}, {}]
    assert [i.sample.scores for i in items] == [{"f": 0.5}, {}, {"f": 0.5}]
    assert items[1].failures[0].error == "ValueError"


def test_a_missing_model_ends_the_run() -> None:
    with pytest.raises(SetupError):
        score_samples(
            [sample("b")], {"f": Fragile(SetupError("no model"))}, lambda s: scene(0), batch_size=1
        )


def test_images_of_several_sizes_share_a_run() -> None:
    sides = {"a": 64, "b": 64, "c": 96, "d": 64}

    def read(item: Sample) -> np.ndarray:
        if item.id == "d":
            raise DataError("torn file")
        return scene(0, sides[item.id])

    samples = [sample(n, of=layout((), size=(side, side))) for n, side in sides.items()]
    items = score_samples(samples, {"i": Integrity()}, read, batch_size=4)
    assert [round(i.sample.scores.get("i", -1)) for i in items] == [1, 1, 1, -1]
    assert items[3].failed == {"i": "DataError: torn file"}


def test_old_scores_do_not_survive_a_rule_that_no_longer_applies() -> None:
    old = sample(of=layout((replace(water(), scores={"contrast": 9.0}),)))
    old = replace(old, scores={"contrast": 9.0})
    items = score_samples([old], {"contrast": Contrast()}, lambda s: scene(0, 64), batch_size=1)
    assert items[0].sample.scores == {}
    assert items[0].sample.layout.instances[0].scores == {}


def judged(scores: list[float], tolerate: float, **more: Any) -> Sample:
    marked = tuple(replace(instance(), scores={"c": s}) for s in scores)
    item = Scored(sample(of=layout(marked)), **more)
    rule = Rule("contrast", "c", min=3.0, tolerate=tolerate)
    return judge(item, [rule], {"c": Bound(3.0)}, {"c": "instance"})


@pytest.mark.parametrize(
    ("scores", "tolerate", "failed", "verdict"),
    [
        pytest.param([5, 5, 5], 0.0, {}, "keep", id="all pass"),
        pytest.param([5, 5, 1], 0.0, {}, "drop", id="one too many"),
        pytest.param([5, 5, 1], 0.34, {}, "keep", id="a tolerated share"),
        pytest.param([5, 1, 1], 0.34, {}, "drop", id="more than the tolerated share"),
        pytest.param([], 0.0, {}, "keep", id="no objects, nothing to fail"),
        pytest.param([5], 0.0, {"x": "ValueError: odd"}, "unknown", id="a scorer failed"),
        pytest.param([1], 0.0, {"x": "ValueError: odd"}, "drop", id="a failed rule weighs more"),
    ],
)
def test_verdict(
    scores: list[float], tolerate: float, failed: dict[str, str], verdict: str
) -> None:
    result = judged(scores, tolerate, failed=failed)
    assert result.verdict == verdict
    assert [bool(failed_rules(i)) for i in result.layout.instances] == [s < 3 for s in scores]
    assert (result.reasons == ()) == (verdict == "keep")


def test_a_verdict_can_be_taken_back() -> None:
    before = sample(of=layout((replace(instance(), scores={"c": 1.0}, reasons=("box only",)),)))
    rule = Rule("contrast", "c", min=3.0)
    after = judge(Scored(before), [rule], {"c": Bound(3.0)}, {"c": "instance"})
    assert after.layout.instances[0].reasons == ("box only", "c 1 (min 3)")
    assert without_verdict(after) == before
