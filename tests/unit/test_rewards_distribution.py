"""Reward `distribution`: its bank, its cap, its cache, its encoders, and an exact resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import DataError, UsageError
from rsgen.images import Pixels
from rsgen.records import Layout, Sample
from rsgen.rewards.base import Made, RealImages, RewardSetup
from rsgen.rewards.combine import (
    RewardSpec,
    check_rewards,
    join_seen,
    open_rewards,
    reward_hashes,
)
from rsgen.rewards.encoders import ClipEncoder, JudgeEncoder, LatentEncoder, choose_encoder
from rsgen.rewards.neighbours import FLOOR, Whitening, log_kth
from rsgen.rewards.spread import Bank, Company, Spread
from tests.build import CLASSES, instance, layout, picture
from tests.build_clip import clip
from tests.build_judge import save_judges


def labels(count: int, label: int = 0) -> Any:
    return np.full(count, label, dtype=np.int64)


# ---------------------------------------------------------------- the bank


def test_the_bank_is_first_in_first_out() -> None:
    """Points are numbered: what is left are the last ones, in order."""
    bank = Bank(1, capacity=5, max_age=2)
    for epoch, points in ((0, [0, 1, 2]), (0, [3, 4, 5]), (1, [6])):
        bank.push(np.array(points, float)[:, None], labels(len(points)), epoch)
    assert bank.points[:, 0].tolist() == [2, 3, 4, 5, 6]
    bank.age(2)
    assert bank.points[:, 0].tolist() == [6]  # those of epoch 0 are two epochs old
    bank.push(np.arange(10, 17, dtype=float)[:, None], labels(7), 2)
    assert bank.points[:, 0].tolist() == [12, 13, 14, 15, 16]
    copy = Bank(1, 5, 2)
    copy.load_state_dict(bank.state_dict())
    assert copy.points.tolist() == bank.points.tolist() and copy.epochs.tolist() == [2] * 5
    with pytest.raises(DataError, match="where points have 2 numbers"):
        Bank(2, 5, 2).load_state_dict(bank.state_dict())


def test_terms_by_hand() -> None:
    """On a line with k 1: neighbours, the cap, omega and the floor can be read off."""
    real = np.array([[0.0], [1.0], [3.0]])  # nearest others at 1, 1, 2
    spread = Spread(real, labels(3), k=1, omega=2.0, cap="real")
    points = np.array([[0.5], [0.7], [10.0], [0.7]])
    rated = spread.rate(points, labels(4), epoch=0)
    rho = np.log([0.2, FLOOR, 9.3, FLOOR])
    nu = np.log([0.5, 0.3, 7.0, 0.3])
    assert rated.diversity == pytest.approx(rho + np.log(3))  # three others each
    assert rated.divergence == pytest.approx(nu - rho)
    # of three real points the median log distance is 0; a fourth would bring it nearer
    limit = 0.0 - (1 / 3)  # psi(4) - psi(3) = 1/3, one dimension
    # real ones beside three others: log rho -1/3 at most; log nu is log 2 nearer than log rho:
    # they have two real others each, and three where four are asked for
    real_value = limit + np.log(3) - 2 * (np.log(2) - (limit + np.log(3)))
    value = np.minimum(rho, limit) + np.log(3) - 2 * (nu - rho)
    assert rated.value == pytest.approx(value - real_value)
    assert rated.capped.tolist() == [0, 0, 1, 0]


def test_nothing_is_said_before_enough_is_known() -> None:
    """4 k points; those of the batch count, those that were only measured do not.

    What is only measured is compared with itself, by fewer neighbours where it is little.
    """
    real = np.random.default_rng(0).normal(size=(50, 2))
    points = np.random.default_rng(1).normal(size=(4, 2))
    spread = Spread(real, labels(50), k=2)
    looked = spread.rate(points, labels(4), epoch=0, learn=False)
    near = log_kth(points, points, 1, np.arange(4)) + np.log(3) / 2
    assert looked.warm.all() and looked.diversity == pytest.approx(near)
    alone = spread.rate(points[:1], labels(1), epoch=0, learn=False)
    assert not alone.warm.any() and alone.value.tolist() == [0] and spread.settling(99)
    assert not spread.rate(points + 1, labels(4), epoch=0).warm.any()
    rated = spread.rate(points, labels(4), epoch=0)  # 4 in the bank, 4 in the batch: 8 = 4 k
    assert rated.warm.all() and (rated.value != 0).all() and np.isfinite(rated.value).all()
    assert spread.settling(3) and not spread.settling(4)
    old = spread.rate(points, labels(4), epoch=9)  # all others are too old
    assert not old.warm.any() and (old.value == 0).all() and np.isnan(old.diversity).all()


@pytest.mark.parametrize(
    ("sizes", "last"),
    [
        pytest.param((8, 8, 8), (), id="an epoch is enough: the bank has no say"),
        pytest.param((4, 4, 4, 4), (2,), id="two were needed: the last one and this one"),
    ],
)
def test_every_point_has_as_many_others_as_the_first(
    sizes: tuple[int, ...], last: tuple[int, ...]
) -> None:
    """Catches values that fall as the bank fills: k is 2, so 8 points must be known."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(60, 2))
    epochs = [rng.normal(size=(size, 2)) for size in sizes]
    spread, fresh = Spread(real, labels(60), k=2), Spread(real, labels(60), k=2)
    for number, points in enumerate(epochs):
        rated = spread.rate(points, labels(len(points)), epoch=number)
    for number in last:
        fresh.rate(epochs[number], labels(sizes[number]), epoch=number)
    wanted = fresh.rate(epochs[-1], labels(sizes[-1]), epoch=len(sizes) - 1)
    assert rated.warm.all() and (rated.value == wanted.value).all()


