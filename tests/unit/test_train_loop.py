"""The optimisation loop: resume, averaging, accumulation, numbers that are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from rsgen.errors import Stopped
from rsgen.reporting import NullReporter
from rsgen.training.loop import FitResult, LoopSettings, averaged, fit, learning_rate
from rsgen.training.state import latest_state

DEFAULTS: dict[str, Any] = {
    "max_steps": 9,
    "batch_size": 4,
    "accumulate": 1,
    "lr": 1e-2,
    "warmup_steps": 2,
    "schedule": "cosine",
    "lr_floor": 0.05,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "ema_decay": 0.99,
    "checkpoint_every": 4,
    "validate_every": 0,
}


class Denoiser(nn.Module):
    """Two convolutions with dropout between them, and a loss a sample."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.dropout(torch.nn.functional.silu(self.first(batch["noisy"])))
        return (self.second(hidden) - batch["clean"]).square().mean(dim=(1, 2, 3))


class Toy:
    """An objective whose batch is a function of the step; `poison` makes one step's NaN."""

    def __init__(self, dropout: float = 0.2, poison: int | None = None) -> None:
        self.module = Denoiser(dropout)
        self.poison = poison
        self.batches: list[tuple[int, int, int]] = []

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        self.batches.append((step, start, stop))
        rows = []
        for position in range(start, stop):
            generator = torch.Generator().manual_seed(1000 * step + position)
            rows.append(torch.randn(2, 3, 6, 6, generator=generator))
        pairs = torch.stack(rows)
        if step == self.poison:
            pairs[0, 0, 0, 0, 0] = float("nan")
        return {"clean": pairs[:, 0], "noisy": pairs[:, 0] + 0.1 * pairs[:, 1]}


class Twofold(Toy):
    """Two losses a step, of which the second is made after the first was backpropagated."""

    def passes(self, batch: dict[str, Tensor]) -> Iterator[Tensor]:
        before = self._gradient()
        first = self.module(batch)
        self.seen = first.detach().mean()
        yield first
        assert self._gradient() != before, "the first loss was not backpropagated in time"
        yield 0.5 * self.module({"clean": batch["noisy"], "noisy": batch["clean"]})

    def parts(self) -> dict[str, Tensor]:
        return {} if not hasattr(self, "seen") else {"first": self.seen}

    def _gradient(self) -> float:
        gradient = self.module.first.weight.grad
        return 0.0 if gradient is None else float(gradient.abs().sum())


def run(
    folder: Path, objective: Toy, stop_after: int | None = None, **changes: Any
) -> FitResult | None:
    """Fit; None where it was stopped after some steps."""
    calls = 0

    def check_stop() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise Stopped("stop")

    settings = LoopSettings(**{**DEFAULTS, **changes})
    try:
        return fit(objective, settings, Accelerator(cpu=True), folder, NullReporter(), check_stop)
    except Stopped:
        return None


@pytest.mark.parametrize("stops", [[1], [3], [4, 2]], ids=["first", "third", "twice"])
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path: Path, stops: list[int]) -> None:
    """Catches lost moments, averages, learning-rate steps and dropout that is not replayed."""
    whole = Toy()
    expected = run(tmp_path / "whole", whole)
    for stop in stops:
        assert run(tmp_path / "parts", Toy(), stop_after=stop) is None
    again = Toy()
    result = run(tmp_path / "parts", again)
    assert expected is not None and result is not None
    assert result.history == expected.history
    for one, other in zip(whole.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert expected.average is not None and result.average is not None
    for one, other in zip(
        expected.average.shadow_params, result.average.shadow_params, strict=True
    ):
        assert torch.equal(one, other)


def test_several_losses_a_step_are_one_step(tmp_path: Path) -> None:
    """Catches losses that are collected first, the last one logged alone, and lost dropout."""
    expected = run(tmp_path / "whole", Twofold())
    assert run(tmp_path / "parts", Twofold(), stop_after=3) is None
    result = run(tmp_path / "parts", Twofold())
    assert expected is not None and result is not None
    assert result.history == expected.history

    class Joined(Denoiser):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            turned = {"clean": batch["noisy"], "noisy": batch["clean"]}
            return super().forward(batch) + 0.5 * super().forward(turned)

    joined = Toy(0.0)
    joined.module = Joined(0.0)
    one = run(tmp_path / "joined", joined, batch_size=4)
    two = run(tmp_path / "twofold", Twofold(0.0), batch_size=2, accumulate=2)
    assert one is not None and two is not None
    assert two.history == pytest.approx(one.history, rel=1e-4)


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127], ids=["fits", "overflows at first"])
@pytest.mark.parametrize("kind", [Toy, Twofold])
def test_losses_are_scaled_for_half_precision(
    tmp_path: Path, kind: type[Toy], scale: float
) -> None:
    """Catches a pass that is backpropagated unscaled, and gradients averaged or cut as scaled."""
    histories = []
    for name in ("plain", "scaled"):
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True, mixed_precision="fp16")
        if name == "scaled":  # accelerate makes one on a GPU alone
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        settings = LoopSettings(**DEFAULTS)
        objective = kind(0.0)
        folder = tmp_path / name
        result = fit(objective, settings, accelerator, folder, NullReporter(), lambda: None)
        histories.append(result.history)
        assert result.restored_step is None
        assert all(bool(p.isfinite().all()) for p in objective.module.parameters())
    if scale < 2**16:
        assert histories[1] == pytest.approx(histories[0], rel=5e-3)
    else:
        assert histories[1][0] == pytest.approx(histories[0][0], rel=1e-5)
    AcceleratorState._reset_state()


