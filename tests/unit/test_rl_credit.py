"""rl_tune.credit on the small model: advantages of places, what they teach, keep and share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rsgen.errors import Stopped
from rsgen.job import Control
from rsgen.models.process import Gaussian
from rsgen.rewards.base import RewardBatch
from rsgen.rewards.places import SIDE
from rsgen.rl.advantages import group_advantages
from rsgen.rl.credit import CriticCredit, GroupCredit, credit_of
from rsgen.rl.epoch import EpochShape, Experience, Painted, paint_epoch
from rsgen.rl.objective import clip_range, place_clip, place_ratios
from rsgen.rl.opened import Opened
from rsgen.rl.pool import pool_tensors, pooled
from rsgen.rl.rollout import Trajectories
from rsgen.rl.session import Session
from rsgen.rl.update import Updater, UpdateSettings
from rsgen.rl_tune import rl_tune
from rsgen.settings import RlTuneConfig
from tests.build import instance, layout, sample, sample_run
from tests.build_models import SIZE, save_model
from tests.build_rl import state_of, tune_job
from tests.unit.test_rl_tune import StopAfter

CANVAS = (SIZE, SIZE)
STEPS = (1, 2, 4)
# two of three steps draw noise
SMALL: dict[str, Any] = {
    "rl_tune.epochs": 1,
    "rl_tune.steps": 3,
    "rl_tune.window": (0.0, 0.7),
    "rl_tune.evaluate_every": 9,
    "rl_tune.text_guidance": 1.0,
    "rl_tune.layout_guidance": 1.0,
    "rl_tune.gate": "none",
    "rl_tune.credit": "objects",
}


@dataclass(frozen=True)
class Place:
    """Inputs that every test shares."""

    model: Path
    layouts: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two objects in opposite corners of each layout."""
    root = tmp_path_factory.mktemp("credit")
    samples = []
    for k, split in enumerate(["train"] * 3 + ["val", "test"]):
        plane = instance("plane", 8, 8 + k % 2, 9, 6, 0.2 * k, size=CANVAS)
        ship = instance("ship", 24, 23, 9, 5, 0.5 + 0.1 * k, size=CANVAS)
        found = layout((plane, ship), size=CANVAS)
        samples.append(sample(f"scene-{k}.png", found, split=split))
    run = sample_run(root / "real", samples)
    return Place(save_model(root / "model").path, run.path)


@pytest.fixture(scope="module")
def first(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Painted]:
    """What a run has painted and rewarded before anything is learned; all weights learn."""
    folder = tmp_path_factory.mktemp("first") / "none"
    keys = {**SMALL, "rl_tune.learn": "full"}
    opened = Opened.of(tune_job(folder, place.model, place.layouts, **keys))
    session = Session.start(opened, opened.plan, None)
    painted, _ = paint_epoch(
        session.policy, session.rewards, opened.layouts, session.shape, epoch=1, cursor=0, seed=3,
        storage=session.storage, after_batch=lambda count: None,
    )  # fmt: skip
    return session, painted


# ---------------------------------------------------------------- advantages of what was painted


def batch_of(images: int, height: int, width: int) -> Trajectories:
    """Latents whose shape alone matters."""
    latents = torch.zeros(images, len(STEPS) + 1, 4, height, width)
    log_probs = torch.zeros(images, len(STEPS))
    return Trajectories((), STEPS, latents, latents[:, 1:], log_probs, 1)


def painted_of(
    places: np.ndarray | None, shape: EpochShape, latents: tuple[int, int] = (4, 8)
) -> Painted:
    """An epoch with such rewards, whose totals are all equal: they teach nothing."""
    total = np.ones(shape.images)
    rewards = RewardBatch(total, total, {}, {}, places=places)
    own = shape.batch_size // shape.ranks
    batches = tuple(batch_of(own, *latents) for _ in range(shape.batches))
    return Painted(1, shape, batches, rewards, 0.0)


ONE = EpochShape(2, 4, 4, 0, 1)