def test_of_more_points_than_that_a_draw_stands_for_all() -> None:
    """Objects of a class are now 8, now 20: no point may count itself, none has more others."""
    points = np.arange(20, dtype=float)[:, None]
    company = Company.of(points, np.zeros((5, 1)), 7, [3, 1])
    assert len(np.unique(company.points)) == 8
    drawn = np.isin(points, company.points)[:, 0]
    assert (company.points[company.own[drawn]] == points[drawn]).all()
    assert (company.own[~drawn] == 7).all()
    few = Company.of(points[:6], np.arange(50.0, 55.0)[:, None], 7, [3, 1])
    assert few.points[:, 0].tolist() == [53, 54, 0, 1, 2, 3, 4, 5]
    assert few.own.tolist() == [2, 3, 4, 5, 6, 7]


def test_classes_are_not_compared_with_each_other() -> None:
    """A class has the ratings that it would have alone."""
    rng = np.random.default_rng(0)
    real, points = rng.normal(size=(60, 2)), rng.normal(size=(40, 2))
    kinds, asked = np.repeat([1, 2], 30), np.tile([1, 2], 20)
    both = Spread(real, kinds, k=3).rate(points, asked, epoch=0)
    for kind in (1, 2):
        mine = asked == kind
        alone = Spread(real[kinds == kind], labels(30, kind), k=3)
        rated = alone.rate(points[mine], asked[mine], epoch=0)
        assert (rated.value == both.value[mine]).all()
    unknown = Spread(real, kinds, k=3).rate(points, labels(40, 7), epoch=0)
    assert not unknown.matched.any() and (unknown.value == 0).all()


def test_measuring_leaves_no_trace() -> None:
    rng = np.random.default_rng(0)
    real, points = rng.normal(size=(60, 2)), rng.normal(size=(40, 2))
    spread, other = Spread(real, labels(60)), Spread(real, labels(60))
    for one in (spread, other):
        one.rate(points, labels(40), epoch=0)
    spread.rate(points + 5, labels(40), epoch=0, learn=False)
    a, b = (one.rate(points, labels(40), epoch=1).value for one in (spread, other))
    assert (a == b).all()


