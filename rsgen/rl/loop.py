"""The loop of rl-tune: paint, reward, learn, look, watch, save; then the best of what was seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsgen.errors import Stopped
from rsgen.images import Pixels
from rsgen.reporting import Reporter
from rsgen.rewards.combine import Rewards
from rsgen.rl import state as states
from rsgen.rl.adapter import Learner
from rsgen.rl.credit import Credit
from rsgen.rl.epoch import EpochShape, Experience, Painted, paint_epoch
from rsgen.rl.layouts import TuningLayouts
from rsgen.rl.metrics import METRICS, Row, epoch_row, facts_of, look_row, write_metrics
from rsgen.rl.objective import adapted_beta
from rsgen.rl.pace import adapted_rate, kept_share, moved_nats, step_nats, target_of
from rsgen.rl.page import show
from rsgen.rl.policy import Policy
from rsgen.rl.pool import pool_tensors, pooled
from rsgen.rl.safety import Alarm, Limits, Watch
from rsgen.rl.selection import Held, Look
from rsgen.rl.update import Updater, UpdateStats
from rsgen.settings import RlTuneConfig
from rsgen.training.session import stop_together
from rsgen.training.state import fill_optimizer, optimizer_tensors, plain

__all__ = ["Outcome", "Progress", "Tuner", "limits_of"]


@dataclass
class Progress:
    """What changes from epoch to epoch, besides weights; `rows` are the metrics."""

    beta: float
    epoch: int = 0
    cursor: int = 0
    rate: float = 1.0  # factor of the learning rate
    care: float = 1.0  # factor of how far an epoch should move the model
    skipped: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How the loop ended; the learner holds the weights of epoch `kept`, `end` is its look."""

    progress: Progress
    alarm: Alarm | None
    kept: int
    start: Look
    end: Look


def limits_of(settings: RlTuneConfig, numbers: int) -> Limits:
    """The safety limits for latents of so many numbers."""
    most = settings.kl_max
    furthest = moved_nats(0.5, numbers) if most == "auto" else most
    return Limits(settings.patience, furthest, control=settings.control != "none")


