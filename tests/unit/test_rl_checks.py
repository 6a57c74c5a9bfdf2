"""rl-tune: what is stored of a trajectory, the ratio check, stops in long looks, its page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rsgen.errors import SetupError, Stopped
from rsgen.generation.painter import Painter
from rsgen.images import Pixels, write_png
from rsgen.job import Control
from rsgen.models.base import load_model
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.records import Layout
from rsgen.reporting import NullReporter
from rsgen.request import item_seed
from rsgen.rewards.base import RealImages
from rsgen.rewards.real_bank import GROUP, open_real_bank
from rsgen.rl.adapter import Learner
from rsgen.rl.epoch import Experience, Painted, paint_epoch
from rsgen.rl.opened import Opened
from rsgen.rl.page import MOST_GRIDS, show
from rsgen.rl.policy import Policy
from rsgen.rl.rollout import Trajectories
from rsgen.rl.session import Session
from rsgen.rl.update import Paired, Updater, UpdateSettings
from rsgen.rl_tune import rl_tune
from tests.build import instance, layout, sample, sample_run
from tests.build_models import SIZE, save_model
from tests.build_rl import rows_of, tune_job

CANVAS = (SIZE, SIZE)


@dataclass(frozen=True)
class Place:
    model: Path
    layouts: Path
    session: Session
    painted: Painted


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two layouts of four images, six steps of which three draw noise; nothing has learned."""
    root = tmp_path_factory.mktemp("rl-checks")
    samples = [
        sample(f"scene-{k}.png", layout((instance("plane", 9 + k, 9, 10, 6, size=CANVAS),), CANVAS))
        for k in range(10)
    ]
    model, run = save_model(root / "model").path, sample_run(root / "real", samples).path
    opened = Opened.of(tune_job(root / "none", model, run))
    session = Session.start(opened, opened.plan, None)
    painted, _ = paint_epoch(
        session.policy, session.rewards, opened.layouts, session.shape, epoch=2, cursor=0, seed=3,
        storage=session.storage, after_batch=lambda count: None,
    )  # fmt: skip
    return Place(model, run, session, painted)


def _updater(session: Session, paired: Paired | None = None, weight: float = 0.0) -> Updater:
    optimizer = torch.optim.AdamW(list(session.learner.parameters().values()), lr=0.0)
    settings = UpdateSettings(2, 1.6, "center", 1.0, math.inf, weight, 0)
    return Updater(session.policy, session.learner, optimizer, settings, paired)


def _experience(epoch: int, batch: Trajectories) -> Experience:
    return Experience(epoch, (batch,), (torch.ones_like(batch.log_probs),))


# ---------------------------------------------------------------- trajectories