def test_whitening_keeps_what_varies() -> None:
    """Catches an axis of rounding noise that is blown up to variance 1, and a scaled axis."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(400, 3)) * [5, 1, 1e-5] + [3, 2, 7]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    whitening = Whitening.fit(wide @ turn, 32)
    assert whitening.dimensions == 2
    points = whitening(wide @ turn)
    assert points.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert np.cov(points.T) == pytest.approx(np.eye(2), abs=1e-9)
    assert Whitening.fit(rng.normal(size=(50, 64)), 32).dimensions == 5  # ten images each
    with pytest.raises(ValueError, match="no 5-th neighbour"):
        log_kth(points[:5], points[:5], 5, np.arange(5))


# ---------------------------------------------------------------- with images


def view(number: int, spread: float = 1.0) -> tuple[Pixels, Layout]:
    """Pictures that differ in tone, and in where a ship lies."""
    rng = np.random.default_rng(number)
    things = (
        instance("ship", 32 + 8 * rng.normal(), 32, 24, 10, 0.3),
        instance("plane", 16, 14 + 3 * rng.normal(), 18, 10, 0.0),
    )
    of = layout(things)
    tone = 1 + 0.15 * spread * rng.normal(size=3)
    return (picture(of, number) * tone).clip(0, 255).astype(np.uint8), of


REAL = RealImages(40, view, "forty")
SMALL: dict[str, Any] = {"k": 2, "pca_dim": 4, "bank": 40}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the forty real images are made once for the whole module."""
    return tmp_path_factory.mktemp("shared")


def setup(folder: Path, **more: Any) -> RewardSetup:
    return RewardSetup(CLASSES, checkpoint="tiny", real=REAL, cache=folder / "cache", **more)


def specs(**options: Any) -> list[RewardSpec]:
    return [RewardSpec("distribution", options={**SMALL, **options})]


