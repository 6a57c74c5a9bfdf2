"""The one optimisation loop of all training tasks.

Everything random in a step follows from (seed, step), so an interrupted run that goes on
from a saved state gives the same losses as an uninterrupted one, on any number of ranks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from rsgen.reporting import Reporter
from rsgen.request import item_seed
from rsgen.training.session import stop_together
from rsgen.training.state import TrainingState, latest_state, load_state, save_state
from rsgen.training.tally import Tally

__all__ = [
    "FitResult",
    "LoopSettings",
    "Objective",
    "SeveralLosses",
    "Tallied",
    "average_gradients",
    "averaged",
    "fit",
    "learning_rate",
    "losses_of",
]

Batch = Mapping[str, Tensor]
BUCKET = 25_000_000  # gradients averaged over the ranks in one message


class Objective(Protocol):
    """One training task: its network (called with a batch, gives losses) and its batches."""

    @property
    def module(self) -> nn.Module:
        """Maps a batch to float [N] losses, one a sample."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by name, in a fixed order."""

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> Batch:
        """Samples start..stop of the batch of a step; a pure function of its arguments."""


@runtime_checkable
class SeveralLosses(Protocol):
    """An objective that backpropagates more than once a step; its module is not called."""

    def passes(self, batch: Batch) -> Iterator[Tensor]:
        """Losses [N], each to be backpropagated before the next is asked for."""

    def parts(self) -> Mapping[str, Tensor]:
        """Mean of each part of the loss since the last call, for the log."""


@runtime_checkable
class Tallied(Protocol):
    """An objective that counts what its batches are made of."""

    @property
    def tally(self) -> Tally | None:
        """The counts of this process; None where there is nothing to count."""


def losses_of(
    objective: Objective, module: nn.Module, batch: Batch, accelerator: Accelerator
) -> Iterator[Tensor]:
    """The losses [N] of a batch in the run's number type, to be backpropagated one by one."""
    if not isinstance(objective, SeveralLosses):
        with accelerator.autocast():
            loss: Tensor = module(batch)
        yield loss
        return
    passes = objective.passes(batch)
    while True:
        # left between the passes: weights that were cast for one have the wrong graph in the next
        with accelerator.autocast():
            following = next(passes, None)
        if following is None:
            return
        yield following


@dataclass(frozen=True)
class LoopSettings:
    """Numbers of the loop; an optimiser step sees batch_size * accumulate samples in all."""

    max_steps: int
    batch_size: int
    accumulate: int
    lr: float
    warmup_steps: int
    schedule: str
    lr_floor: float
    weight_decay: float
    clip_norm: float
    ema_decay: float
    checkpoint_every: int
    validate_every: int
    log_every: int = 10
    seed: int = 0
    beta2: float = 0.99


@dataclass(frozen=True)
class FitResult:
    """How the loop ended; `restored_step` is set when a loss was not a number."""

    steps: int
    history: tuple[float, ...]
    restored_step: int | None
    average: EMAModel | None


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Linear warm-up, then constant or cosine to `lr_floor` of the peak at the last step."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "constant":
        return settings.lr
    span = max(1, settings.max_steps - settings.warmup_steps)
    share = min(1.0, (step - settings.warmup_steps) / span)
    floor = settings.lr_floor
    return settings.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