def test_a_window_is_all_that_is_stored_and_learned_from(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches latents of steps that are not learned from, and gradients through those steps.

    Dossier test 18.
    """
    window, shape = place.session.policy.window, place.session.policy.shape
    assert window == (0, 1, 2)
    for batch in place.painted.batches:
        assert batch.steps == window
        assert batch.latents.shape == (4, len(window) + 1, *shape)
        assert batch.means.shape == (4, len(window), *shape)
        assert batch.log_probs.shape == (4, len(window))
        assert not any(t.requires_grad for t in (batch.latents, batch.means, batch.log_probs))
    taken: list[tuple[int, bool]] = []
    predict = Policy.predict

    def watched(self: Policy, predictor: Any, latents: Tensor, step: int) -> Tensor:
        found = predict(self, predictor, latents, step)
        taken.append((step, found.requires_grad))
        return found

    monkeypatch.setattr(Policy, "predict", watched)
    _updater(place.session).update([_experience(2, place.painted.batches[0])], 2, 0.1, lambda: None)
    assert sorted(step for step, learns in taken if learns) == list(window)
    assert sorted(step for step, learns in taken if not learns) == list(window)  # the start's


def test_the_ratio_is_one_in_batches_of_another_size(place: Place) -> None:
    """Catches a sample whose noise, prompt or condition depends on its neighbours.

    Dossier test 5.
    """
    whole, updater = place.painted.batches[0], _updater(place.session)
    parts = [_rows(whole, slice(k, k + n)) for k, n in ((0, 1), (1, 2), (3, 1))]
    assert updater.off(whole) <= 1e-6
    assert max(map(updater.off, parts)) <= 1e-5


def _rows(batch: Trajectories, rows: slice) -> Trajectories:
    return replace(
        batch,
        drawn=batch.drawn[rows],
        latents=batch.latents[rows],
        means=batch.means[rows],
        log_probs=batch.log_probs[rows],
    )


# ---------------------------------------------------------------- the paired loss


class _Steep(Paired):
    """A loss whose gradient is 1000 everywhere, and so longer than any reward's."""

    def __init__(self, session: Session) -> None:
        self.parameters = list(session.learner.parameters().values())

    def loss(self, step: int) -> Tensor:
        return torch.stack([1000 * p.sum() for p in self.parameters]).sum()


def test_the_paired_loss_pulls_as_hard_as_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a usual loss beside which the reward has no say: its gradient is far longer."""

    def gradient(weight: float) -> Tensor:
        taken: list[Tensor] = []
        updater = _updater(place.session, _Steep(place.session), weight)

        def step(self: Updater, stats: Any) -> None:
            taken.append(torch.cat([p.grad.flatten() for p in self.parameters]))  # type: ignore[union-attr]
            self.optimizer.zero_grad()

        monkeypatch.setattr(Updater, "_step", step)
        updater.update([_experience(2, place.painted.batches[0])], 2, 0.1, lambda: None)
        return taken[0]

    reward = gradient(0.0)
    assert float(reward.norm()) > 0
    for weight in (1.0, 0.25):
        pull = gradient(weight) - reward
        assert torch.allclose(pull, pull[0].expand_as(pull))  # along the paired loss alone
        assert float(pull.norm()) == pytest.approx(weight * float(reward.norm()), rel=1e-3)
        assert float(pull[0]) > 0


# ---------------------------------------------------------------- the ratio check


def test_a_ratio_that_is_no_number_fails(place: Place) -> None:
    """Catches max(0.0, nan), which is 0.0."""
    batch = place.painted.batches[0]
    odd = batch.log_probs.clone()
    odd[1, 1] = math.nan
    broken = replace(batch, log_probs=odd)
    with pytest.raises(SetupError, match=r"off by inf .* nothing was learned from them"):
        _updater(place.session).update([_experience(2, broken)], 2, 0.0, lambda: None)


def test_the_check_is_of_this_epochs_images(place: Place) -> None:
    """Catches a first update of pooled batches alone that passes as checked."""
    own, older = place.painted.batches
    # an epoch whose first update has the pooled batch, which is the second of the two
    epoch = next(e for e in range(50) if _order(e)[0] == 1)
    shifted = replace(own, version=epoch, log_probs=own.log_probs + 1.0)
    older = replace(older, version=epoch - 1, log_probs=older.log_probs + 0.5)
    pool = _experience(epoch - 1, older)
    updater = _updater(place.session)
    with pytest.raises(SetupError, match="the ratio is off by"):
        updater.update([_experience(epoch, shifted), pool], epoch, 0.0, lambda: None)
    assert not updater.checked
    right = _experience(epoch, replace(own, version=epoch))
    assert updater.update([right, pool], epoch, 0.0, lambda: None).off <= 1e-6
    assert updater.checked


def _order(epoch: int) -> list[int]:
    rng = np.random.default_rng(item_seed(0, "rl-tune-order", str(epoch)))
    found: list[int] = rng.permutation(2).tolist()
    return found


# ---------------------------------------------------------------- stops


def test_a_stop_is_seen_before_each_batch_of_held_layouts(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches --max-time that waits for all held layouts to be painted."""
    painted: list[int] = []
    asked = _Asked("an epoch: ")
    latents = Painter.latents

    def watched(self: Painter, layouts: Sequence[Layout], *more: Any) -> Tensor:
        painted.append(len(layouts))
        return latents(self, layouts, *more)

    monkeypatch.setattr(Painter, "latents", watched)
    held = place.session.held()
    held.batch_size = 1
    calls: list[int] = []
    held.pictures(lambda: calls.append(len(painted)))
    assert len(held.held) == 2 and calls == [0, 1]
    painted.clear()
    control = Control(requested=lambda: asked.heard)
    job = tune_job(tmp_path / "out", place.model, place.layouts, reporter=asked, control=control)
    with pytest.raises(Stopped):
        rl_tune(job)
    assert asked.heard and not painted


class _Asked(NullReporter):
    """Asks for a stop once something was said."""

    def __init__(self, start: str) -> None:
        self.start, self.heard = start, False

    def note(self, text: str, level: str = "info") -> None:
        self.heard |= text.startswith(self.start)


class _Eyes:
    """Counts what it encodes."""

    name = "counting"

    def __init__(self) -> None:
        self.seen = 0

    def identity(self) -> str:
        return "counting"

    def features(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        self.seen += len(images)
        rows = np.stack(images).reshape(len(images), -1)[:, :12]
        return rows.astype(np.float32)


def _bank(eyes: _Eyes, check_stop: Callable[[], None] = lambda: None, **more: Any) -> Any:
    def view(number: int) -> tuple[Pixels, Layout]:
        rng = np.random.default_rng(number)
        return rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), layout((), (8, 8))

    return open_real_bank(
        RealImages(300, view, "numbers"), eyes, lambda pixels, _: ([pixels], [0]), "image",
        most=300, dimensions=4, least=10, seed=0, check_stop=check_stop, **more,
    )  # fmt: skip


def test_a_stop_is_seen_before_each_batch_of_real_images(tmp_path: Path) -> None:
    """Catches a real set of thousands that is encoded to its end after a stop was asked for."""
    eyes = _Eyes()

    def check() -> None:
        if eyes.seen >= 32:
            raise Stopped("asked")

    with pytest.raises(Stopped):
        _bank(eyes, check, cache=tmp_path)
    assert eyes.seen == 32 and not list(tmp_path.iterdir())


def test_a_dry_run_looks_at_few_real_images_and_writes_nothing(tmp_path: Path) -> None:
    """Catches an estimate that costs as much as the whole start of the run."""
    eyes = _Eyes()
    assert len(_bank(eyes, cache=tmp_path, preview=True).points) == eyes.seen == GROUP
    assert not list(tmp_path.iterdir())
    whole = _bank(eyes, cache=tmp_path)
    again = _Eyes()
    assert np.array_equal(_bank(again, cache=tmp_path, preview=True).points, whole.points)
    assert again.seen == 0  # what a stopped run has made is read


# ---------------------------------------------------------------- what is shown and counted


def test_the_page_has_grids_of_the_whole_run(tmp_path: Path) -> None:
    """Catches a page of the last look alone, and one that grows with every epoch."""
    rows = [{"epoch": 0, "held score": 0.1}, {"epoch": 1, "reward": math.inf, "held score": 0.2}]
    rng = np.random.default_rng(0)
    for epoch in range(1, 41):
        pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        write_png(tmp_path / "validation" / f"epoch-{epoch:05d}.png", pixels)
    found = show(tmp_path, "t", rows, figures={}, notes=["n"], kept=7)
    page = found["page"].read_text(encoding="utf-8")
    assert MOST_GRIDS <= page.count("<details") <= MOST_GRIDS + 1
    assert page.count("<details open>") == 2 == page.count("png;base64") - 1  # and the curves
    for text in ("after epoch 40<", "after epoch 7, whose weights are saved", "after epoch 1<"):
        assert text in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "page.html", "validation"]