def made(start: int, count: int, spread: float = 1.0) -> Made:
    rows = [view(1000 + start + k, spread) for k in range(count)]
    samples = [Sample(f"g{start + k}", of) for k, (_, of) in enumerate(rows)]
    return Made.of([pixels for pixels, _ in rows], samples, [k // 2 for k in range(count)])


def test_real_features_are_made_once(tmp_path: Path) -> None:
    """The file is named by what it rests on; a damaged one is made again."""
    counted: list[int] = []

    def looked(number: int) -> tuple[Pixels, Layout]:
        counted.append(number)
        return view(number)

    seen = replace(setup(tmp_path), real=replace(REAL, view=looked))
    open_rewards(specs(), seen)
    (path,) = (tmp_path / "cache").iterdir()
    assert len(counted) == 40
    open_rewards(specs(omega=1.0, bank=50), seen)  # none of it changes the real features
    assert len(counted) == 40
    path.write_bytes(path.read_bytes()[:200])
    first = open_rewards(specs(), seen)
    assert len(counted) == 80
    open_rewards(specs(real_bank=20), seen)
    assert len(counted) == 100 and len(list((tmp_path / "cache").iterdir())) == 2
    assert "40 real pictures in 4 dimensions of latents features" in first.notes[0]


def test_a_collapsed_generator_is_worth_less(shared: Path) -> None:
    """One image again and again loses against images as varied as the real ones."""
    varied = open_rewards(specs(), setup(shared))(made(0, 16), epoch=0)
    alike = made(0, 16)
    alike.images[:] = alike.images[0]
    same = open_rewards(specs(), setup(shared))(alike, epoch=0)
    assert same.plain.mean() < varied.plain.mean() - 1
    least = np.log(FLOOR) + np.log(15) / 4
    assert same.terms["distribution/diversity"] == pytest.approx(least)
    assert (same.terms["distribution/within layout"] == 0).all()
    assert (varied.terms["distribution/within layout"] > 0).all()


def test_broken_images_are_no_better_than_the_worst_and_no_news(shared: Path) -> None:
    """The reward is often negative: 0 would pay for numbers that are not finite."""
    rewards, other = (open_rewards(specs(), setup(shared)) for _ in range(2))
    whole = made(0, 12)
    broken = replace(whole, broken=np.arange(12) >= 10)
    batch = rewards(broken, epoch=0)
    alone = other(made(0, 10), epoch=0)
    assert (batch.total[:10] == alone.total).all() and batch.counts["broken"] == 2
    assert (batch.total[10:] == min(0, alone.total.min())).all()
    state, bare = rewards.state_dict(), other.state_dict()
    assert all((state[name] == bare[name]).all() for name in state)


def test_an_image_that_the_encoder_fails_at_is_worth_the_least(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches 0 for it: that is what a real image gets."""
    rewards = open_rewards(specs(), setup(shared))
    features = LatentEncoder.features

    def failing(self: LatentEncoder, images: Any) -> Any:
        found = features(self, images)
        found[3] = np.nan
        return found

    monkeypatch.setattr(LatentEncoder, "features", failing)
    batch = rewards(made(0, 12), epoch=0)
    others = np.delete(batch.total, 3)
    assert batch.counts["distribution/failed"] == 1 and others.min() < 0
    assert batch.total[3] == others.min()


def test_what_warms_up_is_told_until_the_bank_is_full(shared: Path) -> None:
    """Catches an epoch of zeros that passes for equal images, and a warm-up without an end."""
    rewards = open_rewards(specs(k=4, max_age=2), setup(shared, images=10))
    assert "10 images an epoch: 0 in the first 1 epochs, until 16 are known" in rewards.notes[-1]
    cold = rewards(made(0, 10), epoch=1)
    assert (cold.warming, cold.counts["distribution/warming"]) == (1.0, 10)
    assert (cold.total == 0).all()
    warm = rewards(made(20, 10), epoch=2)
    assert warm.warming == 0 and (warm.total != 0).all()
    few = rewards(made(40, 3), epoch=9)  # all others are too old, and it should have been full
    assert (few.warming, few.counts["distribution/too few of their kind"]) == (0, 3)


def test_a_resumed_run_goes_on_to_the_bit(shared: Path) -> None:
    """And two ranks that gather have what one has."""
    whole = open_rewards(specs(), setup(shared))
    for epoch in range(2):
        whole(made(20 * epoch, 12), epoch=epoch)
    state = {name: array.copy() for name, array in whole.state_dict().items()}
    assert {"calls", "distribution/bank", "distribution/real"} < set(state)
    assert state["distribution/bank_others"].tolist() == [[0, 11]]
    wanted = whole(made(40, 12), epoch=2)
    resumed = open_rewards(specs(), setup(shared))
    resumed.load_state_dict(state)
    parts = [resumed.observe(made(40, 12).chosen(np.arange(k, k + 6))) for k in (0, 6)]
    found = resumed.rate(join_seen(parts), epoch=2)
    assert found.total == pytest.approx(wanted.total, abs=1e-5)  # encoded in other batches
    again = open_rewards(specs(), setup(shared))
    again.load_state_dict(state)
    assert (again(made(40, 12), epoch=2).total == wanted.total).all()
    other = replace(setup(shared), real=RealImages(39, view, "thirty-nine"))
    with pytest.raises(DataError, match="give other features than when the run was started"):
        open_rewards(specs(), other).load_state_dict(state)


def test_objects_are_compared_within_their_class(shared: Path) -> None:
    """An image has the mean of its objects; without any it counts 0, and is counted."""
    options = specs(crops="instances", most_instances=2)
    rewards = open_rewards(options, setup(shared))
    seen = rewards.observe(made(0, 10))
    assert seen["distribution/points"].shape == (10, 2, 4)
    ship, plane = CLASSES.index("ship"), CLASSES.index("plane")
    assert (seen["distribution/labels"] == [ship, plane]).all()
    batch = rewards.rate(seen, epoch=0)
    assert (batch.total != 0).all() and np.isfinite(batch.terms["distribution/divergence"]).all()
    bare = made(0, 3)
    tanks = tuple(
        replace(s, layout=layout([instance("storage-tank", 50, 14, 12, 12, 0.0)] if k else []))
        for k, s in enumerate(bare.samples)
    )
    none = rewards(replace(bare, samples=tanks), epoch=0)
    assert none.total.tolist() == [0, 0, 0]
    assert none.counts["distribution/without objects"] == 1
    assert none.counts["distribution/without real objects"] == 2


def test_of_many_objects_the_same_ones_are_shown(shared: Path) -> None:
    many = layout([instance("ship", 8 + 6 * k, 30, 10, 6, 0.0) for k in range(8)])
    rewards = open_rewards(specs(crops="instances", most_instances=3), setup(shared))
    row = rewards.observe(Made.of([picture(many)] * 2, [Sample("a", many), Sample("b", many)]))
    points = row["distribution/points"]
    assert (points[0] == points[1]).all() and len(np.unique(points[0], axis=0)) == 3


# ---------------------------------------------------------------- encoders


def test_the_judge_is_preferred_to_latents(tmp_path: Path) -> None:
    judges = str(save_judges(tmp_path))
    assert choose_encoder("auto", setup(tmp_path)) == LatentEncoder("tiny", "cpu")
    assert choose_encoder("auto", setup(tmp_path, judge=judges)) == JudgeEncoder(judges, "cpu")
    model = str(clip(tmp_path / "clip"))
    assert choose_encoder(model, setup(tmp_path)) == ClipEncoder(model, "cpu")


def vit(folder: Path) -> Path:
    """A vision model that knows no words, random weights."""
    from transformers import ViTConfig, ViTModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind: Any = ViTConfig
        shape = kind(hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                     intermediate_size=48, image_size=32, patch_size=8)  # fmt: skip
        ViTModel(shape).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["judge", "latents", "clip", "vision"])
def test_every_encoder_sees_images_one_by_one(kind: str, tmp_path: Path) -> None:
    """Catches features that depend on what else is in the batch, and an unhashed encoder."""
    model = kind
    if kind in ("clip", "vision"):
        model = str({"clip": clip, "vision": vit}[kind](tmp_path / kind))
    judges = str(save_judges(tmp_path / "judges"))
    seen = setup(tmp_path, judge=judges)
    options = specs(encoder=model)
    check_rewards(options, seen)
    ((name, digest),) = reward_hashes(options, seen).items()
    assert name == f"distribution/{kind}" and len(digest) >= 32
    encoder = choose_encoder(model, seen)
    pictures = [view(k)[0] for k in range(20)]
    every = encoder.features(pictures)
    assert every.dtype == np.float32 and len(every) == 20 and np.std(every, axis=0).max() > 0
    assert encoder.features(pictures[17:18])[0] == pytest.approx(every[17], abs=1e-5)
    batch = open_rewards(options, seen)(made(0, 10), epoch=0)
    assert np.isfinite(batch.total).all() and (batch.total != 0).all()


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        pytest.param({}, {"real": None}, "there are none", id="no real images"),
        pytest.param({}, {"checkpoint": ""}, "neither a judge nor an autoencoder", id="blind"),
        pytest.param({"encoder": "judge"}, {}, "encoder judge, and no judge", id="no judge"),
        pytest.param({"encoder": "tiny"}, {}, "is no vision model", id="no encoder"),
        pytest.param({"cap": "soft"}, {}, "cap is 'soft'", id="cap"),
        pytest.param({"crops": "boxes"}, {}, "crops is 'boxes'", id="crops"),
        pytest.param({"k": 0}, {}, "k is 0", id="no neighbour"),
        pytest.param({"k": 50, "bank": 64}, {}, "bank is 64", id="k too large for the bank"),
        pytest.param({"omega": -1.0}, {}, "omega is -1", id="omega"),
        pytest.param(
            {"k": 8},
            {"images": 7},
            "7 images an epoch, remembered for 4 epochs, are 28",
            id="too few images an epoch",
        ),
    ],
)
def test_what_cannot_work_is_refused_first(
    options: dict[str, Any], more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        check_rewards(specs(**options), replace(setup(tmp_path), **more))
    assert message in str(caught.value)


def test_too_few_real_images_are_refused(shared: Path) -> None:
    few = replace(setup(shared), real=RealImages(9, view, "nine"))
    with pytest.raises(UsageError, match=r"9 real pictures .* at least 10"):
        open_rewards(specs(), few)


def test_an_unreadable_real_image_is_told(shared: Path) -> None:
    def damaged(number: int) -> tuple[Pixels, Layout]:
        if number == 3:
            raise DataError("not an image")
        return view(number)

    seen = replace(setup(shared), real=RealImages(40, damaged, "one damaged"))
    notes = open_rewards(specs(), seen).notes
    assert "39 real pictures" in notes[0] and "1 real images could not be read" in notes[1]