@contextlib.contextmanager
def averaged(result_average: EMAModel | None, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Within it the parameters hold their moving averages."""
    if result_average is None:
        yield
        return
    result_average.store(parameters)
    result_average.copy_to(parameters)
    try:
        yield
    finally:
        result_average.restore(parameters)


def fit(
    objective: Objective,
    settings: LoopSettings,
    accelerator: Accelerator,
    state_folder: Path,
    reporter: Reporter,
    check_stop: Callable[[], None],
    on_validate: Callable[[int], None] | None = None,
) -> FitResult:
    """Optimise until `max_steps`, going on from the newest state in `state_folder`.

    `check_stop` raises Stopped to end early, on all ranks after the same step; the state is
    saved first. A loss or gradient that is
    not a number restores the newest state, and the result says so.
    """
    named = objective.parameters()
    parameters = list(named.values())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=(0.9, settings.beta2), weight_decay=settings.weight_decay
    )
    average = (
        EMAModel(parameters, decay=settings.ema_decay, foreach=True) if settings.ema_decay else None
    )
    if isinstance(objective, SeveralLosses):
        # DDP counts on one backward pass a step, so `_step` averages gradients itself
        module, prepared = objective.module.to(accelerator.device), accelerator.prepare(optimizer)
        objective.parts()  # of the pass that was timed
    else:
        module, prepared = accelerator.prepare(objective.module, optimizer)
    tally = objective.tally if isinstance(objective, Tallied) else None
    if tally is not None:
        tally.forget()  # of the pass that was timed
    session = _Session(named, optimizer, average, accelerator, state_folder)
    session.restore()
    session.save()
    reporter.stage("training", settings.max_steps, "step")
    reporter.advance(session.step)
    module.train()
    while session.step < settings.max_steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, session.step)
        loss, healthy = _step(objective, module, prepared, settings, accelerator, session.step)
        if not healthy:
            failed = session.step
            session.restore()
            reporter.note(
                f"the loss or its gradient at step {failed} is not a number; "
                f"weights of step {session.step} are restored",
                "warning",
            )
            return FitResult(session.step, tuple(session.history), session.step, average)
        if average is not None:
            average.step(parameters)
        session.history.append(loss)
        session.step += 1
        reporter.advance()
        if session.step % settings.log_every == 0 or session.step == settings.max_steps:
            recent = session.history[-settings.log_every :]
            reporter.metric("loss", sum(recent) / len(recent), session.step)
            if isinstance(objective, SeveralLosses):
                for name, part in objective.parts().items():
                    reporter.metric(name, float(accelerator.reduce(part, "mean")), session.step)
            if tally is not None:
                counts = accelerator.reduce(tally.take().to(accelerator.device), "sum").cpu()
                tally.tell(counts, session.step, session.step == settings.max_steps, reporter)
        if session.step % settings.checkpoint_every == 0:
            session.save()
        if on_validate is not None and _due(settings, session.step):
            if accelerator.is_main_process:
                with averaged(average, parameters):
                    on_validate(session.step)
            accelerator.wait_for_everyone()
            module.train()
        try:
            stop_together(check_stop, accelerator)
        except BaseException:
            session.save()
            raise
    session.save()
    return FitResult(session.step, tuple(session.history), None, average)


def _due(settings: LoopSettings, step: int) -> bool:
    """Whether to validate after this step; the caller looks at the last one itself."""
    every = settings.validate_every
    return every > 0 and step % every == 0 and step < settings.max_steps


def _step(
    objective: Objective,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    accelerator: Accelerator,
    step: int,
) -> tuple[float, bool]:
    """One optimiser step; the mean loss over all ranks, and whether the update was made."""
    share = settings.batch_size // accelerator.num_processes
    total = torch.zeros((), device=accelerator.device)
    for micro in range(settings.accumulate):
        start = micro * settings.batch_size + accelerator.process_index * share
        # dropout inside networks draws from the global generator
        torch.manual_seed(item_seed(settings.seed, "dropout", f"{step}/{start}"))
        batch = objective.batch(step, start, start + share, accelerator.device)
        last = micro == settings.accumulate - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(module):
            for losses in losses_of(objective, module, batch, accelerator):
                loss = losses.mean() / settings.accumulate
                total += loss.detach()
                accelerator.backward(loss)
    if isinstance(objective, SeveralLosses):
        average_gradients(list(objective.parameters().values()), accelerator)
    mean = float(accelerator.reduce(total, "mean"))
    if not math.isfinite(mean):
        optimizer.zero_grad()
        return mean, False
    norm = accelerator.clip_grad_norm_(list(objective.parameters().values()), settings.clip_norm)
    scaled = accelerator.scaler is not None  # the scaler skips steps whose gradients overflow
    if not scaled and norm is not None and not bool(torch.isfinite(torch.as_tensor(norm))):
        optimizer.zero_grad()
        return mean, False
    optimizer.step()
    optimizer.zero_grad()
    return mean, True


def average_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Every rank gets the mean of all ranks' gradients, a bucket at a time."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    while gradients:
        bucket, size = [gradients.pop()], 0
        while gradients and (size := size + bucket[-1].numel()) < BUCKET:
            bucket.append(gradients.pop())
        joined = accelerator.reduce(torch.cat([g.flatten() for g in bucket]), "mean")
        for gradient, mean in zip(bucket, joined.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


class _Session:
    """The mutable part of a run, and its way to and from disk."""

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        average: EMAModel | None,
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        self.named, self.optimizer, self.average = named, optimizer, average
        self.accelerator, self.folder = accelerator, folder
        self.step = 0
        self.history: list[float] = []

    @property
    def _shadow(self) -> list[Tensor] | None:
        return None if self.average is None else self.average.shadow_params

    def restore(self) -> None:
        """Go to the newest saved state, if there is one."""
        found = latest_state(self.folder)
        if found is None:
            return
        state = load_state(found, self.named, self.optimizer, self._shadow)
        self.step, self.history = state.step, list(state.history)
        if self.average is not None:
            self.average.optimization_step = state.average_steps
        if self.accelerator.scaler is not None and state.loss_scale:
            self.accelerator.scaler.load_state_dict(dict(state.loss_scale))

    def save(self) -> None:
        """Write the state (first rank only); all ranks wait for it."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = TrainingState(
                self.step,
                tuple(self.history),
                0 if self.average is None else self.average.optimization_step,
                {} if scaler is None else dict(scaler.state_dict()),
            )
            save_state(self.folder, state, self.named, self.optimizer, self._shadow)
        self.accelerator.wait_for_everyone()