@pytest.mark.parametrize("learn", ["lora", "full"])
def test_the_start_is_counted_where_it_is_copied(place: Place, learn: str) -> None:
    """Catches an estimate that forgets the second copy of all weights."""
    model = load_model(place.model)
    assert isinstance(model, StableDiffusion)
    learner = Learner(model, learn, 4, 0)
    learner.freeze_start()
    weights = sum(p.numel() * 4 for p in learner.parameters().values())
    assert learner.start_bytes == (weights if learn == "full" else 0)


def test_no_epoch_moves_the_model_much_farther_than_wanted(place: Place, tmp_path: Path) -> None:
    """Catches a rate that jumped: of an epoch that went five times too far the model keeps a part.

    A first rate that is far too large, on weights that all learn.
    """
    keys = {"rl_tune.learn": "full", "rl_tune.lr": "auto", "rl_tune.step_nats": 1e-3}
    keys |= {"rl_tune.epochs": 3, "rl_tune.gate": "none", "rl_tune.evaluate_every": 3}
    rl_tune(tune_job(tmp_path / "out", place.model, place.layouts, **keys))
    rows = [row for row in rows_of(tmp_path / "out") if "kl epoch" in row]
    assert any("kept" in row for row in rows)
    assert max(row["kl epoch"] for row in rows) < 2e-3