@pytest.mark.parametrize("latents", [(4, 8), (32, 32), (64, 32), (5, 3)], ids=str)
def test_places_are_means_on_the_grid_of_the_latents(latents: tuple[int, int]) -> None:
    """Catches rows for columns, places that are picked and not averaged, a step left out."""
    height, width = latents
    grid = np.random.default_rng(0).normal(size=(8, SIDE, SIDE))
    # a place of the latents is the mean of the cells that it touches
    expected = np.zeros((8, height, width))
    for y, x in np.ndindex(height, width):
        rows = slice(y * SIDE // height, math.ceil((y + 1) * SIDE / height))
        columns = slice(x * SIDE // width, math.ceil((x + 1) * SIDE / width))
        expected[:, y, x] = grid[:, rows, columns].mean(axis=(1, 2))
    found = GroupCredit(RlTuneConfig(credit="objects")).advantages(painted_of(grid, ONE, latents))
    wanted = group_advantages(expected, ONE.groups)
    assert [a.shape for a in found] == [(4, len(STEPS), height, width)] * 2
    assert all(a.dtype == torch.float32 for a in found)
    for step in range(len(STEPS)):
        given = torch.cat(found)[:, step].numpy()
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("credit", "places"),
    [
        pytest.param("image", np.random.default_rng(0).normal(size=(8, SIDE, SIDE)), id="image"),
        pytest.param("objects", None, id="no reward tells places"),
    ],
)
def test_by_image_the_total_alone_counts(credit: str, places: np.ndarray | None) -> None:
    """Catches places that teach where they were not asked for, or are made up."""
    settings = RlTuneConfig(credit=credit)
    for given in GroupCredit(settings).advantages(painted_of(places, ONE)):
        assert given.shape == (4, len(STEPS)) and not given.any()


def test_each_rank_has_its_rows_of_the_places() -> None:
    """Catches advantages of a rank's own images alone, and rows of another rank's."""
    grid = np.random.default_rng(1).normal(size=(8, SIDE, SIDE))
    credit = GroupCredit(RlTuneConfig(credit="objects"))
    whole = torch.cat(credit.advantages(painted_of(grid, ONE)))
    shapes = [replace(ONE, rank=rank, ranks=2) for rank in (0, 1)]
    given = [credit.advantages(painted_of(grid, shape)) for shape in shapes]
    assert torch.equal(torch.cat([given[rank][b] for b in (0, 1) for rank in (0, 1)]), whole)


def test_a_reward_by_object_praises_where_its_objects_are(first: tuple[Session, Painted]) -> None:
    """Catches advantages where a layout has nothing, and the same for both of its objects."""
    session, painted = first
    credit = credit_of(session.opened.settings, session.policy, 0)
    assert isinstance(credit, GroupCredit)
    found = torch.cat(credit.advantages(painted))
    assert found.shape == (8, 2, *session.policy.shape[1:])
    # latents of 8 x 8: a plane at the top left, a ship at the bottom right, nothing elsewhere
    plane, ship = found[:, 0, 1, 1], found[:, 0, 6, 6]
    assert plane.abs().min() > 0 and ship.abs().min() > 0 and not torch.equal(plane, ship)
    assert not found[..., 0, 7].any() and not found[..., 7, 0].any()
    critic = credit_of(RlTuneConfig(algorithm="ppo"), session.policy, 0)
    assert isinstance(critic, CriticCredit) and painted.rewards.places is not None
    assert [a.shape for a in critic.advantages(painted)] == [(4, 2)] * 2


# ---------------------------------------------------------------- what they teach


def test_praise_makes_the_praised_place_likelier(first: tuple[Session, Painted]) -> None:
    """Catches a loss of the wrong sign, advantages of other images or places, another's clip."""
    session, painted = first
    policy = session.policy
    rng = np.random.default_rng(0)
    praise = np.zeros((8, *policy.shape[1:]))
    praise[:, 0:3, 4:8] = rng.permutation(np.repeat([1.0, -1.0], 4))[:, None, None]
    rows = [torch.from_numpy(p).float()[:, None].expand(-1, 2, -1, -1) for p in painted.own(praise)]
    parameters = list(session.learner.parameters().values())
    kept = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    settings = UpdateSettings(2, 1e6, "center", 1.0, math.inf, 0.0, 0)
    updater = Updater(policy, session.learner, optimizer, settings, None)
    updater.update([Experience(1, painted.batches, tuple(rows))], 1, 0.0, lambda: None)
    gains = []
    for batch, worth in zip(painted.batches, rows, strict=True):
        with torch.no_grad():
            for k, now in enumerate(updater._now(batch)):
                ratio = place_ratios(now, batch.means[:, k], batch.actions(k), "plain")
                gains.append(float((ratio.log() * worth[:, k]).sum(dim=(1, 2)).mean()))
        assert _clips(updater, now, batch) == (
            place_clip(1e6, policy.shape),
            clip_range(1e6, math.prod(policy.shape)),
        )
    with torch.no_grad():
        for parameter, before in zip(parameters, kept, strict=True):
            parameter.copy_(before)
    assert float(np.mean(gains)) * policy.shape[0] > 0.05  # nats of a step


def _clips(updater: Updater, now: Gaussian, batch: Trajectories) -> tuple[float, float]:
    """Of a place, and of an image."""
    last = len(batch.steps) - 1
    found = [updater._ratios(now, batch, last, by_place=by_place) for by_place in (True, False)]
    assert [ratio.shape for ratio, _ in found] == [(4, 8, 8), (4,)]
    return found[0][1], found[1][1]


# ---------------------------------------------------------------- runs


def _same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def test_credit_is_what_the_run_was_told(place: Place, tmp_path: Path) -> None:
    """Catches a setting that nothing reads, and praise that teaches nothing."""
    ways: dict[str, dict[str, Any]] = {"objects": {}, "image": {"rl_tune.credit": "image"}}
    stored, weights = {}, {}
    for name, more in ways.items():
        keys = {**SMALL, "rl_tune.lag": 1, "rl_tune.lr": 1e-3, **more}
        rl_tune(tune_job(tmp_path / name, place.model, place.layouts, **keys))
        tensors = state_of(tmp_path / name).tensors
        stored[name] = tuple(tensors["pool"]["advantages"].shape)
        weights[name] = dict(tensors["weights"])
        # a LoRA starts with every second matrix at 0
        ups = [tensor for key, tensor in weights[name].items() if "lora_B" in key]
        assert ups and any(tensor.any() for tensor in ups)
    assert stored == {"objects": (8, 2, 8, 8), "image": (8, 2)}
    assert not _same(weights["objects"], weights["image"])


def test_places_are_kept_over_a_stop(place: Place, tmp_path: Path) -> None:
    """Catches a pool that comes back without its places, or with those of other images."""
    keys = {**SMALL, "rl_tune.epochs": 2, "rl_tune.lag": 1, "rl_tune.lr": 1e-3}
    listener = StopAfter(1)
    control = Control(requested=lambda: listener.reached)

    def run(name: str, **more: Any) -> None:
        rl_tune(tune_job(tmp_path / name, place.model, place.layouts, **keys, **more))

    with pytest.raises(Stopped):
        run("parts", reporter=listener, control=control)
    saved = state_of(tmp_path / "parts")
    assert saved.epoch == 1 and saved.tensors["pool"]["advantages"].shape == (8, 2, 8, 8)
    run("parts")
    run("whole")
    one, two = (state_of(tmp_path / name) for name in ("parts", "whole"))
    assert one.epoch == two.epoch == 2 and one.counters == two.counters
    assert set(one.tensors) == set(two.tensors)
    assert all(_same(dict(one.tensors[n]), dict(two.tensors[n])) for n in one.tensors)


def test_a_pool_of_places_is_shared_out_to_ranks(first: tuple[Session, Painted]) -> None:
    """Catches a resume on two ranks that learns from the places of the other one's images."""
    session, painted = first
    advantages = GroupCredit(session.opened.settings).advantages(painted)
    own = Experience(1, painted.batches, tuple(advantages))
    tensors = pool_tensors(own, painted.shape, session.policy.accelerator)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    halves = [
        pooled(1, tensors, replace(painted.shape, rank=rank, ranks=2), session.opened.layouts,
               session.policy.device).advantages
        for rank in (0, 1)
    ]  # fmt: skip
    for number, whole in enumerate(advantages):
        assert torch.equal(torch.cat([half[number] for half in halves]), whole)
