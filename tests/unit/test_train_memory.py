"""Memory counted before the start: states by shapes, passes on tensors without values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from torch import nn
from torch.utils.checkpoint import checkpoint

from rsgen.models.image_hint import add_image_slice
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.train import train
from rsgen.training.memory import (
    MODES,
    LiveBytes,
    StepShape,
    count_memory,
    memory_note,
    states,
)
from rsgen.training.setup import choose_weights, place_weights
from tests.build_models import SIZE, small_model
from tests.build_training import Told
from tests.unit.test_train import job

PLAIN = StepShape("plain", 2, SIZE, "fp32", False)
TWO = replace(PLAIN, method="of-diff")


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return small_model()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("method", "mode"), [(method, mode) for method, modes in MODES.items() for mode in modes]
)
def test_states_are_those_of_the_run(method: str, mode: str, dtype: str) -> None:
    """Catches a count that drifts from what training makes: the networks themselves are asked."""
    own = small_model()
    shape = replace(PLAIN, method=method, dtype=dtype, average=True)
    found = states(own, mode, shape)
    if method == "of-diff":
        add_image_slice(own.controlnet, 0)
    choose_weights(own, "controlnet", mode, False, 16, decoder_only=method == "of-diff")
    place_weights(own, "meta", dtype, False)
    parameters = [p for network in own.networks().values() for p in network.parameters()]
    learning = [p for p in parameters if p.requires_grad]
    assert found.learning == sum(p.numel() for p in learning)
    assert found.weights == sum(p.numel() * p.element_size() for p in parameters)
    assert found.gradients == found.average == found.moments / 2 == 4 * found.learning


def test_more_that_learns_takes_more(model: StableDiffusion) -> None:
    totals = [states(model, mode, PLAIN).total for mode in ("frozen", "decoder", "full")]
    assert totals == sorted(totals) and totals[0] < totals[2]


def test_passes(model: StableDiffusion) -> None:
    """Catches graphs that are kept after their pass, and checkpointing that does nothing."""
    plain = count_memory(model, "decoder", PLAIN).working
    two = count_memory(model, "decoder", TWO).working
    assert plain < two < 2 * plain  # a second branch, not a second everything
    doubled = count_memory(model, "decoder", replace(PLAIN, batch=4)).working
    assert 1.7 * plain < doubled < 2.1 * plain
    less = count_memory(model, "decoder", replace(TWO, checkpointing=True)).working
    half = count_memory(model, "decoder", replace(TWO, dtype="bf16")).working
    assert less < two and 0.5 * two < half < 0.95 * two


def test_live_bytes() -> None:
    """Known answer: x -> relu(x W) -> sum of 1000 x 1000 floats, with and without checkpoint."""
    unit = 4 * 1000 * 1000

    def peak(checkpointed: bool) -> float:
        weight = nn.Parameter(torch.empty(1000, 1000, device="meta"))
        weight.grad = torch.empty_like(weight)

        def layer(x: torch.Tensor) -> torch.Tensor:
            return functional.relu(functional.relu(x @ weight) @ weight)

        with LiveBytes() as tracker:
            x = torch.empty(1000, 1000, device="meta")
            y = checkpoint(layer, x, use_reentrant=False) if checkpointed else layer(x)
            kept = tracker.live / unit
            y.sum().backward()
            assert tracker.live / unit == pytest.approx(2, abs=0.01)  # x and y
        assert kept == pytest.approx(2 if checkpointed else 3, abs=0.01)
        return tracker.peak / unit

    assert peak(False) <= peak(True) + 2 and peak(False) < 7


def test_it_is_said_before_the_start(tmp_path: Path, run: Path, base: Path) -> None:
    heard = Told()
    train(job(tmp_path / "out", run, base, heard, **{"train.validation_samples": 0}))
    lines = [text for text in heard.texts if "memory by train.unet" in text]
    assert len(lines) == 1 and "full" in lines[0] and "(this run)" in lines[0]
    assert heard.texts.index(lines[0]) < next(
        k for k, text in enumerate(heard.texts) if "s a step" in text
    )


def test_a_note_with_passes(model: StableDiffusion) -> None:
    note = memory_note(model, "decoder", replace(TWO, checkpointing=True), passes=True)
    assert "decoder" in note and "full" not in note and "in all, with gradient" in note