@dataclass
class Tuner:
    """Everything that the loop works with; `run` goes on from the newest state of the folder."""

    policy: Policy
    learner: Learner
    rewards: Rewards
    layouts: TuningLayouts
    held: Held
    updater: Updater
    credit: Credit
    settings: RlTuneConfig
    shape: EpochShape
    storage: torch.dtype
    seed: int
    lr: float
    folder: Path
    reporter: Reporter
    check_stop: Callable[[], None]

    def __post_init__(self) -> None:
        self.accelerator = self.policy.accelerator
        self.progress = Progress(self.settings.beta)
        self.watch = Watch(limits_of(self.settings, math.prod(self.policy.shape)))
        self.pool: list[Experience] = []
        self.best: dict[str, Tensor] = {}
        self.alarm: Alarm | None = None  # of the last epoch
        self.first: list[Pixels | None] = []  # held layouts by the start, first rank alone

    @property
    def epochs(self) -> int:
        return self.settings.epochs + self.credit.warmup

    def run(self) -> Outcome:
        """Tune until the last epoch or an alarm.

        Raises:
            Stopped: asked for; the state of the last whole epoch is saved. SetupError: the
            ratio check failed; nothing was learned.
        """
        self._restore()
        self._look_at_start()
        self.reporter.stage("tuning", self.epochs * self.shape.images, "image")
        self.reporter.advance(self.progress.epoch * self.shape.images)
        while self.progress.epoch < self.epochs and not (self.alarm and self.alarm.stop):
            self.alarm = self._epoch()
            self._save()
            self._stop_together()
        stopped = self.alarm is not None and self.alarm.stop
        kept = self.progress.best_epoch
        if self.settings.keep == "last" and not stopped:
            kept = self.progress.epoch  # the last epoch is always looked at
        else:
            with torch.no_grad():
                _fill(self.learner, self.best)
        return Outcome(self.progress, self.alarm, kept, self._look_of(0), self._look_of(kept))

    # ------------------------------------------------------------ one epoch

    def _epoch(self) -> Alarm | None:
        progress, settings = self.progress, self.settings
        number = progress.epoch + 1
        painted, progress.cursor = paint_epoch(
            self.policy,
            self.rewards,
            self.layouts,
            self.shape,
            epoch=number,
            cursor=progress.cursor,
            seed=self.seed,
            storage=self.storage,
            after_batch=self._after_batch,
        )
        advantages = self.credit.advantages(painted)
        own = Experience(number, painted.batches, tuple(advantages))
        learns = number > self.credit.warmup
        stats, means = self._learn(own) if learns else (UpdateStats(), {})
        explained = self.credit.learn(painted, self._stop_together)
        self.pool = [own] if settings.lag and learns else []
        used = {d.number for e in self.pool for b in e.batches for d in b.drawn}
        self.policy.keep(used)
        progress.skipped += stats.skipped
        progress.epoch = number
        look = self._look(number) if self._due(number) else None
        row = epoch_row(painted, means, stats, look, explained)
        row |= {"beta": progress.beta, "ratio off": stats.off}
        if progress.skipped:
            row["skipped updates"] = progress.skipped
        progress.rows.append(row)
        self._tell(row)
        return self._watched(painted, row, look) if learns else None

    def _learn(self, own: Experience) -> tuple[UpdateStats, dict[str, float]]:
        """All updates of an epoch; then rate and beta for the next one."""
        progress = self.progress
        before = {n: plain(p.data) for n, p in self.learner.parameters().items()}
        stats = self.updater.update(
            [own, *self.pool], own.epoch, progress.beta, self._stop_together
        )
        moved = self.updater.moved(own.batches[0])
        means = stats.means(self.accelerator)
        means |= {"kl epoch": moved, "learning rate": self.lr * progress.rate}
        if self.settings.lr == "auto":
            target = step_nats(self.settings) * progress.care
            progress.rate = adapted_rate(progress.rate, moved, target)
            self._set_rate()
            share = kept_share(moved, target)
            if share < 1:
                _go_back(self.learner, before, share)
                means |= {"kept": share, "kl epoch": self.updater.moved(own.batches[0])}
        if "kl" in means:
            most = target_of(self.settings, math.prod(self.policy.shape))
            progress.beta = adapted_beta(progress.beta, means["kl"], most)
        return stats, means

    def _after_batch(self, count: int) -> None:
        self.reporter.advance(count)
        self._stop_together()

    def _stop_together(self) -> None:
        stop_together(self.check_stop, self.accelerator)

    def _due(self, epoch: int) -> bool:
        learned = epoch - self.credit.warmup
        return epoch == self.epochs or (learned > 0 and learned % self.settings.evaluate_every == 0)

    def _tell(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, float):
                self.reporter.metric(name, value, row["epoch"])
        held = f", held {row['held score']:.3f}" if "held score" in row else ""
        kl = f", KL {row['kl']:.3g} nats a step" if "kl" in row else ""
        self.reporter.note(f"epoch {row['epoch']}: reward {row['reward']:.3f}{held}{kl}")

    def _watched(self, painted: Painted, row: Row, look: Look | None) -> Alarm | None:
        facts = facts_of(painted, row, look, self.progress.skipped)
        alarm = self.watch.after(facts)
        if alarm is not None:
            self.reporter.note(alarm.sentence, "warning")
            if not alarm.stop:
                self._begin_again()
        return alarm

    def _begin_again(self) -> None:
        """On from the best weights, at half the learning rate."""
        with torch.no_grad():
            _fill(self.learner, self.best)
        self.updater.optimizer.state.clear()
        self.progress.rate /= 2
        self.progress.care /= 4  # nats go with the square of the rate
        self.pool = []
        self._set_rate()

    def _set_rate(self) -> None:
        for group in self.updater.optimizer.param_groups:
            group["lr"] = self.lr * self.progress.rate

    # ------------------------------------------------------------ held layouts

    def _look_at_start(self) -> None:
        """Paint the held layouts with the model as it was; score it where that was not done."""
        with self.learner.reference():
            self.first = self._pictures()
        if not self.progress.rows:
            look = self._scored(self.first, 0)
            self._remember(look, 0)
            self.progress.rows.append({"epoch": 0, **look_row(look)})
            self.reporter.note(
                f"held layouts before tuning: {look.score:.3f} +- {look.error:.3f} by {look.by}"
            )

    def _look(self, epoch: int) -> Look:
        pictures = self._pictures()
        if self.accelerator.is_main_process:
            path = self.folder / "validation" / f"epoch-{epoch:05d}.png"
            if self.settings.grid:
                self.held.grid(path, self.first, pictures, self.settings.grid)
        look = self._scored(pictures, epoch)
        self._remember(look, epoch)
        return look

    def _pictures(self) -> list[Pixels | None]:
        """Held layouts by the model as it is now, on the first rank; a stop ends all ranks."""
        pictures: list[Pixels | None] = []
        asked: list[Stopped] = []
        if self.accelerator.is_main_process:
            try:
                pictures = self.held.pictures(self.check_stop)
            except Stopped as error:
                asked.append(error)

        def check() -> None:
            for error in asked:
                raise error

        stop_together(check, self.accelerator)
        return pictures

    def _scored(self, pictures: Sequence[Pixels | None], epoch: int) -> Look:
        """The first rank's look, told to all."""
        values, by = [0.0, 0.0, 0.0], self.held.by
        if self.accelerator.is_main_process:
            look = self.held.look(pictures, epoch)
            values = [look.score, look.error, look.reward]
        told = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        score, error, reward = self.accelerator.reduce(told, "sum").tolist()
        return Look(score, error, reward, by)

    def _remember(self, look: Look, epoch: int) -> None:
        """Keep the best weights; those without a score (NaN) are worth less than any with one."""
        score = -math.inf if math.isnan(look.score) else look.score
        if score > self.progress.best_score or not self.best:
            self.progress.best_score, self.progress.best_epoch = score, epoch
            self.best = {n: plain(p.data) for n, p in self.learner.parameters().items()}

    def _look_of(self, epoch: int) -> Look:
        row = next(r for r in self.progress.rows if r["epoch"] == epoch)
        return Look(row["held score"], row["held error"], row["held reward"], self.held.by)

    # ------------------------------------------------------------ the state

    def _save(self) -> None:
        pool = [pool_tensors(e, self.shape, self.accelerator) for e in self.pool]
        if self.accelerator.is_main_process:
            parameters = self.learner.parameters()
            tensors: dict[str, Mapping[str, Tensor]] = {
                "weights": {n: p.data for n, p in parameters.items()},
                "optimizer": optimizer_tensors(parameters, self.updater.optimizer.optimizer),
                "best": self.best,
                "rewards": {
                    k: torch.from_numpy(np.ascontiguousarray(v))
                    for k, v in self.rewards.state_dict().items()
                },
                **self.credit.tensors(),
            }
            if pool:
                tensors["pool"] = pool[0]
            scaler = self.accelerator.scaler
            counters = {
                "progress": {k: v for k, v in vars(self.progress).items() if k != "epoch"},
                "watch": self.watch.to_json(),
                "alarm": None if self.alarm is None else asdict(self.alarm),
                "pool": [e.epoch for e in self.pool],
                "loss scale": {} if scaler is None else dict(scaler.state_dict()),
            }
            saved = states.SavedState(self.progress.epoch, counters, tensors)
            states.save(self.folder / "state", saved)
            write_metrics(self.folder / METRICS, self.progress.rows)
            if "held score" in self.progress.rows[-1]:
                self._show()
        self.accelerator.wait_for_everyone()

    @property
    def title(self) -> str:
        return f"rl-tune: {self.settings.algorithm}, {' + '.join(self.rewards.names)}"

    def _show(self) -> None:
        """The page of a run that is not over: it may be stopped, or watched."""
        progress = self.progress
        start, best = self._look_of(0), self._look_of(progress.best_epoch)
        note = f"Epoch {progress.epoch} of {self.epochs}; this run is not finished."
        figures = {
            f"held layouts by {self.held.by}, at the start": f"{start.score:.3f}",
            f"the best so far, after epoch {progress.best_epoch}": f"{best.score:.3f}",
        }
        show(self.folder, self.title, progress.rows, figures=figures, notes=[note])

    def _restore(self) -> None:
        found = states.latest(self.folder / "state")
        if found is None:
            self._set_rate()
            return
        saved = states.load(found)
        self.progress = Progress(epoch=saved.epoch, **saved.counters["progress"])
        self.watch = Watch.from_json(self.watch.limits, saved.counters["watch"])
        alarm = saved.counters["alarm"]
        self.alarm = None if alarm is None else Alarm(**alarm)
        parameters = self.learner.parameters()
        with torch.no_grad():
            _fill(self.learner, saved.tensors["weights"])
        fill_optimizer(
            parameters, self.updater.optimizer.optimizer, saved.tensors.get("optimizer", {})
        )
        self.best = dict(saved.tensors["best"])
        rewards = {k: v.numpy() for k, v in saved.tensors.get("rewards", {}).items()}
        self.rewards.load_state_dict(rewards)
        self.credit.load(saved.tensors)
        if saved.counters["loss scale"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved.counters["loss scale"])
        for epoch in saved.counters["pool"]:
            stored = saved.tensors["pool"]
            self.pool = [pooled(epoch, stored, self.shape, self.layouts, self.policy.device)]
        self._set_rate()


def _go_back(learner: Learner, before: Mapping[str, Tensor], share: float) -> None:
    """Leave weights that share of their way from where they were before."""
    with torch.no_grad():
        for name, parameter in learner.parameters().items():
            start = before[name].to(parameter)
            parameter.copy_(start + share * (parameter - start) if share else start)


def _fill(learner: Learner, values: Mapping[str, Tensor]) -> None:
    for name, parameter in learner.parameters().items():
        parameter.copy_(values[name])