def test_parts_of_the_loss_are_logged(tmp_path: Path) -> None:
    """Catches parts that are lost, or logged at every step."""
    logged: list[tuple[str, int | None]] = []

    class Metrics(NullReporter):
        def metric(self, name: str, value: float, step: int | None = None) -> None:
            logged.append((name, step))

    settings = LoopSettings(**{**DEFAULTS, "log_every": 4})
    fit(Twofold(), settings, Accelerator(cpu=True), tmp_path, Metrics(), lambda: None)
    assert [step for name, step in logged if name == "first"] == [4, 8, 9]


def test_a_killed_run_goes_on_from_its_last_state(tmp_path: Path) -> None:
    """Catches a history that keeps steps made after the saved state."""
    run(tmp_path / "parts", Toy(), stop_after=6)
    (newest,) = (tmp_path / "parts").glob("step-00000006")
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()  # as if killed before it was written: step 4 is the last one
    result, expected = run(tmp_path / "parts", Toy()), run(tmp_path / "whole", Toy())
    assert result is not None and expected is not None
    assert result.history == expected.history


def test_the_loss_falls(tmp_path: Path) -> None:
    """Catches an optimiser that does not move the weights it was given."""
    result = run(tmp_path, Toy(0.0), max_steps=40, ema_decay=0.9)
    assert result is not None
    assert sum(result.history[-5:]) < 0.8 * sum(result.history[:5])


def test_accumulation_sees_the_same_samples(tmp_path: Path) -> None:
    """Catches micro-batches that repeat samples or are not averaged."""
    whole, parts = Toy(0.0), Toy(0.0)
    one = run(tmp_path / "1", whole, batch_size=4)
    two = run(tmp_path / "2", parts, batch_size=2, accumulate=2)
    assert one is not None and two is not None
    assert two.history == pytest.approx(one.history, rel=1e-4)
    assert parts.batches[:2] == [(0, 0, 2), (0, 2, 4)]


def test_a_loss_that_is_no_number_restores_the_last_state(tmp_path: Path) -> None:
    """Catches poisoned weights in the checkpoint of a run that blew up."""
    objective = Toy(poison=6)
    result = run(tmp_path, objective)
    assert result is not None
    assert result.restored_step == 4 and result.steps == 4 and len(result.history) == 4
    good = Toy()
    run(tmp_path / "good", good, max_steps=9, stop_after=4)
    for one, other in zip(objective.module.parameters(), good.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_averages_are_worn_only_inside(tmp_path: Path) -> None:
    """Catches training that goes on from the averaged weights after a validation."""
    objective = Toy()
    result = run(tmp_path, objective)
    assert result is not None and result.average is not None
    parameters = list(objective.module.parameters())
    before = [p.detach().clone() for p in parameters]
    with averaged(result.average, parameters):
        assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def test_only_two_states_are_kept_and_none_is_a_pickle(tmp_path: Path) -> None:
    """Catches a disk that fills up, and state files that could run code when opened."""
    run(tmp_path, Toy(), checkpoint_every=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000008", "step-00000009"]
    newest = latest_state(tmp_path)
    assert newest is not None
    assert {p.suffix for p in newest.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize(
    ("step", "schedule", "expected"),
    [
        (0, "cosine", 1 / 3),  # warm-up starts above zero
        (2, "cosine", 1.0),  # the peak, right after the warm-up
        (9, "cosine", 0.05),  # the floor, at the last step
        (9, "constant", 1.0),
    ],
)
def test_learning_rate(step: int, schedule: str, expected: float) -> None:
    """Catches a decay that does not reach its end, and a warm-up that starts at zero."""
    settings = LoopSettings(**{**DEFAULTS, "lr": 1.0, "schedule": schedule})
    assert learning_rate(settings, step) == pytest.approx(expected)
